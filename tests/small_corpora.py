"""Small corpora of the tests of data/: files put in place, opened and prepared."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import story
from containers import CHARS

from llm_from_scratch.config import DataConfig
from llm_from_scratch.data import downloads, sources
from llm_from_scratch.data.prepare import Prepared, prepare

SENTENCE = "Dorothy lived in the midst of the great Kansas prairies. "
PAGE, NOVEL = SENTENCE * 5, SENTENCE * 20
# Curly quotes, blanks and lines that begin with blanks: what a tokenizer must give back.
PROSE_AND_CODE = (
    """Dorothy lived in the midst of the great Kansas prairies, with Uncle Henry, who was a farmer.
There were four walls, a floor and a roof, which made one room; and this room contained a “rusty looking” stove.

    def indent(x):
        return [x for x in (1, 2, 3)]
"""
    * 20
)
TITLE = "The Wonderful Wizard of Oz"
BOOK = (
    f"{TITLE}\n*** START OF THE PROJECT GUTENBERG EBOOK ***\n".encode()
    + b"Dorothy lived in Kansas.\n" * 20_000
    + b"*** END OF THE PROJECT GUTENBERG EBOOK ***\n"
)
linux = pytest.mark.skipif(sys.platform == "win32", reason="no such names or files there")
SHA256 = hashlib.sha256(BOOK).hexdigest()


def put(path: str | Path, content: str | bytes = NOVEL) -> Path:
    """Writes a file, below folders that are made for it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def opened(path: object, on_error: str | None = None) -> sources.Source:
    return sources.open_source(name="text", path=str(path), on_error=on_error, data_dir=Path("data"))


def names(path: object, on_error: str | None = None) -> list[str]:
    return [name for name, _ in opened(path, on_error).paths]


def prepared(folder: Path, path: object, **settings: Any) -> Prepared:
    """A text of the user's, by characters, in `folder`/data; warned of as in a new process."""
    sources._warn_once.cache_clear()
    return prepare(DataConfig(name="text", path=str(path), dir=str(folder / "data"), **settings), CHARS)


# Of a handful of documents, some to validate on.
prepared_few: Callable[..., Prepared] = partial(prepared, val_fraction=0.3)


def broken_table(bad: dict[int, bytes]) -> bytes:
    """Returns 30 lines of JSON; `bad` are other lines in their place, by number from 1."""
    lines = (bad.get(i, json.dumps({"text": f"{PAGE}{'ab' * i}"}).encode()) for i in range(1, 31))
    return b"\n".join(lines)


def corpus(folder: Path, texts: dict[str, str], **settings: Any) -> DataConfig:
    """Writes texts below `folder`; they and the earlier ones are the corpus."""
    for name, text in texts.items():
        put(folder / "texts" / name, text)
    return DataConfig(name="text", path=str(folder / "texts"), dir=str(folder / "data"), **settings)


def mix(folder: Path, **changes: Any) -> DataConfig:
    """Two made texts, three sequences of the first for one of the second."""
    for name, seed in (("one", 1), ("two", 2)):
        (folder / f"{name}.txt").write_text(story(9_000 * seed, seed), encoding="utf-8")
    corpora = {name: {"path": str(folder / f"{name}.txt")} for name in ("one", "two")}
    settings: dict[str, Any] = {"mix": {"one": 0.75, "two": 0.25}, "corpora": corpora} | changes
    return DataConfig(name="mix", dir=str(folder / "data"), **settings)


def oz(url: str | None = None, **more: Any) -> sources.Source:
    return sources.open_source(
        name="oz", file="oz/wizard_of_oz.txt", url=url, must_contain=TITLE, data_dir=Path("data"), **more
    )


def go_to_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No corpus at hand, and no waiting for the network."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("LLM_CORPORA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name in ("HOME", "USERPROFILE", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setattr(downloads, "TIMEOUT", 0.5)


def lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses to list folders named `locked` and to open files named `locked.txt`, also to root."""
    scandir, opens = os.scandir, os.open

    def refuse(name: str) -> None:
        if name.split("/")[-1] in ("locked", "locked.txt"):
            raise PermissionError(13, "Permission denied", name)

    def scan(path: object) -> object:
        refuse(str(path))
        return scandir(path)  # type: ignore[call-overload]

    def open_(path: object, *more: object, **named: object) -> object:
        refuse(str(path))
        return opens(path, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr(os, "open", open_)
