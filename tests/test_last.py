"""`last` is one run for every command, and a run that starts from another's weights takes its
shape.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPO, SMALL

from llm_from_scratch import cli, signals, terminal
from llm_from_scratch.run import find_run, last_run, started_last
from llm_from_scratch.saved_config import read_run

Start = Callable[..., tuple[int, str]]
TEXT = [word for word in SMALL if word.startswith(("data", "trainer", "sample"))]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Start:
    """`start("train.py", …)` or `start("doctor", …)` runs a command in this process: its status and
    what it said.
    """
    from llm_from_scratch.commands import generate, train

    def command(name: str, *words: str) -> tuple[int, str]:
        capsys.readouterr()
        terminal.note.cache_clear()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", [str(REPO / name), *words])
        try:
            if name.endswith(".py"):
                {"train.py": train, "generate.py": generate}[name].main()
            else:
                cli.main([name, *words])
        except SystemExit as ended:
            return int(ended.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return command


@pytest.fixture
def three(finished: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Runs below outputs/ in the order of their starts; a later validation of the first one, and no
    model in the last.
    """
    for name in ("story.txt", "data"):
        copy = shutil.copytree if (finished / name).is_dir() else shutil.copy
        copy(finished / name, tmp_path / name)
    runs = [tmp_path / "outputs" / "text" / name for name in ("2020-01-01_00-00-00_a", "b", "c")]
    for i, run in enumerate(runs):
        shutil.copytree(finished / "run", run)
        os.utime(run / "config.yaml", (100 + i, 100 + i))
    os.utime(runs[0] / "model" / "config.json", (10**9, 10**9))  # the newest file of all
    shutil.rmtree(runs[2] / "model")
    return runs[0], runs[1], runs[2]


def test_last_is_the_run_that_was_started_last_and_has_what_is_needed(
    three: tuple[Path, Path, Path], start: Start
) -> None:
    with_model = "run=last: outputs/text/b (outputs/text/c is newer and has no model yet)\n"
    for command in (
        ("evaluate", "last"),
        ("generate.py", "run=last", "max_new_tokens=2"),
        ("generate.py", "max_new_tokens=2"),
        ("generate.py", "-m", "run=last", "max_new_tokens=1,2"),
    ):
        status, said = start(*command)
        assert (status, said.count(with_model), said.count("last: ")) == (0, 1, 1), said
    status, said = start("doctor", "last")
    assert status == 1  # its model is gone
    assert said == "run=last: outputs/text/c\n"
    for resumed in ("plan", "inspect"):
        status, said = start(resumed, "resume=last", *["--no-measuring"][: resumed == "plan"])
        run = "outputs/text/c\n" if resumed == "plan" else "outputs/text/b (outputs/text/c is newer"
        assert (status, said.startswith(f"resume=last: {run}")) == (0, True), said
    status, said = start("train.py", "resume=last", "data.batch_size=4")
    assert status == 2
    assert said.startswith("resume=last: outputs/text/c\nerror: data.batch_size=4: the resumed run has 8")


def test_a_later_start_is_newer_whatever_the_clock_says(three: tuple[Path, Path, Path], start: Start) -> None:
    os.utime(three[2] / "config.yaml", (4 * 10**9, 4 * 10**9))  # the clock was far ahead
    shutil.copytree(three[0], three[0].with_name("d"))
    started_last(three[0].with_name("d"), three[0].parents[1])
    assert last_run(three[0].parents[1]) == three[0].with_name("d")
    status, said = start("train.py", "resume=outputs/text/b", "trainer.max_steps=61")
    assert status == 0, said
    assert find_run("last") == Path("outputs/text/b")  # a resumed run counts from its resumption


def test_last_says_what_is_missing(tmp_path: Path, start: Start) -> None:
    for words in (
        ("train.py", "resume=last"),
        ("train.py", "init_from=last"),
        ("doctor", "last"),
        ("evaluate", "last"),
    ):
        status, said = start(*words)
        assert (status, said.count("\n")) == (2, 1)
        assert "there is no run below outputs/" in said
    assert list(tmp_path.iterdir()) == []


def test_a_run_takes_the_shape_of_the_one_that_it_starts_from(three: tuple[Path, Path, Path], start: Start) -> None:
    status, said = start("train.py", *TEXT, "init_from=last", "trainer.max_steps=1", "run_dir=new")
    assert status == 0, said
    assert "init_from=last: outputs/text/b (" in said
    new, old = (read_run(run) for run in (three[0].parents[2] / "new", three[1]))
    dropout = new["model"].pop("dropout")
    assert dropout == 0.0 != old["model"].pop("dropout")  # of the training, not of the shape
    assert new["model"] == old["model"]
    assert new["tokenizer"] == old["tokenizer"]
    status, said = start("plan", *TEXT, "init_from=last", "--no-measuring")
    assert status == 0, said
    assert (
        len(list(Path("data/text").glob("prepared-????????????"))) == 2
    )  # the run's own pieces of the text, and no third


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("model.n_layer=3", "model.n_layer=3: init_from=outputs/text/b brings its own model, of 2: leave it out"),
        ("model.activation=gelu", "brings its own model, of swiglu"),
        ("model=small", "model=small sets model.n_layer=6: init_from=outputs/text/b brings its own model, of 2"),
        ("experiment=shakespeare_cpu", "experiment=shakespeare_cpu sets model.n_layer=1: init_from="),
        (
            "tokenizer=char",
            "tokenizer=char sets tokenizer.kind=char: init_from=outputs/text/b brings its own tokenizer",
        ),
        (
            "tokenizer.vocab_size=300",
            "tokenizer.vocab_size=300: init_from=outputs/text/b brings its own tokenizer, of 320",
        ),
    ],
)
def test_another_shape_than_that_of_the_weights_is_refused(
    three: tuple[Path, Path, Path], start: Start, words: str, refused: str
) -> None:
    status, said = start("train.py", *TEXT[:2], "init_from=outputs/text/b", words)
    assert (status, said.count("\n")) == (2, 1), said
    assert refused in said
    assert len(list(three[0].parent.iterdir())) == 3


def test_what_weights_do_not_decide_is_the_users(three: tuple[Path, Path, Path], start: Start) -> None:
    words = ("init_from=outputs/text/b", "model.block_size=64", "model.dropout=0.3", "model.rope_base=500")
    status, said = start("train.py", *TEXT, *words, "trainer.max_steps=1", "run_dir=new")
    assert status == 0, said
    model = read_run(Path("new"))["model"]
    assert (model["block_size"], model["dropout"], model["rope_base"], model["n_embd"]) == (64, 0.3, 500.0, 32)


def test_the_demonstration_hands_on_the_path_that_it_was_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    def run_child(command: list[str], on_line: Callable[[str], None] | None = None) -> int:
        started.append([Path(command[1]).name, *command[2:]])
        if on_line:
            on_line("run: outputs/oz demo/one")
        return 0

    monkeypatch.setattr(signals, "run_child", run_child)
    cli.main(["demo"])
    assert [words[0] for words in started] == ["train.py", "generate.py"]
    assert "run=outputs/oz demo/one" in started[1]
    assert capsys.readouterr().out == "run: outputs/oz demo/one\n"


def test_the_lines_of_a_child_are_handed_on_as_they_come() -> None:
    lines: list[str] = []
    code = "print('run: a', flush=True); print('ü'); raise SystemExit(3)"
    assert signals.run_child([sys.executable, "-X", "utf8", "-c", code], lines.append) == 3
    assert lines == ["run: a", "ü"]
