"""Training text of a tokenizer: all of a small corpus, a sample of a large one or of a mixture.

Tokens are learned from the training split alone. A character tokenizer also reads the validation
split, only to find out whether it has a character without a token.
"""

import functools
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llm_from_scratch.config import TokenizerConfig
from llm_from_scratch.data.corpus import Corpus, document_limits, limited
from llm_from_scratch.data.documents import SPLITS, Tally, split_pieces
from llm_from_scratch.data.tasks import Task, documents_in_pieces
from llm_from_scratch.tokenizer import SAMPLE_BYTES, Tokenizer, train_tokenizer

SAMPLE_TASKS = 1000  # the most tasks that the tokenizer learns from, evenly spaced


def learn(
    building: Path,
    config: TokenizerConfig,
    tokenizer: Tokenizer | None,
    texts: Mapping[str, Iterable[str]],
    special: Sequence[str] = (),
) -> Tokenizer:
    """Learns a tokenizer and saves it as building/tokenizer; returns it.

    Args:
        building: the folder of the unfinished preparation.
        config: the settings of the tokenizer.
        tokenizer: a tokenizer to save as it is; None: one is learned.
        texts: the text of each split, read only to learn.
        special: names of special tokens beside end-of-text, which tokenizer=bpe gets.
    """
    tokenizer = tokenizer or train_tokenizer(config.kind, texts["train"], config.vocab_size, texts["val"], special)
    part = building / "tokenizer.tmp"
    shutil.rmtree(part, ignore_errors=True)
    tokenizer.save(part)
    part.rename(building / "tokenizer")
    return tokenizer


def text_of_splits(folder: Path, kind: str) -> dict[str, Iterator[str]]:
    """Returns the text that a small corpus keeps, by split, in pieces.

    For a character tokenizer, a piece is reduced to its distinct characters.
    """

    def pieces(split: str) -> Iterator[str]:
        for _, document in documents_in_pieces(folder / f"{split}.txt"):
            for piece in document:
                yield "".join(set(piece)) if kind == "char" else piece

    return {split: pieces(split) for split in SPLITS}


def text_of_tasks(tasks: Sequence[Task], kind: str) -> dict[str, Iterator[str]]:
    """Returns a sample of a large corpus, by split, in pieces.

    For training it has the beginning of up to SAMPLE_TASKS tasks, an equal part of SAMPLE_BYTES
    from each. For a character tokenizer it has all documents: a character that is left out would
    have no token. For validation it has all documents, too.
    """
    spread = tasks[:: -(-len(tasks) // SAMPLE_TASKS) or 1]
    train = _sample(tasks, "train") if kind == "char" else _sample(spread, "train", SAMPLE_BYTES)
    return {"train": train, "val": _sample(tasks, "val")}


def mixed_text(corpora: Sequence[Corpus], weights: Sequence[float], kind: str) -> dict[str, Iterator[str]]:
    """Returns a sample of a mixture, by split, in pieces.

    For training, each corpus gives its weight's share of SAMPLE_BYTES; for a character tokenizer,
    all its text. For validation, each corpus gives all its text. Its text is that of data.max_docs;
    duplicates are part of it, for they are found later.
    """

    @functools.cache
    def tasks(place: int) -> list[Task]:
        taken = limited(corpora[place].tasks, document_limits(corpora[place]))
        return [replace(task, strict=False) for task in taken]

    def texts(split: str, limit: int | None) -> Iterator[str]:
        for place, (corpus, weight) in enumerate(zip(corpora, weights, strict=True)):
            share = None if limit is None else limit * weight / sum(weights)
            yield from _sample(tasks(place), split, share, whole=corpus.splits_whole_documents, exact=True)

    return {"train": texts("train", None if kind == "char" else SAMPLE_BYTES), "val": texts("val", None)}


def _sample(
    tasks: Sequence[Task], split: str, limit: float | None = None, *, whole: bool = True, exact: bool = False
) -> Iterator[str]:
    """Yields the text of a split in pieces, from the beginning of every task.

    Args:
        tasks: the tasks of the corpus.
        split: train or val.
        limit: bytes of UTF-8 from all tasks together, in equal parts; None: all text.
        whole: whether each document lies in one split; otherwise each is cut in two.
        exact: whether to cut the text at the limit and to keep duplicates; otherwise the last
            document is complete and duplicates are removed.
    """
    for task in tasks:
        left = math.inf if limit is None else int(limit / len(tasks))
        for name, text in task.documents(Tally()) if exact else task.unique_documents(Tally()):
            for side, piece in split_pieces(name, text, task.selection, whole):
                if side != split:
                    continue
                raw = piece.encode()
                if exact and len(raw) > left:
                    beginning = raw[: int(left)].decode(errors="ignore")
                    yield beginning
                    left -= len(beginning.encode())
                    break  # `left` may stay above 0: fewer bytes than the next character has
                yield piece
                left -= len(raw)
            if left <= 0:
                break
