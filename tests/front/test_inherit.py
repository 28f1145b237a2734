"""What a run brings: a config.yaml of a stranger's, of whatever shape, is one line."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_from_scratch.check import check
from llm_from_scratch.config import Config
from llm_from_scratch.errors import UserError
from llm_from_scratch.front.program import composed
from llm_from_scratch.places import config_dir
from llm_from_scratch.saved_config import save_config


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        *(({"model": value}, "model has no settings") for value in (3, None, [1])),
        *(({"trainer": {"extra": value}}, r"trainer\.extra: ") for value in (3, None, [], [1])),
        *(({"callbacks": value}, "callbacks: ") for value in (True, None, [1])),
        *(({"logger": value}, "logger[=:]") for value in ("x", [3], {"wandb": [1]}, {"csv": "x"})),
        ({"optim": {"custom": 3}}, r"optim\.custom: "),
        ({"model": {"n_layer": {"a": 1}}}, r"model\.n_layer"),
    ],
)
def test_settings_of_a_wrong_shape_cost_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    saved = asdict(Config()) | settings
    Path("run/config.yaml").write_text(yaml.safe_dump(saved), encoding="utf-8")
    with pytest.raises(UserError, match=f"^run/config.yaml: {line}") as error:
        composed(config_dir(), "train", ["resume=run"])
    assert "\n" not in str(error.value)


def test_a_class_that_is_no_name_is_a_strangers(tmp_path: Path) -> None:
    save_config(check({"run_dir": str(tmp_path), "logger": {"x": {"_target_": [1]}}}, Config), tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"logger\.x: a run folder may be a stranger's, and this would run \[1\]"):
        composed(config_dir(), "train", [f"resume={tmp_path}"])


def test_weights_that_are_not_there_are_noticed_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^init_from=typo\.pt: cannot be read \(No such file or directory\)"):
        composed(config_dir(), "train", ["init_from=typo.pt"])
