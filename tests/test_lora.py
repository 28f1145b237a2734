"""Adapters: what they compute, what of a model they train, and how they are merged."""

import pytest
import torch
from small_models import KINDS, V

from llm_from_scratch.config import LINEAR_LAYERS
from llm_from_scratch.errors import UserError
from llm_from_scratch.lora import (
    Adapter,
    LoRALinear,
    adapt,
    adapted_layers,
    kept_parameters,
    merge,
    merged_parameters,
    set_dropout_keys,
)
from llm_from_scratch.model import GPT, GPTConfig


def model_of(kind: str, **settings: object) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=V, n_embd=16, **({"n_head": 4, "block_size": 16} | KINDS[kind] | settings)))


def randomised(model: GPT) -> None:
    """B of a fresh adapter is zero: no test could tell it from none."""
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.3)


def test_a_layer_by_hand() -> None:
    base = torch.nn.Linear(2, 3)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        base.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    layer = LoRALinear(base, Adapter(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0], [-1.0]]), 0.5))
    # A x = 1 * 3 + 2 * 4 = 11; scale B A x = (5.5, 0, -5.5); W x + b = (4, 6, 10)
    assert layer(torch.tensor([3.0, 4.0])).tolist() == [9.5, 6.0, 4.5]
    assert layer.merged().weight.tolist() == [[1.5, 1.0], [0.0, 1.0], [0.5, 0.0]]
    assert layer.merged()(torch.tensor([3.0, 4.0])).tolist() == [9.5, 6.0, 4.5]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_is_the_model_and_a_merged_one_is_the_adapted(kind: str) -> None:
    model = model_of(kind).eval()
    names = [name for name, _ in model.named_parameters()]
    ids = torch.randint(V, (2, 16))
    before = model(ids)
    adapt(model, LINEAR_LAYERS, rank=3, alpha=6.0, p=0.0)
    assert torch.equal(model(ids), before)
    randomised(model)
    unmerged = model(ids)
    assert (unmerged - before).abs().max() > 0.1
    counted = merged_parameters(model)
    merge(model)
    assert counted == model.num_parameters()
    assert [name for name, _ in model.named_parameters()] == names
    torch.testing.assert_close(model(ids), unmerged, rtol=0, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_reach_the_adapters_alone(recompute: bool) -> None:
    model = model_of("modern")
    model.recompute = recompute
    adapt(model, ("attention.qkv", "blocks.1.feed_forward.*"), rank=2, alpha=2.0, p=0.0)
    randomised(model)
    ids = torch.randint(V, (2, 16))
    model.loss(ids, ids).backward()
    layers = [
        "blocks.0.attention.qkv",
        "blocks.1.attention.qkv",
        "blocks.1.feed_forward.up",
        "blocks.1.feed_forward.out",
    ]
    reached = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    assert reached == {f"{layer}.lora_{matrix}" for layer in layers for matrix in "AB"}
    assert set(kept_parameters(model)) == reached


def test_the_loss_in_chunks_has_the_same_gradient_with_a_frozen_head() -> None:
    """9 x 512 targets are more than one chunk of 2^18 / 61 rows."""
    model = model_of("modern", block_size=512)
    adapt(model, LINEAR_LAYERS, rank=2, alpha=2.0, p=0.0)
    randomised(model)
    ids = torch.randint(V, (9, 512))
    model.loss(ids, ids).backward()
    chunked = {name: one.grad.clone() for name, one in kept_parameters(model).items() if one.grad is not None}
    model.zero_grad()
    model.loss(ids, ids, reduction="none").mean().backward()
    for name, one in kept_parameters(model).items():
        torch.testing.assert_close(one.grad, chunked[name], rtol=1e-4, atol=1e-6)


def test_dropout_is_of_the_sequence_not_of_its_batch() -> None:
    model = model_of("modern").train()
    adapt(model, LINEAR_LAYERS, rank=4, alpha=8.0, p=0.5)
    randomised(model)
    ids, keys = torch.randint(V, (2, 16)), torch.tensor([5, 9])
    set_dropout_keys(model, keys)
    both = model(ids)
    set_dropout_keys(model, keys[1:])
    torch.testing.assert_close(model(ids[1:]), both[1:])
    set_dropout_keys(model, keys[:1])
    assert not torch.allclose(model(ids[1:]), both[1:], atol=1e-3)
    dropped = {layer.keys[0].item() for layer in adapted_layers(model).values() if layer.keys is not None}
    assert len(dropped) == len(adapted_layers(model))  # each layer has a stream of its own
    model.eval()
    assert torch.equal(model(ids[1:]), model(ids)[1:])


def test_a_target_that_names_no_layer_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^finetune\.targets: q_proj names no linear layer of a block: use attention\.qkv, "
    ):
        adapt(model_of("modern"), ("q_proj",), rank=2, alpha=2.0, p=0.0)
