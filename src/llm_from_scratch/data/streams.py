"""Streams of a file's bytes: read, verified against a checksum, decompressed within limits.

An untrusted file could exhaust this machine; the limits below bound what it decompresses to. A
compressed file that is cut off or damaged is refused as far as its format has checks: gzip, xz and
bzip2 have them, zstd where its writer put them in.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llm_from_scratch.data.formats import OnProgress, no_progress
from llm_from_scratch.errors import UserError, message_of, missing_extra
from llm_from_scratch.files import open_regular, sha256

CHUNK = 2**16  # bytes
SHA256_DIGITS = 64
# The decompressed bytes of a file, summed over all depths of nesting, may be MAX_RATIO times the
# bytes read from it, plus ALLOWANCE. Usual ratios: English text 3 to 6, a tar of short texts up to
# 20, zeros 1,000 (gzip) to 30,000 (zstd).
MAX_RATIO = 100
ALLOWANCE = 64 * 2**20  # bytes
# largest window of a decompressor in bytes: xz -9 has 2**26, zstd --ultra --long=27 has this
MAX_WINDOW = 2**27


@dataclass
class Budget:
    """Byte counts of one file so far: `read` from the disk, `expanded` by decompression."""

    read: int = 0
    expanded: int = 0
    on_progress: OnProgress = no_progress

    def spend(self, count: int, name: str) -> None:
        self.expanded += count
        if self.expanded > ALLOWANCE + MAX_RATIO * self.read:
            raise UserError(
                f"{name}: a decompression bomb: {self.expanded:,} bytes came out of {self.read:,}; if you trust it, unpack it"
            )


class ChangedFileError(UserError):
    """The error for a file that was changed after its checksum was computed.

    Its documents would be stored under the fingerprint of other bytes.
    """


def verify_file(path: Path, checksum: str) -> None:
    """Raises ChangedFileError where a file was changed after its checksum was computed.

    `checksum` is a sha256 or "SIZE TIME" (`stamp`); "" accepts any file.
    """
    if checksum:
        compare_checksum(path, checksum, sha256(path) if len(checksum) == SHA256_DIGITS else "")


def compare_checksum(path: Path, checksum: str, found: str) -> None:
    """Raises ChangedFileError where `found`, the sha256 of the bytes read, is not `checksum`.

    A `checksum` "SIZE TIME" is compared with the file's `stamp`; "" accepts any.
    """
    if len(checksum) != SHA256_DIGITS:
        found = stamp(path)
    if checksum not in ("", found):
        raise changed(path)


def changed(path: Path) -> ChangedFileError:
    """Returns the error for a file whose bytes are not those of its checksum."""
    return ChangedFileError(f"{path}: it was changed while it was read: start again")


def stamp(path: Path) -> str:
    """Returns "SIZE TIME" of a file (bytes, ns), for one that is too large to be read."""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def read_file(path: Path) -> bytes:
    """Returns all bytes of a regular file; raises UserError where it cannot be read."""
    with opened(path) as file:
        return file.read()


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Opens a regular file to read; raises UserError where it cannot be read."""
    try:
        with open_regular(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


# ------------------------------------------------------------------------------------------ streams
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


def as_file(chunks: Iterator[bytes]) -> io.BufferedReader:
    """Returns chunks of bytes as a buffered file that can be read once, from start to end."""
    return io.BufferedReader(_Stream(chunks), CHUNK)


def from_disk(path: Path, budget: Budget, digest: Any) -> Iterator[bytes]:
    """Yields the bytes of a file in chunks; adds each to the budget and to the digest."""
    with opened(path) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            budget.read += len(chunk)
            budget.on_progress(len(chunk))
            yield chunk


def part_of(file: io.BufferedReader, size: int, name: str) -> Iterator[bytes]:
    """Yields the next `size` bytes of a file in chunks; raises UserError where it ends before."""
    while size:
        chunk = file.read(min(size, CHUNK))
        if not chunk:
            raise UserError(f"{name}: cut off: {size:,} bytes are missing; get the file anew")
        size -= len(chunk)
        yield chunk


# ------------------------------------------------------------------------------------ decompression
class _Decoder(Protocol):
    """The interface of lzma's and bz2's decompressors."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        # 31: with gzip's header and checksum
        self.inflate, self.needs_input = zlib.decompressobj(wbits=31), True

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
    # bytes of input at a time: 4 bytes expand to 128 KiB at most, so a step to 32 MiB at most
    STEP = 2**10

    def __init__(self, zstandard: Any) -> None:
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


def _zstd() -> tuple[_Decoder, type[Exception]]:
    import zstandard

    return _Zstd(zstandard), zstandard.ZstdError


# compression -> a new decoder, and the class of its errors about damaged bytes
DECODERS: dict[str, Callable[[], tuple[_Decoder, type[Exception]]]] = {
    "gz": lambda: (_Gzip(), zlib.error),
    "xz": lambda: (lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW + 2**20), lzma.LZMAError),
    "bz2": lambda: (bz2.BZ2Decompressor(), OSError),
    "zst": _zstd,
}


def missing_library(name: str, library: str) -> UserError:
    """Returns the error for a file that needs a library which is not installed."""
    return missing_extra(f"{name}: reading it needs {library}", "openwebtext")


@contextmanager
def damaged(name: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns a library's own `errors` about the file `name` into a one-line UserError.

    Of these, a lack of memory and a failure of the disk (an OSError with its number) pass.
    """
    try:
        yield
    except errors as error:
        # A library's own kind of MemoryError, as Arrow's, is of a size that the file claims.
        if type(error) is MemoryError or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise UserError(f"{name}: damaged ({message_of(error, 200)}); get the file anew") from None


def expanded(chunks: Iterator[bytes], compression: str, name: str, budget: Budget) -> Iterator[bytes]:
    """Yields the decompressed bytes of one or more concatenated compressed streams.

    Each must be whole, with nothing in between but gzip's and xz's zero padding. Python's own
    LZMAFile and BZ2File ignore other bytes after a stream. Raises UserError for streams cut off,
    damaged or beyond the budget.
    """
    decoder: _Decoder | None = None
    damage: type[Exception] = Exception
    ended = False
    for data in chunks:
        while data:
            if decoder is None:
                if ended and compression in ("gz", "xz"):
                    data = data.lstrip(b"\0")  # zero padding, which gzip and xz allow
                    if not data:
                        break
                try:
                    decoder, damage = DECODERS[compression]()
                except ImportError:
                    raise missing_library(name, "zstandard") from None
            while True:
                with damaged(name, damage):
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
