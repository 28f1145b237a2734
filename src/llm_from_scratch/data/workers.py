"""Engines that run the tasks of a preparation: this process, a process pool, a Ray cluster.

Each runs the same function.

A worker that dies (killed for memory, most often) raises an error here: ProcessPoolExecutor notices
it, where multiprocessing.Pool would hang. A worker whose parent dies ends itself, so that it does
not go on writing.
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from llm_from_scratch.errors import UserError, first_line, missing_extra
from llm_from_scratch.terminal import console

log = logging.getLogger(__name__)
Function = Callable[..., Any]
POLL = 0.5  # seconds between two updates of the progress
LINES = 30.0  # seconds between two log lines of the progress where there is no terminal


class _Counter(Protocol):
    value: int

    def get_lock(self) -> Any: ...


def run_tasks(
    function: Function, tasks: Sequence[Any], *, engine: str, workers: int, size: int, what: str
) -> Iterator[Any]:
    """Yields function(task, on_progress) of every task, in the order in which they finish.

    Progress is shown on standard error.

    Args:
        function: importable by its name in another process; Ray calls it without on_progress.
        tasks: the first argument of each call.
        engine: local or ray.
        workers: processes of the local engine; with one, this process runs all tasks.
        size: total bytes of the tasks' input.
        what: the label of the progress display.

    Raises:
        UserError: when a worker is killed or a library is missing. A task's own error is raised
            here.
    """
    if not tasks:
        return
    if engine == "ray":
        yield from _ray(function, tasks)
    elif min(workers, len(tasks)) == 1:
        with _Shown(size, what) as shown:
            for task in tasks:
                yield function(task, shown.advance)
    else:
        yield from _pool(function, tasks, min(workers, len(tasks)), size, what)


# ---------------------------------------------------------------------------------------- processes
# In a worker: the bytes that all workers have read. It is global because an executor's initializer
# can pass values to tasks in no other way.
_counter: _Counter | None = None


def _begin_worker(counter: _Counter) -> None:
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    # The thread cannot run while C code of a task holds the GIL (NFC of a long document): there the
    # kernel ends the worker.
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without prctl
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if not parent.is_alive():
        os._exit(1)


@contextmanager
def _signals_are_the_parents() -> Iterator[None]:
    """Blocks SIGINT and SIGHUP (Ctrl-C, a closed terminal) in processes started in its body.

    Their start-up is included.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        # delivers the signals that have come meanwhile
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tell(count: int) -> None:
    assert _counter is not None
    with _counter.get_lock():
        _counter.value += count


def _in_worker(function: Function, task: Any) -> Any:
    return function(task, _tell)


def _pool(function: Function, tasks: Sequence[Any], workers: int, size: int, what: str) -> Iterator[Any]:
    # spawn, for a fork would copy the locks that threads of torch and others hold
    context = multiprocessing.get_context("spawn")
    counter: Any = context.Value("q", 0)
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, _begin_worker, (counter,))
    try:
        with _Shown(size, what) as shown:
            with _signals_are_the_parents():
                waiting: set[Future] = {pool.submit(_in_worker, function, task) for task in tasks}
            while waiting:
                done, waiting = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
                shown.set(counter.value)
                for future in done:
                    yield future.result()
    except BrokenProcessPool:
        raise UserError(
            f"a worker was killed, most often for want of memory: lower prepare.workers={workers}, and start again: "
            "finished shards are kept"
        ) from None
    finally:
        ours = set(multiprocessing.active_children()) - before
        pool.shutdown(wait=False, cancel_futures=True)
        for process in ours:  # after an error the other tasks' results are not needed
            process.terminate()
        for process in ours:
            process.join()


# ---------------------------------------------------------------------------------------------- ray
def _ray(function: Function, tasks: Sequence[Any]) -> Iterator[Any]:
    """Yields the results of the tasks from the cluster that RAY_ADDRESS names, else this machine.

    Ray itself retries a task whose machine dies.
    """
    try:
        import ray
    except ImportError:
        raise missing_extra("prepare.engine=ray needs Ray", "cluster") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.WARNING)
    remote = ray.remote(function)
    waiting = [remote.remote(task) for task in tasks]
    while waiting:
        done, waiting = ray.wait(waiting)
        log.info("%d of %d tasks are done", len(tasks) - len(waiting), len(tasks))
        try:
            yield from ray.get(done)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, (ValueError, OSError)) else error) from None
        except ray.exceptions.RayError as error:
            raise UserError(f"Ray gave up ({first_line(error, 200)}): start again: finished shards are kept") from None


# ----------------------------------------------------------------------------------------- progress
class _Shown:
    """Progress display: bytes read of the total, their rate and the time left.

    It is a bar in a terminal, and a log line every LINES seconds elsewhere.
    """

    def __init__(self, size: int, what: str) -> None:
        self.size, self.what, self.read = size, what, 0
        self.started = self.said = time.monotonic()
        self.bar: Progress | None = None
        out = console(stderr=True)
        if out.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
            )
            self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=out)
            self.task = self.bar.add_task(what, total=size)

    def __enter__(self) -> "_Shown":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, count: int) -> None:
        self.set(self.read + count)

    def set(self, read: int) -> None:
        self.read = read
        now = time.monotonic()
        if self.bar:
            self.bar.update(self.task, completed=read)
        elif now - self.said >= LINES and read:
            self.said = now
            rate = read / (now - self.started)
            left = max(0, self.size - read) / rate
            done = 100 * read / max(1, self.size)
            log.info(
                "%s: %.0f %% of the files read, %.1f MB/s, about %.0f minutes left",
                self.what,
                done,
                rate / 1e6,
                left / 60,
            )
