"""The distribution of the next token, worked out by hand, and against what `sample` draws."""

import math
from typing import Any

import pytest
import torch

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.explain.distribution import next_token, sampling_distribution
from llm_from_scratch.generation import draw_noise, sample

P = [0.125, 0.5, 0.125, 0.25]  # the model's
LOGITS = torch.tensor(P).log() + 3  # a constant changes nothing
PLAIN = {"temperature": 1.0}


@pytest.mark.parametrize(
    ("settings", "q"),
    [
        ({}, P),
        # p^2 = 1/64, 16/64, 1/64, 4/64
        ({"temperature": 0.5}, [1 / 22, 16 / 22, 1 / 22, 4 / 22]),
        ({"temperature": 0.0}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 2 / 3, 0, 1 / 3]),
        ({"top_k": 3}, P),  # two tokens are the third likeliest
        ({"top_p": 0.6}, [0, 2 / 3, 0, 1 / 3]),
        ({"top_p": 0.5}, [0, 1, 0, 0]),
        ({"min_p": 0.4}, [0, 2 / 3, 0, 1 / 3]),
        # the temperature comes first: 16/22 of the probability is one token's
        ({"temperature": 0.5, "top_p": 0.7}, [0, 1, 0, 0]),
        ({"temperature": 0.5, "top_k": 2}, [0, 0.8, 0, 0.2]),
    ],
)
def test_settings_change_the_distribution(settings: dict[str, Any], q: list[float]) -> None:
    found = sampling_distribution(LOGITS, [1, 1], SamplingConfig(**{**PLAIN, **settings}))
    assert found.tolist() == pytest.approx(q, abs=1e-6)
    described = next_token(LOGITS, [1], SamplingConfig(**{**PLAIN, **settings}), top=2)
    assert [one.id for one in described.top] == [1, 3]
    assert [one.p for one in described.top] == pytest.approx([0.5, 0.25])
    assert [one.q for one in described.top] == pytest.approx([q[1], q[3]], abs=1e-6)
    assert (described.rest_p, described.rest_q) == pytest.approx((0.25, q[0] + q[2]), abs=1e-6)
    assert described.kept == sum(one > 0 for one in q)
    assert described.entropy == pytest.approx(0.5 * 1 + 0.25 * 2 + 2 * 0.125 * 3)


def test_a_penalty_is_of_the_tokens_in_the_text() -> None:
    logits = torch.tensor([2.0, -1.0, 0.0, 1.0])
    found = sampling_distribution(logits, [0, 1, 0], SamplingConfig(temperature=1.0, repetition_penalty=2.0))
    expected = [math.exp(one) for one in (1.0, -2.0, 0.0, 1.0)]
    assert found.tolist() == pytest.approx([one / sum(expected) for one in expected])
    greedy = sampling_distribution(logits, [0], SamplingConfig(temperature=0.0, repetition_penalty=3.0))
    assert greedy.tolist() == [0, 0, 0, 1]


def test_what_has_no_probability_counts_nothing() -> None:
    found = next_token(torch.tensor([0.0, -math.inf]), [0], SamplingConfig(temperature=1.0), top=5)
    assert [(one.id, one.p, one.q) for one in found.top] == [(0, 1.0, 1.0), (1, 0.0, 0.0)]
    assert (found.rest_p, found.rest_q, found.kept, found.entropy) == (0, 0, 1, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7, "top_k": 5, "repetition_penalty": 1.5},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.1, "top_p": 0.95},
    ],
)
def test_tokens_are_drawn_as_often_as_it_says(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    logits, ids, draws = 2 * torch.randn(12), [3, 4, 4], 20_000
    config = SamplingConfig(**settings)
    q = sampling_distribution(logits, ids, config).double()
    rows = logits.expand(draws, -1)
    noise = draw_noise(rows, config, torch.Generator().manual_seed(1))
    drawn = sample(rows, torch.tensor([ids]).expand(draws, -1), config, noise)
    counts = torch.bincount(drawn, minlength=12).double()
    assert counts[q == 0].sum() == 0
    deviation = (draws * q * (1 - q)).sqrt()
    assert ((counts - draws * q).abs() <= 5 * deviation + 1e-6).all()
