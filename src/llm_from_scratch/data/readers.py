"""One file -> its documents: texts, tables of texts, compressed files, archives, and archives within archives.

    book.txt                                  one document: book.txt
    rows.jsonl.zst                            one a line: rows.jsonl.zst:1, rows.jsonl.zst:2, …
    rows.parquet                              one a row: rows.parquet:1, …
    rows.csv rows.tsv                         one a row below the line of names, named after its first line: rows.csv:2, …
    rows.json                                 one an item of a list, of objects or of strings: rows.json:1, …
    urlsf_subset00.tar                        one a text in it, at any depth: OpenWebText's archives hold .xz files,
      urlsf_subset00-1_data.xz                each of which is a compressed tar:
        0000001-abc.txt                       urlsf_subset00.tar/urlsf_subset00-1_data.xz/0000001-abc.txt

An archive is read like a folder: its text files, tables and archives, without hidden files. Everything that is not read is
told to `on_skip`, every document that is no text to `on_fault`. Everything streams; nothing is written, so no name in an
archive can lead anywhere. What a stranger's file could do to this machine is bounded by
the numbers below; what is cut off or damaged is refused as far as its format has checks: a plain tar has none for the
contents of its members, gzip, xz, bzip2 have them, zstd and parquet where their writer put them in.
"""

import bz2
import codecs
import csv
import hashlib
import io
import itertools
import json
import lzma
import re
import tarfile
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llm_from_scratch.errors import UserError, missing_extra
from llm_from_scratch.files import open_regular, sha256

TEXT_SUFFIXES = {".txt", ".text", ".md", ".markdown", ".rst"}
COMPRESSED_SUFFIXES = {".gz", ".xz", ".bz2", ".zst"}
SHORT_SUFFIXES = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2"}
OTHER_SUFFIXES = {".jsonl", ".parquet", ".tar", *COMPRESSED_SUFFIXES, *SHORT_SUFFIXES}
# Tables that are read where data.path names them; in a folder or an archive such a file can be anything, notes or metadata.
NAMED_SUFFIXES = {".csv", ".tsv", ".json", ".ndjson"}
KINDS = {"ndjson": "jsonl"} | {kind: kind for kind in ("jsonl", "json", "csv", "tsv", "parquet", "tar")}
DELIMITERS = {"csv": ",;\t", "tsv": "\t"}  # the first by which the first line names the column

CHUNK = 2**16  # bytes
SHA256_DIGITS = 64
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
HEADER_LINES = 100  # of the row that names the columns of a table in CSV
WITHOUT_TEXT = 1000  # rows of a table of JSON objects, from the first, before the column is known to be wrong
MAX_COLUMNS = 100  # names of columns of a table of JSON objects that are remembered
COLUMN, HIDDEN = "a column beside data.column", "hidden"
OTHER_NAME = "no name of a text, a table or an archive"


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
    on_progress: Callable[[int], object] = lambda count: None

    def spend(self, count: int, name: str) -> None:
        self.expanded += count
        if self.expanded > ALLOWANCE + MAX_RATIO * self.read:
            raise UserError(
                f"{name}: a decompression bomb: {self.expanded:,} bytes came out of {self.read:,}; if you trust it, unpack it"
            )


OnProgress = Callable[[int], object]  # is called with the bytes of the input as they are read
OnFault = Callable[[str, str], object]  # (document, problem): a document that is no text
OnSkip = Callable[[str, str], object]  # (file or member, why): it is not read


def no_progress(count: int) -> None:
    """Nobody watches the progress."""


def refuse(name: str, problem: str) -> None:
    """The first document that is no text ends the reading."""
    raise UserError(f"{name}: {problem}")


@dataclass(frozen=True)
class Format:
    """How the files of a corpus are to be read."""

    column: str = "text"  # the text of a row; a.b is b within a, where no column is called a.b
    encoding: str = "utf-8"  # of texts and of the tables that are texts
    separator: str | None = None  # stands between the documents of one text file


PLAIN_FORMAT = Format()


def is_plain(name: str) -> bool:
    """Whether a file of that name is one document as it stands."""
    compression, kind = _kind(name)
    return compression is None and kind == "text"


def read_documents(
    path: Path,
    name: str,
    form: Format | str = "text",
    on_progress: OnProgress = no_progress,
    *,
    checksum: str = "",
    on_fault: OnFault = refuse,
    on_skip: OnSkip = lambda name, why: None,
) -> Iterator[Document]:
    """The documents of the file at `path`, one in memory at a time, in the file's order.

    Args:
        path: any regular file; its name says its kind, and one that says nothing is a text.
        name: what it is called in the documents' names and in messages.
        form: how it is to be read; a string is the column of a table.
        on_progress: is called with the number of further bytes of the file that have been passed.
        checksum: the sha256 that the bytes must have which are read here, or "SIZE TIME" of the file; "" accepts any.
        on_fault: hears of each row, line or member that is no text; the reading goes on behind it.
        on_skip: hears of each member and column that is not read.

    Raises:
        UserError: in one line that names the file and the member, line or row: the file cannot be read, is cut off or
            damaged, would do harm, lacks the column, needs a library that is not installed, or was changed meanwhile.
    """
    form = Format(form) if isinstance(form, str) else form
    reader = _Reader(form, _Budget(on_progress=on_progress), on_fault, on_skip)
    compression, kind = _kind(name)
    if kind == "parquet" and compression is None:
        verify_file(path, checksum)
        before = _stamp(path)
        with _opened(path) as file:
            yield from _parquet(file, path, name, reader)
        verify_file(path, before)
        return
    if kind == "text" and compression is None:
        raw = read_file(path)
        on_progress(len(raw))
        compare_checksum(path, checksum, hashlib.sha256(raw).hexdigest())
        documents = reader.texts(raw, name)
        del raw  # it is as long as the text, and this generator lives as long as its document
        yield from documents
        return
    digest = hashlib.sha256()
    chunks, found = _from_disk(path, reader.budget, digest), False
    for document in reader.documents(chunks, name, depth=0):
        found = True
        yield document
    for _ in chunks:
        pass
    compare_checksum(path, checksum, digest.hexdigest())
    if not found and kind in ("text", "tar"):
        raise UserError(f"{name}: an archive without texts ({', '.join(sorted(TEXT_SUFFIXES | OTHER_SUFFIXES))})")


class ChangedFileError(UserError):
    """A file is another one than when its checksum was computed: what was made of it would have the wrong name."""


def verify_file(path: Path, checksum: str) -> None:
    """Raises UserError where a file is another one than when its checksum (`read_documents`) was computed."""
    if checksum:
        compare_checksum(path, checksum, sha256(path) if len(checksum) == SHA256_DIGITS else "")


def compare_checksum(path: Path, checksum: str, found: str) -> None:
    """Raises ChangedFileError where the bytes that were read have another sha256, `found`, than they should."""
    if len(checksum) != SHA256_DIGITS:
        found = _stamp(path)
    if checksum not in ("", found):
        raise ChangedFileError(f"{path}: it was changed while it was prepared: start again")


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def read_file(path: Path) -> bytes:
    """All bytes of a regular file. UserError: it cannot be read."""
    with _opened(path) as file:
        return file.read()


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    try:
        with open_regular(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _kind(name: str) -> tuple[str | None, str]:
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


def _from_disk(path: Path, budget: _Budget, digest: Any) -> Iterator[bytes]:
    with _opened(path) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            budget.read += len(chunk)
            budget.on_progress(len(chunk))
            yield chunk


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
    return missing_extra(f"{name}: reading it needs {library}", "openwebtext")


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

    form: Format
    budget: _Budget
    on_fault: OnFault
    on_skip: OnSkip

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
                if any(part.startswith(".") for part in member.split("/")):
                    self.on_skip(f"{name}/{member}", HIDDEN)
                elif not member.lower().endswith(tuple(TEXT_SUFFIXES | OTHER_SUFFIXES)):
                    self.on_skip(f"{name}/{member}", OTHER_NAME)
                else:
                    yield from self.documents(content, f"{name}/{member}", depth + 1)
        elif kind == "parquet":
            raise UserError(f"{name}: a parquet file cannot be read within another file: unpack it")
        elif kind == "text":
            raw = _file(chunks).read(MAX_DOCUMENT + 1)
            if len(raw) > MAX_DOCUMENT:
                self.on_fault(name, f"a document above {MAX_DOCUMENT:,} bytes: unpack it, and it is read whole")
            else:
                yield from self.texts(raw, name)
        else:
            file = _file(_as_utf8(chunks, self.form.encoding))
            if file.peek(2).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise UserError(
                    f"{name}: byte 0: a UTF-16 byte order mark: save the file as UTF-8, or say data.encoding=utf-16"
                )
            if kind in DELIMITERS:
                yield from self.records(file, name, DELIMITERS[kind])
            else:
                yield from (self.lines if kind == "jsonl" else self.items)(file, name)

    def texts(self, raw: bytes, name: str) -> Iterator[Document]:
        """A text as one document, or as those between separators, in UTF-8."""
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
            return
        parts = raw.split(self.form.separator.encode())
        if len(parts) > 1 and not parts[-1].strip():
            parts.pop()  # the last separator ends a document
        for number, part in enumerate(parts, 1):
            yield Document(f"{name}#{number}", part.removeprefix(b"\r").removeprefix(b"\n") if number > 1 else part)

    def lines(self, file: io.BufferedReader, name: str) -> Iterator[Document]:
        """One document a line of JSON; empty lines count, and are passed over."""
        yield from self.objects(self._parsed_lines(file, name), name)

    def _parsed_lines(self, file: io.BufferedReader, name: str) -> Iterator[tuple[str, Any]]:
        """The place and the value of each line that holds an object of JSON; the others are faults."""
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
        """One document an item of a JSON list; a file that begins with an object has one object a line."""
        head = file.peek(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
        if head.startswith(b"{"):
            yield from self.lines(file, name)
            return
        rows = ((f"{name}:{number}", item) for number, item in enumerate(self._list_items(file, name), 1))
        yield from self.objects(rows, name)

    def _list_items(self, file: io.BufferedReader, name: str) -> Iterator[Any]:
        """The items of a JSON list, one in memory at a time."""
        decode = codecs.getincrementaldecoder("utf-8")().decode
        parse = json.JSONDecoder().raw_decode
        space = re.compile(r"[ \t\r\n]*")
        buffer, start, ended = "", 0, False

        def more() -> None:
            """Reads as much again as is waiting, so that a long item is not tried too often."""
            nonlocal buffer, start, ended
            chunk = file.read(max(CHUNK, len(buffer) - start))
            ended = not chunk
            try:
                buffer, start = buffer[start:] + decode(chunk, ended), 0
            except UnicodeDecodeError as error:
                raise UserError(f"{name}: {self._bad_byte(error)}") from None

        def sign() -> str:
            """The next character that is no white space; "" at the end."""
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
                        if end < len(buffer) or ended:  # a number may go on
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
        """One document a row of a table of JSON objects, or the row itself where it is none.

        UserError: no row has a text under the column, which is a fault of the setting and not of each row.
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
        """One document a row of a table in CSV or TSV, whose first row names the columns."""
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
                yield line.decode("utf-8", "surrogateescape")  # `clean` names a byte that is not UTF-8

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
            elif row:  # an empty line is none
                self.on_fault(where, f"{len(row)} fields for {len(columns)} columns: quote those that hold {sign!r}")
        self._ignore(name, set(columns) - {self.form.column})

    def row(self, text: Any, where: str, columns: list[str]) -> Iterator[Document]:
        """The document of one row, where its text is one."""
        document = _row(text, where, self.form.column, columns)
        if isinstance(document, str):
            self.on_fault(where, document)
        else:
            yield document

    def _bad_byte(self, error: UnicodeDecodeError | None) -> str:
        """What is wrong with bytes that are not in the encoding, and what to do."""
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
    """The value of a key; `a.b` is b within a where no key is called a.b."""
    if column in row:
        return row[column]
    head, dot, rest = column.partition(".")
    inner = row.get(head)
    return _value(inner, rest) if dot and isinstance(inner, dict) else None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _row(text: Any, where: str, column: str, columns: list[str]) -> Document | str:
    """The document, or what is wrong with it."""
    if isinstance(text, bytes):
        raw = text  # of a table whose texts are stored as UTF-8
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


def _is_utf8(raw: bytes) -> bool:
    """Whether bytes are UTF-8 beyond ASCII: text in another encoding is so by a chance that falls with each letter."""
    if raw.isascii():
        return False
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _as_utf8(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The same text in UTF-8; what cannot be decoded becomes a byte that is not UTF-8, so that its row is named."""
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
    """The delimiter and the names of the columns: the first delimiter by which one of them is `column`, else the first of all.

    A name in quotes may have several lines.
    """
    header: list[str] = []
    columns: dict[str, list[str]] = {}
    for line in itertools.islice(lines, HEADER_LINES):
        header.append(line)
        columns = {}
        for sign in delimiters:
            with suppress(csv.Error):  # a quote is open still
                columns[sign] = next(csv.reader(header, delimiter=sign, strict=True), [])
        named = next((sign for sign, names in columns.items() if column in names), None)
        if named is not None:
            return named, columns[named]
        if len(columns) == len(delimiters):
            break
    return delimiters[0], columns.get(delimiters[0], header[:1])


def _parquet(opened: io.BufferedReader, path: Path, name: str, reader: _Reader) -> Iterator[Document]:
    """One document a row. The file is read from disk page by page; its metadata say beforehand what will come out."""
    try:
        from pyarrow import compute, large_binary, parquet, types
    except ImportError:
        raise _absent(name, "pyarrow") from None
    budget, column = reader.budget, reader.form.column
    budget.read = path.stat().st_size
    with _damaged(name):
        file = parquet.ParquetFile(opened, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True)
        columns = list(file.schema_arrow.names)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        expected = sum(max(0, part.total_uncompressed_size) for part in chunks if part.path_in_schema == column)
        field, *inner = [column] if column in columns else column.split(".")
        found = field in columns and (not inner or bool(expected))
        kind: Any = file.schema_arrow.field(field).type if found else None
        for key in inner if found else ():
            kind = kind.field(key).type
        if found and types.is_dictionary(kind):
            kind = kind.value_type
    if not found:
        raise UserError(f"{name}: no column {column!r}: data.column names the text, of {ascii(columns)[:200]}")
    if types.is_nested(kind) or types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind):
        raise UserError(
            f"{name}: no column of texts {column!r} but one of {str(kind)[:200]}: data.column names the text, of "
            f"{ascii(columns)[:200]}"
        )
    budget.spend(expected, name)
    reader._ignore(name, set(columns) - {field})
    rows = file.iter_batches(batch_size=ROWS, columns=[column], use_threads=False)
    number = 0
    while True:
        with _damaged(name):
            batch = next(rows, None)
            if batch is None:
                return
            values = batch.column(0)
            for key in inner:
                values = compute.struct_field(values, key)
            if types.is_dictionary(values.type):
                values = values.dictionary_decode()
            if types.is_string(values.type) or types.is_large_string(values.type):
                # As bytes: `clean` names those that are no UTF-8, where pyarrow would give up all rows.
                values = values.cast(large_binary())
            texts = values.to_pylist()
        budget.on_progress(budget.read * len(texts) // max(1, file.metadata.num_rows))
        for text in texts:
            number += 1
            for document in reader.row(text, f"{name}:{number}", columns):
                budget.spend(len(document.raw), name)  # a dictionary can repeat a long text in few bytes
                yield document
