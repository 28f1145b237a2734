"""The text that a tokenizer learns from."""

from pathlib import Path

import pytest
from conftest import story
from small_corpora import mix

from llm_from_scratch.config import TokenizerConfig
from llm_from_scratch.data import learning
from llm_from_scratch.data.corpus import mixed_corpora, plan_corpus


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
