"""Documents that are longer than the memory should be: read, cleaned, learned from and encoded piece by piece.

The bytes that come out are those of the same text as a whole: each piece ends where no cleaner and no tokenizer looks across.
"""

import codecs
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llm_from_scratch.data.clean import (
    CLEANERS,
    decode,
    may_have_boilerplate,
    normalize_line_ends,
    normalize_unicode,
    remove_byte_order_mark,
)
from llm_from_scratch.data.formats import OnProgress
from llm_from_scratch.data.streams import ChangedFileError, compare_checksum
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import open_regular
from llm_from_scratch.tokenizer import END_OF_TEXT, Tokenizer

LONG = 16 * 2**20  # bytes of a text file from which on it is read in pieces
PIECE = 2**20  # bytes of a file, or characters: a multiple of the blocks that a tokenizer learns from
OVERLAP = 32  # characters; a sign of boilerplate is shorter


class LongText:
    """The clean text of a long file, `len()` characters in `size` bytes of UTF-8; it is cleaned anew each time it is read."""

    def __init__(self, path: Path, name: str, checksum: str, on_progress: OnProgress) -> None:
        self.path, self.name = path, name
        self.cleaned = dict.fromkeys(CLEANERS, 0)
        self.size = self._length = 0
        self.holds_end_of_text = False
        self._beginning = ""
        before, marks = "", Counter[str]()
        changed, digest = False, hashlib.sha256()
        for raw in self._raw_pieces():
            on_progress(len(raw))
            digest.update(raw)
            text = decode(raw, name)
            if not self._length:
                text, count = remove_byte_order_mark(text)
                self.cleaned["byte_order_mark"] += count
            text, count = normalize_line_ends(text)
            self.cleaned["carriage_returns"] += count
            if may_have_boilerplate(before + text):
                raise _NeedsWholeError
            self.holds_end_of_text |= END_OF_TEXT in before + text
            before = text[-OVERLAP:]
            normal, count = normalize_unicode(text)
            if count:  # a character that one piece loses and another gains is none that the text no longer holds
                changed = True
                marks.update(text)
                marks.subtract(normal)
            self._beginning = self._beginning or normal[:PIECE]
            self._length += len(normal)
            self.size += len(normal.encode())
        compare_checksum(path, checksum, digest.hexdigest())
        if changed:
            self.cleaned["unicode_nfc"] = max(1, sum(count for count in marks.values() if count > 0))

    def __len__(self) -> int:
        return self._length

    def beginning(self, count: int) -> str:
        """The first characters, fewer than a piece."""
        return self._beginning[:count]

    def pieces(self) -> Iterator[str]:
        """The clean text in pieces of PIECE characters, the last one shorter."""
        yield from _regular(self._clean_pieces())

    def _clean_pieces(self) -> Iterator[str]:
        first = True
        for raw in self._raw_pieces():
            text = raw.decode()
            if first:
                text, _ = remove_byte_order_mark(text)
                first = not text
            yield normalize_unicode(normalize_line_ends(text)[0])[0]

    def _raw_pieces(self) -> Iterator[bytes]:
        """The bytes, cut between two characters of ASCII: nothing composes across them."""
        rest: list[bytes] = []
        with open_regular(self.path) as file:
            while chunk := file.read(PIECE):
                cut = len(chunk) - 1
                while cut and not (chunk[cut] < 128 and chunk[cut - 1] < 128 and chunk[cut - 1] != ord("\r")):
                    cut -= 1
                if cut:
                    yield b"".join([*rest, chunk[:cut]])
                    rest = []
                rest.append(chunk[cut:])
        if last := b"".join(rest):
            yield last


class _NeedsWholeError(Exception):
    """Boilerplate is found by looking at a whole text."""


def open_long(path: Path, name: str, checksum: str, on_progress: OnProgress) -> LongText | None:
    """The text of a long file; None where it must be read as a whole, for its boilerplate or to say what is wrong with it.

    UserError: it was changed meanwhile. OSError: it cannot be read.
    """
    heard = 0

    def count_progress(count: int) -> None:
        nonlocal heard
        heard += count
        on_progress(count)

    try:
        return LongText(path, name, checksum, count_progress)
    except ChangedFileError:
        raise
    except (_NeedsWholeError, UserError):
        on_progress(-heard)  # it is read again
        return None


def pieces_of(text: str | LongText) -> Iterator[str]:
    """A text in pieces that fit into memory; of a text in memory, itself."""
    if isinstance(text, str):
        yield text
    else:
        yield from text.pieces()


def size_of(text: str | LongText) -> int:
    """The bytes of a text in UTF-8."""
    return len(text.encode()) if isinstance(text, str) else text.size


def beginning_of(text: str | LongText, count: int) -> str:
    """The first characters of a text, fewer than a piece."""
    return text[:count] if isinstance(text, str) else text.beginning(count)


def holds_end_of_text(text: str | LongText) -> bool:
    """Whether the name of the end-of-text stands in a text as a word."""
    return END_OF_TEXT in text if isinstance(text, str) else text.holds_end_of_text


def in_memory(text: str | LongText) -> str:
    """The text in memory."""
    return text if isinstance(text, str) else "".join(text.pieces())


def read_pieces(file: BinaryIO, size: int) -> Iterator[str]:
    """The next `size` bytes of UTF-8 in pieces of PIECE characters, the last one shorter."""

    def decoded() -> Iterator[str]:
        decoder, left = codecs.getincrementaldecoder("utf-8")(), size
        while left:
            raw = file.read(min(PIECE, left))
            assert raw
            left -= len(raw)
            yield decoder.decode(raw, not left)

    yield from _regular(decoded())


def _regular(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in pieces of PIECE characters, the last one shorter."""
    rest = ""
    for piece in pieces:
        rest += piece
        while len(rest) >= PIECE:
            yield rest[:PIECE]
            rest = rest[PIECE:]
    if rest:
        yield rest


def encode_pieces(pieces: Iterator[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The ids of a text, an array for each of its pieces: together those of the whole text.

    Pieces are cut behind a line end between two letters or signs: no piece of any vocabulary reaches across. A text without one
    is encoded as a whole; characters can be cut anywhere.
    """
    if tokenizer.kind == "char":
        for piece in pieces:
            yield tokenizer.encode_array(piece)
        return
    waiting: list[str] = []
    tail = ""  # two characters: a line end may be the first or the last of a piece
    for piece in pieces:
        text = tail + piece
        if cut := _last_cut(text):
            yield tokenizer.encode_array("".join([*waiting, text[:cut]]))
            waiting, text = [], text[cut:]
        waiting.append(text[:-2])
        tail = text[-2:]
    yield tokenizer.encode_array("".join([*waiting, tail]))


def _last_cut(text: str) -> int:
    """The place behind the last line end that stands between two characters that are no white space; 0 where there is none."""
    end = len(text) - 1
    while (found := text.rfind("\n", 1, end)) > 0:
        if not text[found - 1].isspace() and not text[found + 1].isspace():
            return found + 1
        end = found
    return 0
