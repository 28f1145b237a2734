"""Pre-tokenizers of published byte-level BPEs: they split a text into words before any merge.

A file names its pre-tokenizer by a regular expression (Hugging Face) or by a word (GGUF). Only the
expressions of this table are compiled: a stranger's could take exponential time.
"""

import json
from dataclasses import dataclass
from typing import Any

from llm_from_scratch.errors import UserError

# The alternatives of the published expressions, with possessive quantifiers and anchors that give
# the same words in less time and stack.
_GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++"
_GPT2_END = r" ?[^\s\p{L}\p{N}]++"
_SPACE = r"\s++$|\s+(?!\S)|\s"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CL100K = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|NUMBERS| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"


def _split(numbers: str) -> dict[str, Any]:
    """Returns a tokenizer.json's pre-tokenizer that splits by an expression, then into bytes."""
    words = _CL100K.replace("NUMBERS", numbers) + r"\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(False)]}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": use_regex}


@dataclass(frozen=True)
class Pattern:
    """A pre-tokenizer in its three forms.

    Attributes:
        words: the regular expression for tiktoken, whose matches are the words.
        written: the entry `pre_tokenizer` of a tokenizer.json.
        names: its names in GGUF, `tokenizer.ggml.pre`; the first is the one to write.
    """

    words: str
    written: dict[str, Any]
    names: tuple[str, ...]


PATTERNS = {
    "gpt2": Pattern(
        rf"{_GPT2_WORDS}| ?\p{{N}}++|{_GPT2_END}|{_SPACE}",
        _byte_level(True),
        ("gpt-2", "mpt", "olmo", "jais"),
    ),
    # Single digits first, then GPT-2's: white space before a digit ends there.
    "smollm": Pattern(
        rf"\p{{N}}|{_GPT2_WORDS}|{_GPT2_END}|\s+(?=\p{{N}})|{_SPACE}",
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(True)]},
        ("smollm", "starcoder", "refact", "codeshell"),
    ),
    "qwen2": Pattern(_CL100K.replace("NUMBERS", r"\p{N}") + _SPACE, _split(r"\p{N}"), ("qwen2", "deepseek-r1-qwen")),
    "llama3": Pattern(
        _CL100K.replace("NUMBERS", r"\p{N}{1,3}") + _SPACE,
        _split(r"\p{N}{1,3}"),
        ("llama-bpe", "llama3", "llama-v3"),
    ),
}


def pattern_of_name(name: str) -> str:
    """Returns the key of PATTERNS of a GGUF file's `tokenizer.ggml.pre`.

    Raises:
        UserError: when the table has none.
    """
    for key, pattern in PATTERNS.items():
        if name in pattern.names:
            return key
    raise _unknown(f"tokenizer.ggml.pre={ascii(name)[:100]}")


def pattern_of_json(written: object) -> str:
    """Returns the key of PATTERNS of a tokenizer.json's `pre_tokenizer`.

    Raises:
        UserError: when the table has none.
    """
    found = _plain(written)
    for key, pattern in PATTERNS.items():
        if found == _plain(pattern.written):
            return key
    raise _unknown(f"the pre-tokenizer {json.dumps(written)[:150]}")


def _plain(written: object) -> object:
    """Drops from a pre-tokenizer what does not change ids, and adds the defaults."""
    if isinstance(written, dict):
        if written.get("type") == "Sequence" and isinstance(written.get("pretokenizers"), list):
            return [_plain(one) for one in written["pretokenizers"][:9]]
        if written.get("type") == "ByteLevel":
            return {"use_regex": True} | {key: value for key, value in written.items() if key != "trim_offsets"}
    return written


def _unknown(what: str) -> UserError:
    return UserError(f"{what} is none of those known here ({', '.join(PATTERNS)}): its ids would be wrong")
