"""What a run brings: a config.yaml of a stranger's, of whatever shape, is one line."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from gguf_models import random_model

from llm_from_scratch import registry
from llm_from_scratch.check import check
from llm_from_scratch.config import Config
from llm_from_scratch.errors import UserError
from llm_from_scratch.front.program import composed
from llm_from_scratch.gguf.write import export
from llm_from_scratch.places import config_dir
from llm_from_scratch.saved_config import save_config
from llm_from_scratch.tokenizer import CharTokenizer


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


def test_a_model_of_others_brings_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = random_model("llama, scaled", 4)
    export(model, CharTokenizer("abc"), tmp_path / "model.gguf", dtype="f32")

    def settings(*words: str) -> Config:
        return check(composed(config_dir(), "train", ["init_from=model.gguf", *words]), Config)

    own = asdict(model.config)
    del own["vocab_size"], own["init_std"], own["dropout"]
    found = settings()
    assert {name: getattr(found.model, name) for name in own} == own
    assert (found.tokenizer.kind, found.tokenizer.vocab_size, found.init_from) == ("char", None, "model.gguf")
    chosen = settings("model.block_size=16", "model.dropout=0.1").model
    assert (chosen.block_size, chosen.dropout, chosen.rope_scaling) == (16, 0.1, own["rope_scaling"])
    # The names of models are no paths.
    monkeypatch.setattr(registry, "find", lambda name: tmp_path / "model.gguf")
    smollm2 = check(composed(config_dir(), "train", ["init_from=smollm2"]), Config)
    assert (smollm2.init_from, smollm2.model.n_embd) == ("smollm2", 64)
