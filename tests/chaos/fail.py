"""train.py in forked processes, in each of which one chosen call of the file system fails.

    python fail.py PLAN

PLAN is a JSON list of [folder to start in, point, errno, arguments]. A point is `none`, which
counts the calls, or `run rename 3`: the third rename below run/ fails with that error. Standard
output gets a JSON object a process: its status, what it said, its counts. Calls below run/ and
data/ alone count: write, fsync, rename, open, mkdir, unlink. The run folder itself and run/.hydra
are Hydra's to make, before the program begins.
"""

import io
import json
import os
import runpy
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

TRAIN = str(Path(__file__).resolve().parents[2] / "train.py")
AREAS = ("run", "data")
SECONDS = 200  # a process that hangs ends then


class Calls:
    """Counts the calls of each kind in each area and raises at the chosen one."""

    def __init__(self, point: str, number: int) -> None:
        area, kind, count = point.split() if point != "none" else ("", "", "0")
        self.target, self.number = (area, kind, int(count)), number
        self.counts: Counter[str] = Counter()
        self.paths: dict[int, str] = {}

    def count(self, kind: str, path: Any, dir_fd: int | None = None) -> None:
        path = os.fsdecode(path)
        if dir_fd is not None:
            path = os.path.join(self.paths.get(dir_fd, ""), path)  # noqa: PTH118
        parts = Path(os.path.relpath(path)).parts
        if not parts or parts[0] not in AREAS or parts == ("run",) or ".hydra" in parts:
            return
        self.counts[f"{parts[0]} {kind}"] += 1
        if (parts[0], kind, self.counts[f"{parts[0]} {kind}"]) == self.target:
            raise OSError(self.number, os.strerror(self.number), path)


class File:
    """An open file whose writes count."""

    def __init__(self, file: Any, calls: Calls, path: Any) -> None:
        self.file, self.calls, self.path = file, calls, path

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: Any) -> int:
        self.calls.count("write", self.path)
        return self.file.write(content)


def wrap(calls: Calls) -> None:
    import safetensors.torch
    from matplotlib.figure import Figure

    from llm_from_scratch import checkpoint, weights

    real_open, real_close, real_fsync, io_open = os.open, os.close, os.fsync, io.open

    def opened(path: Any, flags: int, *arguments: Any, dir_fd: int | None = None, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            calls.count("open", path, dir_fd)
        handle = real_open(path, flags, *arguments, dir_fd=dir_fd, **options)
        name = os.fsdecode(path)
        calls.paths[handle] = os.path.join(calls.paths.get(dir_fd, ""), name) if dir_fd is not None else name  # noqa: PTH118
        return handle

    def closed(handle: int) -> None:
        calls.paths.pop(handle, None)
        real_close(handle)

    def synced(handle: int) -> None:
        calls.count("fsync", calls.paths.get(handle, "elsewhere"))
        real_fsync(handle)

    def file_opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+"):
            return io_open(file, mode, *arguments, **options)
        path = calls.paths.get(file, "elsewhere") if isinstance(file, int) else file
        if not isinstance(file, int):
            calls.count("open", path)
        made = io_open(file, mode, *arguments, **options)
        calls.paths[made.fileno()] = os.fsdecode(path)
        return File(made, calls, path)

    def counted(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, dir_fd: int | None = None, **options: Any) -> Any:
            calls.count(kind, arguments[0] if kind == "rename" else path, dir_fd)
            return real(path, *arguments, **(options if dir_fd is None else options | {"dir_fd": dir_fd}))

        return call

    def named(kind: str, real: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if isinstance(arguments[place], str | Path):
                calls.count(kind, arguments[place])
            return real(*arguments, **options)

        return call

    os.open, os.close, os.fsync, io.open = opened, closed, synced, file_opened  # type: ignore[assignment]
    os.rename, os.replace = counted("rename", os.rename), counted("rename", os.replace)
    os.mkdir, os.unlink, os.rmdir = (
        counted("mkdir", os.mkdir),
        counted("unlink", os.unlink),
        counted("unlink", os.rmdir),
    )
    checkpoint.save_file = weights.save_file = named("write", safetensors.torch.save_file, 1)
    Figure.savefig = named("write", Figure.savefig, 1)  # type: ignore[method-assign]


def child(folder: str, point: str, number: int, arguments: list[str], answer: int) -> None:
    os.chdir(folder)
    signal.alarm(SECONDS)
    said, status, calls = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), 0, Calls(point, number)
    sys.argv = [TRAIN, *arguments]
    wrap(calls)
    with redirect_stdout(said), redirect_stderr(said):
        try:
            runpy.run_path(TRAIN, run_name="__main__")
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            status = 99
            traceback.print_exc()
    said.seek(0)
    os.write(answer, json.dumps({"status": status, "said": said.read()[-3000:], "counts": calls.counts}).encode())


def main() -> None:
    import hydra  # noqa: F401
    import lightning  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import torch

    import llm_from_scratch.training.callbacks
    import llm_from_scratch.training.trainer  # noqa: F401

    torch.set_num_threads(1)
    for folder, point, number, arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        read, write = os.pipe()
        process = os.fork()
        if not process:
            os.close(read)
            child(folder, point, number, arguments, write)
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            content = answer.read()
        _, status = os.waitpid(process, 0)
        print(content.decode() or json.dumps({"status": -status, "said": "", "counts": {}}), flush=True)


if __name__ == "__main__":
    main()
