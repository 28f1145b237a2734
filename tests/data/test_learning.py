"""The text that a tokenizer learns from."""

from pathlib import Path

import pytest
from conftest import story
from containers import CHARS, jsonl
from small_corpora import mix

from llm_from_scratch.config import TokenizerConfig
from llm_from_scratch.data import learning
from llm_from_scratch.data.corpus import mixed_corpora, plan_corpus
from llm_from_scratch.data.prepare import SPLITS, prepare


def test_the_tokenizer_learns_from_each_by_its_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = mix(tmp_path)
    corpora = [plan_corpus(one, TokenizerConfig(), None) for one in mixed_corpora(data).values()]
    weights = list((data.mix or {}).values())
    monkeypatch.setattr(learning, "SAMPLE_BYTES", 4000)
    texts = list(learning.mixed_text(corpora, weights, "bpe")["train"])
    assert [len(text.encode()) for text in texts] == [pytest.approx(3000, abs=3), pytest.approx(1000, abs=3)]
    for text, number in zip(texts, (1, 2), strict=True):
        assert story(9_000 * number, number).startswith(text)
    everything = list(learning.mixed_text(corpora, weights, "char")["train"])
    assert [len(text) for text in everything] == [8_100, 16_200]  # the last tenth validates


def test_a_mixture_learns_from_the_documents_that_it_takes(tmp_path: Path) -> None:
    for part in range(3):
        rows = [f"{part} {i} {'word ' * 20}" for i in range(20)]
        (tmp_path / f"{part}.jsonl").write_bytes(jsonl(rows))
    one = {"path": str(tmp_path / "*.jsonl"), "keep_text": False, "shard_bytes": 1, "max_docs": 25, "val_fraction": 0.3}
    data = mix(tmp_path, mix={"rows": 1.0}, corpora={"rows": one})
    corpora = [plan_corpus(settings, TokenizerConfig(), None) for settings in mixed_corpora(data).values()]
    learned = [text for texts in learning.mixed_text(corpora, [1.0], "char").values() for text in texts]
    prepared = prepare(data, CHARS)
    assert len(learned) == 25
    assert sorted(learned) == sorted(text for split in SPLITS for text in prepared.documents(split))
