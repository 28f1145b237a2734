"""Tokenizers in the metadata of a GGUF file: `tokenizer.ggml.*` read and written.

llama.cpp knows two kinds here: "gpt2", a byte-level BPE with its merges, and "llama", the pieces of
SentencePiece with their scores. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer.base import END_OF_TEXT, MAX_FILE_BYTES, Tokenizer, utf8
from llm_from_scratch.tokenizer.bpe import BPETokenizer, SentencePieceTokenizer, try_parser
from llm_from_scratch.tokenizer.bytes import MERGES_FILE, BytesTokenizer, GPT2Tokenizer, bytes_tokenizer
from llm_from_scratch.tokenizer.char import CharTokenizer
from llm_from_scratch.tokenizer.model_proto import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Piece,
    read_model,
    write_model,
)
from llm_from_scratch.tokenizer.patterns import PATTERNS, pattern_of_name

MARK = "▁"  # a space, in pieces of SentencePiece
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


def from_gguf(
    tokens: Sequence[str],
    types: Sequence[int],
    scores: Sequence[float],
    merges: Sequence[str],
    model: str,
    pre: str,
    ids: Mapping[str, int],
    flags: Mapping[str, bool],
) -> Tokenizer:
    """Returns the tokenizer of a GGUF file's metadata.

    Args:
        tokens: `tokenizer.ggml.tokens`.
        types: `token_type`; empty: all tokens are ordinary.
        scores: `scores`; empty for a byte-level BPE.
        merges: `merges`; empty for SentencePiece.
        model: `tokenizer.ggml.model`.
        pre: `tokenizer.ggml.pre`; "" where it is missing.
        ids: the ids of `{name}_token_id` by name: "bos", "eos", "unknown".
        flags: "add_bos_token", "add_space_prefix", … by name; missing ones are llama.cpp's default.

    Raises:
        UserError: when the kind is not supported, or the parts are damaged.
    """
    types = [*types] or [NORMAL] * len(tokens)
    if not tokens or len(types) != len(tokens) or sum(map(len, tokens)) > MAX_FILE_BYTES:
        raise UserError("the GGUF file's tokenizer is damaged: it has no tokens, or not one type for each")
    if any(not 0 <= i < len(tokens) for i in ids.values()):
        raise UserError("the GGUF file's tokenizer is damaged: a special token's id is none of its tokens")
    if model == "gpt2":
        return _byte_level(tokens, types, merges, pre, ids, flags)
    if model == "llama":
        if len(scores) != len(tokens):
            raise UserError("the GGUF file's tokenizer is damaged: it has not one score for each token")
        return _sentencepiece(tokens, types, scores, ids, flags)
    raise UserError(f"tokenizer.ggml.model={ascii(model)[:100]}: only gpt2 and llama are supported")


def _byte_level(
    tokens: Sequence[str],
    types: Sequence[int],
    merges: Sequence[str],
    pre: str,
    ids: Mapping[str, int],
    flags: Mapping[str, bool],
) -> BytesTokenizer:
    if {*types} - {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED}:
        raise UserError("the GGUF file's tokenizer is damaged: a byte-level BPE has no tokens of such a type")
    special = {token: i for i, token in enumerate(tokens) if types[i] in (UNKNOWN, CONTROL, USER_DEFINED)}
    visible = [token for token, i in special.items() if types[i] == USER_DEFINED]
    pairs = [merge.split(" ") for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError("the GGUF file's tokenizer is damaged: a merge is not two tokens")
    pattern = pattern_of_name(pre)
    return bytes_tokenizer(
        [None if types[i] == UNUSED else token for i, token in enumerate(tokens)],
        [(left, right) for left, right in pairs],
        special,
        visible,
        pattern,
        eos_id=ids.get("eos"),
        bos_id=ids.get("bos"),
        add_bos=flags.get("add_bos_token", pattern == "llama3"),
    )


def _sentencepiece(
    tokens: Sequence[str],
    types: Sequence[int],
    scores: Sequence[float],
    ids: Mapping[str, int],
    flags: Mapping[str, bool],
) -> Tokenizer:
    """Rebuilds the SentencePiece model, or the character tokenizer, of a GGUF file's pieces."""
    if (found := _characters(tokens, types)) is not None:
        return found
    unknown = [i for i, kind in enumerate(types) if kind == UNKNOWN]
    eos_id = ids.get("eos", 2 if len(tokens) > 2 else 0)
    if len(unknown) != 1 or types[eos_id] != CONTROL or {*types} - {*range(1, 7)}:
        raise UserError("the GGUF file's tokenizer is damaged: it needs one unknown token, and an end-of-text token")
    for token in tokens:
        utf8(token)
    space_prefix = flags.get("add_space_prefix", True)
    pieces = [Piece(*piece) for piece in zip(tokens, map(float, scores), map(int, types), strict=True)]
    own = tokens[eos_id] == END_OF_TEXT and not space_prefix and types.count(BYTE) == 256
    bos_id = None if own else ids.get("bos")
    content = write_model(pieces, eos_id=eos_id, bos_id=bos_id, space_prefix=space_prefix)
    try_parser(content)
    return BPETokenizer(content) if own else SentencePieceTokenizer(content)


def _characters(tokens: Sequence[str], types: Sequence[int]) -> CharTokenizer | None:
    """Returns the character tokenizer that `to_gguf` wrote; None where the tokens are others."""
    byte_fallback = [*tokens[-256:]] == BYTE_PIECES
    characters = [token.replace(MARK, " ") for token in (tokens[1:-256] if byte_fallback else tokens[1:])]
    known = [CONTROL, *[NORMAL] * len(characters), *([BYTE] * 256 if byte_fallback else [])]
    alone = characters and max(map(len, characters)) == 1 and characters == sorted({*characters})
    if tokens[0] == END_OF_TEXT and alone and [*types] == known:
        return CharTokenizer("".join(characters), byte_fallback)
    return None


def to_gguf(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the `tokenizer.ggml.*` entries of a GGUF file for a tokenizer.

    llama.cpp reads a U+2581 of a text as a space where the tokens are SentencePiece's or single
    characters. All other ids are the tokenizer's own.

    Raises:
        UserError: when GGUF cannot hold the tokenizer.
    """
    if isinstance(tokenizer, CharTokenizer):
        return _of_characters(tokenizer)
    if isinstance(tokenizer, BPETokenizer | SentencePieceTokenizer):
        return _of_model(tokenizer)
    if isinstance(tokenizer, GPT2Tokenizer):
        tokens = tokenizer.tokens()
        types = [CONTROL if i == tokenizer.eot_id else NORMAL for i in range(len(tokens))]
        merges = tokenizer.files[MERGES_FILE].decode().splitlines()[1:]
        kind = {"model": "gpt2", "pre": PATTERNS["gpt2"].names[0], "tokens": tokens, "token_type": types}
        return _named(kind | {"merges": merges}, tokenizer.eot_id, tokenizer.eot_id)
    if isinstance(tokenizer, BytesTokenizer):
        return _of_bytes(tokenizer)
    raise UserError(f"a tokenizer of kind {tokenizer.kind} cannot be written as GGUF")


def _of_bytes(tokenizer: BytesTokenizer) -> dict[str, Any]:
    marks = {i: USER_DEFINED if name in tokenizer.visible else CONTROL for name, i in tokenizer.special.items()}
    types = [UNUSED if token is None else marks.get(i, NORMAL) for i, token in enumerate(tokenizer.tokens)]
    tokens = [f"[PAD{i}]" if token is None else token for i, token in enumerate(tokenizer.tokens)]
    pre = PATTERNS[tokenizer.pattern].names[0]
    kind = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": tokenizer.merges}
    return _named(kind, tokenizer.eos_id, tokenizer.bos_id, add_bos=tokenizer.add_bos)


def _of_characters(tokenizer: CharTokenizer) -> dict[str, Any]:
    if MARK in tokenizer.characters:
        raise UserError("GGUF writes a space as U+2581, which is a character of its own in this tokenizer")
    tokens = [END_OF_TEXT, *tokenizer.characters.replace(" ", MARK), *(BYTE_PIECES if tokenizer.byte_fallback else [])]
    types = [CONTROL, *[NORMAL] * len(tokenizer.characters), *([BYTE] * 256 if tokenizer.byte_fallback else [])]
    kind = {"model": "llama", "pre": "default", "tokens": tokens, "token_type": types, "scores": [0.0] * len(tokens)}
    return _named(kind | {"unknown_token_id": 0}, tokenizer.eot_id, tokenizer.eot_id, add_space_prefix=False)


def _of_model(tokenizer: BPETokenizer | SentencePieceTokenizer) -> dict[str, Any]:
    model = read_model(tokenizer.model)
    own = isinstance(tokenizer, BPETokenizer)
    if model.kind != BPE or not model.plain or (own and model.space_prefix):
        raise UserError("GGUF holds SentencePiece's BPE without normalization alone: this tokenizer's ids would differ")
    kind = {
        "model": "llama",
        "pre": "default",
        "tokens": [piece.text for piece in model.pieces],
        # A newline is user-defined in ours, which llama.cpp would look for before everything else.
        "token_type": [NORMAL if own and piece.type == USER_DEFINED else piece.type for piece in model.pieces],
        "scores": [piece.score for piece in model.pieces],
        "unknown_token_id": next(i for i, piece in enumerate(model.pieces) if piece.type == UNKNOWN),
    }
    if isinstance(tokenizer, BPETokenizer):
        return _named(kind, tokenizer.eot_id, tokenizer.eot_id, add_space_prefix=False)
    return _named(
        kind, tokenizer.eos_id, tokenizer.bos_id, add_bos=tokenizer.add_bos, add_space_prefix=model.space_prefix
    )


def _named(
    kind: Mapping[str, Any],
    eos_id: int,
    bos_id: int | None,
    *,
    add_bos: bool = False,
    add_space_prefix: bool = False,
) -> dict[str, Any]:
    """Adds the entries that all kinds have; our own models begin with the end-of-text token."""
    bos = {} if bos_id is None else {"bos_token_id": bos_id}
    more = {"eos_token_id": eos_id, "add_bos_token": add_bos, "add_eos_token": False}
    entries = {**kind, **bos, **more, "add_space_prefix": add_space_prefix}
    return {f"tokenizer.ggml.{key}": value for key, value in entries.items()}
