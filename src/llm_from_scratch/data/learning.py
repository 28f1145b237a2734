"""The text that a tokenizer learns from.

Of a small corpus it is all text, of a large one and of a mixture a sample.

It is learned from the training split alone. Of the validation split no more is asked than whether
it has a character that the tokenizer lacks.
"""

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llm_from_scratch.config import TokenizerConfig
from llm_from_scratch.data.corpus import Corpus
from llm_from_scratch.data.documents import SPLITS, Tally, split_pieces
from llm_from_scratch.data.tasks import Task, documents_in_pieces
from llm_from_scratch.tokenizer import SAMPLE_BYTES, Tokenizer, train_tokenizer

SAMPLE_TASKS = 1000  # that the tokenizer learns from at most, spread evenly


def learn(
    building: Path, config: TokenizerConfig, tokenizer: Tokenizer | None, texts: Mapping[str, Iterable[str]]
) -> Tokenizer:
    """Learns the tokenizer from the training text, unless there is one, and saves it.

    `building` is the folder in which the text is built.
    """
    tokenizer = tokenizer or train_tokenizer(config.kind, texts["train"], config.vocab_size, texts["val"])
    part = building / "tokenizer.tmp"
    shutil.rmtree(part, ignore_errors=True)
    tokenizer.save(part)
    part.rename(building / "tokenizer")
    return tokenizer


def text_of_splits(folder: Path, kind: str) -> dict[str, Iterator[str]]:
    """The text that a small corpus keeps, by split, in pieces.

    Of characters, each once in a piece is enough.
    """

    def pieces(split: str) -> Iterator[str]:
        for _, document in documents_in_pieces(folder / f"{split}.txt"):
            for piece in document:
                yield "".join(set(piece)) if kind == "char" else piece

    return {split: pieces(split) for split in SPLITS}


def text_of_tasks(tasks: Sequence[Task], kind: str) -> dict[str, Iterator[str]]:
    """The beginning of every task of a large corpus, by split.

    Each task gives its part of SAMPLE_BYTES.

    Of characters it is all documents: one that is left out could not be read.
    """
    spread = tasks[:: -(-len(tasks) // SAMPLE_TASKS) or 1]
    train = _sample(tasks, "train") if kind == "char" else _sample(spread, "train", SAMPLE_BYTES)
    return {"train": train, "val": _sample(tasks, "val")}


def mixed_text(corpora: Sequence[Corpus], weights: Sequence[float], kind: str) -> dict[str, Iterator[str]]:
    """The text of a mixture, by split.

    Each corpus gives its weight's share of SAMPLE_BYTES; for a tokenizer of characters, all its
    text.
    """

    def texts(split: str, limit: int | None) -> Iterator[str]:
        for corpus, weight in zip(corpora, weights, strict=True):
            tasks = [replace(task, limit=corpus.max_docs, strict=False) for task in corpus.tasks]
            share = None if limit is None else limit * weight / sum(weights)
            yield from _sample(tasks, split, share, whole=corpus.splits_whole_documents, exact=True)

    return {"train": texts("train", None if kind == "char" else SAMPLE_BYTES), "val": texts("val", None)}


def _sample(
    tasks: Sequence[Task], split: str, limit: float | None = None, *, whole: bool = True, exact: bool = False
) -> Iterator[str]:
    """The text of a split, in pieces, from the beginning of every task.

    Each task gives its part of `limit` bytes.

    Args:
        tasks: of the corpus.
        split: train or val.
        limit: bytes of all tasks together; None is all there is.
        whole: whether each document is in one split.
        exact: stop at that byte, and leave duplicates in; else the last document is given whole.
    """
    for task in tasks:
        left = math.inf if limit is None else int(limit / len(tasks))
        for name, text in task.documents(Tally()) if exact else task.unique_documents(Tally()):
            for side, piece in split_pieces(name, text, task.selection.val_fraction, whole):
                if side != split:
                    continue
                raw = piece.encode()
                if exact and len(raw) > left:
                    beginning = raw[: int(left)].decode(errors="ignore")
                    yield beginning
                    left -= len(beginning.encode())
                    break  # a character may have been too long for the bytes that are left
                yield piece
                left -= len(raw)
            if left <= 0:
                break
