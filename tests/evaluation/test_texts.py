"""The text that --data names: WikiText by its published names alone, a corpus with all its
settings.
"""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from llm_from_scratch.config import DataConfig
from llm_from_scratch.data import sources
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation import texts
from llm_from_scratch.evaluation.texts import other_text
from llm_from_scratch.places import config_dir

LINES = "one \n two two \n"


@pytest.mark.parametrize("name", ["wiki.txt", "wiki.notes.txt", "wiki.test.raw.txt", "my-wiki.test.raw"])
def test_a_file_of_another_name_is_no_wikitext(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LINES, encoding="utf-8")
    text = other_text(str(tmp_path / name))
    assert (text.lines, text.words) == (False, 3)
    assert text.name == f"{tmp_path / name}, all of it"


def test_tables_of_another_folder_are_no_wikitext(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, lines in (("wikitext-2-raw-v1", True), ("my-wikitext", False)):
        (tmp_path / name).mkdir()
        parquet.write_table(pyarrow.table({"text": ["one\n"]}), tmp_path / name / "test-00000-of-00001.parquet")
        assert other_text(str(tmp_path / name)).lines is lines


@pytest.mark.parametrize("name", ["wiki.test.raw", "wiki.train.tokens"])
def test_wikitext_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    path = tmp_path / name
    path.write_text(LINES, encoding="utf-8")
    with caplog.at_level("INFO"):
        text = other_text(str(path), "--against")
    assert (text.lines, text.words) == (True, 5)
    assert f"--against {path}: scored as WikiText: one document, and the end of a line is a word" in caplog.text


def corpus(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    """A corpus named `mine`, of a machine where data/ is in `folder`."""
    (folder / "configs/data").mkdir(parents=True)
    values = {"defaults": ["base", "_self_"], "name": "mine"} | settings
    OmegaConf.save(OmegaConf.create(values), folder / "configs/data/mine.yaml")
    monkeypatch.setattr(texts, "config_dir", lambda: folder / "configs")
    monkeypatch.chdir(folder)
    (folder / "data").mkdir()


def test_a_named_corpus_is_read_with_all_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(tmp_path, monkeypatch, layouts=["mine/*.jsonl"], column="body", encoding="latin-1")
    (tmp_path / "data/mine").mkdir()
    rows = [{"body": "café", "text": "not this"}, {"body": "tea", "text": "nor this"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "data/mine/a.jsonl").write_text(lines, encoding="latin-1")
    assert other_text("mine").documents == ("café", "tea")


def test_a_named_corpus_may_be_downloaded_and_a_path_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(tmp_path, monkeypatch, file="mine.txt", url="https://example.org/mine.txt")
    may: list[bool] = []

    def fetched(*arguments: object) -> Path:
        may.append(bool(arguments[-1]))
        (tmp_path / "data/mine.txt").write_text("brought", encoding="utf-8")
        return tmp_path / "data/mine.txt"

    monkeypatch.setattr(sources, "corpus_file", fetched)
    assert (other_text("mine").documents, may) == (("brought",), [True])
    with pytest.raises(UserError, match=r"^--data mine/absent: there is no such file or folder"):
        other_text("mine/absent")


@pytest.mark.parametrize("name", ["mix", "text"])
def test_a_config_without_a_text_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"^--against {name}: names no text by itself"):
        other_text(name, "--against")


def test_the_defaults_of_the_schema_are_those_that_corpora_share() -> None:
    base = OmegaConf.to_container(OmegaConf.load(config_dir() / "data/base.yaml"))
    assert isinstance(base, dict)
    assert base.pop("name") == "???"
    defaults = asdict(DataConfig())
    assert base == {key: defaults[key] for key in base}
