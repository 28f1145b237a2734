"""The table of pre-tokenizers against the library tokenizers."""

import json
import unicodedata

import pytest
from tokenizer_strings import strings

from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer.bytes import _words
from llm_from_scratch.tokenizer.patterns import PATTERNS, pattern_of_json, pattern_of_name

tokenizers = pytest.importorskip("tokenizers")
tiktoken = pytest.importorskip("tiktoken")


@pytest.mark.parametrize("key", PATTERNS)
def test_the_words_are_those_of_the_library(key: str) -> None:
    """The bytes of every word, by three programs: the library, tiktoken, and the fallback."""
    empty = tokenizers.Tokenizer(tokenizers.models.BPE()).to_str()
    written = json.dumps(json.loads(empty) | {"pre_tokenizer": PATTERNS[key].written})
    library = tokenizers.Tokenizer.from_str(written).pre_tokenizer
    for text in strings(400, 8):
        cut = [span for _, span in library.pre_tokenize_str(text)]
        expected = [text[start:end] for start, end in cut]
        assert "".join(expected) == text
        # The library regex calls some characters letters that Unicode has not assigned.
        if not any(unicodedata.category(c) == "Cn" for c in text):
            assert list(_words(text, PATTERNS[key].words)) == expected
        # tiktoken does not tell its words: here each of them is a token.
        pieces = {word.encode(): None for word in expected} | {bytes([i]): None for i in range(256)}
        ranks = {piece: i for i, piece in enumerate(sorted(pieces, key=len))}
        encoding = tiktoken.Encoding("words", pat_str=PATTERNS[key].words, mergeable_ranks=ranks, special_tokens={})
        assert encoding.decode_tokens_bytes(encoding.encode_ordinary(text)) == [word.encode() for word in expected]


def test_names_and_forms_are_found() -> None:
    for key, pattern in PATTERNS.items():
        assert [pattern_of_name(name) for name in pattern.names] == [key] * len(pattern.names)
        assert pattern_of_json(pattern.written) == key
    assert pattern_of_json({"type": "ByteLevel", "add_prefix_space": False}) == "gpt2"


@pytest.mark.parametrize(
    "written",
    [
        None,
        [],
        {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}, PATTERNS["gpt2"].written]},
        {"type": "Sequence", "pretokenizers": [PATTERNS["gpt2"].written] * 2},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
    ],
)  # fmt: skip
def test_others_are_refused(written: object) -> None:
    with pytest.raises(UserError, match="is none of those known here"):
        pattern_of_json(written)
    with pytest.raises(UserError, match="is none of those known here"):
        pattern_of_name("tekken")
