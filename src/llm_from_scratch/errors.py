"""Three kinds of error, and how a program ends with each.

A user error prints one line with advice, status 2. A failure of the machine prints one line, status
1. Every other exception is a bug: a traceback, status 1.
"""

import os
import re
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from llm_from_scratch import signals
from llm_from_scratch.terminal import printable

# The name on the package index: llm-from-scratch there is another project's package, with the same
# import name.
DISTRIBUTION = "llm-from-scratch-lightning"


class UserError(ValueError):
    """A mistake of the user's: the message is one line with advice, the exit status is 2.

    Every other exception is a failure of the machine or a bug of the package, with status 1.
    """


class MachineError(RuntimeError):
    """A failure outside the program that is not an OSError: one line, exit status 1."""


# Failures of the machine, or of a training whose numbers overflow: reported in one line.
FAILURES = (OSError, MachineError, FloatingPointError)


# Command -> the settings that lower its memory.
LESS_MEMORY = {
    "train": (
        "lower data.micro_batch_size (the batch stays the same), then model.block_size or the model's size;"
        " what was saved stays"
    ),
    "plan": "lower data.micro_batch_size or the model's size, or add --no-measuring",
    "prepare": "lower prepare.workers",
    "inspect": "lower prepare.workers",
    "generate": "lower num_samples or max_new_tokens, or use device=cpu",
    "chat": "give a smaller --context, or use --device cpu",
    "serve": "lower --slots or --context, or use --device cpu",
    "evaluate": "lower --batch-size, or use --device cpu",
    "explain": "give a shorter text, or use --device cpu",
    "lm-eval": "lower --batch-size, or use --device cpu",
}


def stop(error: BaseException, command: str) -> NoReturn:
    """Ends the process: one line for a user error or a machine failure, a traceback for a bug.

    `command` is the name of the command that failed.

    Raises:
        SystemExit: always, except that HYDRA_FULL_ERROR=1 raises `error` itself.
    """
    number = signals.interrupted()
    if number is not None:  # a library may make an ImportError of a KeyboardInterrupt
        raise SystemExit(128 + number)
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    raise SystemExit(report(error, command))


def report(error: BaseException, command: str) -> int:
    """Prints an error on standard error (a bug with its traceback) and returns its exit status."""
    line, status = explained(error, command)
    if is_bug(error):
        print(printable("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    else:
        print(f"error: {printable(line, keep='')}", file=sys.stderr)
    return status


def is_bug(error: BaseException) -> bool:
    """Returns whether an error is a bug: no user error, no machine failure, no lack of memory."""
    return not isinstance(error, (UserError, *FAILURES)) and not out_of_memory(error)


def explained(error: BaseException, command: str) -> tuple[str, int]:
    """Returns the one-line message of an error of `command`, and its exit status.

    The status is 2 for a user error or a lack of memory, else 1.
    """
    if isinstance(error, UserError):
        return first_line(error), 2
    if out_of_memory(error):
        needed = re.search(r"allocate ([\d.]+ ?[KMGT]iB|\d+ bytes)", str(error))
        tried = f" (tried to allocate {needed[1]})" if needed else ""
        advice = LESS_MEMORY.get(command, "end other programs, or use a machine with more")
        return f"out of memory{tried}: {advice}", 2
    where = "" if is_bug(error) else " (HYDRA_FULL_ERROR=1 shows where)"
    return f"{type(error).__name__}: {first_line(error)}{where}", 1


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error, which is no user error, is a lack of memory."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text


def first_line(error: BaseException, limit: int | None = None) -> str:
    """Returns the first line of an error's message, or its type's name if the message is empty.

    `limit` is the largest number of characters; None is no limit.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]


def message_of(error: BaseException, limit: int | None = None) -> str:
    """Returns an error's whole message as one line, or its type's name if the message is empty.

    `limit` is the largest number of characters of the message; None is no limit.
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__


def install_command(extra: str) -> str:
    """Returns the pip command that installs an optional extra, from this checkout or from the
    index.
    """
    source = Path(__file__).resolve().parents[1]
    checkout = source.name == "src" and (source.parent / "pyproject.toml").is_file()
    return f"pip install -e '.[{extra}]'" if checkout else f"pip install '{DISTRIBUTION}[{extra}]'"


def missing_extra(what: str, extra: str, reason: str = "") -> UserError:
    """Returns the error for a library that is not installed, with the command that installs it.

    Args:
        what: the start of the message, as in "logger=wandb needs".
        extra: the name of the extra in pyproject.toml.
        reason: the message of the failed import, for a library that is installed but unusable; ""
            for none.
    """
    return UserError(f"{what}: {install_command(extra)}" + (f" ({reason})" if reason else ""))
