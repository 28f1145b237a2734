"""data=tales: told stories as a corpus, prepared like any other, or fresh in every step."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import KILLER, REPO, InProcess, write_killer

from llm_from_scratch import tales
from llm_from_scratch.config import DataConfig, PrepareConfig, TokenizerConfig
from llm_from_scratch.data import told
from llm_from_scratch.data.fresh import FreshSampler, fresh_stories
from llm_from_scratch.data.packing import PackedRows
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.data.prepared import Prepared, Stories
from llm_from_scratch.data.sampler import ValidationWindows
from llm_from_scratch.errors import UserError

BPE = TokenizerConfig(vocab_size=1024)


def settings(folder: Path, **changes: Any) -> DataConfig:
    values: dict[str, Any] = {"level": 1, "stories": 60, "val_stories": 25, "batch_size": 4} | changes
    return DataConfig(name="tales", dir=str(folder), **values)


def contents(prepared: Prepared) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(prepared.folder.iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Stories:
    prepared = prepare(settings(tmp_path_factory.mktemp("tales"), stream="fresh"), BPE)
    assert isinstance(prepared, Stories)
    return prepared


# -------------------------------------------------------------------------------------------- files
def test_the_stories_of_each_split_are_those_of_the_process(tmp_path: Path) -> None:
    prepared = prepare(settings(tmp_path), BPE)
    for split, count in (("train", 60), ("val", 25)):
        stories = list(prepared.documents(split))
        assert stories == list(tales.stories(0, 0, count, 1, split))
        assert {tales.split_of(story) for story in stories} == {split}
    assert isinstance(prepared, Stories)
    assert prepared.level == 1
    assert not any(prepared.manifest["cleaned"].values())


def test_files_are_told_once_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "A_FILE", 40)
    files = told.told_files(1, 100, 10, tmp_path)
    names = ["train_level1_0-40", "train_level1_40-80", "train_level1_80-100", "val_level1_0-10"]
    assert [name for name, _ in files] == [f"{name}.jsonl" for name in names]
    rows = [json.loads(line)["text"] for _, path in files for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == [*tales.stories(0, 0, 100, 1, "train"), *tales.stories(0, 0, 10, 1, "val")]
    inode = files[0][1].stat().st_ino
    files[1][1].write_bytes(files[1][1].read_bytes().replace(b"Once", b"Ones"))
    with pytest.raises(UserError, match=r"40-80\.jsonl: is missing, or no more what this version tells"):
        told.told_files(1, 100, 10, tmp_path, write=False)
    assert told.told_files(1, 100, 10, tmp_path) == files
    assert files[0][1].stat().st_ino == inode
    assert b"Ones" not in files[1][1].read_bytes()
    told.told_files(1, 100, 10, tmp_path, write=False)


def test_any_number_of_workers_makes_the_same_bytes(tmp_path: Path) -> None:
    made = {}
    for workers in (1, 2):
        large = settings(tmp_path / str(workers), keep_text=False, shard_bytes=20_000)
        made[workers] = contents(prepare(large, BPE, settings=PrepareConfig(workers=workers)))
    assert made[1] == made[2]
    assert {"train_00000.bin", "val_00001.bin"} <= made[1].keys()
    # The same documents as of a small corpus, and none of validation among those to train on.
    small = prepare(settings(tmp_path / "small"), BPE)
    large_text = prepare(settings(tmp_path / "1", keep_text=False, shard_bytes=20_000), BPE)
    for split in ("train", "val"):
        stories = [text.removesuffix("<|endoftext|>") for text in large_text.documents(split)]
        assert stories == list(small.documents(split))


# ------------------------------------------------------------------------------------------- fresh
def test_a_fresh_sequence_is_stories_from_their_beginning(small: Stories) -> None:
    sampler = small.sampler(settings(small.folder, stream="fresh"), block_size=500, seed=3)
    x, y = sampler.batch(7)
    assert x.shape == y.shape == (4, 500)
    assert x.dtype == np.int64
    assert np.array_equal(x[:, 1:], y[:, :-1])
    eot = small.tokenizer.eot_id
    told_so_far = set()
    for row, number in zip(x, sampler.places(7), strict=True):
        assert row[0] == eot
        ends = np.flatnonzero(row == eot)
        for place, (start, end) in enumerate(pairwise(ends)):
            story = small.tokenizer.decode(row[start + 1 : end].tolist())
            assert story == tales.tell(3 + 2**32, int(number) + place, 1, "train")
            told_so_far.add(story)
        last = small.tokenizer.decode(row[ends[-1] + 1 :].tolist())
        assert tales.tell(3 + 2**32, int(number) + len(ends) - 1, 1, "train").startswith(last)
    held_out = set(small.documents("val"))
    read = set(fresh_stories(1, 3, [4] * 8, 2500))
    assert told_so_far <= read
    assert not read & (held_out | set(small.documents("train")))
    assert {tales.split_of(story) for story in read} == {"train"}


def test_fresh_batches_are_functions_of_seed_and_step(small: Stories) -> None:
    def sampler(**place: int) -> FreshSampler:
        found = small.sampler(settings(small.folder, stream="fresh"), **{"block_size": 64, "seed": 3} | place)
        assert isinstance(found, FreshSampler)
        return found

    whole = sampler().batch(5)[0]
    assert np.array_equal(whole, sampler().batch(5)[0])
    assert not np.array_equal(whole, sampler().batch(6)[0])
    assert not np.array_equal(whole, sampler(seed=4).batch(5)[0])
    parts = [sampler(rank=rank, world_size=2).batch(5, micro, 2)[0] for rank in (0, 1) for micro in (0, 1)]
    assert np.array_equal(np.concatenate(parts), whole)
    numbers = np.concatenate([sampler().places(step) for step in (0, 1, 2**20)])
    assert len(set(numbers.tolist())) == 12


def test_validation_reads_each_story_from_its_beginning(small: Stories) -> None:
    data = settings(small.folder, stream="fresh")
    rows = small.validation(data, 400)
    assert isinstance(rows, PackedRows)
    (x, y, documents) = next(iter(rows.batches(len(rows))))
    stories = set(small.documents("val"))
    eot, seen = small.tokenizer.eot_id, set()
    for row, wanted, number in zip(x, y, documents, strict=True):
        for one in range(int(number.max()) + 1):
            learned = wanted[(number == one) & (wanted >= 0)]
            if not len(learned):
                continue  # padding
            assert row[number == one][0] == eot
            assert learned[-1] == eot
            seen.add(small.tokenizer.decode(learned[:-1].tolist()))
    assert seen == stories
    assert small.scored_bytes(data, 400) == sum(len(story.encode()) for story in stories)
    windows = small.validation(data, 64)
    assert isinstance(windows, ValidationWindows)
    assert windows.tokens == small.manifest["splits"]["val"]["tokens"]


RUN = (
    *("data=tales", "data.level=1", "data.stream=fresh", "data.stories=60", "data.val_stories=25", "data.batch_size=2"),
    *("model.block_size=320", "model.n_layer=1", "model.n_embd=32", "model.n_head=2", "tokenizer.vocab_size=1024"),
    *("trainer=cpu", "logger=none", "sample.max_new_tokens=0"),
)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_run_on_fresh_stories_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    """Killed in steps 5 and 8 of 9, of which no checkpoint is made."""
    write_killer(tmp_path)

    def process(*words: str, kill_at: int | None = None) -> int:
        environment = os.environ | {"PYTHONPATH": f"{REPO / 'src'}{os.pathsep}{tmp_path}", "KILL_AT": str(kill_at)}
        command = [sys.executable, REPO / "train.py", *words]
        return subprocess.run(command, env=environment, cwd=tmp_path, check=False, capture_output=True).returncode

    words = (*RUN, "trainer.max_steps=9", "trainer.val_check_interval=3", KILLER)
    assert process(*words, "run_dir=whole") == 0
    assert process(*words, "run_dir=killed", kill_at=5) == -signal.SIGKILL
    shutil.rmtree(tmp_path / "data" / "tales" / "told")  # it can be told again, and is not needed
    assert process("resume=killed", kill_at=8) == -signal.SIGKILL
    assert process("resume=killed") == 0
    for name in ("metrics.jsonl", "model/model.safetensors", "checkpoints/step_00000009/tensors.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


# ----------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data=text", "data.stream=fresh"), "data.stream=fresh tells new stories for every step: use data=tales"),
        (("data=tales", "data.level=5"), "data.level=5: must be 1, 2, 3 or 4"),
        (("data=tales", "data.stories=0"), "data.stories=0: must be above 0"),
        (
            ("data=tales", "data.path=a.txt"),
            "data.path=a.txt: changes nothing without no data.generator and no data.level",
        ),
        (("data=tales", "data.val_fraction=0.2"), "data.val_fraction=0.2: changes nothing without neither"),
        (("data=tales", "data.separator=x"), "data.separator=x: changes nothing without texts in files"),
        (("data=oz", "data.level=2"), "data.level=2: changes nothing without data=tales"),
        (("data=oz", "data.stories=2"), "data.stories=2: changes nothing without data=tales"),
        (("data=mix", "data.mix={tales: 1}", "data.stream=fresh"), "data.stream=fresh tells new stories"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_a_line(
    words: tuple[str, ...], said: str, tmp_path: Path, train_here: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, error = train_here(*words)
    assert (status, error.count("\n")) == (2, 1), error
    assert said in error
    assert not list(tmp_path.iterdir())


def test_a_mixture_may_hold_tales(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Once upon a time there was a king. " * 100, encoding="utf-8")
    tale = {"name": "tales", "level": 1, "stories": 40, "val_stories": 20}
    data = DataConfig(
        name="mix",
        dir=str(tmp_path / "data"),
        mix={"tales": 1.0, "a": 1.0},
        corpora={"tales": tale, "a": {"path": str(tmp_path / "a.txt")}},
    )
    mixed = prepare(data, BPE)
    assert set(tales.stories(0, 0, 20, 1, "val")) <= set(mixed.documents("val"))
    assert mixed.validation(replace(data, batch_size=2), 64).tokens > 0  # type: ignore[union-attr]
