"""Attention weights against the formula, written out from a model's parameters, and transformers."""

import math
import threading
from typing import Any

import pytest
import torch
from small_models import V, make, twin_of
from torch import Tensor

from llm_from_scratch.decoding_linears import lay_out
from llm_from_scratch.errors import UserError
from llm_from_scratch.explain.attention import read_layers, weights
from llm_from_scratch.model import GPT

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("article", {}),
    ("article", {"n_head": 4, "bias": False}),
    ("gpt2", {}),
    ("gpt2", {"norm_position": "post", "n_unique_layer": 1, "n_layer": 3}),
    ("modern", {}),  # rotary positions, two queries a key, norms of both: Qwen3's shape
    ("modern", {"head_size": 12, "qk_norm": False, "qkv_bias": True, "rope_base": 500.0}),
    ("modern", {"n_kv_head": 1, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("modern", {"n_kv_head": 4, "position": "learned", "norm_position": "post"}),
]


def normed(norm: Any, x: Tensor, eps: float, rms: bool) -> Tensor:
    """An RMSNorm or a LayerNorm from its definition."""
    centred = x if rms else x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    bias = getattr(norm, "bias", None)
    return scaled * norm.weight + (0 if bias is None else bias)


def turned(x: Tensor, base: float, factor: float) -> Tensor:
    """Rotary positions (H, T, D) as complex numbers: channels i and i + D/2 turn by t base^(-2i/D)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] / factor * base ** (-torch.arange(half) / half)
    pairs = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((pairs.real, pairs.imag), dim=-1)


def by_hand(model: GPT, ids: list[int]) -> list[Tensor]:
    """The weights (H, T, T) of every layer, in float64."""
    model, config = model.double(), model.config
    rms = config.norm == "rmsnorm"
    time, size, heads, groups = len(ids), config.head_dim, config.n_head, config.kv_heads

    def norm(of: Any, x: Tensor) -> Tensor:
        return normed(of, x, config.norm_eps, rms)

    x = model.token_embedding.weight[ids]
    if config.position == "learned":
        x = x + model.position_embedding.weight[:time]
    if config.position == "sinusoidal":
        for t in range(time):
            for c in range(config.n_embd):
                angle = t / 10_000 ** ((c - c % 2) / config.n_embd)
                x[t, c] += math.cos(angle) if c % 2 else math.sin(angle)
    found = []
    for place in range(config.n_layer):
        block: Any = model.blocks[place % len(model.blocks)]
        attention = block.attention
        read = x if config.norm_position == "post" else norm(block.attention_norm, x)
        qkv = (read @ attention.qkv.weight.T) + (0 if attention.qkv.bias is None else attention.qkv.bias)
        q, k, v = (
            part.reshape(time, -1, size).transpose(0, 1)
            for part in qkv.split([heads * size, groups * size, groups * size], dim=1)
        )
        if config.qk_norm:
            q, k = norm(attention.q_norm, q), norm(attention.k_norm, k)
        if config.position == "rotary":
            factor = (config.rope_scaling or {}).get("factor", 1.0)
            q, k = turned(q, config.rope_base, factor), turned(k, config.rope_base, factor)
        layer = torch.zeros(heads, time, time, dtype=torch.float64)
        outputs = []
        for head in range(heads):
            group = head * groups // heads
            for t in range(time):
                scores = torch.stack([q[head, t] @ k[group, s] / size**0.5 for s in range(t + 1)])
                layer[head, t, : t + 1] = scores.exp() / scores.exp().sum()
            outputs.append(layer[head] @ v[group])
        found.append(layer)
        y = attention.out(torch.cat(outputs, dim=-1))
        if config.norm_position == "post":
            x = norm(block.attention_norm, x + y)
            x = norm(block.feed_forward_norm, x + block.feed_forward(x))
        else:
            x = x + y
            x = x + block.feed_forward(norm(block.feed_forward_norm, x))
    return found


@pytest.mark.parametrize(("kind", "changes"), KINDS)
@torch.no_grad()
def test_weights_are_those_of_the_formula(kind: str, changes: dict[str, Any]) -> None:
    model = make(kind, **changes)
    ids = torch.randint(V, (9,)).tolist()
    expected = by_hand(make(kind, **changes), ids)
    layers = read_layers(model, ids)
    lay_out(model)  # as the server does
    again = read_layers(model, ids)
    assert len(layers) == len(again) == len(expected) == model.config.n_layer
    for layer, other, correct in zip(layers, again, expected, strict=True):
        for head in range(model.config.n_head):
            torch.testing.assert_close(weights(layer, head).double(), correct[head], rtol=0, atol=1e-5)
        torch.testing.assert_close(weights(other, None).double(), correct.mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "qwen2", "llama3", "linear"])
def test_weights_are_those_of_transformers(kind: str) -> None:
    model = make(kind)
    twin: Any = twin_of(model)
    twin.set_attn_implementation("eager")
    ids = torch.randint(V, (16,))
    with torch.no_grad():
        theirs = twin(ids[None], output_attentions=True).attentions
    layers = read_layers(model, ids.tolist())
    for layer, (expected,) in zip(layers, theirs, strict=True):
        found = torch.stack([weights(layer, head) for head in range(model.config.n_head)])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_rows_are_distributions_over_the_past() -> None:
    model = make("modern")
    (first, _) = read_layers(model, [4, 9, 1])
    for head in (0, 3, None):
        found = weights(first, head)
        assert found[0].tolist() == [1, 0, 0]
        assert found[1, 2] == 0
        assert found.sum(dim=-1).tolist() == pytest.approx([1, 1, 1])
    assert weights(read_layers(model, [4])[0], 0).tolist() == [[1]]


def test_a_model_that_reads_document_by_document_looks_at_no_earlier_one() -> None:
    model = make("modern")
    model.eot_id = 7
    alone = weights(read_layers(model, [7, 3, 5])[1], 2)
    found = weights(read_layers(model, [1, 2, 7, 3, 5])[1], 2)
    assert found[2:, :2].count_nonzero() == 0
    torch.testing.assert_close(found[2:, 2:], alone)


def test_another_thread_is_not_recorded() -> None:
    """A server reads other texts with the same model meanwhile."""
    model, ids = make("modern"), [1, 2, 3]
    done = threading.Event()

    def others() -> None:
        while not done.is_set():
            with torch.inference_mode():
                model(torch.tensor([[4, 5, 6, 7]]))

    thread = threading.Thread(target=others)
    thread.start()
    try:
        found = [read_layers(model, ids) for _ in range(20)]
    finally:
        done.set()
        thread.join()
    assert {len(layers) for layers in found} == {2}
    assert all(torch.equal(one.queries, two.queries) for one, two in zip(found[0], found[-1], strict=True))


def test_a_text_longer_than_the_context_is_refused() -> None:
    with pytest.raises(UserError, match="17 tokens exceeds"):
        read_layers(make("gpt2"), [1] * 17)
