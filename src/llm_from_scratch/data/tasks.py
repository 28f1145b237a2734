"""A task, a part of a corpus -> its token shards: a pure function.

Any process on any machine that sees the files can make it.

A task is one input file, or several small ones. What it makes depends on their bytes and names, on
the settings and on the tokenizer alone, never on who makes it or when. It is published in this
order, each by rename: the ids and index of both splits, then the record that vouches for them; a
task without a sound record is made again from its start.

A small corpus is one task that keeps its text: its documents are written first, the tokenizer is
learned from them, and the shards are made of the text that lies there.
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

# of a document; of a long one, an array for each of its pieces
Ids = np.ndarray | Iterator[np.ndarray]


@dataclass(frozen=True)
class Task:
    """The files of one part of a corpus, and how its documents are read.

    `folder` is the one in which the corpus is built.
    """

    number: int
    files: tuple[File, ...]
    selection: Selection
    folder: Path
    # a document that is no text ends the work, where data.on_error does not say
    strict: bool = False
    limit: int | None = None  # of documents

    @property
    def stem(self) -> str:
        """Its number, as names of files have it."""
        return f"{self.number:05}"

    def bytes(self) -> int:
        """The size of its files."""
        return sum(Path(path).stat().st_size for _, path, _ in self.files)

    def path(self, kind: str, suffix: str) -> Path:
        """A file of this task: KIND_NUMBER.SUFFIX."""
        return self.folder / f"{kind}_{self.stem}.{suffix}"

    def repeated(self) -> np.ndarray:
        """The numbers of the task's documents that are duplicates of earlier ones."""
        path = self.path("repeated", "bin")
        return np.fromfile(path, "<i8") if path.exists() else np.empty(0, np.int64)

    def documents(self, tally: Tally, on_progress: OnProgress = no_progress) -> Iterator[NamedText]:
        """The documents that are kept, before duplicates are removed."""
        return documents(
            self.files, self.selection, tally, limit=self.limit, strict=self.strict, on_progress=on_progress
        )

    def unique_documents(self, tally: Tally, on_progress: OnProgress = no_progress) -> Iterator[NamedText]:
        """The documents that are kept."""
        reason = f"{self.selection.dedup}_duplicate"
        return unique(self.documents(tally, on_progress), self.repeated(), reason, tally)

    def key(self, tokenizer: str) -> str:
        """A checksum of all that the task's shards are a function of."""
        files = [(name, checksum) for name, _, checksum in self.files]
        repeated = hashlib.sha256(self.repeated().tobytes()).hexdigest()
        inputs = [files, self.limit, self.selection.metadata(), tokenizer, repeated]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


# --------------------------------------------------------------------------------------- duplicates
def scan(task: Task, on_progress: OnProgress = no_progress) -> None:
    """Writes the signatures of a task's documents, scan_NUMBER.bin.

    It is the first pass of a task; duplicates are found among the signatures.
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
    """The signatures that `scan` wrote: (documents, width), mapped."""
    path = task.path("scan", "bin")
    columns, dtype = width(task.selection.dedup)
    rows = path.stat().st_size // (columns * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, "r", shape=(rows, columns)) if rows else np.empty((0, columns), dtype)


# ------------------------------------------------------------------------------------------- shards
def make_shards(task: Task, on_progress: OnProgress = no_progress) -> dict[str, Any]:
    """Makes the shards of both splits, train_NUMBER and val_NUMBER, and their record.

    The tokenizer lies in the folder.

    Raises:
        UserError: as `documents`; an id outside the vocabulary; no room on the disk.
    """
    tokenizer = _tokenizer(task.folder / "tokenizer")
    key = task.key(tokenizer.fingerprint)
    with _locked(task):
        if (record := verified_record(task, key)) is not None:
            return record
        task.path("task", "json").unlink(missing_ok=True)
        tally = Tally()
        # the few that validate wait here: one shard is written after the other
        spool = task.path("val", "tmp")
        try:
            with spool.open("wb+") as waiting:
                sizes: list[int] = []

                def training() -> Iterator[tuple[Ids, int]]:
                    for name, text in task.unique_documents(tally, on_progress):
                        if is_validation(name, task.selection.val_fraction):
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
        write_whole(task.path("task", "json"), json.dumps(record, indent=1).encode())
        return record


def write_text(task: Task, whole: bool) -> Tally:
    """Writes the clean text of both splits and the ends of their documents.

    The files are train.txt, val.txt, train.ends and val.ends.

    With `whole` each document is in one split, else each is cut in two.
    """
    tally = Tally()
    ends: dict[str, list[int]] = {split: [0] for split in SPLITS}
    with (task.folder / "train.txt").open("wb") as train, (task.folder / "val.txt").open("wb") as val:
        files = dict(zip(SPLITS, (train, val), strict=True))
        for name, text in task.unique_documents(tally):
            written = dict.fromkeys(SPLITS, 0)
            for split, piece in split_pieces(name, text, task.selection.val_fraction, whole):
                written[split] += files[split].write(piece.encode())
            for split, size in written.items():
                if size:
                    ends[split].append(ends[split][-1] + size)
    for split in SPLITS:
        np.array(ends[split][1:], dtype="<u8").tofile(task.folder / f"{split}.ends")
    return tally


def make_shards_of_text(task: Task, whole: bool, splits: Sequence[str], corpus: str) -> dict[str, Any]:
    """Makes the shards of the text that `write_text` wrote, of some `splits`.

    It returns what a record says of both splits.

    A document that the split has cut in two has no end to be learned.
    """
    tokenizer = _tokenizer(task.folder / "tokenizer")
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
    """Writes the shard of one split; what a record says of it."""
    info = write_shard(
        task.folder / f"{split}_{task.stem}", ids, vocab_size=tokenizer.vocab_size, tokenizer=tokenizer.fingerprint
    )
    return {key: getattr(info, key) for key in ("documents", "text_bytes", "tokens", "index_sha256")}


def documents_in_pieces(path: Path) -> Iterator[tuple[int, Iterator[str]]]:
    """The bytes and the pieces of each document of a clean text, whose ends lie beside it."""
    start = 0
    with path.open("rb") as file:
        for end in np.fromfile(path.with_suffix(".ends"), dtype="<u8").tolist():
            yield end - start, read_pieces(file, end - start)
            start = end


def verified_record(task: Task, key: str) -> dict[str, Any] | None:
    """The record of a task that is done, every byte of its shards verified.

    None: it is not done, or it was another task.
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
    """The ids of a document, an array for each of its pieces.

    The last one is the end-of-text where it `ends`.
    """
    try:
        yield from encode_pieces(pieces, tokenizer)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if ends:
        yield np.array([tokenizer.eot_id])


# -------------------------------------------------------------------------------------------- locks
@contextmanager
def _locked(task: Task) -> Iterator[None]:
    """Keeps other processes from making the same task.

    Raises:
        UserError: another one does.
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
    """Beside a folder that is being built: one lock a task."""
    return folder.with_name(f"{folder.name}.locks")


def clear(folder: Path, *patterns: str) -> None:
    """Removes the files of a folder that match."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()
