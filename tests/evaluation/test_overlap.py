"""BLEU, chrF and ROUGE against the libraries and torchmetrics' own; copies and repeats against
plain loops.
"""

import builtins
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from conftest import story
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics.functional.text import chrf_score, rouge_score, sacre_bleu_score

from llm_from_scratch.evaluation.overlap import (
    SearchableText,
    bleu,
    chrf,
    distinct_n,
    memorisation,
    repetition,
    rouge,
    self_bleu,
)

GENERATED = [
    "The Lion looked at the green city, and Toto barked at him.",
    "“Oh, no!” cried Dorothy, “it is the Witch of the West.”",
    "They came to a river; the café was closed.",
]
REFERENCES = [
    "The Lion looked at the great green city and Toto ran to him.",
    "“Oh, no!” said Dorothy, “that is the Witch of the East, I think.”",
    "They went to a river, and the boat was gone.",
]


def test_bleu_and_chrf_are_sacrebleus_and_torchmetrics_own() -> None:
    assert bleu(GENERATED, REFERENCES) == pytest.approx(
        sacrebleu.BLEU().corpus_score(GENERATED, [REFERENCES]).score / 100
    )
    assert chrf(GENERATED, REFERENCES) == pytest.approx(
        sacrebleu.CHRF().corpus_score(GENERATED, [REFERENCES]).score / 100
    )
    references = [[reference] for reference in REFERENCES]
    assert bleu(GENERATED, REFERENCES) == pytest.approx(float(sacre_bleu_score(GENERATED, references)), abs=1e-6)
    second = chrf_score(GENERATED, references, n_word_order=0)
    assert chrf(GENERATED, REFERENCES) == pytest.approx(float(second), abs=1e-6)
    assert bleu(REFERENCES, REFERENCES) == pytest.approx(1)
    # One sentence, 3 of 4 words, 2 of 3 pairs, 1 of 2 triples, and half of 1 four (exponential
    # smoothing): no brevity.
    assert bleu(["a b c x"], ["a b c d"]) == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)


def test_rouge_is_rouge_scores_and_torchmetrics_own() -> None:
    ours = rouge(GENERATED, REFERENCES)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    pairs = [scorer.score(reference, text) for text, reference in zip(GENERATED, REFERENCES, strict=True)]
    second = rouge_score(GENERATED, REFERENCES, rouge_keys=("rouge1", "rouge2", "rougeL"))
    for kind, value in ours.items():
        assert value == pytest.approx(np.mean([pair[kind].fmeasure for pair in pairs]))
        assert value == pytest.approx(float(second[f"{kind}_fmeasure"]), abs=1e-6)
    # 3 of 4 words in common; 1 of 3 pairs; "the city shone" of 4 in order.
    expected = {"rouge1": 3 / 4, "rouge2": 1 / 3, "rougeL": 3 / 4}
    assert rouge(["the city shone green"], ["the city always shone"]) == pytest.approx(expected)


def test_distinct_repetition_and_self_bleu_by_hand() -> None:
    # the cat the cat the dog: 3 words of 6; pairs the-cat, cat-the, the-cat, cat-the, the-dog: 3 of
    # 5.
    assert distinct_n(["The cat, the cat.", "the dog"], 1) == 3 / 6
    assert distinct_n(["the cat the cat the dog"], 2) == 3 / 5
    assert distinct_n(["the"], 2) == 0
    assert repetition(["the cat the cat the dog", "one two three"], n=2) == pytest.approx((1 - 3 / 5 + 0) / 2)
    assert repetition(["no four words"], n=4) == 0
    assert self_bleu([GENERATED[0]] * 3) == pytest.approx(1)
    one = sacrebleu.sentence_bleu(GENERATED[0], GENERATED[1:]).score
    assert self_bleu(GENERATED) == pytest.approx(
        np.mean(
            [one] + [sacrebleu.sentence_bleu(GENERATED[i], [*GENERATED[:i], *GENERATED[i + 1 :]]).score for i in (1, 2)]
        )
        / 100
    )
    assert self_bleu(GENERATED) < 0.2


def plain_matches(text: str, training: str) -> list[int]:
    return [max(n for n in range(len(text) - i + 1) if text[i : i + n] in training) for i in range(len(text))]


@settings(max_examples=200, deadline=None)
@given(st.text("ab\0é", max_size=30), st.text("abé", max_size=40))
def test_match_lengths_equal_a_plain_search(text: str, training: str) -> None:
    assert SearchableText(training).match_lengths(text).tolist() == plain_matches(text, training)


def test_memorisation_by_hand() -> None:
    #       copied: "quick br" (8), "ox jump" (7); single letters elsewhere
    row = memorisation(
        ["a quick bread", "ox jumpXX"], SearchableText("The quick brown fox jumps"), at_least=(1, 5, 8, 9, 100)
    )
    # " quick br" is 9 characters, "ox jump" 7, of 13 + 9
    assert row[9] == 9 / 22
    assert row[8] == 9 / 22
    assert row[5] == (9 + 7) / 22
    assert row[100] == 0
    # besides those: e of bread; a and d are in no training word
    assert row[1] == (9 + 7 + 1) / 22
    assert row["longest"] == " quick br"


def test_a_match_does_not_run_from_one_text_into_the_next() -> None:
    assert memorisation(["abc", "def"], SearchableText("abcdef"), at_least=(4,))[4] == 0


def shuffled(text: str) -> str:
    parts = text.split(" ")
    random.Random(0).shuffle(parts)
    return " ".join(parts)


def separates(train: str, held_out: str, long: int) -> None:
    searchable = SearchableText(train)
    copying = memorisation([train[1_000:3_000], train[5_000:6_000]], searchable, at_least=(50, long))
    honest = memorisation([held_out], searchable, at_least=(50, long))
    assert copying[long] == 1 > honest[long] + 0.9
    assert len(copying["longest"]) >= 2_000 > 5 * len(honest["longest"])
    assert memorisation([shuffled(held_out)], searchable, at_least=(50,))[50] <= 0.5 * honest[50]


def test_a_memorising_text_is_told_from_one_that_is_not() -> None:
    text = story(40_000)
    # Its sentences are few: 50 characters come again by chance
    separates(text, story(3_000, seed=7), long=200)
    looping, real = "The Lion looked at the green city. " * 50, text[:2_000]
    assert repetition([looping]) > 0.9 > repetition([real]) + 0.1
    assert distinct_n([looping], 2) < 0.05 < distinct_n([real], 2)


def test_a_memorising_text_is_told_from_oz_in_seconds(corpora: Path) -> None:
    text = (corpora / "oz/wizard_of_oz.txt").read_text(encoding="utf-8-sig")
    started = time.perf_counter()
    separates(text[:190_000], text[190_000:], long=50)
    assert time.perf_counter() - started < 20
    assert repetition([text[:20_000]], n=4) < 0.1


@pytest.mark.parametrize("measure", [bleu, chrf, rouge])
def test_unpaired_texts_and_a_missing_library_cost_a_line(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="1 generated texts and 2 references"):
        measure(["a"], ["b", "c"])
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] in ("sacrebleu", "rouge_score"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"needs?: pip install -e '\.\[metrics\]'"):
        measure(["a"], ["b"])
