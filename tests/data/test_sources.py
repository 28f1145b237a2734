import sys
from pathlib import Path

import pytest
from small_corpora import BOOK, TITLE, go_to_an_empty_place, oz, put

from llm_from_scratch.data import downloads
from llm_from_scratch.data.clean import clean
from llm_from_scratch.data.sources import open_source


@pytest.fixture(autouse=True)
def empty_place(tmp_path, monkeypatch):
    go_to_an_empty_place(tmp_path, monkeypatch)


def test_the_file_is_looked_for_in_order(monkeypatch, tmp_path):
    neighbour = put("../shared/corpora/oz/wizard_of_oz.txt", BOOK)
    assert oz().paths[0][1].samefile(neighbour)
    default = put(downloads.corpora_folder() / "oz/wizard_of_oz.txt", BOOK)
    assert default.is_relative_to(tmp_path / "home")
    assert oz().paths[0][1] == default
    named = put(tmp_path / "corpora/oz/wizard_of_oz.txt", BOOK)
    monkeypatch.setenv("LLM_CORPORA", str(tmp_path / "corpora"))
    assert oz().paths[0][1] == named
    named.unlink()
    with pytest.raises(ValueError, match=r"no data\.url"):
        oz()  # the named folder takes the place of the default ones
    own = put("data/oz/wizard_of_oz.txt", BOOK)
    assert oz().paths == [("oz/wizard_of_oz.txt", Path("data/oz/wizard_of_oz.txt"))]
    assert oz().paths[0][1].samefile(own)


def test_a_file_at_hand_needs_the_title_and_no_markers():
    put("data/oz/wizard_of_oz.txt", f"{TITLE}\n\nDorothy".encode())
    assert next(oz("http://127.0.0.1:9/gutenberg").documents()).raw.endswith(b"Dorothy")
    put("data/oz/wizard_of_oz.txt", b"Alice")
    with pytest.raises(ValueError, match=f"wizard_of_oz.txt is not what data=oz means: it lacks '{TITLE}'"):
        oz()


def text(path):
    return open_source(name="text", path=str(path), data_dir=Path("data"))


def names(path):
    return [name for name, _ in text(path).paths]


@pytest.fixture
def folder():
    for name in (
        "b.txt",
        "a/z.md",
        "a/b/c.TEXT",
        "a/x.py",
        ".hidden.txt",
        ".git/x.txt",
        "a/.b/c.txt",
        "B.txt",
        "a.txt/d.txt",
    ):
        put(Path("own") / name, name.encode())
    return Path("own")


def test_a_folder_gives_its_text_files_in_order(folder):
    expected = ["B.txt", "a.txt/d.txt", "a/b/c.TEXT", "a/z.md", "b.txt"]
    assert names(folder) == names(folder.absolute()) == names(f"{folder}/") == expected
    assert [document.raw.decode() for document in text(folder).documents()] == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("own/*.txt", ["B.txt", "b.txt"]),
        ("own/**/*.txt", ["B.txt", "a.txt/d.txt", "b.txt"]),
        ("own/a/**", ["b/c.TEXT", "x.py", "z.md"]),
        ("own/[ab]/*.p?", ["a/x.py"]),
        ("own\\a\\*.py", ["x.py"]),
        ("own/b.txt", ["b.txt"]),
        ("own/.hidden.txt", [".hidden.txt"]),
    ],
)
def test_a_file_and_a_glob(folder, pattern, expected):
    assert names(pattern) == expected
    assert names(Path(pattern).absolute() if "\\" not in pattern else pattern) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_a_name_with_a_glob_sign_is_a_name():
    put("own/what [1].txt", BOOK)
    assert names("own/what [1].txt") == ["what [1].txt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.txt", r"data\.path=nowhere\.txt: there is no such file or folder"),
        ("own/*.pdf", "there is no text file$"),
        ("own/a/empty", r"there is no text file \(\.markdown, \.md.*own/a/empty/\*\*/\*\.py"),
        ("own/empty.txt", "all files are empty"),
    ],
)
def test_nothing_to_read_is_one_line(folder, path, message):
    (folder / "a/empty").mkdir()
    put(folder / "empty.txt", b"")
    with pytest.raises(ValueError, match=message) as error:
        text(path)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_one_line(folder):
    source = text(folder / "b.txt")
    (folder / "b.txt").unlink()
    with pytest.raises(ValueError, match=r"cannot read .*b\.txt: No such file"):
        list(source.documents())


def test_text_without_a_path_says_so():
    with pytest.raises(ValueError, match=r"data=text needs data\.path=FILE"):
        open_source(name="text", data_dir=Path("data"))


def test_the_standard_library_is_text_that_every_machine_has():
    source = open_source(name="stdlib", data_dir=Path("data"))
    found = [name for name, _ in source.paths]
    assert found == sorted(found)
    assert {"argparse.py", "json/decoder.py", "asyncio/base_events.py"} <= set(found)
    assert not [name for name in found if {"test", "tests", "site-packages", "idlelib"} & set(name.split("/"))]
    size = sum(
        len(clean(document.raw, document.name)[0]) for document in source.documents()
    )  # all of it is clean UTF-8
    assert 5e6 < size < 50e6
