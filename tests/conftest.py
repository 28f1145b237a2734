"""Texts and runs that several tests share. Nothing here needs the network; what needs the real
corpora skips where they are absent.
"""

import logging
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import absl.logging
import pytest
from forked import run_forked
from hypothesis import settings

# TensorBoard's log handler keeps the stream of the moment in which it is imported, and closes it
# when Hydra sets logging up in this process: pytest's own capture, unless it is a stream that the
# handler leaves open.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
# Before torch: test processes stand side by side, one core each
os.environ["OMP_NUM_THREADS"] = "1"
REPO = Path(__file__).resolve().parents[1]
# No test reads or writes a real home, where corpora lie by default; processes run in folders of
# their own.
os.environ.setdefault("LLM_CORPORA", str(REPO.parent / "shared" / "corpora"))
# No test asserts a time: a busy machine is no fault.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
Process = Callable[..., subprocess.CompletedProcess[str]]
InProcess = Callable[..., tuple[int, str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test comes first: the processes of `make slow` share out the others meanwhile."""
    items.sort(key=lambda item: not item.nodeid.endswith("::test_the_first_hour"))


def story(characters: int, seed: int = 0) -> str:
    """A made text with something to learn: sentences of a small grammar, curly quotes and
    paragraphs included.
    """
    rng = random.Random(seed)
    who = ["Dorothy", "the Scarecrow", "the Tin Woodman", "the Lion", "Toto", "the Witch"]
    did = ["went to", "looked at", "was afraid of", "laughed about", "came back from"]
    what = ["the green city", "the yellow road", "the castle", "the great forest", "the café"]
    parts: list[str] = []
    while sum(map(len, parts)) < characters:
        sentence = f"{rng.choice(who)} {rng.choice(did)} {rng.choice(what)}."
        parts.append(f"“{sentence}”\n\n" if rng.random() < 0.2 else sentence + " ")
    return "".join(parts)[:characters]


def run(arguments: list[str], cwd: Path, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` in a process of its own, forked with its libraries imported where it can be."""
    environment = os.environ | {
        # The folder of the test may hold a callback.
        "PYTHONPATH": os.pathsep.join([str(REPO / "src"), str(cwd), os.environ.get("PYTHONPATH", "")]).rstrip(
            os.pathsep
        ),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONWARNINGS": "ignore",
    }
    variables = variables or {}
    environment |= variables
    if sys.platform == "linux" and variables.keys() <= {"PYTHONPATH"} and arguments[0] not in ("-c", "-S"):
        return run_forked(arguments, cwd, environment, timeout=300)
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
    )


KILLER = "+callbacks.killer._target_=killer.Killer"  # a word of train.py, beside `write_killer`


def write_killer(folder: Path) -> None:
    """Writes a callback that kills its process in step KILL_AT, a variable of the environment; PYTHONPATH names the folder."""
    (folder / "killer.py").write_text(
        "import os, signal\n"
        "from lightning.pytorch.callbacks import Callback\n"
        "class Killer(Callback):\n"
        "    def on_train_batch_start(self, trainer, module, batch, batch_idx):\n"
        "        if str(trainer.global_step) == os.environ.get('KILL_AT'):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n",
        encoding="utf-8",
    )


def as_version_0_1(config: Path) -> str:
    """Takes its checksum from a run's config.yaml, so that it can be changed by hand; returns what
    is left.
    """
    lines = config.read_text(encoding="utf-8").splitlines(keepends=True)
    assert lines[0].startswith("# The settings of this run")
    assert lines[-1].startswith("# sha256: ")
    config.write_text("".join(lines[1:-1]), encoding="utf-8")
    return config.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def own_log_handlers() -> Iterator[None]:
    """Takes away what a command in this process has added: its stream is closed after the test."""
    before = logging.root.handlers[:]
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real texts, where there is one."""
    folder = Path(os.environ.get("LLM_CORPORA", REPO.parent / "shared" / "corpora"))
    if not (folder / "oz" / "wizard_of_oz.txt").exists():
        pytest.skip("needs the real texts: name their folder in LLM_CORPORA")
    return folder


@pytest.fixture
def train(tmp_path: Path) -> Process:
    """`train(*overrides)` runs train.py in a process of its own, in the test's folder."""
    return lambda *overrides, cwd=tmp_path: run([str(REPO / "train.py"), *overrides], cwd)


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InProcess:
    """`train_here(*overrides)` runs train.py in this process, in the present folder: its exit status
    and what it said.
    """
    from llm_from_scratch.commands import train

    def start(*overrides: str) -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", [str(REPO / "train.py"), *overrides])
        try:
            train.main()
        except SystemExit as ended:
            return int(ended.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return start


@pytest.fixture
def write(tmp_path: Path) -> Process:
    """`write(*overrides)` runs generate.py."""
    return lambda *overrides, cwd=tmp_path: run([str(REPO / "generate.py"), *overrides], cwd)


@pytest.fixture
def command(tmp_path: Path) -> Process:
    """`command(*arguments)` runs `python -m llm_from_scratch`."""
    return lambda *arguments, cwd=tmp_path: run(["-m", "llm_from_scratch", *arguments], cwd)


# A run that takes a second: the smallest model on a made text.
SMALL = (
    "data=text",
    "data.path=story.txt",
    "data.batch_size=8",
    "model.n_layer=2",
    "model.n_embd=32",
    "model.n_head=2",
    "model.block_size=32",
    "tokenizer.vocab_size=320",
    "trainer=cpu",
    "sample.max_new_tokens=20",
)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a run of 60 steps was started in: story.txt, data/ and the run folder
    `run`.
    """
    folder = tmp_path_factory.mktemp("finished")
    (folder / "story.txt").write_text(story(30_000), encoding="utf-8")
    overrides = (
        *SMALL,
        "model.dropout=0.1",
        "optim.warmup_steps=5",
        "trainer.max_steps=60",
        "trainer.val_check_interval=25",
        "run_dir=run",
    )
    done = run([str(REPO / "train.py"), *overrides], folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run: run\n"
    return folder


@pytest.fixture
def finished_here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run with its text, as the present folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
