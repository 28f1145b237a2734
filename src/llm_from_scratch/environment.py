"""environment.json of a run folder: the code, the libraries and the device of its steps.

The file is a list. Each start of a run appends an entry with the step that it continues from,
unless nothing differs from the entry before. Entries of steps that will be repeated are removed
first. So a run resumed in the same environment has one entry, like an uninterrupted run.
"""

import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from llm_from_scratch import __version__
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import read_bounded, refuse_links, write_file

log = logging.getLogger(__name__)
FILE = "environment.json"
MAX_BYTES = 1_000_000
# Root of this package's checkout; where a wheel is installed, a folder of libraries
CHECKOUT = Path(__file__).resolve().parents[2]
# Paths of a checkout that a run depends on
CODE = ("src", "configs", "train.py", "generate.py", "pyproject.toml")
SECONDS = 10  # timeout of git


def environment(device: str) -> dict[str, Any]:
    """Returns versions of this package and its libraries, the commit, platform and device."""
    return {
        "version": __version__,
        **commit(CHECKOUT),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "lightning")},
        # Not platform.platform(): it starts a process.
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": device,
    }


def commit(checkout: Path) -> dict[str, Any]:
    """Returns the commit of a checkout, and under `clean` whether its code is as committed.

    Where the commit is unknown, `commit` is the reason and `clean` None. Call it only for this
    package's checkout: git must not run in a run folder, which may be untrusted.
    """
    if not ((checkout / ".git").exists() and (checkout / "src" / "llm_from_scratch").is_dir()):
        return {"commit": "none: no checkout of git", "clean": None}
    git = shutil.which("git")
    if git is None:
        return {"commit": "unknown: git is not installed", "clean": None}
    # GIT_ variables, of a hook or of the user, may point to another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    answers = []
    for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", *CODE)):
        command = [git, "--no-optional-locks", "-C", str(checkout), "-c", "core.fsmonitor=false", *words]
        try:
            done = subprocess.run(
                command, env=variables, capture_output=True, encoding="utf-8", timeout=SECONDS, check=True
            )
        except (OSError, ValueError, subprocess.SubprocessError):
            return {"commit": "unknown: git gives no answer", "clean": None}
        answers.append(done.stdout.strip())
    return {"commit": answers[0], "clean": not answers[1]}


def record_environment(run: Path, step: int, device: str) -> None:
    """Records the environment of the steps from `step` on, where it differs from the last entry."""
    now = environment(device)
    recorded: list[dict[str, Any]] = []
    try:
        recorded = read_environment(run)
    except UserError as error:
        log.warning("%s: it is written anew", error)
    entries = [entry for entry in recorded if entry["step"] < step]
    if not entries or {**entries[-1], "step": step} != {"step": step, **now}:
        entries.append({"step": step, **now})
    if entries != recorded:
        write_file(run / FILE, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def read_environment(run: Path) -> list[dict[str, Any]]:
    """Reads the entries of a run folder, in the order of their steps; [] without the file.

    Raises:
        UserError: when the file is damaged.
    """
    path = run / FILE
    refuse_links(path, run)
    try:
        entries = json.loads(read_bounded(path, MAX_BYTES))
        if not all(type(entry["step"]) is int for entry in entries):
            raise UserError("steps")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: damaged") from None
    return list(entries)


def summary(entry: dict[str, Any]) -> str:
    """Formats an entry in one printable line of at most 500 characters."""
    commit, clean = str(entry.get("commit")), entry.get("clean")
    short = commit[:9] if clean is not None else commit
    changed = "" if clean is not False else " with changes"
    text = (
        f"version {entry.get('version')}, commit {short}{changed}, Python {entry.get('python')}, torch {entry.get('torch')},"
        f" Lightning {entry.get('lightning')}, {entry.get('platform')}, {entry.get('device')}"
    )
    # The folder may be untrusted: control characters must not reach the terminal.
    return "".join(character if character.isprintable() else "?" for character in text)[:500]
