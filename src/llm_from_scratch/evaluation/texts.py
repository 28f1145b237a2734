"""The text that is scored, and the units of it that an interval draws from.

Everything is counted in UTF-8 bytes of this text, so that models, n-grams and compressors are
compared on the same bytes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.data.clean import clean
from llm_from_scratch.data.formats import is_plain
from llm_from_scratch.data.long_texts import LONG, PIECE, LongText, in_memory, open_long
from llm_from_scratch.data.prepare import MANY_DOCUMENTS
from llm_from_scratch.data.sources import Source, open_source
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.intervals import bootstrap_ratio
from llm_from_scratch.evaluation.results import Figures, TextInfo
from llm_from_scratch.files import sha256
from llm_from_scratch.places import config_dir, user_path
from llm_from_scratch.saved_config import read_config

BLOCK = 500  # bytes of a block, about 90 words, where there are few documents
WIKITEXT = ("wiki.test.raw", "wiki.test.tokens")  # the test part as published
TRAIN_CHARACTERS = 5_000_000  # of the training part, for baselines and memorisation


@dataclass(frozen=True)
class Text:
    """The documents to be scored, in U units: documents, or blocks where these are few."""

    name: str
    documents: tuple[str | LongText, ...]
    whole: bool  # each document is followed by the end-of-text piece, which is scored as well
    lines: bool = False  # the end of a line is a word, as in WikiText's perplexities a word
    ends: np.ndarray = field(init=False)  # (U,) int64: the byte at which each unit ends

    def __post_init__(self) -> None:
        sizes = np.array([_size(document) for document in self.documents if document], dtype=np.int64)
        if not len(sizes):
            raise UserError(f"{self.name}: the text to score is empty; name another with --data")
        ends = np.cumsum(sizes)
        if len(sizes) < MANY_DOCUMENTS:
            # The last has the rest
            ends = np.append(np.arange(BLOCK, ends[-1] - BLOCK + 1, BLOCK), ends[-1])
        object.__setattr__(self, "ends", ends)

    @cached_property
    def joined(self) -> str:
        """The documents, one behind the other."""
        return "".join(map(in_memory, self.documents))

    @property
    def characters(self) -> int:
        """The number of characters."""
        return sum(map(len, self.documents))

    @cached_property
    def words(self) -> int:
        """The number of runs without white space, and of ends of lines where these count."""
        lines = sum(piece.count("\n") for piece in self.pieces()) if self.lines else 0
        return count_words(self.pieces()) + lines

    def pieces(self) -> Iterator[str]:
        """The text in pieces of at most `PIECE` characters, each of one document."""
        for document in self.documents:
            yield from in_pieces(document)

    def info(self, split: str | None = None) -> TextInfo:
        """Counts that a reader can check, and the checksum of the bytes."""
        checksum = hashlib.sha256()
        for piece in self.pieces():
            checksum.update(piece.encode())
        return TextInfo(
            name=self.name,
            documents=len(self.documents),
            bytes=int(self.ends[-1]),
            characters=self.characters,
            words=self.words,
            lines_count=self.lines,
            units=f"{len(self.ends)} " + ("documents" if self.by_document() else f"blocks of {BLOCK} bytes"),
            sha256=checksum.hexdigest(),
            split=split,
        )

    def by_document(self) -> bool:
        """Whether the units are documents."""
        return len(self.documents) >= MANY_DOCUMENTS

    @property
    def sizes(self) -> np.ndarray:
        """(U,) bytes of each unit."""
        return np.diff(self.ends, prepend=0)

    def compare(self, rows: Sequence[Figures]) -> None:
        """Says in each row but the first how many bits per byte it needs more than the first.

        The interval is of a paired bootstrap: of the differences unit by unit. A hard passage is
        hard for both, so that the interval is narrower than the intervals of the two suggest (Koehn
        2004).
        """
        first = rows[0].unit_bits
        for row in rows[1:]:
            if row.unit_bits is not None:
                row.more, row.more_low, row.more_high = bootstrap_ratio(row.unit_bits - first, self.sizes)


class UnitNats:
    """The nats of each unit of a text, summed up as its tokens are scored, in order."""

    def __init__(self, text: Text) -> None:
        self.text, self.tokens = text, 0
        self._nats = np.zeros(len(text.ends))
        self._bytes = 0  # of the tokens so far

    def add(self, nats: np.ndarray, lengths: np.ndarray) -> None:
        """The nats and the bytes of the next tokens, (n,) each."""
        self.add_at(nats, token_starts(lengths, self._bytes))
        self._bytes += int(lengths.sum())

    def add_at(self, nats: np.ndarray, starts: np.ndarray) -> None:
        """The nats of the next tokens and the byte at which each begins, (n,) each."""
        unit = np.searchsorted(self.text.ends, starts, side="right")
        self._nats += np.bincount(unit, weights=nats, minlength=len(self._nats))
        self.tokens += len(nats)

    def figures(self) -> dict[str, Any]:
        """The fields of `Figures`: loss, perplexities, bits per byte with their interval.

        Perplexity a word is exp(nats / words).
        """
        unit_bits = self._nats / np.log(2)
        bits, low, high = bootstrap_ratio(unit_bits, self.text.sizes)
        total = float(self._nats.sum())
        return {
            "loss": total / self.tokens,
            "perplexity": float(np.exp(min(total / self.tokens, 700.0))),
            "perplexity_word": float(np.exp(min(total / max(self.text.words, 1), 700.0))),
            "bits_per_byte": bits,
            "bits_per_byte_low": low,
            "bits_per_byte_high": high,
            "bits_per_character": total / float(np.log(2)) / self.text.characters,
            "tokens": self.tokens,
            "unit_bits": unit_bits,
        }


def token_starts(lengths: np.ndarray, before: int = 0) -> np.ndarray:
    """(N,) the byte at which each token begins.

    An end-of-text, which has no bytes, counts to the byte before it: to the document that it ends.

    Args:
        lengths: (N,) bytes of each token. before: bytes in front of the first.
    """
    starts = np.cumsum(lengths) - lengths + before
    return np.where(lengths == 0, np.maximum(starts - 1, 0), starts)


def character_bytes(text: str) -> np.ndarray:
    """(T,) int64 bytes in UTF-8 of each character."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    return 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)


def in_pieces(text: str | LongText) -> Iterator[str]:
    """A text in pieces of `PIECE` characters, the last one shorter."""
    if isinstance(text, LongText):
        yield from text.pieces()
        return
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


def count_words(pieces: Iterable[str]) -> int:
    """The number of runs without white space in a text that comes in pieces, none of them empty."""
    count, inside = 0, False
    for piece in pieces:
        count += len(piece.split()) - (inside and not piece[0].isspace())
        inside = not piece[-1].isspace()
    return count


def _size(text: str | LongText) -> int:
    """The bytes of a text in UTF-8."""
    return text.size if isinstance(text, LongText) else sum(len(piece.encode()) for piece in in_pieces(text))


def first_characters(documents: Iterable[str], limit: int = TRAIN_CHARACTERS) -> list[str]:
    """The first documents of up to `limit` characters together, the last of them cut."""
    taken: list[str] = []
    for document in documents:
        if limit <= 0:
            break
        taken.append(document[:limit])
        limit -= len(taken[-1])
    return taken


def other_text(data: str, option: str = "--data") -> Text:
    """The whole text of `--data` or another option, cleaned as for training.

    data: a file, a folder, a glob, or the name of one of configs/data.

    A folder with WikiText (Merity et al. 2016; the files of its archives, or the hub's tables) is
    its test part, words counted as there. UserError in one line where there is none.
    """
    if wikitext := _wikitext(user_path(data)):
        return wikitext
    config = config_dir() / "data" / f"{data}.yaml"
    if config.exists() and not Path(data).exists():
        values = read_config(config)
        known = {key: values[key] for key in ("file", "url", "sha256", "must_contain") if key in values}
        source = open_source(name=data, data_dir=Path("data"), **known)
    else:
        try:
            source = open_source(name=data, path=data, data_dir=Path("data"))
        except ValueError as error:
            raise UserError(str(error).replace("data.path=", f"{option} ", 1)) from None
        source.warn_of_skipped()
    documents = tuple(_clean_documents(source))
    return Text(f"{data}, all of it", documents, whole=len(documents) >= MANY_DOCUMENTS)


def _clean_documents(source: Source) -> Iterator[str | LongText]:
    """The documents; one of a long text file stays on the disk."""
    for name, path in source.paths:
        if is_plain(name) and path.is_file() and path.stat().st_size >= LONG:
            text = open_long(path, name, sha256(path), on_progress=lambda count: None)
            if text is not None:
                yield text
                continue
        for document in replace(source, paths=[(name, path)]).documents():
            yield clean(document.raw, document.name)[0]


def _wikitext(path: Path) -> Text | None:
    """The test part of WikiText in a folder, or the part in a file named as published.

    It is one stream, as is usual.
    """
    files = [path / name for name in WIKITEXT] if path.is_dir() else [path]
    found = next((file for file in files if file.is_file() and file.name.startswith("wiki.")), None)
    tables = sorted(path.glob("test-*.parquet")) if "wikitext" in path.name else []
    if found:
        text = found.read_bytes()
    elif tables:
        # A row is a line; the hub's tables have made the lines that hold a space alone empty.
        rows = Source(path.name, [(table.name, table) for table in tables]).documents()
        text = b"".join(row.raw or b" \n" for row in rows)
    else:
        return None
    return Text(
        f"{path.name}, {found.name if found else 'test'}", (clean(text, path.name)[0],), whole=False, lines=True
    )
