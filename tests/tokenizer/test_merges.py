"""Merges by hand: ranks, the pair behind each token, and lists that are no byte-pair encoding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer.merges import derived, in_reach, pair_of, piece_of, ranked, written

IDS = {b"a": 3, b"b": 1, b"c": 7, b"ab": 0, b"bc": 9, b"abc": 4}


def test_ranks_are_bytes_by_id_then_merges_in_order() -> None:
    merges = [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc"), (b"ab", b"c")]
    assert [*ranked(IDS, merges)] == [b"b", b"a", b"c", b"bc", b"ab", b"abc"]
    # "abc" is b+c first, then a+bc: the pair (ab, c) is never met.
    assert derived(ranked(IDS, merges)) == [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc")]


def test_a_merge_of_a_later_token_is_out_of_reach() -> None:
    merges = [(b"a", b"b"), (b"a", b"bc"), (b"ab", b"c"), (b"b", b"c"), (b"a", b"zz")]
    assert [*in_reach(IDS, merges)] == [(b"a", b"b"), (b"ab", b"c"), (b"b", b"c"), (b"a", b"zz")]


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ([(b"a", b"b")], "no merge makes the token 'bc'"),
        ([(b"ab", b"c"), (b"a", b"b")], "merge 0 joins"),
        ([(b"a", b"a")], "merge 0 joins or makes what is no token"),
        ([(b"", b"a")], "merge 0 joins"),
    ],
)
def test_lists_that_do_not_fit_are_refused(merges: list[tuple[bytes, bytes]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ranked(IDS, merges)


def test_a_token_of_three_parts_is_refused() -> None:
    with pytest.raises(UserError, match="'abc' is not merged from two others"):
        derived({b"a": 0, b"b": 1, b"c": 2, b"abc": 3})


@given(st.binary(min_size=1, max_size=100))
def test_bytes_are_written_as_characters_and_back(piece: bytes) -> None:
    assert piece_of(written(piece)) == piece
    assert " " not in written(piece)
    assert pair_of(f"{written(piece)} {written(b' ')}") == (piece, b" ")


def test_a_space_and_a_newline_are_written_as_in_gpt2s_files() -> None:
    assert (written(b" a\n"), written("é".encode())) == ("ĠaĊ", "Ã©")


@pytest.mark.parametrize("line", ["a", "a b c", "a  b", " a", "", "a b\n", "▁ b"])
def test_other_lines_are_no_merges(line: str) -> None:
    with pytest.raises(UserError, match="damaged"):
        pair_of(line)
