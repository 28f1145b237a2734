"""The text that a report is about: what is scored, what came before it, and the units an interval draws from.

Everything is counted in UTF-8 bytes of this text, so that models, n-grams and compressors are compared on the same bytes.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.config import read_config
from llm_from_scratch.data.clean import clean
from llm_from_scratch.data.prepare import MANY_DOCUMENTS
from llm_from_scratch.data.sources import open_source
from llm_from_scratch.evaluation.intervals import bootstrap_ratio

BLOCK = 500  # bytes of a block where there are too few documents to draw from: about 90 words of English
TRAIN_CHARACTERS = 5_000_000  # of the training part: what the baselines learn from and memorisation looks at


@dataclass(frozen=True)
class Text:
    """The documents to be scored. U units: the documents, or blocks of `BLOCK` bytes where they are fewer than 20."""

    name: str
    documents: tuple[str, ...]
    whole: bool  # each document is followed by the end-of-text piece, which is scored as well
    ends: np.ndarray = field(init=False)  # (U,) int64: the byte at which each unit ends

    def __post_init__(self) -> None:
        sizes = np.array([len(document.encode()) for document in self.documents if document], dtype=np.int64)
        if not len(sizes):
            raise ValueError(f"{self.name}: the text to score is empty; name another with --data")
        ends = np.cumsum(sizes)
        if len(sizes) < MANY_DOCUMENTS:
            ends = np.append(np.arange(BLOCK, ends[-1] - BLOCK + 1, BLOCK), ends[-1])  # the last has the rest
        object.__setattr__(self, "ends", ends)

    @property
    def joined(self) -> str:
        """The documents, one behind the other."""
        return "".join(self.documents)

    def facts(self) -> dict[str, Any]:
        """What a reader can check himself: counts, and the checksum of the bytes."""
        data = self.joined.encode()
        return {
            "name": self.name,
            "documents": len(self.documents),
            "bytes": len(data),
            "characters": len(self.joined),
            "words": len(self.joined.split()),
            "units": f"{len(self.ends)} " + ("documents" if self.by_document() else f"blocks of {BLOCK} bytes"),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    def by_document(self) -> bool:
        """Whether the units are documents."""
        return len(self.documents) >= MANY_DOCUMENTS

    def figures(self, nats: np.ndarray, starts: np.ndarray) -> dict[str, float]:
        """Loss, perplexities, bits per byte and character with the interval, from the nats of each token (N,).

        starts: (N,) the byte at which each token begins; an end-of-text lies in the document before it.
        Perplexity a word is exp(nats / words), words being what white space parts.
        """
        unit = np.searchsorted(self.ends, starts, side="right")
        sums = np.bincount(unit, weights=nats, minlength=len(self.ends))
        bits, low, high = bootstrap_ratio(sums / np.log(2), np.diff(self.ends, prepend=0))
        total, joined = float(nats.sum()), self.joined
        return {
            "loss": total / len(nats),
            "perplexity": float(np.exp(min(total / len(nats), 700.0))),
            "perplexity_word": float(np.exp(min(total / max(len(joined.split()), 1), 700.0))),
            "bits_per_byte": bits,
            "bits_per_byte_low": low,
            "bits_per_byte_high": high,
            "bits_per_character": total / float(np.log(2)) / len(joined),
            "tokens": len(nats),
        }


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


def other_text(data: str) -> Text:
    """The whole text of `--data`: a file, a folder, a glob, or the name of one of configs/data; cleaned as for training.

    ValueError in one line where there is none.
    """
    config = Path("configs/data") / f"{data}.yaml"
    if config.exists():
        values = read_config(config)
        known = {key: values[key] for key in ("file", "url", "sha256", "must_contain") if key in values}
        source = open_source(name=data, data_dir=Path("data"), **known)
    else:
        try:
            source = open_source(name=data, path=data, data_dir=Path("data"))
        except ValueError as error:
            raise ValueError(str(error).replace("data.path=", "--data ", 1)) from None
    documents = tuple(clean(document.raw, document.name)[0] for document in source.documents())
    return Text(f"{data}, all of it", documents, whole=len(documents) >= MANY_DOCUMENTS)
