"""environment.json of a run folder: the code, the libraries and the device of its steps.

The file is a list. A start of a run appends an entry with the step that it goes on from, unless
everything is as in the entry before; entries of steps that come again are dropped first. So a run
that was killed and resumed in one environment has one entry, as a run that nothing disturbed.
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
# Of this package; a folder of libraries where a wheel is installed
CHECKOUT = Path(__file__).resolve().parents[2]
# Of a checkout, what a run depends on
CODE = ("src", "configs", "train.py", "generate.py", "pyproject.toml")
SECONDS = 10  # that git may take


def environment(device: str) -> dict[str, Any]:
    """Versions of this package and of its libraries, the commit, the platform and the device."""
    return {
        "version": __version__,
        **commit(CHECKOUT),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "lightning")},
        "platform": platform.platform(),
        "device": device,
    }


def commit(checkout: Path) -> dict[str, Any]:
    """The commit of a checkout, and whether its code is as committed; what is unknown says why.

    git runs in the checkout of this package alone, never in a run folder, which may be a
    stranger's.
    """
    if not ((checkout / ".git").exists() and (checkout / "src" / "llm_from_scratch").is_dir()):
        return {"commit": "none: no checkout of git", "clean": None}
    git = shutil.which("git")
    if git is None:
        return {"commit": "unknown: git is not installed", "clean": None}
    # Variables of a hook or of the user's may name another repository.
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
    """Adds an entry for the steps from `step` on, where the environment differs from the
    last one.
    """
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
    """The entries of a run folder, in the order of their steps; none where the file is missing.

    Raises:
        UserError: the file is damaged.
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
    """An entry in one line."""
    commit, clean = str(entry.get("commit")), entry.get("clean")
    short = commit[:9] if clean is not None else commit
    changed = "" if clean is not False else " with changes"
    text = (
        f"version {entry.get('version')}, commit {short}{changed}, Python {entry.get('python')}, torch {entry.get('torch')},"
        f" Lightning {entry.get('lightning')}, {entry.get('platform')}, {entry.get('device')}"
    )
    # The folder may be a stranger's: nothing in it may steer the terminal.
    return "".join(character if character.isprintable() else "?" for character in text)[:500]
