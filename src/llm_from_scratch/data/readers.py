"""One file -> its documents: texts, tables of texts, compressed files, archives, and archives within archives.

    book.txt                                  one document: book.txt
    rows.jsonl.zst                            one a line: rows.jsonl.zst:1, rows.jsonl.zst:2, …
    rows.parquet                              one a row: rows.parquet:1, …
    urlsf_subset00.tar                        one a text in it, at any depth: OpenWebText's archives hold .xz files,
      urlsf_subset00-1_data.xz                each of which is a compressed tar:
        0000001-abc.txt                       urlsf_subset00.tar/urlsf_subset00-1_data.xz/0000001-abc.txt

An archive is read like a folder: its text files, tables and archives, without hidden files. Everything streams; nothing
is written, so no name in an archive can lead anywhere. What a stranger's file could do to this machine is bounded by
the numbers below; what is cut off or damaged is refused as far as its format has checks: a plain tar has none for the
contents of its members, gzip, xz, bzip2 have them, zstd and parquet where their writer put them in.
"""

import bz2
import codecs
import io
import itertools
import json
import lzma
import re
import tarfile
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llm_from_scratch.errors import UserError

TEXT_SUFFIXES = {".txt", ".text", ".md", ".markdown", ".rst"}
COMPRESSED_SUFFIXES = {".gz", ".xz", ".bz2", ".zst"}
SHORT_SUFFIXES = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2"}
OTHER_SUFFIXES = {".jsonl", ".parquet", ".tar", *COMPRESSED_SUFFIXES, *SHORT_SUFFIXES}

CHUNK = 2**16  # bytes
# Bytes of a document that is not a file of its own. The longest novels have 10 MB; and a line of JSON can take 30 times
# its length in memory.
MAX_DOCUMENT = 16 * 2**20
MAX_DEPTH = 3  # archives within archives; OpenWebText has two
# Everything that comes out of a file, at all depths together, may be so many times as long as what was read of it …
MAX_RATIO = 100  # English text: 3 to 6; a tar of short texts: up to 20; zeros: 1,000 (gzip) to 30,000 (zstd)
ALLOWANCE = 64 * 2**20  # … beyond so many bytes
MAX_WINDOW = 2**27  # bytes that a decompressor looks back: xz -9 has 2**26, zstd --ultra --long=27 has this
MAX_EXTENSION = 2**20  # bytes of a long name or pax header before a tar's member
MAX_NAME = 4096  # characters: Linux's own limit
BLOCK = tarfile.BLOCKSIZE  # 512 bytes
ROWS = 16  # of a parquet file, in memory at a time


@dataclass(frozen=True)
class Document:
    """One text as it was found: `name` is the same on every machine, `raw` its bytes."""

    name: str
    raw: bytes


@dataclass
class _Budget:
    """What one file has brought so far, in bytes: `read` from the disk, `expanded` by decompression."""

    read: int = 0
    expanded: int = 0
    told: Callable[[int], object] = lambda count: None  # progress: hears of the bytes of the file as they are passed

    def spend(self, count: int, name: str) -> None:
        self.expanded += count
        if self.expanded > ALLOWANCE + MAX_RATIO * self.read:
            raise UserError(
                f"{name}: a decompression bomb: {self.expanded:,} bytes came out of {self.read:,}; if you trust it, unpack it"
            )


def is_plain(name: str) -> bool:
    """Whether a file of that name is one document as it stands."""
    compression, kind = _kind(name)
    return compression is None and kind == "text"


def read_documents(
    path: Path, name: str, column: str, told: Callable[[int], object] = lambda count: None
) -> Iterator[Document]:
    """The documents of the file at `path`, one in memory at a time, in the file's order.

    Args:
        path: any file; its name says what it is, and one that says nothing is a text.
        name: what it is called in the documents' names and in messages.
        column: which key of a .jsonl line and which column of a .parquet file is the text.
        told: hears how many more bytes of the file have been passed, for showing progress.

    Raises:
        UserError: in one line that names the file and the member, line or row: the file cannot be read, is cut off or
            damaged, would do harm, lacks the column, or needs a library that is not installed.
    """
    if is_plain(name):
        raw = read_file(path)
        told(len(raw))
        yield Document(name, raw)
        return
    budget = _Budget(told=told)
    compression, kind = _kind(name)
    if kind == "parquet" and compression is None:
        yield from _parquet(path, name, column, budget)
        return
    found = False
    for document in _Reader(column, budget).documents(_from_disk(path, budget), name, depth=0):
        found = True
        yield document
    if not found and kind != "jsonl":
        raise UserError(f"{name}: an archive without texts ({', '.join(sorted(TEXT_SUFFIXES | OTHER_SUFFIXES))})")


def read_file(path: Path) -> bytes:
    """All bytes of a file. UserError: it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _kind(name: str) -> tuple[str | None, str]:
    """How a file of that name is compressed, and what it holds: text, jsonl, parquet or tar."""
    left = name.lower()
    for short, long in SHORT_SUFFIXES.items():
        if left.endswith(short):
            left = left.removesuffix(short) + long
    compression = next((suffix for suffix in COMPRESSED_SUFFIXES if left.endswith(suffix)), "")
    left = left.removesuffix(compression)
    if compression and left.endswith(tuple(COMPRESSED_SUFFIXES)):
        raise UserError(f"{name}: compressed twice: expand it once")
    kind = next((kind for kind in ("jsonl", "parquet", "tar") if left.endswith(f".{kind}")), "text")
    return compression[1:] or None, kind


# ---------------------------------------------------------------------------------------------------------- streams
class _Stream(io.RawIOBase):
    """Chunks of bytes as a file that can be read once, from start to end."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.rest:
            chunk = next(self.chunks, None)
            if chunk is None:
                return 0
            self.rest = memoryview(chunk)
        count = min(len(buffer), len(self.rest))
        buffer[:count], self.rest = self.rest[:count], self.rest[count:]
        return count


def _file(chunks: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Stream(chunks), CHUNK)


def _from_disk(path: Path, budget: _Budget) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                budget.read += len(chunk)
                budget.told(len(chunk))
                yield chunk
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _part(file: io.BufferedReader, size: int, name: str) -> Iterator[bytes]:
    """The next `size` bytes."""
    while size:
        chunk = file.read(min(size, CHUNK))
        if not chunk:
            raise UserError(f"{name}: cut off: {size:,} bytes are missing; get the file anew")
        size -= len(chunk)
        yield chunk


# ---------------------------------------------------------------------------------------------------- decompression
class _Decoder(Protocol):
    """What lzma's and bz2's decompressors do."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self.inflate, self.needs_input = zlib.decompressobj(wbits=31), True  # 31: with gzip's header and checksum

    @property
    def eof(self) -> bool:
        return self.inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self.inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self.inflate.decompress(self.inflate.unconsumed_tail + data, max_length)
        self.needs_input = not self.inflate.unconsumed_tail and len(out) < max_length
        return out


class _Zstd:
    STEP = 2**10  # bytes of input at a time: 4 of them give 128 KiB at most, so that 32 MiB come out at most

    def __init__(self) -> None:
        import zstandard

        self.frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
        self.pending = memoryview(b"")

    @property
    def eof(self) -> bool:
        return self.frame.eof

    @property
    def needs_input(self) -> bool:
        return not self.pending

    @property
    def unused_data(self) -> bytes:
        return self.frame.unused_data + bytes(self.pending)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self.pending = memoryview(data)
        step, self.pending = self.pending[: self.STEP], self.pending[self.STEP :]
        return self.frame.decompress(step)


DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gz": _Gzip,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW + 2**20),
    "bz2": bz2.BZ2Decompressor,
    "zst": _Zstd,
}


def _absent(name: str, library: str) -> UserError:
    return UserError(f"{name}: reading it needs {library}: pip install 'llm-from-scratch[openwebtext]'")


@contextmanager
def _damaged(name: str) -> Iterator[None]:
    """What a library says of a damaged file, each in errors of its own, as one line for the user."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{name}: damaged ({' '.join(str(error).split())[:200]}); get the file anew") from None


def _expanded(chunks: Iterator[bytes], compression: str, name: str, budget: _Budget) -> Iterator[bytes]:
    """The content of one or more compressed streams, one behind the other; each must be whole, with nothing in between.

    Python's own LZMAFile and BZ2File pass over what stands behind a stream.
    """
    decoder: _Decoder | None = None
    ended = False
    for data in chunks:
        while data:
            if decoder is None:
                if ended and compression in ("gz", "xz"):
                    data = data.lstrip(b"\0")  # padding, which these two allow
                    if not data:
                        break
                try:
                    decoder = DECODERS[compression]()
                except ImportError:
                    raise _absent(name, "zstandard") from None
            while True:
                with _damaged(name):
                    out = decoder.decompress(data, CHUNK)
                data = b""
                if out:
                    budget.spend(len(out), name)
                    yield out
                if decoder.eof or decoder.needs_input:
                    break
            if decoder.eof:
                data, decoder, ended = decoder.unused_data, None, True
    if decoder is not None or not ended:
        raise UserError(f"{name}: cut off: its {compression} data have no end; get the file anew")


# ------------------------------------------------------------------------------------------------------------- tar
# Python's tarfile reads an archive that is cut off between two members as complete, follows sparse maps and chains of
# headers without a limit, and keeps every member in memory: of it, only the parser of one header block is used.
EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
)
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)  # TarInfo.isreg() has sparse files too
REFUSED = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]+)=")


def _header(block: bytes) -> tarfile.TarInfo | None:
    """The header of a member; None is the block of zeros that ends an archive. TarError: neither."""
    return tarfile.TarInfo.frombuf(block, "utf-8", "replace") if block.strip(b"\0") else None


def _is_tar(head: bytes) -> bool:
    try:
        _header(head[:BLOCK])
    except tarfile.TarError:
        return False
    return len(head) >= BLOCK


def _members(file: io.BufferedReader, archive: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name and content of each regular file; what its reader leaves of the content is passed over."""
    path: str | None = None  # what an extension said of the next member
    size: int | None = None
    while True:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise UserError(f"{archive}: cut off: a tar ends with a block of zeros, and this one does not; get it anew")
        with _damaged(archive):
            header = _header(block)
        if header is None:
            break
        if header.size < 0:
            raise UserError(f"{archive}: damaged (a member of negative size); get the file anew")
        if header.type in EXTENSIONS:
            if header.size > MAX_EXTENSION:
                raise UserError(f"{archive}: a header of {header.size:,} bytes; {MAX_EXTENSION:,} are allowed")
            data = b"".join(_part(file, header.size, archive))
            _pass_over(_part(file, -header.size % BLOCK, archive))
            if header.type == tarfile.GNUTYPE_LONGNAME:
                path = data.rstrip(b"\0").decode(errors="replace")
            elif header.type != tarfile.GNUTYPE_LONGLINK:
                records = _pax(data, archive)
                sparse = any(key.startswith("GNU.sparse") for key in records)
                if sparse or (header.type == tarfile.XGLTYPE and {"path", "size"} & records.keys()):
                    kind = "a sparse file" if sparse else "a name or size for all members"
                    raise UserError(f"{archive}: {kind} in a pax header, which is not read; pack the archive anew")
                path = records.get("path", path)
                if "size" in records:
                    if not re.fullmatch("[0-9]{1,20}", records["size"]):
                        raise UserError(f"{archive}: damaged (a pax header's size); get the file anew")
                    size = int(records["size"])
            continue
        name = _safe(header.name if path is None else path, archive)
        regular = header.type in REGULAR
        if not regular and not header.isdir():
            kind = REFUSED.get(header.type, "of an unknown kind")
            raise UserError(f"{archive}: the member {ascii(name)[:200]} is {kind}: pack the archive anew without it")
        if regular:
            if not name:
                raise UserError(f"{archive}: a member without a name: pack the archive anew without it")
            length = header.size if size is None else size
            content = _part(file, length, f"{archive}/{name}")
            yield name, content
            _pass_over(content)
            _pass_over(_part(file, -length % BLOCK, f"{archive}/{name}"))
        path = size = None
    if any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(CHUNK), b"")):
        raise UserError(f"{archive}: bytes behind the end of the archive: unpack it and pack it anew")


def _pass_over(chunks: Iterator[bytes]) -> None:
    for _ in chunks:
        pass


def _pax(data: bytes, archive: str) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE` of a pax header; the length counts all of a record, and its end of line."""
    records, start = {}, 0
    while start < len(data):
        match = PAX_RECORD.match(data, start)
        end = start + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise UserError(f"{archive}: damaged (a pax header); get the file anew")
        records[match[2].decode(errors="replace")] = data[match.end() : end - 1].decode(errors="replace")
        start = end
    return records


def _safe(name: str, archive: str) -> str:
    """The name of a member as a path below the archive, `./` left out. UserError: it leads elsewhere, or is no name."""
    what = f"{archive}: the member {ascii(name)[:200]}"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name) or ".." in parts:
        raise UserError(f"{what} leads out of the archive: pack the archive anew without it")
    if len(name) > MAX_NAME or any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
        raise UserError(f"{what} has a name with control characters, or too long a one: pack the archive anew")
    return "/".join(parts)


# -------------------------------------------------------------------------------------------------------- documents
@dataclass(frozen=True)
class _Reader:
    """From the bytes of one file, and of what is in it, to documents."""

    column: str
    budget: _Budget

    def documents(self, chunks: Iterator[bytes], name: str, depth: int) -> Iterator[Document]:
        """The documents of `name`, which lies within `depth` archives."""
        compression, kind = _kind(name)
        if compression is not None:
            chunks = _expanded(chunks, compression, name, self.budget)
            if kind == "text":
                head = b""
                for chunk in chunks:
                    head += chunk
                    if len(head) >= BLOCK:
                        break
                chunks = itertools.chain([head], chunks)
                kind = "tar" if _is_tar(head) else "text"
        if kind == "tar":
            if depth == MAX_DEPTH:
                raise UserError(f"{name}: archives more than {MAX_DEPTH} deep within each other: unpack the first")
            for member, content in _members(_file(chunks), name):
                hidden = any(part.startswith(".") for part in member.split("/"))
                if not hidden and member.lower().endswith(tuple(TEXT_SUFFIXES | OTHER_SUFFIXES)):
                    yield from self.documents(content, f"{name}/{member}", depth + 1)
        elif kind == "jsonl":
            yield from self.lines(_file(chunks), name)
        elif kind == "parquet":
            raise UserError(f"{name}: a parquet file cannot be read within another file: unpack it")
        else:
            raw = _file(chunks).read(MAX_DOCUMENT + 1)
            if len(raw) > MAX_DOCUMENT:
                raise UserError(f"{name}: a document above {MAX_DOCUMENT:,} bytes: unpack it, and it is read whole")
            yield Document(name, raw)

    def lines(self, file: io.BufferedReader, name: str) -> Iterator[Document]:
        """One document a line of JSON; empty lines count, and are passed over."""
        for number in itertools.count(1):
            line, where = file.readline(MAX_DOCUMENT + 1), f"{name}:{number}"
            if not line:
                return
            if len(line) > MAX_DOCUMENT:
                raise UserError(f"{where}: a line above {MAX_DOCUMENT:,} bytes: split it")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: no JSON ({error}): one object a line is expected") from None
            if not isinstance(row, dict):
                raise UserError(f'{where}: no object: a line such as {{"{self.column}": "…"}} is expected')
            yield _row(row.get(self.column), where, self.column, list(row))


def _row(text: Any, where: str, column: str, columns: list[str]) -> Document:
    if not isinstance(text, str):
        found = "nothing" if text is None else type(text).__name__
        raise UserError(
            f"{where}: no text but {found} under {column!r}: data.column names the text, of {ascii(columns)[:200]}"
        )
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: character {error.start}: half a surrogate pair, which is no text") from None
    if len(raw) > MAX_DOCUMENT:
        raise UserError(f"{where}: a document above {MAX_DOCUMENT:,} bytes: split it")
    return Document(where, raw)


def _parquet(path: Path, name: str, column: str, budget: _Budget) -> Iterator[Document]:
    """One document a row. The file is read from disk page by page; its metadata say beforehand what will come out."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise _absent(name, "pyarrow") from None
    try:
        opened = path.open("rb")
        budget.read = path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    with opened:
        with _damaged(name):
            file = parquet.ParquetFile(opened, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True)
            columns = list(file.schema_arrow.names)
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
            expected = sum(max(0, part.total_uncompressed_size) for part in chunks if part.path_in_schema == column)
        if column not in columns:
            raise UserError(f"{name}: no column {column!r}: data.column names the text, of {ascii(columns)[:200]}")
        budget.spend(expected, name)
        rows = file.iter_batches(batch_size=ROWS, columns=[column], use_threads=False)
        number = 0
        while True:
            with _damaged(name):
                batch = next(rows, None)
                texts = [] if batch is None else batch.column(0).to_pylist()
            if batch is None:
                return
            budget.told(budget.read * len(texts) // max(1, file.metadata.num_rows))
            for text in texts:
                number += 1
                document = _row(text, f"{name}:{number}", column, columns)
                budget.spend(len(document.raw), name)  # a dictionary can repeat a long text in few bytes
                yield document
