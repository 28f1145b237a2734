"""Files of every kind that holds texts, made for the tests of data/, and how they are read
there.
"""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_from_scratch.config import TokenizerConfig
from llm_from_scratch.data.formats import PLAIN_FORMAT, Document, Format
from llm_from_scratch.data.readers import read_documents

TEXTS = ["What a pretty story!\n", "", "é “猫” 🦁\r\n", "said the Lion. " * 100]


CHARS = TokenizerConfig(kind="char", vocab_size=None)


def zst(raw: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    return zstandard.ZstdCompressor(write_checksum=True).compress(raw)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zst,
}


def tar(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return file.getvalue()


def odd_tar(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "", pax: dict[str, str] | None = None
) -> bytes:
    """A sound document and one strange member, whose content is absent where `size` claims one."""
    file = io.BytesIO(tar({"first.txt": b"first"})[:1024])
    file.seek(1024)
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.pax_headers = kind, size, link, pax or {}
    file.write(info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) + bytes(1024))
    return file.getvalue()


def jsonl(texts: list[str], column: str = "text") -> bytes:
    return "".join(json.dumps({"id": i, column: text}) + "\n" for i, text in enumerate(texts)).encode()


def parquet(texts: list[str | None], column: str = "text", **options: object) -> bytes:
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    table = pa.table({"id": range(len(texts)), column: pa.array(texts, pa.string())})
    write_table(table, file, row_group_size=3, **options)
    return file.getvalue()


def numbered(texts: list[str]) -> dict[str, bytes]:
    return {f"{i:07}-abc.txt": text.encode() for i, text in enumerate(texts)}


def nested(texts: list[str]) -> bytes:
    """OpenWebText as its parts are published: tars of compressed tars, with folders that have
    headers of their own.
    """
    middle = len(texts) // 2
    members = {
        "urlsf_subset00-1_data.xz": lzma.compress(tar(numbered(texts[:middle]))),
        "urlsf_subset00-2_data.xz": lzma.compress(tar(numbered(texts[middle:]), tarfile.GNU_FORMAT)),
    }
    return tar({f"openwebtext/{name}": raw for name, raw in members.items()})


# How a file that holds a list of texts is named, and made.
CONTAINERS: dict[str, Callable[[list[str]], bytes]] = {
    "a.tar": lambda texts: tar(numbered(texts)),
    "a.TAR": lambda texts: tar(numbered(texts), tarfile.USTAR_FORMAT),
    "a.tgz": lambda texts: gzip.compress(tar(numbered(texts), tarfile.GNU_FORMAT)),
    "a.tar.gz": lambda texts: gzip.compress(tar(numbered(texts))),
    "a.tar.xz": lambda texts: lzma.compress(tar(numbered(texts))),
    "a_data.xz": lambda texts: lzma.compress(tar(numbered(texts))),
    "a.tar.bz2": lambda texts: bz2.compress(tar(numbered(texts))),
    "a.tar.zst": lambda texts: zst(tar(numbered(texts))),
    "urlsf_subset00.tar": nested,
    "openwebtext.tar.xz": lambda texts: lzma.compress(nested(texts)),
    "a.jsonl": jsonl,
    "a.jsonl.gz": lambda texts: gzip.compress(jsonl(texts)),
    "a.jsonl.xz": lambda texts: lzma.compress(jsonl(texts)),
    "a.jsonl.bz2": lambda texts: bz2.compress(jsonl(texts)),
    "a.jsonl.zst": lambda texts: zst(jsonl(texts)),
    "a.parquet": lambda texts: parquet(list(texts)),
    "rows.tar": lambda texts: tar({"rows.jsonl.gz": gzip.compress(jsonl(texts))}),
}


ARCHIVES = [name for name in CONTAINERS if name not in ("a.jsonl", "a.TAR")]


def read(folder: Path, name: str, raw: bytes, form: Format = PLAIN_FORMAT) -> list[Document]:
    path = folder / "file"
    path.write_bytes(raw)
    return list(read_documents(path, name, form))


def texts_of(documents: list[Document]) -> list[str]:
    return [document.raw.decode() for document in documents]


def refused(folder: Path, name: str, raw: bytes, match: str) -> None:
    """A message of one line that names the file; nothing is written."""
    with pytest.raises(ValueError, match=match) as error:
        read(folder, name, raw)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert [path.name for path in folder.iterdir()] == ["file"]


def texts_in(folder: Path, name: str, raw: str | bytes, form: Format = PLAIN_FORMAT) -> list[str]:
    """The texts of the documents of one file."""
    (folder / "file").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return texts_of(list(read_documents(folder / "file", name, form)))
