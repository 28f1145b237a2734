"""A training on conversations: the loss of each answer alone, a stop changes nothing, the run answers."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO, InProcess

from llm_from_scratch.data.prepared import Conversations, open_prepared
from llm_from_scratch.kernels import IGNORE
from llm_from_scratch.pretrained import open_model
from llm_from_scratch.run import read_rows

KINDS, PLACES = ("lion", "witch", "dog", "girl", "wizard"), ("wood", "city", "farm", "west")
SMALL = (
    *("data=chat", "data.path=chat.jsonl", "data.batch_size=4", "model=tiny", "model.n_layer=2", "model.n_embd=32"),
    *("model.n_head=2", "model.block_size=64", "tokenizer.vocab_size=320", "trainer=cpu", "sample.max_new_tokens=8"),
    *("logger=none", "optim.warmup_steps=2", "optim.lr=3e-3", "trainer.val_check_interval=3"),
)


def write_chat(folder: Path) -> None:
    rows = []
    for number in range(60):
        kind, place = KINDS[number % 5], PLACES[number % 4]
        turn = [
            {"role": "user", "content": f"Where is the {kind}?"},
            {"role": "assistant", "content": f"In the {place}, since {number} days."},
        ]
        rows.append({"messages": turn * (1 + number % 3)})
    (folder / "chat.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_here: InProcess) -> InProcess:
    """`train_here`, in a folder with chat.jsonl."""
    write_chat(tmp_path)
    monkeypatch.chdir(tmp_path)
    return train_here


def test_the_validation_is_of_every_answer_alone(tmp_path: Path, train: InProcess) -> None:
    status, said = train(*SMALL, "trainer.max_steps=6", "run_dir=run")
    assert status == 0, said
    loaded = open_model("run")
    (folder,) = (tmp_path / "data/chat").glob("prepared-*[!k]")
    prepared = open_prepared(folder)
    assert isinstance(prepared, Conversations)
    documents, nats, count, size = prepared.learned("val"), 0.0, 0, 0
    special = set(loaded.tokenizer.special.values())
    for number in range(len(documents.ends)):
        ids, mask = documents.document(number, 65)
        targets = torch.tensor(np.where(mask[1:], ids[1:].astype(np.int64), IGNORE))[None]
        loss = loaded.model.loss(torch.tensor(ids[:-1].astype(np.int64))[None], targets, reduction="sum")
        nats, count = nats + loss.item(), count + int(mask[1:].sum())
        answers = [i for i, learned in zip(ids[1:].tolist(), mask[1:], strict=True) if learned and i not in special]
        size += len(loaded.tokenizer.decode_bytes(answers))
    best = next(row for row in read_rows(tmp_path / "run/metrics.jsonl") if row["split"] == "val" and row["step"] == 6)
    assert best["loss"] == pytest.approx(nats / count, rel=1e-5)
    assert best["bits_per_byte"] == pytest.approx(nats / size / np.log(2), rel=1e-5)


def test_a_run_knows_how_to_chat(tmp_path: Path, train: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    from llm_from_scratch.cli import main

    status, said = train(*SMALL, "trainer.max_steps=3", "run_dir=run")
    assert status == 0, said
    assert "chat run" in said
    loaded = open_model("run")
    assert loaded.end_ids == (loaded.tokenizer.special["<|im_end|>"],)
    assert loaded.chat_template is not None
    assert "<|im_start|>user\n    Where is the" in (tmp_path / "run/samples.md").read_text(encoding="utf-8")
    # An export has both, and goes on as a model to train: its template is taken over.
    main(["export", "run", "out", "--to", "hf"])
    exported = open_model("out")
    assert (exported.end_ids, exported.chat_template) == (loaded.end_ids, loaded.chat_template)
    assert exported.tokenizer.special == loaded.tokenizer.special
    status, said = train(
        *SMALL[:3], "trainer=cpu", "init_from=run", "trainer.max_steps=1", "run_dir=next", "logger=none"
    )
    assert status == 0, said
    assert open_model("next").chat_template == loaded.chat_template
    # Trained on a text, a model keeps the template that it came with.
    (tmp_path / "story.txt").write_text("The lion is in the wood. " * 100, encoding="utf-8")
    text = ("data=text", "data.path=story.txt", "data.batch_size=2", "trainer=cpu", "init_from=run", "logger=none")
    status, said = train(*text, "trainer.max_steps=1", "run_dir=text")
    assert status == 0, said
    assert (open_model("text").chat_template, open_model("text").end_ids) == (loaded.chat_template, loaded.end_ids)
    capsys.readouterr()
    main(["inspect", *SMALL[:8], "init_from=run", "--json", "--chunks", "1"])
    shown = json.loads(capsys.readouterr().out)
    first, second, *_ = shown["conversations"]["train"][0]
    assert (first["learned"], second["learned"]) == (False, True)
    assert first["text"].endswith("<|im_start|>assistant\n")
    assert second["text"].endswith(" days.<|im_end|>")
    main(["inspect", *SMALL[:8], "init_from=run", "--chunks", "1"])
    assert " days.<|im_end|>«" in capsys.readouterr().out


def test_a_stop_and_other_micro_batches(tmp_path: Path, train: InProcess) -> None:
    """A stopped run goes on as if it had not been; other micro-batches change rounding alone."""
    words = (*SMALL, "optim.schedule=constant", "trainer.log_every_n_steps=1", "model.dropout=0.1")
    assert train(*words, "trainer.max_steps=6", "run_dir=whole")[0] == 0
    assert train(*words, "trainer.max_steps=3", "run_dir=stopped")[0] == 0
    status, said = train("resume=stopped", "trainer.max_steps=6")
    assert status == 0, said
    names = ("metrics.jsonl", "model/model.safetensors", "model/config.json")
    for name in names:
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert train(*words, "trainer.max_steps=6", "data.micro_batch_size=1", "run_dir=parts")[0] == 0
    for one, other in zip(*(read_rows(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts")), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_too_long_ones_are_told(train: InProcess) -> None:
    small = [word for word in SMALL if not word.startswith("model.block_size")]
    words = ("model.block_size=48", "data.too_long=skip", "data.val_fraction=0.4", "trainer.max_steps=1", "run_dir=run")
    status, said = train(*small, *words)
    assert status == 0, said
    assert "conversations 0 are cut after 49 tokens" in said
    status, said = train(*small, "model.block_size=4", "trainer.max_steps=1", "run_dir=none")
    assert status == 2
    assert "no answer within 5 tokens" in said.splitlines()[-1]


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    write_chat(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(REPO / "src")}

    def start(*words: str) -> "subprocess.Popen[bytes]":
        quiet = subprocess.DEVNULL
        arguments = [sys.executable, str(REPO / "train.py"), *words]
        return subprocess.Popen(arguments, cwd=tmp_path, env=environment, stdout=quiet, stderr=quiet)

    words = (*SMALL, "trainer.max_steps=60", "trainer.log_every_n_steps=1", "data.micro_batch_size=2")
    assert start(*words, "run_dir=whole").wait() == 0
    rows = tmp_path / "killed/metrics.jsonl"
    for kill, steps in enumerate((4, 20, 43)):
        process = start(*words, "run_dir=killed") if kill == 0 else start("resume=killed")
        while process.poll() is None and (not rows.exists() or rows.read_text().count('"train"') < steps):
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.wait()
    assert start("resume=killed").wait() == 0
    for name in ("metrics.jsonl", "model/model.safetensors", "model/config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
