"""The first hour: the commands of README.md, in their order, in a fresh clone and a new
environment.

In README.md an indented block holds commands and a fenced block output. The sections behind `LATER`
need more time or other machines.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

README = (REPO / "README.md").read_text(encoding="utf-8")
LATER = "\n## With more time or hardware"
TIMEOUT = 3000  # seconds a command: far more than it takes, on a machine that does much else
NEEDED = ("git", "make", "bash", "python3")
# These variables would change the clone's environment or its make.
FOREIGN = ("VENV", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYTHON", "PY", "ARGS", "MAKEFLAGS", "MAKELEVEL")
# Folders of the libraries below the home and the folder of temporary files; pip asks rustc for its
# version.
CACHES = (".cache/matplotlib", ".config/matplotlib", ".tensorboard-info", ".rustup")


def commands(text: str) -> list[str]:
    """The lines of the indented blocks, in their order, without those that are comments alone."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip() for line in text.splitlines() if line.startswith(" " * 4)]
    return [line for line in lines if not line.startswith("#")]


def output(text: str) -> list[str]:
    """The lines of the fenced blocks, without those that leave others out."""
    blocks = re.findall(r"^```\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line != "…"]


def pattern(shown: str) -> str:
    """A shown line as a regular expression: numbers and ids may differ, and `…` stands for
    anything.
    """
    words = re.sub(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{4}", "ID", shown).split("…")
    skeleton = ".*".join(re.escape(word) for word in words)
    return re.sub(r"\d[\d,.]*", r"[\\d,.]+", skeleton.replace("ID", r"[\w-]+"))


def _hears_interrupts() -> None:
    """Undoes what a shell does to its background jobs: Ctrl-C would not be heard."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Shell:
    """Runs each command in a bash of its own, behind the lines that set a shell up."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder, self.variables = folder, variables
        self.set_up: list[str] = []

    def start(self, line: str, **options: int) -> subprocess.Popen[str]:
        """A command that has begun."""
        return subprocess.Popen(
            ["bash", "-c", "\n".join([*self.set_up, line])],
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            preexec_fn=_hears_interrupts,
            **options,
        )

    def run(self, line: str, status: int = 0) -> tuple[str, str]:
        """Standard output and standard error of a command that ends with `status`."""
        process = self.start(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == status, f"$ {line}\nstatus {process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
        assert "Traceback" not in err, f"$ {line}\n{err[-4000:]}"
        return out, err


def variables(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody whose home is empty, but for the settings of pip."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    found = {name: value for name, value in os.environ.items() if name not in FOREIGN and "PYTEST" not in name}
    found |= {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONIOENCODING": "utf-8"}
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        found.pop(name, None)
    for settings in (".config/pip/pip.conf", ".pip/pip.conf", "Library/Application Support/pip/pip.conf"):
        if (Path.home() / settings).is_file():
            found.setdefault("PIP_CONFIG_FILE", str(Path.home() / settings))
    found.setdefault("PIP_CACHE_DIR", os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")) + "/pip")
    corpora = Path(os.environ.get("LLM_CORPORA", REPO.parent / "shared" / "corpora"))
    found.pop("LLM_CORPORA", None)
    if corpora.is_dir():
        found["LLM_CORPORA"] = str(corpora.resolve())
    return found


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """The shell of a newcomer. Its clone and its environment, some gigabytes, are removed
    afterwards.
    """
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    if not (REPO / ".git").exists():
        pytest.skip("needs a git repository to clone")
    probe = tmp_path / "probe"
    words = ["download", "--quiet", "--no-cache-dir", "--no-deps", "-c", "constraints.txt", "-d", str(probe)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "hydra-core"], cwd=REPO, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"needs a package index: {done.stderr.strip().splitlines()[-1]}")
    shutil.rmtree(probe)
    yield Shell(tmp_path, variables(tmp_path))
    for path in tmp_path.iterdir():
        shutil.rmtree(path, ignore_errors=True)


def test_readme_promises_a_first_hour() -> None:
    """README's commands are found, so that the long test runs them."""
    first, later = README.split(LATER)
    lines = commands(first)
    assert lines[0].startswith("git clone ")
    assert [line.split()[:2] for line in lines[1:3]] == [["make", "demo"], ["make", "test"]]
    assert lines[3].startswith("source ")
    assert len(lines) >= 13
    assert output(first)
    assert commands(later)
    assert re.fullmatch(pattern("step 80/480 …, 2.3 bits"), "step 9/10  validation loss 4, 1.25 bits")
    assert not re.fullmatch(pattern("step 80/480 … bits"), "step x/480 bits")


def test_the_functions_of_the_article_are_where_readme_says() -> None:
    rows = re.findall(r"^\| .+ \| `(\w+)` in `(.+)` \| `(\w+)` \|$", README, flags=re.MULTILINE)
    assert len(rows) == 3
    for plain, file, fast in rows:
        text = (REPO / file).read_text(encoding="utf-8")
        for name in (plain, fast):
            assert re.search(rf"^(def|class) {name}\b", text, flags=re.MULTILINE), f"{name} is not in {file}"


def words_of(line: str) -> str:
    """A command without its comment."""
    return re.split(r"\s+# ", line)[0]


def losses(clone: Path, said: str) -> list[float]:
    """The validation losses, in bits per byte, of the run that a command has named."""
    (run,) = re.findall(r"^run: (.+)$", said, flags=re.MULTILINE)
    rows = [json.loads(line) for line in (clone / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["bits_per_byte"] for row in rows if row["split"] == "val"]


@pytest.mark.hour
def test_the_first_hour(shell: Shell, tmp_path: Path) -> None:
    lines = iter(commands(README.split(LATER)[0]))

    # Clone; ADDRESS is where the project lies.
    shell.run(next(lines).replace("ADDRESS", str(REPO)))
    clone = tmp_path / "LLMfromScratch"
    shell.folder = clone

    # The demonstration shows the lines that README shows.
    out, err = shell.run(next(lines))
    book = "run: outputs/oz_demo/" in out
    if book:
        for line in output(README):
            assert re.search(f"^{pattern(line)}$", err, flags=re.MULTILINE), f"{line}\nis not in\n{err}"
        (promised,) = set(re.findall(r"step 480/480 .* ([\d.]+) bits per byte", README))
        assert abs(min(losses(clone, out)) - float(promised)) < 0.05
        assert "\nDorothy" in out
    else:
        assert "trains on small stories, which the program tells itself" in err
        assert "run: outputs/tales_demo/" in out
        assert losses(clone, out)[-1] < losses(clone, out)[0]
    assert "source .venv/bin/activate" in err

    # Inside itself the test only asks make which command it would run.
    said, _ = shell.run(next(lines).replace("make", "make --dry-run"))
    assert re.search(r"\.venv/bin/python -m pytest", said)

    shell.set_up.append(next(lines))  # "once in each shell"
    for line in lines:
        try_line(shell, line, book)

    # All files are in the clone, and git ignores them.
    changed, _ = shell.run("git status --porcelain")
    assert changed.splitlines() in ([], ["?? report/"])
    assert {path.name for path in tmp_path.iterdir()} == {"LLMfromScratch", "home", "tmp"}
    for place in (tmp_path / "home", tmp_path / "tmp"):
        left = [path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir()]
        assert [name for name in left if not name.startswith(CACHES)] == []


def try_line(shell: Shell, line: str, book: bool) -> None:
    """Runs one command of README.md and checks its output.

    Args:
        shell: of the clone, with its environment.
        line: the command with its comment.
        book: whether the Wizard of Oz can be had; a command that needs it is refused in one line
            elsewhere.
    """
    words = words_of(line)
    if words.startswith("tensorboard"):
        return look_at_page(shell, line, "/data/runs", lambda runs: runs)
    if " serve " in words:
        return look_at_page(shell, line, "/play/models", lambda found: found["models"])
    training = words.startswith("python train.py")
    needs_book = "data=oz" in words or (training and "data=" not in words and "resume=" not in words)
    if needs_book and not book:
        sweeps = " -m " in words  # its runs fail one by one, and its table names the reason
        out, err = shell.run(line, status=1 if sweeps else 2)
        assert out == ""
        assert sweeps or len(err.splitlines()) == 1
        assert "data=tales" in err
        return None
    out, err = shell.run(line)
    if training:
        runs = re.findall(r"^run: (.+)$", out, flags=re.MULTILINE)
        assert len(runs) == len(out.splitlines()) == (4 if " -m " in words else 1)
        for run in runs:  # "A run folder holds all there is to know about a run"
            for name in re.findall(r"`([\w./]+)`", README.partition("A run folder holds")[2].partition(".\n")[0]):
                assert (shell.folder / run / name).exists(), f"{run}/{name}"
        assert "All runs of" in err or "Results of" in err
    elif words.startswith("python generate.py"):
        prompt = re.search(r'prompt="(.+?)"', words)
        assert prompt
        assert out.startswith(prompt[1])
        assert len(out) > len(prompt[1]) + 20
    elif " evaluate " in words:
        page = out.splitlines()[-1].removeprefix("report: ")
        assert "<html" in (shell.folder / page).with_suffix(".html").read_text(encoding="utf-8")
    else:
        assert out.strip()
    return None


def look_at_page(shell: Shell, line: str, path: str, has_content: Callable[[Any], Any]) -> None:
    """Starts a server, asks it for JSON until that has content, and ends it as Ctrl-C does."""
    log = shell.folder / "outputs" / "server.log"
    with log.open("w", encoding="utf-8") as file:
        process = shell.start(line, stdout=file, stderr=file)
    try:
        address = None
        for _ in range(TIMEOUT):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            address = re.search(r"(?:^| at )(http://\S+)", log.read_text(encoding="utf-8"), flags=re.MULTILINE)
            if address:
                break
            time.sleep(1)
        assert address, log.read_text(encoding="utf-8")
        found = None
        for _ in range(TIMEOUT):  # TensorBoard reads the files behind the page
            with urllib.request.urlopen(f"{address[1].rstrip('/')}{path}", timeout=60) as answer:
                found = json.loads(answer.read())
            if has_content(found):
                break
            time.sleep(1)
        assert has_content(found), found
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)
