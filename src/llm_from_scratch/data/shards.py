"""Token shards: the ids of documents in memory-mapped files with an index.

A shard is two files. `NAME.bin` holds the ids of its documents one after the other, raw
little-endian uint16 (uint32 where the vocabulary has more than 65,536 ids) with no header, so that
`numpy.memmap("NAME.bin", dtype="<u2")` reads it. `NAME.idx` describes the ids: one line of JSON
(the fields of `ShardInfo`, magic and version), then the document ends as raw little-endian uint64:
the position after each document's last id, its end-of-text token included.

Both are written under temporary names, published by rename and never edited in place: truncating a
file kills a process that has it mapped.
"""

import hashlib
import json
import mmap
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import sha256

MAGIC = "llm-from-scratch token shard"
VERSION = 1
VERIFY_BELOW = 256 * 2**20  # bytes of a .bin; hashing that much takes about a second at worst
MAX_HEADER = 4096  # bytes; a header is about 500, and a hostile one must not fill the memory


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """The fields of a shard's index, and (for a manifest) the sha256 of the index itself."""

    path: Path  # the .bin file
    dtype: str  # "<u2" or "<u4"
    tokens: int
    documents: int
    text_bytes: int  # UTF-8 bytes of the text that the tokens stand for
    vocab_size: int
    tokenizer: str  # fingerprint
    sha256: str  # of the .bin file
    document_ends_sha256: str
    index_sha256: str  # of the whole .idx file


_HEADER = {field.name: field.type for field in fields(ShardInfo) if field.name not in ("path", "index_sha256")}


@dataclass(frozen=True, eq=False)
class Shard:
    """A memory-mapped shard, read-only.

    `tokens` (tokens,) have the file's dtype; `document_ends` (documents,) are uint64.
    """

    info: ShardInfo
    tokens: np.ndarray
    document_ends: np.ndarray

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memmap is a copy of its contents: a worker process opens the file again instead.
        return partial(open_shard, verify=False, index_sha256=self.info.index_sha256), (self.info.path,)


def write_shard(
    path: str | Path,
    documents: Iterable[tuple[Sequence[int] | np.ndarray | Iterator[np.ndarray], int]],
    *,
    vocab_size: int,
    tokenizer: str,
) -> ShardInfo:
    """Writes the shard `path`.bin and `path`.idx.

    A document is (ids with their end-of-text token, UTF-8 bytes of the text). The ids of a long
    document can be an iterator of arrays. Memory holds one document or array, and 8 bytes for each
    document so far. On any error nothing is published.

    Raises:
        UserError: when an id is outside the vocabulary.
    """
    bin_path, index_path = _paths(path)
    bin_part, index_part = (p.with_name(p.name + ".tmp") for p in (bin_path, index_path))
    dtype = id_dtype(vocab_size)
    digest, ends, tokens, text_bytes = hashlib.sha256(), array("Q"), 0, 0
    try:
        # Deletes what a killed worker left, rather than write into it.
        bin_part.unlink(missing_ok=True)
        index_part.unlink(missing_ok=True)
        with bin_part.open("xb") as file:
            for number, (pieces, size) in enumerate(documents):
                for ids in map(np.asarray, pieces if isinstance(pieces, Iterator) else (pieces,)):
                    _refuse_unknown_ids(ids, vocab_size, f"{bin_path}: document {number}")
                    data = ids.astype(dtype).tobytes()
                    digest.update(data)
                    file.write(data)
                    tokens += len(ids)
                text_bytes += size
                ends.append(tokens)
            _flush(file)
        end_bytes = np.asarray(ends, dtype="<u8").tobytes()
        info: dict[str, Any] = {
            "dtype": dtype.str,
            "tokens": tokens,
            "documents": len(ends),
            "text_bytes": text_bytes,
            "vocab_size": vocab_size,
            "tokenizer": tokenizer,
            "sha256": digest.hexdigest(),
            "document_ends_sha256": hashlib.sha256(end_bytes).hexdigest(),
        }
        header = json.dumps({"magic": MAGIC, "version": VERSION} | info).encode() + b"\n"
        assert len(header) <= MAX_HEADER
        with index_part.open("xb") as file:
            file.write(header + end_bytes)
            _flush(file)
        # a kill between the two renames must not leave an old index beside new ids
        index_path.unlink(missing_ok=True)
        bin_part.replace(bin_path)
        index_part.replace(index_path)
    finally:
        bin_part.unlink(missing_ok=True)
        index_part.unlink(missing_ok=True)
    return ShardInfo(path=bin_path, index_sha256=hashlib.sha256(header + end_bytes).hexdigest(), **info)


def _refuse_unknown_ids(ids: np.ndarray, vocab_size: int, where: str) -> None:
    if not ids.size or (ids.max() < vocab_size and ids.min() >= 0):  # a tenth of the time of a mask
        return
    place = np.flatnonzero((ids < 0) | (ids >= vocab_size))[0]
    raise UserError(
        f"{where} has the id {ids[place]} at position {place}, outside the vocabulary of {vocab_size}: "
        "tokenize it with the tokenizer of this vocabulary"
    )


def open_shard(
    path: str | Path,
    *,
    tokenizer: str | None = None,
    verify: bool | None = None,
    index_sha256: str | None = None,
) -> Shard:
    """Maps the shard at `path` (with or without .bin) and verifies it.

    The index is always verified whole.

    Args:
        path: the shard's files, without a suffix or with .bin.
        tokenizer: the fingerprint of the shard's tokenizer; None accepts any.
        verify: whether to verify the sha256 of the .bin; None does so below 256 MiB.
        index_sha256: the sha256 of the index, from a manifest; without it (None) a flipped bit in a
            count of the index can go unseen.

    Raises:
        UserError: when a file is missing, cut off, damaged or crafted, or the tokenizer is another
            one. The message names the file.
    """
    bin_path, index_path = _paths(path)
    for file_path in (index_path, bin_path):
        if not file_path.is_file():
            raise _damaged(file_path, "is missing")
    with index_path.open("rb") as file:
        header = file.readline(MAX_HEADER)
    said = _parse(header, index_path)
    for file_path, wanted in (
        (index_path, len(header) + 8 * said["documents"]),
        (bin_path, said["tokens"] * np.dtype(said["dtype"]).itemsize),
    ):
        if (found := file_path.stat().st_size) != wanted:
            raise _damaged(file_path, f"has {found} bytes where its index says {wanted}")

    ends = _map(index_path, "<u8", said["documents"], offset=len(header))
    whole, ends_alone = hashlib.sha256(header), hashlib.sha256(ends.data)
    whole.update(ends.data)
    info = ShardInfo(path=bin_path, index_sha256=whole.hexdigest(), **said)
    if info.document_ends_sha256 != ends_alone.hexdigest() or index_sha256 not in (None, info.index_sha256):
        raise _damaged(index_path, "does not have the checksum it was written with")
    if (ends[-1] if ends.size else 0) != info.tokens or np.any(ends[1:] < ends[:-1]):
        raise _damaged(index_path, f"has document ends that do not rise to its {info.tokens} tokens")
    if tokenizer not in (None, info.tokenizer):
        raise UserError(
            f"{bin_path} was made with the tokenizer {info.tokenizer!r} and this run has {tokenizer!r}: "
            "prepare the data again with this tokenizer, or use the other one"
        )
    verify = bin_path.stat().st_size < VERIFY_BELOW if verify is None else verify
    if verify and sha256(bin_path) != info.sha256:
        raise _damaged(bin_path, "does not have the checksum it was written with")
    tokens = _map(bin_path, info.dtype, info.tokens)
    if bin_path.stat().st_size >= VERIFY_BELOW and hasattr(mmap, "MADV_RANDOM"):
        # Chunks are read at random positions: read-ahead would fill the page cache with bytes that
        # are not used.
        tokens._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
    return Shard(info, tokens, ends)


def _parse(header: bytes, path: Path) -> dict[str, Any]:
    """Returns the verified fields of an index's first line, without magic and version."""
    try:
        found = json.loads(header) if header.endswith(b"\n") else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.pop("magic", None) != MAGIC:
        raise _damaged(path, "is not the index of a token shard")
    if (version := found.pop("version", None)) != VERSION:
        raise _damaged(path, f"has version {version!r:.20} and this program reads {VERSION}")
    numbers = [value for value in found.values() if isinstance(value, int)]
    if {key: type(value) for key, value in found.items()} != _HEADER or min(numbers) < 0:
        raise _damaged(path, "lacks a field, or has one of another type than it should")
    if found["dtype"] != id_dtype(found["vocab_size"]).str:
        raise _damaged(path, f"says {found['dtype']!r} for a vocabulary of {found['vocab_size']}")
    return found


def _paths(path: str | Path) -> tuple[Path, Path]:
    path = Path(path)
    name = path.name.removesuffix(".bin")
    return path.with_name(name + ".bin"), path.with_name(name + ".idx")


def id_dtype(vocab_size: int) -> np.dtype:
    """Returns the type of the ids of a vocabulary in shards: uint16, or uint32 above 65,536 ids."""
    return np.dtype("<u2" if vocab_size <= 65_536 else "<u4")


def _map(path: Path, dtype: str, count: int, offset: int = 0) -> np.ndarray:
    # An empty range cannot be mapped.
    return np.memmap(path, dtype, "r", offset, (count,)) if count else np.empty(0, dtype)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}: delete {path.parent} and prepare the data again")
