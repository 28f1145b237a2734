"""Both layouts of linear layers: split between threads, with the same products; in 8 bits, with exact sums."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llm_from_scratch.decoding_linears import Int8Linear, SplitLinear, lay_out
from llm_from_scratch.errors import UserError
from llm_from_scratch.model import GPT, GPTConfig, KVCache

BLOCK = 8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(**changes: Any) -> GPT:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "block_size": BLOCK, "n_layer": 2, "n_head": 4, "n_embd": 32, "init_std": 0.5}
    return GPT(GPTConfig(**(sizes | changes))).eval()


# 3 divides neither the vocabulary of 40 nor the width
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "changes", [{}, {"tie_weights": False, "bias": True, "norm": "layernorm", "activation": "gelu"}]
)
def test_the_layout_for_decoding_changes_no_logits(
    threads: int, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = make(**changes), torch.randint(40, (2, BLOCK), generator=generator())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(generator=generator())
    expected, count = model(ids), sum(isinstance(module, nn.Linear) for module in model.blocks.modules())
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    lay_out(model)
    split = [module for module in model.modules() if isinstance(module, SplitLinear)]
    assert len(split) == count + 1  # the head's too
    assert all(len(module.weight) == threads for module in split)
    torch.testing.assert_close(model(ids), expected)
    cache = KVCache(model.config, 1, model.config.block_size)
    steps = [model(ids[:1, t : t + 1], cache) for t in range(BLOCK)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected[:1])


def test_each_matrix_is_freed_as_it_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a model of 538 MB took 285 MB more."""
    model = GPT(GPTConfig(vocab_size=5, n_layer=3, n_embd=16, n_head=2, block_size=8))
    matrices = [weakref.ref(one) for one in model.blocks.modules() if isinstance(one, nn.Linear)]
    alive = []

    def watched(weight: torch.Tensor, bias: torch.Tensor | None, parts: int) -> SplitLinear:
        alive.append(sum(one() is not None for one in matrices))
        return SplitLinear(weight, bias, parts)

    monkeypatch.setattr("llm_from_scratch.decoding_linears.SplitLinear", watched)
    lay_out(model)
    assert alive[:2] == [12, 12]  # the head, the first matrix of a block
    assert alive[-1] <= 2


@pytest.mark.parametrize("levels", [127, 63])
def test_eight_bits_are_rounded_by_output_and_by_row(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vnni = torch.cpu._is_vnni_supported()
    if levels == 127 and not vnni:
        pytest.skip("this processor adds products of 8 bits in 16 bits")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: levels == 127)
    weight, bias = torch.randn(5, 24, generator=generator()), torch.randn(5, generator=generator(1))
    x = torch.randn(2, 3, 24, generator=generator(2)) * torch.tensor([0.01, 1, 100])[:, None]
    x[1, 1, 7] *= 40  # an outlier
    weight[0], x[0, 0] = 0, 0
    scale, unit = weight.abs().amax(1) / levels, x.abs().amax(-1, keepdim=True) / 127
    weights = torch.nan_to_num(weight / scale[:, None]).round().double()
    first = torch.nan_to_num(x / unit).round()
    second = torch.nan_to_num((x / unit - first) * 254).round()
    inputs = (first.double() + second.double() / 254) * unit
    expected = (inputs @ weights.T * scale.double() + bias).float()
    found = Int8Linear(weight, bias)(x)
    torch.testing.assert_close(found, expected)
    # The outlier takes nothing from the inputs beside it.
    exact = nn.functional.linear(x, (weights * scale[:, None]).float(), bias)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3 * float(x[1, 1].abs().median()))
    without = Int8Linear(weight, None)
    torch.testing.assert_close(without(x), expected - bias)
    assert all(torch.equal(without(row), without(x)[i, j]) for i, rows in enumerate(x) for j, row in enumerate(rows))


@pytest.mark.parametrize("changes", [{}, {"tie_weights": False, "bias": True, "norm": "layernorm", "n_kv_head": 2}])
def test_a_model_in_eight_bits_is_near_the_exact_one(changes: dict[str, Any]) -> None:
    model, ids = make(**changes), torch.randint(40, (5, BLOCK), generator=generator())
    exact = model(ids)
    lay_out(model, "int8")
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 1 + 4 * 2
    together = model(ids)
    torch.testing.assert_close(torch.cat([model(row[None]) for row in ids]), together, rtol=0.02, atol=0.05)
    error = (together - exact).norm() / exact.norm()
    assert 0 < error < 0.03
    cache = KVCache(model.config, 5, BLOCK)
    steps = torch.cat([model(ids[:, t : t + 1], cache) for t in range(BLOCK)], dim=1)
    torch.testing.assert_close(steps, together, rtol=0.02, atol=0.05)


def test_eight_bits_are_refused_where_they_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"dtype=int8: is for a CPU.*use device=cpu"):
        lay_out(make().to("meta"), "int8")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = make()
    with pytest.raises(UserError, match="no oneDNN: use dtype=float32"):
        lay_out(model, "int8")
    assert type(model.blocks[0].attention.qkv) is nn.Linear


@pytest.mark.slow
def test_eight_bits_cost_a_published_model_less_than_a_hundredth(corpora: Path) -> None:
    from smollm2 import path

    from llm_from_scratch.pretrained import find_model

    path()
    loaded = find_model("smollm2").open(torch.device("cpu"))
    text = (corpora / "oz/wizard_of_oz.txt").read_text(encoding="utf-8")[60_000:66_000]
    ids = torch.tensor([loaded.tokenizer.encode(text)])
    losses = []
    for dtype in ("float32", "int8"):
        lay_out(loaded.model, dtype, few_rows=False)
        with torch.inference_mode():
            losses.append(float(nn.functional.cross_entropy(loaded.model(ids[:, :-1])[0], ids[0, 1:])))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert losses[1] != losses[0]
