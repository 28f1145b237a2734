"""The plan's figures against published ones and against arithmetic; the command as its users start it."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Process
from rich.console import Console

from llm_from_scratch.check import check
from llm_from_scratch.config import Config, DataConfig, ModelConfig, OptimConfig, TrainerConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.model import GPTConfig
from llm_from_scratch.plan.estimate import plan
from llm_from_scratch.plan.measuring import Measured, measure
from llm_from_scratch.plan.sizes import (
    TextSize,
    assumed_text,
    compute_optimal,
    meta_model,
    nearest,
    training_flops,
)
from llm_from_scratch.plan.table import count, duration, show

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


def test_gpt2_by_hand() -> None:
    model = meta_model(GPTConfig(vocab_size=50_257, **GPT2))
    assert model.num_parameters() == 124_439_808  # as published
    # 12 layers of 12 C^2 weights and a head of V C, 6 FLOPs each; attention 12 L C T.
    assert training_flops(model) == 6 * (12 * 12 * 768**2 + 50_257 * 768) + 12 * 12 * 768 * 1024 == 854_438_400
    shared = meta_model(GPTConfig(vocab_size=50_257, **GPT2, n_unique_layer=3))
    assert training_flops(shared) == training_flops(model)  # fewer weights, used as often


def test_the_optimum_is_chinchilla() -> None:
    # Hoffmann et al. 2022: 5.88e23 FLOPs are 70 billion parameters on 1.4 trillion tokens.
    parameters, tokens = compute_optimal(5.88e23)
    assert parameters == pytest.approx(70e9, rel=0.001)
    assert tokens == pytest.approx(20 * parameters)
    assert nearest(3_000_000, PRESETS) == "tiny"
    assert nearest(4_000_000, PRESETS) == "small"  # 2.75 times rather than 4 times as large


def test_gpt2_on_openwebtext_as_nanogpt_trains_it() -> None:
    text = TextSize(9_035_582_489, 4_434_606, 39_000_000_000, 50_257, False, 8_009_762)
    run = config(model=ModelConfig(**GPT2), trainer={"max_steps": 600_000})
    run.data.batch_size = 480
    result = plan(run, text, None, hours=None, presets=PRESETS)
    assert result["data"]["tokens_a_step"] == 491_520
    assert result["data"]["tokens"] == 294_912_000_000
    assert result["data"]["passes"] == pytest.approx(32.64, abs=0.01)
    assert result["memory"]["optimizer"] == 2 * 4 * 124_439_808
    assert result["compute"]["flops"] == 854_438_400 * 294_912_000_000
    assert result["disk"]["shards"] == 2 * (9_035_582_489 + 4_434_606)
    assert result["model"]["embeddings"] == (50_257 + 1024) * 768
    assert "time" not in result


def test_a_schedule_of_batches_by_hand() -> None:
    run = config()
    run.data.batch_schedule = [[100, 8], [300, 16]]
    result = plan(run, OZ, MEASURED, hours=None, presets=PRESETS)
    sequences = 100 * 8 + 200 * 16 + 700 * 32
    assert (result["data"]["tokens_a_first_step"], result["data"]["tokens_a_step"]) == (8 * 128, 32 * 128)
    assert result["data"]["tokens"] == sequences * 128
    assert result["time"]["seconds_a_step"] == pytest.approx(32 * 0.01 + 0.08)  # in the end
    assert result["time"]["seconds"] == pytest.approx(sequences * 0.01 + 1000 * 0.08 + 2 * 7_000 / 128 * 0.01 / 3)


def test_times_by_hand() -> None:
    result = plan(config(), OZ, MEASURED, hours=None, presets=PRESETS)
    spent = result["time"]
    assert spent["seconds_a_step"] == pytest.approx(32 * 0.01 + 0.08)
    assert spent["seconds_a_validation"] == pytest.approx(7_000 / 128 * 0.01 / 3)
    assert spent["seconds"] == pytest.approx(1000 * 0.4 + 2 * 7_000 / 128 * 0.01 / 3)
    assert spent["tokens_per_second"] == pytest.approx(32 * 128 / 0.4)
    rate = result["compute"]["flops_a_token"] * 32 * 128 / 0.4
    assert result["optimum"]["flops_per_second"] == pytest.approx(rate)
    assert result["optimum"]["parameters"] == pytest.approx((rate * spent["seconds"] / 120) ** 0.5, rel=1e-6)
    hour = plan(config(), OZ, MEASURED, hours=1.0, presets=PRESETS)["optimum"]
    assert hour["parameters"] == pytest.approx((rate * 3600 / 120) ** 0.5, rel=1e-6)
    # The book is short: four passes of it are enough for a fifth of its tokens in parameters.
    assert (hour["text_is_short"], hour["parameters_for_this_text"], hour["model"]) == (True, 12_200, "tiny")
    # Two processes that share the work halve a step, but for the update.
    both = plan(config(trainer={"devices": 2}), OZ, MEASURED, hours=None, presets=PRESETS)["time"]
    assert both["seconds_a_step"] == pytest.approx(16 * 0.01 + 0.08)


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


def test_a_sound_plan_has_no_complaint() -> None:
    text = replace(OZ, train_tokens=10_000_000, train_bytes=40_000_000)
    result = plan(config(trainer={"max_steps": 5000}), text, MEASURED, hours=None, presets=PRESETS)
    assert result["unwise"] == []
    written = io.StringIO()
    show(result, Console(file=written, width=160))
    for word in ("984,448", "10 M tokens", "2.05 passes over the text", "33.4 minutes", "Hoffmann"):
        assert word in written.getvalue(), written.getvalue()


def test_numbers_for_a_person() -> None:
    assert [count(n, "B") for n in (7, 1000, 123_456, 999_960, 1.5e12)] == ["7 B", "1 KB", "123 KB", "1 MB", "1.5 TB"]
    assert [count(n, " tokens") for n in (999, 1234)] == ["999 tokens", "1.23 K tokens"]
    assert [duration(s) for s in (5, 90, 5400, 129_600)] == ["5 seconds", "1.5 minutes", "1.5 hours", "1.5 days"]


def test_measured_steps_are_those_of_the_model() -> None:
    shape = GPTConfig(vocab_size=300, n_layer=1, n_embd=32, n_head=2, block_size=32)
    small = measure(config(), shape, micro=4, seconds=0.2)
    large = measure(config(), replace(shape, n_layer=16), micro=4, seconds=0.2)
    assert (small.device, small.precision, small.sequences) == ("cpu", "32-true", 4)
    assert large.seconds_a_sequence > 2 * small.seconds_a_sequence > 0
    assert large.seconds_an_update > small.seconds_an_update > 0


@pytest.mark.parametrize(
    ("values", "vocab_size", "bytes_a_token"),
    [
        ({"kind": "gpt2", "vocab_size": None}, 50_257, 4.5),
        ({"kind": "bpe", "vocab_size": 1024}, 1024, 3),
        ({"kind": "bpe", "vocab_size": 8192}, 8192, 4.5),
        ({"kind": "char", "vocab_size": None}, 256, 1),
    ],
)
def test_a_text_that_is_not_at_hand_has_the_tokenizers_vocabulary(
    values: dict[str, Any], vocab_size: int, bytes_a_token: float
) -> None:
    text = assumed_text(check({"tokenizer": values}, Config), 10**6)
    assert (text.vocab_size, text.train_bytes) == (vocab_size, 10**6 * bytes_a_token)
    assert (text.train_tokens, text.val_tokens, text.estimated) == (10**6, 10**5, True)


def test_a_tokenizer_without_a_size_or_files_cannot_be_planned(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenizer=bpe needs a number of pieces"):
        assumed_text(check({"tokenizer": {"kind": "bpe", "vocab_size": None}}, Config), 10**6)
    files = check({"tokenizer": {"kind": "gpt2", "vocab_size": None, "path": str(tmp_path)}}, Config)
    with pytest.raises(UserError, match=r"there is no vocab\.json with merges\.txt"):
        assumed_text(files, 10**6)


def test_the_command(command: Process, finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "story.txt", tmp_path)
    done = command("plan", "--json", *SMALL, "trainer.max_steps=60")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["model"]["vocab_size"] == 320
    assert result["data"]["tokens_a_step"] == 8 * 32
    (manifest,) = (finished / "data/text").glob("prepared-*/manifest.json")
    splits = json.loads(manifest.read_text(encoding="utf-8"))["splits"]
    assert result["data"]["train_tokens"] == splits["train"]["tokens"]
    assert result["data"]["val_tokens"] == splits["val"]["tokens"]
    assert result["time"]["seconds"] > 0
    state = sum(path.stat().st_size for path in next((finished / "run/checkpoints").iterdir()).iterdir())
    assert result["disk"]["checkpoints"] / 3 == pytest.approx(state, rel=0.2)
    assert not (tmp_path / "outputs").exists()  # nothing but the text is prepared
    table = command("plan", *SMALL, "--no-measuring", "trainer.max_steps=60")
    assert table.returncode == 0, table.stderr
    assert "passes over the text" in table.stdout
    wrong = command("plan", "--hours", "0", *SMALL)
    assert (wrong.returncode, wrong.stderr) == (2, "error: --hours 0.0: must be above 0\n")
    large = command("plan", "--tokens", "9e9", "model=gpt2", "--no-measuring", "tokenizer=gpt2", "--json")
    assert json.loads(large.stdout)["model"]["parameters"] == 124_439_808
