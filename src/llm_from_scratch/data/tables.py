"""Readers of tables of texts, whose rows are documents.

rows.jsonl                                one document a line: rows.jsonl:1, rows.jsonl:2, …
rows.parquet                              one document a row: rows.parquet:1, …
rows.csv rows.tsv                         one document a row below the header: rows.csv:2, …
rows.json                                 one document an object or string: rows.json:1, …

"""

import codecs
import csv
import functools
import io
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_from_scratch.data.formats import COLUMN, MAX_COLUMNS, MAX_DOCUMENT, Document, Format, OnFault, OnSkip
from llm_from_scratch.data.streams import CHUNK, Budget, damaged, missing_library
from llm_from_scratch.errors import UserError, message_of

DELIMITERS = {"csv": ",;\t", "tsv": "\t"}  # the first that finds the column in the header is used
ROWS = 16  # rows of a Parquet file in memory at a time
HEADER_LINES = 100  # most lines of a CSV header, whose quoted names can span lines
# JSON objects without a text, from the first, after which the column is taken to be wrong
WITHOUT_TEXT = 1000


@dataclass(frozen=True)
class TableReader:
    """Reader of a table's documents from its bytes."""

    form: Format
    budget: Budget
    on_fault: OnFault
    on_skip: OnSkip

    def lines(self, file: io.BufferedReader, name: str) -> Iterator[Document]:
        """Yields one document for each line of JSON; empty lines are numbered, and skipped."""
        yield from self.objects(self._parsed_lines(file, name), name)

    def _parsed_lines(self, file: io.BufferedReader, name: str) -> Iterator[tuple[str, Any]]:
        """Yields (name:line, value) of each line that is a JSON object; reports other lines."""
        for number in itertools.count(1):
            line, where = file.readline(MAX_DOCUMENT + 1), f"{name}:{number}"
            if not line:
                break
            if len(line) > MAX_DOCUMENT:
                while line and not line.endswith(b"\n"):
                    line = file.readline(CHUNK)
                self.on_fault(where, f"a line above {MAX_DOCUMENT:,} bytes: split it")
                continue
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
            except UnicodeDecodeError as error:
                self.on_fault(where, self._bad_byte(error))
                continue
            except (ValueError, RecursionError) as error:
                self.on_fault(where, f"no JSON ({_line(error)}): one object a line is expected")
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                self.on_fault(where, f'no object: a line such as {{"{self.form.column}": "…"}} is expected')

    def items(self, file: io.BufferedReader, name: str) -> Iterator[Document]:
        """Yields one document for each item of a JSON list.

        A file that begins with an object is read as one object a line.
        """
        head = file.peek(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
        if head.startswith(b"{"):
            yield from self.lines(file, name)
            return
        rows = ((f"{name}:{number}", item) for number, item in enumerate(self._list_items(file, name), 1))
        yield from self.objects(rows, name)

    def _list_items(self, file: io.BufferedReader, name: str) -> Iterator[Any]:
        """Yields the items of a JSON list, one in memory at a time."""
        decode = codecs.getincrementaldecoder("utf-8")().decode
        parse = json.JSONDecoder().raw_decode
        space = re.compile(r"[ \t\r\n]*")
        buffer, start, ended = "", 0, False

        def more() -> None:
            """Reads as much again as is unparsed, so that a long item is not parsed too often."""
            nonlocal buffer, start, ended
            chunk = file.read(max(CHUNK, len(buffer) - start))
            ended = not chunk
            try:
                buffer, start = buffer[start:] + decode(chunk, ended), 0
            except UnicodeDecodeError as error:
                raise UserError(f"{name}: {self._bad_byte(error)}") from None

        def sign() -> str:
            """Returns the next character that is not white space, unread; "" at the end."""
            nonlocal start
            while True:
                start = space.match(buffer, start).end()  # type: ignore[union-attr]
                if start < len(buffer) or ended:
                    return buffer[start : start + 1]
                more()

        expected = f"{name}: a list of objects or of strings, or one object a line, is expected"
        more()
        buffer = buffer.removeprefix("\ufeff")
        if sign() != "[":
            raise UserError(f"{expected}: convert the file to .jsonl")
        start += 1
        if sign() == "]":
            start += 1
        else:
            for number in itertools.count(1):
                sign()
                while True:
                    try:
                        item, end = parse(buffer, start)
                        if end < len(buffer) or ended:  # at the buffer's end, a number may go on
                            break
                    except (ValueError, RecursionError) as error:
                        if ended or isinstance(error, RecursionError):
                            raise UserError(f"{name}:{number}: no JSON ({_line(error)}): {expected}") from None
                    if len(buffer) - start > 2 * MAX_DOCUMENT:
                        raise UserError(f"{name}:{number}: an item above {MAX_DOCUMENT:,} bytes, or no JSON: split it")
                    more()
                start = end
                yield item
                following = sign()
                start += 1
                if following == "]":
                    break
                if following != ",":
                    raise UserError(f"{name}:{number}: no comma behind it: {expected}")
        if sign():
            raise UserError(f"{name}: there is text behind the list: {expected}")

    def objects(self, rows: Iterator[tuple[str, Any]], name: str) -> Iterator[Document]:
        """Yields one document for each row, a JSON object or a text.

        Raises:
            UserError: when none of the first WITHOUT_TEXT objects has a value in the column: then
                the setting is wrong, rather than each row.
        """
        ignored: set[str] = set()
        waiting: list[tuple[str, Any, list[str]]] | None = []  # rows before the first text
        for where, row in rows:
            if not isinstance(row, dict):
                yield from self.row(row, where, [])
                continue
            ignored.update(self._others(row) if len(ignored) < MAX_COLUMNS else ())
            text = _value(row, self.form.column)
            if waiting is None:
                yield from self.row(text, where, list(row))
                continue
            waiting.append((where, text, list(row)))
            if text is not None:
                for one in waiting:
                    yield from self.row(one[1], one[0], one[2])
                waiting = None
            elif len(waiting) == WITHOUT_TEXT:
                break
        if waiting:
            keys = list(dict.fromkeys(key for _, _, keys in waiting for key in keys))
            raise UserError(
                f"{name}: no row holds a text under {self.form.column!r}: data.column names the text, of {ascii(keys)[:200]}"
            )
        self._ignore(name, ignored)

    def records(self, file: io.BufferedReader, name: str, delimiters: str) -> Iterator[Document]:
        """Yields one document for each row of a CSV or TSV table below its header.

        A row that spans several lines is named after the first of them.
        """
        csv.field_size_limit(MAX_DOCUMENT)
        line_number = 0

        def lines() -> Iterator[str]:
            nonlocal line_number
            while line := file.readline(MAX_DOCUMENT + 1):
                line_number += 1
                if len(line) > MAX_DOCUMENT:
                    raise UserError(f"{name}:{line_number}: a line above {MAX_DOCUMENT:,} bytes: split it")
                if line_number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                # keeps bytes that are not UTF-8: `clean` reports them
                yield line.decode("utf-8", "surrogateescape")

        source = lines()
        sign, columns = _columns(source, self.form.column, delimiters)
        if self.form.column not in columns:
            raise UserError(
                f"{name}: no column {self.form.column!r} in its first line: data.column names the text, of "
                f"{ascii(columns)[:200]}"
            )
        if (count := columns.count(self.form.column)) > 1:
            raise UserError(
                f"{name}: {count} columns are called {self.form.column!r}: rename those that are not the text"
            )
        place = columns.index(self.form.column)
        table = csv.reader(source, delimiter=sign, strict=True)
        while True:
            where = f"{name}:{line_number + 1}"
            try:
                row = next(table, None)
            except csv.Error as error:
                self.on_fault(
                    where, f"no row of a table ({_line(error)}): quote the field and double the marks within it"
                )
                continue
            if row is None:
                break
            if len(row) == len(columns):
                if NO_BYTE in row[place] and self.form.encoding != "utf-8":
                    self.on_fault(where, self._bad_byte(None))
                else:
                    yield Document(where, row[place].encode("utf-8", "surrogateescape"))
            elif row:  # an empty line is no row
                self.on_fault(where, f"{len(row)} fields for {len(columns)} columns: quote those that hold {sign!r}")
        self._ignore(name, set(columns) - {self.form.column})

    def row(self, text: Any, where: str, columns: list[str]) -> Iterator[Document]:
        """Yields the document of one row; reports a fault where its value is not a text."""
        document = _row(text, where, self.form.column, columns)
        if isinstance(document, str):
            self.on_fault(where, document)
        else:
            yield document

    def _bad_byte(self, error: UnicodeDecodeError | None) -> str:
        """Returns the fault message for bytes that are not in the encoding, with advice.

        `error` is None where the byte's position is unknown.
        """
        if self.form.encoding != "utf-8" or error is None:
            return f"a byte that is not {self.form.encoding}: correct data.encoding or the file"
        return (
            f"byte {error.start}: 0x{error.object[error.start]:02X} is not UTF-8 here: save the file as UTF-8, or name its "
            "encoding (data.encoding=cp1252, latin-1, …)"
        )

    def _others(self, row: dict[str, Any]) -> set[str]:
        column = self.form.column
        return {key for key in row if key != (column if column in row else column.partition(".")[0])}

    def _ignore(self, name: str, columns: set[str]) -> None:
        for column in sorted(columns):
            self.on_skip(column, COLUMN)


def _value(row: dict[str, Any], column: str) -> Any:
    """Returns the value of a column in a row, or None without one.

    The column `a.b` is b within a where no key is called a.b.
    """
    if column in row:
        return row[column]
    head, dot, rest = column.partition(".")
    inner = row.get(head)
    return _value(inner, rest) if dot and isinstance(inner, dict) else None


def _line(error: BaseException) -> str:
    return message_of(error, 200)


def _row(text: Any, where: str, column: str, columns: list[str]) -> Document | str:
    """Returns the document of a row, or the message of its fault."""
    if isinstance(text, bytes):
        raw = text  # from a table that stores text as UTF-8 bytes
    elif not isinstance(text, str):
        found = "nothing" if text is None else type(text).__name__
        of = f", of {ascii(columns)[:200]}" if columns else ""
        return f"no text but {found} under {column!r}: data.column names the text{of}"
    else:
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            return f"character {error.start}: half a surrogate pair, which is no text"
    if len(raw) > MAX_DOCUMENT:
        return f"a document above {MAX_DOCUMENT:,} bytes: split it"
    return Document(where, raw)


def as_utf8(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yields the same text in UTF-8.

    Bytes that cannot be decoded become a byte that is not UTF-8, so that the fault names their row.
    """
    if encoding == "utf-8":
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)(NO_TEXT)
    for chunk in chunks:
        yield decoder.decode(chunk).encode("utf-8", "surrogateescape")
    yield decoder.decode(b"", True).encode("utf-8", "surrogateescape")


NO_TEXT = "llm_from_scratch.no_text"
NO_BYTE = "\udcff"  # in UTF-8 with surrogateescape, a byte that no text holds
codecs.register_error(NO_TEXT, lambda error: (NO_BYTE, error.end))  # type: ignore[attr-defined]


def _columns(lines: Iterator[str], column: str, delimiters: str) -> tuple[str, list[str]]:
    """Returns the delimiter and the column names of a CSV header.

    The delimiter is the first that yields a column called `column`, else the first of `delimiters`.

    A name in quotes may span several lines.
    """
    header: list[str] = []
    columns: dict[str, list[str]] = {}
    for line in itertools.islice(lines, HEADER_LINES):
        header.append(line)
        columns = {}
        for sign in delimiters:
            with suppress(csv.Error):  # a quote is still open
                columns[sign] = next(csv.reader(header, delimiter=sign, strict=True), [])
        named = next((sign for sign, names in columns.items() if column in names), None)
        if named is not None:
            return named, columns[named]
        if len(columns) == len(delimiters):
            break
    return delimiters[0], columns.get(delimiters[0], header[:1])


class _ParquetTable:
    """A Parquet file that is read from disk page by page.

    Attributes:
        library: a context in which an error of the library is a UserError about the file.
        file: the file, as pyarrow has it.
        columns: the names of its columns.
        sizes: (dotted name, decompressed bytes) of each column of each group of rows.

    Raises:
        UserError: when pyarrow is not installed, or the file is damaged.
    """

    def __init__(self, opened: io.BufferedReader, path: Path, name: str, reader: TableReader) -> None:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            raise missing_library(name, "pyarrow") from None
        self.library = functools.partial(damaged, name, ArrowException, OSError, UnicodeDecodeError)
        reader.budget.read = path.stat().st_size
        with self.library():
            self.file = parquet.ParquetFile(
                opened, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True
            )
            self.columns: list[str] = list(self.file.schema_arrow.names)
            groups = [self.file.metadata.row_group(i) for i in range(self.file.metadata.num_row_groups)]
            chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
            self.sizes = [(part.path_in_schema, part.total_uncompressed_size) for part in chunks]

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Yields ROWS rows at a time of some columns."""
        batches = self.file.iter_batches(batch_size=ROWS, columns=columns, use_threads=False)
        while True:
            with self.library():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def parquet_rows(opened: io.BufferedReader, path: Path, name: str, reader: TableReader) -> Iterator[Document]:
    """Yields one document for each row of a Parquet file, read from disk page by page.

    Its metadata give the decompressed size, which is checked against the budget beforehand.
    """
    table = _ParquetTable(opened, path, name, reader)
    from pyarrow import compute, large_binary, types

    library, file, columns = table.library, table.file, table.columns
    budget, column = reader.budget, reader.form.column
    sizes = [size for place, size in table.sizes if place == column]
    field, *inner = [column] if column in columns else column.split(".")
    with library():
        kind: Any = file.schema_arrow.field(field).type if field in columns and (sizes or not inner) else None
        for key in inner:
            kind = kind.field(key).type if kind is not None and types.is_struct(kind) else None
        if kind is not None and types.is_dictionary(kind):
            kind = kind.value_type
    if kind is None:
        raise UserError(f"{name}: no column {column!r}: data.column names the text, of {ascii(columns)[:200]}")
    if types.is_nested(kind) or types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind):
        raise UserError(
            f"{name}: no column of texts {column!r} but one of {str(kind)[:200]}: data.column names the text, of "
            f"{ascii(columns)[:200]}"
        )
    budget.spend(sum(max(0, size) for size in sizes), name)
    reader._ignore(name, set(columns) - {field})
    number = 0
    for batch in table.batches([column]):
        with library():
            texts = _texts(batch.column(0), inner, compute, large_binary(), types)
        budget.on_progress(budget.read * len(texts) // max(1, file.metadata.num_rows))
        for text in texts:
            number += 1
            for document in reader.row(text, f"{name}:{number}", columns):
                # a dictionary can repeat a long text in few bytes
                budget.spend(len(document.raw), name)
                yield document


def parquet_objects(
    opened: io.BufferedReader, path: Path, name: str, reader: TableReader, wanted: frozenset[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (name:row, row) of each row of a Parquet file, with those of the `wanted` columns.

    Raises:
        UserError: when the file is damaged, too large when decompressed, or has none of them.
    """
    table = _ParquetTable(opened, path, name, reader)
    chosen = [column for column in table.columns if column in wanted]
    if not chosen:
        raise UserError(
            f"{name}: has none of the columns {', '.join(sorted(wanted))}, but {ascii(table.columns)[:200]}"
        )
    reader.budget.spend(sum(max(0, size) for place, size in table.sizes if place.split(".")[0] in chosen), name)
    number = 0
    for batch in table.batches(chosen):
        with table.library():
            objects = batch.to_pylist()
        for row in objects:
            number += 1
            yield f"{name}:{number}", row


def _texts(values: Any, inner: list[str], compute: Any, large_binary: Any, types: Any) -> list[Any]:
    """Returns the rows of a batch's column, or of the field `inner` of it, as Python values."""
    for key in inner:
        values = compute.struct_field(values, key)
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if types.is_string(values.type) or types.is_large_string(values.type):
        # As bytes: `clean` reports those that are not UTF-8, where pyarrow would fail for all rows.
        values = values.cast(large_binary)
    return values.to_pylist()
