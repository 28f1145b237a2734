"""Parameters and tensors: out and in again, and the lines about names and shapes that differ."""

from typing import Any

import pytest
import torch
from small_models import IMPORTED, make

from llm_from_scratch.errors import UserError
from llm_from_scratch.huggingface.tensors import from_weights, pairs, to_weights
from llm_from_scratch.model import GPT


def state(model: GPT) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [*IMPORTED, "article", "gpt2", "modern"])
def test_out_and_in_again_is_bit_identical(kind: str, tied: bool) -> None:
    model = make(kind, tie_weights=tied)
    own = state(model)
    back = from_weights(to_weights(own, model.config), model.config)
    assert list(back) == list(own)
    assert all(torch.equal(back[name], own[name]) for name in own)


def test_a_fused_matrix_is_split_by_rows_and_gpt2s_are_transposed() -> None:
    # 32 channels, 4 heads of 12 channels over 2 of keys and values
    model = make("qwen3")
    own, theirs = state(model), to_weights(state(model), model.config)
    assert theirs["model.layers.1.self_attn.k_proj.weight"].equal(own["blocks.1.attention.qkv.weight"][48:72])
    assert theirs["model.layers.0.mlp.up_proj.weight"].equal(own["blocks.0.feed_forward.up.weight"][128:])
    model = make("gpt2")
    own, theirs = state(model), to_weights(state(model), model.config)
    assert theirs["transformer.h.1.attn.c_attn.weight"].equal(own["blocks.1.attention.qkv.weight"].T)
    assert theirs["transformer.wpe.weight"].equal(own["position_embedding.weight"])
    assert [pair.ours for pair in pairs(model.config) if pair.transposed][:2] == [
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
    ]


def test_old_buffers_and_an_absent_prefix_are_understood() -> None:
    """The folder of openai-community/gpt2 has both."""
    model = make("gpt2")
    theirs = {name.removeprefix("transformer."): one for name, one in to_weights(state(model), model.config).items()}
    theirs |= {"h.0.attn.bias": torch.ones(1, 1, 16, 16), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    back = from_weights(theirs, model.config)
    assert all(torch.equal(back[name], one) for name, one in state(model).items())
    llama = make("llama3")
    old = to_weights(state(llama), llama.config) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    assert list(from_weights(old, llama.config)) == list(state(llama))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": None}, r"the tensor model.norm.weight is missing"),
        (
            {"model.norm.bias": torch.ones(32)},
            r"the tensor 'model.norm.bias' and 0 more are none of the config's model",
        ),
        (
            {"norm.weight": torch.ones(32)},
            r"the tensor 'model.norm.weight' is there twice, with and without its prefix",
        ),
        (
            {"model.norm.weight": torch.ones(31)},
            r"the tensor model.norm.weight has the shape \[31\] and the config \[32\]",
        ),
        (
            {"model.layers.2.mlp.up_proj.weight": torch.ones(1)},
            r"the tensor 'model.layers.2.mlp.up_proj.weight' and .*",
        ),
    ],
)
def test_other_tensors_than_the_configs_are_refused(change: dict[str, Any], message: str) -> None:
    model = make("llama3")
    theirs = {**to_weights(state(model), model.config), **change}
    with pytest.raises(UserError, match=f"^{message}$"):
        from_weights({name: one for name, one in theirs.items() if one is not None}, model.config)
