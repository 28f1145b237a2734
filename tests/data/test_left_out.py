"""Kinds 10 and 15 of the faults: everything of a corpus that is not read is named, and any name of
a file or folder can be read.
"""

import gzip
import json
import logging
import os
import re
from pathlib import Path

import pytest
from containers import (
    parquet,
    tar,
)
from small_corpora import NOVEL, linux, lock, opened, prepared, put

from llm_from_scratch.data import corpus, readers, sources


@linux
def test_every_file_that_is_not_read_is_named_once_and_in_the_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tmp_path / "own"
    for name in ("a.txt", "b.txt", "c.html", "d.json", "e.csv", ".hidden.txt", ".git/x.txt", "f"):
        put(own / name)
    (own / "broken.txt").symlink_to(own / "nowhere")
    (own / "round").symlink_to(own / "round")
    os.mkfifo(own / "pipe.txt")
    text = prepared(tmp_path, own)
    (line,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert line.startswith("text: files or folders not read, 9 in all: ")
    assert ".git, .hidden.txt (hidden)" in line
    assert "broken.txt, round (a broken link)" in line
    assert "pipe.txt (no regular file)" in line
    assert "d.json (data.path=" in line
    report = (text.folder / "report.md").read_text(encoding="utf-8")
    for name in ("c.html", "d.json", "e.csv", ".hidden.txt", ".git", "f", "broken.txt", "round", "pipe.txt"):
        assert f'"{name}"' in report
    caplog.clear()
    assert prepared(tmp_path, own).folder == text.folder
    assert "9 in all" in caplog.text  # a later start says it, too


def test_a_relative_path_that_is_missing_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"story.txt: there is no such file or folder in {re.escape(str(tmp_path))}$"):
        opened("story.txt")
    with pytest.raises(ValueError, match="there is no such file or folder$"):
        opened(tmp_path / "story.txt")


def test_a_published_corpus_is_found_behind_links_too(tmp_path: Path) -> None:
    put(tmp_path / "disk/plain_text/a.jsonl", "{}")
    put(tmp_path / "disk/plain_text/.cache/b.jsonl", "{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/corpus").symlink_to(tmp_path / "disk")
    source = sources.open_source(name="c", layouts=["corpus/**/*.jsonl"], data_dir=tmp_path / "data")
    assert [name for name, _ in source.paths] == ["corpus/plain_text/a.jsonl"]
    assert source.skipped == [("corpus/plain_text/.cache", "hidden")]


def test_what_an_archive_leaves_out_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {"a.txt": NOVEL.encode(), "b.html": b"x", ".c.txt": b"x", "d.tar": tar({"e.txt": b"y", "f.csv": b"z"})}
    path = put(tmp_path / "own/a.tar.gz", gzip.compress(tar(members)))
    text = prepared(tmp_path, path)
    report = (text.folder / "report.md").read_text(encoding="utf-8")
    for name in ("a.tar.gz/b.html", "a.tar.gz/.c.txt", "a.tar.gz/d.tar/f.csv"):
        assert name in caplog.text
        assert name in report


def test_empty_rows_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [NOVEL, "", NOVEL, ""]
    put(tmp_path / "own/a.jsonl", "\n".join(json.dumps({"id": 1, "text": row}) for row in rows))
    put(tmp_path / "own/b.parquet", parquet(rows))
    text = prepared(tmp_path, tmp_path / "own")
    assert "empty documents, 4 in all: a.jsonl:2, a.jsonl:4, b.parquet:2, b.parquet:4" in caplog.text
    assert "| empty | 4 |" in (text.folder / "report.md").read_text(encoding="utf-8")
    assert "removed" not in text.manifest  # a manifest is of the same bytes as before


def test_columns_that_are_not_read_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    put(tmp_path / "a.jsonl", json.dumps({"url": "x", "title": "y", "text": NOVEL}))
    text = prepared(tmp_path, tmp_path / "a.jsonl")
    assert "columns not read: title, url (a column beside data.column)" in caplog.text
    assert not (text.folder / "report.md").exists()


@pytest.mark.parametrize("keep_text", [None, False])
def test_every_column_that_is_not_read_is_counted_once(
    keep_text: bool | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    columns = {f"column {i:02}": i for i in range(25)}
    for part in range(3):
        rows = [json.dumps(columns | {f"of part {part}": 1, "text": NOVEL + "ab" * i}) for i in range(10)]
        put(tmp_path / f"own/{part}.jsonl", "\n".join(rows))
    settings = {"keep_text": keep_text, "shard_bytes": 1, "val_fraction": 0.3, "min_chars": 1}
    text = prepared(tmp_path, tmp_path / "own", **settings)
    assert "column 09 (a column beside data.column); and 18 more" in caplog.text
    assert "| a column beside data.column | 28 | " in (text.folder / "report.md").read_text(encoding="utf-8")
    wide = ",".join([f"c{i}" for i in range(100)]) + f",text\n{'1,' * 100}{NOVEL}\n"
    text = prepared(tmp_path, put(tmp_path / "wide.csv", wide + wide.partition("\n")[2] * 30), **settings)
    assert "| a column beside data.column | 100 or more | " in (text.folder / "report.md").read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------- unreadable
@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> None:
    lock(monkeypatch)


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize("keep_text", [None, False])
def test_a_file_that_cannot_be_read_is_an_error_or_is_counted(
    keep_text: bool | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(30):
        put(tmp_path / f"own/{i}.txt", NOVEL + "ab" * i)
    put(tmp_path / "own/locked.txt")
    settings = {"keep_text": keep_text, "val_fraction": 0.3}
    with pytest.raises(ValueError, match=r"cannot read locked\.txt \(Permission denied\).*data\.on_error=skip"):
        prepared(tmp_path, tmp_path / "own", **settings)
    prepared(tmp_path, tmp_path / "own", on_error="skip", **settings)
    assert "locked.txt (Permission denied)" in caplog.text


@linux
def test_a_pipe_is_refused_before_it_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for form in ("pipe", "a.txt", "a.jsonl", "a.txt.gz", "a.tar", "a.parquet"):
        (tmp_path / "pipe").rename(tmp_path / form)
        with pytest.raises(ValueError, match="no regular file"):
            prepared(tmp_path, tmp_path / form)
        # A file that became one after it was found
        with pytest.raises(ValueError, match="no regular file"):
            list(readers.read_documents(tmp_path / form, form))
        (tmp_path / form).rename(tmp_path / "pipe")


# -------------------------------------------------------------------------- saved while it was read
@pytest.mark.parametrize(
    ("name", "keep_text"),
    [("a.txt", None), ("a.jsonl", None), ("a.jsonl", False), ("a.parquet", False), ("a.jsonl.gz", False)],
)
@pytest.mark.parametrize("settings", [{}, {"max_docs": 25}])
def test_a_file_saved_between_its_checksum_and_its_reading_is_refused(
    name: str, keep_text: bool | None, settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def content(word: str) -> bytes:
        rows = [f"{word} {i % 2} {NOVEL}" for i in range(30)]
        if name.endswith(".parquet"):
            return parquet(rows)
        if ".jsonl" in name:
            raw = "\n".join(json.dumps({"text": row}) for row in rows).encode()
            return gzip.compress(raw) if name.endswith(".gz") else raw
        return "\n".join(rows).encode()

    path = put(tmp_path / name, content("first"))
    stamp = path.stat()
    checksums = corpus._checksums

    def saved_after(*arguments: object) -> object:
        found = checksums(*arguments)  # type: ignore[arg-type]
        path.write_bytes(content("other"))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        return found

    monkeypatch.setattr(corpus, "_checksums", saved_after)
    settings = {"keep_text": keep_text, "val_fraction": 0.3, **settings}
    with pytest.raises(ValueError, match="was changed while it was read: start again"):
        prepared(tmp_path, path, **settings)
    path.write_bytes(content("first"))
    with pytest.raises(ValueError, match="was changed"):  # not a document to be skipped
        prepared(tmp_path, path, on_error="skip", **settings)
    monkeypatch.undo()
    assert prepared(tmp_path, path, **settings).folder.exists()
