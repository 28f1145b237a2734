"""The text that is scored, and its units, which the bootstrap of an interval draws.

All sizes are UTF-8 bytes of this text, so that models, n-grams and compressors are compared on the
same bytes.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.check import check
from llm_from_scratch.config import DataConfig
from llm_from_scratch.data.clean import clean
from llm_from_scratch.data.corpus import source_of
from llm_from_scratch.data.formats import is_plain
from llm_from_scratch.data.long_texts import LONG, PIECE, LongText, in_memory, open_long
from llm_from_scratch.data.prepare import MANY_DOCUMENTS
from llm_from_scratch.data.sources import Source
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.intervals import bootstrap_ratio
from llm_from_scratch.evaluation.results import Figures, TextInfo
from llm_from_scratch.evaluation.scoring import likelihood_row, perplexity
from llm_from_scratch.files import sha256
from llm_from_scratch.places import config_dir, user_path
from llm_from_scratch.saved_config import read_config

log = logging.getLogger(__name__)
BLOCK = 500  # bytes of a block, about 90 words, where there are few documents
# WikiText as published: its files, of which a folder's test part is scored, and the hub's folders
WIKITEXT = re.compile(r"wiki\.(train|valid|test)\.(raw|tokens)")
WIKITEXT_TEST = ("wiki.test.raw", "wiki.test.tokens")
WIKITEXT_FOLDER = re.compile(r"wikitext-(2|103)(-raw)?(-v1)?")
TRAIN_CHARACTERS = 5_000_000  # of the training part at most, for baselines and memorisation


@dataclass(frozen=True)
class Text:
    """The documents to score, in U units: documents, or blocks of bytes where documents are few.

    With `pairs`, documents 2 i and 2 i + 1 are one unit: they share most of their text.
    """

    name: str
    documents: tuple[str | LongText, ...]
    whole: bool  # an end-of-text token follows each document, and is scored as well
    lines: bool = False  # the end of a line counts as a word, as in WikiText's perplexities
    pairs: bool = False
    apart: bool = False  # each document is read from its beginning, where the context holds it
    ends: np.ndarray = field(init=False)  # (U,) int64: the byte at which each unit ends
    kind: str = field(init=False)  # of the units

    def __post_init__(self) -> None:
        sizes = np.array([_size(document) for document in self.documents], dtype=np.int64)
        if self.pairs:
            sizes = sizes.reshape(-1, 2).sum(axis=1)
        sizes = sizes[sizes > 0]
        if not len(sizes):
            raise UserError(f"{self.name}: the text to score is empty; name another with --data")
        ends, kind = np.cumsum(sizes), "pairs" if self.pairs else "documents"
        if len(sizes) < MANY_DOCUMENTS:
            # The last block includes the rest.
            ends, kind = np.append(np.arange(BLOCK, ends[-1] - BLOCK + 1, BLOCK), ends[-1]), f"blocks of {BLOCK} bytes"
        object.__setattr__(self, "ends", ends)
        object.__setattr__(self, "kind", kind)

    @cached_property
    def joined(self) -> str:
        """Returns the documents, concatenated."""
        return "".join(map(in_memory, self.documents))

    @property
    def characters(self) -> int:
        """Returns the number of characters."""
        return sum(map(len, self.documents))

    @cached_property
    def words(self) -> int:
        """Counts the runs without white space, and with `lines` the ends of lines as well."""
        lines = sum(piece.count("\n") for piece in self.pieces()) if self.lines else 0
        return count_words(self.pieces()) + lines

    def pieces(self) -> Iterator[str]:
        """Yields the text in pieces of at most `PIECE` characters, each of one document."""
        for document in self.documents:
            yield from in_pieces(document)

    def info(self, split: str | None = None) -> TextInfo:
        """Returns counts that a reader can check, and the SHA-256 of the bytes."""
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
            units=f"{len(self.ends)} {self.kind}",
            sha256=checksum.hexdigest(),
            split=split,
        )

    @property
    def sizes(self) -> np.ndarray:
        """Returns the bytes of each unit: (U,)."""
        return np.diff(self.ends, prepend=0)

    def compare(self, rows: Sequence[Figures]) -> None:
        """Sets in each row but the first how many more bits per byte it needs than the first.

        The interval is by a paired bootstrap over the differences unit by unit (Koehn 2004). A hard
        passage is hard for both rows: this interval is narrower than the rows' own suggest.
        """
        first = rows[0].unit_bits
        for row in rows[1:]:
            if row.unit_bits is not None:
                row.more, row.more_low, row.more_high = bootstrap_ratio(row.unit_bits - first, self.sizes)


class UnitNats:
    """The total nats of each unit of a text, added up as its tokens are scored, in order."""

    def __init__(self, text: Text) -> None:
        self.text, self.tokens = text, 0
        self._nats = np.zeros(len(text.ends))
        self._bytes = 0  # of the tokens so far

    def add(self, nats: np.ndarray, lengths: np.ndarray) -> None:
        """Adds the next tokens: nats and lengths in bytes, (n,) each."""
        self.add_at(nats, token_starts(lengths, self._bytes))
        self._bytes += int(lengths.sum())

    def add_at(self, nats: np.ndarray, starts: np.ndarray) -> None:
        """Adds the next tokens: nats and the byte at which each begins, (n,) each."""
        unit = np.searchsorted(self.text.ends, starts, side="right")
        self._nats += np.bincount(unit, weights=nats, minlength=len(self._nats))
        self.tokens += len(nats)

    def figures(self) -> dict[str, Any]:
        """Returns the fields of `Figures`: loss, perplexities, bits per byte with their interval.

        Perplexity a word is exp(nats / words).
        """
        unit_bits = self._nats / np.log(2)
        _, low, high = bootstrap_ratio(unit_bits, self.text.sizes)
        total = float(self._nats.sum())
        return likelihood_row(total, self.tokens, int(self.text.ends[-1])) | {
            "perplexity_word": perplexity(total / max(self.text.words, 1)),
            "bits_per_byte_low": low,
            "bits_per_byte_high": high,
            "bits_per_character": total / float(np.log(2)) / self.text.characters,
            "tokens": self.tokens,
            "unit_bits": unit_bits,
        }


def token_starts(lengths: np.ndarray, before: int = 0) -> np.ndarray:
    """Returns the byte at which each token begins: (N,).

    An end-of-text token, which has no bytes, belongs to the byte before it: to the document that it
    ends.

    Args:
        lengths: (N,) bytes of each token. before: bytes in front of the first.
    """
    starts = np.cumsum(lengths) - lengths + before
    return np.where(lengths == 0, np.maximum(starts - 1, 0), starts)


def character_bytes(text: str) -> np.ndarray:
    """Returns the UTF-8 bytes of each character: (T,) int64."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    return 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)


def in_pieces(text: str | LongText) -> Iterator[str]:
    """Yields a text in pieces of `PIECE` characters, the last one shorter."""
    if isinstance(text, LongText):
        yield from text.pieces()
        return
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


def count_words(pieces: Iterable[str]) -> int:
    """Counts the runs without white space in a text that comes in nonempty pieces."""
    count, inside = 0, False
    for piece in pieces:
        count += len(piece.split()) - (inside and not piece[0].isspace())
        inside = not piece[-1].isspace()
    return count


def _size(text: str | LongText) -> int:
    """Returns the UTF-8 bytes of a text."""
    return text.size if isinstance(text, LongText) else sum(len(piece.encode()) for piece in in_pieces(text))


def first_characters(documents: Iterable[str], limit: int = TRAIN_CHARACTERS) -> list[str]:
    """Returns the first documents, `limit` characters together, the last of them cut."""
    taken: list[str] = []
    for document in documents:
        if limit <= 0:
            break
        taken.append(document[:limit])
        limit -= len(taken[-1])
    return taken


def other_text(data: str, option: str = "--data") -> Text:
    """Returns the whole text of `--data` or another option, cleaned as for training.

    A part of WikiText (Merity et al. 2016), known by its published name, is one document, with
    words counted as in its published perplexities; a log line says so.

    Args:
        data: a file, a folder, a glob, or the name of one of configs/data.
        option: the option's name, for messages.

    Raises:
        UserError: when there is no such text, or a named corpus cannot be downloaded.
    """
    if wikitext := _wikitext(user_path(data)):
        log.info("%s %s: scored as WikiText: one document, and the end of a line is a word", option, data)
        return wikitext
    source = _source(data, option)
    source.warn_of_skipped()
    documents = tuple(_clean_documents(source))
    return Text(f"{data}, all of it", documents, whole=len(documents) >= MANY_DOCUMENTS)


def _source(data: str, option: str) -> Source:
    """Returns the files of a path or of a named corpus, which is read as a training reads it."""
    config = config_dir() / "data" / f"{data}.yaml"
    if not config.exists() or Path(data).exists():
        try:
            return source_of(DataConfig(name=data, path=data), fetch=False)
        except UserError as error:
            raise UserError(str(error).replace("data.path=", f"{option} ", 1)) from None
    # The defaults of the schema are those of configs/data/base.yaml.
    settings = check({key: value for key, value in read_config(config).items() if key != "defaults"}, DataConfig)
    if settings.file is None and settings.layouts is None and settings.name != "stdlib":
        raise UserError(f"{option} {data}: names no text by itself: name a file, a folder or another corpus")
    return source_of(settings, fetch=True)


def _clean_documents(source: Source) -> Iterator[str | LongText]:
    """Yields the cleaned documents; long text files stay on the disk, as `LongText`."""
    for name, path in source.paths:
        if is_plain(name) and path.is_file() and path.stat().st_size >= LONG:
            text = open_long(path, name, sha256(path), on_progress=lambda count: None)
            if text is not None:
                yield text
                continue
        for document in replace(source, paths=[(name, path)]).documents():
            yield clean(document.raw, document.name)[0]


def _wikitext(path: Path) -> Text | None:
    """Returns a published part of WikiText: the file itself, or a folder's test part; else None."""
    if path.is_file() and WIKITEXT.fullmatch(path.name):
        text, part = path.read_bytes(), path.name
    elif found := next((path / name for name in WIKITEXT_TEST if (path / name).is_file()), None):
        text, part = found.read_bytes(), found.name
    elif WIKITEXT_FOLDER.fullmatch(path.name) and (tables := sorted(path.glob("test-*.parquet"))):
        # A row is a line; a line that holds only a space is an empty row in the hub's tables.
        rows = Source(path.name, [(table.name, table) for table in tables]).documents()
        text, part = b"".join(row.raw or b" \n" for row in rows), "test"
    else:
        return None
    return Text(f"{path.name}, {part}", (clean(text, path.name)[0],), whole=False, lines=True)
