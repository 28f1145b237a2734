"""The protocol of every tokenizer, and the file that describes one: `tokenizer.json`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import open_regular

END_OF_TEXT = "<|endoftext|>"
# Ten times the largest possible file: a damaged one cannot fill the memory
MAX_FILE_BYTES = 64_000_000
JSON_FILE = "tokenizer.json"


class Tokenizer(Protocol):
    """A lossless mapping between text and ids from 0 to vocab_size - 1; `eot_id` ends (and begins)
    a document.
    """

    kind: str
    vocab_size: int
    eot_id: int
    fingerprint: str  # sha256, in hex, of what defines the mapping

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without an end-of-text.

        Raises:
            UserError: a lone surrogate, or a character that has no id.
        """
        ...

    def encode_array(self, text: str) -> np.ndarray:
        """`encode` as an array (ids,) of an integer type, without a Python object an id."""
        return np.array(self.encode(text), np.int64)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact UTF-8 bytes of `ids`; an id may be a part of a character, end-of-text
        is empty.
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no UTF-8, which a model can generate, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Writes into `folder` the files that `load_tokenizer` reads."""
        ...


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of `text`.

    Raises:
        UserError: `text` holds a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds a lone surrogate, U+{ord(text[error.start]):04X} at index {error.start}, which is no "
            "character and has no UTF-8: leave it out"
        ) from None


def description(tokenizer: Tokenizer) -> dict[str, Any]:
    """The part of `tokenizer.json` that every kind of tokenizer has."""
    return {key: getattr(tokenizer, key) for key in ("kind", "vocab_size", "eot_id", "fingerprint")}


def write_description(folder: Path, tokenizer: Tokenizer, **more: str | bool) -> None:
    """Writes `tokenizer.json` into `folder`: the description and what else a kind needs."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(description(tokenizer) | more, ensure_ascii=False, indent=2) + "\n"
    (folder / JSON_FILE).write_bytes(content.encode())


def read_file(path: Path) -> bytes:
    """The content of a tokenizer's file.

    Raises:
        UserError: the file is missing, is no regular file, or is too large.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"{path}: damaged: larger than {MAX_FILE_BYTES} bytes")
    return content
