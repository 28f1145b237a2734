"""Likelihood against a plain loop over the text, and the evaluate command against what training
logged.
"""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, Process, run, story
from torchmetrics.text import Perplexity

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.data.prepare import split_document
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation import scoring
from llm_from_scratch.evaluation.measure import Settings, measure
from llm_from_scratch.evaluation.scoring import (
    ACTIVATIONS,
    likelihood_row,
    scorer,
    token_nats,
    token_nats_and_greedy,
    total_nats,
    windows,
    windows_at_once,
)
from llm_from_scratch.generation import generate
from llm_from_scratch.kernels import IGNORE
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.run import read_rows
from llm_from_scratch.weights import load_model


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
        # The window that scores token i: the first one whole, the later ones their last `stride`
        # tokens.
        window = 0 if i < size else (i - size) // stride + 1
        context = [eot, *text.tolist()][window * stride : i + 1]
        nats -= model(torch.tensor([context]))[0, -1].log_softmax(-1)[int(target)].item()
    scored = scorer(model.to(device), eot)
    for batch_size in (1, 3, 64):
        total, tokens = total_nats(scored, windows([text], scored, overlap, batch_size))
        row = likelihood_row(total, tokens, text_bytes=100)
        assert tokens == 45
        assert row["loss"] == pytest.approx(nats / 45, abs=1e-5)
        assert row["bits_per_byte"] == pytest.approx(nats / math.log(2) / 100, abs=1e-5)
        assert row["perplexity"] == pytest.approx(math.exp(nats / 45), rel=1e-5)


def test_bits_per_byte_of_new_characters_by_hand(
    train: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text whose last tenth alone has a price, an emoji and a mark that no letter takes in:
    trained on, scored, continued.
    """
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
    (report,) = measure(["run"], Settings(baselines=True, device="cpu")).runs
    assert report.bits_per_byte == pytest.approx(row["bits_per_byte"], rel=1e-4)

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


def tiny(vocab_size: int = 50, block_size: int = 16) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=vocab_size, n_layer=1, n_embd=16, n_head=2, block_size=block_size)).eval()


def batch(model: GPT) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and targets (3, T), some of which do not count."""
    shape = (3, model.config.block_size)
    ids, targets = (torch.randint(model.config.vocab_size, shape) for _ in range(2))
    return ids, targets.masked_fill(torch.rand(shape) < 0.3, IGNORE)


@pytest.mark.parametrize("at_once", [1, 120, 2**24])
def test_the_chunks_of_the_logits_do_not_show_in_the_nats(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CPU_LOGITS", at_once)
    model = tiny()
    ids, targets = batch(model)
    nats, greedy = token_nats_and_greedy(scorer(model, 0), ids, targets)
    with torch.inference_mode():
        logits, counted = model(ids), targets != IGNORE
    expected = -logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0] * counted
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(token_nats(scorer(model, 0), ids, targets), nats)
    assert torch.equal(greedy, (logits.argmax(-1) == targets) | ~counted)
    perplexity = Perplexity(ignore_index=IGNORE)  # the second opinion
    perplexity.update(logits, targets)
    assert math.exp(nats.sum() / counted.sum()) == pytest.approx(float(perplexity.compute()), rel=1e-5)


def test_no_more_logits_are_held_than_a_chunk_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CPU_LOGITS", 500)
    model, held = tiny(), []
    whole = replace(scorer(model, 0), head=lambda hidden: (held.append(hidden.shape[0]), model.logits(hidden))[1])
    ids, targets = batch(model)
    token_nats(whole, ids, targets)
    assert max(held) == 10  # of 50 numbers each
    assert sum(held) == (targets != IGNORE).sum()  # context that is not scored needs no logits


def test_the_activations_of_a_batch_are_bounded() -> None:
    assert windows_at_once(32, 256, 1024) == 32
    assert windows_at_once(32, 1024, 50_257) == 1
    assert windows_at_once(32, 1024, 3072) * 1024 * 3072 <= ACTIVATIONS


def test_a_text_shorter_than_the_context_is_one_window_of_its_own_length() -> None:
    model = scorer(tiny(), 0)
    ((x, y),) = windows([np.array([3, 1]), np.array([4])], model, overlap=0.5, batch_size=8)
    assert (x.tolist(), y.tolist()) == ([[0, 3, 1]], [[3, 1, 4]])


def test_no_tokens_are_refused() -> None:
    with pytest.raises(UserError, match=r"^there are no tokens to score .*: use --split val$"):
        windows([], scorer(tiny(), 0), overlap=0.0, batch_size=8)


GPT2_RUN = """
import random
from pathlib import Path

import torch

from llm_from_scratch.check import check
from llm_from_scratch.weights import save_model
from llm_from_scratch.config import Config
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.saved_config import save_config

# 50,256 characters that the training part has all of, and a held-out part of 2,500 of them.
characters = [chr(i) for i in [*range(0x4E00, 0xA000), *range(0xAC00, 0xD7A4), *range(0x20000, 0x20000 + 18092)]]
random.seed(0)
Path("text.txt").write_text("".join(characters + random.choices(characters, k=2500)), encoding="utf-8")
shape = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "activation": "gelu", "norm": "layernorm"}
shape |= {"position": "learned", "bias": True, "qk_norm": False}
text = {"name": "text", "path": "text.txt", "val_fraction": 2500 / (len(characters) + 2500)}
config = check({"data": text, "tokenizer": {"kind": "char", "vocab_size": None}, "run_dir": "run", "model": shape}, Config)
prepared = prepare(config.data, config.tokenizer)
model = GPT(GPTConfig(vocab_size=prepared.tokenizer.vocab_size, **vars(config.model)))
assert (model.num_parameters(), model.config.vocab_size) == (124_439_808, 50_257)
weights, data = dict(model.named_parameters()), prepared.manifest["sha256"]
save_model(weights, model.config, prepared.tokenizer, Path("run"), step=1, loss=10.0, data=data)
save_config(config, Path("run/config.yaml"))
"""
PEAK = """
import resource
from llm_from_scratch.cli import main
main(["evaluate", "run", "--json", "--device", "cpu"{more}])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is in kilobytes on Linux alone")
def test_a_model_of_the_size_of_gpt_2_is_evaluated_within_3_gb(tmp_path: Path) -> None:
    made = run(["-c", GPT2_RUN], tmp_path)
    assert made.returncode == 0, made.stderr
    for more in ("", ', "--pairs"'):
        done = run(["-c", PEAK.format(more=more)], tmp_path)
        assert done.returncode == 0, done.stderr
        *_, figures, kilobytes = done.stdout.splitlines()
        assert json.loads(figures)
        assert int(kilobytes) < 3e6
