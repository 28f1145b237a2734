"""Protocol of every tokenizer, and its description on disk, `tokenizer.json`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import open_regular

END_OF_TEXT = "<|endoftext|>"
# Ten times the largest valid file, so that a damaged one cannot fill the memory
MAX_FILE_BYTES = 64_000_000
JSON_FILE = "tokenizer.json"


class Tokenizer(Protocol):
    """Lossless mapping between text and ids from 0 to vocab_size - 1.

    `eot_id` is the end-of-text token, which ends each document and so precedes the next.
    """

    kind: str
    vocab_size: int
    eot_id: int
    fingerprint: str  # sha256, in hex, of the data that defines the mapping

    @property
    def special(self) -> dict[str, int]:
        """The ids of the special tokens by name; no text encodes to them."""
        return {END_OF_TEXT: self.eot_id}

    def encode(self, text: str) -> list[int]:
        """Encodes `text` to ids, without an end-of-text token.

        Raises:
            UserError: when `text` holds a lone surrogate, or a character without an id.
        """
        ...

    def encode_array(self, text: str) -> np.ndarray:
        """Encodes `text` to an array (N,) of an integer dtype, without a list where possible."""
        return np.array(self.encode(text), np.int64)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of `ids`, joined.

        A token may be part of a character in UTF-8. An end-of-text token has no bytes.
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Decodes `ids` to text; invalid UTF-8, which a model can generate, becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Writes into `folder` the files that `load_tokenizer` reads."""
        ...


def begin_ids(tokenizer: Tokenizer) -> list[int]:
    """Returns the ids in front of every text: a begin-of-text token, if the model expects one.

    Llama's models do; a model of this package begins with its text.
    """
    bos_id = getattr(tokenizer, "bos_id", None)
    return [bos_id] if bos_id is not None and getattr(tokenizer, "add_bos", False) else []


def first_id(tokenizer: Tokenizer) -> int:
    """Returns the id after which a text begins: of `begin_ids`, else end-of-text."""
    return (begin_ids(tokenizer) or [tokenizer.eot_id])[0]


def utf8(text: str) -> bytes:
    """Encodes `text` in UTF-8.

    Raises:
        UserError: when `text` holds a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds a lone surrogate, U+{ord(text[error.start]):04X} at index {error.start}, which is no "
            "character and has no UTF-8: leave it out"
        ) from None


def description(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the entries of `tokenizer.json` that every kind of tokenizer has."""
    return {key: getattr(tokenizer, key) for key in ("kind", "vocab_size", "eot_id", "fingerprint")}


def write_description(folder: Path, tokenizer: Tokenizer, **more: Any) -> None:
    """Writes `tokenizer.json` into `folder`: the `description` and the kind's entries, `more`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(description(tokenizer) | more, ensure_ascii=False, indent=2) + "\n"
    (folder / JSON_FILE).write_bytes(content.encode())


def read_file(path: Path) -> bytes:
    """Reads a file of a tokenizer.

    Raises:
        UserError: when it is missing, not a regular file, or larger than MAX_FILE_BYTES.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"{path}: damaged: larger than {MAX_FILE_BYTES} bytes")
    return content
