"""The composed configuration: a file of the user's that cannot be read, or a value that does not
resolve, is one line.
"""

import shutil
from pathlib import Path

import pytest
from conftest import REPO

from llm_from_scratch.check import check
from llm_from_scratch.config import Config
from llm_from_scratch.errors import UserError
from llm_from_scratch.front.compose import model_presets
from llm_from_scratch.front.program import composed


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """The configurations of the project, to add files to."""
    shutil.copytree(REPO / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("local"))
    (tmp_path / "configs/local").mkdir()
    return tmp_path / "configs"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"seed: [", r"the configuration cannot be read: .*local/default\.yaml"),
        (b"seed: \xff", "the configuration cannot be read: 'utf-8' codec can't decode"),
        (b"3", "the configuration cannot be read: Invalid loaded object type: int"),
        (b"defaults: 3", "the configuration cannot be read: Invalid defaults list in 'local/default'"),
        (b"- a", r"In 'local/default': ConfigTypeError .* Cannot merge DictConfig with ListConfig"),
        (b"optim: {lr: '${nope}'}", r"optim\.lr: Interpolation key 'nope' not found"),
        (b"seed: ${seed}", "seed: Recursive interpolation detected"),
        (b"hydra: {mode: '${nope}'}", "Interpolation key 'nope' not found full_key: hydra.mode"),
        (b"model: 3", "model: Merge error: int is not a subclass of ModelConfig"),
        (b"callbacks: 3", "callbacks: Cannot assign int"),
        (b"data: {corpora: {a: 3}}", r"data\.corpora=.*: must be names, each with its settings"),
    ],
)
def test_a_file_of_the_users_own_that_is_wrong_costs_one_line(configs: Path, content: bytes, line: str) -> None:
    (configs / "local/default.yaml").write_bytes(b"# @package _global_\n" + content + b"\n")
    with pytest.raises(UserError, match=f"^{line}") as error:
        check(composed(configs, "train", []), Config)
    assert "\n" not in str(error.value)


def test_an_interpolation_takes_the_value_of_another_setting(configs: Path) -> None:
    words = ["model.n_layer=3", "data.batch_size=${model.n_layer}"]
    assert check(composed(configs, "train", words), Config).data.batch_size == 3


def test_a_machines_own_settings_are_no_part_of_the_presets(configs: Path) -> None:
    before = model_presets(configs)
    assert before["gpt2-medium"].model.n_layer == 24
    assert before["gpt2-medium"].model.position == "learned"
    (configs / "local/default.yaml").write_text("# @package _global_\nmodel: {n_layer: 9}\n", encoding="utf-8")
    assert composed(configs, "train", []).model.n_layer == 9
    assert model_presets(configs) == before
