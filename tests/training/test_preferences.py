"""The loss on pairs of answers: by hand, against TRL, and in whole runs."""

import contextlib
import io
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import trl_dpo
from conftest import REPO, run
from safetensors.numpy import load_file

from llm_from_scratch.check import check, check_given
from llm_from_scratch.cli import main
from llm_from_scratch.commands import train
from llm_from_scratch.config import Config, LossConfig, SamplingConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.generation import generate
from llm_from_scratch.kernels import IGNORE
from llm_from_scratch.model import GPT
from llm_from_scratch.pretrained import open_model
from llm_from_scratch.run import read_rows
from llm_from_scratch.training import preferences
from llm_from_scratch.training.checks import check_trainer
from llm_from_scratch.training.preferences import answer_lengths, answer_log_probs, dpo

PREFERS: dict[str, Any] = {"loss": {"name": "dpo"}, "data": {"format": "preferences"}}


# --------------------------------------------------------------------------------------- by hand
@pytest.mark.parametrize(
    ("settings", "chosen", "rejected", "loss"),
    [
        # Of log-probabilities -3 and -4, -2 and -5 at the start, gains of -1 and 1: rewards of -0.5 and 0.5
        ({}, -0.5, 0.5, math.log(1 + math.e)),
        ({"label_smoothing": 0.1}, -0.5, 0.5, 0.9 * math.log(1 + math.e) + 0.1 * math.log(1 + 1 / math.e)),
        # 2 and 4 tokens: -0.25 and 0.125 a token
        ({"length_normalised": True}, -0.25, 0.125, math.log(1 + math.exp(0.375))),
    ],
)
def test_loss_and_rewards_by_hand(settings: dict[str, Any], chosen: float, rejected: float, loss: float) -> None:
    log_probs, reference, lengths = torch.tensor([-3.0, -4.0]), torch.tensor([-2.0, -5.0]), torch.tensor([2, 4])
    found = dpo(log_probs, reference, lengths, LossConfig(name="dpo", beta=0.5, **settings))
    assert [one.item() for one in found] == pytest.approx([loss, chosen, rejected], abs=1e-6)


def test_the_gradient_pushes_both_answers_apart_by_how_wrong_the_model_is() -> None:
    # Rafailov et al. 2023, section 4: beta sigmoid(reward_rejected - reward_chosen), up and down
    log_probs = torch.tensor([-3.0, -4.0, -1.0, -9.0], requires_grad=True)
    found = dpo(log_probs, torch.full((4,), -4.0), torch.ones(4), LossConfig(name="dpo", beta=0.5))
    found.loss.sum().backward()
    first, second = (0.5 / (1 + math.exp(margin)) for margin in (0.5, 4.0))
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-first, first, -second, second], abs=1e-6)


def test_the_model_of_the_start_has_no_preference() -> None:
    log_probs = torch.tensor([-300.25, -4.0, -71.0, -9.0])
    for smoothing in (0.0, 0.2):
        found = dpo(log_probs, log_probs, torch.ones(4), LossConfig(name="dpo", label_smoothing=smoothing))
        assert found.loss.tolist() == pytest.approx([math.log(2)] * 2)
        assert found.reward_chosen.tolist() == found.reward_rejected.tolist() == [0.0, 0.0]


# ------------------------------------------------------------------------- log-probabilities of answers
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets (4, 12): answers of 3, 5, 1 and no tokens behind prompts, then padding."""
    ids = torch.randint(1, trl_dpo.CONFIG.vocab_size, (4, 13), generator=torch.Generator().manual_seed(3))
    targets = torch.full((4, 12), IGNORE)
    for row, (start, end) in enumerate(((4, 7), (2, 7), (11, 12), (0, 0))):
        targets[row, start:end] = ids[row, start + 1 : end + 1]
    return ids[:, :-1], targets


def test_log_probabilities_are_the_sums_of_the_loss_of_each_token() -> None:
    model, (ids, targets) = trl_dpo.model(1), rows()
    expected = -model.loss(ids, targets, reduction="none").sum(1)
    torch.testing.assert_close(answer_log_probs(model, ids, targets), expected)
    assert answer_lengths(targets).tolist() == [3, 5, 1, 0]


def test_chunks_of_logits_change_neither_values_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (ids, targets) = trl_dpo.model(1).double(), rows()

    def numbers(model: GPT) -> list[torch.Tensor]:
        model.zero_grad()
        found = answer_log_probs(model, ids, targets)
        found.square().sum().backward()
        return [found.detach(), *(one.grad.clone() for one in model.parameters() if one.grad is not None)]

    whole = numbers(model)
    monkeypatch.setattr(preferences, "CPU_LOGITS", 2 * trl_dpo.CONFIG.vocab_size)  # two tokens a chunk
    torch.testing.assert_close(numbers(model), whole)


# ------------------------------------------------------------------------------------------------ TRL
def our_numbers(form: str, ids: list[list[list[int]]]) -> dict[str, Any]:
    """The numbers of `trl_dpo.trl_numbers`, by our functions, from the same ids of each pair."""
    settings = LossConfig(
        name="dpo",
        beta=trl_dpo.BETA,
        label_smoothing=trl_dpo.SMOOTHING if form == "label_smoothing" else 0.0,
        length_normalised=form == "length_normalised",
    )
    policy, reference = trl_dpo.model(1).train(), trl_dpo.model(2)
    texts = [(prompt, answer) for prompt, *answers in ids for answer in answers]
    longest = max(len(prompt) + len(answer) for prompt, answer in texts)
    inputs, targets = (
        torch.zeros(len(texts), longest - 1, dtype=torch.int64),
        torch.full((len(texts), longest - 1), IGNORE),
    )
    for row, (prompt, answer) in enumerate(texts):
        inputs[row, : len(prompt) + len(answer) - 1] = torch.tensor([*prompt, *answer][:-1])
        targets[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = torch.tensor(answer)
    with torch.no_grad():
        start = answer_log_probs(reference, inputs, targets)
    lengths = answer_lengths(targets)
    found = dpo(answer_log_probs(policy, inputs, targets), start, lengths, settings)
    found.loss.mean().backward()
    # TRL shows the rewards of whole answers in the length-normalised form too.
    scale = lengths.view(-1, 2).unbind(1) if form == "length_normalised" else (1, 1)
    chosen, rejected = (reward * length for reward, length in zip(found[1:], scale, strict=True))
    return {
        "loss": found.loss.mean().item(),
        "chosen": chosen.mean().item(),
        "rejected": rejected.mean().item(),
        "accuracies": (chosen > rejected).float().mean().item(),
        "margins": (chosen - rejected).mean().item(),
        "gradients": {
            name: one.grad.flatten().tolist() for name, one in policy.named_parameters() if one.grad is not None
        },
    }


@pytest.mark.parametrize("form", trl_dpo.FORMS)
def test_losses_rewards_and_gradients_are_those_of_trl(form: str) -> None:
    recorded = json.loads(trl_dpo.RECORDED.read_text(encoding="utf-8"))["forms"][form]
    compare(our_numbers(form, recorded["ids"]), recorded)


def test_recorded_numbers_are_those_of_the_trl_that_is_installed() -> None:
    pytest.importorskip("trl")
    recorded = json.loads(trl_dpo.RECORDED.read_text(encoding="utf-8"))["forms"]
    for form, numbers in trl_dpo.trl_numbers().items():
        assert numbers["ids"] == recorded[form]["ids"]
        compare(numbers, recorded[form])
        compare(our_numbers(form, numbers["ids"]), numbers)


def compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("loss", "chosen", "rejected", "accuracies", "margins"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6, rel=1e-6), name
    assert (
        set(found["gradients"])
        == set(expected["gradients"])
        == {name for name, _ in trl_dpo.model(1).named_parameters()}
    )
    for name, gradient in expected["gradients"].items():
        assert found["gradients"][name] == pytest.approx(gradient, abs=1e-6, rel=1e-5), name
        assert any(gradient), name


# ------------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loss": {"name": "dpo"}}, "loss=dpo: is of pairs of answers: add data=preferences"),
        (PREFERS, "there is no model whose answers are to change: name one, init_from=MODEL"),
        (PREFERS | {"init_from": "a", "trainer": {"compile": True}}, "trainer.compile=true"),
        ({"loss": {"label_smoothing": 0.5}}, "must be at least 0 and below 0.5"),
        ({"loss": {"beta": 0}}, "must be above 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        check(values, Config)


def test_pairs_are_no_text_to_learn() -> None:
    with pytest.raises(UserError, match="would learn rejected answers, too: add loss=dpo"):
        check_trainer(check({"data": {"format": "preferences"}}, Config))


def test_settings_of_the_loss_without_effect_are_refused() -> None:
    for setting in ("beta=0.2", "label_smoothing=0.1", "length_normalised=True"):
        name, _, value = setting.partition("=")
        with pytest.raises(UserError, match=f"loss.{name}={value}: changes nothing without loss=dpo"):
            check_given(check({"loss": {name: value}}, Config), [f"loss.{name}"])
    assert check(PREFERS | {"init_from": "a"}, Config).loss.beta == 0.1


# ---------------------------------------------------------------------------------------- whole runs
THINGS = ["oz", "toto", "a lion", "the city", "a witch", "the road", "tin", "straw"]
ASKED = ["who is it? ", "what is near? ", "and then? ", "where to? "]


def answer(words: int, rng: random.Random) -> str:
    return " and ".join(rng.choice(THINGS) for _ in range(words)) + "."


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def made_preferences(folder: Path, pairs: int = 300) -> None:
    """Answers of one to five words that are alike in all but their length, to learn from; then pairs
    of them, the shorter one chosen.
    """
    rng = random.Random(0)
    learned = [{"prompt": rng.choice(ASKED), "completion": answer(rng.randint(1, 5), rng)} for _ in range(600)]
    write_rows(folder / "learned.jsonl", learned)
    rows = []
    for _ in range(pairs):
        shorter, longer = sorted(rng.sample(range(1, 6), 2))
        rows.append({"prompt": rng.choice(ASKED), "chosen": answer(shorter, rng), "rejected": answer(longer, rng)})
    write_rows(folder / "pairs.jsonl", rows)


BASE = (
    "data=chat",
    "data.path=learned.jsonl",
    "data.batch_size=16",
    "tokenizer=char",
    "model.n_layer=2",
    "model.n_embd=48",
    "model.n_head=4",
    "model.block_size=80",
    "model.dropout=0",
    "optim.lr=5e-3",
    "optim.warmup_steps=5",
    "trainer=cpu",
    "trainer.max_steps=120",
    "trainer.val_check_interval=120",
    "sample.max_new_tokens=0",
    "logger=none",
    "run_dir=base",
)
SHORTER = {
    "data": "preferences",
    "data.path": "pairs.jsonl",
    "data.val_fraction": "0.2",
    "loss": "dpo",
    "init_from": "base",
    "model.dropout": "0",
    "optim.lr": "1e-3",
    "optim.warmup_steps": "5",
    "trainer": "cpu",
    "trainer.max_steps": "40",
    "trainer.val_check_interval": "10",
    "trainer.log_every_n_steps": "1",
    "sample.max_new_tokens": "0",
    "logger": "none",
}


def shorter(**others: str) -> list[str]:
    """The overrides of a run that prefers shorter answers."""
    return [f"{key}={value}" for key, value in (SHORTER | others).items()]


MEASURED = {"loss", "accuracy", "margin", "reward_chosen", "reward_rejected"}


def train_here(folder: Path, *overrides: str) -> str:
    """Runs train.py in this process, in a folder; returns what it said."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.chdir(folder)
        patch.setattr("sys.argv", [str(REPO / "train.py"), *overrides])
        status: Any = 0
        try:
            train.main()
        except SystemExit as ended:
            status = ended.code
    assert not status, said.getvalue()
    return said.getvalue()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with learned.jsonl, pairs.jsonl and `base`, a run that answers at any length."""
    folder = tmp_path_factory.mktemp("preferences")
    made_preferences(folder)
    train_here(folder, *BASE)
    return folder


def words_of_answers(folder: Path, name: str) -> float:
    """The mean number of words of answers that a run draws."""
    opened = open_model(str(folder / name))
    sampling = SamplingConfig(max_new_tokens=60, temperature=1.0, seed=1, num_samples=30, compile=False)
    texts = [""] * sampling.num_samples
    for prompt in ASKED[:2]:
        for pieces in generate(opened.model, opened.tokenizer, prompt, sampling):
            texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    return sum(text.count(" and ") + 1 for text in texts) / len(texts)


def test_shorter_answers_become_likelier(base: Path) -> None:
    said = train_here(base, *shorter(run_dir="shorter", logger="csv"))
    assert "reference: log-probabilities of 600 answers" in said
    assert "pairs right" in said
    rows = read_rows(base / "shorter" / "metrics.jsonl")
    steps, val = ([row for row in rows if row["split"] == split] for split in ("train", "val"))
    assert all(set(row) == {"step", "split"} | MEASURED for row in val)
    assert all(set(row) == {"step", "split", "lr", "grad_norm"} | MEASURED for row in steps)
    # The first step is taken at the reference's own weights.
    first = steps[0]
    assert first["step"] == 1
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert [first[name] for name in ("margin", "reward_chosen", "reward_rejected")] == pytest.approx([0] * 3, abs=1e-5)
    best = min(val, key=lambda row: row["loss"])
    assert best["accuracy"] > 0.8
    assert best["margin"] == pytest.approx(best["reward_chosen"] - best["reward_rejected"], abs=1e-6)
    assert best["loss"] < 0.5
    assert (base / "shorter" / "curves.png").exists()
    assert words_of_answers(base, "shorter") < words_of_answers(base, "base") - 0.5


def test_commands_that_look_at_a_run_on_preferences(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (base / "shorter").exists():
        train_here(base, *shorter(run_dir="shorter", logger="csv"))
    monkeypatch.chdir(base)
    capsys.readouterr()
    main(["evaluate", "shorter", "--json", "--device", "cpu"])
    found = json.loads(capsys.readouterr().out)
    rows = [row for row in read_rows(base / "shorter" / "metrics.jsonl") if row["split"] == "val"]
    best = min(rows, key=lambda row: row["loss"])
    assert (found["step"], found["split"]) == (best["step"], "val")
    assert {name: found[name] for name in MEASURED} == pytest.approx({name: best[name] for name in MEASURED}, abs=1e-5)
    main(["evaluate", "shorter", "--device", "cpu"])
    assert "nats a pair" in capsys.readouterr().out
    settings = ["data=preferences", "data.path=pairs.jsonl", "data.val_fraction=0.2"]
    main(["inspect", *settings, "tokenizer=char", "--json"])
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["documents"] == 2 * (300 - found["pairs"])
    main(["plan", *settings, "loss=dpo", "init_from=base", "trainer.max_steps=100", "--no-measuring", "--json"])
    planned = json.loads(capsys.readouterr().out)
    assert planned["data"]["passes"] == pytest.approx(100 * 16 / (300 - found["pairs"]))
    assert planned["memory"]["micro_batch_size"] == 32  # sequences


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of the model, the reference and the rows of a run."""
    names = ["metrics.jsonl", "reference.safetensors", "model/model.safetensors"]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_ends_as_an_undisturbed_one(base: Path) -> None:
    program = str(REPO / "train.py")
    others = {"data.micro_batch_size": "4", "model.dropout": "0.1"}
    done = run([program, *shorter(**others, run_dir="whole")], base)
    assert done.returncode == 0, done.stderr
    environment = os.environ | {"PYTHONPATH": str(REPO / "src")}
    rows = base / "killed" / "metrics.jsonl"
    for kill, steps in enumerate((3, 14, 33)):
        arguments = shorter(**others, run_dir="killed") if kill == 0 else ["resume=killed"]
        process = subprocess.Popen(
            [sys.executable, program, *arguments],
            cwd=base,
            env=environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None and (not rows.exists() or rows.read_text().count('"train"') < steps):
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.wait()
    done = run([program, "resume=killed"], base)
    assert done.returncode == 0, done.stderr
    assert contents(base / "killed") == contents(base / "whole")
    train_here(base, *shorter(**others | {"data.micro_batch_size": "16"}, run_dir="other"))
    # Another division changes rounding alone.
    assert best_loss(base / "other") == pytest.approx(best_loss(base / "whole"), rel=0.02)


def best_loss(folder: Path) -> float:
    return min(float(row["loss"]) for row in read_rows(folder / "metrics.jsonl") if row["split"] == "val")


@pytest.mark.slow
def test_a_resume_refuses_another_reference(base: Path) -> None:
    steps = {"trainer.max_steps": "2", "trainer.val_check_interval": "2"}
    train_here(base, *shorter(**steps, run_dir="one"))
    train_here(base, *shorter(**steps, run_dir="two", init_from="one"))
    kept = base / "one" / "reference.safetensors"
    own, other = kept.read_bytes(), (base / "two" / "reference.safetensors").read_bytes()
    assert own != other
    for content, words in ((None, "missing or damaged"), (own[:-4], "missing or damaged"), (other, "of another run")):
        kept.unlink(missing_ok=True)
        if content is not None:
            kept.write_bytes(content)
        before = (base / "one" / "config.yaml").read_bytes()
        done = run([str(REPO / "train.py"), "resume=one", "trainer.max_steps=4"], base)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr
        assert (base / "one" / "config.yaml").read_bytes() == before
    kept.write_bytes(own)
    train_here(base, "resume=one", "trainer.max_steps=4")


@pytest.mark.slow
def test_adapters_prefer_beside_frozen_weights(base: Path) -> None:
    others = {"finetune": "lora", "optim.lr": "1e-2"}
    train_here(base, *shorter(**others, run_dir="adapters"))
    train_here(base, *shorter(run_dir="all"))
    rows = read_rows(base / "adapters" / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # the reference is the base
    assert max(row["accuracy"] for row in rows if row["split"] == "val") > 0.8
    of_adapters, of_all = (load_file(base / name / "reference.safetensors") for name in ("adapters", "all"))
    assert {name: values.tolist() for name, values in of_adapters.items()} == {
        name: values.tolist() for name, values in of_all.items()
    }
    # A resumed run reads the reference: its weights are others by then.
    train_here(base, "resume=adapters", "trainer.max_steps=42")
    assert read_rows(base / "adapters" / "metrics.jsonl")[-1]["accuracy"] > 0.8


@pytest.mark.slow
def test_processes_that_share_the_weights_prefer_as_one(base: Path) -> None:
    steps = {"trainer.max_steps": "4", "trainer.val_check_interval": "2", "trainer.log_every_n_steps": "1"}
    for trainer in ("cpu", "fsdp_cpu"):
        done = run([str(REPO / "train.py"), *shorter(**steps | {"trainer": trainer, "run_dir": trainer})], base)
        assert done.returncode == 0, done.stderr
    one, two = (read_rows(base / name / "metrics.jsonl") for name in ("cpu", "fsdp_cpu"))
    assert [(row["step"], row["split"]) for row in one] == [(row["step"], row["split"]) for row in two]
    for a, b in zip(one, two, strict=True):
        assert [a[name] for name in MEASURED] == pytest.approx([b[name] for name in MEASURED], abs=1e-4)
