"""Three kinds of error, and how a program ends with each.

A mistake of the user's is one line with what to do, and status 2. A failure of the machine is one
line and status 1. Everything else is a bug: a traceback and status 1.
"""

import os
import re
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from llm_from_scratch import signals
from llm_from_scratch.terminal import printable

# The name on the package index, where llm-from-scratch is a stranger's package with the same import
# name.
DISTRIBUTION = "llm-from-scratch-lightning"


class UserError(ValueError):
    """A mistake of the user's: one line with the fault and the advice; exit status 2.

    Everything else that is raised is a failure of the machine or a bug of the package: exit status
    1.
    """


class MachineError(RuntimeError):
    """A failure outside the program that is no OSError: one line; exit status 1."""


# Failures of the machine, or of a training whose numbers overflow: one line says them.
FAILURES = (OSError, MachineError, FloatingPointError)


def stop(error: BaseException) -> NoReturn:
    """Ends the process: one line for a mistake of the user's or a failure of the machine, a
    traceback for a bug.

    Raises:
        SystemExit: always; the error itself where HYDRA_FULL_ERROR=1 asks for the traceback.
    """
    number = signals.interrupted()
    if number is not None:  # a library may make an ImportError of a KeyboardInterrupt
        raise SystemExit(128 + number)
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    raise SystemExit(report(error))


def report(error: BaseException) -> int:
    """Says an error on standard error; returns the exit status that it stands for."""
    line, status = explained(error)
    if is_bug(error):
        print(printable("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    else:
        print(f"error: {printable(line, keep='')}", file=sys.stderr)
    return status


def is_bug(error: BaseException) -> bool:
    """Whether an error is neither a mistake of the user's nor a failure of the machine."""
    return not isinstance(error, (UserError, *FAILURES)) and out_of_memory(error) is None


def explained(error: BaseException) -> tuple[str, int]:
    """The one line that tells an error, and the exit status that it stands for."""
    memory = out_of_memory(error)
    if memory or isinstance(error, UserError):
        return memory or first_line(error), 2
    where = "" if is_bug(error) else " (HYDRA_FULL_ERROR=1 shows where)"
    return f"{type(error).__name__}: {first_line(error)}{where}", 1


def out_of_memory(error: BaseException) -> str | None:
    """One line with the memory that was needed and the settings to lower; None where `error` is not
    about memory.
    """
    text = str(error)
    if not (isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text):
        return None
    needed = re.search(r"allocate ([\d.]+ ?[KMGT]iB|\d+ bytes)", text)
    tried = f" (tried to allocate {needed[1]})" if needed else ""
    return (
        f"out of memory{tried}: lower data.micro_batch_size (the batch stays the same),"
        " then model.block_size or the model's size; what was saved stays"
    )


def first_line(error: BaseException, limit: int | None = None) -> str:
    """The first line of an error's message, at most `limit` characters, or the name of its type
    where it has none.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]


def message_of(error: BaseException, limit: int | None = None) -> str:
    """The whole message of an error in one line, at most `limit` characters, or the name of its
    type.
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__


def install_command(extra: str) -> str:
    """The command that installs an optional extra, from the checkout that this module is part of or
    from the index.
    """
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
