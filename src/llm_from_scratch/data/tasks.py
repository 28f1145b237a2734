"""A task, a part of a corpus -> its token shards: a pure function, for any process on any machine that sees the files.

A task is one input file, or several small ones. What it makes depends on their bytes and names, on the settings and on the
tokenizer alone, never on who makes it or when. It is published in this order, each by rename: the ids and index of both
splits, then the record that vouches for them; a task without a sound record is made again from its start.

A small corpus is one task that keeps its text: its documents are written first, the tokenizer is learned from them, and the
shards are made of the text that lies there.
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
    is_validation,
    split_pieces,
    unique,
)
from llm_from_scratch.data.duplicates import signer, width
from llm_from_scratch.data.formats import OnProgress, no_progress
from llm_from_scratch.data.long_texts import LONG, LongText, encode_pieces, pieces_of, read_pieces, size_of
from llm_from_scratch.data.shards import open_shard, write_shard
from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer

LOCK_SECONDS = 10.0  # a worker outlives the process that started it by less

Ids = np.ndarray | Iterator[np.ndarray]  # of a document; of a long one, an array for each of its pieces


@dataclass(frozen=True)
class Task:
    """The files of one part of a corpus, and how many of its documents are used at most."""

    number: int
    files: tuple[File, ...]
    limit: int | None = None

    @property
    def stem(self) -> str:
        return f"{self.number:05}"

    def bytes(self) -> int:
        """The size of its files."""
        return sum(Path(path).stat().st_size for _, path, _ in self.files)


@dataclass(frozen=True)
class Job:
    """A task, the folder in which its corpus is built, and how its documents are read; what a worker is given."""

    task: Task
    selection: Selection
    folder: Path
    strict: bool = False  # a document that is no text ends the work, where data.on_error does not say

    def path(self, kind: str, suffix: str) -> Path:
        """A file of this task: KIND_NUMBER.SUFFIX."""
        return self.folder / f"{kind}_{self.task.stem}.{suffix}"

    def repeated(self) -> np.ndarray:
        """The numbers of the task's documents that are duplicates of earlier ones."""
        path = self.path("repeated", "bin")
        return np.fromfile(path, "<i8") if path.exists() else np.empty(0, np.int64)

    def documents(self, tally: Tally, on_progress: OnProgress = no_progress) -> Iterator[NamedText]:
        """The documents that are kept, before duplicates are removed."""
        files, limit = self.task.files, self.task.limit
        return documents(files, self.selection, tally, limit=limit, strict=self.strict, on_progress=on_progress)

    def unique_documents(self, tally: Tally, on_progress: OnProgress = no_progress) -> Iterator[NamedText]:
        """The documents that are kept."""
        reason = f"{self.selection.dedup}_duplicate"
        return unique(self.documents(tally, on_progress), self.repeated(), reason, tally)

    def key(self, tokenizer: str) -> str:
        """A checksum of all that the task's shards are a function of."""
        files = [(name, checksum) for name, _, checksum in self.task.files]
        repeated = hashlib.sha256(self.repeated().tobytes()).hexdigest()
        inputs = [files, self.task.limit, self.selection.metadata(), tokenizer, repeated]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


# -------------------------------------------------------------------------------------------------------- duplicates
def scan(job: Job, on_progress: OnProgress = no_progress) -> None:
    """The first pass of a task: the signatures of its documents, from which duplicates are found, as scan_NUMBER.bin."""
    path = job.path("scan", "bin")
    with _locked(job):
        if path.exists():
            return
        sign, part = signer(job.selection.dedup), path.with_suffix(".tmp")
        columns, dtype = width(job.selection.dedup)
        with part.open("wb") as file:
            for _, text in job.documents(Tally(), on_progress):
                signature = sign(text if isinstance(text, str) else text.pieces())
                file.write(signature.astype(dtype).tobytes())
            file.flush()
            os.fsync(file.fileno())
        assert part.stat().st_size % (columns * np.dtype(dtype).itemsize) == 0
        part.replace(path)


def scanned(job: Job) -> np.ndarray:
    """The signatures that `scan` wrote: (documents, width), mapped."""
    path = job.path("scan", "bin")
    columns, dtype = width(job.selection.dedup)
    rows = path.stat().st_size // (columns * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, "r", shape=(rows, columns)) if rows else np.empty((0, columns), dtype)


# ------------------------------------------------------------------------------------------------------------ shards
def make_shards(job: Job, on_progress: OnProgress = no_progress) -> dict[str, Any]:
    """The shards of both splits, train_NUMBER and val_NUMBER in the folder, and their record; the tokenizer lies there.

    Raises:
        UserError: as `documents`; an id outside the vocabulary; no room on the disk.
    """
    tokenizer = _tokenizer(job.folder / "tokenizer")
    key = job.key(tokenizer.fingerprint)
    with _locked(job):
        if (record := verified_record(job, key)) is not None:
            return record
        job.path("task", "json").unlink(missing_ok=True)
        tally = Tally()
        spool = job.path("val", "tmp")  # the few that validate wait here: one shard is written after the other
        try:
            with spool.open("wb+") as waiting:
                sizes: list[int] = []

                def training() -> Iterator[tuple[Ids, int]]:
                    for name, text in job.unique_documents(tally, on_progress):
                        if is_validation(name, job.selection.val_fraction):
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
                    split: _write_shard(job, split, ids(), tokenizer)
                    for split, ids in zip(SPLITS, (training, validation), strict=True)
                }
        finally:
            spool.unlink(missing_ok=True)
        record = {"key": key, "shards": shards, "tally": asdict(tally)}
        write_whole(job.path("task", "json"), json.dumps(record, indent=1).encode())
        return record


def write_text(job: Job, whole: bool) -> Tally:
    """Writes the clean text of both splits, train.txt and val.txt, and where documents end, train.ends and val.ends.

    With `whole` each document is in one split, else each is cut in two.
    """
    tally = Tally()
    ends: dict[str, list[int]] = {split: [0] for split in SPLITS}
    with (job.folder / "train.txt").open("wb") as train, (job.folder / "val.txt").open("wb") as val:
        files = dict(zip(SPLITS, (train, val), strict=True))
        for name, text in job.unique_documents(tally):
            written = dict.fromkeys(SPLITS, 0)
            for split, piece in split_pieces(name, text, job.selection.val_fraction, whole):
                written[split] += files[split].write(piece.encode())
            for split, size in written.items():
                if size:
                    ends[split].append(ends[split][-1] + size)
    for split in SPLITS:
        np.array(ends[split][1:], dtype="<u8").tofile(job.folder / f"{split}.ends")
    return tally


def make_shards_of_text(job: Job, whole: bool, splits: Sequence[str], corpus: str) -> dict[str, Any]:
    """The shards of the text that `write_text` wrote, of some `splits`, and what a record says of both splits.

    A document that the split has cut in two has no end to be learned.
    """
    tokenizer = _tokenizer(job.folder / "tokenizer")
    shards = {}
    for split in SPLITS:
        text = job.folder / f"{split}.txt"
        if split in splits:
            ids = (
                (_ids_in_pieces(pieces, tokenizer, whole, f"{corpus}, {split} split"), size)
                for size, pieces in documents_in_pieces(text)
            )
            shards[split] = _write_shard(job, split, ids, tokenizer)
        else:
            ends = np.fromfile(text.with_suffix(".ends"), dtype="<u8")
            shards[split] = {"documents": len(ends), "text_bytes": int(ends[-1])}
    return shards


def _write_shard(job: Job, split: str, ids: Iterator[tuple[Ids, int]], tokenizer: Tokenizer) -> dict[str, Any]:
    """Writes the shard of one split; what a record says of it."""
    info = write_shard(
        job.folder / f"{split}_{job.task.stem}", ids, vocab_size=tokenizer.vocab_size, tokenizer=tokenizer.fingerprint
    )
    return {key: getattr(info, key) for key in ("documents", "text_bytes", "tokens", "index_sha256")}


def documents_in_pieces(path: Path) -> Iterator[tuple[int, Iterator[str]]]:
    """The bytes and the pieces of each document of a clean text, whose ends lie beside it."""
    start = 0
    with path.open("rb") as file:
        for end in np.fromfile(path.with_suffix(".ends"), dtype="<u8").tolist():
            yield end - start, read_pieces(file, end - start)
            start = end


def verified_record(job: Job, key: str) -> dict[str, Any] | None:
    """The record of a task that is done, every byte of its shards verified; None where it is not, or was another task."""
    try:
        record = json.loads(job.path("task", "json").read_text(encoding="utf-8"))
        if record["key"] != key:
            return None
        for split in SPLITS:
            checksum = record["shards"][split]["index_sha256"]
            open_shard(job.folder / f"{split}_{job.task.stem}", verify=True, index_sha256=checksum)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record


def write_whole(path: Path, content: bytes) -> None:
    """A file that is there whole or not at all, also after a loss of power."""
    part = path.with_name(f"{path.name}.tmp")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def _ids(text: str | LongText | Iterator[str], tokenizer: Tokenizer, where: str) -> Ids:
    """The ids of a document and its end."""
    if isinstance(text, str):
        try:
            return np.append(tokenizer.encode_array(text), tokenizer.eot_id)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
    return _ids_in_pieces(text.pieces() if isinstance(text, LongText) else text, tokenizer, True, where)


def _ids_in_pieces(pieces: Iterator[str], tokenizer: Tokenizer, ends: bool, where: str) -> Iterator[np.ndarray]:
    """The ids of a document, an array for each of its pieces; the last is the end-of-text where it `ends`."""
    try:
        yield from encode_pieces(pieces, tokenizer)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if ends:
        yield np.array([tokenizer.eot_id])


# ------------------------------------------------------------------------------------------------------------- locks
@contextmanager
def _locked(job: Job) -> Iterator[None]:
    """Keeps other processes from making the same task.

    Raises:
        UserError: another one does.
    """
    locks = locks_of(job.folder)
    locks.mkdir(exist_ok=True)
    lock = FileLock(locks / f"{job.task.stem}.lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{job.folder}: part {job.task.number} is being prepared by another process; start again when it is done"
        ) from None
    try:
        yield
    finally:
        lock.release()


def locks_of(folder: Path) -> Path:
    """Beside a folder that is being built: one lock a task."""
    return folder.with_name(f"{folder.name}.locks")


def clear(folder: Path, *patterns: str) -> None:
    """Removes the files of a folder that match."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()
