"""Texts, measurements and settings that the tests of `plan` share."""

from typing import Any

from llm_from_scratch.config import Config, DataConfig, TrainerConfig
from llm_from_scratch.plan.measuring import Measured
from llm_from_scratch.plan.sizes import (
    TextSize,
)

GPT2: dict[str, Any] = {
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "block_size": 1024,
    "norm": "layernorm",
    "position": "learned",
    "activation": "gelu",
    "qk_norm": False,
    "bias": True,
}


OZ = TextSize(train_tokens=61_000, val_tokens=7_000, train_bytes=187_000, vocab_size=1024, estimated=False, documents=1)


MEASURED = Measured("cpu", "32-true", 8, seconds_a_sequence=0.01, seconds_an_update=0.08, peak_bytes=None)


PRESETS = {"tiny": 1_000_000, "small": 11_000_000, "gpt2": 124_000_000}


def config(**groups: Any) -> Config:
    settings = {"accelerator": "cpu", "max_steps": 1000, "val_check_interval": 500, "compile": False}
    trainer = TrainerConfig(**(settings | groups.pop("trainer", {})))
    return Config(trainer=trainer, data=DataConfig(batch_size=32), **groups)
