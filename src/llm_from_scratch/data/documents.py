"""The documents of a task: read, cleaned, kept or removed, and split."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.data.clean import clean
from llm_from_scratch.data.formats import COLUMN, Format, OnProgress, is_plain, no_progress
from llm_from_scratch.data.long_texts import LONG, LongText, beginning_of, holds_end_of_text, open_long, pieces_of
from llm_from_scratch.data.quality import failed, language
from llm_from_scratch.data.readers import read_documents
from llm_from_scratch.data.streams import ChangedFileError, verify_file
from llm_from_scratch.errors import UserError, first_line

SPLITS = ("train", "val")
# examples of each reason to remove a document, in a task; characters of each
EXAMPLES, EXAMPLE = 2, 200
NAMED = 10  # names of what is not read, in a task
# reasons to remove a document that nobody has asked for
NOT_READ = ("no_text", "unreadable", "empty")

File = tuple[str, str, str]  # its stable name, its place, its sha256 (or "SIZE TIME", or "")
NamedText = tuple[str, str | LongText]  # a document's name and its clean text


@dataclass(frozen=True)
class Selection:
    """The settings by which documents are read, kept and split.

    The shards depend on them and on the bytes of the files alone.
    """

    column: str = "text"
    val_fraction: float = 0.1
    fraction: float = 1.0
    subset_seed: int = 0
    min_chars: int = 0
    quality: tuple[str, ...] = ()
    dedup: str = "none"  # none | exact | near
    language: str | None = None  # one of quality.SHORT_WORDS
    # stop | skip, of a document that is no text; None: stop where the text is kept
    on_error: str | None = None
    encoding: str = "utf-8"
    separator: str | None = None

    @property
    def form(self) -> Format:
        """How files are read."""
        return Format(self.column, self.encoding, self.separator)

    @property
    def reads_pieces(self) -> bool:
        """Whether no setting looks at a document as a whole."""
        return self.separator is None and self.language is None and not self.quality and self.dedup != "near"

    def metadata(self) -> dict[str, Any]:
        """The settings for a task's key.

        Younger ones are in it only where they are set, so that older keys stay.
        """
        younger = ("on_error", "encoding", "separator")
        return {
            key: value for key, value in asdict(self).items() if key not in younger or value != getattr(Selection, key)
        }


@dataclass
class Tally:
    """Counts of the documents that were read.

    `examples` has (name, beginning) of removed ones, for each reason.
    """

    read: int = 0
    cleaned: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    # members and columns that are not read, by the reason
    skipped: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)  # the first of them
    separators: int = 0  # documents that hold the end-of-text as a word

    def remove(self, reason: str, name: str, text: str | LongText) -> None:
        """Counts one document that is removed."""
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
    """The policy for documents and files that are no text.

    stop: they are gathered, and end the work in one message; skip: they are counted. None: a
    document is counted, and a file that is damaged ends the work, for nobody knows how much it
    held.
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


@dataclass(frozen=True)
class _DocumentReader:
    """From one file to its clean documents, each counted in `tally`."""

    selection: Selection
    tally: Tally
    faults: _Faults
    on_progress: OnProgress

    def contents(self, file: File) -> Iterator[tuple[str, bytes | LongText]]:
        """Name and content of every document of a file; a long text is clean already."""
        name, place, checksum = file
        path = Path(place)
        if is_plain(name) and self.selection.reads_pieces and path.is_file() and path.stat().st_size >= LONG:
            text = open_long(path, name, checksum, self.on_progress, self.selection.encoding)
            if text is not None:
                yield name, text
                return
        for document in read_documents(
            path,
            name,
            self.selection.form,
            self.on_progress,
            checksum=checksum,
            on_fault=self.fault,
            on_skip=self.tally.skip,
        ):
            yield document.name, document.raw

    def fault(self, name: str, problem: str) -> None:
        if self.draws(name):
            self.faults.document(name, f"{name}: {problem}")

    def draws(self, name: str) -> bool:
        """Counts a document, and tells whether `data.fraction` draws it."""
        self.tally.read += 1
        fraction = self.selection.fraction
        if fraction == 1 or hash_in_unit_interval(name, f"subset {self.selection.subset_seed}") < fraction:
            return True
        self.tally.removed["fraction"] = self.tally.removed.get("fraction", 0) + 1
        return False

    def clean_text(self, name: str, content: bytes | LongText) -> str | LongText | None:
        """The clean text of a document that is kept; None where it is removed, which is counted."""
        if not self.draws(name):
            return None
        text: str | LongText
        try:
            text, counts = (content, content.cleaned) if isinstance(content, LongText) else clean(content, name)
        except UserError as error:
            self.faults.document(name, str(error))
            return None
        for step, count in counts.items():
            self.tally.cleaned[step] = self.tally.cleaned.get(step, 0) + count
        reason = self.reason_to_remove(text)
        if reason is not None:
            self.tally.remove(reason, name, text)
            return None
        self.tally.separators += holds_end_of_text(text)
        return text

    def reason_to_remove(self, text: str | LongText) -> str | None:
        """The first setting that a clean text does not meet; None where it meets them all."""
        selection = self.selection
        if not text:
            return "empty"
        if len(text) < selection.min_chars:
            return "min_chars"
        if isinstance(text, LongText):  # no setting looks into it
            return None
        if selection.language is not None and language(text) != selection.language:
            return "language"
        return failed(text, selection.quality)


def documents(
    files: Sequence[File],
    selection: Selection,
    tally: Tally,
    *,
    limit: int | None = None,
    strict: bool = False,
    on_progress: OnProgress = no_progress,
) -> Iterator[NamedText]:
    """Name and clean text of the documents that are kept, at most `limit`.

    Duplicates are not removed here.

    Selection.on_error says what becomes of a document that is no text. Where it is None, it is an
    error with `strict`, as befits a book; of millions, it is removed and counted.

    Raises:
        UserError: documents that are to stop the work, all of a small corpus in one message; a file
            that was changed meanwhile.
    """
    faults = _Faults(selection.on_error or ("stop" if strict else None), not strict, tally)
    reader = _DocumentReader(selection, tally, faults, on_progress)
    kept = 0
    for file in files:
        try:
            for name, content in reader.contents(file):
                if kept == limit:
                    verify_file(Path(file[1]), file[2])
                    faults.report()
                    return
                text = reader.clean_text(name, content)
                del content
                if text is not None:
                    kept += 1
                    yield name, text
        except UserError as error:
            faults.file(file[0], error)
    faults.report()


def unique(texts: Iterator[NamedText], repeated: np.ndarray, reason: str, tally: Tally) -> Iterator[NamedText]:
    """Without the documents whose numbers `repeated` (rising) holds."""
    place = 0
    for number, (name, text) in enumerate(texts):
        if place < len(repeated) and repeated[place] == number:
            place += 1
            tally.remove(reason, name, text)
        else:
            yield name, text


# ------------------------------------------------------------------------------------------- splits
def hash_in_unit_interval(identity: str, salt: str = "") -> float:
    """A hash of the document's name in [0, 1), independent of all other documents."""
    name = f"{salt}\n{identity}" if salt else identity
    # a file's name may be any bytes
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_validation(document: str, val_fraction: float) -> bool:
    """Whether a whole document validates.

    A hash of its name decides, so that a document never changes sides when others come.
    """
    return hash_in_unit_interval(document) < val_fraction


def split_document(text: str, val_fraction: float) -> tuple[str, str]:
    """The beginning of a document for training, its end for validation.

    The latter has `val_fraction` of the characters.
    """
    cut = training_characters(len(text), val_fraction)
    return text[:cut], text[cut:]


def training_characters(count: int, val_fraction: float) -> int:
    """How many of a document's characters train, where the document is cut in two."""
    return int(count * (1 - val_fraction))


def split_pieces(name: str, text: str | LongText, val_fraction: float, whole: bool) -> Iterator[tuple[str, str]]:
    """(split, piece) of a document in pieces that fit into memory.

    With `whole` a document is in one split, else its last part validates.
    """
    if whole:
        left = 0 if is_validation(name, val_fraction) else len(text)
    else:
        left = training_characters(len(text), val_fraction)
    for piece in pieces_of(text):
        for split, part in zip(SPLITS, (piece[:left], piece[left:]), strict=True):
            if part:
                yield split, part
        left = max(0, left - len(piece))
