"""Each warning names its fault and its advice."""

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from plans import MEASURED, OZ, PRESETS, config
from rich.console import Console

from llm_from_scratch.config import ModelConfig, OptimConfig
from llm_from_scratch.plan.estimate import plan
from llm_from_scratch.plan.sizes import (
    TextSize,
)
from llm_from_scratch.plan.table import show


@pytest.mark.parametrize(
    ("text", "groups", "line"),
    [
        (
            replace(OZ, train_tokens=50_000, train_bytes=240_000),
            {"model": ModelConfig(n_layer=6, n_embd=384, n_head=6, block_size=128)},
            r"240 KB of text for 11\d?(\.\d)? M parameters: 81.9 passes, it will overfit: use more text, "
            r"model=tiny \(1 M parameters\), trainer.max_steps=195 \(16 passes\), or model.dropout=0.2",
        ),
        (replace(OZ, train_tokens=600_000), {}, "6.83 passes, each beyond 4 is worth less, and it may overfit"),
        (
            replace(OZ, train_tokens=10**10),
            {"model": ModelConfig(n_layer=12, n_embd=768, n_head=12), "trainer": {"max_steps": 100}},
            r"training tokens a parameter: a smaller model .* trainer.max_steps=\d+ or model=tiny",
        ),
        (replace(OZ, vocab_size=50_257), {}, r"embeddings are 8\d% of the parameters"),
        (OZ, {"optim": OptimConfig(warmup_steps=400)}, "the warm-up takes 400 of 1000 steps: use optim.warmup_steps=50"),
        (replace(OZ, val_tokens=100), {}, "100 tokens to validate with, fewer than a block of 128"),
        (replace(OZ, documents=2_000), {}, "documents have 30 tokens on average, and a block has 128"),
        (replace(OZ, val_tokens=7_000_000), {}, "validations take .*% of the time: .* than 500"),
        (OZ, {"model": ModelConfig(n_layer=400, n_embd=16_384)}, "of memory are needed and a device has .*: use"),
        (replace(OZ, train_tokens=10**17, estimated=True), {}, "will be written and .* are free on the disk"),
        (OZ, {"trainer": {"max_steps": 10**8}}, r"it takes \d+ days: use fewer"),
    ],
)  # fmt: skip
def test_what_is_unwise_is_said_in_a_line(text: TextSize, groups: dict[str, Any], line: str) -> None:
    result = plan(config(**groups), text, MEASURED, hours=None, presets=PRESETS)
    assert any(re.search(line, found) for found in result["unwise"]), result["unwise"]
    assert not any("\n" in found for found in result["unwise"])


BOOK = replace(OZ, train_tokens=10**10, vocab_size=50_257)  # so much text that nothing is unwise about it


@pytest.mark.parametrize(
    ("text", "groups", "lines"),
    [
        (replace(OZ, train_tokens=600_000), {}, ["6.83 passes, each beyond 4 .*: use more text, or trainer.max_steps=585 \\(4 passes\\)$"]),
        (OZ, {}, ["67.1 passes, it will overfit: use more text, or trainer.max_steps=238 \\(16 passes\\)$"]),
        # few tokens a parameter, most of which are embeddings
        (BOOK, {"trainer": {"max_steps": 100}, "optim": OptimConfig(warmup_steps=5)}, []),
        # a third of a few steps is a sound warm-up for weights that are good already, more than half is not
        (BOOK, {"trainer": {"max_steps": 24}, "optim": OptimConfig(warmup_steps=12)}, []),
        (BOOK, {"trainer": {"max_steps": 24}, "optim": OptimConfig(warmup_steps=13)}, ["warm-up takes 13 of 24 steps"]),
        (
            replace(OZ, train_tokens=10**10),
            {"model": ModelConfig(n_layer=400, n_embd=16_384)},
            ["activation_checkpointing=true, finetune=lora, trainer=fsdp on several GPUs, or a smaller model$", "are free on the disk"],
        ),
    ],
)  # fmt: skip
def test_a_model_that_init_from_brings_has_its_size(text: TextSize, groups: dict[str, Any], lines: list[str]) -> None:
    result = plan(config(init_from="smollm2", **groups), text, None, hours=None, presets=PRESETS)
    assert len(result["unwise"]) == len(lines), result["unwise"]
    assert all(re.search(line, found) for line, found in zip(lines, result["unwise"], strict=True)), result["unwise"]


def test_a_sound_plan_has_no_complaint() -> None:
    text = replace(OZ, train_tokens=10_000_000, train_bytes=40_000_000)
    result = plan(config(trainer={"max_steps": 5000}), text, MEASURED, hours=None, presets=PRESETS)
    assert result["unwise"] == []
    written = io.StringIO()
    show(result, Console(file=written, width=160))
    for word in ("984,448", "10 M tokens", "2.05 passes over the text", "33.4 minutes", "Hoffmann"):
        assert word in written.getvalue(), written.getvalue()
