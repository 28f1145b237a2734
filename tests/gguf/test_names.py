"""Names and sizes, held against llama.cpp's tables and numbers worked out by hand."""

from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_models import LLAMA3, SETTINGS, random_model
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llm_from_scratch.config import ModelConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.gguf.names import (
    ARCHITECTURES,
    architecture_of,
    config_of,
    deinterleave,
    interleave,
    keys_of,
    parts,
    rope_factors,
)


def test_the_rows_of_rotary_pairs() -> None:
    """Two heads of four channels: rows 0 and 2, 1 and 3 are pairs here, 0 and 1, 2 and 3 there."""
    rows = np.arange(8.0)[:, None] * np.ones((1, 3))
    assert interleave(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert interleave(rows[:, 0], 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]  # of a bias
    assert np.array_equal(deinterleave(interleave(rows, 2), 2), rows)
    assert deinterleave(np.arange(6.0), 1).tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_tensor_is_one_of_llama_cpp(name: str) -> None:
    model = random_model(name, 10)
    architecture = architecture_of(model.config)
    assert architecture.name == name.split(",")[0]
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture.name)
    known = {gguf.TENSOR_NAMES[tensor].format(bid=layer) for tensor in gguf.MODEL_TENSORS[number] for layer in (0, 1)}
    table = parts(model, architecture)
    assert {part.name.rpartition(".")[0] for several in table.values() for part in several} <= known
    for parameter, several in table.items():  # the tensors of a parameter are all its rows
        ends = [0, *(part.stop for part in several)]
        assert [part.start for part in several] == ends[:-1]
        assert ends[-1] == len(model.get_parameter(parameter))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_keys_give_the_settings_back(name: str) -> None:
    model = random_model(name, 10, norm_eps=1e-6)
    config, architecture = model.config, architecture_of(model.config)
    keys = {
        key: float(np.float32(value)) if isinstance(value, float) else value
        for key, value in keys_of(config, architecture).items()
    }
    known = {
        value.replace("{arch}", architecture.name)
        for group in (gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope)
        for value in vars(group).values()
        if isinstance(value, str)
    }
    assert set(keys) <= known
    shapes = {
        part.name: (part.stop - part.start,) for several in parts(model, architecture).values() for part in several
    }
    shapes["token_embd.weight"] = (10, config.n_embd)
    found, _ = config_of({"general.architecture": architecture.name} | keys, shapes, rope_factors(config))
    assert found == config
    short, _ = config_of({"general.architecture": architecture.name} | keys, shapes, rope_factors(config), 16)
    assert short.block_size == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm_position": "post"}, "model.norm_position=post: llama.cpp has no architecture"),
        ({"position": "sinusoidal"}, "model.position=sinusoidal: llama.cpp has no architecture"),
        ({"activation": "relu2"}, "model.activation=relu2: .* needs activation=swiglu"),
        ({"norm": "layernorm"}, "model.norm=layernorm: .* needs norm=rmsnorm"),
        ({"bias": True}, "model.bias=true: .*qwen3, the nearest, needs bias=false"),
        ({"n_unique_layer": 1}, "model.n_unique_layer=1: layers of a GGUF file do not share"),
        ({"rope_scaling": LLAMA3}, "model.rope_scaling: llama.cpp's qwen3 has none"),
    ],
)
def test_a_model_without_architecture(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        architecture_of(ModelConfig(**settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "gelu_erf"}, "model.activation=gelu_erf: .*gpt2, the nearest, needs activation=gelu"),
        ({"n_kv_head": 2}, "model.n_kv_head=2: llama.cpp's gpt2"),
        ({"head_size": 8}, "model.head_size=8: llama.cpp's gpt2"),
        ({"bias": False}, "model.bias=false: .* needs bias=true"),
    ],
)
def test_a_relative_of_gpt2(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        architecture_of(random_model("gpt2", 10, **settings).config)


def test_the_factors_of_llama3_are_those_of_transformers() -> None:
    config = random_model("llama, scaled", 10).config
    rope = {"rope_theta": 500_000.0, **LLAMA3}
    twin = LlamaConfig(hidden_size=256, num_attention_heads=4, head_dim=64, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](twin, "cpu")
    plain = 1 / 500_000.0 ** (torch.arange(0, 64, 2) / 64)
    found = rope_factors(config)
    assert found is not None
    torch.testing.assert_close(plain / torch.from_numpy(found), scaled)


def test_factors_of_another_model_are_refused() -> None:
    config = random_model("llama, scaled", 10).config
    keys = {"general.architecture": "llama"} | keys_of(config, ARCHITECTURES["llama"])
    factors = rope_factors(config)
    assert factors is not None
    with pytest.raises(UserError, match="rope_freqs.weight: the factors are not those of Llama 3"):
        config_of(keys, {"token_embd.weight": (10, 64)}, factors + 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "gemma"}, "the architecture 'gemma' is none of llama, qwen2, qwen3, gpt2"),
        ({"general.architecture": 3}, "the architecture 3 is none"),
        ({"llama.block_count": None}, "the key llama.block_count is missing"),
        ({"llama.block_count": 0}, "llama.block_count=0: no whole number from 1"),
        ({"llama.block_count": 2.0}, "llama.block_count=2.0: no whole number"),
        ({"llama.attention.head_count_kv": [1, 2]}, r"llama.attention.head_count_kv=\[1, 2\]: no whole number"),
        ({"llama.attention.layer_norm_rms_epsilon": "x"}, "layer_norm_rms_epsilon='x': no number"),
        ({"llama.attention.layer_norm_rms_epsilon": 0.0}, "model.norm_eps=0.0 must be a finite number above 0"),
        ({"llama.rope.freq_base": float("inf")}, "model.rope_base=inf must be a finite number"),
        ({"llama.attention.value_length": 8}, "llama.attention.value_length=8: .* beside heads of 16"),
        ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count=8: .* beside heads of 16"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type='yarn': this package has linear alone"),
        ({"llama.expert_count": 8}, "llama.expert_count=8: this package has no model with it"),
        ({"llama.logit_scale": 0.5}, "llama.logit_scale=0.5: this package has no model with it"),
        ({"llama.embedding_length": 63}, r"token_embd.weight of shape \(10, 64\) has not 63 columns"),
        ({"llama.attention.head_count": 3}, "does not divide|has 3"),
    ],
)
def test_keys_of_another_model_are_refused(change: dict[str, Any], message: str) -> None:
    config = random_model("llama", 10).config
    keys: dict[str, Any] = {"general.architecture": "llama"} | keys_of(config, ARCHITECTURES["llama"]) | change
    keys = {key: value for key, value in keys.items() if value is not None}
    with pytest.raises(UserError, match=message) as error:
        config_of(keys, {"token_embd.weight": (10, 64)})
    assert "\n" not in str(error.value)


def test_a_context_beyond_the_models_is_refused() -> None:
    config = random_model("llama", 10).config
    keys = {"general.architecture": "llama"} | keys_of(config, ARCHITECTURES["llama"])
    with pytest.raises(UserError, match="block_size=257 exceeds the 256 positions of the model"):
        config_of(keys, {"token_embd.weight": (10, 64)}, block_size=257)
