"""Readers of one file's documents: texts, tables, compressed files, archives within archives.

Files and the names of their documents::

    book.txt                                  one document: book.txt
    rows.jsonl.zst                            one document a line: rows.jsonl.zst:1, …
    rows.parquet                              one document a row: rows.parquet:1, …
    rows.csv rows.tsv                         one document a row below the header: rows.csv:2, …
    rows.json                                 one document an object or string: rows.json:1, …
    urlsf_subset00.tar                        one a text in it, at any depth: OpenWebText's archives hold .xz files,
      urlsf_subset00-1_data.xz                each of which is a compressed tar:
        0000001-abc.txt                       urlsf_subset00.tar/urlsf_subset00-1_data.xz/0000001-abc.txt

An archive is read like a folder: its text files, tables and archives, without hidden files.
`on_skip` is called for each member or column that is not read, `on_fault` for each document that is
not valid text. Files are read as streams (`streams.py`, `archives.py`, `tables.py`).
"""

import codecs
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_from_scratch.data.archives import BLOCK, is_tar, members
from llm_from_scratch.data.formats import (
    HIDDEN,
    MAX_DOCUMENT,
    OTHER_NAME,
    OTHER_SUFFIXES,
    PLAIN_FORMAT,
    TEXT_SUFFIXES,
    Document,
    Format,
    OnFault,
    OnProgress,
    OnSkip,
    kind_of,
    no_progress,
    refuse,
)
from llm_from_scratch.data.streams import (
    Budget,
    as_file,
    compare_checksum,
    expanded,
    from_disk,
    opened,
    read_file,
    stamp,
    verify_file,
)
from llm_from_scratch.data.tables import DELIMITERS, TableReader, as_utf8, parquet_objects, parquet_rows
from llm_from_scratch.errors import UserError

MAX_DEPTH = 3  # archives within archives; OpenWebText has two


def read_documents(
    path: Path,
    name: str,
    form: Format = PLAIN_FORMAT,
    on_progress: OnProgress = no_progress,
    *,
    checksum: str = "",
    on_fault: OnFault = refuse,
    on_skip: OnSkip = lambda name, why: None,
) -> Iterator[Document]:
    """Yields the documents of the file at `path` in order, one in memory at a time.

    Args:
        path: a regular file.
        name: its name in messages and in the documents' names. Its suffixes say the format; a name
            without a known suffix is that of a text.
        form: the column, encoding and separator.
        on_progress: called with the number of bytes of the file read since the last call.
        checksum: the sha256 that the bytes must have, or the file's "SIZE TIME" (`stamp`); ""
            accepts any.
        on_fault: called for each row, line or member that is not valid text; reading then goes on.
            The default raises UserError.
        on_skip: called for each member and column that is not read, with the reason.

    Raises:
        UserError: when the file cannot be read, is cut off, damaged or a decompression bomb, lacks
            the column, needs a library that is not installed, or has changed. The message names the
            file and the member, line or row.
    """
    reader = _Reader(form, Budget(on_progress=on_progress), on_fault, on_skip)
    compression, kind = kind_of(name)
    if kind == "parquet" and compression is None:
        verify_file(path, checksum)
        before = stamp(path)
        with opened(path) as file:
            yield from parquet_rows(file, path, name, reader)
        verify_file(path, before)
        return
    if kind == "text" and compression is None:
        yield from reader.plain_text(path, name, checksum)
        return
    digest = hashlib.sha256()
    chunks, found = from_disk(path, reader.budget, digest), False
    for document in reader.documents(chunks, name, depth=0):
        found = True
        yield document
    for _ in chunks:
        pass
    compare_checksum(path, checksum, digest.hexdigest())
    if not found and kind in ("text", "tar"):
        raise UserError(f"{name}: an archive without texts ({', '.join(sorted(TEXT_SUFFIXES | OTHER_SUFFIXES))})")


def read_rows(
    path: Path,
    name: str,
    columns: frozenset[str],
    *,
    checksum: str = "",
    on_fault: OnFault = refuse,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (name:row, row) of the rows of a JSON or Parquet file, which are objects.

    Args:
        path: a regular file: .jsonl, .json, either of them compressed, or .parquet.
        name: its name in messages.
        columns: the columns of a Parquet file to read, as far as they exist; all others are left.
        checksum: as in `read_documents`.
        on_fault: called for each row that is no object; the default raises UserError.

    Raises:
        UserError: as `read_documents`, or when the file is no such table.
    """
    compression, kind = kind_of(name)
    reader = _RowReader(Format(column="messages"), Budget(), on_fault, lambda name, why: None)
    if kind not in ("jsonl", "json", "parquet"):
        raise UserError(f"{name}: rows are read from .jsonl, .json and .parquet files: convert it")
    if kind == "parquet" and compression is None:
        verify_file(path, checksum)
        before = stamp(path)
        with opened(path) as file:
            yield from parquet_objects(file, path, name, reader, columns)
        verify_file(path, before)
        return
    digest = hashlib.sha256()
    chunks = from_disk(path, reader.budget, digest)
    rows: Iterator[Any] = reader.documents(chunks, name, depth=0)
    yield from rows
    for _ in chunks:
        pass
    compare_checksum(path, checksum, digest.hexdigest())


class _Reader(TableReader):
    """Reader of the documents in one file's bytes, and in the archives within it."""

    def documents(self, chunks: Iterator[bytes], name: str, depth: int) -> Iterator[Document]:
        """Yields the documents of the file `name`, which is nested in `depth` archives."""
        compression, kind = kind_of(name)
        if compression is not None:
            chunks = expanded(chunks, compression, name, self.budget)
            if kind == "text":
                head = b""
                for chunk in chunks:
                    head += chunk
                    if len(head) >= BLOCK:
                        break
                chunks = itertools.chain([head], chunks)
                kind = "tar" if is_tar(head) else "text"
        if kind == "tar":
            if depth == MAX_DEPTH:
                raise UserError(f"{name}: archives more than {MAX_DEPTH} deep within each other: unpack the first")
            for member, content in members(as_file(chunks), name):
                if any(part.startswith(".") for part in member.split("/")):
                    self.on_skip(f"{name}/{member}", HIDDEN)
                elif not member.lower().endswith(tuple(TEXT_SUFFIXES | OTHER_SUFFIXES)):
                    self.on_skip(f"{name}/{member}", OTHER_NAME)
                else:
                    yield from self.documents(content, f"{name}/{member}", depth + 1)
        elif kind == "parquet":
            raise UserError(f"{name}: a parquet file cannot be read within another file: unpack it")
        elif kind == "text":
            raw = as_file(chunks).read(MAX_DOCUMENT + 1)
            if len(raw) > MAX_DOCUMENT:
                self.on_fault(name, f"a document above {MAX_DOCUMENT:,} bytes: unpack it, and it is read whole")
            else:
                yield from self.texts(raw, name)
        else:
            file = as_file(as_utf8(chunks, self.form.encoding))
            if file.peek(2).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise UserError(
                    f"{name}: byte 0: a UTF-16 byte order mark: save the file as UTF-8, or say data.encoding=utf-16"
                )
            if kind in DELIMITERS:
                yield from self.records(file, name, DELIMITERS[kind])
            else:
                yield from (self.lines if kind == "jsonl" else self.items)(file, name)

    def plain_text(self, path: Path, name: str, checksum: str) -> Iterator[Document]:
        """Yields a text file as one document, or as those between separators.

        In UTF-8, those between separators are in memory one at a time.
        """
        if self.form.separator is not None and self.form.encoding == "utf-8":
            digest = hashlib.sha256()
            yield from self.separated(_parts(from_disk(path, self.budget, digest), self.form.separator.encode()), name)
            compare_checksum(path, checksum, digest.hexdigest())
            return
        raw = read_file(path)
        self.budget.on_progress(len(raw))
        compare_checksum(path, checksum, hashlib.sha256(raw).hexdigest())
        documents = self.texts(raw, name)
        del raw  # this generator would hold the whole text while its document is used
        yield from documents

    def texts(self, raw: bytes, name: str) -> Iterator[Document]:
        """Yields a text, converted to UTF-8, as one document or as those between separators."""
        if self.form.encoding != "utf-8":
            if codecs.lookup(self.form.encoding).name not in ("utf-8-sig", "utf-8") and _is_utf8(raw):
                self.on_fault(
                    name,
                    f"its bytes are UTF-8, and data.encoding={self.form.encoding} would read other characters: save it in "
                    "the encoding of the others, or leave data.encoding out",
                )
                return
            try:
                raw = raw.decode(self.form.encoding).encode()
            except UnicodeDecodeError as error:
                found = f"0x{raw[error.start]:02X} is not {self.form.encoding} here" if raw else error.reason
                self.on_fault(name, f"byte {error.start}: {found}: correct data.encoding or the file")
                return
            except UnicodeEncodeError as error:
                self.on_fault(name, f"character {error.start}: half a surrogate pair, which is no text")
                return
        if self.form.separator is None:
            yield Document(name, raw)
        else:
            yield from self.separated(iter(raw.split(self.form.separator.encode())), name)

    def separated(self, parts: Iterator[bytes], name: str) -> Iterator[Document]:
        """Yields a document for each part of a text.

        A blank part after the last separator is left out.
        """
        part = next(parts)
        for number in itertools.count(1):
            following = next(parts, None)
            if following is None and number > 1 and not part.strip():
                return
            yield Document(f"{name}#{number}", part.removeprefix(b"\r").removeprefix(b"\n") if number > 1 else part)
            if following is None:
                return
            part = following


class _RowReader(_Reader):
    """Reader of the rows of one file as objects, rather than as documents."""

    def objects(self, rows: Iterator[tuple[str, Any]], name: str) -> Iterator[Any]:
        """Yields (name:row, row) of each row that is an object; reports the others."""
        for where, row in rows:
            if isinstance(row, dict):
                yield where, row
            else:
                self.on_fault(where, f"no object but {type(row).__name__}: a row has named values")


def _parts(chunks: Iterator[bytes], separator: bytes) -> Iterator[bytes]:
    """Yields the bytes between separators, as `bytes.split` does, one part in memory at a time."""
    waiting = bytearray()
    for chunk in chunks:
        # the bytes before `start` have been searched
        start = max(0, len(waiting) - len(separator) + 1)
        waiting += chunk
        while (found := waiting.find(separator, start)) >= 0:
            yield bytes(waiting[:found])
            del waiting[: found + len(separator)]
            start = 0
    yield bytes(waiting)


def _is_utf8(raw: bytes) -> bool:
    """Returns whether bytes are valid UTF-8 with at least one character beyond ASCII.

    Text in another encoding passes by chance, less likely with each letter beyond ASCII.
    """
    if raw.isascii():
        return False
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
