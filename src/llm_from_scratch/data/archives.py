"""The members of a tar archive, read as a stream.

Nothing is extracted to disk, so no member's name can overwrite a file.

A truncated or damaged archive is refused as far as the format has checks: a plain tar has none for
the contents of its members.

Of Python's `tarfile` only the parser of one header block is used: the module accepts an archive
that is cut off between two members, follows sparse maps and chains of headers without a limit, and
keeps a record of every member in memory.
"""

import io
import re
import tarfile
import unicodedata
from collections.abc import Iterator

from llm_from_scratch.data.streams import CHUNK, damaged, part_of
from llm_from_scratch.errors import UserError

MAX_EXTENSION = 2**20  # bytes of a long name or pax header before a tar's member
MAX_NAME = 4096  # characters; Linux's PATH_MAX
BLOCK = tarfile.BLOCKSIZE  # 512 bytes
EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
)
# `TarInfo.isreg()` is true of sparse files, too
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
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
    """Parses one header block; returns None for the block of zeros that ends an archive.

    Raises:
        TarError: when the block is neither.
    """
    return tarfile.TarInfo.frombuf(block, "utf-8", "replace") if block.strip(b"\0") else None


def is_tar(head: bytes) -> bool:
    """Returns whether a file's first bytes are a tar's header, or the zeros of an empty tar."""
    try:
        _header(head[:BLOCK])
    except tarfile.TarError:
        return False
    return len(head) >= BLOCK


def members(file: io.BufferedReader, archive: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yields (name, chunks of content) of each regular file; skips content that is not consumed.

    Raises:
        UserError: when the archive is truncated or damaged, has bytes behind its end, uses an
            extension that is not supported, or has a member that is a link, a device, a pipe or a
            sparse file, or whose name is unsafe.
    """
    path: str | None = None  # the next member's name, from an extension header
    size: int | None = None
    while True:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise UserError(f"{archive}: cut off: a tar ends with a block of zeros, and this one does not; get it anew")
        with damaged(archive, tarfile.TarError):
            header = _header(block)
        if header is None:
            break
        if header.size < 0:
            raise UserError(f"{archive}: damaged (a member of negative size); get the file anew")
        if header.type in EXTENSIONS:
            if header.size > MAX_EXTENSION:
                raise UserError(f"{archive}: a header of {header.size:,} bytes; {MAX_EXTENSION:,} are allowed")
            data = b"".join(part_of(file, header.size, archive))
            _pass_over(part_of(file, -header.size % BLOCK, archive))
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
            content = part_of(file, length, f"{archive}/{name}")
            yield name, content
            _pass_over(content)
            _pass_over(part_of(file, -length % BLOCK, f"{archive}/{name}"))
        path = size = None
    if any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(CHUNK), b"")):
        raise UserError(f"{archive}: bytes behind the end of the archive: unpack it and pack it anew")


def _pass_over(chunks: Iterator[bytes]) -> None:
    for _ in chunks:
        pass


def _pax(data: bytes, archive: str) -> dict[str, str]:
    """Parses the records `LENGTH KEY=VALUE` of a pax header.

    LENGTH counts the bytes of the whole record, its line feed included.

    Raises:
        UserError: when a record is malformed.
    """
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
    """Returns a member's name as a relative path without `.` parts; "" for the archive's root.

    Raises:
        UserError: when the path is absolute, has a `..`, a backslash, a drive letter or a control
            character, or exceeds MAX_NAME.
    """
    what = f"{archive}: the member {ascii(name)[:200]}"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name) or ".." in parts:
        raise UserError(f"{what} leads out of the archive: pack the archive anew without it")
    if len(name) > MAX_NAME or any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
        raise UserError(f"{what} has a name with control characters, or too long a one: pack the archive anew")
    return "/".join(parts)
