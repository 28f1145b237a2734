"""Kneser-Ney against nltk's and against numbers worked out by hand; probabilities that sum to 1;
compressors.
"""

import math
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import story
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.lm import KneserNeyInterpolated, Vocabulary
from nltk.util import everygrams

from llm_from_scratch.evaluation.compression import COMPRESSORS, Contexts, compressor_bits, ppm_bits, ppm_probability
from llm_from_scratch.evaluation.ngram import (
    FALLBACK,
    character_ids,
    distribution,
    kneser_ney,
    kneser_neys,
    modified_discounts,
    nats,
)

# aaaaabababb: aa 4 times, ab 3, ba 2, bb 1; c never
HAND = np.array([0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 1])


def test_the_modified_discounts_by_hand() -> None:
    # n1 = n2 = n3 = n4 = 1: Y = 1/3, D1 = 1 - 2/3, D2 = 2 - 1, D3+ = 3 - 4/3.
    assert modified_discounts(np.array([4, 3, 2, 1])) == pytest.approx((1 / 3, 1, 5 / 3))
    # n1 = 4, n2 = 2, n3 = 2, n4 = 1: Y = 4/8, D1 = 1 - 2 (1/2) (2/4), D2 = 2 - 3 (1/2) (2/2), D3+ =
    # 3 - 4 (1/2) (1/2).
    assert modified_discounts(np.array([1, 1, 1, 1, 2, 2, 3, 3, 4, 9])) == pytest.approx((0.5, 0.5, 2))
    assert modified_discounts(np.array([1, 2, 4])) == FALLBACK  # no n-gram comes three times
    # n1 = n2 = 1, n3 = 7: Y = 1/3, D2 = 2 - 3 (1/3) 7 = -5.
    assert modified_discounts(np.array([1, 2, *[3] * 7, 4])) == FALLBACK


@pytest.mark.parametrize("discount", [None, 0.75])
def test_the_models_of_all_orders_are_those_of_each_order(discount: float | None) -> None:
    ids, test = np.random.default_rng(0).integers(0, 4, (2, 300))
    for order, model in enumerate(kneser_neys(ids, 5, 4, discount)):
        assert len(model.levels) == order
        np.testing.assert_array_equal(nats(model, test), nats(kneser_ney(ids, order, 4, discount), test))


def test_modified_kneser_ney_by_hand() -> None:
    model = kneser_ney(HAND, order=2, vocab_size=3)
    # a and b each follow 2 symbols: counts (2, 2), n1 = 0, so D2 = 1 by the fallback; 1 of 2 kept,
    # 2 of 4 left to 1/3.
    unigram = [(1 + 2 / 3) / 4, (1 + 2 / 3) / 4, (2 / 3) / 4]
    assert unigram == pytest.approx([5 / 12, 5 / 12, 2 / 12])
    # behind a: aa 4 and ab 3 of 7, D3+ = 5/3 each, so 7/3 and 4/3 kept, 10/3 left; in 252ths
    after_a = [(7 / 3 + 10 / 3 * 5 / 12) / 7, (4 / 3 + 10 / 3 * 5 / 12) / 7, (10 / 3 * 2 / 12) / 7]
    assert after_a == pytest.approx([134 / 252, 98 / 252, 20 / 252])
    # behind b: ba 2 less D2 = 1, bb 1 less D1 = 1/3, of 3; 4/3 left; in 27ths
    after_b = [(1 + 4 / 3 * 5 / 12) / 3, (2 / 3 + 4 / 3 * 5 / 12) / 3, (4 / 3 * 2 / 12) / 3]
    assert after_b == pytest.approx([14 / 27, 11 / 27, 2 / 27])
    for context, expected in (([], unigram), ([0], after_a), ([1], after_b), ([2], unigram)):
        assert distribution(model, np.array(context, dtype=int)) == pytest.approx(expected)
    expected = [unigram[0], after_a[1], after_b[2], unigram[0]]
    assert nats(model, np.array([0, 1, 2, 0])) == pytest.approx(-np.log(expected))


def test_uniform_and_unigram_by_hand() -> None:
    assert nats(kneser_ney(HAND, 0, 4), np.array([0, 3])) == pytest.approx([math.log(4)] * 2)
    # 7 times a, 4 times b of 11: fallback D3+ = 1.5 each, 3 left to 1/4.
    expected = [(5.5 + 0.75) / 11, (2.5 + 0.75) / 11, 0.75 / 11, 0.75 / 11]
    assert np.exp(-nats(kneser_ney(HAND, 1, 4), np.arange(4))) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=8, max_size=60),
    st.lists(st.integers(0, 5), max_size=12),
    st.integers(0, 6),
    st.sampled_from([None, 0.1, 0.75]),
)
def test_every_distribution_sums_to_one_and_its_fast_twin_agrees(
    train: list[int], test: list[int], order: int, discount: float | None
) -> None:
    # 5 and perhaps others never occur in training
    model = kneser_ney(np.array(train), order, 6, discount)
    ids = np.array([*test, *train[:9]], dtype=int)
    p = np.exp(-nats(model, ids))
    for i, symbol in enumerate(ids):
        whole = distribution(model, ids[max(i - order + 1, 0) : i])
        assert whole.sum() == pytest.approx(1, abs=1e-12)
        assert whole.min() >= 0 if discount is not None else whole.min() > 0
        assert p[i] == pytest.approx(whole[symbol], abs=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("discount", [0.1, 0.75])
def test_the_plain_kind_equals_nltks(order: int, discount: float) -> None:
    text = np.random.default_rng(order).choice(5, size=150, p=[0.4, 0.3, 0.2, 0.08, 0.02])
    words = [str(symbol) for symbol in text]
    theirs = KneserNeyInterpolated(order, discount, vocabulary=Vocabulary(words))
    theirs.fit([list(everygrams(words, max_len=order))])
    ours = kneser_ney(text, order, 5, discount)
    # Where nltk's sum is above 1 (next test)
    starts = {tuple(text[:n].tolist()) for n in range(1, order - 1)}
    compared = 0
    for context in product(range(5), repeat=order - 1):
        if starts & {context[i:] for i in range(order - 1)}:
            continue
        expected = [theirs.score(str(symbol), tuple(map(str, context))) for symbol in range(5)]
        assert distribution(ours, np.array(context)) == pytest.approx(expected, abs=1e-6)
        compared += 1
    assert compared >= 5 ** (order - 1) * 0.5


def test_where_nltks_does_not_sum_to_one_ours_does() -> None:
    text = "abcbcacb"  # a begins it: ab has a continuation count of 0 there, ac of 1
    theirs = KneserNeyInterpolated(3, 0.5, vocabulary=Vocabulary(list(text)))
    theirs.fit([list(everygrams(list(text), max_len=3))])
    # Behind the unseen context aa: (1 - 0.5) / 1 for ac, and 0.5 times *two* types over 1 for the
    # unigrams.
    assert sum(theirs.score(symbol, ("a", "a")) for symbol in "abc") == pytest.approx(1.5)
    ids = np.array(["abc".index(symbol) for symbol in text])
    assert distribution(kneser_ney(ids, 3, 3, 0.5), np.array([0, 0])).sum() == pytest.approx(1)


def test_large_vocabularies_do_not_overflow() -> None:
    ids = np.random.default_rng(0).integers(0, 2**20, 500)  # 2^20 to the 6th is 2^120
    model = kneser_ney(np.concatenate([ids, ids]), 6, 2**20)
    assert nats(model, ids)[5:].max() < 2
    assert nats(model, ids[::-1].copy()).min() > 5


@pytest.mark.parametrize(
    ("ids", "order", "vocab_size", "line"),
    [
        ([0, 3], 1, 3, "ids from 0 to 3 do not fit a vocabulary of 3"),
        ([0, -1], 1, 3, "ids from -1 to 0 do not fit"),
        ([0, 1], 3, 3, "2 tokens of training text are too few for order 3"),
        ([0, 1], -1, 3, "order=-1"),
    ],
)
def test_mistakes_are_told(ids: list[int], order: int, vocab_size: int, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        kneser_ney(np.array(ids), order, vocab_size)


def bits_per_byte(train: str, test: str, order: int) -> float:
    before, after, size = character_ids(train, test)
    return float(nats(kneser_ney(before, order, size), after).sum()) / math.log(2) / len(test.encode())


def test_a_longer_context_helps_and_shuffled_words_cost_more() -> None:
    text = story(40_000)
    train, test = text[:36_000], text[36_000:]
    scores = [bits_per_byte(train, test, order) for order in range(7)]
    assert scores == sorted(scores, reverse=True)
    words = test.split(" ")
    np.random.default_rng(0).shuffle(words)
    assert bits_per_byte(train, " ".join(words), 6) > 1.3 * scores[6]


def test_the_wizard_of_oz_in_ten_seconds(corpora: Path) -> None:
    text = (corpora / "oz/wizard_of_oz.txt").read_text(encoding="utf-8-sig")
    train, test = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
    started = time.perf_counter()
    scores = [bits_per_byte(train, test, order) for order in range(7)]
    assert time.perf_counter() - started < 10
    assert scores == pytest.approx([6.01, 4.37, 3.32, 2.59, 2.09, 1.89, 1.83], abs=0.02)
    words = test.split(" ")
    np.random.default_rng(0).shuffle(words)
    assert bits_per_byte(train, " ".join(words), 6) > 1.1 * scores[6]
    other = (corpora / "shakespeare/input.txt").read_text(encoding="utf-8")[:20_000]
    assert bits_per_byte(train, other, 6) > 1.5 * scores[6]


def test_ppm_by_hand() -> None:
    # abab, order 1, the last two scored. Before the third byte: a 1, b 1 at order 0; a -> b at
    # order 1. a behind b: nothing known behind b; order 0 offers a and b once each: (2 - 1) / 4. b
    # behind a: order 1 offers b once: (2 - 1) / 2.
    assert ppm_bits(b"ab", b"ab", order=1) == pytest.approx(2 + 1)
    # c behind ab: escape from b: none known; order 0: 2 kinds of 2 bytes, escape 2/4; 254 of 256
    # bytes are left.
    assert ppm_bits(b"ab", b"c", order=1) == pytest.approx(1 + math.log2(254))
    # c behind abab: behind b, a once, escape 1/2. Order 0: a counted at 1 and 3, b at 2 alone, for
    # order 1 predicted the second b; a is left out, so b once, escape 1/2.
    assert ppm_bits(b"abab", b"c", order=1) == pytest.approx(1 + 1 + math.log2(254))


def test_ppm_sums_to_one_over_all_bytes() -> None:
    contexts: Contexts = [
        {b"": {97: 3, 98: 2, 99: 1}},
        {b"a": {98: 2, 97: 1}},
        {b"ba": {98: 1}},
    ]
    assert sum(ppm_probability(contexts, b"ba", byte) for byte in range(256)) == pytest.approx(1)


@pytest.mark.parametrize("kind", [*COMPRESSORS, "ppm"])
def test_what_the_training_part_holds_costs_little(kind: str) -> None:
    text = story(24_000)
    known, unknown = compressor_bits(text, text[4_000:6_000], kind), compressor_bits("", text[4_000:6_000], kind)
    assert 0 <= known < 0.3 * unknown < 8
    words = text[4_000:6_000].split(" ")
    np.random.default_rng(0).shuffle(words)
    assert compressor_bits(text, " ".join(words), kind) > 2 * known


def test_compressors_by_their_own_sizes_and_mistakes() -> None:
    import zlib

    train, test = story(3_000), story(500, seed=1)
    size = len(zlib.compress((train + test).encode(), 9)) - len(zlib.compress(train.encode(), 9))
    assert compressor_bits(train, test, "zlib") == pytest.approx(8 * size / len(test.encode()))
    with pytest.raises(ValueError, match="kind=zip: choose one of zlib, bz2, lzma, ppm"):
        compressor_bits("a", "b", "zip")
    with pytest.raises(ValueError, match="empty"):
        compressor_bits("a", "", "zlib")


def test_the_wizard_of_oz_compressed(corpora: Path) -> None:
    text = (corpora / "oz/wizard_of_oz.txt").read_text(encoding="utf-8-sig")
    train, test = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
    started = time.perf_counter()
    assert compressor_bits(train, test, "ppm") == pytest.approx(1.86, abs=0.02)
    assert time.perf_counter() - started < 20
    assert 2.6 < compressor_bits(train, test, "zlib") < 2.9
