"""The kinds of file that a corpus can consist of, recognized by their names."""

from collections.abc import Callable
from dataclasses import dataclass

from llm_from_scratch.errors import UserError

TEXT_SUFFIXES = {".txt", ".text", ".md", ".markdown", ".rst"}
COMPRESSED_SUFFIXES = {".gz", ".xz", ".bz2", ".zst"}
SHORT_SUFFIXES = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2"}
OTHER_SUFFIXES = {".jsonl", ".parquet", ".tar", *COMPRESSED_SUFFIXES, *SHORT_SUFFIXES}
# Tables that are read only where data.path, as a file or a glob, names them: in a folder or an
# archive such a file can be metadata.
NAMED_SUFFIXES = {".csv", ".tsv", ".json", ".ndjson"}
KINDS = {"ndjson": "jsonl"} | {kind: kind for kind in ("jsonl", "json", "csv", "tsv", "parquet", "tar")}

# Limit in bytes of a document in a table, an archive or a compressed file. The longest novels have
# 10 MB, and a line of JSON can take 30 times its length in memory.
MAX_DOCUMENT = 16 * 2**20
MAX_COLUMNS = 100  # names of columns that are not read, as far as they are remembered and counted
# Reasons not to read a file, a member or a column.
COLUMN, HIDDEN = "a column beside data.column", "hidden"
OTHER_NAME = "no name of a text, a table or an archive"

OnProgress = Callable[[int], object]  # called with the number of further input bytes read
OnFault = Callable[[str, str], object]  # called with (document, problem) where it is no text
OnSkip = Callable[[str, str], object]  # called with (file, member or column not read, reason)


def no_progress(count: int) -> None:
    """Does nothing: the default of `on_progress`."""


def refuse(name: str, problem: str) -> None:
    """Raises UserError at the first document that is no text: the default of `on_fault`."""
    raise UserError(f"{name}: {problem}")


@dataclass(frozen=True)
class Document:
    """Uncleaned document: `raw` is its bytes; `name` is the same on every machine."""

    name: str
    raw: bytes


@dataclass(frozen=True)
class Format:
    """Settings by which the files of a corpus are read."""

    column: str = "text"  # with a row's text; a.b is field b of column a, unless a column is "a.b"
    encoding: str = "utf-8"  # of texts and of tables in a text format
    separator: str | None = None  # between the documents of one text file; None: one document


PLAIN_FORMAT = Format()


def is_plain(name: str) -> bool:
    """Returns whether a file name means an uncompressed text, no table and no archive."""
    compression, kind = kind_of(name)
    return compression is None and kind == "text"


def kind_of(name: str) -> tuple[str | None, str]:
    """Returns (compression, kind) by a file's name: ("gz", "jsonl") for rows.jsonl.gz.

    `compression` is None for an uncompressed file; the kind is "text" or a value of KINDS.

    Raises:
        UserError: when the name has two suffixes of compression.
    """
    left = name.lower()
    for short, long in SHORT_SUFFIXES.items():
        if left.endswith(short):
            left = left.removesuffix(short) + long
    compression = next((suffix for suffix in COMPRESSED_SUFFIXES if left.endswith(suffix)), "")
    left = left.removesuffix(compression)
    if compression and left.endswith(tuple(COMPRESSED_SUFFIXES)):
        raise UserError(f"{name}: compressed twice: expand it once")
    return compression[1:] or None, KINDS.get(left.rpartition(".")[2] if "." in left else "", "text")
