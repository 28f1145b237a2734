"""Tasks: the parts of a corpus, each made into its token shards by a pure function.

Any process on any machine that sees the files can make a task.

A task is one input file, or several small ones. Its output depends on their bytes and names, on the
settings and on the tokenizer alone, not on the process or the time. It is published in this order,
each file by rename: the ids and index of both splits, then the record with their checksums; a task
without a verified record is made again from its start.

A small corpus is one task that keeps its text: its documents are written first, the tokenizer is
learned from them, and the shards are made from the written text.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from llm_from_scratch.data.documents import (
    SPLITS,
    File,
    NamedText,
    Selection,
    Tally,
    documents,
    split_pieces,
    unique,
)
from llm_from_scratch.data.duplicates import signer, width
from llm_from_scratch.data.formats import OnProgress, no_progress
from llm_from_scratch.data.long_texts import LONG, LongText, encode_pieces, pieces_of, read_pieces, size_of
from llm_from_scratch.data.shards import open_shard, write_shard
from llm_from_scratch.data.streams import ChangedFileError, stamp
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import write_file
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer

LOCK_SECONDS = 10.0  # more than a worker runs on after its parent has ended

# the ids of a document; of a long one, an array for each of its pieces
Ids = np.ndarray | Iterator[np.ndarray]


@dataclass(frozen=True)
class Task:
    """One part of a corpus: its files, and the settings by which their documents are read.

    `folder` is the build folder of the corpus.
    """

    number: int
    files: tuple[File, ...]
    selection: Selection
    folder: Path
    # whether a document that is not valid text is an error where data.on_error is None
    strict: bool = False
    limit: int | None = None  # most documents to take; None: all

    @property
    def stem(self) -> str:
        """Returns the task's number in five digits, as in names of files."""
        return f"{self.number:05}"

    def bytes(self) -> int:
        """Returns the total size of the task's files in bytes."""
        return sum(Path(path).stat().st_size for _, path, _ in self.files)

    def path(self, kind: str, suffix: str) -> Path:
        """Returns the path of a file of this task, KIND_NUMBER.SUFFIX."""
        return self.folder / f"{kind}_{self.stem}.{suffix}"

    def repeated(self) -> np.ndarray:
        """Returns the 0-based, rising numbers of the task's documents that are duplicates."""
        path = self.path("repeated", "bin")
        return np.fromfile(path, "<i8") if path.exists() else np.empty(0, np.int64)

    def documents(self, tally: Tally, on_progress: OnProgress = no_progress) -> Iterator[NamedText]:
        """Yields the names and clean texts of the documents to keep, duplicates included."""
        return documents(
            self.files, self.selection, tally, limit=self.limit, strict=self.strict, on_progress=on_progress
        )

    def unique_documents(self, tally: Tally, on_progress: OnProgress = no_progress) -> Iterator[NamedText]:
        """Yields the names and clean texts of the documents to keep, without duplicates."""
        reason = f"{self.selection.dedup}_duplicate"
        return unique(self.documents(tally, on_progress), self.repeated(), reason, tally)

    def key(self, tokenizer: str) -> str:
        """Returns the sha256 of everything that determines the task's shards."""
        files = [(name, checksum) for name, _, checksum in self.files]
        repeated = hashlib.sha256(self.repeated().tobytes()).hexdigest()
        inputs = [files, self.limit, self.selection.metadata(), tokenizer, repeated]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


# --------------------------------------------------------------------------------------- duplicates
def scan(task: Task, on_progress: OnProgress = no_progress) -> None:
    """Writes the signatures of a task's documents to scan_NUMBER.bin, unless it exists.

    Duplicates are found among the signatures of all tasks.
    """
    path = task.path("scan", "bin")
    with _locked(task):
        if path.exists():
            return
        sign, part = signer(task.selection.dedup), path.with_suffix(".tmp")
        columns, dtype = width(task.selection.dedup)
        with part.open("wb") as file:
            for _, text in task.documents(Tally(), on_progress):
                signature = sign(text if isinstance(text, str) else text.pieces())
                file.write(signature.astype(dtype).tobytes())
            file.flush()
            os.fsync(file.fileno())
        assert part.stat().st_size % (columns * np.dtype(dtype).itemsize) == 0
        part.replace(path)


def scanned(task: Task) -> np.ndarray:
    """Returns the signatures that `scan` wrote: (documents, width), memory-mapped."""
    path = task.path("scan", "bin")
    columns, dtype = width(task.selection.dedup)
    rows = path.stat().st_size // (columns * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, "r", shape=(rows, columns)) if rows else np.empty((0, columns), dtype)


# ------------------------------------------------------------------------------------------- shards
def make_shards(task: Task, on_progress: OnProgress = no_progress) -> dict[str, Any]:
    """Makes the shards of both splits, train_NUMBER and val_NUMBER, and returns the task's record.

    A finished task's record is returned as it is. The tokenizer is read from the task's folder.

    Raises:
        UserError: as `documents`; when an id is outside the vocabulary, or another process makes
            the task.
    """
    tokenizer = shared_tokenizer(task.folder)
    key = task.key(tokenizer.fingerprint)
    with _locked(task):
        if (record := verified_record(task, key)) is not None:
            return record
        task.path("task", "json").unlink(missing_ok=True)
        tally = Tally()
        # holds the validation documents while the training shard is written
        spool = task.path("val", "tmp")
        try:
            with spool.open("wb+") as waiting:
                sizes: list[int] = []

                def training() -> Iterator[tuple[Ids, int]]:
                    for name, text in task.unique_documents(tally, on_progress):
                        if task.selection.is_validation(name):
                            sizes.append(sum(waiting.write(piece.encode()) for piece in pieces_of(text)))
                        else:
                            yield _ids(text, tokenizer, name), size_of(text)

                def validation() -> Iterator[tuple[Ids, int]]:
                    waiting.seek(0)
                    for size in sizes:
                        long = size >= LONG
                        text = read_pieces(waiting, size) if long else waiting.read(size).decode()
                        yield _ids(text, tokenizer, "the validation split"), size

                shards = {
                    split: _write_shard(task, split, ids(), tokenizer)
                    for split, ids in zip(SPLITS, (training, validation), strict=True)
                }
        finally:
            spool.unlink(missing_ok=True)
        record = {"key": key, "shards": shards, "tally": asdict(tally)}
        write_file(task.path("task", "json"), json.dumps(record, indent=1))
        return record


def write_text(task: Task, whole: bool) -> Tally:
    """Writes the clean text of both splits and the ends of their documents; returns the tally.

    The files are train.txt, val.txt, train.ends and val.ends.

    With `whole` each document is in one split, else each is cut in two.
    """
    tally = Tally()
    ends: dict[str, list[int]] = {split: [0] for split in SPLITS}
    with (task.folder / "train.txt").open("wb") as train, (task.folder / "val.txt").open("wb") as val:
        files = dict(zip(SPLITS, (train, val), strict=True))
        for name, text in task.unique_documents(tally):
            written = dict.fromkeys(SPLITS, 0)
            for split, piece in split_pieces(name, text, task.selection, whole):
                written[split] += files[split].write(piece.encode())
            for split, size in written.items():
                if size:
                    ends[split].append(ends[split][-1] + size)
    for split in SPLITS:
        # `tofile` reports no full disk
        (task.folder / f"{split}.ends").write_bytes(np.array(ends[split][1:], dtype="<u8").tobytes())
    return tally


def make_shards_of_text(
    task: Task, tokenizer: Tokenizer, whole: bool, splits: Sequence[str], corpus: str
) -> dict[str, Any]:
    """Makes the shards of `splits` from the text that `write_text` wrote.

    Without `whole`, documents are cut in two: their parts get no end-of-text token.

    Returns:
        The entry "shards" of a record, for both splits; without tokens for one not in `splits`.
    """
    shards = {}
    for split in SPLITS:
        text = task.folder / f"{split}.txt"
        if split in splits:
            ids = (
                (_ids_in_pieces(pieces, tokenizer, whole, f"{corpus}, {split} split"), size)
                for size, pieces in documents_in_pieces(text)
            )
            shards[split] = _write_shard(task, split, ids, tokenizer)
        else:
            ends = np.fromfile(text.with_suffix(".ends"), dtype="<u8")
            shards[split] = {"documents": len(ends), "text_bytes": int(ends[-1])}
    return shards


def _write_shard(task: Task, split: str, ids: Iterator[tuple[Ids, int]], tokenizer: Tokenizer) -> dict[str, Any]:
    """Writes the shard of one split; returns its counts and the sha256 of its index."""
    info = write_shard(
        task.folder / f"{split}_{task.stem}", ids, vocab_size=tokenizer.vocab_size, tokenizer=tokenizer.fingerprint
    )
    return {key: getattr(info, key) for key in ("documents", "text_bytes", "tokens", "index_sha256")}


def documents_in_pieces(path: Path) -> Iterator[tuple[int, Iterator[str]]]:
    """Yields each document of a clean text as its size in bytes and its pieces; reads its .ends."""
    start = 0
    with path.open("rb") as file:
        for end in np.fromfile(path.with_suffix(".ends"), dtype="<u8").tolist():
            yield end - start, read_pieces(file, end - start)
            start = end


def verified_record(task: Task, key: str) -> dict[str, Any] | None:
    """Returns the record of a finished task, every byte of its shards verified.

    None: the task is unfinished, its shards are damaged, or its key is not `key`.
    """
    try:
        record = json.loads(task.path("task", "json").read_text(encoding="utf-8"))
        if record["key"] != key:
            return None
        for split in SPLITS:
            checksum = record["shards"][split]["index_sha256"]
            open_shard(task.folder / f"{split}_{task.stem}", verify=True, index_sha256=checksum)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record


def shared_tokenizer(folder: Path) -> Tokenizer:
    """Returns the tokenizer of a build folder, which a process loads once.

    Raises:
        UserError: as `load_tokenizer`.
    """
    path = folder / "tokenizer"
    return _load_once(path, stamp(path) if path.is_dir() else "")


@functools.lru_cache(maxsize=1)
def _load_once(folder: Path, stamp: str) -> Tokenizer:
    return load_tokenizer(folder)


def _ids(text: str | LongText | Iterator[str], tokenizer: Tokenizer, where: str) -> Ids:
    """Returns the ids of a document, followed by the end-of-text id."""
    if isinstance(text, str):
        try:
            return np.append(tokenizer.encode_array(text), tokenizer.eot_id)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
    return _ids_in_pieces(text.pieces() if isinstance(text, LongText) else text, tokenizer, True, where)


def _ids_in_pieces(pieces: Iterator[str], tokenizer: Tokenizer, ends: bool, where: str) -> Iterator[np.ndarray]:
    """Yields the ids of a document, an array for each of its pieces.

    With `ends`, a last array holds the end-of-text id.
    """
    try:
        yield from encode_pieces(pieces, tokenizer)
    except ChangedFileError:  # of `pieces`
        raise
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if ends:
        yield np.array([tokenizer.eot_id])


# -------------------------------------------------------------------------------------------- locks
@contextmanager
def _locked(task: Task) -> Iterator[None]:
    """Holds the lock of a task, so that no other process makes it.

    Raises:
        UserError: when another process holds it.
    """
    locks = locks_of(task.folder)
    locks.mkdir(exist_ok=True)
    lock = FileLock(locks / f"{task.stem}.lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{task.folder}: task {task.number} is being prepared by another process; start again when it is done"
        ) from None
    try:
        yield
    finally:
        lock.release()


def locks_of(folder: Path) -> Path:
    """Returns the folder of the tasks' locks, beside the build folder `folder`."""
    return folder.with_name(f"{folder.name}.locks")


def clear(folder: Path, *patterns: str) -> None:
    """Removes the files of a folder that match one of the glob patterns."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()
