"""Likelihood against a plain loop over the text, and the evaluate command against what training logged."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Process

from llm_from_scratch.checkpoint import read_rows
from llm_from_scratch.data.sampler import ValidationWindows
from llm_from_scratch.evaluation.likelihood import likelihood, likelihood_row
from llm_from_scratch.model import GPT, GPTConfig


def test_the_figures_by_hand() -> None:
    # 8 tokens of ln 2 nats each over 4 bytes: a bit a token, two bits a byte, perplexity 2.
    row = likelihood_row(8 * math.log(2), 8, 4)
    assert row == pytest.approx({"loss": math.log(2), "bits_per_byte": 2.0, "perplexity": 2.0})


GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"))


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_it_equals_a_plain_loop_over_the_text(overlap: float, device: str) -> None:
    """The loop is on a CPU; whatever the batch and the device, the figures are its."""
    torch.manual_seed(0)
    size, eot = 8, 0
    model = GPT(GPTConfig(vocab_size=11, n_layer=1, n_embd=16, n_head=2, block_size=size)).eval()
    text = np.random.default_rng(0).integers(1, 11, 45).astype("<u2")
    stride = size - int(overlap * size)
    nats = 0.0
    for i, target in enumerate(text):
        # The window that scores token i: the first one whole, the later ones their last `stride` tokens.
        window = 0 if i < size else (i - size) // stride + 1
        context = [eot, *text.tolist()][window * stride : i + 1]
        nats -= model(torch.tensor([context]))[0, -1].log_softmax(-1)[int(target)].item()
    windows = ValidationWindows([text], block_size=size, eot_id=eot, overlap=overlap)
    model.to(device)
    for batch_size in (1, 3, 64):
        row = likelihood(model, windows.batches(batch_size), text_bytes=100)
        assert row["tokens"] == 45
        assert row["loss"] == pytest.approx(nats / 45, abs=1e-5)
        assert row["bits_per_byte"] == pytest.approx(nats / math.log(2) / 100, abs=1e-5)
        assert row["perplexity"] == pytest.approx(math.exp(nats / 45), rel=1e-5)


def test_evaluate_is_what_training_logged(command: Process, finished: Path) -> None:
    rows = [row for row in read_rows(finished / "run/metrics.jsonl") if row["split"] == "val"]
    best = min(rows, key=lambda row: row["loss"])
    done = command("evaluate", "run", "--json", cwd=finished)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["step"] == best["step"]
    for name in ("loss", "bits_per_byte", "perplexity"):
        assert row[name] == pytest.approx(best[name], rel=1e-5)
    assert row["bytes"] == len((finished / "story.txt").read_bytes()) - len(
        (finished / "story.txt").read_text(encoding="utf-8")[:27_000].encode()
    )

    half = json.loads(command("evaluate", "run", "--json", "--overlap", "0.5", "--device", "cpu", cwd=finished).stdout)
    assert half["tokens"] == row["tokens"]
    assert half["loss"] != row["loss"]
    table = command("evaluate", "run", cwd=finished)
    assert f"{row['bits_per_byte']:.4f}" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("evaluate", "nowhere"), "nowhere is no run folder"),
        (("evaluate", "run", "--overlap", "1"), "--overlap 1.0: must be at least 0 and below 1"),
        (("evaluate", "run", "--device", "abacus"), "device=abacus: this machine has"),
    ],
)
def test_mistakes_cost_one_line(command: Process, finished: Path, arguments: tuple[str, ...], line: str) -> None:
    done = command(*arguments, cwd=finished)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1
