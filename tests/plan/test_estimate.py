"""The plan's figures against published ones and against arithmetic; the command."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import SMALL, Process
from plans import GPT2, MEASURED, OZ, PRESETS, config

from llm_from_scratch.config import FinetuneConfig, ModelConfig, OptimConfig
from llm_from_scratch.plan.estimate import plan
from llm_from_scratch.plan.sizes import (
    TextSize,
)


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


def test_adapters_on_gpt2_by_hand() -> None:
    """Rank 8 on 12 layers: rows and columns of qkv, out, up and down, 24 widths together."""
    text = TextSize(1_000_000, 100_000, 4_000_000, 50_257, False, 1)
    settings = {"model": ModelConfig(**GPT2), "init_from": "hub:openai-community/gpt2"}
    N, adapters = 124_439_808, 12 * 8 * (4 + 2 + 5 + 5) * 768
    lora = plan(config(finetune=FinetuneConfig(method="lora"), **settings), text, MEASURED, hours=None, presets=PRESETS)
    assert (lora["model"]["parameters"], lora["model"]["trained"]) == (N + adapters, adapters)
    assert [lora["memory"][name] for name in ("weights", "gradients", "optimizer")] == [
        4 * (N + adapters), 4 * adapters, 8 * adapters,
    ]  # fmt: skip
    assert (lora["disk"]["checkpoints"], lora["disk"]["model"]) == (3 * 12 * adapters, 2 * 4 * adapters)
    # The size that init_from brings is given: no other one is recommended.
    assert "optimum" not in lora
    averaged = config(finetune=FinetuneConfig(method="lora"), optim=OptimConfig(ema_decay=0.9), **settings)
    assert plan(averaged, text, None, hours=None, presets={})["disk"]["checkpoints"] == 3 * 16 * adapters

    # A tied head is the token embedding: a checkpoint holds all weights, and two moments of this one.
    head = plan(config(finetune=FinetuneConfig(method="head"), **settings), text, None, hours=None, presets={})
    assert head["model"]["trained"] == 50_257 * 768
    assert head["disk"] | {"free": 0} == {
        "checkpoints": 3 * 4 * (N + 2 * 50_257 * 768), "model": 8 * N, "shards": 2 * 1_100_000, "free": 0,
    }  # fmt: skip
    frozen = FinetuneConfig(freeze=["token_embedding", "position_embedding", "blocks.*"])
    norm = plan(config(finetune=frozen, **settings), text, None, hours=None, presets={})
    assert norm["model"]["trained"] == 2 * 768
    assert norm["memory"]["activations"] == 4 * 3 * 768 * 1024 * norm["memory"]["micro_batch_size"]


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
