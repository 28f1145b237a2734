"""Lengths, rates and Burrows's Delta against numbers worked out by hand; whose text is whose."""

import random
from pathlib import Path

import pytest
from conftest import story
from hypothesis import given
from hypothesis import strategies as st

from llm_from_scratch.evaluation.style import (
    burrows_delta,
    function_word_rates,
    mattr,
    punctuation_rates,
    sentences,
    style,
    words,
)

TEXT = "“Oh, no!” said the farmer’s wife. She ran; the dog ran.\n\nThe End"


def test_words_and_sentences() -> None:
    assert words("The farmer’s forty-two cafés, 3 of them—all his'") == [
        "the", "farmer's", "forty-two", "cafés", "of", "them", "all", "his",
    ]  # fmt: skip
    assert sentences(TEXT) == ["“Oh, no!” said the farmer’s wife.", "She ran; the dog ran.", "The End"]
    assert sentences("...\n\n!") == []


def test_the_figures_by_hand() -> None:
    # oh no said the farmer's wife she ran the dog ran the end: 13 words, 10 distinct, in 3
    # sentences
    figures = style(TEXT)
    letters = 2 + 2 + 4 + 3 + 8 + 4 + 3 + 3 + 3 + 3 + 3 + 3 + 3
    assert figures["word_length"] == letters / 13
    assert figures["sentence_length"] == 13 / 3
    assert figures["type_token_ratio"] == figures["mattr"] == pytest.approx(10 / 13)
    assert figures["function_words"] == pytest.approx(5 / 13)  # no, she, the three times
    assert function_word_rates(words(TEXT))["the"] == pytest.approx(3000 / 13)
    rates = punctuation_rates(TEXT)
    expected = {"comma": 1, "exclamation mark": 1, "full stop": 2, "semicolon": 1, "quotation mark": 2}
    assert rates == pytest.approx({name: 1000 * expected.get(name, 0) / 13 for name in rates})
    with pytest.raises(ValueError, match="a text without words"):
        style("1 2 3")


def test_mattr_by_hand() -> None:
    # windows of 3 over a b a a c: aba 2, baa 2, aac 2 of 3 each
    assert mattr(list("abaac"), 3) == pytest.approx((2 + 2 + 2) / 9)
    assert mattr(list("abcabc"), 3) == 1


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.integers(1, 45))
def test_mattr_equals_a_plain_loop(tokens: list[str], window: int) -> None:
    W = min(window, len(tokens))
    ratios = [len(set(tokens[i : i + W])) / W for i in range(len(tokens) - W + 1)]
    assert mattr(tokens, window) == pytest.approx(sum(ratios) / len(ratios))


def test_mattr_does_not_fall_with_the_length_as_the_plain_ratio_does() -> None:
    short, long = style(story(5_000), 50), style(story(50_000), 50)
    assert long["type_token_ratio"] < 0.2 * short["type_token_ratio"]
    assert long["mattr"] == pytest.approx(short["mattr"], rel=0.05)


def test_burrows_delta_by_hand() -> None:
    # Blocks of 4 words. One: "a a a b" (a 3/4, b 1/4), "a b a b" (1/2, 1/2). Other: "a b b b" (1/4,
    # 3/4), "b b b b" (0, 1). a: mean (3/4 + 1/2 + 1/4 + 0)/4 = 3/8, deviation sqrt((9 + 1 + 1 +
    # 9)/64/4) = sqrt(5)/8; b: mean 5/8, the same deviation. One as a whole: a 5/8, b 3/8. Other: a
    # 1/8, b 7/8. The text "a a b b": 1/2, 1/2. To One: (1/8 + 1/8)/2 over sqrt(5)/8 = 1/sqrt(5). To
    # Other: (3/8 + 3/8)/2 over sqrt(5)/8 = 3/sqrt(5).
    corpora = {"One": "a a a b a b a b", "Other": "a b b b b b b b"}
    delta = burrows_delta("a a b b", corpora, features=2, block=4)
    assert delta == pytest.approx({"One": 1 / 5**0.5, "Other": 3 / 5**0.5})
    # The most frequent alone, b with (3/8 + 7/8)/2: |1/2 - 3/8| and |1/2 - 7/8| over sqrt(5)/8.
    assert burrows_delta("a a b b", corpora, features=1, block=4) == pytest.approx(delta)


@pytest.mark.parametrize(
    ("text", "corpora"), [("a", {"One": "a b"}), ("1", {"One": "a", "Other": "b"}), ("a", {"One": "a", "Other": "a"})]
)
def test_too_little_text_is_told(text: str, corpora: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"at least two corpora|no word's frequency differs"):
        burrows_delta(text, corpora)


def test_delta_tells_two_made_authors_apart() -> None:
    def other(text: str) -> str:
        return text.replace("the ", "a certain ").replace("was afraid of", "feared")

    corpora = {"own": story(60_000), "other": other(story(60_000, seed=1))}
    delta = burrows_delta(story(8_000, seed=2), corpora, block=500)
    assert delta["own"] < 0.5 * delta["other"]
    delta = burrows_delta(other(story(8_000, seed=3)), corpora, block=500)
    assert delta["other"] < 0.5 * delta["own"]


def test_oz_is_told_from_another_author_and_from_its_own_words_shuffled(corpora: Path) -> None:
    oz = (corpora / "oz/wizard_of_oz.txt").read_text(encoding="utf-8-sig")
    other = (corpora / "shakespeare/input.txt").read_text(encoding="utf-8")[:400_000]
    both = {"oz": oz[:180_000], "shakespeare": other[:180_000]}
    assert (first := burrows_delta(oz[180_000:], both))["oz"] < 0.7 * first["shakespeare"]
    assert (second := burrows_delta(other[180_000:210_000], both))["shakespeare"] < 0.7 * second["oz"]
    # Delta counts words and does not see their order: sentences and punctuation in the wrong places
    # do not move it.
    parts = oz[180_000:].split()
    random.Random(0).shuffle(parts)
    assert burrows_delta(" ".join(parts), both)["oz"] == pytest.approx(first["oz"], rel=0.02)
    assert style(oz)["sentence_length"] == pytest.approx(style(oz[100_000:])["sentence_length"], rel=0.15)
