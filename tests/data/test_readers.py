"""One file -> its documents: every format, and every way in which a stranger's file could do harm
(row 12 of the faults).
"""

import gzip
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from containers import (
    ARCHIVES,
    CHARS,
    COMPRESS,
    CONTAINERS,
    TEXTS,
    jsonl,
    nested,
    parquet,
    read,
    refused,
    tar,
    texts_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_from_scratch.config import DataConfig
from llm_from_scratch.data import readers, tables
from llm_from_scratch.data.formats import Document
from llm_from_scratch.data.prepare import Prepared, prepare
from llm_from_scratch.data.readers import read_documents
from llm_from_scratch.data.sources import open_source


# ------------------------------------------------------------------------------------------ formats
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


# ----------------------------------------------------------------------------------------- fault 12


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
    # A file of its own has no limit
    assert read(tmp_path, "a.txt", b"a" * 20_000)[0].raw == b"a" * 20_000


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


def test_fault_12_an_archive_without_texts(tmp_path: Path) -> None:
    for raw in (tar({}), tar({"a.png": b"x"}), tar({"a.tar": tar({})})):
        refused(tmp_path, "a.tar", raw, "an archive without texts")


# -------------------------------------------------------------------------- from archives to shards
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
    for document in read_documents(tmp_path / "packed/urlsf_subset00.tar", "urlsf_subset00.tar"):
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
