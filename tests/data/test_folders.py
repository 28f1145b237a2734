"""The files below a folder: links, globs, names, and what cannot be read."""

import os
import sys
from pathlib import Path

import pytest
from small_corpora import NOVEL, linux, lock, names, opened, prepared, put


@linux
def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    own = tmp_path / "own"
    put(own / "a.txt")
    put(own / "b/c.txt")
    for i in range(5):
        put(tmp_path / f"novels/{i}.txt")
    put(tmp_path / "novels/deep/6.txt")
    (own / "linked").symlink_to(tmp_path / "novels")
    (tmp_path / "novels/deep/back").symlink_to(own)  # a loop through the root
    (own / "b/self").symlink_to(own / "b")
    (own / "a second name").symlink_to(own / "b")
    novels = [f"linked/{i}.txt" for i in range(5)] + ["linked/deep/6.txt"]
    assert names(own) == names(f"{own}/**/*.txt") == ["a.txt", "b/c.txt", *novels]
    # Both names are asked for
    assert names(f"{own}/*/*.txt") == ["a second name/c.txt", "b/c.txt", *novels[:5]]
    (tmp_path / "all").symlink_to(own)
    assert len(names(tmp_path / "all")) == 8
    facts = prepared(tmp_path, own).manifest["splits"]
    assert facts["train"]["text_bytes"] + facts["val"]["text_bytes"] == 8 * len(NOVEL)


@linux
def test_folders_that_a_glob_finds_are_named(tmp_path: Path) -> None:
    for name in ("a.txt", "deep/b.txt", "c.txt/d.txt", ".hidden/e.txt"):
        put(tmp_path / "own" / name, NOVEL)
    (tmp_path / "own/link").symlink_to(tmp_path / "own/deep")

    def read(pattern: str) -> tuple[list[str], list[str]]:
        source = opened(tmp_path / "own" / pattern)
        return [name for name, _ in source.paths], [name for name, why in source.skipped if "folder" in why]

    assert read("*") == (["a.txt"], ["c.txt", "deep", "link"])
    assert read("*.txt") == (["a.txt"], ["c.txt"])
    assert read("**/*.txt") == (["a.txt", "c.txt/d.txt", "deep/b.txt"], [])
    assert read("*/*.txt")[1] == []
    assert read("") == (["a.txt", "c.txt/d.txt", "deep/b.txt"], [])


def test_of_many_files_the_first_ten_are_named_and_the_rest_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "own/a.txt")
    for i in range(25):
        put(tmp_path / f"own/{i:02}.html")
    prepared(tmp_path, tmp_path / "own")
    assert "files or folders not read, 25 in all: 00.html, 01.html" in caplog.text
    assert "; and 15 more" in caplog.text
    assert "09.html" in caplog.text
    assert "10.html" not in caplog.text


def test_a_folder_of_which_nothing_is_read_names_what_is_there(tmp_path: Path) -> None:
    put(tmp_path / "own/a.html")
    with pytest.raises(ValueError, match=r"there is no text file.*not read: a\.html") as error:
        names(tmp_path / "own")
    assert "\n" not in str(error.value)


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> None:
    lock(monkeypatch)


@pytest.mark.usefixtures("locked")
def test_a_folder_that_cannot_be_read_is_an_error_or_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "own/a.txt")
    put(tmp_path / "own/locked/b.txt")
    for path in (tmp_path / "own", f"{tmp_path}/own/**/*.txt", f"{tmp_path}/own/*/*.txt"):
        with pytest.raises(ValueError, match=r"cannot read locked \(Permission denied\).*data\.on_error=skip"):
            prepared(tmp_path, path)
    text = prepared(tmp_path, tmp_path / "own", on_error="skip")
    assert "files or folders not read, 1 in all: locked (Permission denied)" in caplog.text
    assert '| Permission denied | 1 | ` "locked" ` |' in (text.folder / "report.md").read_text(encoding="utf-8")


@linux
def test_names_with_the_signs_of_globs_are_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("texts [old]/a.txt", "texts [old]/b [1].txt", "c/[d]/e.txt", "c/d/f.txt", "g/*/h.txt", "g/i/j.txt"):
        put(Path(name))
    assert names("texts [old]") == names("texts [old]/*.txt") == ["a.txt", "b [1].txt"]
    assert names(tmp_path / "texts [old]/*.txt") == ["a.txt", "b [1].txt"]
    assert names("texts [old]/b [1].txt") == ["b [1].txt"]
    assert names("*/[d]/*.txt") == ["c/[d]/e.txt"]
    assert names("c/[d]/*.txt") == ["e.txt"]
    assert names("c/[de]/*.txt") == ["d/f.txt"]
    assert names("texts [[]old]/*.txt") == ["texts [old]/a.txt", "texts [old]/b [1].txt"]
    assert names("?/*/h.txt") == ["g/*/h.txt"]
    assert names("g/**/*.txt") == ["*/h.txt", "i/j.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have Unicode names alone")
@pytest.mark.parametrize("count", [1, 30])
def test_names_that_are_no_utf8_are_read_and_hashed(
    count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(count):
        put(tmp_path / os.fsdecode(b"own/caf\xe9%d.txt" % i), NOVEL + "ab" * i)
    put(tmp_path / os.fsdecode(b"own/\xff.html"))
    put(tmp_path / os.fsdecode(b"own/empty\xff.txt"), "")
    for settings in ({}, {"fraction": 0.9, "dedup": "exact"}, {"keep_text": False}):
        text = prepared(tmp_path, tmp_path / "own", val_fraction=0.3, **settings)
        assert text.manifest["splits"]["train"]["text_bytes"] > 0
        assert "\\udcff" in (text.folder / "report.md").read_text(encoding="utf-8")
    assert "\\udcff.html" in caplog.text
