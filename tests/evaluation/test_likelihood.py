"""Likelihood against a plain loop over the text, and the evaluate command against what training logged."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, Process, story

from llm_from_scratch.checkpoint import load_model, read_rows
from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.data.prepare import split_document
from llm_from_scratch.data.sampler import ValidationWindows
from llm_from_scratch.evaluation.likelihood import likelihood, likelihood_row
from llm_from_scratch.evaluation.measure import Settings, measure
from llm_from_scratch.generation import generate
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


def test_bits_per_byte_of_new_characters_by_hand(
    train: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text whose last tenth alone has a price, an emoji and a mark that no letter takes in: trained on, scored, continued."""
    learned = story(4500).replace("“", "").replace("”", "")
    new = "Toto paid £5 for 日本 \U0001f600 q\u0323.\n" * 15
    (tmp_path / "story.txt").write_text(learned + new, encoding="utf-8")
    small = [word for word in SMALL if not word.startswith("tokenizer.")]
    done = train(*small, "tokenizer=char", "data.stream=text", "trainer.max_steps=2", "run_dir=run")
    assert done.returncode == 0, done.stderr
    whole = learned + new
    before, after = split_document(whole, 0.1)
    assert "characters that are none of the tokenizer's" in done.stderr
    assert "£" not in before

    # The ids by hand: characters in order behind the end of text, then the 256 bytes.
    known = sorted(set(before))
    ids: list[int] = []
    for character in after:
        encoded = [1 + len(known) + byte for byte in character.encode()]
        ids += [1 + known.index(character)] if character in known else encoded
    run, stream_ids = load_model(tmp_path / "run"), [0, *ids]
    assert run.model.config.vocab_size == 1 + len(known) + 256
    nats = 0.0
    with torch.inference_mode():
        for start in range(0, len(ids), 32):
            window = torch.tensor([stream_ids[start : start + 33]])
            nats -= float(run.model(window[:, :-1])[0].log_softmax(-1).gather(1, window[0, 1:, None]).sum())
    row = read_rows(tmp_path / "run/metrics.jsonl")[-1]
    assert row["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(after.encode()), rel=1e-4)
    assert math.isfinite(row["bits_per_byte"])
    monkeypatch.chdir(tmp_path)
    (report,) = measure(["run"], Settings(baselines=True, device="cpu"))["runs"]
    assert report["bits_per_byte"] == pytest.approx(row["bits_per_byte"], rel=1e-4)

    sampling = SamplingConfig(max_new_tokens=40, temperature=3.0)
    assert "".join(piece for (piece,) in generate(run.model, run.tokenizer, "Ω \U0001f9ea", sampling))


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
