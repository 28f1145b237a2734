"""Programs started as users start them, timed and watched from outside: train.py, generate.py and
the peers' scripts.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
SRC = str(REPO / "src")
# The benchmarks measure this checkout, whether or not the package is installed.
if SRC not in sys.path:
    sys.path.insert(0, SRC)
# Seconds between two polls of a process; a poll takes some 50 microseconds of another core
POLL = 0.05


@dataclass(frozen=True)
class Finished:
    """A finished process: its standard output, wall-clock seconds, and peak anonymous memory in MB
    (None outside Linux).
    """

    stdout: str
    seconds: float
    anonymous_mb: float | None


def anonymous_mb(pid: int | str = "self") -> float | None:
    """Returns the anonymous memory of a process, which no file backs, in MB; None outside Linux."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
    return kilobytes[0] * 1024 / 1e6 if kilobytes else None


def environment(threads: int | None = None) -> dict[str, str]:
    """Returns the environment of a child process: this one's, with LLM_CORPORA set, this checkout's
    package and this folder on PYTHONPATH, and OMP_NUM_THREADS where `threads` is given.
    """
    found = dict(os.environ)
    # An absolute path, as children run in temporary folders
    found.setdefault("LLM_CORPORA", str(REPO.parent / "shared" / "corpora"))
    found["PYTHONPATH"] = os.pathsep.join(filter(None, (SRC, found.get("PYTHONPATH"), str(Path(__file__).parent))))
    found["PYTHONWARNINGS"] = "ignore"
    return found | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


@contextmanager
def started(arguments: list[str], folder: Path, threads: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `python ARGUMENTS` in `folder` during the block, and terminates it at its end; writes
    standard output to `folder`/stdout, errors to `folder`/stderr.
    """
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment(threads), stdout=out, stderr=err
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def run(
    arguments: list[str], folder: Path, threads: int | None = None, look: Callable[[], Any] = lambda: None
) -> Finished:
    """Runs `python ARGUMENTS` to its end. `look` is called at each poll; any result but None ends
    the process.

    Raises:
        RuntimeError: when the process fails; the message holds the end of its standard error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start, peak, stopped = time.perf_counter(), None, False
    with started(arguments, folder, threads) as process:
        while process.poll() is None and not stopped:
            held = anonymous_mb(process.pid)
            peak = max(filter(None, (peak, held)), default=None)
            stopped = look() is not None
            time.sleep(POLL)
        seconds = time.perf_counter() - start
    if process.returncode and not stopped:
        last = (folder / "stderr").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(arguments)}: exit status {process.returncode}\n{last}")
    return Finished((folder / "stdout").read_text(encoding="utf-8", errors="replace"), seconds, peak)


@dataclass(frozen=True)
class Steps:
    """Time and memory of a training's steps after the warm-up."""

    seconds: float  # of a step, on average
    anonymous_mb: float | None  # peak of the process; None outside Linux
    cuda_mb: float | None  # peak allocation on the GPU; None on a CPU


def train_py(folder: Path, overrides: list[str], *, steps: int, warmup: int, threads: int | None = None) -> Steps:
    """Runs a whole `train.py` in a new `folder`, timed from the end of step `warmup` to the end of
    step `steps`.

    That time includes logging, the loggers and every callback. It excludes the validation,
    checkpoint and figure after the last step. A callback (`_clock`) takes the time, at a cost of
    microseconds.
    """
    clock = folder / "clock.json"
    done = run(
        [
            str(REPO / "train.py"),
            f"run_dir={folder / 'run'}",
            f"trainer.max_steps={steps}",
            f"trainer.val_check_interval={steps}",
            "trainer.progress=false",
            "sample.max_new_tokens=0",
            f"+callbacks.clock={{_target_: _clock.StepClock, path: '{clock.as_posix()}', first: {warmup}, last: {steps}}}",
            *overrides,
        ],
        folder,
        threads,
    )
    times = json.loads(clock.read_text(encoding="utf-8"))
    return Steps(times["seconds"] / (steps - warmup), done.anonymous_mb, times["cuda_mb"])


def shakespeare() -> Path | None:
    """Returns the path of tiny Shakespeare below data/, $LLM_CORPORA or ../shared/corpora; None
    where there is no copy. Downloads nothing.
    """
    corpora = Path(environment()["LLM_CORPORA"])
    places = [folder / "shakespeare" / "input.txt" for folder in (REPO / "data", corpora)]
    return next((path for path in places if path.is_file()), None)


def characters(most: int = 1_200_000) -> tuple[str, str]:
    """Returns (name, text), at most `most` characters to train on: tiny Shakespeare, else Python's
    standard library without its non-ASCII characters.
    """
    if path := shakespeare():
        return "shakespeare", path.read_text(encoding="utf-8")[:most]
    from llm_from_scratch.data.sources import open_source

    parts, held = [], 0
    for document in open_source(name="stdlib", data_dir=REPO / "data").documents():
        # ASCII: a rare character of the validation part alone would have no id.
        parts.append(document.raw.decode("ascii", errors="ignore").replace("\r", ""))
        held += len(parts[-1])
        if held >= most:
            break
    return "stdlib", "".join(parts)[:most]
