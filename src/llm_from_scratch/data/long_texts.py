"""Long documents, processed in pieces to bound the memory.

They are read, cleaned, learned from and encoded piece by piece. The result is the same as for the
whole text: each piece ends at a place that neither a cleaner's change nor a token can span.
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
from llm_from_scratch.data.streams import ChangedFileError, changed, compare_checksum, opened
from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer import END_OF_TEXT, BPETokenizer, SentencePieceTokenizer, Tokenizer

LONG = 16 * 2**20  # bytes; a text file of at least this size is read in pieces
# bytes read at a time, and characters of a piece: a multiple of the blocks that a tokenizer learns
# from
PIECE = 2**20
OVERLAP = 32  # characters; longer than any string that is searched for across two pieces


class LongText:
    """Clean text of a long file, on disk: `len()` characters, `size` bytes of UTF-8.

    Construction reads the file once, for its checksum and counts; `pieces` reads and cleans it
    again, and compares that checksum.
    """

    def __init__(self, path: Path, name: str, checksum: str, on_progress: OnProgress, encoding: str = "utf-8") -> None:
        self.path, self.name, self.encoding = path, name, encoding
        self.cleaned = dict.fromkeys(CLEANERS, 0)
        self.size = self._length = 0
        self.holds_end_of_text = False
        self._beginning = ""
        before, marks = "", Counter[str]()
        composed, digest = False, hashlib.sha256()
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
            # summed over all pieces, as for the whole text: a character that one piece loses and
            # another gains does not count
            if count:
                composed = True
                marks.update(text)
                marks.subtract(normal)
            self._beginning = self._beginning or normal[:PIECE]
            self._length += len(normal)
            self.size += len(normal.encode())
        self._sha256 = digest.hexdigest()
        compare_checksum(path, checksum, self._sha256)
        if composed:
            self.cleaned["unicode_nfc"] = max(1, sum(count for count in marks.values() if count > 0))

    def __len__(self) -> int:
        return self._length

    def beginning(self, count: int) -> str:
        """Returns the first `count` characters, at most those of the first piece read."""
        return self._beginning[:count]

    def pieces(self) -> Iterator[str]:
        """Yields the clean text in pieces of PIECE characters; the last may be shorter.

        Raises:
            ChangedFileError: when the file has other bytes than at construction.
            UserError: when it cannot be read.
        """
        yield from _regular(self._clean_pieces())

    def _clean_pieces(self) -> Iterator[str]:
        first, digest = True, hashlib.sha256()
        try:
            for raw in self._pieces_of_utf8(digest):
                text = raw.decode()
                if first:
                    text, _ = remove_byte_order_mark(text)
                    first = not text
                yield normalize_unicode(normalize_line_ends(text)[0])[0]
        except (UnicodeDecodeError, _NeedsWholeError):  # the first reading found neither
            raise changed(self.path) from None
        if digest.hexdigest() != self._sha256:
            raise changed(self.path)

    def _pieces_of_utf8(self, digest: Any, on_progress: OnProgress = no_progress) -> Iterator[bytes]:
        """Yields the uncleaned text in UTF-8, cut where neither NFC nor CRLF spans the cut.

        `digest` is updated with the file's bytes.
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
        """Yields the file's content, re-encoded as UTF-8, in chunks.

        Raises:
            _NeedsWholeError: when a byte is invalid in `encoding`, or when the file is UTF-8, not
                ASCII alone, and `encoding` is another.
        """
        decode = None if self.encoding == "utf-8" else codecs.getincrementaldecoder(self.encoding)().decode
        utf8 = codecs.getincrementaldecoder("utf-8")().decode if self.encoding not in ("utf-8", "utf-8-sig") else None
        ascii_only = True
        with opened(self.path) as file:
            while chunk := file.read(PIECE):
                on_progress(len(chunk))
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
    """Returns whether a byte of UTF-8 begins a character that NFC never joins to the one before.

    It is true of ASCII and of U+4000 to U+9FFF.
    """
    return byte < 128 or 0xE4 <= byte <= 0xE9


def _encoded(decode: Callable[..., str], chunk: bytes, final: bool = False) -> bytes:
    try:
        return decode(chunk, final).encode()
    except UnicodeError:
        raise _NeedsWholeError from None


def _ends(decode: Callable[..., str]) -> bool:
    """Returns whether the bytes given to an incremental decoder end with a complete character."""
    try:
        decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


class _NeedsWholeError(Exception):
    """Signal that a file may hold boilerplate or invalid bytes, and must be read as a whole."""


def open_long(
    path: Path, name: str, checksum: str, on_progress: OnProgress, encoding: str = "utf-8"
) -> LongText | None:
    """Returns the clean text of a long file; None where it must be read as a whole.

    That is so where it may hold Project Gutenberg's boilerplate, and where its encoding is faulty:
    the whole reading then reports the place.

    Raises:
        ChangedFileError: when the file was changed after its `checksum` was computed.
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
        on_progress(-heard)  # takes the progress back: the file is read again
        return None


def pieces_of(text: str | LongText) -> Iterator[str]:
    """Yields a text in pieces that fit into memory; a `str` is one piece."""
    if isinstance(text, str):
        yield text
    else:
        yield from text.pieces()


def size_of(text: str | LongText) -> int:
    """Returns the size of a text in bytes of UTF-8."""
    return len(text.encode()) if isinstance(text, str) else text.size


def beginning_of(text: str | LongText, count: int) -> str:
    """Returns the first `count` characters of a text; of a LongText, at most its first piece."""
    return text[:count] if isinstance(text, str) else text.beginning(count)


def holds_end_of_text(text: str | LongText) -> bool:
    """Returns whether a text contains the name of the end-of-text token, END_OF_TEXT."""
    return END_OF_TEXT in text if isinstance(text, str) else text.holds_end_of_text


def in_memory(text: str | LongText) -> str:
    """Returns a text as a `str`, whatever its length."""
    return text if isinstance(text, str) else "".join(text.pieces())


def read_pieces(file: BinaryIO, size: int) -> Iterator[str]:
    """Yields the next `size` bytes of UTF-8 in pieces of PIECE characters, the last one shorter."""

    def decoded() -> Iterator[str]:
        decoder, left = codecs.getincrementaldecoder("utf-8")(), size
        while left:
            raw = file.read(min(PIECE, left))
            assert raw
            left -= len(raw)
            yield decoder.decode(raw, not left)

    yield from _regular(decoded())


def _regular(pieces: Iterable[str]) -> Iterator[str]:
    """Yields the same text in pieces of PIECE characters; the last may be shorter."""
    rest = ""
    for piece in pieces:
        rest += piece
        while len(rest) >= PIECE:
            yield rest[:PIECE]
            rest = rest[PIECE:]
    if rest:
        yield rest


def encode_pieces(pieces: Iterable[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Yields arrays of token ids; joined, they are the encoding of the whole text.

    The text is cut anew for the tokenizer, where no token can span. Character tokenizers allow any
    cut, SentencePiece's one between two characters that no token has side by side. For a byte-level
    BPE the text is cut at a line end or a space between two words, or between a Chinese character
    and a comma or full stop. A text without such a place is encoded as a whole, in memory,
    and so is every text for SentencePiece's model of others.
    """
    if tokenizer.kind == "char":
        yield from map(tokenizer.encode_array, pieces)
        return
    last_cut = tokenizer.last_cut if isinstance(tokenizer, BPETokenizer) else _last_cut
    if isinstance(tokenizer, SentencePieceTokenizer):
        last_cut = _no_cut
    waiting: list[str] = []
    tail = ""
    for piece in pieces:
        text = tail + piece
        if cut := last_cut(text):
            yield tokenizer.encode_array("".join([*waiting, text[:cut]]))
            waiting, text = [], text[cut:]
        # The last two characters, with what follows, may form a place to cut.
        kept = max(0, len(text) - 2)
        waiting.append(text[:kept])
        tail = text[kept:]
    yield tokenizer.encode_array("".join([*waiting, tail]))


# The end of a match is the last place to cut: after a line end between two words, before the space
# between two words, or before a punctuation mark that follows a Chinese character.
_CUT = re.compile(r"(?s:.*)(?:\S(?:\n(?=\S)|(?= \S))|[\u4e00-\u9fa5](?=[\u3001\u3002\uff0c]))")


def _no_cut(text: str) -> int:
    """Returns 0: SentencePiece may put a space in front of each text that it encodes."""
    return 0


def _last_cut(text: str) -> int:
    """Returns the last index where a text can be cut for a byte-level BPE; 0 where none is."""
    found = _CUT.match(text)
    return found.end() if found else 0
