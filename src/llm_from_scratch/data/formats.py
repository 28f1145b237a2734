"""The kinds of file that a corpus can consist of, known by their names."""

from collections.abc import Callable
from dataclasses import dataclass

from llm_from_scratch.errors import UserError

TEXT_SUFFIXES = {".txt", ".text", ".md", ".markdown", ".rst"}
COMPRESSED_SUFFIXES = {".gz", ".xz", ".bz2", ".zst"}
SHORT_SUFFIXES = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2"}
OTHER_SUFFIXES = {".jsonl", ".parquet", ".tar", *COMPRESSED_SUFFIXES, *SHORT_SUFFIXES}
# Tables that are read where data.path names them; in a folder or an archive such a file can be
# anything, notes or metadata.
NAMED_SUFFIXES = {".csv", ".tsv", ".json", ".ndjson"}
KINDS = {"ndjson": "jsonl"} | {kind: kind for kind in ("jsonl", "json", "csv", "tsv", "parquet", "tar")}

# Bytes of a document that is not a file of its own. The longest novels have 10 MB; and a line of
# JSON can take 30 times its length in memory.
MAX_DOCUMENT = 16 * 2**20
# Reasons not to read a file, a member or a column.
COLUMN, HIDDEN = "a column beside data.column", "hidden"
OTHER_NAME = "no name of a text, a table or an archive"

OnProgress = Callable[[int], object]  # is called with the bytes of the input as they are read
OnFault = Callable[[str, str], object]  # (document, problem): a document that is no text
OnSkip = Callable[[str, str], object]  # (file or member, why): it is not read


def no_progress(count: int) -> None:
    """Nobody watches the progress."""


def refuse(name: str, problem: str) -> None:
    """The first document that is no text ends the reading."""
    raise UserError(f"{name}: {problem}")


@dataclass(frozen=True)
class Document:
    """One text as it was found: `name` is the same on every machine, `raw` its bytes."""

    name: str
    raw: bytes


@dataclass(frozen=True)
class Format:
    """How the files of a corpus are to be read."""

    column: str = "text"  # the text of a row; a.b is b within a, where no column is called a.b
    encoding: str = "utf-8"  # of texts and of the tables that are texts
    separator: str | None = None  # stands between the documents of one text file


PLAIN_FORMAT = Format()


def is_plain(name: str) -> bool:
    """Whether a file of that name is one document as it stands."""
    compression, kind = kind_of(name)
    return compression is None and kind == "text"


def kind_of(name: str) -> tuple[str | None, str]:
    """How a file of that name is compressed, and its kind: text, or one of KINDS."""
    left = name.lower()
    for short, long in SHORT_SUFFIXES.items():
        if left.endswith(short):
            left = left.removesuffix(short) + long
    compression = next((suffix for suffix in COMPRESSED_SUFFIXES if left.endswith(suffix)), "")
    left = left.removesuffix(compression)
    if compression and left.endswith(tuple(COMPRESSED_SUFFIXES)):
        raise UserError(f"{name}: compressed twice: expand it once")
    return compression[1:] or None, KINDS.get(left.rpartition(".")[2] if "." in left else "", "text")
