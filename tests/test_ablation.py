"""The ablation of chapter 14: each step changes one thing, and its table says what was run."""

import math
import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from types import ModuleType

import hydra
import pytest
from conftest import REPO
from omegaconf import OmegaConf

import llm_from_scratch.front.compose  # noqa: F401  (registers the resolvers)
from llm_from_scratch.check import check, plain
from llm_from_scratch.config import Config, leaves
from llm_from_scratch.errors import UserError

FIGURES = REPO / "docs/course/figures"
# What a step changes beside its learning rate and its number of steps
CHANGED = [
    {"model.n_head"},
    {"model.n_layer"},
    {"model.norm_position"},
    {"model.activation"},
    {"model.position"},
    {"model.norm", "model.norm_eps"},
    {"model.activation"},
    {"model.qk_norm"},
    {"model.tie_weights"},
    {"model.bias"},
    {"optim.name"},
]
OWN = {"optim.lr", "trainer.max_steps", "trainer.val_check_interval"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    pytest.importorskip("matplotlib")
    sys.path.insert(0, str(FIGURES))
    try:
        spec = spec_from_file_location("modern", FIGURES / "14_modern.py")
        assert spec
        assert spec.loader
        module = module_from_spec(spec)
        sys.modules["modern"] = module  # dataclasses look it up
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FIGURES))
    return module


@pytest.mark.parametrize("text", ["oz", "tales"])
def test_each_step_changes_one_thing(script: ModuleType, text: str) -> None:
    composed = []
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(REPO / "configs")):
        for name in script.NAMES:
            config = hydra.compose("train", [f"data={text}", f"experiment=ablation/{name}"])
            OmegaConf.set_struct(config, False)
            config.run_dir = "RUN"
            composed.append(dict(leaves(check(config, Config))))
    found = [{key for key in after if before.get(key) != after[key]} - OWN for before, after in pairwise(composed)]
    assert found == CHANGED


def test_a_text_without_settings_is_refused_by_the_resolvers_own_line() -> None:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(REPO / "configs")):
        config = hydra.compose("train", ["data=shakespeare", "experiment=ablation/00_article"])
    said = "model.block_size: this experiment has settings for oz, tales alone, not for shakespeare"
    with pytest.raises(UserError, match=f"^{said}$"):
        plain(config)


def test_the_sweeps_have_all_models(script: ModuleType) -> None:
    for name in ("ablation", "ablation_lr"):
        sweeper = OmegaConf.load(REPO / f"configs/sweep/{name}.yaml").hydra.sweeper
        assert sweeper.params.experiment.split(",") == [f"ablation/{model}" for model in script.NAMES]
        assert sweeper.n_trials == math.prod(len(str(values).split(",")) for values in sweeper.params.values())


def runs(script: ModuleType, steps: int | None = None) -> list:
    return [
        script.Run(
            text=text,
            model=model,
            seed=seed,
            bits_per_byte=2.0 - 0.01 * place + 0.004 * (seed - 2),
            steps=steps or script.planned_steps(model, text),
            seconds=90.0,
            parameters=1000,
            lr=1e-3,
        )
        for text in script.TEXTS
        for place, model in enumerate(script.NAMES)
        for seed in (1, 2, 3)
    ]


def test_intervals_pool_the_seeds(script: ModuleType) -> None:
    made = runs(script)
    deviation, freedom = script.spread(made, "oz")
    assert (round(deviation, 9), freedom) == (0.004, 24)  # of 1.996, 2.0, 2.004, for each model
    mean = script.mean(made, "oz", "00_article")
    assert mean.value == pytest.approx(2.0)
    assert mean.half == pytest.approx(2.064 * 0.004 / math.sqrt(3))
    gain = script.gain(made, "oz", "00_article", "01_heads")
    assert gain.value == pytest.approx(0.01)
    assert gain.half == pytest.approx(mean.half * math.sqrt(2))


def test_the_table_says_where_a_run_was_reduced(script: ModuleType) -> None:
    whole = script.table(runs(script), "COMMAND")
    assert "reduced" not in whole
    assert "`COMMAND`" in whole
    assert whole.count("\n| ") == 2 + len(script.NAMES)
    assert "+0.0100 ± 0.0067" in whole
    assert "A reduced run" in script.table(runs(script, steps=5), "COMMAND")
    one = script.table([run for run in runs(script) if run.seed == 1], "COMMAND")
    assert "1 seed." in one
    assert "±" not in one


def test_steps_and_rates_are_written_into_the_files(
    script: ModuleType, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in script.NAMES:
        (tmp_path / f"{name}.yaml").write_text((script.STEPS / f"{name}.yaml").read_text())
    monkeypatch.setattr(script, "STEPS", tmp_path)
    script._write_values("11_muon", "max_steps", {"oz": "77", "tales": "88"})
    script._write_values("11_muon", "lr", {"oz": "1.0e-3", "tales": "2.0e-2"})
    assert script.planned_steps("11_muon", "tales") == 88
    assert "name: muon" in (tmp_path / "11_muon.yaml").read_text()
    assert OmegaConf.load(tmp_path / "11_muon.yaml")._get_node("optim") is not None
