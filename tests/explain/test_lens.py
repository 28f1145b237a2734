"""The logit lens and the surprise, against the model's own output and plain formulas."""

import math

import pytest
import torch
from small_models import KINDS, make

from llm_from_scratch.explain.lens import expectations, lens
from llm_from_scratch.explain.neighbours import neighbours
from llm_from_scratch.explain.trace import trace

IDS = [4, 9, 1, 9, 30, 2]


def test_expectations_by_hand() -> None:
    p = torch.tensor([[0.125, 0.5, 0.125, 0.25], [0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    found = expectations(p.log() + 2, [0, 3, 1], top=2)
    assert found.ids[0].tolist() == [1, 3]
    assert found.p[0].tolist() == pytest.approx([0.5, 0.25])
    assert found.entropy.tolist() == pytest.approx([1.75, 2.0, 0.0])
    assert found.surprise.tolist() == pytest.approx([2.0, 2.0])  # 3 had 1/4, then 1 had 1/4
    assert expectations(p.log(), [0, 3, 1], top=9).ids.shape == (3, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_readings_are_of_the_plain_model(kind: str) -> None:
    model = make(kind)
    streams: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda _, __, out: streams.append(out[0])) for block in model.blocks]
    with torch.inference_mode():
        logits = model(torch.tensor([IDS]))[0]
        for handle in handles:
            handle.remove()
        found = lens(model, trace(model, IDS).residual, IDS, top=3)
        assert len(found) == model.config.n_layer + 1
        for reading, stream in zip(found[1:], streams, strict=True):
            p = model.logits(model.norm(stream)).double().softmax(-1)
            assert reading.ids.tolist() == p.topk(3).indices.tolist()
            assert reading.p.flatten().tolist() == pytest.approx(p.topk(3).values.flatten().tolist(), rel=1e-4)
            assert reading.entropy.tolist() == pytest.approx([-float((row * row.log2()).sum()) for row in p], rel=1e-3)
            bits = [-math.log2(float(p[place, after])) for place, after in enumerate(IDS[1:])]
            assert reading.surprise.tolist() == pytest.approx(bits, rel=1e-3)
    last = logits.double().softmax(-1)
    assert found[-1].p.flatten().tolist() == pytest.approx(last.topk(3).values.flatten().tolist(), rel=1e-4)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("modern")
    seen = trace(model, IDS)
    whole = lens(model, seen.residual, IDS, top=3)
    monkeypatch.setattr("llm_from_scratch.explain.lens.LOGITS", 100)  # a position at a time
    for one, other in zip(whole, lens(model, seen.residual, IDS, top=3), strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.allclose(one.surprise, other.surprise, atol=1e-5)


def test_neighbours_by_hand() -> None:
    model = make("modern", vocab_size=5)
    with torch.no_grad():
        model.token_embedding.weight.zero_()
        model.token_embedding.weight[0, 0] = 2
        model.token_embedding.weight[1, :2] = torch.tensor([3.0, 3.0])  # 45 degrees
        model.token_embedding.weight[2, 1] = 1  # a right angle
        model.token_embedding.weight[3, 0] = -1  # the other way
        model.token_embedding.weight[4, :2] = torch.tensor([10.0, 0.0])  # the same way
    (near,) = neighbours(model, [0], 9)
    assert [one for one, _ in near] == [4, 1, 2, 3]
    assert [cosine for _, cosine in near] == pytest.approx([1, math.sqrt(0.5), 0, -1], abs=1e-6)
    assert [len(rows) for rows in neighbours(model, [1, 2], 2)] == [2, 2]
