"""The two kinds of error: a mistake of the user's, told in one line with what to do, and a bug, told by a traceback."""

from pathlib import Path

# The name on the package index, where llm-from-scratch is a stranger's package with the same import name.
DISTRIBUTION = "llm-from-scratch-lightning"


class UserError(ValueError):
    """What is wrong and what to do, in one line; a program ends with it and exit status 2.

    Everything else that is raised is a failure of the machine or a bug of the package: exit status 1.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def install_command(extra: str) -> str:
    """The command that installs an optional extra, from the checkout that this module is part of or from the index."""
    source = Path(__file__).resolve().parents[1]
    checkout = source.name == "src" and (source.parent / "pyproject.toml").is_file()
    return f"pip install -e '.[{extra}]'" if checkout else f"pip install '{DISTRIBUTION}[{extra}]'"


def missing_extra(what: str, extra: str, reason: str = "") -> UserError:
    """The error for a library that is not installed.

    Args:
        what: what needs it, as in "logger=wandb needs".
        extra: of pyproject.toml.
        reason: the import's own words, where the library may be there and not fit.
    """
    return UserError(f"{what}: {install_command(extra)}" + (f" ({reason})" if reason else ""))
