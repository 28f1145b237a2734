"""Python programs that start from a process which has imported their libraries: seconds of each test.

`run_forked` asks that process, one for each process of pytest and each environment, to fork; the fork
takes the arguments, the folder and the standard streams, and is from there on what `python ARGUMENTS` is.
What it shares with other programs is the hash seed and the libraries, not this package. Linux alone.
"""

import contextlib
import functools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = ("hydra", "lightning.pytorch", "matplotlib.figure", "safetensors.torch", "torch.utils.tensorboard")


@functools.cache
def _parent(environment: tuple[tuple[str, str], ...]) -> socket.socket:
    """Starts the process that forks, and returns a socket to it; it ends when that is closed."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        command = [sys.executable, __file__, str(there.fileno())]
        subprocess.Popen(command, env=dict(environment), pass_fds=[there.fileno()], stdin=subprocess.DEVNULL)
    return here


def run_forked(
    arguments: list[str], cwd: Path, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS`, as subprocess.run does."""
    # What libraries read when they are imported is that of the process that imports them.
    stable = {name: value for name, value in environment.items() if name not in ("PYTEST_CURRENT_TEST", "PYTHONPATH")}
    parent = _parent(tuple(sorted(stable.items())))
    given = json.dumps({"arguments": arguments, "cwd": str(cwd), "path": environment["PYTHONPATH"]}).encode()
    reply, child = socket.socketpair()
    with reply, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with child:
            socket.send_fds(parent, [given], [child.fileno(), output.fileno(), errors.fileno()])
        answer = reply.makefile()
        process = int(answer.readline())
        reply.settimeout(timeout)
        try:
            status = int(answer.readline())
        except TimeoutError:
            os.kill(process, signal.SIGKILL)
            raise subprocess.TimeoutExpired(arguments, timeout) from None
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode("utf-8").replace("\r\n", "\n"))
    return subprocess.CompletedProcess(arguments, os.waitstatus_to_exitcode(status), *texts)


def _serve(requests: socket.socket) -> list[str]:
    """Forks for each request; returns in each fork, with its arguments."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        given, descriptors, _, _ = socket.recv_fds(requests, 2**20, 3)
        if not given:
            sys.exit()
        reply, *streams = descriptors
        if os.fork() == 0:
            break
        for file in descriptors:
            os.close(file)
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:  # waits
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(reply, b"%d\n" % child)
            os.write(reply, b"%d\n" % os.waitpid(child, 0)[1])
        os._exit(0)
    os.close(reply)
    for file, place in zip(streams, (1, 2), strict=True):
        os.dup2(file, place)
        os.close(file)
    request = json.loads(given)
    os.chdir(request["cwd"])
    os.environ["PYTHONPATH"] = request["path"]
    first, *_ = arguments = request["arguments"]
    sys.path[0] = request["cwd"] if first == "-m" else str(Path(first).absolute().parent)
    sys.path[1:1] = request["path"].split(os.pathsep)
    return arguments


if __name__ == "__main__":
    for library in LIBRARIES:
        __import__(library)
    first, *sys.argv[1:] = _serve(socket.socket(fileno=int(sys.argv[1])))
    if first == "-m":
        module = sys.argv.pop(1)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = first
        runpy.run_path(first, run_name="__main__")
