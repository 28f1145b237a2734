"""Signals and readers that leave, in small programs of their own: no torch, a tenth of a second
each.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
Outcome = tuple[int, str, str]


def ends(program: str, folder: Path, *numbers: int, pause: float = 0.5, group: bool = False) -> Outcome:
    """Status, output and errors of a program that gets signals when it has said that it is
    ready.
    """
    (folder / "program.py").write_text(program, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{REPO / 'src'}{os.pathsep}{folder}"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "program.py"]
    with subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        deadline = time.monotonic() + 60
        while not (folder / "ready").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        for place, number in enumerate(numbers):
            time.sleep(pause * (place > 0))
            (os.killpg if group else os.kill)(process.pid, number)
        out, error = process.communicate(timeout=60)
    return process.returncode, out, error


START = """
import time
from pathlib import Path
from llm_from_scratch import signals
signals.catch()
"""


@pytest.mark.parametrize(
    "body",
    [
        # An import that is interrupted: numpy makes an ImportError of it, others go on without a
        # part of themselves.
        "import slow",
        # What a library makes of KeyboardInterrupt, as the programs of this project report errors.
        """
from llm_from_scratch.errors import stop
@signals.ending
def main():
    Path("ready").touch()
    try:
        time.sleep(60)
    except BaseException:
        try:
            raise ImportError("numpy.core.multiarray failed to import")
        except ImportError as error:
            stop(error)
main()
""",
        # In a destructor Python prints it and goes on.
        """
class Slow:
    def __del__(self):
        Path("ready").touch()
        time.sleep(2)
@signals.ending
def main():
    slow = Slow()
    del slow
    time.sleep(60)
main()
""",
        # While the interpreter ends.
        """
import atexit
@signals.ending
def main():
    atexit.register(lambda: (Path("ready").touch(), time.sleep(60)))
main()
""",
    ],
    ids=["import", "library", "destructor", "exit"],
)
def test_an_interruption_has_its_status_and_no_traceback(body: str, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nfrom pathlib import Path\nPath('ready').touch()\n"
        "try:\n    time.sleep(60)\nexcept BaseException:\n    raise ImportError('this is no traceback to show') from None\n"
    )
    assert ends(START + body, tmp_path, signal.SIGINT) == (130, "", "")


def test_a_loop_is_asked_and_a_second_interruption_is_not_held_back(tmp_path: Path) -> None:
    loop = """
@signals.ending
def main():
    signals.hold()
    Path("ready").touch()
    for _ in range(WAIT):
        time.sleep(0.01)
    print(signals.received(), flush=True)
    raise SystemExit(128 + signals.received())
main()
"""
    program = START + loop
    short, long = program.replace("WAIT", "80"), program.replace("WAIT", "6000")
    assert ends(short, tmp_path, signal.SIGTERM) == (143, "15\n", "")
    (tmp_path / "ready").unlink()
    # A terminal sends it to the group and a launcher passes it on: that is one.
    assert ends(short, tmp_path, signal.SIGINT, signal.SIGINT, pause=0.02) == (130, "2\n", "")
    (tmp_path / "ready").unlink()
    assert ends(long, tmp_path, signal.SIGINT, signal.SIGINT) == (130, "", "")
    (tmp_path / "ready").unlink()
    ignored = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + short  # nohup
    assert ends(ignored, tmp_path, signal.SIGHUP, signal.SIGTERM) == (143, "15\n", "")


def test_what_nobody_reads_is_no_error(tmp_path: Path) -> None:
    program = """
import sys, os
@signals.ending
def main():
    print("first", flush=True)
    for _ in range(3):
        print("error", file=sys.stderr)
    Path("errors").touch()
    for _ in range(100_000):
        print("x" * 100)
    Path("all").touch()
main()
"""
    for start, status in (("catch()", 141), ("catch(end_with_reader=False)", 0)):
        (tmp_path / "program.py").write_text((START + program).replace("catch()", start), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": str(REPO / "src")}
        with subprocess.Popen(
            [sys.executable, "program.py"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stderr.close()
            assert process.stdout.readline() == b"first\n"
            process.stdout.close()
            assert process.wait(60) == status
        assert (tmp_path / "errors").exists()
        assert (tmp_path / "all").exists() == (status == 0)


def test_a_child_is_waited_for(tmp_path: Path) -> None:
    """Ctrl-C comes to both; the child takes a second to save."""
    child = START + (
        "signals.hold()\nPath('ready').touch()\nwhile not signals.received():\n    time.sleep(0.01)\n"
        "time.sleep(1)\nprint('saved', flush=True)\nraise SystemExit(130)\n"
    )
    (tmp_path / "child.py").write_text(child)
    parent = "import sys\n" + START + 'raise SystemExit(signals.run_child([sys.executable, "child.py"]))\n'
    assert ends(parent, tmp_path, signal.SIGINT, group=True) == (130, "saved\n", "")
    (tmp_path / "ready").unlink()
    assert ends(parent, tmp_path, signal.SIGINT) == (130, "saved\n", "")


WORKERS = """
import os
from llm_from_scratch.data.workers import run_tasks
def work(job, told):
    Path(f"worker{os.getpid()}").touch()
    if len(list(Path().glob("worker*"))) == 2:
        Path("ready").touch()
    sum(range(10**10))  # holds the interpreter for minutes, as the cleaning of one long document may
@signals.ending
def main():
    list(run_tasks(work, [1, 2], engine="local", workers=2, size=1, what="text"))
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(number: int, tmp_path: Path) -> None:
    program = START.replace("signals.catch()", "if __name__ == '__main__': signals.catch()") + WORKERS
    status, out, error = ends(program, tmp_path, number, group=number == signal.SIGINT)
    if number == signal.SIGINT:
        assert (status, out, error) == (130, "", "")
    else:  # Python's resource tracker may have a word to say
        assert status == -signal.SIGKILL
    workers = [int(path.name.removeprefix("worker")) for path in tmp_path.glob("worker*")]
    assert len(workers) == 2
    deadline = time.monotonic() + 3
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = [worker for worker in workers if alive(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert left == []


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
