"""Sweeps: which of the values of a text or a path are several."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import DictConfig

from llm_from_scratch.front.program import command
from llm_from_scratch.places import config_dir


@pytest.mark.parametrize("sweep", [["sweep=lr"], ["-m"], ["-m", "sweep=lr"]])
def test_a_choice_of_texts_is_several_values_in_every_kind_of_sweep(
    sweep: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = []

    def check(config: DictConfig, job: Sequence[str]) -> None:
        checked.append(config.sample.prompt)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", *sweep, "sample.prompt=choice(a,Oh well)"])
    monkeypatch.setattr("llm_from_scratch.front.program.hydra.main", lambda **_: lambda job: lambda: None)
    command(config_dir(), "train", check)(lambda config: None)()
    assert checked == ["a", "Oh well"]
    assert capsys.readouterr().err == ""
