"""Tables of texts: columns, rows, what is wrong with one."""

import errno
import gzip
import io
import json
from pathlib import Path

import pytest
from containers import TEXTS, jsonl, parquet, read, refused, texts_in, texts_of
from small_corpora import PAGE, prepared_few, put

from llm_from_scratch.data import streams, tables
from llm_from_scratch.data.formats import Format
from llm_from_scratch.data.readers import read_documents


def test_the_column_is_named_in_data_column(tmp_path: Path) -> None:
    for name, raw in (("a.jsonl", jsonl(TEXTS, "body")), ("a.parquet", parquet(list(TEXTS), "body"))):
        assert texts_of(read(tmp_path, name, raw, Format("body"))) == TEXTS
        refused(tmp_path, name, raw, r"'text'.*data\.column names the text, of \['id', 'body'\]")


def test_tables_of_every_compression_and_encoding(tmp_path: Path) -> None:
    for compression in ("none", "snappy", "gzip", "zstd", "brotli"):
        for dictionary in (True, False):
            raw = parquet(TEXTS * 20, compression=compression, use_dictionary=dictionary)
            assert texts_of(read(tmp_path, "a.parquet", raw)) == TEXTS * 20
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pa.table({"text": pa.array(TEXTS, pa.large_string())}), tmp_path / "large.parquet")
    assert texts_of(list(read_documents(tmp_path / "large.parquet", "large.parquet"))) == TEXTS


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


def test_fault_12_a_table_that_repeats_a_long_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ALLOWANCE", 2**20)
    refused(tmp_path, "a.parquet", parquet(["x" * 10_000_000], compression="zstd"), "a decompression bomb")
    monkeypatch.setattr(streams, "MAX_RATIO", 10)
    refused(tmp_path, "a.parquet", parquet(["ab" * 10_000] * 300, compression="zstd"), "a decompression bomb")


def test_what_is_no_damage_of_a_table_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = parquet(list(TEXTS))
    monkeypatch.setattr(tables, "ROWS", "sixteen")  # a bug of the package's own
    with pytest.raises(TypeError):
        read(tmp_path, "a.parquet", raw)
    monkeypatch.undo()

    class Disk(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads -= 1
            if self.reads < 0:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    for reads in (0, 2):
        disk = Disk(raw)
        disk.reads = reads
        reader = tables.TableReader(Format(), streams.Budget(), lambda *_: None, lambda *_: None)
        with pytest.raises(OSError, match="Input/output error"):
            list(tables.parquet_rows(disk, put(tmp_path / "a.parquet", raw), "a.parquet", reader))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_wrong_column_is_no_fault_of_each_row(name: str, tmp_path: Path) -> None:
    rows = [{"text": f"{PAGE}{'ab' * i}"} for i in range(1100)]
    raws = {
        "a.jsonl": lambda: "\n".join(map(json.dumps, rows)).encode(),
        "a.json": lambda: json.dumps(rows).encode(),
        "a.csv": lambda: ("text\n" + "\n".join(row["text"] for row in rows)).encode(),
        "a.parquet": lambda: parquet([row["text"] for row in rows]),
    }
    path = put(tmp_path / name, raws[name]())
    with pytest.raises(ValueError, match=rf"^{name}: no .*'body'.*data\.column names the text, of \["):
        prepared_few(tmp_path, path, keep_text=False, column="body")


def test_a_nested_key_is_named_by_a_path_and_a_literal_one_wins(tmp_path: Path) -> None:
    rows = [{"data": {"text": "inner", "a.b": "dotted"}}, {"data.text": "literal", "data": {"text": "inner"}}]
    raw = "\n".join(map(json.dumps, rows))
    assert texts_in(tmp_path, "a.jsonl", raw, Format("data.text")) == ["inner", "literal"]
    assert texts_in(tmp_path, "a.json", json.dumps(rows), Format("data.text")) == ["inner", "literal"]
    assert texts_in(tmp_path, "a.jsonl", json.dumps(rows[0]), Format("data.a.b")) == ["dotted"]
    refused(tmp_path, "a.jsonl", b'{"data": "x"}', r"^a\.jsonl: no row holds a text under 'text'.*\['data'\]")
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    struct = pa.array([{"text": "one", "n": 1}, {"text": None, "n": 2}, None, {"text": "four", "n": 4}])
    write_table(pa.table({"data": struct, "list": [["x"]] * 4}), tmp_path / "file")
    faults: list[str] = []
    found = read_documents(
        tmp_path / "file", "a.parquet", Format("data.text"), on_fault=lambda name, _: faults.append(name)
    )
    assert texts_of(list(found)) == ["one", "four"]
    assert faults == ["a.parquet:2", "a.parquet:3"]
    for wrong in ("data.body", "data", "nothing.text", "list.list.element"):
        with pytest.raises(ValueError, match="data.column|no text but dict"):
            list(read_documents(tmp_path / "file", "a.parquet", Format(wrong)))


def test_bytes_of_a_parquet_row_that_are_no_utf8_are_of_that_row(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    array = pa.array([b"\xff", PAGE.encode()] * 15).view(pa.string())
    write_table(pa.table({"text": array}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"15 documents.*a\.parquet:1: byte 0: 0xFF is not UTF-8 here"):
        prepared_few(tmp_path, tmp_path / "a.parquet")


def test_csv_and_tsv_are_tables(tmp_path: Path) -> None:
    table = 'id,text\r\n1,plain\r\n2,"with, comma, ""marks"" and\nlines"\r\n\r\n3,é\r\n4,\r\n'
    expected = ["plain", 'with, comma, "marks" and\nlines', "é", ""]
    assert texts_in(tmp_path, "a.csv", table) == expected
    assert texts_in(tmp_path, "a.csv", "\ufeff" + table) == expected
    assert texts_in(tmp_path, "a.csv.gz", gzip.compress(table.encode())) == expected
    assert texts_in(tmp_path, "a.csv", table.replace("with, comma, ", "").replace(",", ";")) == [
        "plain",
        '"marks" and\nlines',
        "é",
        "",
    ]
    assert texts_in(tmp_path, "a.tsv", "n\ttext\n1\ta, b; c\n") == ["a, b; c"]
    names = [document.name for document in read_documents(put(tmp_path / "file", table), "a.csv")]
    assert names == ["a.csv:2", "a.csv:3", "a.csv:6", "a.csv:7"]
    assert texts_in(tmp_path, "a.csv", "data.text\nx\n", Format("data.text")) == ["x"]
    assert texts_in(tmp_path, "a.csv", '"id","two\nlines",text\n1,2,x\n') == ["x"]
    assert texts_in(tmp_path, "a.csv", '"id";"two\n,lines";"text"\n1;2;x\n') == ["x"]
    assert texts_in(tmp_path, "a.csv", '5" disk,text\n1,x\n') == ["x"]
    refused(tmp_path, "a.csv", b"text,text\na,b\n", r"^a\.csv: 2 columns are called 'text'")
    for name in ("a.csv", "a.tsv"):
        refused(tmp_path, name, b"id,body\n1,x\n", r"no column 'text' in its first line: data\.column names the text")
        refused(tmp_path, name, b"", "no column")


@pytest.mark.parametrize(
    ("row", "message"),
    [("1,2,3", "3 fields for 2 columns"), ('1,"a"b', "no row of a table"), ('1,"never closed', "no row of a table")],
)
def test_a_wrong_row_of_csv_is_named_and_the_next_is_read(row: str, message: str, tmp_path: Path) -> None:
    raw = f"id,text\n0,first\n{row}\n".encode()
    refused(tmp_path, "a.csv", raw, rf"^a\.csv:3: {message}")
    faults: list[str] = []
    path = put(tmp_path / "file", raw + b"2,last\n")
    found = texts_of(list(read_documents(path, "a.csv", on_fault=lambda name, _: faults.append(name))))
    assert faults == ["a.csv:3"]
    assert found == (["first"] if "never" in row else ["first", "last"])


def test_a_field_of_csv_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_DOCUMENT", 1000)
    refused(tmp_path, "a.csv", b"text\n" + b"a" * 2000, r"^a\.csv:2: a line above 1,000 bytes")
    refused(tmp_path, "a.csv", b'text\n"' + b"a\n" * 2000, r"^a\.csv:2: no row of a table .*limit")


@pytest.mark.parametrize("size", [tables.CHUNK, 7])
def test_a_list_of_json_is_a_table(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHUNK", size)
    texts = ["one", "é 猫 🦁", 'with "marks", [brackets] {and} so on\n' * 30, ""]
    for indent in (None, 2):
        rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
        assert texts_in(tmp_path, "a.json", json.dumps(rows, indent=indent, ensure_ascii=False)) == texts
        assert texts_in(tmp_path, "a.json", json.dumps(texts, indent=indent)) == texts
    assert texts_in(tmp_path, "a.json", " [ ] \n") == []
    assert texts_in(tmp_path, "a.json", '{"text": "one"}\n{"text": "two"}\n') == ["one", "two"]
    assert texts_in(tmp_path, "a.ndjson", '{"text": "one"}\n') == ["one"]
    for raw, message in (
        ('{\n "text": "one"\n}', r"^a\.json:1: no JSON"),
        ('"text"', "a list of objects or of strings"),
        ("", "a list of objects or of strings"),
        ('["a", 12, "b"]', r"^a\.json:2: no text but int"),
        ('["a" "b"]', r"^a\.json:1: no comma"),
        ('["a", "b', r"^a\.json:2: no JSON"),
        ('["a", nothing]', r"^a\.json:2: no JSON"),
        ('["a"] "b"', "text behind the list"),
        ('["a",', r"^a\.json:2: no JSON"),
        ("[" * 100_000, "no JSON|of strings"),
    ):
        refused(tmp_path, "a.json", raw.encode(), message)
    refused(tmp_path, "a.json", b'["\xff"]', "save the file as UTF-8")


def test_a_long_list_of_json_takes_linear_time(tmp_path: Path) -> None:
    rows = [{"text": "x" * 100}] * 20_000 + [{"text": "y" * 5_000_000}]
    assert len(texts_in(tmp_path, "a.json", json.dumps(rows))) == 20_001
