"""Measured steps are those of the real model."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from plans import config

from llm_from_scratch.config import FinetuneConfig
from llm_from_scratch.model import GPTConfig
from llm_from_scratch.plan import measuring
from llm_from_scratch.plan.measuring import measure
from llm_from_scratch.training.optimizers import make_optimizer


def test_measured_steps_are_those_of_the_model() -> None:
    shape = GPTConfig(vocab_size=300, n_layer=1, n_embd=32, n_head=2, block_size=32)
    small = measure(config(), shape, micro=4, seconds=0.2)
    large = measure(config(), replace(shape, n_layer=16), micro=4, seconds=0.2)
    assert (small.device, small.precision, small.sequences) == ("cpu", "32-true", 4)
    assert large.seconds_a_sequence > 2 * small.seconds_a_sequence > 0
    assert large.seconds_an_update > small.seconds_an_update > 0


def test_a_step_of_adapters_updates_these_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def record(*arguments: Any, **settings: Any) -> torch.optim.Optimizer:
        made.append(make_optimizer(*arguments, **settings))
        return made[-1]

    monkeypatch.setattr(measuring, "make_optimizer", record)
    shape = GPTConfig(vocab_size=300, n_layer=1, n_embd=32, n_head=2, block_size=32)
    adapters = config(init_from="run", finetune=FinetuneConfig(method="lora", rank=2))
    assert measure(adapters, shape, micro=1, seconds=0.1).seconds_an_update > 0
    # A and B of qkv, out, and the two of the feed-forward
    assert [one.shape[0] for group in made[0].param_groups for one in group["params"]] == [2, 96, 2, 32, 2, 256, 2, 32]
