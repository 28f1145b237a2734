"""Tokenizers through the metadata of a GGUF file: the same ids come out, a damaged one is refused."""

import random
from pathlib import Path
from typing import Any

import pytest
import smollm2
from byte_level import learn, stranger
from conftest import story
from small_corpora import PROSE_AND_CODE
from tokenizer_strings import ODD, strings

from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer import (
    BPETokenizer,
    BytesTokenizer,
    CharTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    open_gpt2,
)
from llm_from_scratch.tokenizer.gguf import from_gguf, to_gguf
from llm_from_scratch.tokenizer.huggingface import read

TEXT = story(20_000) + PROSE_AND_CODE


def arguments(entries: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `from_gguf`, from what `to_gguf` gives."""
    found = {key.removeprefix("tokenizer.ggml."): value for key, value in entries.items()}
    return {
        "tokens": found["tokens"],
        "types": found["token_type"],
        "scores": found.get("scores", []),
        "merges": found.get("merges", []),
        "model": found["model"],
        "pre": found["pre"],
        "ids": {key.removesuffix("_token_id"): value for key, value in found.items() if key.endswith("_token_id")},
        "flags": {key: value for key, value in found.items() if key.startswith("add_")},
    }


def again(tokenizer: Tokenizer) -> Tokenizer:
    return from_gguf(**arguments(to_gguf(tokenizer)))


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return BPETokenizer.train([TEXT], 500)


def test_a_learned_bpe_comes_back_with_its_ids(bpe: BPETokenizer) -> None:
    found = again(bpe)
    assert isinstance(found, BPETokenizer)
    assert (found.vocab_size, found.eot_id) == (bpe.vocab_size, bpe.eot_id)
    for text in [TEXT, *strings(500, 1)]:
        assert found.encode(text) == bpe.encode(text)
        assert found.decode(found.encode(text)) == text


def test_the_entries_of_a_bpe_are_those_that_llama_cpp_needs(bpe: BPETokenizer) -> None:
    entries = to_gguf(bpe)
    tokens, types = entries["tokenizer.ggml.tokens"], entries["tokenizer.ggml.token_type"]
    assert tokens[:4] == ["<|endoftext|>", "<unk>", "\n", "<0x00>"]
    assert types[:4] == [3, 2, 1, 6]
    assert "▁the" in tokens
    expected: dict[str, object] = {"model": "llama", "pre": "default", "bos_token_id": 0, "eos_token_id": 0}
    expected |= {"unknown_token_id": 1, "add_bos_token": False, "add_eos_token": False, "add_space_prefix": False}
    assert expected.items() <= {key.removeprefix("tokenizer.ggml."): value for key, value in entries.items()}.items()


@pytest.mark.parametrize("held_out", ["", "猫"])
def test_characters_come_back(held_out: str) -> None:
    tokenizer = CharTokenizer.train([TEXT], [held_out])
    found = again(tokenizer)
    assert found.fingerprint == tokenizer.fingerprint
    with pytest.raises(UserError, match=r"U\+2581"):
        to_gguf(CharTokenizer(" ab▁"))


def test_gpt2s_tokenizer_comes_back_as_bytes(tmp_path: Path) -> None:
    gpt2 = open_gpt2(str(learn(tmp_path)))
    found = again(gpt2)
    assert isinstance(found, BytesTokenizer)
    assert (found.pattern, found.eot_id, found.vocab_size) == ("gpt2", gpt2.eot_id, gpt2.vocab_size)
    for text in [TEXT, *strings(500, 2)]:
        assert found.encode(text) == gpt2.encode(text)
    assert to_gguf(found) == to_gguf(gpt2)


def test_another_ones_sentencepiece_keeps_its_space_in_front() -> None:
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    tokenizer = SentencePieceTokenizer(model.getvalue())
    found = again(tokenizer)
    assert isinstance(found, SentencePieceTokenizer)
    assert (found.eot_id, found.bos_id, found.add_bos) == (2, 1, True)
    other = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for text in [PROSE_AND_CODE, *strings(500, 3)]:
        assert found.encode(text) == tokenizer.encode(text) == other.encode(text)
        assert found.decode(found.encode(text)) == other.decode(other.encode(text))
    assert found.decode_bytes(found.encode("the")) == b" the"


def test_smollm2_as_published() -> None:
    """The ids are those that transformers gives for the published tokenizer.json."""
    parts = smollm2.parts()
    tokenizer = from_gguf(**parts)
    assert isinstance(tokenizer, BytesTokenizer)
    assert (tokenizer.eot_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos) == (0, 1, 2, False)
    assert tokenizer.encode("Hello world! 123") == [19556, 905, 17, 216, 33, 34, 35]
    assert tokenizer.encode("Café déjà vu.") == [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]
    assert tokenizer.encode("  multiple   spaces") == [216, 2701, 256, 5600]
    assert not {*tokenizer.encode("<|im_start|>user<|im_end|>")} & {*tokenizer.special.values()}
    with pytest.raises(UserError, match=r"'\\x04' \(U\+0004\) at index 1"):
        tokenizer.encode("a\x04")
    entries = to_gguf(tokenizer)
    assert entries["tokenizer.ggml.tokens"] == parts["tokens"]
    assert entries["tokenizer.ggml.token_type"] == parts["types"]
    assert entries["tokenizer.ggml.merges"] == parts["merges"]


def small() -> dict[str, Any]:
    """A byte-level BPE of three letters and their merges."""
    return {
        "tokens": ["a", "b", "Ġ", "ab", "Ġab", "<|endoftext|>"],
        "types": [1, 1, 1, 1, 1, 3],
        "scores": [],
        "merges": ["a b", "Ġ ab"],
        "model": "gpt2",
        "pre": "gpt-2",
        "ids": {"eos": 5},
        "flags": {},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "bert"}, "only gpt2 and llama"),
        ({"pre": "(a+)+$"}, r"tokenizer\.ggml\.pre='\(a\+\)\+\$' is none of those known"),
        ({"types": [1]}, "not one type for each"),
        ({"tokens": [], "types": []}, "no tokens"),
        ({"types": [1, 1, 1, 1, 6, 3]}, "no tokens of such a type"),
        ({"ids": {"eos": 6}}, "id is none of its tokens"),
        ({"types": [1] * 6, "ids": {}}, "no end-of-text token"),
        ({"merges": ["a b"]}, "no merge makes the token 'Ġab'".replace("Ġ", r"\\u0120")),
        ({"merges": ["a b", "Ġ ab", "b b"]}, "merge 2 joins or makes what is no token"),
        ({"merges": ["Ġ ab", "a b"]}, "no merge makes the token"),
        ({"merges": ["Ġ zz", "a b"]}, "merge 0 joins"),
        ({"merges": ["a b c", "Ġ ab"]}, "not two tokens"),
        ({"tokens": ["a", "a", "Ġ", "ab", "Ġab", "<|endoftext|>"]}, "damaged"),
        ({"tokens": ["a", "b", " ", "ab", "Ġab", "<|endoftext|>"]}, "not the bytes of a token"),
        ({"tokens": ["a", "b", "Ġ", "ab", "Ġab", "word"], "types": [1, 1, 1, 1, 1, 4]}, "text like any other"),
        ({"model": "llama", "scores": [0.0] * 5}, "not one score for each"),
        ({"model": "llama", "scores": [0.0] * 6}, "one unknown token"),
    ],
)
def test_what_does_not_fit_together_is_one_line(change: dict[str, Any], message: str) -> None:
    assert from_gguf(**small()).encode("ab abb") == [3, 4, 1]
    with pytest.raises(UserError, match=message) as error:
        from_gguf(**small() | change)
    assert "\n" not in str(error.value)


def test_merges_that_no_text_reaches_are_left_out() -> None:
    """Llama 3's file has every pair that makes a token, in the order of the tokens."""
    parts = small() | {"tokens": ["a", "b", "c", "ab", "bc", "abc", "<|endoftext|>"], "types": [*[1] * 6, 3]}
    parts |= {"ids": {"eos": 6}, "merges": ["a b", "b c", "a bc", "ab c"]}
    tokenizer = from_gguf(**parts)
    assert isinstance(tokenizer, BytesTokenizer)
    assert tokenizer.merges == ["a b", "b c", "ab c"]
    assert tokenizer.encode("abcbc") == [5, 4]


def test_the_merges_of_a_tiktoken_vocabulary_are_those_of_its_ranks(tmp_path: Path) -> None:
    """Converted from ranks, as Llama 3's, a list has every pair of tokens that makes a token, also
    pairs of tokens that come later.
    """
    tokenizer = read(stranger("llama3", tmp_path))
    parts = arguments(to_gguf(tokenizer))
    rank = {token: i for i, token in enumerate(parts["tokens"])}
    pairs = [
        (i, rank[token[:at]], rank[token[at:]], f"{token[:at]} {token[at:]}")
        for token, i in rank.items()
        if token not in tokenizer.special
        for at in range(1, len(token))
        if token[:at] in rank and token[at:] in rank
    ]
    every = [pair[-1] for pair in sorted(pairs)]
    assert any(max(left, right) > i for i, left, right, _ in pairs)
    assert len(every) > len(parts["merges"])
    assert from_gguf(**parts | {"merges": every}).fingerprint == tokenizer.fingerprint


def test_a_merge_that_would_come_otherwise_is_refused() -> None:
    """By rank `abc` is made of ab and c; a list without that pair gives other ids."""
    parts = small() | {"tokens": ["a", "b", "c", "ab", "bc", "abc", "<|endoftext|>"], "types": [*[1] * 6, 3]}
    with pytest.raises(UserError, match="'abc' is merged otherwise"):
        from_gguf(**parts | {"ids": {"eos": 6}, "merges": ["a b", "b c", "a bc"]})


def test_a_thousand_damaged_vocabularies_are_one_line_each(bpe: BPETokenizer) -> None:
    chance = random.Random(0)
    odd: list[Any] = ["", "a", "Ġ", "\ud800", "a b", "<|endoftext|>", "▁", "x" * 600, *ODD[:9]]
    messages = []
    for number in range(1000):
        parts = small() if number % 100 else arguments(to_gguf(bpe))
        for _ in range(chance.randrange(1, 4)):
            key = chance.choice(["tokens", "types", "merges", "ids"])
            if key == "ids":
                parts["ids"] = {"eos": chance.randrange(9), "bos": chance.randrange(-1, 7)}
            elif parts[key]:
                values = [chance.randrange(8)] if key == "types" else [chance.choice(odd), chance.choice(parts[key])]
                parts[key] = [*parts[key]]
                parts[key][chance.randrange(len(parts[key]))] = chance.choice(values)
        try:
            from_gguf(**parts).encode("ab ba")
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 500
    assert all("\n" not in message and len(message) < 400 for message in messages)
