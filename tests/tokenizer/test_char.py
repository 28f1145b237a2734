"""One id a character: every text comes back, bytes stand in for characters that the training text
lacks.
"""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_from_scratch.tokenizer import CharTokenizer


def test_characters_are_numbered_in_order_after_end_of_text():
    tokenizer = CharTokenizer.train(["cab", "bad"])
    assert tokenizer.characters == "abcd"
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("dab") == [4, 1, 2]
    assert tokenizer.decode([4, tokenizer.eot_id, 1, 2]) == "dab"
    assert tokenizer.decode_bytes([1, 0, 2]) == b"ab"


def test_an_unknown_character_is_named_with_its_place():
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at index 2 .* tokenizer=bpe") as error:
        CharTokenizer("abc").encode("abé")
    assert "\n" not in str(error.value)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@example("\0\r\n\u2028\ufeff▁<|endoftext|>\U0010ffff")
def test_characters_give_back_every_text(text):
    tokenizer = CharTokenizer.train([text])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert len(ids) == len(text)
    assert tokenizer.eot_id not in ids


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(ANY_TEXT, ANY_TEXT)
@example("ab", "b£ \U0001f600 e\u0301 \ufffd\0")
@example("é", "\u0301e")
def test_characters_with_bytes_give_back_every_text(learned, text):
    tokenizer = CharTokenizer.train(["x" + learned], [text])
    known = set("x" + learned)
    assert tokenizer.byte_fallback == bool(set(text) - known)
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.decode(ids) == text
    assert tokenizer.eot_id not in ids
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert len(ids) == sum(1 if character in known else len(character.encode()) for character in text)
    assert tokenizer.unknown_characters(np.array(ids, np.uint16)) == sum(character not in known for character in text)


def test_bytes_stand_behind_the_characters_and_only_where_they_are_needed():
    plain, other = CharTokenizer.train(["cab"]), CharTokenizer.train(["cab"], ["abé"])
    assert CharTokenizer.train(["cab"], ["abba", ""]).fingerprint == plain.fingerprint
    assert other.characters == plain.characters == "abc"
    assert (plain.vocab_size, other.vocab_size) == (4, 260)
    assert other.encode("cab") == plain.encode("cab") == [3, 1, 2]
    assert other.encode("aé") == [1, 4 + 0xC3, 4 + 0xA9]
    assert other.decode([4 + 0xC3]) == "\ufffd"
    assert other.fingerprint != plain.fingerprint
    # The checksum of a file of version 0.1.
    assert plain.fingerprint == hashlib.sha256(b"abc").hexdigest()


def test_a_file_of_characters_alone_is_what_it_always_was(tmp_path):
    CharTokenizer("abc").save(tmp_path)
    fingerprint = hashlib.sha256(b"abc").hexdigest()
    saved = {"kind": "char", "vocab_size": 4, "eot_id": 0, "fingerprint": fingerprint, "characters": "abc"}
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8")) == saved


def test_an_empty_text_has_no_characters():
    with pytest.raises(ValueError, match="training text is empty"):
        CharTokenizer.train([""])
