"""Commands on folders of a stranger's, each in a forked process whose every write, removal, process
and connection is noted.

    python audit.py PLAN

PLAN is a JSON list of [name, folder to start in, folders that may be written, program, arguments].
Standard output gets a JSON object a command: its name, status, what it said, and `outside`: the
events beyond the folders. Forking saves the imports.
"""

import json
import os
import runpy
import signal
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

SECONDS = 100  # a command that waits for a pipe ends then, and fails
# Events that change something, with the places of the paths among their arguments.
CHANGES = {
    "os.chmod": [0],
    "os.chown": [0],
    "os.link": [0, 1],
    "os.mkdir": [0],
    "os.remove": [0],
    "os.rename": [0, 1],
    "os.rmdir": [0],
    "os.symlink": [1],
    "os.truncate": [0],
    "os.utime": [0],
    "shutil.rmtree": [0],
    "shutil.move": [0, 1],
}
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo"}
# A run records the commit of this checkout, which git tells; in no other folder is git asked.
GIT = ["--no-optional-locks", "-C", str(Path(__file__).resolve().parents[1])]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


class Audit:
    """The hook: what a process did beyond `folders`. Links are followed, as the kernel follows
    them.
    """

    def __init__(self, folders: list[str]) -> None:
        self.folders = [os.path.realpath(folder) for folder in folders] + ["/dev", "/proc"]
        self.outside: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and list(arguments[1])[1:4] == GIT:
            return
        if event in FORBIDDEN:
            self.outside.append(f"{event} {arguments[0]!r:.200}")
        elif event == "open" and arguments[2] is not None and arguments[2] & WRITES:
            self.note(event, arguments[0], follow=not arguments[2] & os.O_EXCL)
        elif event in CHANGES:
            for place in CHANGES[event]:
                self.note(event, arguments[place], follow=event in ("os.chmod", "os.chown", "os.truncate", "os.utime"))

    def note(self, event: str, path: Any, follow: bool) -> None:
        if isinstance(path, int):
            return
        path = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        folder, name = os.path.split(path)
        real = os.path.realpath(path) if follow else os.path.join(os.path.realpath(folder), name)  # noqa: PTH118
        if event == "os.mkdir" and os.path.isdir(real):  # noqa: PTH112
            return  # it fails, and changes nothing
        if not any(real == one or real.startswith(one + os.sep) for one in self.folders):
            self.outside.append(f"{event} {real}")


def child(folder: str, folders: list[str], program: str, arguments: list[str], answer: int) -> None:
    os.chdir(folder)
    started = time.monotonic()
    signal.alarm(SECONDS)
    audit, said, status = Audit(folders), TextIOWrapper(BytesIO(), encoding="utf-8"), 0
    sys.addaudithook(audit)
    sys.argv = [program, *arguments]
    with redirect_stdout(said), redirect_stderr(said):
        try:
            if program.endswith(".py"):
                runpy.run_path(program, run_name="__main__")
            else:
                runpy.run_module(program, run_name="__main__", alter_sys=True)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            status = 99
            traceback.print_exc()
    said.seek(0)
    found = {"status": status, "said": said.read(), "outside": audit.outside, "seconds": time.monotonic() - started}
    os.write(answer, json.dumps(found).encode())


def main() -> None:
    import hydra  # noqa: F401
    import lightning  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import torch

    import llm_from_scratch.cli
    import llm_from_scratch.doctor.examination
    import llm_from_scratch.evaluation.measure
    import llm_from_scratch.training.callbacks
    import llm_from_scratch.training.trainer  # noqa: F401

    torch.set_num_threads(1)
    for name, folder, folders, program, arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        read, write = os.pipe()
        process = os.fork()
        if not process:
            os.close(read)
            child(folder, folders, program, arguments, write)
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            content = answer.read()
        _, status = os.waitpid(process, 0)
        found = json.loads(content) if content else {"status": -status, "said": "", "outside": ["killed: it waited"]}
        print(json.dumps({"name": name} | found), flush=True)


if __name__ == "__main__":
    main()
