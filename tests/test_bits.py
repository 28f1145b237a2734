"""One flipped bit in any file of a run or of its data is refused, or warned of, or changes nothing
that is read.
"""

import logging
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPO, SMALL, run, story

from llm_from_scratch.check import check
from llm_from_scratch.checkpoint import load_state, newest_state
from llm_from_scratch.config import BatchConfig, Config, DataConfig, TokenizerConfig
from llm_from_scratch.data.prepare import SPLITS, prepare
from llm_from_scratch.data.prepared import open_prepared
from llm_from_scratch.environment import read_environment
from llm_from_scratch.errors import UserError
from llm_from_scratch.run import line_checksums, read_rows, read_samples
from llm_from_scratch.saved_config import read_run
from llm_from_scratch.weights import load_model

# Nothing reads these again: a lock, a picture, TensorBoard's points, Hydra's notes.
UNREAD = (".lock", "curves.png", "tensorboard", ".hydra")


def plain(value: Any) -> Any:
    """Tensors and arrays as their bytes, so that a state can be compared."""
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def model(folder: Path) -> Any:
    found = load_model(folder / "run")
    weights = plain(dict(found.model.named_parameters()))
    return weights, found.model.config, found.step, found.loss, found.tokenizer.fingerprint


def state(folder: Path) -> Any:
    newest = newest_state(folder / "run")
    assert newest is not None
    return newest.name, plain(load_state(newest))


def prepared(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        text = open_prepared(folder / "data/text" / name)
        shards = {split: [plain(shard.tokens) for shard in text.shards(split)] for split in SPLITS}
        documents = {split: list(text.documents(split)) for split in SPLITS}
        sampler = text.sampler(BatchConfig(stream=text.manifest["stream"], batch_size=4), block_size=8, seed=1)
        return shards, documents, plain(sampler.batch(3)), text.manifest["sha256"], text.tokenizer.fingerprint

    return read


def reader(name: str) -> Callable[[Path], Any]:
    """What reads a file, by its name below the folder."""
    part, _, rest = name.partition("/")
    if part == "data":
        return prepared(rest.split("/")[1])
    if rest == "config.yaml":
        return lambda folder: check(read_run(folder / "run"), Config)
    # The rows, or the checksums that they are held against
    rows = re.fullmatch(r"\.?(\w+\.jsonl)(\.crc32)?", rest)
    if rows:
        return lambda folder: read_rows(folder / "run" / rows[1])
    if rest == "samples.md":  # a record of text: it is read as far as it goes
        return lambda folder: len(read_samples(folder / name)) and None
    if rest == "environment.json":  # a record that nothing else follows from
        return lambda folder: read_environment(folder / "run") and None
    return {"model": model, "checkpoints": state}[rest.split("/")[0]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the text itself, and the same text as tokens: every kind of file that there is."""
    folder = tmp_path_factory.mktemp("bits")
    (folder / "story.txt").write_text(story(8_000), encoding="utf-8")
    small = (*SMALL[:-2], "tokenizer=char", "trainer=cpu", "sample.max_new_tokens=4", "model.n_embd=16")
    words = ("data.stream=text", "trainer.max_steps=20", "trainer.val_check_interval=10", "run_dir=run")
    words = tuple(word for word in (*small, *words) if word not in ("tokenizer.vocab_size=320", "model.n_embd=32"))
    done = run([str(REPO / "train.py"), *dict.fromkeys(words)], folder)
    assert done.returncode == 0, done.stderr
    prepare(
        DataConfig(name="text", path=str(folder / "story.txt"), dir=str(folder / "data")),
        TokenizerConfig(kind="char", vocab_size=None),
    )
    return folder


def flip(whole: Path, folder: Path, count: int, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(whole, folder)
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size and not any(part in UNREAD for part in path.parts)
    )
    names = [name for name in names if name.partition("/")[0] in ("run", "data") and not name.endswith(".lock")]
    assert {"run/config.yaml", "run/metrics.jsonl", "run/model/config.json"} <= {*names}
    assert {name.rsplit("/", 1)[1] for name in names if name.startswith("data")} >= {
        "train.txt",
        "train.ends",
        "manifest.json",
    }
    wanted = {name: reader(name)(folder) for name in names}
    draw, silent = random.Random(0), []
    for number in range(count):
        name = names[number % len(names)]
        path = folder / name
        good = path.read_bytes()
        place, bit = draw.randrange(len(good)), draw.randrange(8)
        bad = bytearray(good)
        bad[place] ^= 1 << bit
        path.write_bytes(bad)
        caplog.clear()
        try:
            found = reader(name)(folder)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 -- a refusal is one of three good ends
        else:
            warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
            if found != wanted[name] and len(warned) != 1:
                silent.append((name, place, bit))
        path.write_bytes(good)
    assert silent == []


def test_a_flipped_bit_changes_nothing_in_silence(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip(whole, tmp_path / "copy", 150, caplog)


@pytest.mark.slow
def test_a_thousand_flipped_bits(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flip(whole, tmp_path / "copy", 1000, caplog)


def test_every_whole_row_is_recovered(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    line_checksums(path).write_bytes(line_checksums(whole / "run/metrics.jsonl").read_bytes())
    lines = (whole / "run/metrics.jsonl").read_bytes().splitlines(keepends=True)
    rows = read_rows(whole / "run/metrics.jsonl")
    path.write_bytes(b"".join([lines[0], b"\xff" + lines[1][1:], *lines[2:]]))
    assert read_rows(path) == [rows[0], *rows[2:]]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: damaged lines are left out, 1 in all: line 2"
    ]
    path.write_bytes(b"".join([lines[0], lines[1][:-1] + b"\x0b", *lines[2:]]))  # the end of a line
    assert read_rows(path) == rows
    path.write_bytes(b"".join([*lines[:-1], lines[-1][:-9]]))  # a kill
    caplog.clear()
    assert read_rows(path) == rows[:-1]
    assert caplog.records == []
    # A row that can still be read
    path.write_bytes(b"".join(lines).replace(b'"loss": 3', b'"loss": 2', 1))
    assert len(read_rows(path)) == len(rows) - 1
