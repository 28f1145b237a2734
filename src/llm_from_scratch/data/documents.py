"""The documents of a task: read, cleaned, kept or removed, and split."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.data.clean import clean
from llm_from_scratch.data.formats import COLUMN, MAX_COLUMNS, Format, OnProgress, is_plain, no_progress
from llm_from_scratch.data.long_texts import LONG, LongText, beginning_of, holds_end_of_text, open_long, pieces_of
from llm_from_scratch.data.quality import failed, language
from llm_from_scratch.data.readers import read_documents
from llm_from_scratch.data.streams import ChangedFileError, verify_file
from llm_from_scratch.errors import UserError, first_line

SPLITS = ("train", "val")
# examples of removed documents, for each task and reason; characters of an example
EXAMPLES, EXAMPLE = 2, 200
NAMED = 10  # names of unread documents, members and columns, for each task and reason
# reasons to remove a document that come from no setting
NOT_READ = ("no_text", "unreadable", "empty")

File = tuple[str, str, str]  # stable name, path, sha256 (or "SIZE TIME", or "": not checked)
NamedText = tuple[str, str | LongText]  # a document's name and its clean text


@dataclass(frozen=True)
class Selection:
    """Settings by which documents are read, kept and split.

    A task's documents are a function of these, of its limit and of its files' names and bytes.
    """

    column: str = "text"
    val_fraction: float = 0.1
    fraction: float = 1.0
    subset_seed: int = 0
    min_chars: int = 0
    quality: tuple[str, ...] = ()
    dedup: str = "none"  # none | exact | near
    language: str | None = None  # one of quality.SHORT_WORDS
    # stop | skip at a document that is no text; None: stop in a corpus that keeps its text
    on_error: str | None = None
    encoding: str = "utf-8"
    separator: str | None = None
    # the beginning of the names of validation documents; None: val_fraction decides
    held_out: str | None = None

    @property
    def form(self) -> Format:
        """Returns the format in which files are read."""
        return Format(self.column, self.encoding, self.separator)

    @property
    def reads_pieces(self) -> bool:
        """Returns whether documents can be read in pieces: no setting needs a whole one."""
        return self.separator is None and self.language is None and not self.quality and self.dedup != "near"

    def metadata(self) -> dict[str, Any]:
        """Returns the settings that are hashed into a task's key.

        Settings of later versions are left out at their defaults, so that older keys stay valid.
        """
        younger = ("on_error", "encoding", "separator", "held_out")
        return {
            key: value for key, value in asdict(self).items() if key not in younger or value != getattr(Selection, key)
        }

    def is_validation(self, document: str) -> bool:
        """Returns whether a whole document belongs to the validation split, by its name."""
        if self.held_out is not None:
            return document.startswith(self.held_out)
        return is_validation(document, self.val_fraction)


@dataclass
class Tally:
    """Counts of the documents that were read, changed and removed.

    `examples` has, for each reason, (name, beginning of the text) of removed documents.
    """

    read: int = 0
    cleaned: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    # reason -> number of archive members and table columns that are not read
    skipped: dict[str, int] = field(default_factory=dict)
    # reason -> the first NAMED of them; of columns the first MAX_COLUMNS
    named: dict[str, list[str]] = field(default_factory=dict)
    separators: int = 0  # documents whose text contains the end-of-text token's name

    def draws(self, name: str, fraction: float, subset_seed: int) -> bool:
        """Counts a document as read; returns whether `data.fraction` selects it."""
        self.read += 1
        if fraction == 1 or hash_in_unit_interval(name, f"subset {subset_seed}") < fraction:
            return True
        self.removed["fraction"] = self.removed.get("fraction", 0) + 1
        return False

    def remove(self, reason: str, name: str, text: str | LongText) -> None:
        """Counts a removed document and keeps the first ones of each reason as examples."""
        self.removed[reason] = self.removed.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < (NAMED if reason in NOT_READ else EXAMPLES):
            examples.append((name, beginning_of(text, EXAMPLE)))

    def skip(self, name: str, why: str) -> None:
        """Counts an archive member or table column not read; a column once, up to MAX_COLUMNS."""
        names = self.named.setdefault(why, [])
        if why == COLUMN and (name in names or len(names) == MAX_COLUMNS):
            return
        self.skipped[why] = self.skipped.get(why, 0) + 1
        if len(names) < (MAX_COLUMNS if why == COLUMN else NAMED):
            names.append(name)


class Faults:
    """Policy for documents that are no text and for unreadable files.

    `on_error` is stop: faults are gathered and raised in one UserError; skip: they are counted as
    removed. None: such a document is counted, but an unreadable file raises its error, since the
    number of documents lost with it is unknown. A file that was changed always raises.
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
        """Raises UserError for all gathered faults, if there are any."""
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
    """Reader of the clean documents of files, each document counted in `tally`."""

    selection: Selection
    tally: Tally
    faults: Faults
    on_progress: OnProgress

    def contents(self, file: File) -> Iterator[tuple[str, bytes | LongText]]:
        """Yields (name, content) of a file's documents: raw bytes, or a LongText, clean already."""
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
        return self.tally.draws(name, self.selection.fraction, self.selection.subset_seed)

    def clean_text(self, name: str, content: bytes | LongText) -> str | LongText | None:
        """Returns a document's clean text; None where it is removed, which is counted."""
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
        """Returns the first filter that a clean text fails; None where it passes all."""
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
    """Yields (name, clean text) of the documents that are kept, duplicates included.

    Args:
        files: the files, in order.
        selection: the settings. `on_error=None` means stop with `strict`; without it, a document
            that is no text is removed and counted, and an unreadable file is an error.
        tally: receives the counts.
        limit: the greatest number of documents to yield, none behind which is read; None: all.
        strict: whether a document that is no text is an error by default, as in a small corpus;
            all such documents are then in one message.
        on_progress: called with the number of further bytes read.

    Raises:
        UserError: when unreadable documents or files are errors, or when a file was changed after
            its checksum was computed.
    """
    faults = Faults(selection.on_error or ("stop" if strict else None), not strict, tally)
    reader = _DocumentReader(selection, tally, faults, on_progress)
    kept = 0
    for file in files:
        if kept == limit:
            break
        try:
            for name, content in reader.contents(file):
                text = reader.clean_text(name, content)
                del content
                if text is None:
                    continue
                kept += 1
                yield name, text
                if kept == limit:  # a fault behind this document is none of the selection
                    verify_file(Path(file[1]), file[2])
                    break
        except UserError as error:
            faults.file(file[0], error)
    faults.report()


def unique(texts: Iterator[NamedText], repeated: np.ndarray, reason: str, tally: Tally) -> Iterator[NamedText]:
    """Yields the documents whose 0-based numbers are not in `repeated` (ascending).

    The others are counted in `tally` as removed for `reason`.
    """
    place = 0
    for number, (name, text) in enumerate(texts):
        if place < len(repeated) and repeated[place] == number:
            place += 1
            tally.remove(reason, name, text)
        else:
            yield name, text


# ------------------------------------------------------------------------------------------- splits
def hash_in_unit_interval(identity: str, salt: str = "") -> float:
    """Returns a hash of a document's name in [0, 1), independent of all other documents."""
    name = f"{salt}\n{identity}" if salt else identity
    # surrogateescape: a file's name may be any bytes
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_validation(document: str, val_fraction: float) -> bool:
    """Returns whether a whole document belongs to the validation split.

    A hash of its name decides, so a document stays in its split when others are added.
    """
    return hash_in_unit_interval(document) < val_fraction


def split_document(text: str, val_fraction: float) -> tuple[str, str]:
    """Cuts a document into its beginning for training and its end for validation.

    The end has `val_fraction` of the characters.
    """
    cut = training_characters(len(text), val_fraction)
    return text[:cut], text[cut:]


def training_characters(count: int, val_fraction: float) -> int:
    """Returns the number of characters for training of a document that is cut in two."""
    return int(count * (1 - val_fraction))


def split_pieces(name: str, text: str | LongText, selection: Selection, whole: bool) -> Iterator[tuple[str, str]]:
    """Yields (split, piece) of a document in pieces that fit into memory.

    With `whole` the document lies in one split; without it, its last part is for validation.
    """
    if whole:
        left = 0 if selection.is_validation(name) else len(text)
    else:
        left = training_characters(len(text), selection.val_fraction)
    for piece in pieces_of(text):
        for split, part in zip(SPLITS, (piece[:left], piece[left:]), strict=True):
            if part:
                yield split, part
        left = max(0, left - len(piece))
