"""One part of a corpus -> its token shards: a pure function, for any process on any machine that sees the files.

A task is one input file, or several small ones. What it makes depends on their bytes and names, on the settings and on the
tokenizer alone, never on who makes it or when. It is published in this order, each by rename: the ids and index of both
splits, then the record that vouches for them; a task without a sound record is made again from its start.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from llm_from_scratch.data.clean import clean
from llm_from_scratch.data.duplicates import signer, width
from llm_from_scratch.data.long import (
    LONG,
    LongText,
    beginning_of,
    encode_pieces,
    holds_end_of_text,
    open_long,
    pieces_of,
    read_pieces,
    size_of,
)
from llm_from_scratch.data.quality import failed, language
from llm_from_scratch.data.readers import COLUMN, ChangedFileError, Format, Told, is_plain, read_documents, verify_file
from llm_from_scratch.data.shards import open_shard, write_shard
from llm_from_scratch.errors import UserError, first_line
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer

SPLITS = ("train", "val")
EXAMPLES, EXAMPLE = 2, 200  # of what was removed for one reason, a task; characters of each
NAMED = 10  # of what was not read, a task
NOT_READ = ("no_text", "unreadable", "empty")  # reasons to remove a document that nobody has asked for
LOCK_SECONDS = 10.0  # a worker outlives the process that started it by less


@dataclass(frozen=True)
class Recipe:
    """Which documents of a corpus are kept, and on which side they stand: what the shards depend on beside the bytes."""

    column: str = "text"
    val_fraction: float = 0.1
    fraction: float = 1.0
    subset_seed: int = 0
    min_chars: int = 0
    quality: tuple[str, ...] = ()
    dedup: str = "none"  # none | exact | near
    language: str | None = None  # one of quality.SHORT_WORDS
    on_error: str | None = None  # stop | skip, of a document that is no text; None: stop where the text is kept
    encoding: str = "utf-8"
    separator: str | None = None

    @property
    def form(self) -> Format:
        """How files are read."""
        return Format(self.column, self.encoding, self.separator)

    @property
    def reads_pieces(self) -> bool:
        """Whether no setting looks at a document as a whole."""
        return (
            self.encoding == "utf-8"
            and self.separator is self.language is None
            and not self.quality
            and self.dedup != "near"
        )

    def facts(self) -> dict[str, Any]:
        """The settings for a task's key; younger ones only where they are set, so that older keys stay."""
        younger = ("on_error", "encoding", "separator")
        return {
            key: value for key, value in asdict(self).items() if key not in younger or value != getattr(Recipe, key)
        }


@dataclass(frozen=True)
class Task:
    """The part `number` of a corpus: (stable name, place, sha256 or "") a file; at most `limit` documents of it."""

    number: int
    files: tuple[tuple[str, str, str], ...]
    limit: int | None = None

    @property
    def stem(self) -> str:
        return f"{self.number:05}"

    def bytes(self) -> int:
        """Of its files."""
        return sum(Path(path).stat().st_size for _, path, _ in self.files)


@dataclass
class Tally:
    """What became of the documents that were read; `examples` has (name, beginning) for each reason to remove one."""

    read: int = 0
    cleaned: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)  # members and columns that are not read, by the reason
    named: dict[str, list[str]] = field(default_factory=dict)  # the first of them
    separators: int = 0  # documents that hold the end-of-text as a word

    def remove(self, reason: str, name: str, text: str | LongText) -> None:
        """Counts one document that goes."""
        self.removed[reason] = self.removed.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < (NAMED if reason in NOT_READ else EXAMPLES):
            examples.append((name, beginning_of(text, EXAMPLE)))

    def skip(self, name: str, why: str) -> None:
        """Counts one member of an archive, or one column of all tables, that is not read."""
        names = self.named.setdefault(why, [])
        if why == COLUMN and name in names:
            return
        self.skipped[why] = self.skipped.get(why, 0) + 1
        if len(names) < NAMED:
            names.append(name)


class _Faults:
    """What is to become of the documents and files that are no text.

    stop: they are gathered, and end the work in one message; skip: they are counted. None: a document is counted, and a file
    that is damaged ends the work, for nobody knows how much it held.
    """

    def __init__(self, on_error: str | None, at_once: bool, tally: Tally) -> None:
        self.on_error, self.at_once, self.tally = on_error, at_once, tally
        self.messages: list[str] = []
        self.count = 0

    def document(self, name: str, message: str) -> None:
        if self.on_error == "stop":
            self._gather(message)
        else:
            self.tally.remove("no_text", name, message)

    def file(self, name: str, error: UserError) -> None:
        if self.on_error is None or isinstance(error, ChangedFileError):
            raise error
        if self.on_error == "stop":
            self._gather(first_line(error))
        else:
            self.tally.remove("unreadable", name, first_line(error))

    def _gather(self, message: str) -> None:
        self.count += 1
        if len(self.messages) < NAMED:
            self.messages.append(message)
        elif self.at_once:
            self.report()

    def report(self) -> None:
        """Raises UserError where there were faults and they are to stop the work."""
        if self.count == 1:
            raise UserError(f"{self.messages[0]} (data.on_error=skip leaves it out)")
        if self.count:
            more = self.count - len(self.messages)
            parts = [message[:EXAMPLE] for message in self.messages] + ([f"and {more:,} more"] if more else [])
            raise UserError(
                f"{self.count:,} documents cannot be read: {'; '.join(parts)}: mend them, or leave them out with data.on_error=skip"
            )


def share(identity: str, salt: str = "") -> float:
    """A number from 0 to below 1 that is this document's for ever, whatever comes beside it."""
    name = f"{salt}\n{identity}" if salt else identity
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()  # a file's name may be any bytes
    return int.from_bytes(digest[:8], "big") / 2**64


def is_validation(document: str, val_fraction: float) -> bool:
    """Whether a whole document validates: a hash of its name decides, so that a document never changes sides when others come."""
    return share(document) < val_fraction


def split_document(text: str, val_fraction: float) -> tuple[str, str]:
    """The first part of a document for training, the last `val_fraction` of its characters for validation."""
    cut = training_characters(len(text), val_fraction)
    return text[:cut], text[cut:]


def training_characters(count: int, val_fraction: float) -> int:
    """Of the characters of a document that is split, those for training."""
    return int(count * (1 - val_fraction))


def documents(
    task: Task, recipe: Recipe, tally: Tally, *, strict: bool = False, told: Told = lambda count: None
) -> Iterator[tuple[str, str | LongText]]:
    """Name and clean text of the documents that stay, as far as each by itself decides; duplicates are not removed here.

    Recipe.on_error says what becomes of a document that is no text. Where it is None, it is an error with `strict`, as befits a
    book; of millions, it is removed and counted.
    UserError: documents that are to stop the work, all of a small corpus in one message; a file that was changed meanwhile.
    """
    kept = 0
    faults = _Faults(recipe.on_error or ("stop" if strict else None), not strict, tally)

    def chosen(name: str) -> bool:
        tally.read += 1
        if recipe.fraction == 1 or share(name, f"subset {recipe.subset_seed}") < recipe.fraction:
            return True
        tally.removed["fraction"] = tally.removed.get("fraction", 0) + 1
        return False

    def on_fault(name: str, problem: str) -> None:
        if chosen(name):
            faults.document(name, f"{name}: {problem}")

    def contents(name: str, path: Path, checksum: str) -> Iterator[tuple[str, bytes | LongText]]:
        if is_plain(name) and recipe.reads_pieces and path.is_file() and path.stat().st_size >= LONG:
            text = open_long(path, name, checksum, told)
            if text is not None:
                yield name, text
                return
        for document in read_documents(
            path, name, recipe.form, told, checksum=checksum, on_fault=on_fault, on_skip=tally.skip
        ):
            yield document.name, document.raw

    for file, place, checksum in task.files:
        path = Path(place)
        try:
            for name, content in contents(file, path, checksum):
                if kept == task.limit:
                    verify_file(path, checksum)
                    faults.report()
                    return
                if not chosen(name):
                    continue
                text: str | LongText
                try:
                    text, counts = (content, content.cleaned) if isinstance(content, LongText) else clean(content, name)
                except UserError as error:
                    faults.document(name, str(error))
                    continue
                for step, count in counts.items():
                    tally.cleaned[step] = tally.cleaned.get(step, 0) + count
                reason = None
                if not text:
                    reason = "empty"
                elif len(text) < recipe.min_chars:
                    reason = "min_chars"
                elif isinstance(text, LongText):
                    pass  # no setting looks into it
                elif recipe.language is not None and language(text) != recipe.language:
                    reason = "language"
                else:
                    reason = failed(text, recipe.quality)
                if reason:
                    tally.remove(reason, name, text)
                    continue
                tally.separators += holds_end_of_text(text)
                kept += 1
                yield name, text
        except UserError as error:
            faults.file(file, error)
    faults.report()


def unique(
    texts: Iterator[tuple[str, str | LongText]], repeated: np.ndarray, reason: str, tally: Tally
) -> Iterator[tuple[str, str | LongText]]:
    """Without the documents whose numbers `repeated` (rising) holds."""
    place = 0
    for number, (name, text) in enumerate(texts):
        if place < len(repeated) and repeated[place] == number:
            place += 1
            tally.remove(reason, name, text)
        else:
            yield name, text


def scan(job: tuple[Task, Recipe, str, bool], told: Told = lambda count: None) -> None:
    """The first pass of a task: the signatures of its documents, from which duplicates are found, as FOLDER/scan_NUMBER.bin."""
    task, recipe, folder, strict = job
    path = Path(folder) / f"scan_{task.stem}.bin"
    with _own(path.parent, task):
        if path.exists():
            return
        sign, part = signer(recipe.dedup), path.with_suffix(".tmp")
        columns, dtype = width(recipe.dedup)
        with part.open("wb") as file:
            for _, text in documents(task, recipe, Tally(), strict=strict, told=told):
                signature = sign(text if isinstance(text, str) else text.pieces())
                file.write(signature.astype(dtype).tobytes())
            file.flush()
            os.fsync(file.fileno())
        assert part.stat().st_size % (columns * np.dtype(dtype).itemsize) == 0
        part.replace(path)


def scanned(folder: Path, task: Task, kind: str) -> np.ndarray:
    """The signatures that `scan` wrote: (documents, width), mapped."""
    path = folder / f"scan_{task.stem}.bin"
    columns, dtype = width(kind)
    rows = path.stat().st_size // (columns * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, "r", shape=(rows, columns)) if rows else np.empty((0, columns), dtype)


def repeats(folder: Path, task: Task) -> np.ndarray:
    """The numbers of the task's documents that are duplicates of earlier ones."""
    path = folder / f"repeated_{task.stem}.bin"
    return np.fromfile(path, "<i8") if path.exists() else np.empty(0, np.int64)


def make_shards(job: tuple[Task, Recipe, str, str], told: Told = lambda count: None) -> dict[str, Any]:
    """The task itself: (task, recipe, folder, the task's key) -> train_… and val_… shards in the folder, and their record.

    The tokenizer lies in the folder. UserError: as `documents`; an id outside the vocabulary; no room on the disk.
    """
    task, recipe, place, key = job
    folder = Path(place)
    with _own(folder, task):
        if (record := sound_record(folder, task, key)) is not None:
            return record
        (folder / f"task_{task.stem}.json").unlink(missing_ok=True)
        tokenizer = _tokenizer(folder / "tokenizer")
        tally = Tally()
        texts = unique(
            documents(task, recipe, tally, told=told), repeats(folder, task), f"{recipe.dedup}_duplicate", tally
        )
        spool = folder / f"val_{task.stem}.tmp"  # the few that validate wait here: one shard is written after the other
        try:
            with spool.open("wb+") as waiting:
                sizes: list[int] = []

                def training() -> Iterator[tuple[np.ndarray | Iterator[np.ndarray], int]]:
                    for name, text in texts:
                        if is_validation(name, recipe.val_fraction):
                            sizes.append(sum(waiting.write(piece.encode()) for piece in pieces_of(text)))
                        else:
                            yield _ids(text, tokenizer, name), size_of(text)

                def validation() -> Iterator[tuple[np.ndarray | Iterator[np.ndarray], int]]:
                    waiting.seek(0)
                    for size in sizes:
                        long = size >= LONG
                        text = read_pieces(waiting, size) if long else waiting.read(size).decode()
                        yield _ids(text, tokenizer, "the validation split"), size

                shards = {}
                for split, ids in zip(SPLITS, (training, validation), strict=True):
                    info = write_shard(
                        folder / f"{split}_{task.stem}",
                        ids(),
                        vocab_size=tokenizer.vocab_size,
                        tokenizer=tokenizer.fingerprint,
                    )
                    shards[split] = {
                        "documents": info.documents,
                        "text_bytes": info.text_bytes,
                        "tokens": info.tokens,
                        "index_sha256": info.index_sha256,
                    }
        finally:
            spool.unlink(missing_ok=True)
        record = {"key": key, "shards": shards, "tally": asdict(tally)}
        write_whole(folder / f"task_{task.stem}.json", json.dumps(record, indent=1).encode())
        return record


def sound_record(folder: Path, task: Task, key: str) -> dict[str, Any] | None:
    """The record of a task that is done, every byte of its shards verified; None where it is not, or was another task."""
    try:
        record = json.loads((folder / f"task_{task.stem}.json").read_text(encoding="utf-8"))
        if record["key"] != key:
            return None
        for split in SPLITS:
            checksum = record["shards"][split]["index_sha256"]
            open_shard(folder / f"{split}_{task.stem}", verify=True, index_sha256=checksum)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record


def task_key(task: Task, recipe: Recipe, tokenizer: str, repeated: np.ndarray) -> str:
    """What the task's shards are a function of, as one checksum."""
    files = [(name, checksum) for name, _, checksum in task.files]
    facts = [files, task.limit, recipe.facts(), tokenizer, hashlib.sha256(repeated.tobytes()).hexdigest()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


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


def _ids(text: str | LongText | Iterator[str], tokenizer: Tokenizer, where: str) -> np.ndarray | Iterator[np.ndarray]:
    """The ids of a document and its end; of a long one, an array for each of its pieces."""
    if isinstance(text, str):
        try:
            return np.append(tokenizer.encode_array(text), tokenizer.eot_id)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
    return ids_in_pieces(text.pieces() if isinstance(text, LongText) else text, tokenizer, True, where)


def ids_in_pieces(pieces: Iterator[str], tokenizer: Tokenizer, ends: bool, where: str) -> Iterator[np.ndarray]:
    """The ids of a document, an array for each of its pieces; the last is the end-of-text where it `ends`."""
    try:
        yield from encode_pieces(pieces, tokenizer)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if ends:
        yield np.array([tokenizer.eot_id])


class _own:  # noqa: N801
    """Nobody else makes this task meanwhile. UserError: somebody does."""

    def __init__(self, folder: Path, task: Task) -> None:
        locks = locks_of(folder)
        locks.mkdir(exist_ok=True)
        self.task, self.folder = task, folder
        self.lock = FileLock(locks / f"{task.stem}.lock", timeout=LOCK_SECONDS)

    def __enter__(self) -> None:
        try:
            self.lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.folder}: part {self.task.number} is being prepared by another process; start again when it is done"
            ) from None

    def __exit__(self, *error: object) -> None:
        self.lock.release()


def locks_of(folder: Path) -> Path:
    """Beside a folder that is being built: one lock a task."""
    return folder.with_name(f"{folder.name}.locks")
