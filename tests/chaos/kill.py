"""train.py in a process that ends itself with SIGKILL at one chosen call.

    python kill.py TRACE none OVERRIDES…                      only notes the calls in TRACE: "scope call number path"
    python kill.py TRACE "state rename 1 before" OVERRIDES…   dies before its first rename of a checkpoint
    python kill.py TRACE "validation call 3 SIGTERM" OVERRIDES…   sends itself that signal, and goes on to the call

A scope is a part of the run folder (config, metrics, samples, model, state), `forward` (a
micro-batch in training), `validation` (a batch of it) or `ending` (the picture that a run ends
with). A number counts the calls of that kind in that scope. `before` and `after` are before and
after the call, `amid` is when half of a file's bytes are written, or the first of a folder's
entries is gone. CHAOS_CLOCK is how many seconds this machine's clock is ahead.
"""

import os
import re
import runpy
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
SCOPES = {
    "config.yaml": "config",
    "metrics.jsonl": "metrics",
    "timing.jsonl": "metrics",
    "samples.md": "samples",
    "model": "model",
    "checkpoints": "state",
    "curves.png": "ending",
    "csv": "csv",
    "tensorboard": "curves",
}


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


class Calls:
    """Counts the calls; `act` runs one of them, or as much of it as is meant to happen."""

    def __init__(self, trace: Path, point: str, run: Path) -> None:
        self.trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        scope, call, number, self.moment = point.split() if point != "none" else ("", "", "0", "")
        self.target = (scope, call, int(number))
        self.run, self.counts = run, Counter[tuple[str, str]]()

    def scope(self, path: Any) -> str | None:
        """Which part of the run folder a path belongs to; a folder or file that is being built, to
        the part that it becomes.
        """
        path = Path(os.path.abspath(path))  # noqa: PTH100 -- links stay as they are
        if not path.is_relative_to(self.run) or path == self.run:
            return None
        name = re.sub(r"^\.(?:building|old)-(.*?)(?:-[0-9a-f]{8})?$", r"\1", path.relative_to(self.run).parts[0])
        return SCOPES.get(name)

    def hit(self, scope: str | None, call: str, path: Any = "") -> bool:
        """Counts a call; whether it is the one."""
        if scope is None:
            return False
        self.counts[scope, call] += 1
        number = self.counts[scope, call]
        os.write(self.trace, f"{scope} {call} {number} {path}\n".encode())
        if (scope, call, number) != self.target:
            return False
        if self.moment == "before":
            die()
        if self.moment.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, self.moment))
            return False
        return True

    def act(self, scope: str | None, name: str, path: Any, call: Callable[[], Any], amid: Callable[[], Any]) -> Any:
        """Runs `call`, or dies at its moment."""
        if not self.hit(scope, name, path):
            return call()
        (amid if self.moment == "amid" else call)()
        die()


class File:
    """A file whose writing ends the process: half of what was to be written is there, or
    all of it.
    """

    def __init__(self, file: Any, moment: str) -> None:
        self.file, self.moment = file, moment

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        die()

    flush = close

    def write(self, content: Any) -> int:
        if self.moment == "amid":
            self.file.write(content[: len(content) // 2])
            self.close()
        return self.file.write(content)


def halve(path: Any) -> None:
    os.truncate(path, os.path.getsize(path) // 2)  # noqa: PTH202


def wrap(calls: Calls) -> None:
    """Puts `calls` around every write, fsync, rename and removal, and around the model's loss."""
    paths: dict[int, Any] = {}
    os_open, os_fdopen, os_fsync, path_open, rmtree, save_file = (
        os.open,
        os.fdopen,
        os.fsync,
        Path.open,
        shutil.rmtree,
        safetensors.torch.save_file,
    )

    def opened(path: Any, *arguments: Any, **options: Any) -> int:
        handle = os_open(path, *arguments, **options)
        paths[handle] = path
        return handle

    def descriptor_opened(handle: int, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        path = paths.get(handle, "")
        hit = mode.strip("bt+") in ("w", "a", "x") and calls.hit(calls.scope(path), "write", path)
        file = os_fdopen(handle, mode, *arguments, **options)
        return File(file, calls.moment) if hit else file

    def synced(handle: int) -> None:
        path = paths.get(handle, "")
        calls.act(calls.scope(path), "fsync", path, lambda: os_fsync(handle), lambda: None)

    def renamed(real: Callable[..., None]) -> Callable[..., None]:
        return lambda old, new: calls.act(calls.scope(new), "rename", new, lambda: real(old, new), lambda: None)

    def path_opened(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        writes = mode.strip("bt+") in ("w", "a", "x")
        hit = writes and calls.hit(calls.scope(path), "write", path)
        file = path_open(path, mode, *arguments, **options)
        return File(file, calls.moment) if hit else file

    def saved(tensors: Any, path: Any, **options: Any) -> None:
        def half() -> None:
            save_file(tensors, path, **options)
            halve(path)

        calls.act(calls.scope(path), "write", path, lambda: save_file(tensors, path, **options), half)

    def removed(path: Any, *arguments: Any, **options: Any) -> None:
        def first() -> None:
            for entry in sorted(Path(path).iterdir())[:1] if Path(path).is_dir() else []:
                entry.unlink()

        scope = calls.scope(path) if Path(path).exists() else None
        calls.act(scope, "remove", path, lambda: rmtree(path, *arguments, **options), first)

    os.open, os.fdopen, os.fsync = opened, descriptor_opened, synced  # type: ignore[assignment]
    os.rename, os.replace = renamed(os.rename), renamed(os.replace)  # type: ignore[assignment]
    Path.open, shutil.rmtree, safetensors.torch.save_file = path_opened, removed, saved  # type: ignore[assignment,method-assign]

    from llm_from_scratch.model import GPT
    from llm_from_scratch.training import results

    loss, draw_curves = GPT.loss, results.draw_curves

    def counted(model: GPT, *arguments: Any, **options: Any) -> Any:
        scope = "forward" if model.training else "validation"
        return calls.act(scope, "call", "", lambda: loss(model, *arguments, **options), lambda: None)

    def drawn(run: Path) -> None:
        from matplotlib.figure import Figure

        savefig = Figure.savefig

        def figure_saved(figure: Figure, path: Any, **options: Any) -> None:
            def half() -> None:
                savefig(figure, path, **options)
                halve(path)

            scope = calls.scope(path) if isinstance(path, str | Path) else None
            calls.act(scope, "write", path, lambda: savefig(figure, path, **options), half)

        Figure.savefig = figure_saved  # type: ignore[method-assign]
        draw_curves(run)

    GPT.loss, results.draw_curves = counted, drawn  # type: ignore[method-assign]


if __name__ == "__main__":
    trace, point, *overrides = sys.argv[1:]
    offset, clock = float(os.environ.get("CHAOS_CLOCK", "0")), time.time
    time.time = lambda: clock() + offset
    wrap(Calls(Path(trace), point, Path.cwd() / "run"))
    sys.argv = [str(TRAIN), *overrides]
    runpy.run_path(str(TRAIN), run_name="__main__")
