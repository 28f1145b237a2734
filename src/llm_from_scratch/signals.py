"""Signals and readers that leave: a program ends with 128 + the signal's number, and with one line
at most.

A handler notes the signal and writes nothing: the reader of standard error may be gone before it
(`2>&1 | tee log` and Ctrl-C), and a write would then raise in the middle of whatever runs. Training
holds signals back and ends between two steps; everything else ends at once.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import time

# Few imports: until `catch` has run, Ctrl-C is a traceback.
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
)  # Ctrl-C, an end that is asked for, a closed terminal, SLURM's warning
# Lightning adds this to the arguments of the other processes of a DDP run.
LIGHTNING_CHILD = "hydra.job.name=train_ddp_process_"
# The number of the process that starts those of a DDP run, for them.
PARENT = "LLM_FROM_SCRATCH_PARENT"
LAST_WORDS = 5.0  # seconds that a process of a DDP run has to end by itself after the first one
READER_LEFT = 128 + 13  # the status of a program whose standard output has no reader: 128 + SIGPIPE
# Seconds within which a second signal is the first one again, sent to the group and to the process
TWIN = 0.2


class _State:
    def __init__(self) -> None:
        self.received: int | None = None  # the signal that this process is to end for
        self.since = 0.0
        self.held = False  # a loop asks for `received` between two steps
        self.raised = False  # KeyboardInterrupt is on its way
        self.over = False  # the interpreter is about to end: there is nothing left to tidy up
        self.before: dict[int, Any] = {}


_state = _State()


def catch(*, end_with_reader: bool = True) -> None:
    """Takes the signals of this process and guards its standard streams; a program calls it before
    its other imports.

    Args:
        end_with_reader: whether the program ends when nobody reads its standard output any more (`|
            head`).
    """
    _install()
    sys.unraisablehook = _unraisable
    if os.name == "posix":
        sys.stdout = _guarded(sys.stdout, end_with_reader)
        sys.stderr = _guarded(sys.stderr, False)


def hold() -> None:
    """From now on a signal is only noted, for `received`; a second Ctrl-C still interrupts
    at once.
    """
    _install()
    _state.held = True


def release() -> None:
    """Gives the signals back to where they were before `hold`."""
    _state.held = False
    if sys.unraisablehook is not _unraisable:  # nobody called `catch`: this process is not ours
        _restore(_state.before)
        _state.before, _state.received, _state.raised = {}, None, False


def received() -> int | None:
    """The number of the signal that asked this process to end."""
    return _state.received


def interrupted() -> int | None:
    """The number of the signal that is ending this process now, whatever a library made of the
    KeyboardInterrupt.
    """
    return _state.received if _state.raised else None


def ending(program: Callable[..., None]) -> Callable[..., None]:
    """Makes a function a program's outermost frame: an interruption becomes the exit status 128 +
    number, without a traceback.
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
    """Runs a program that ends by itself when a signal comes, and waits for that end; returns its
    exit status.

    `subprocess.run` would kill it a quarter of a second after Ctrl-C, in the middle of its last
    checkpoint.

    Args:
        command: the program and its arguments.
        on_line: takes each line of the child's standard output; without it the child writes to this
            process's own.
    """
    import subprocess

    early: list[int] = []
    process: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if process:
            # From a terminal it has come to the child already: see TWIN
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
    """The signals to take: all that this system has, but for a SIGHUP that `nohup` has ignored."""
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    hangup = getattr(signal, "SIGHUP", None)
    return [number for number in numbers if number != hangup or signal.getsignal(number) != signal.SIG_IGN]


def _install() -> None:
    for number in _numbers():
        if signal.getsignal(number) is not _handle:
            try:
                _state.before[number] = signal.signal(number, _handle)
            except ValueError:
                return  # another thread than the main one: signals are not its matter


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        # None: one of a C library's
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
        os._exit(128 + _state.received)  # what the first signal began takes too long
    if _state.over or _importing(frame):
        os._exit(
            128 + number
        )  # an import that is interrupted fails in a library's own words, or goes on without a part
    _state.held, _state.raised = False, True
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """An interruption that comes within a destructor would be printed and forgotten."""
    if isinstance(lost.exc_value, KeyboardInterrupt) and _state.raised:
        os._exit(128 + (_state.received or signal.SIGINT))
    sys.__unraisablehook__(lost)


class _Output(io.FileIO):
    """A standard stream: what is written after its reader has left goes nowhere, without an
    error.
    """

    def __init__(self, descriptor: int, ends: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.ends = ends
        # EIO: a terminal that was closed
        self.lost = {errno.EPIPE, errno.EIO} if self.isatty() else {errno.EPIPE}

    def write(self, data: Any) -> int:
        """Writes, or after the reader has left, forgets; ends the program where that is its
        reader's wish.
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
        # there is none, or a test put its own in the place
        return stream
    # Python -u
    if isinstance(stream, io.TextIOWrapper) and not isinstance(stream.buffer, io.BufferedWriter):
        return io.TextIOWrapper(raw, stream.encoding, stream.errors, write_through=True)
    line_buffering = stream.line_buffering or not ends
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=line_buffering)


def _flush() -> None:
    """Writes what is left, so that a reader who has left is met here and not in the interpreter's
    last moments.
    """
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 -- contextlib is one more import
            stream.flush()
        except (ValueError, OSError, AttributeError):  # closed, full, or none
            pass
