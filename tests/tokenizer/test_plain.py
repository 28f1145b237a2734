"""Merges learned and applied from their definition, against SentencePiece's on two chapters of The
Wonderful Wizard of Oz.
"""

from pathlib import Path

import pytest

from llm_from_scratch.tokenizer import BPETokenizer
from llm_from_scratch.tokenizer.plain import encode, learn

OZ = Path(__file__).parents[1] / "fixtures" / "wizard_of_oz.txt"
BEFORE_THE_MERGES = 3 + 256  # end-of-text, unknown, newline; bytes


def test_merges_worked_out_by_hand() -> None:
    # "ab" 3 times; then three pairs twice: " c", which is shorter, before "abb", which is before "
    # ab" in the alphabet.
    merges = learn("ab abb abb cd ce", 4)
    assert merges == [("a", "b"), (" ", "c"), ("ab", "b"), (" ", "abb")]
    assert encode("abb cd abb", merges) == ["abb", " c", "d", " abb"]


def test_of_three_equal_characters_the_first_two_are_a_pair() -> None:
    assert learn("aaa aaa", 1) == [("a", "a")]
    assert encode("aaaa aaa", [("a", "a")]) == ["aa", "aa", " ", "aa", "a"]
    assert learn("aaab ba", 3)[0] == ("a", "a")


def test_learning_ends_where_each_word_is_one_token() -> None:
    assert learn("ab ab", 100) == [("a", "b"), (" ", "ab")]


@pytest.mark.parametrize("vocab_size", [400, 700])
def test_merges_and_tokens_are_those_of_sentencepiece(vocab_size: int) -> None:
    story = OZ.read_text(encoding="utf-8")
    text, held_out = story[:-4000], story[-4000:]
    tokenizer = BPETokenizer.train(text.splitlines(keepends=True), vocab_size)
    theirs = [tokenizer.decode([i]) for i in range(BEFORE_THE_MERGES, tokenizer.vocab_size)]
    theirs = [token for token in theirs if len(token) > 1]  # single characters follow the merges
    merges = learn(text, len(theirs))
    assert ["".join(pair) for pair in merges] == theirs
    assert len(merges) > 50
    for part in (text, held_out):
        assert encode(part, merges) == [tokenizer.decode([i]) for i in tokenizer.encode(part)]
