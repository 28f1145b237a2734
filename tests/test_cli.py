"""The table of commands: each is a file, found without the others being imported."""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
from conftest import REPO, SMALL, run, story

from llm_from_scratch import cli, places
from llm_from_scratch.cli import COMMANDS, HYDRA_PROGRAMS, main


def test_every_command_is_a_file_with_arguments_and_run() -> None:
    files = {path.stem.replace("_", "-") for path in (REPO / "src/llm_from_scratch/commands").glob("[!_]*.py")}
    assert files == set(COMMANDS)
    for name in COMMANDS:
        module = import_module(f"llm_from_scratch.commands.{name.replace('-', '_')}")
        if name in HYDRA_PROGRAMS:
            assert callable(module.main)
            continue
        parser = argparse.ArgumentParser()
        module.arguments(parser)
        assert parser.description
        assert callable(module.run)


def test_the_help_says_the_rule_and_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert cli.RULE in said
    for name, line in COMMANDS.items():
        assert f"{name} {line}" in said


@pytest.mark.parametrize(
    ("words", "status", "absent"),
    [
        (["--help"], 0, {"hydra", "omegaconf", "numpy", "rich", "torch"}),
        (["plan", "--help"], 0, {"numpy", "torch"}),
        (["evaluate"], 2, {"numpy", "torch"}),
        (["train", "optim.lrr=1"], 2, {"torch", "lightning"}),
        (["train", "model.n_head=5"], 2, {"torch", "lightning"}),
        (["train", "model=tinny"], 2, {"torch", "lightning"}),
        (["train", "data=text", "data.path=nowhere.txt"], 2, {"torch", "lightning"}),
        (["train", "data=oz", f"run_dir={REPO / 'README.md/x'}"], 2, {"torch", "lightning"}),
        (["generate", "top_p=2"], 2, {"torch", "lightning"}),
        (["prepare", "data.val_fraction=2"], 2, {"torch", "lightning"}),
        (["plan", "trainer.max_steps=0"], 2, {"torch", "lightning"}),
    ],
)
def test_a_mistake_and_the_help_need_no_torch(words: list[str], status: int, absent: set[str], tmp_path: Path) -> None:
    code = (
        "import atexit, json, sys; from llm_from_scratch.__main__ import run;"
        " atexit.register(lambda: print(json.dumps([*sys.modules]), file=sys.stderr)); run()"
    )
    done = run(["-c", code, *words], tmp_path)
    *_, modules = done.stderr.splitlines()
    assert done.returncode == status, done.stderr
    assert absent.isdisjoint(json.loads(modules))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("started", "name", "words"),
    [
        ("train.py", "train", "python train.py"),
        ("/somewhere/__main__.py", "plan", "python -m llm_from_scratch plan"),
        ("/bin/llm-from-scratch", "train", "llm-from-scratch train"),
        ("/bin/llm-from-scratch", "", "llm-from-scratch"),
    ],
)
def test_advice_names_a_command_that_works_here(
    started: str, name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert " ".join(places.program(name)) == words


# Lightning starts the second process of a training with the words of the first, among which no
# command's name is left.
@pytest.mark.slow
def test_training_in_two_processes_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(story(20_000), encoding="utf-8")
    words = [*SMALL[:-2], "trainer=ddp_cpu", "trainer.max_steps=2", "sample.max_new_tokens=0", "run_dir=run"]
    done = run(["-m", "llm_from_scratch", "train", *words], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run: run\n"
    assert "python train.py" not in done.stderr


@pytest.mark.parametrize(
    "words", [("compare", "one", "two"), ("explain", "one", "a text"), ("rate", "report", "study")]
)
@pytest.mark.parametrize(
    ("page", "message"),
    [(".", "is a folder: name a file in it"), ("nowhere/a.html", "there is no folder nowhere: make it first")],
)
def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    page: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*words, "--html", page])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: --html {page}: {message}\n"
