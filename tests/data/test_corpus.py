"""The names of prepared folders, and the settings that they follow."""

import json
from pathlib import Path

import pytest
from containers import CHARS
from small_corpora import broken_table, prepared_few, put

from llm_from_scratch.check import check
from llm_from_scratch.config import Config, DataConfig
from llm_from_scratch.data.prepare import prepare


def test_young_settings_leave_the_names_of_prepared_folders_as_they_were(tmp_path: Path) -> None:
    put(tmp_path / "own/a.txt", "some text " * 50)
    # The names that version 0.1 gave.
    assert prepared_few(tmp_path, tmp_path / "own").folder.name == "prepared-86dc34e2844d"
    put(tmp_path / "rows/a.jsonl", broken_table({}))
    assert prepared_few(tmp_path, tmp_path / "rows").folder.name == "prepared-0ad3f9f1e75d"
    assert prepared_few(tmp_path, tmp_path / "rows", keep_text=False).folder.name == "prepared-67feaf903a29"
    same = prepared_few(tmp_path, tmp_path / "own", encoding="UTF8").folder.name
    assert same == "prepared-86dc34e2844d"
    others = {
        prepared_few(tmp_path, tmp_path / "own", **one).folder.name
        for one in ({"on_error": "stop"}, {"encoding": "cp1252"}, {"separator": "x"})
    }
    assert len(others | {same}) == 4


@pytest.mark.parametrize("name", ["utf-9", "rot13", "hex", "base64", "a\0b"])
def test_an_encoding_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"data\.encoding=.*must be one of Python's text encodings"):
        check({"data": {"encoding": name}}, Config)


def data(folder: Path, path: Path, **more: object) -> DataConfig:
    return DataConfig(name="text", path=str(path), dir=str(folder / "data"), **more)  # type: ignore[arg-type]


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
