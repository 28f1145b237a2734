"""A trace holds what hooks on the plain model see, and leaves the model as it was."""

from typing import Any

import pytest
import torch
from small_models import KINDS, make
from torch import Tensor

from llm_from_scratch.decoding_linears import lay_out
from llm_from_scratch.errors import MachineError, UserError
from llm_from_scratch.explain.trace import Stage, trace

IDS = [4, 9, 1, 9, 30, 2]


def hooked(model: torch.nn.Module, ids: list[int]) -> tuple[dict[str, list[tuple[Tensor, Tensor]]], Tensor]:
    """The first input and the output of every module, by name, in the order of the calls."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    handles = []
    for name, module in model.named_modules():

        def keep(_: Any, given: Any, out: Tensor, name: str = name) -> None:
            seen.setdefault(name, []).append((given[0], out))

        handles.append(module.register_forward_hook(keep))
    with torch.inference_mode():
        logits = model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return seen, logits


def is_of(stage: Stage, tensor: Tensor) -> bool:
    numbers = tensor[0].double()
    close = [stage.mean, stage.deviation] == pytest.approx(
        [float(numbers.mean()), float(numbers.std(correction=0))], rel=1e-4, abs=1e-6
    )
    return close and stage.shape == tuple(tensor.shape[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_is_what_hooks_see(kind: str) -> None:
    model = make(kind)
    found, (seen, logits) = trace(model, IDS), hooked(model, IDS)
    assert torch.equal(found.logits, logits[0])
    assert sum(stage.parameters for stage in found.stages) == model.num_parameters()
    post = model.config.norm_position == "post"
    names = {
        "attention_norm": "attention norm",
        "attention.qkv": "q, k, v",
        "attention.out": "attention output",
        "feed_forward_norm": "feed-forward norm",
        "feed_forward.up": "inner layer",
        "feed_forward.out": "feed-forward out",
    }
    calls = dict.fromkeys(seen, 0)
    for layer in range(model.config.n_layer):
        block = f"blocks.{layer % len(model.blocks)}"
        inside = {stage.tensor: stage for stage in found.stages if stage.place == f"block {layer + 1}"}
        number = calls[block]
        calls[block] += 1
        for module, tensor in names.items():
            assert is_of(inside[tensor], seen[f"{block}.{module}"][number][1]), (layer, module)
        assert is_of(inside["mixed values"], seen[f"{block}.attention.out"][number][0])
        assert is_of(inside["activation"], seen[f"{block}.feed_forward.out"][number][0])
        out = seen[block][number][1]
        assert torch.equal(found.residual[layer + 1], out[0])
        assert is_of(inside["feed-forward norm" if post else "residual stream"], out)
        assert inside["weights"].shape == (model.config.n_head, 6, 6)
        assert inside["weights"].mean == pytest.approx(1 / 6)  # each row adds up to 1
        assert inside["queries"].shape == (model.config.n_head, 6, model.config.head_dim)
        assert inside["keys"].shape == (model.config.kv_heads, 6, model.config.head_dim)
    assert torch.equal(found.residual[0], seen["dropout"][0][1][0])
    assert is_of(found.stages[-1], logits)
    assert found.stages[0] == Stage("text", "ids", (6,), None, None, 0)


def test_by_hand() -> None:
    model = make("modern")
    vectors = model.token_embedding.weight[IDS].detach().double()
    stage = trace(model, IDS).stages[1]
    assert (stage.place, stage.tensor, stage.shape) == ("embedding", "token vectors", (6, 32))
    mean = float(vectors.sum()) / vectors.numel()
    assert stage.mean == pytest.approx(mean)
    assert stage.deviation == pytest.approx(float(((vectors - mean) ** 2).mean()) ** 0.5)
    assert stage.parameters == 61 * 32


def test_a_model_in_training_stays_as_it_is() -> None:
    model = make("modern", dropout=0.5).train()
    state = torch.get_rng_state()
    first, second = trace(model, IDS), trace(model, IDS)
    assert torch.equal(first.logits, second.logits)  # without dropout
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(first.logits, model.eval()(torch.tensor([IDS]))[0])


def test_a_compiled_model_and_one_laid_out_for_decoding() -> None:
    model = make("modern")
    plain = trace(model, IDS)
    model.compile(backend="eager")
    assert torch.equal(trace(model, IDS).logits, plain.logits)
    laid_out = make("modern")
    lay_out(laid_out)
    found = trace(laid_out, IDS)
    assert torch.allclose(found.logits, plain.logits, atol=1e-5)
    assert [stage.shape for stage in found.stages] == [stage.shape for stage in plain.stages]


def test_what_cannot_be_read() -> None:
    with pytest.raises(UserError, match="17 tokens exceeds"):
        trace(make("gpt2"), [1] * 17)
    model = make("gpt2")
    with torch.no_grad():
        model.get_parameter("blocks.0.feed_forward.out.weight")[0, 0] = torch.nan
    with pytest.raises(MachineError, match="computes NaN"):
        trace(model, IDS)
