"""Schedules and parameter groups, against numbers worked out by hand."""

import math

import pytest
import torch

from llm_from_scratch.config import OptimConfig
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.training.optimizers import adamw, seed_step, warmup_cosine


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.25),  # the first of four warm-up steps
        (3, 1.0),
        (4, 1.0),  # the cosine's top
        (9, 0.1 + 0.9 * 0.5),  # half of the way from 4 to 14
        (14, 0.1),  # the last step of 15
        (20, 0.1),  # beyond it
        (6, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 5))),
    ],
)
def test_warmup_cosine(step: int, factor: float) -> None:
    assert warmup_cosine(step, warmup_steps=4, max_steps=15, min_ratio=0.1) == pytest.approx(factor)


def test_no_warmup_and_one_step() -> None:
    assert warmup_cosine(0, warmup_steps=0, max_steps=1, min_ratio=0.1) == 1.0


def test_only_matrices_decay() -> None:
    model = GPT(
        GPTConfig(
            vocab_size=10, n_layer=1, n_embd=8, n_head=2, norm="layernorm", bias=True, activation="gelu", qk_norm=False
        )
    )
    decayed, kept = adamw(model.parameters(), OptimConfig(weight_decay=0.3), fused=False).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert all(parameter.dim() >= 2 for parameter in decayed["params"])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(
        names[id(parameter)].endswith(("bias", "weight")) and parameter.dim() == 1 for parameter in kept["params"]
    )
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_dropout_depends_on_the_place_alone() -> None:
    def draw(*place: int) -> float:
        seed_step(*place)
        return torch.rand(()).item()

    assert draw(1, 2, 3, 4) == draw(1, 2, 3, 4)
    places = [(seed, step, micro, rank) for seed in (0, 1) for step in range(5) for micro in (0, 1) for rank in (0, 1)]
    assert len({draw(*place) for place in places}) == len(places)
