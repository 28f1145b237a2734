"""Documents that are longer than the memory should be, in pieces.

They are read, cleaned, learned from and encoded piece by piece.

The bytes that come out are those of the same text as a whole: each piece ends where no cleaner and
no tokenizer looks across.
"""

import codecs
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llm_from_scratch.data.clean import (
    CLEANERS,
    decode,
    may_have_boilerplate,
    normalize_line_ends,
    normalize_unicode,
    remove_byte_order_mark,
)
from llm_from_scratch.data.formats import OnProgress, no_progress
from llm_from_scratch.data.streams import ChangedFileError, compare_checksum
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import open_regular
from llm_from_scratch.tokenizer import END_OF_TEXT, Tokenizer
from llm_from_scratch.tokenizer.bpe import last_chunk_end

LONG = 16 * 2**20  # bytes of a text file from which on it is read in pieces
# bytes of a file, or characters: a multiple of the blocks that a tokenizer learns from
PIECE = 2**20
OVERLAP = 32  # characters; a sign of boilerplate is shorter


class LongText:
    """The clean text of a long file: `len()` characters, `size` bytes of UTF-8.

    It is cleaned anew each time it is read.
    """

    def __init__(self, path: Path, name: str, checksum: str, on_progress: OnProgress, encoding: str = "utf-8") -> None:
        self.path, self.name, self.encoding = path, name, encoding
        self.cleaned = dict.fromkeys(CLEANERS, 0)
        self.size = self._length = 0
        self.holds_end_of_text = False
        self._beginning = ""
        before, marks = "", Counter[str]()
        changed, digest = False, hashlib.sha256()
        for raw in self._pieces_of_utf8(digest, on_progress):
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
            # a character that one piece loses and another gains is none that the text no longer
            # holds
            if count:
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
        for raw in self._pieces_of_utf8():
            text = raw.decode()
            if first:
                text, _ = remove_byte_order_mark(text)
                first = not text
            yield normalize_unicode(normalize_line_ends(text)[0])[0]

    def _pieces_of_utf8(self, digest: Any = None, on_progress: OnProgress = no_progress) -> Iterator[bytes]:
        """The text in UTF-8, cut in front of characters that compose with none before them.

        `digest` gets the file's bytes.
        """
        rest: list[bytes] = []
        for chunk in self._utf8_chunks(digest, on_progress):
            cut = len(chunk) - 1
            while cut > 0 and not (_begins_piece(chunk[cut]) and chunk[cut - 1] != ord("\r")):
                cut -= 1
            if cut > 0:
                yield b"".join([*rest, chunk[:cut]])
                rest = []
            rest.append(chunk[max(0, cut) :])
        if last := b"".join(rest):
            yield last

    def _utf8_chunks(self, digest: Any, on_progress: OnProgress) -> Iterator[bytes]:
        """The bytes of the file in UTF-8.

        Raises:
            _NeedsWholeError: its bytes are not in its encoding, or they are UTF-8 and the encoding
                is another.
        """
        decode = None if self.encoding == "utf-8" else codecs.getincrementaldecoder(self.encoding)().decode
        utf8 = codecs.getincrementaldecoder("utf-8")().decode if self.encoding not in ("utf-8", "utf-8-sig") else None
        ascii_only = True
        with open_regular(self.path) as file:
            while chunk := file.read(PIECE):
                on_progress(len(chunk))
                if digest is not None:
                    digest.update(chunk)
                ascii_only = ascii_only and chunk.isascii()
                try:
                    if utf8 is not None:
                        utf8(chunk)
                except UnicodeDecodeError:
                    utf8 = None
                yield chunk if decode is None else _encoded(decode, chunk)
        if decode is not None:
            yield _encoded(decode, b"", True)
            if utf8 is not None and not ascii_only and _ends(utf8):
                raise _NeedsWholeError


def _begins_piece(byte: int) -> bool:
    """Whether a byte of UTF-8 begins a character that composes with none before it.

    Such are ASCII, and U+4000 to U+9FFF.
    """
    return byte < 128 or 0xE4 <= byte <= 0xE9


def _encoded(decode: Callable[..., str], chunk: bytes, final: bool = False) -> bytes:
    try:
        return decode(chunk, final).encode()
    except UnicodeError:
        raise _NeedsWholeError from None


def _ends(decode: Callable[..., str]) -> bool:
    """Whether the bytes that an incremental decoder has seen end with a whole character."""
    try:
        decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


class _NeedsWholeError(Exception):
    """Boilerplate, and a fault of the encoding, are found by looking at a whole text."""


def open_long(
    path: Path, name: str, checksum: str, on_progress: OnProgress, encoding: str = "utf-8"
) -> LongText | None:
    """The text of a long file; None where it must be read as a whole.

    That is so for boilerplate, and for a fault, which is named by its place.

    UserError: it was changed meanwhile. OSError: it cannot be read.
    """
    heard = 0

    def count_progress(count: int) -> None:
        nonlocal heard
        heard += count
        on_progress(count)

    try:
        return LongText(path, name, checksum, count_progress, encoding)
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


def encode_pieces(pieces: Iterable[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The ids of a text, an array for each of its pieces: together those of the whole text.

    Characters can be cut anywhere, SentencePiece's text where its tokenizer cuts it anyway, and
    GPT-2's where no token of any vocabulary reaches across: at a line end or a space between two
    words, or in front of a sign behind a Chinese one. A text without such a place is encoded as a
    whole, in memory.
    """
    if tokenizer.kind == "char":
        yield from map(tokenizer.encode_array, pieces)
        return
    last_cut = last_chunk_end if tokenizer.kind == "bpe" else _last_cut
    waiting: list[str] = []
    tail = ""
    for piece in pieces:
        text = tail + piece
        if cut := last_cut(text):
            yield tokenizer.encode_array("".join([*waiting, text[:cut]]))
            waiting, text = [], text[cut:]
        # Two characters may be a place to cut with what follows; SentencePiece's cuts are counted
        # from the last one.
        kept = 0 if tokenizer.kind == "bpe" else max(0, len(text) - 2)
        waiting.append(text[:kept])
        tail = text[kept:]
    yield tokenizer.encode_array("".join([*waiting, tail]))


# Behind a line end between two words, in front of the space between two words, in front of a sign
# behind a Chinese character.
_CUT = re.compile(r"(?s:.*)(?:\S(?:\n(?=\S)|(?= \S))|[\u4e00-\u9fa5](?=[\u3001\u3002\uff0c]))")


def _last_cut(text: str) -> int:
    """The last place at which a text can be cut for GPT-2's tokenizer; 0 where there is none."""
    found = _CUT.match(text)
    return found.end() if found else 0
