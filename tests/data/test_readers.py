"""One file -> its documents: every format, and every way in which a stranger's file could do harm (row 12 of the faults)."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_from_scratch.config import DataConfig, TokenizerConfig
from llm_from_scratch.data import readers, streams, tables
from llm_from_scratch.data.formats import Document
from llm_from_scratch.data.prepare import Prepared, prepare
from llm_from_scratch.data.readers import read_documents
from llm_from_scratch.data.sources import open_source

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
    """OpenWebText as its parts are published: tars of compressed tars, with folders that have headers of their own."""
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


def read(folder: Path, name: str, raw: bytes, column: str = "text") -> list[Document]:
    path = folder / "file"
    path.write_bytes(raw)
    return list(read_documents(path, name, column))


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


# ---------------------------------------------------------------------------------------------------------- formats
@pytest.mark.parametrize("name", CONTAINERS)
def test_any_texts_come_out_of_every_container_as_they_went_in(name: str, tmp_path: Path) -> None:
    letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.text(letters), min_size=1, max_size=9))
    def holds(texts: list[str]) -> None:
        assert texts_of(read(tmp_path, name, CONTAINERS[name](texts))) == texts

    holds()


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_compressed_text_is_one_document_named_like_its_file(compression: str, tmp_path: Path) -> None:
    for text in TEXTS:
        for name in (f"book.txt.{compression}", f"book.{compression}"):
            assert read(tmp_path, name, COMPRESS[compression](text.encode())) == [Document(name, text.encode())]


def test_a_plain_file_is_one_document_whatever_it_is_called(tmp_path: Path) -> None:
    for name in ("book.txt", "main.py", "README", "x.tar.txt", "jsonl"):
        assert read(tmp_path, name, b"some text") == [Document(name, b"some text")]


def test_names_say_where_a_document_lies(tmp_path: Path) -> None:
    def names(name: str, raw: bytes) -> list[str]:
        return [document.name for document in read(tmp_path, name, raw)]

    part = lzma.compress(tar({"0000001-abc.txt": b"a", "./0000002-abc.txt": b"b"}))
    outer = tar({"urlsf_subset00-1_data.xz": part})
    inside = ["urlsf_subset00-1_data.xz/0000001-abc.txt", "urlsf_subset00-1_data.xz/0000002-abc.txt"]
    assert names("urlsf_subset00.tar", outer) == [f"urlsf_subset00.tar/{name}" for name in inside]
    whole = lzma.compress(tar({"openwebtext/urlsf_subset00-1_data.xz": part}))
    assert names("openwebtext.tar.xz", whole) == [f"openwebtext.tar.xz/openwebtext/{name}" for name in inside]
    assert names("b/a.jsonl", b'{"text": "a"}\n\n{"text": "b"}') == ["b/a.jsonl:1", "b/a.jsonl:3"]
    assert names("a.parquet", parquet(["a", "b", "c", "d", "e"])) == [f"a.parquet:{i}" for i in range(1, 6)]
    assert names("a.tar", tar({"b.jsonl": jsonl(["a", "b"])})) == ["a.tar/b.jsonl:1", "a.tar/b.jsonl:2"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(form: int, tmp_path: Path) -> None:
    name = "/".join(["a long folder with é and 猫"] * 20) + "/a.txt"
    assert read(tmp_path, "a.tar", tar({name: b"x"}, form)) == [Document(f"a.tar/{name}", b"x")]


def test_an_archive_is_read_like_a_folder(tmp_path: Path) -> None:
    members = {"b.md": b"b", "picture.png": b"\xff" * 3000, ".hidden.txt": b"h", "c/._a.txt": b"m", "c/A.TXT": b"a"}
    found = read(tmp_path, "a.tar", tar(members))
    assert found == [Document("a.tar/b.md", b"b"), Document("a.tar/c/A.TXT", b"a")]
    with_folders = io.BytesIO()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.txt").write_bytes(b"text")
    with tarfile.open(fileobj=with_folders, mode="w") as archive:
        archive.add(tmp_path / "folder", ".")
    assert read(tmp_path, "a.tar", with_folders.getvalue()) == [Document("a.tar/a.txt", b"text")]


@pytest.mark.parametrize(("compression", "padding"), [("xz", 8), ("gz", 5), ("bz2", 0), ("zst", 0)])
def test_streams_behind_one_another_are_one_text(compression: str, padding: int, tmp_path: Path) -> None:
    raw = b"".join(COMPRESS[compression](part) + bytes(padding) for part in (b"one ", b"", b"two ", b"x" * 200_000))
    [document] = read(tmp_path, f"a.txt.{compression}", raw)
    assert document.raw == b"one two " + b"x" * 200_000


def test_a_skippable_frame_of_zstd_is_skipped(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18\x05\x00\x00\x00hello"
    assert texts_of(read(tmp_path, "a.zst", skippable + zst(b"text") + skippable)) == ["text"]


def test_the_column_is_named_in_data_column(tmp_path: Path) -> None:
    for name, raw in (("a.jsonl", jsonl(TEXTS, "body")), ("a.parquet", parquet(list(TEXTS), "body"))):
        assert texts_of(read(tmp_path, name, raw, "body")) == TEXTS
        refused(tmp_path, name, raw, r"'text'.*data\.column names the text, of \['id', 'body'\]")


def test_tables_of_every_compression_and_encoding(tmp_path: Path) -> None:
    for compression in ("none", "snappy", "gzip", "zstd", "brotli"):
        for dictionary in (True, False):
            raw = parquet(TEXTS * 20, compression=compression, use_dictionary=dictionary)
            assert texts_of(read(tmp_path, "a.parquet", raw)) == TEXTS * 20
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pa.table({"text": pa.array(TEXTS, pa.large_string())}), tmp_path / "large.parquet")
    assert texts_of(list(read_documents(tmp_path / "large.parquet", "large.parquet", "text"))) == TEXTS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut of', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("9" * 5000, "no JSON"),
        ('["text"]', "no object"),
        ("NaN", "no object"),
        ('{"text": null}', "no text but nothing"),
        ('{"text": 17}', "no text but int"),
        ('{"text": "\\ud800"}', "character 0: half a surrogate"),
        ('{"a\\nb\x7f": ""}', "no text"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    refused(tmp_path, "a.jsonl", f'\ufeff{{"text": "fine"}}\n{line}\n'.encode(), rf"^a\.jsonl:2: {message}")


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    refused(tmp_path, "a.jsonl", b'{"text": "\xff"}', r"^a\.jsonl:1: byte 10: 0xFF is not UTF-8 here")
    refused(tmp_path, "a.jsonl", '{"text": "a"}'.encode("utf-16"), r"^a\.jsonl: byte 0: .*data\.encoding=utf-16")


def test_a_row_without_a_text_is_named(tmp_path: Path) -> None:
    refused(tmp_path, "a.parquet", parquet(["a", None]), r"a\.parquet:2: no text but nothing")
    refused(tmp_path, "a.parquet", b"PAR1 no table PAR1", "damaged")


@pytest.mark.parametrize(("library", "name"), [("zstandard", "a.jsonl.zst"), ("pyarrow", "a.parquet")])
def test_a_missing_library_says_what_brings_it(
    library: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    refused(tmp_path, name, b"anything", rf"needs {library}: pip install -e '\.\[openwebtext\]'")


def test_nothing_optional_is_imported_before_it_is_needed() -> None:
    code = "import llm_from_scratch.data.sources, sys; print({'pyarrow', 'zstandard'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# ---------------------------------------------------------------------------------------------------------- fault 12
@pytest.mark.parametrize(
    "name",
    ["../a.txt", "a/../../b.txt", "/etc/a.txt", "C:/a.txt", "c:a.txt", "\\\\host\\a.txt", "a\\..\\b.txt", ".."],
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
def test_fault_12_members_that_lead_out_of_the_archive(name: str, kind: bytes, tmp_path: Path) -> None:
    refused(tmp_path, "a.tar", odd_tar(name, kind), r"^a\.tar: the member '.*' leads out of the archive")
    long = odd_tar("x", kind, pax={"path": name})
    refused(tmp_path, "a.tar", long, r"^a\.tar: the member '.*' leads out of the archive")


def test_fault_12_a_member_of_an_inner_archive_is_named_with_all_archives(tmp_path: Path) -> None:
    raw = tar({"b_data.xz": lzma.compress(odd_tar("../a.txt"))})
    refused(tmp_path, "a.tar", raw, r"^a\.tar/b_data\.xz: the member '\.\./a\.txt' leads out of the archive")


@pytest.mark.parametrize("name", ["a\nb.txt", "a\x1b[2Jb.txt", "a\u2028b.txt", "x" * 5000 + ".txt"])
def test_fault_12_names_that_are_no_names(name: str, tmp_path: Path) -> None:
    refused(tmp_path, "a.tar", odd_tar("x", pax={"path": name}), "control characters")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.GNUTYPE_SPARSE, "sparse file"),
        (b"M", "of an unknown kind"),
    ],
)
def test_fault_12_links_and_devices(kind: bytes, words: str, tmp_path: Path) -> None:
    raw = odd_tar("link.txt", kind, link="/etc/passwd")
    refused(tmp_path, "a.tar", raw, rf"^a\.tar: the member 'link\.txt' is .*{words}")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (odd_tar("big.txt", size=2**60), "cut off|document above"),
        (odd_tar("big.bin", size=2**60), "cut off"),
        (odd_tar("big.xz", size=2**60), "damaged"),
        (odd_tar("big.txt", size=-5), "negative"),
        (odd_tar("a.txt", pax={"size": "9" * 19}), "cut off"),
        (odd_tar("a.txt", pax={"size": "-1"}), "a pax header's size"),
        (odd_tar("a.txt", pax={"size": "9" * 5000}), "a pax header's size"),
        (odd_tar("a.txt", pax={"GNU.sparse.realsize": "9" * 15, "GNU.sparse.major": "1"}), "sparse file"),
        (odd_tar("x" * 100, tarfile.GNUTYPE_LONGNAME, size=2**30), "a header of 1,073,741,824 bytes"),
        (odd_tar("x", tarfile.XGLTYPE, size=2**30), "a header of 1,073,741,824 bytes"),
    ],
)
def test_fault_12_headers_that_claim_giant_sizes(raw: bytes, message: str, tmp_path: Path) -> None:
    refused(tmp_path, "a.tar", raw, message)


def test_fault_12_a_header_that_names_all_members(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", pax_headers={"path": "../x"}) as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    refused(tmp_path, "a.tar", file.getvalue(), "for all members")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", pax_headers={"comment": "as git's archives have it"}) as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    assert read(tmp_path, "a.tar", file.getvalue()) == [Document("a.tar/a.txt", b"")]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("name", ["a.tar", "a.jsonl", "a.txt", "a"])
def test_fault_12_a_bomb_of_zeros(name: str, compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ALLOWANCE", 2**20)
    bomb = COMPRESS[compression](bytes(5 * 2**20))
    refused(
        tmp_path, f"{name}.{compression}", bomb, f"^a.*{compression}: a decompression bomb: [1-5],.* bytes came out of"
    )
    refused(tmp_path, "a.tar", tar({f"{name}.{compression}": bomb}), "a decompression bomb")


def test_fault_12_bombs_within_bombs_share_one_allowance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ALLOWANCE", 2**20)
    small = {f"{i}.txt.gz": gzip.compress(b" " * 200_000) for i in range(40)}  # each of them is within the allowance
    refused(tmp_path, "a.tar.xz", lzma.compress(tar(small)), "a decompression bomb")


def test_fault_12_a_table_that_repeats_a_long_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ALLOWANCE", 2**20)
    refused(tmp_path, "a.parquet", parquet(["x" * 10_000_000], compression="zstd"), "a decompression bomb")
    monkeypatch.setattr(streams, "MAX_RATIO", 10)
    refused(tmp_path, "a.parquet", parquet(["ab" * 10_000] * 300, compression="zstd"), "a decompression bomb")


def test_fault_12_archives_within_archives(tmp_path: Path) -> None:
    raw = tar({"a.txt": b"deep"})
    for depth in range(1, 4):
        [document] = read(tmp_path, "0.tar", raw)
        assert document.name == "0.tar/" + "a.tar/" * (depth - 1) + "a.txt"
        raw = tar({"a.tar": raw})
    refused(tmp_path, "0.tar", raw, r"^0\.tar/a\.tar/a\.tar/a\.tar: archives more than 3 deep")
    refused(tmp_path, "a.tar", tar({"a.txt.gz.gz": b""}), r"^a\.tar/a\.txt\.gz\.gz: compressed twice")
    refused(tmp_path, "a.tar", tar({"a.parquet": b""}), "parquet file cannot be read within")


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("a.txt.gz", lambda text: gzip.compress(text.encode())),
        ("a.tar", lambda text: tar({"a.txt": text.encode()})),
        ("a.jsonl", lambda text: jsonl([text])),
        ("a.parquet", lambda text: parquet([text])),
    ],
)
def test_fault_12_a_document_above_the_limit(
    name: str, build: Callable[[str], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (readers, tables):
        monkeypatch.setattr(module, "MAX_DOCUMENT", 10_000)
    assert texts_of(read(tmp_path, name, build("a" * 9_900))) == ["a" * 9_900]
    refused(tmp_path, name, build("a" * 10_001), "above 10,000 bytes")
    assert read(tmp_path, "a.txt", b"a" * 20_000)[0].raw == b"a" * 20_000  # a file of its own has no limit


@pytest.mark.parametrize("name", ARCHIVES)
def test_fault_12_an_archive_cut_off_anywhere(name: str, tmp_path: Path) -> None:
    whole = CONTAINERS[name](TEXTS)
    needed = len(whole)
    if name.endswith(".tar"):
        needed = (
            len(whole.rstrip(b"\0")) // 512 * 512 + 1024
        )  # beyond the first block of zeros there is no more to lose
    cuts = {*range(0, needed, 512), *range(0, needed, max(1, needed // 200)), needed - 1}
    for cut in sorted(cuts):
        refused(tmp_path, name, whole[:cut], "cut off|damaged")


def test_fault_12_a_tar_cut_off_between_two_members(tmp_path: Path) -> None:
    whole = tar({"a.txt": b"a" * 512, "b.txt": b"b" * 512})
    path = tmp_path / "file"
    path.write_bytes(whole[:1024])
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["a.txt"]  # Python's own reader sees nothing wrong
    for cut in (0, 1024, 2048):
        refused(tmp_path, "a.tar", whole[:cut], "cut off: a tar ends with a block of zeros")
    assert len(read(tmp_path, "a.tar", whole[: 2048 + 512])) == 2


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("garbage", [b"x", b"\0x", b"\xff" * 600, b"PK\3\4" + bytes(60)])
def test_fault_12_bytes_behind_the_end(compression: str, garbage: bytes, tmp_path: Path) -> None:
    for name, raw in (("a.txt", b"text"), ("a.tar", tar({"a.txt": b"text"}))):
        good = COMPRESS[compression](raw)
        assert texts_of(read(tmp_path, f"{name}.{compression}", good)) == ["text"]
        refused(tmp_path, f"{name}.{compression}", good + garbage, "damaged|cut off")
    refused(tmp_path, "a.tar", tar({"a.txt": b"text"}) + garbage, "bytes behind the end")


@pytest.mark.parametrize("name", [f"{base}.{compression}" for base in ("a.txt", "a.tar") for compression in COMPRESS])
def test_fault_12_every_flipped_bit_of_a_compressed_file_is_seen(name: str, tmp_path: Path) -> None:
    text = "said the Lion. É " * 3
    raw = text.encode() if name.startswith("a.txt") else tar({"a.txt": text.encode()})
    good = bytearray(COMPRESS[name.rpartition(".")[2]](raw))
    harmless = 0
    for i in range(len(good)):
        for bit in (0, 3, 7):
            good[i] ^= 1 << bit
            try:
                harmless += texts_of(read(tmp_path, name, bytes(good))) == [text] or pytest.fail(f"byte {i}, bit {bit}")
            except ValueError as error:
                assert str(error).startswith(name)  # noqa: PT017
            good[i] ^= 1 << bit
    assert harmless <= 30  # the date and the name in gzip's header are not checked, nor are unused bits of others


def test_fault_12_an_archive_without_texts(tmp_path: Path) -> None:
    for raw in (tar({}), tar({"a.png": b"x"}), tar({"a.tar": tar({})})):
        refused(tmp_path, "a.tar", raw, "an archive without texts")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["zeros.tar.xz", "zeros.txt.xz", "zeros.jsonl.xz", "zeros.xz"])
def test_fault_12_a_bomb_of_300_mb_takes_little_memory(name: str, tmp_path: Path) -> None:
    compressor = lzma.LZMACompressor(preset=0)
    raw = b"".join([*(compressor.compress(bytes(2**20)) for _ in range(300)), compressor.flush()])
    (tmp_path / name).write_bytes(raw)
    code = """
import sys, pathlib, threading
from llm_from_scratch.data.readers import read_documents
def anonymous():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024
before = highest = anonymous()
done = threading.Event()
def watch():
    global highest
    while not done.wait(0.002):
        highest = max(highest, anonymous())
threading.Thread(target=watch, daemon=True).start()
try:
    for document in read_documents(pathlib.Path(sys.argv[1]), sys.argv[1], "text"): pass
    print("read")
except ValueError as error:
    print(error)
done.set()
print(highest - before)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    message, growth = done.stdout.splitlines()
    assert "decompression bomb" in message or "above" in message
    assert int(growth) < 100e6


# ------------------------------------------------------------------------------------------- from archives to shards
def data(folder: Path, path: Path, **more: object) -> DataConfig:
    return DataConfig(name="text", path=str(path), dir=str(folder / "data"), **more)  # type: ignore[arg-type]


def contents(prepared: Prepared) -> dict[str, bytes]:
    """Every file of a prepared text but the manifest, which names the source."""
    files = (path for path in prepared.folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(prepared.folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("count", [4, 30])  # each document cut in two; whole ones
def test_an_archive_prepares_the_same_bytes_as_its_documents_in_files(count: int, tmp_path: Path) -> None:
    texts = [f"Document {i} of {count}: {'é猫ab'[i % 4]} is its letter. " * 30 for i in range(count)]
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/urlsf_subset00.tar").write_bytes(nested(texts))
    for document in read_documents(tmp_path / "packed/urlsf_subset00.tar", "urlsf_subset00.tar", "text"):
        place = tmp_path / "plain" / document.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(document.raw)
    settings = {"val_fraction": 0.3}
    packed = prepare(data(tmp_path / "1", tmp_path / "packed", **settings), CHARS)
    plain = prepare(data(tmp_path / "2", tmp_path / "plain", **settings), CHARS)
    assert contents(packed) == contents(plain)
    assert packed.manifest["splits"] == plain.manifest["splits"]
    assert packed.manifest["splits"]["train"]["documents"] + packed.manifest["splits"]["val"]["documents"] == (
        2 * count if count < 20 else count
    )


@pytest.mark.parametrize("name", ["a.tar", "a.tar.xz", "a.jsonl.gz", "a.parquet"])
def test_fault_12_a_cut_archive_leaves_no_prepared_text(name: str, tmp_path: Path) -> None:
    whole = CONTAINERS[name](["Some text of a page. " * 20] * 30)
    path = tmp_path / name
    path.write_bytes(whole[:-10_000] if name == "a.tar" else whole[:-20])
    with pytest.raises(ValueError, match=f"^{name}: .*(cut off|damaged)"):
        prepare(data(tmp_path, path), CHARS)
    assert [path for path in tmp_path.rglob("data/text/*") if path.suffix != ".lock"] == []
    path.write_bytes(whole)
    assert prepare(data(tmp_path, path), CHARS).manifest["splits"]["train"]["documents"] > 20


def test_a_table_is_prepared_anew_for_another_column_and_a_plain_text_is_not(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"text {i} " * 20, "body": f"body {i} " * 20}) for i in range(25)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    (tmp_path / "a.txt").write_text("some text " * 100)
    one = prepare(data(tmp_path, tmp_path / "a.jsonl"), CHARS)
    other = prepare(data(tmp_path, tmp_path / "a.jsonl", column="body"), CHARS)
    assert next(one.documents("train"))[:4] == "text"
    assert next(other.documents("train"))[:4] == "body"
    assert one.folder != other.folder
    plain = {prepare(data(tmp_path, tmp_path / "a.txt", column=column), CHARS).folder for column in ("text", "body")}
    assert len(plain) == 1


def test_a_folder_gives_its_archives_and_tables_too(tmp_path: Path) -> None:
    for name in ("b.txt", "a.tar.gz", "c.jsonl.xz", "d.tgz", "e.png"):
        (tmp_path / name).write_bytes(CONTAINERS.get(name, lambda texts: b"as it stands")(["one", "two"]))
    (tmp_path / "c.jsonl.xz").write_bytes(lzma.compress(jsonl(["three"])))
    (tmp_path / "d.tgz").write_bytes(gzip.compress(tar({"f.txt": b"four"})))
    source = open_source(name="text", path=str(tmp_path), data_dir=Path("data"))
    assert texts_of(list(source.documents())) == ["one", "two", "as it stands", "three", "four"]
    assert (source.has(5), source.has(6), source.plain) == (True, False, False)


@given(
    st.lists(st.sampled_from([b"a", b"<|", b"|>", b"<|end|>", b"\r\n", b"<|end", b" "]), max_size=12), st.integers(1, 9)
)
def test_parts_between_separators_are_those_of_split(parts: list[bytes], size: int) -> None:
    raw = b"".join(parts)
    chunks = (raw[i : i + size] for i in range(0, len(raw), size))
    assert list(readers._parts(chunks, b"<|end|>")) == raw.split(b"<|end|>")
