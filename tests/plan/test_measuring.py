"""Measured steps are those of the real model."""

from dataclasses import replace

from plans import config

from llm_from_scratch.model import GPTConfig
from llm_from_scratch.plan.measuring import measure


def test_measured_steps_are_those_of_the_model() -> None:
    shape = GPTConfig(vocab_size=300, n_layer=1, n_embd=32, n_head=2, block_size=32)
    small = measure(config(), shape, micro=4, seconds=0.2)
    large = measure(config(), replace(shape, n_layer=16), micro=4, seconds=0.2)
    assert (small.device, small.precision, small.sequences) == ("cpu", "32-true", 4)
    assert large.seconds_a_sequence > 2 * small.seconds_a_sequence > 0
    assert large.seconds_an_update > small.seconds_an_update > 0
