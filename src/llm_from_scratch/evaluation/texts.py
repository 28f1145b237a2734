"""The text that a report is about: what is scored, what came before it, and the units an interval draws from.

Everything is counted in UTF-8 bytes of this text, so that models, n-grams and compressors are compared on the same bytes.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.data.clean import clean
from llm_from_scratch.data.prepare import MANY_DOCUMENTS
from llm_from_scratch.data.sources import Source, open_source
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.intervals import bootstrap_ratio
from llm_from_scratch.places import config_dir, user_path
from llm_from_scratch.saved_config import read_config

BLOCK = 500  # bytes of a block where there are too few documents to draw from: about 90 words of English
WIKITEXT = ("wiki.test.raw", "wiki.test.tokens")  # the test part as published; of wiki.valid.* the file is named
TRAIN_CHARACTERS = 5_000_000  # of the training part: what the baselines learn from and memorisation looks at


@dataclass(frozen=True)
class Text:
    """The documents to be scored. U units: the documents, or blocks of `BLOCK` bytes where they are fewer than 20."""

    name: str
    documents: tuple[str, ...]
    whole: bool  # each document is followed by the end-of-text piece, which is scored as well
    lines: bool = False  # the end of a line is a word: WikiText's count, whose published perplexities are a word
    ends: np.ndarray = field(init=False)  # (U,) int64: the byte at which each unit ends

    def __post_init__(self) -> None:
        sizes = np.array([len(document.encode()) for document in self.documents if document], dtype=np.int64)
        if not len(sizes):
            raise UserError(f"{self.name}: the text to score is empty; name another with --data")
        ends = np.cumsum(sizes)
        if len(sizes) < MANY_DOCUMENTS:
            ends = np.append(np.arange(BLOCK, ends[-1] - BLOCK + 1, BLOCK), ends[-1])  # the last has the rest
        object.__setattr__(self, "ends", ends)

    @cached_property
    def joined(self) -> str:
        """The documents, one behind the other."""
        return "".join(self.documents)

    @cached_property
    def words(self) -> int:
        """How many words: what white space parts, and the ends of lines where these count."""
        return len(self.joined.split()) + self.joined.count("\n") * self.lines

    def facts(self) -> dict[str, Any]:
        """What a reader can check himself: counts, and the checksum of the bytes."""
        data = self.joined.encode()
        return {
            "name": self.name,
            "documents": len(self.documents),
            "bytes": len(data),
            "characters": len(self.joined),
            "words": self.words,
            "lines_count": self.lines,
            "units": f"{len(self.ends)} " + ("documents" if self.by_document() else f"blocks of {BLOCK} bytes"),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    def by_document(self) -> bool:
        """Whether the units are documents."""
        return len(self.documents) >= MANY_DOCUMENTS

    @property
    def sizes(self) -> np.ndarray:
        """(U,) bytes of each unit."""
        return np.diff(self.ends, prepend=0)

    def figures(self, nats: np.ndarray, starts: np.ndarray) -> dict[str, Any]:
        """Loss, perplexities, bits per byte and character with the interval, from the nats of each token (N,).

        starts: (N,) the byte at which each token begins; an end-of-text lies in the document before it.
        Perplexity a word is exp(nats / words). `unit_bits` (U,) are the bits of each unit, for `compare`.
        """
        unit = np.searchsorted(self.ends, starts, side="right")
        unit_bits = np.bincount(unit, weights=nats, minlength=len(self.ends)) / np.log(2)
        bits, low, high = bootstrap_ratio(unit_bits, self.sizes)
        total, joined = float(nats.sum()), self.joined
        return {
            "loss": total / len(nats),
            "perplexity": float(np.exp(min(total / len(nats), 700.0))),
            "perplexity_word": float(np.exp(min(total / max(self.words, 1), 700.0))),
            "bits_per_byte": bits,
            "bits_per_byte_low": low,
            "bits_per_byte_high": high,
            "bits_per_character": total / float(np.log(2)) / len(joined),
            "tokens": len(nats),
            "unit_bits": unit_bits,
        }

    def compare(self, rows: Sequence[dict[str, Any]]) -> None:
        """Takes `unit_bits` out of the rows, and says in each but the first how many bits per byte it needs more than the first.

        The interval is of a paired bootstrap: of the differences unit by unit. What makes a passage hard makes it hard for both, so
        that it is narrower than the intervals of the two would let one think (Koehn 2004).
        """
        first: np.ndarray | None = None
        for row in rows:
            bits = row.pop("unit_bits", None)
            if first is None:
                first = bits
            elif bits is not None:
                row["more"], row["more_low"], row["more_high"] = bootstrap_ratio(bits - first, self.sizes)


def token_starts(lengths: np.ndarray) -> np.ndarray:
    """(N,) the byte at which each token begins, from the bytes of each; one without bytes counts to the byte before it."""
    starts = np.cumsum(lengths) - lengths
    return np.where(lengths == 0, np.maximum(starts - 1, 0), starts)


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
    """The whole text of `--data` or another option: a file, a folder, a glob, or the name of one of configs/data, cleaned as for training.

    A folder with WikiText (Merity et al. 2016; the files of its archives, or the hub's tables) is its test part, words counted as
    there. UserError in one line where there is none.
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
    documents = tuple(clean(document.raw, document.name)[0] for document in source.documents())
    return Text(f"{data}, all of it", documents, whole=len(documents) >= MANY_DOCUMENTS)


def _wikitext(path: Path) -> Text | None:
    """The test part of WikiText-2 or -103 in a folder, or the part that a file named as published holds; one stream, as is usual."""
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
