"""The likelihood of a text, summed up a batch at a time, against plain loops over all of its
tokens; and what a long text costs.
"""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import story

from llm_from_scratch.data.long_texts import PIECE, LongText
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation import likelihood as measuring
from llm_from_scratch.evaluation import texts
from llm_from_scratch.evaluation.likelihood import (
    PASSAGE,
    SHOWN,
    PassageNats,
    PositionNats,
    encode,
    likelihood,
    token_bytes,
    token_pieces,
)
from llm_from_scratch.evaluation.results import as_json
from llm_from_scratch.evaluation.scoring import Scorer, Windows
from llm_from_scratch.evaluation.texts import Text, other_text
from llm_from_scratch.kernels import IGNORE
from llm_from_scratch.tokenizer import CharTokenizer, Tokenizer
from llm_from_scratch.weights import LoadedModel, load_model


def plainly(tokenizer: Tokenizer, ids: np.ndarray, nats: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """The extremes, block by block."""
    blocks: dict[int, list[tuple[str, float]]] = {}
    place = 0
    for piece, bits in token_pieces(tokenizer, ids, nats):
        blocks.setdefault(place // PASSAGE, []).append((piece, bits))
        place += len(piece.encode())
    rows = []
    for pieces in blocks.values():
        size = sum(len(piece.encode()) for piece, _ in pieces)
        if size >= PASSAGE // 2:
            own = [[piece, round(bits, 3)] for piece, bits in pieces]
            rows.append({"bits_per_byte": pytest.approx(sum(bits for _, bits in pieces) / size), "pieces": own})
    rows.sort(key=lambda row: -row["bits_per_byte"].expected)
    return {"worst": rows[:SHOWN], "best": rows[-SHOWN:][::-1]}


def extremes(tokenizer: Tokenizer, ids: np.ndarray, nats: np.ndarray, at_once: int) -> dict[str, Any]:
    lengths, passages = token_bytes(tokenizer)[ids], PassageNats(tokenizer)
    for start in range(0, len(ids), at_once):
        part = slice(start, start + at_once)
        passages.add(ids[part], nats[part], lengths[part])
    return as_json(passages.extremes())  # type: ignore[no-any-return]


@pytest.mark.parametrize("at_once", [7, 100, 10_000])
@pytest.mark.parametrize("whole", [False, True])
def test_the_passages_are_those_of_a_plain_loop(finished: Path, whole: bool, at_once: int) -> None:
    tokenizer = load_model(finished / "run").tokenizer
    documents = [story(1500, seed=i) + "木é👩‍👩‍👧 “" * 30 for i in range(3)] + ["é", ""]
    ids = encode(tokenizer, documents, whole)
    nats = np.random.default_rng(0).exponential(size=len(ids))
    assert extremes(tokenizer, ids, nats, at_once) == plainly(tokenizer, ids, nats)


@pytest.mark.parametrize(("tokens", "context"), [(45, 8), (48, 8), (5, 8), (1, 8), (70, 12)])
def test_the_loss_by_place_is_that_of_all_tokens_at_once(tokens: int, context: int) -> None:
    nats = np.random.default_rng(0).exponential(size=tokens)
    size = min(tokens, context)
    windows = [size] * (tokens // size) + [tokens % size]
    places, positions = np.arange(tokens) % size, PositionNats(windows)
    for part in np.array_split(np.arange(tokens), 3):
        positions.add(nats[part], places[part])
    rows = positions.rows()
    assert rows[0].first == 1
    for row in rows:
        assert row.loss == pytest.approx(nats[(places >= row.first - 1) & (places < row.last)].mean())
    assert [after.first for after in rows[1:]] == [row.last + 1 for row in rows[:-1]]


def test_a_long_document_is_encoded_as_the_whole_of_it(finished: Path) -> None:
    tokenizer = load_model(finished / "run").tokenizer
    text = (story(20_000) * (PIECE // 20_000 + 2))[: PIECE + 5000]
    assert encode(tokenizer, [text], False).tolist() == tokenizer.encode(text)


def test_an_unknown_character_of_a_long_document_is_counted_from_its_beginning() -> None:
    tokenizer = CharTokenizer("ab")
    with pytest.raises(UserError, match=f"at index {PIECE + 7} "):
        encode(tokenizer, ["a" * (PIECE + 7) + "c"], False)


def test_a_long_file_is_scored_from_the_disk(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, path = load_model(finished / "run"), tmp_path / "text.txt"
    path.write_bytes(("\ufeff" + story(20_000) * 60).replace("é", "e\u0301").replace("\n", "\r\n").encode())
    found = []
    for long in (2**30, 2**20):
        monkeypatch.setattr(texts, "LONG", long)
        text = other_text(str(path))
        found.append((text.info(), text.joined, encode(run.tokenizer, text.documents, text.whole).tolist()))
        assert isinstance(text.documents[0], LongText) == (long == 2**20)
    assert found[0] == found[1]


def constant_nats(model: Scorer, batches: Windows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _, y in batches:
        counted = y != IGNORE
        yield np.ones(counted.sum(), dtype=np.float32), np.nonzero(counted)[1]


def test_what_a_character_more_costs_are_its_ids(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes an id, twice while they are joined, and a hundredth of that for the sums of blocks
    and passages.
    """
    monkeypatch.setattr(measuring, "score", constant_nats)
    run = load_model(finished / "run")
    run = LoadedModel(run.model, CharTokenizer("".join(sorted(set(story(20_000))))), 1, 1.0)
    peaks = []
    for times in (100, 250):
        text = Text("made", (story(20_000) * times,), whole=False)
        tracemalloc.start()
        found = likelihood(run, text, batch_size=512)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.figures["tokens"] == 20_000 * times
        assert found.figures["loss"] == pytest.approx(1.0)
    assert peaks[1] - peaks[0] < 4.1 * 150 * 20_000


def test_the_work_of_the_passages_is_linear(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_model(finished / "run").tokenizer
    looked: list[int] = []
    monkeypatch.setattr(measuring, "token_pieces", lambda tokenizer, ids, nats: looked.append(len(ids)) or [("x", 1.0)])
    for times in (1, 8):
        ids = encode(tokenizer, [story(20_000)] * times, False)
        extremes(tokenizer, ids, np.ones(len(ids)), at_once=5000)
        assert sum(looked) < 2 * SHOWN * 2 * PASSAGE
        looked.clear()
