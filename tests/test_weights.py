"""The model folder of a run: all that using a model needs, refused where it is damaged or a
stranger's.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import small_model

from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.run import remove_leftovers
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.weights import load_model, model_metadata, save_model


@pytest.mark.parametrize("shared", [{"tie_weights": True}, {"tie_weights": False}, {"n_unique_layer": 1}])
def test_a_model_folder_is_all_that_using_it_needs(tmp_path: Path, shared: dict[str, object]) -> None:
    tokenizer = CharTokenizer("abc")
    model = GPT(
        GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=2, n_embd=16, n_head=2, block_size=8, **shared)
    ).eval()  # type: ignore[arg-type]
    save_model(dict(model.named_parameters()), model.config, tokenizer, tmp_path, step=5, loss=1.5)
    run = load_model(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(run.model(ids), model(ids))
    assert (run.step, run.loss, run.tokenizer.decode([1, 2])) == (5, 1.5, "ab")
    weights = load_file(tmp_path / "model/model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == model.num_parameters()

    path = tmp_path / "model/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="bytes have changed"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"), [("10000.0", "20000.0"), ("1e-06", "2e-06"), ('"step": 5', '"step": 4'), ("1.5", "1.4")]
)
def test_every_setting_of_a_model_is_covered(tmp_path: Path, old: str, new: str) -> None:
    small_model(tmp_path / "run", step=5)
    path = tmp_path / "run/model/config.json"
    good = path.read_text(encoding="utf-8")
    assert old in good
    path.write_text(good.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"config.json: missing or damaged .*bytes have changed"):
        load_model(tmp_path / "run")


def test_a_model_that_is_older_than_a_setting_has_its_default(tmp_path: Path) -> None:
    small_model(tmp_path / "run", step=5)
    path = tmp_path / "run/model/config.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    del facts["config_sha256"], facts["tokenizer"], facts["model"]["n_unique_layer"]
    path.write_text(json.dumps(facts), encoding="utf-8")
    assert load_model(tmp_path / "run").model.config.n_unique_layer is None
    facts["model"]["n_unique_player"] = 1
    path.write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"config.json: 'n_unique_player' is no setting of a model of this version: use .*$"
    ):
        load_model(tmp_path / "run")


def test_a_model_that_was_moved_aside_gets_its_name_back(tmp_path: Path) -> None:
    small_model(tmp_path / "run", step=5)
    (tmp_path / "run/model").rename(tmp_path / "run/.old-model")
    assert model_metadata(tmp_path / "run")["step"] == 5
    remove_leftovers(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model"]


def test_layers_that_share_their_weights_are_bounded(tmp_path: Path) -> None:
    """A folder of 108 KB, whose forward pass took minutes."""
    small_model(tmp_path / "run", step=5, n_layer=4, n_unique_layer=1)
    path = tmp_path / "run/model/config.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    del facts["config_sha256"]
    for name, value, problem in (
        ("n_layer", 100_000, "layers that share"),
        ("block_size", 2**23, "layers and positions"),
    ):
        changed = facts | {"model": facts["model"] | {name: value}}
        path.write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ValueError, match=f"damaged .*{problem}"):
            load_model(tmp_path / "run")
