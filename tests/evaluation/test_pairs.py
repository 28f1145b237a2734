"""Minimal pairs: preferences by hand, the two sets written here, files that others wrote badly."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_from_scratch.evaluation.intervals import wilson
from llm_from_scratch.evaluation.ngram import kneser_ney, nats
from llm_from_scratch.evaluation.pairs import BIAS_LIMITS, GRAMMAR_LIMITS, Pair, prefer, read_blimp, read_crows


def test_preferences_by_hand() -> None:
    cost = {"a": 1.0, "b": 3.0, "c": 3.0}
    rows = prefer(
        [Pair("a", "b", "x"), Pair("b", "c", "y"), Pair("b", "a", "x"), Pair("a", "c", "x")], cost.__getitem__
    )
    x, y, whole = rows
    # x: won, lost, won, by 2, -2, 2 nats; y: a tie
    assert (x.kind, x.pairs, x.share, x.nats) == ("x", 3, 2 / 3, pytest.approx(2 / 3))
    assert (x.low, x.high) == wilson(2, 3)
    # All three lost: 1 of 27 draws, above 2.5 %
    assert (x.nats_low, x.nats_high) == pytest.approx((-2, 2))
    assert (y.kind, y.share, y.nats, y.nats_low, y.nats_high) == ("y", 0.5, 0, 0, 0)
    assert (whole.kind, whole.pairs, whole.share, whole.nats) == ("all", 4, 2.5 / 4, 0.5)


def test_the_rounding_of_a_sum_is_a_tie() -> None:
    cost = {"a": 0.1 + 0.2 + 0.3, "b": 0.3 + 0.2 + 0.1}
    assert cost["a"] != cost["b"]
    for pair in (Pair("a", "b", "x"), Pair("b", "a", "x")):
        assert prefer([pair], cost.__getitem__)[-1].share == 0.5


@pytest.mark.parametrize("cost", [math.nan, math.inf])
def test_a_likelihood_that_is_none_is_told(cost: float) -> None:
    with pytest.raises(ValueError, match="no finite likelihood"):
        prefer([Pair("a", "b", "x")], lambda text: cost)
    with pytest.raises(ValueError, match="no pairs"):
        prefer([], lambda text: 0.0)


def test_the_bias_set_is_balanced_and_differs_in_the_group_alone() -> None:
    pairs = read_crows()
    assert len(pairs) == len(set(pairs)) >= 200
    kinds = Counter(pair.kind for pair in pairs)
    for one, other in (
        ("occupation, he expected", "occupation, she expected"),
        ("activity, he expected", "activity, she expected"),
        ("first name, man's expected", "first name, woman's expected"),
        ("origin of the name, harm expected", "origin of the name, praise expected"),
    ):
        assert kinds[one] == kinds[other] >= 16
    swapped = {"he": "she", "his": "her", "He": "She", "she": "he", "her": "his", "She": "He"}
    names: Counter[str] = Counter()
    for pair in pairs:
        first, second = (re.findall(r"\w+", text) for text in (pair.first, pair.second))
        changed = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
        assert len(changed) == 1, pair
        (a, b) = changed[0]
        if "name" in pair.kind:
            names[a] += 1
            names[b] -= 1
        else:
            assert swapped[a] == b
            assert a.lower() in ("he", "his") if ", he " in pair.kind else a.lower() in ("she", "her")
    assert set(names.values()) == {0}  # each name stands as often on either side


def test_a_model_that_merely_prefers_he_gets_one_half_of_all() -> None:
    def prefers_he(text: str) -> float:
        return -len(re.findall(r"\b([Hh]e|[Hh]is)\b", text))

    gendered = [pair for pair in read_crows() if pair.kind.startswith(("occupation", "activity"))]
    rows = {row.kind: row for row in prefer(gendered, prefers_he)}
    assert rows["occupation, he expected"].share == 1
    assert rows["occupation, she expected"].share == 0
    assert rows["all"].share == 0.5
    assert rows["all"].low < 0.5 < rows["all"].high


def scorer(train: Sequence[str], also: Iterable[str], order: int) -> Callable[[Sequence[str]], float]:
    """nats(text) of a Kneser-Ney model of words or characters; `also` has symbols that training may
    lack.
    """
    vocabulary = {symbol: i for i, symbol in enumerate(dict.fromkeys([*train, *also]))}

    def ids(text: Sequence[str]) -> np.ndarray:
        return np.array([vocabulary[symbol] for symbol in text])

    model = kneser_ney(ids(train), order, len(vocabulary))
    return lambda text: float(nats(model, ids(text)).sum())


def test_a_model_of_a_biased_text_is_told_from_its_mirror() -> None:
    he = "The engineer said that he was tired. The nurse said that she was tired. " * 50
    she = "The engineer said that she was tired. The nurse said that he was tired. " * 50
    pairs = [
        Pair("The engineer said that he was tired.", "The engineer said that she was tired.", "job"),
        Pair("The nurse said that she was tired.", "The nurse said that he was tired.", "job"),
    ]
    biased, mirrored = scorer(he.split(), [], 5), scorer(she.split(), [], 5)
    assert prefer(pairs, lambda text: biased(text.split()))[-1].share == 1
    assert prefer(pairs, lambda text: mirrored(text.split()))[-1].share == 0


def test_the_grammar_set_has_its_phenomena() -> None:
    pairs = read_blimp()
    kinds = Counter(pair.kind for pair in pairs)
    assert len(pairs) == len(set(pairs)) >= 60
    assert len(kinds) >= 6
    assert min(kinds.values()) >= 10
    assert len({pair.first for pair in pairs} & {pair.second for pair in pairs}) == 0


def test_six_characters_of_oz_know_more_grammar_than_counted_letters(corpora: Path) -> None:
    text = (corpora / "oz/wizard_of_oz.txt").read_text(encoding="utf-8-sig")
    pairs = read_blimp()
    also = "".join(pair.first + pair.second for pair in pairs)
    rows = prefer(pairs, scorer(text, also, 6))
    assert rows[-1].low > 0.5
    assert rows[-1].share > prefer(pairs, scorer(text, also, 1))[-1].share + 0.1


CROWS = 'number,sent_more,sent_less,stereo,bias_type\n0,“He” ran.,She ran.,stereo,gender\n1,"A, b.","C, b.",anti,age\n'


def test_a_crows_pairs_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(CROWS.replace("\n", "\r\n"), encoding="utf-8-sig", newline="")
    assert read_crows(path) == [Pair("“He” ran.", "She ran.", "gender"), Pair("A, b.", "C, b.", "age")]


def test_a_blimp_folder(tmp_path: Path) -> None:
    row = {"sentence_good": "A cat.", "sentence_bad": "A cats.", "UID": "number", "field": "syntax", "pairID": "0"}
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row | {"UID": name}) + "\n\n", encoding="utf-8")
    assert [pair.kind for pair in read_blimp(tmp_path)] == ["a", "b"]


def test_a_sentence_is_read_as_the_corpus_was(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(CROWS.replace("He", "Rene\u0301"), encoding="utf-8")
    assert read_crows(path)[0].first == "“Ren\u00e9” ran."
    row = {"sentence_good": "A cafe\u0301.", "sentence_bad": "A cafes.", "UID": "number"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert read_blimp(tmp_path / "a.jsonl") == [Pair("A caf\u00e9.", "A cafes.", "number")]


HEAD = b"sent_more,sent_less,bias_type\n"


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"", "has no column sent_more, sent_less, bias_type"),
        (b"sent_more,bias_type\na,b\n", "has no column sent_less"),
        (HEAD, "holds no pairs"),
        (HEAD + b"a,b\n", "line 2 lacks a sentence or its kind"),
        (HEAD + b"a,b,c,d\n", "line 2 has more cells"),
        (HEAD + b"a,,c\n", "line 2 holds an empty cell"),
        (HEAD + b"a,b,c\nb, b,c\n", "line 3 holds an empty cell, or the same sentence twice"),
        (HEAD + b'a,"b,c\nd,e,f\n', "is no CSV"),
        (HEAD + b'"a\nb",b,c\n', "a line break or NUL inside a sentence"),
        (HEAD + b"a\0,b,c\n", "NUL"),
        (HEAD + b"a,\xff,c\n", "byte 32 is not UTF-8"),
        (HEAD + b"a," + b"b" * 200_000 + b",c\n", "is no CSV"),
        (b"\x1f\x8b\x08\0\0\0", "byte 1 is not UTF-8"),
    ],
)
def test_a_misshapen_csv_costs_one_line(tmp_path: Path, raw: bytes, line: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=line) as error:
        read_crows(path)
    assert "\n" not in str(error.value)
    assert "pairs.csv" in str(error.value)


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ("", "holds no pairs"),
        ("{", "line 1 is no JSON"),
        ("\n[1]", "line 2 is no JSON object"),
        ('{"sentence_good": "a", "UID": "b"}', "line 1 lacks a sentence"),
        ('{"sentence_good": 1, "sentence_bad": "a", "UID": "b"}', "line 1 lacks a sentence"),
        ("[" * 100_000, "line 1 is no JSON"),
    ],
)
def test_a_misshapen_jsonl_costs_one_line(tmp_path: Path, raw: str, line: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(raw, encoding="utf-8")
    with pytest.raises(ValueError, match=line):
        read_blimp(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_crows(tmp_path / "nowhere.csv")


@given(st.binary(max_size=60))
def test_whatever_the_file_holds_it_is_pairs_or_a_line(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "pairs"
    for head, read in product((b"", HEAD), (read_crows, read_blimp)):
        path.write_bytes(head + raw)
        line = ""
        try:
            assert all(pair.first != pair.second for pair in read(path))
        except ValueError as error:
            line = str(error)
        assert "\n" not in line


def test_the_limits_are_a_sentence() -> None:
    assert BIAS_LIMITS.count(".") == GRAMMAR_LIMITS.count(".") == 1
