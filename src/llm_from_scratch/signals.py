"""Signals, and output without a reader: a program ends with status 128 + the signal's number.

It prints at most one line. The signal handler writes nothing: standard error may have lost its
reader (`2>&1 | tee log` and Ctrl-C), and a write would raise an error in the interrupted code.
Training defers signals and ends between two steps; every other program ends at once.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import time

# Few imports: until `catch` has run, Ctrl-C prints a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import Any

NAMES = (
    "SIGINT",
    "SIGTERM",
    "SIGHUP",
    "SIGUSR1",
)  # Ctrl-C, kill's default, a closed terminal, SLURM's warning
# Lightning adds this to the arguments of the other ranks of a DDP run.
LIGHTNING_CHILD = "hydra.job.name=train_ddp_process_"
# The number of the process that starts those of a DDP run, for them.
PARENT = "LLM_FROM_SCRATCH_PARENT"
LAST_WORDS = 5.0  # seconds that a process of a DDP run has to end by itself after the first one
READER_LEFT = 128 + 13  # the status of a program whose standard output has no reader: 128 + SIGPIPE
# Seconds within which a second signal repeats the first: one sent to the process group, one to the
# process.
TWIN = 0.2


class _State:
    def __init__(self) -> None:
        self.received: int | None = None  # the first signal's number; None: no signal yet
        self.since = 0.0
        self.held = False  # a loop polls `received` between two steps
        self.raised = False  # KeyboardInterrupt has been raised
        self.over = False  # the program has returned: a signal may end the process at once
        self.before: dict[int, Any] = {}


_state = _State()


def catch(*, end_with_reader: bool = True) -> None:
    """Installs the signal handlers and guards standard output and standard error.

    A program calls it before its other imports.

    Args:
        end_with_reader: whether the program ends when its standard output has no reader any more
            (`| head`).
    """
    _install()
    sys.unraisablehook = _unraisable
    if os.name == "posix":
        sys.stdout = _guarded(sys.stdout, end_with_reader)
        sys.stderr = _guarded(sys.stderr, False)


def hold() -> None:
    """Defers signals: the first is only recorded for `received`; a later Ctrl-C interrupts."""
    _install()
    _state.held = True


def release() -> None:
    """Ends `hold`; restores the earlier signal handlers, unless the program has called `catch`."""
    _state.held = False
    if sys.unraisablehook is not _unraisable:  # `catch` was not called
        _restore(_state.before)
        _state.before, _state.received, _state.raised = {}, None, False


def received() -> int | None:
    """Returns the number of the first signal that asked this process to end, or None."""
    return _state.received


def interrupted() -> int | None:
    """Returns the number of the signal that is interrupting this process now, or None.

    It is known even if a library has replaced the KeyboardInterrupt by another exception.
    """
    return _state.received if _state.raised else None


def ending(program: Callable[..., None]) -> Callable[..., None]:
    """Decorates a program's outermost function, which ends without a traceback when interrupted.

    The exit status is then 128 + the signal's number.
    """

    def run(*arguments: Any) -> None:
        try:
            program(*arguments)
            _flush()
        except BaseException as error:
            number = interrupted() or (signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
            _flush()
            if number is None:
                raise
            raise SystemExit(128 + number) from None
        finally:
            _state.over = True

    return run


def run_child(command: Sequence[str], on_line: Callable[[str], None] | None = None) -> int:
    """Runs a child program, passes signals on to it and returns its exit status.

    It waits until the child has ended by itself: `subprocess.run` would kill it a quarter of a
    second after Ctrl-C, in the middle of its last checkpoint.

    Args:
        command: the program and its arguments.
        on_line: receives each line of the child's standard output; None: the child writes to this
            process's own.
    """
    import subprocess

    early: list[int] = []
    process: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if process:
            # A terminal has sent it to the child, too: see TWIN
            process[0].send_signal(number)
        else:
            early.append(number)

    before = {number: signal.signal(number, pass_on) for number in _numbers()}
    try:
        process.append(subprocess.Popen(command, stdout=subprocess.PIPE if on_line else None))
        for number in early:
            process[0].send_signal(number)
        if on_line and process[0].stdout:
            for line in process[0].stdout:
                on_line(line.decode(errors="surrogateescape").rstrip("\r\n"))
        status = process[0].wait()
        return status if status >= 0 else 128 - status
    finally:
        _restore(before)


def end_with_parent() -> None:
    """Ends this process of a DDP run soon after the one that started it, however that one ended.

    A rank that is killed while another one still starts would leave it waiting for half an hour.
    """
    import threading

    parent = int(os.environ.get(PARENT, os.getppid()))

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        time.sleep(LAST_WORDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


def _numbers() -> list[int]:
    """Returns the signals of NAMES that this system has, but not a SIGHUP that `nohup` ignores."""
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    hangup = getattr(signal, "SIGHUP", None)
    return [number for number in numbers if number != hangup or signal.getsignal(number) != signal.SIG_IGN]


def _install() -> None:
    for number in _numbers():
        if signal.getsignal(number) is not _handle:
            try:
                _state.before[number] = signal.signal(number, _handle)
            except ValueError:
                return  # Python sets signal handlers in the main thread alone


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        # None: the handler was not installed from Python
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _state.received is None:
        _state.received, _state.since = number, now
        if _state.held:
            return
    elif now - _state.since < TWIN or (_state.held and number != signal.SIGINT):
        return
    elif not _state.held:
        os._exit(128 + _state.received)  # a second signal: the first one's end takes too long
    if _state.over or _importing(frame):
        os._exit(128 + number)  # an interrupted import may raise another error, or pass
    _state.held, _state.raised = False, True
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Ends the process for an interruption within a destructor, which Python would only print."""
    if isinstance(lost.exc_value, KeyboardInterrupt) and _state.raised:
        os._exit(128 + (_state.received or signal.SIGINT))
    sys.__unraisablehook__(lost)


class _Output(io.FileIO):
    """A standard stream that discards the output, without an error, once its reader has left."""

    def __init__(self, descriptor: int, ends: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.ends = ends
        # EIO: a terminal that was closed
        self.lost = {errno.EPIPE, errno.EIO} if self.isatty() else {errno.EPIPE}

    def write(self, data: Any) -> int:
        """Writes the data and returns the count of its bytes; discards them if the reader has left.

        Raises:
            SystemExit: when the reader has left and `ends` is set.
        """
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in self.lost:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if self.ends and not _state.over:
            raise SystemExit(READER_LEFT)
        return memoryview(data).nbytes


def _guarded(stream: Any, ends: bool) -> Any:
    if isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _Output):
        return stream
    try:
        raw = _Output(stream.fileno(), ends)
    except (AttributeError, OSError, ValueError):
        # No stream, or one that a test has put in its place
        return stream
    # Unbuffered, as by `python -u`
    if isinstance(stream, io.TextIOWrapper) and not isinstance(stream.buffer, io.BufferedWriter):
        return io.TextIOWrapper(raw, stream.encoding, stream.errors, write_through=True)
    line_buffering = stream.line_buffering or not ends
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=line_buffering)


def _flush() -> None:
    """Flushes both output streams, so that a missing reader is noticed here and not at shutdown."""
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 -- contextlib is one more import
            stream.flush()
        except (ValueError, OSError, AttributeError):  # closed, full, or none
            pass
