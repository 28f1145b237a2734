"""train: the tree of the configuration, and a machine's own settings."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, SMALL, story

from llm_from_scratch.check import check
from llm_from_scratch.commands import train
from llm_from_scratch.config import Config
from llm_from_scratch.front.program import command, composed
from llm_from_scratch.saved_config import read_run
from llm_from_scratch.terminal import console


def test_the_configuration_as_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    values: dict[str, Any] = {
        "run_dir": "run[red]",
        "model": {"n_layer": 3},
        "sample": {"prompt": "a\x1b[2J"},
        "logger": {"csv": {"name": "b"}},
    }
    console(stderr=True, width=200).print(train.tree(check(values, Config)))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "run[red]"
    assert "├── seed: 1337" in lines
    assert "│   ├── n_layer: 3" in lines
    assert "│   ├── prompt: a\\x1b[2J" in lines
    assert "│   ├── tie_weights: true" in lines
    assert "│   └── csv" in lines
    assert "└── callbacks: {}" in lines


def with_local(folder: Path, content: str) -> Path:
    """The configurations of the project, and a machine's own settings."""
    shutil.copytree(REPO / "configs", folder, ignore=shutil.ignore_patterns("local"))
    (folder / "local").mkdir()
    (folder / "local/default.yaml").write_text(f"# @package _global_\n{content}", encoding="utf-8")
    return folder


def test_a_machines_own_settings_stand_over_recipes_and_below_the_command_line(tmp_path: Path) -> None:
    configs = with_local(tmp_path / "configs", "data: {dir: /scratch}\ntrainer: {threads: 3}\n")
    config = check(composed(configs, "train", ["experiment=oz_demo"]), Config)
    assert (config.data.dir, config.trainer.threads) == ("/scratch", 3)
    config = check(composed(configs, "train", ["trainer.threads=2"]), Config)
    assert (config.data.dir, config.trainer.threads) == ("/scratch", 2)


def test_a_run_of_a_machine_with_settings_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = with_local(tmp_path / "configs", "seed: 7\nsample: {max_new_tokens: 0}\n")
    (tmp_path / "story.txt").write_text(story(20_000), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = [*SMALL[:-1], "trainer.max_steps=1", "run_dir=run", "print_config=true"]
    monkeypatch.setattr("sys.argv", [str(REPO / "train.py"), *words])
    command(configs, "train", train.check)(train.one_run)()
    assert "├── seed: 7\n" in capsys.readouterr().err
    saved = read_run(Path("run"))
    assert (saved["seed"], saved["sample"]["max_new_tokens"]) == (7, 0)
    # A later change of that file does not change the run.
    (configs / "local/default.yaml").write_text("# @package _global_\nseed: 8\n", encoding="utf-8")
    assert composed(configs, "train", ["resume=run"]).seed == 7
    (configs / "local/default.yaml").write_text("# @package _global_\nsead: 8\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", [str(REPO / "train.py"), *words])
    with pytest.raises(SystemExit):
        command(configs, "train", train.check)(train.one_run)()
    assert capsys.readouterr().err == "error: sead: there is no such setting; did you mean seed?\n"
