"""What `inspect` counts, against a text small enough to count by hand."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import Process

from llm_from_scratch.config import BatchConfig, DataConfig, TokenizerConfig
from llm_from_scratch.data.inspection import frequencies, inspect, lengths, readable
from llm_from_scratch.data.prepare import Prepared, prepare
from llm_from_scratch.tokenizer import CharTokenizer


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    (tmp_path / "texts").mkdir()
    for number in range(40):
        (tmp_path / "texts" / f"{number:02}.txt").write_text("abé " * (number + 1), encoding="utf-8")
    data = DataConfig(name="text", path=str(tmp_path / "texts"), dir=str(tmp_path / "data"), val_fraction=0.3)
    return prepare(data, TokenizerConfig(kind="char", vocab_size=None))


def test_special_tokens_are_shown_by_their_names() -> None:
    tokenizer = CharTokenizer("ab")
    end, (a, b) = tokenizer.eot_id, tokenizer.encode("ab")
    assert readable([end, a, b, end, end, a], tokenizer) == "<|endoftext|>ab<|endoftext|><|endoftext|>a"
    assert readable([], tokenizer) == ""


def test_lengths_by_hand() -> None:
    found = lengths(np.array([1, 2, 3, 4, 7, 8, 100], dtype=np.uint64))
    assert found["histogram"] == [
        {"from": 1, "below": 2, "documents": 1},
        {"from": 2, "below": 4, "documents": 2},
        {"from": 4, "below": 8, "documents": 2},
        {"from": 8, "below": 16, "documents": 1},
        {"from": 64, "below": 128, "documents": 1},
    ]
    assert (found["min"], found["median"], found["p90"], found["max"]) == (1, 4, 100, 100)
    assert found["mean"] == pytest.approx(125 / 7)


def test_frequencies_of_a_part_of_every_shard() -> None:
    shards = [np.array([0, 1, 1, 2], "<u2"), np.array([3, 3, 0, 0], "<u2")]
    assert frequencies(shards, 5).tolist() == [3, 2, 1, 2, 0]
    assert frequencies(shards, 5, limit=4).tolist() == [1, 1, 0, 2, 0]  # half of each


def test_everything_by_hand(prepared: Prepared) -> None:
    sampler = prepared.sampler(BatchConfig(batch_size=8), block_size=12, seed=1)
    result = inspect(prepared, sampler, chunks=3, pieces=10)
    train = list(prepared.documents("train"))
    characters = Counter("".join(train))
    row = result["splits"]["train"]
    assert row["documents"] == len(train)
    assert row["text_bytes"] == len("".join(train).encode())
    assert row["tokens"] == len("".join(train)) + len(train)  # an end each
    assert row["bytes_a_token"] == pytest.approx(row["text_bytes"] / row["tokens"])
    assert sum(bar["documents"] for bar in row["lengths"]["histogram"]) == len(train)
    assert row["lengths"]["max"] == max(map(len, train)) + 1
    found = {one["piece"]: one["count"] for one in result["pieces"]["most_frequent"]}
    assert found == dict(characters) | {"<eot>": len(train)}
    ids, _ = sampler.batch(0)
    for chunk, expected in zip(result["chunks"], ids, strict=False):
        assert chunk["ids"] == expected.tolist()
        text = "".join("" if one == "<eot>" else one for one in chunk["pieces"])
        assert text == prepared.tokenizer.decode(chunk["ids"])
    assert len(result["chunks"]) == 3


def test_the_command(command: Process, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Once upon a time there was [red]a fox[/red]. " * 100, encoding="utf-8")
    settings = ("data=text", "data.path=story.txt", "tokenizer=char", "model.block_size=16")
    shown = command("inspect", *settings)
    assert shown.returncode == 0, shown.stderr
    for words in ("bytes a token", "chunk at", "[|r|e|d|]", "Most frequent of"):
        assert words in shown.stdout
    done = command("inspect", *settings, "data.stream=text", "--json", "--chunks", "1")
    result = json.loads(done.stdout)
    assert result["splits"]["train"]["tokens"] is None
    assert result["pieces"]["split"] == "val"
    assert len(result["chunks"][0]["ids"]) == 16
