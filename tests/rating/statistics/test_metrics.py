"""Correlations with metrics: the metric that people follow comes out, and what is missing is told."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from llm_from_scratch.errors import UserError
from llm_from_scratch.rating.records import Text
from llm_from_scratch.rating.statistics.metrics import Judgements, correlations, measure, read_evaluation

WORDS = [
    "the",
    "tin",
    "man",
    "and",
    "the",
    "lion",
    "went",
    "down",
    "the",
    "yellow",
    "road",
    "to",
    "find",
    "a",
    "wizard",
    "in",
    "a",
    "green",
    "city",
    "far",
    "away",
]


def study(human: bool = True, seed: int = 0) -> tuple[dict[int, Text], Judgements]:
    """People like long texts without repetitions; the text of system k has more words the larger k."""
    rng = np.random.default_rng(seed)
    texts, rows = {}, []
    for prompt in range(15):
        for number, system in enumerate(["a", "b", "c", *(["human"] if human else [])]):
            length = int(rng.integers(5, 12)) + 4 * number
            written = " ".join(rng.choice(WORDS, length))
            one = Text(id=len(texts) + 1, prompt=prompt, system=system, given="g", continuation=written)
            texts[one.id] = one
            for rater in rng.choice(6, 3, replace=False):
                rows.append((one.id, rater, prompt, np.clip(round(length / 5 + rng.normal(0, 0.5)), 1, 5)))
    text, rater, prompt, value = (np.array(column) for column in zip(*rows, strict=True))
    return texts, Judgements(text=text, rater=rater, prompt=prompt, value=value)


def test_what_people_follow_comes_out_first() -> None:
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    texts, judged = study()
    measured = measure(judged.text.tolist(), texts, {"bits per byte": {"a": 3.0, "b": 2.0, "c": 1.5}})
    rows = {(row.metric, row.over): row for row in correlations("fluency", judged, texts, measured)}
    words = rows["words", "texts"]
    assert words.count == 60
    assert words.spearman is not None
    assert words.spearman > 0.8
    assert words.kendall is not None
    assert words.kendall > 0.6
    assert words.spearman_low is not None
    assert 0.6 < words.spearman_low < words.spearman < (words.spearman_high or 0) < 1
    assert rows["words", "systems"].spearman == pytest.approx(1)
    assert rows["bits per byte", "systems"].spearman == pytest.approx(-1)  # lower is better
    assert rows["bits per byte", "systems"].count == 3
    assert rows["chrF", "texts"].count == 45  # the true continuations are not compared with themselves
    assert not measured.left_out


def test_without_a_true_continuation_there_is_nothing_to_compare_with() -> None:
    texts, judged = study(human=False)
    measured = measure(judged.text.tolist(), texts, {})
    assert set(measured.of_texts) == {"words", "distinct-2", "repetition"}


def test_a_missing_library_is_told_once_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, judged = study()
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    measured = measure(judged.text.tolist(), texts, {})
    assert [line.split(":")[0] for line in measured.left_out] == ["BLEU", "chrF"]
    assert "BLEU" not in measured.of_texts
    assert "words" in measured.of_texts


def test_few_texts_or_systems_have_no_correlation() -> None:
    texts, judged = study()
    few = judged.text <= 3
    own = Judgements(**{name: getattr(judged, name)[few] for name in ("text", "rater", "prompt", "value")})
    measured = measure(own.text.tolist(), texts, {})
    assert {row.over for row in correlations("fluency", own, texts, measured)} <= {"systems"}


def evaluation(folder: Path, **row: object) -> Path:
    path = folder / "report.json"
    path.write_text(json.dumps({"runs": [{"run": str(folder / "run"), **row}]}), encoding="utf-8")
    return path


def test_metrics_of_an_evaluation(tmp_path: Path) -> None:
    path = evaluation(tmp_path, bits_per_byte=1.7, perplexity_word=300, generated={"bertscore": 0.8, "words": 5})
    found = read_evaluation(path, {"tiny": str(tmp_path / "run"), "other": "elsewhere"})
    assert found == {"bits per byte": {"tiny": 1.7}, "perplexity a word": {"tiny": 300.0}, "BERTScore": {"tiny": 0.8}}


@pytest.mark.parametrize("text", ["", "[]", '{"runs": 3}', '{"runs": [3]}', "[" * 100_000, '{"runs": [{"run": "x"}]}'])
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_evaluation(path, {"tiny": str(tmp_path / "run")})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_evaluation(tmp_path / "none.json", {})


@pytest.mark.parametrize("generated", [None, [1], "text", {"bertscore": float("inf")}])
def test_values_that_are_no_numbers_are_left_out(tmp_path: Path, generated: object) -> None:
    path = evaluation(tmp_path, bits_per_byte="low", perplexity_word=True, generated=generated)
    assert read_evaluation(path, {"tiny": str(tmp_path / "run")}) == {}
