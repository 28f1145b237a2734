"""Learning a tokenizer from texts, and loading one from the folder where it was saved."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer.base import JSON_FILE, Tokenizer, description, read_file
from llm_from_scratch.tokenizer.bpe import MODEL_FILE, BPETokenizer, SentencePieceTokenizer, try_parser
from llm_from_scratch.tokenizer.bytes import (
    MERGES_FILE,
    PARTS,
    VOCAB_FILE,
    BytesTokenizer,
    GPT2Tokenizer,
    files_fingerprint,
)
from llm_from_scratch.tokenizer.char import CharTokenizer


def train_tokenizer(
    kind: str,
    texts: Iterable[str],
    vocab_size: int | None = None,
    held_out: Iterable[str] = (),
    special: Sequence[str] = (),
) -> Tokenizer:
    """Learns a tokenizer of `kind` ("char" or "bpe") from the documents `texts`, in one pass.

    `vocab_size` is for bpe; it is None for char. A character tokenizer also reads `held_out`, and
    has ids for bytes if a character there is not in `texts`. `special` are names of special tokens
    beside end-of-text, for bpe; a character tokenizer has none of them.

    Raises:
        UserError: as `train` of the kind; when the kind is unknown, or `vocab_size` is missing
            (bpe) or given (char).
    """
    assert not isinstance(texts, str), "texts are documents, not the characters of one"
    if kind == "char":
        if vocab_size is not None:
            raise UserError(
                f"tokenizer.vocab_size={vocab_size}: with tokenizer=char the text decides it, leave it null"
            )
        return CharTokenizer.train(texts, held_out)
    if kind == "bpe":
        if vocab_size is None:
            raise UserError("tokenizer.vocab_size=null: tokenizer=bpe needs a number of tokens, such as 1024")
        return BPETokenizer.train(texts, vocab_size, special=special)
    raise UserError(f"tokenizer.kind={kind!r}: use char, bpe or gpt2")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Loads the tokenizer that `save` wrote into `folder`.

    Raises:
        UserError: when a file, which it names, is missing or damaged, or its checksum differs.
    """
    path = folder / JSON_FILE
    content = read_file(path)
    try:
        saved = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if not isinstance(saved, dict):
        raise UserError(f"{path}: damaged: no JSON object")
    tokenizer: Tokenizer
    byte_fallback = saved.get("byte_fallback", False)  # absent from a file without bytes
    if saved.get("kind") == "char" and isinstance(saved.get("characters"), str) and isinstance(byte_fallback, bool):
        try:
            tokenizer = CharTokenizer(saved["characters"], byte_fallback)
        except UserError as error:
            raise UserError(f"{path}: damaged: {error}") from None
    elif saved.get("kind") in ("bpe", "sentencepiece"):
        tokenizer = _load_model(folder / MODEL_FILE, saved)
    elif saved.get("kind") == "gpt2":
        vocab, merges = read_file(folder / VOCAB_FILE), read_file(folder / MERGES_FILE)
        if files_fingerprint(vocab, merges) != saved.get("fingerprint"):
            raise UserError(
                f"{folder / VOCAB_FILE}: damaged: its sha256, with {MERGES_FILE}, is not the fingerprint in {JSON_FILE}"
            )
        try:
            tokenizer = GPT2Tokenizer(vocab, merges)
        except UserError as error:
            raise UserError(f"{folder / VOCAB_FILE}: {error}") from None
    elif saved.get("kind") == "bytes":
        if lacking := {*PARTS} - {*saved}:
            raise UserError(f"{path}: damaged: it lacks {min(lacking)}")
        try:
            tokenizer = BytesTokenizer(**{key: saved[key] for key in PARTS})
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    else:
        raise UserError(f"{path}: damaged: no tokenizer of kind char, bpe, gpt2, bytes or sentencepiece")
    for key, value in description(tokenizer).items():
        if saved.get(key) != value:
            raise UserError(f"{path}: damaged: {key} is not {value}, which the rest of it gives")
    return tokenizer


def _load_model(path: Path, saved: dict[str, Any]) -> BPETokenizer | SentencePieceTokenizer:
    """Loads a tokenizer.model, for which `saved` is the content of tokenizer.json.

    Raises:
        UserError: when the model is damaged, or its checksum differs.
    """
    model = read_file(path)
    if hashlib.sha256(model).hexdigest() != saved.get("fingerprint"):
        raise UserError(f"{path}: damaged: its sha256 is not the fingerprint in {JSON_FILE}")
    try:
        try_parser(model)
        return BPETokenizer(model) if saved["kind"] == "bpe" else SentencePieceTokenizer(model)
    except UserError as error:
        raise UserError(f"{path}: damaged: {error}") from None
