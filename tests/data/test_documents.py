"""Kind 11 of the faults: one policy for documents that are no text, whichever layer sees it, and
every table read as its kind.
"""

import gzip
import io
import json
from pathlib import Path

import pytest
from containers import (
    parquet,
    refused,
    tar,
    texts_of,
)
from hypothesis import given
from hypothesis import strategies as st
from small_corpora import PAGE, broken_table, prepared_few, put

from llm_from_scratch.data.documents import SPLITS, Selection, is_validation, split_document, split_pieces
from llm_from_scratch.data.formats import PLAIN_FORMAT, Format
from llm_from_scratch.data.readers import read_documents

BAD_LINES = {
    2: b'{"text": null}',
    3: b'{"text": "cut o',
    5: b'{"text": "\\ud800"}',
    6: b'["text"]',
    7: b'{"text": "\xff"}',
    8: b'{"text": 17}',
    9: b'{"body": "x"}',
}


def read(folder: Path, name: str, raw: str | bytes, form: Format = PLAIN_FORMAT) -> list[str]:
    return texts_of(list(read_documents(put(folder / "file", raw), name, form)))


# --------------------------------------------------------------------------------------- the policy
def test_all_faults_of_a_small_corpus_are_in_one_message(tmp_path: Path) -> None:
    own = tmp_path / "own"
    put(own / "a.jsonl", broken_table(BAD_LINES))
    put(own / "b.parquet", parquet([PAGE, None]))
    put(own / "c.txt", b"abc\xff" + PAGE.encode())
    put(own / "d.tar", tar({"e.txt": b"ab\0cd", "f.txt": PAGE.encode()}))
    put(own / "g.txt.gz", gzip.compress(PAGE.encode())[:-4])
    with pytest.raises(ValueError, match=r"data\.on_error=skip") as error:
        prepared_few(tmp_path, own)
    line = str(error.value)
    assert line.startswith("11 documents cannot be read: ")
    assert "\n" not in line
    for place in (
        "a.jsonl:2: no text but nothing",
        "a.jsonl:3: no JSON",
        "b.parquet:2: no text",
        "c.txt: byte 3",
        "d.tar/e.txt: byte 2",
    ):
        assert place in line
    assert "; and 1 more: " in line
    assert not list((tmp_path / "data/text").glob("prepared-*/"))


def test_skip_counts_them_and_keeps_examples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = tmp_path / "own"
    put(own / "a.jsonl", broken_table(BAD_LINES))
    put(own / "b.parquet", parquet([PAGE, None]))
    put(own / "c.txt", b"abc\xff" + PAGE.encode())
    put(own / "d.tar", tar({"e.txt": b"ab\0cd", "f.txt": PAGE.encode()}))
    put(own / "g.txt.gz", gzip.compress(PAGE.encode())[:-4])
    for keep_text in (None, False):
        caplog.clear()
        text = prepared_few(tmp_path, own, on_error="skip", keep_text=keep_text)
        assert text.manifest["removed"] == {"no_text": 10, "unreadable": 1}
        counts = text.manifest["splits"]
        # 23 lines, a row, a member
        assert counts["train"]["documents"] + counts["val"]["documents"] == 25
        assert "documents left out that are no text, 10 in all: a.jsonl:2, a.jsonl:3" in caplog.text
        assert "files left out that are damaged, 1 in all: g.txt.gz" in caplog.text
        report = (text.folder / "report.md").read_text(encoding="utf-8")
        assert "| no_text | 10 |" in report
        for name in ("a.jsonl:9", "b.parquet:2", "c.txt", "d.tar/e.txt", "g.txt.gz"):
            assert f'"{name}"' in report


@pytest.mark.parametrize("keep_text", [None, False])
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.tar", "a.csv", "a.json"])
def test_one_bad_document_meets_the_same_policy_in_every_format(
    name: str, keep_text: bool | None, tmp_path: Path
) -> None:
    texts = [f"{PAGE}{'ab' * i}" for i in range(30)]
    raws = {
        "a.jsonl": lambda: broken_table({4: b'{"text": null}'}),
        "a.parquet": lambda: parquet([*texts, None]),
        "a.tar": lambda: tar({f"{i}.txt": text.encode() for i, text in enumerate(texts)} | {"bad.txt": b"\xff"}),
        "a.csv": lambda: ("text\n" + "\n".join(texts)).encode() + b"\n\xff\n",
        "a.json": lambda: json.dumps([*texts, 17]).encode(),
    }
    path = put(tmp_path / name, raws[name]())
    if keep_text is None:  # small: it stops by default
        with pytest.raises(ValueError, match=rf"^{name}\W.*data\.on_error=skip"):
            prepared_few(tmp_path, path)
    else:  # a large one counts it
        assert prepared_few(tmp_path, path, keep_text=False).manifest["removed"] == {"no_text": 1}
    with pytest.raises(ValueError, match=rf"^{name}\W"):
        prepared_few(tmp_path, path, keep_text=keep_text, on_error="stop")
    skipped = prepared_few(tmp_path, path, keep_text=keep_text, on_error="skip")
    assert skipped.manifest["removed"] == {"no_text": 1}
    assert skipped.manifest["splits"]["train"]["documents"] + skipped.manifest["splits"]["val"]["documents"] >= 29


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "b.json", "a.parquet"])
def test_a_wrong_column_of_a_small_corpus_is_one_fault(name: str, tmp_path: Path) -> None:
    rows = [{"data": {"text": PAGE}, "n": 1} for _ in range(30)]
    raws = {
        "a.jsonl": lambda: "\n".join(map(json.dumps, rows)).encode(),
        "a.json": lambda: json.dumps(rows).encode(),
        "b.json": lambda: json.dumps({"body": rows}).encode(),
        "a.parquet": lambda: lists_in_parquet([[PAGE]] * 30),
    }
    with pytest.raises(ValueError, match=rf"^{name}: no (row holds a text under|column of texts) 'text'") as error:
        prepared_few(tmp_path, put(tmp_path / name, raws[name]()))
    assert str(error.value).count(name) == 1


def lists_in_parquet(rows: list[list[str]]) -> bytes:
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    write_table(pa.table({"text": rows}), file)
    return file.getvalue()


def test_a_split_that_is_empty_says_what_was_left_out(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"text": 1}\n{"text": 2}\n')
    with pytest.raises(ValueError, match=r"the train split is empty \(documents left out: no_text 2\)"):
        prepared_few(tmp_path, path, on_error="skip")


def test_a_large_corpus_stops_at_a_damaged_file_by_default(tmp_path: Path) -> None:
    put(tmp_path / "own/a.jsonl", broken_table({}))
    put(tmp_path / "own/b.tar", tar({"a.txt": PAGE.encode()})[:-9000])
    with pytest.raises(ValueError, match=r"^b\.tar.*cut off"):
        prepared_few(tmp_path, tmp_path / "own", keep_text=False)
    text = prepared_few(tmp_path, tmp_path / "own", keep_text=False, on_error="skip")
    assert text.manifest["removed"] == {"unreadable": 1}


def test_with_fraction_and_duplicates_the_policy_is_the_same(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", broken_table(BAD_LINES))
    for settings in ({"dedup": "exact"}, {"fraction": 0.9}):
        with pytest.raises(ValueError, match="documents cannot be read"):
            prepared_few(tmp_path, path, **settings)
        removed = prepared_few(tmp_path, path, on_error="skip", **settings).manifest["removed"]
        assert removed["no_text"] + removed.get("fraction", 0) >= 7
        assert removed["no_text"] <= 7


# ------------------------------------------------------------------------------------------- limits
@pytest.mark.parametrize("keep_text", [None, False])
def test_a_fault_behind_the_last_document_taken_is_not_met(keep_text: bool | None, tmp_path: Path) -> None:
    put(tmp_path / "own/a.jsonl", broken_table({26: b"no", 27: b'{"text": 17}'}))
    put(tmp_path / "own/b.tar", tar({"a.txt": PAGE.encode()})[:-9000])
    with pytest.raises(ValueError, match=r"b\.tar.*cut off"):
        prepared_few(tmp_path, tmp_path / "own", keep_text=keep_text, max_docs=50)
    for settings in ({}, {"on_error": "stop"}, {"on_error": "skip"}):
        text = prepared_few(tmp_path, tmp_path / "own", keep_text=keep_text, max_docs=25, **settings)
        splits = text.manifest["splits"]
        assert sum(splits[split]["documents"] for split in SPLITS) == 25
        assert text.manifest["removed"] == {}
        assert "25 documents were read" in (text.folder / "report.md").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------- encodings
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le"])
def test_texts_in_another_encoding_are_read_when_it_is_named(encoding: str, tmp_path: Path) -> None:
    text = "Émile said: déjà vu. " * 20
    form = Format(encoding=encoding)
    assert read(tmp_path, "a.txt", text.encode(encoding), form) == [text]
    assert read(tmp_path, "a.csv", f"text\n{text}\n".encode(encoding), form) == [text]
    rows = json.dumps({"text": text}, ensure_ascii=False)
    assert read(tmp_path, "a.jsonl", rows.encode(encoding), form) == [text]
    assert read(tmp_path, "a.json", f"[{rows}]".encode(encoding), form) == [text]
    assert read(tmp_path, "a.txt.gz", gzip.compress(text.encode(encoding)), form) == [text]
    path = put(tmp_path / "own/a.txt", text.encode(encoding))
    split = prepared_few(tmp_path, path, encoding=encoding)
    assert "".join(list(split.documents("train")) + list(split.documents("val"))) == text


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le"])
def test_a_text_in_utf8_is_not_read_in_another_encoding(encoding: str, tmp_path: Path) -> None:
    for text in ("Émile said: déjà vu. " * 20, "\ufeffplain text. " * 20):
        with pytest.raises(ValueError, match=rf"^a\.txt: its bytes are UTF-8, and data\.encoding={encoding}"):
            read(tmp_path, "a.txt", text.encode(), Format(encoding=encoding))
    assert read(tmp_path, "a.txt", "plain".encode(encoding), Format(encoding=encoding)) == ["plain"]


def test_a_byte_that_the_encoding_does_not_know_is_named(tmp_path: Path) -> None:
    form = Format(encoding="cp1252")
    for name, place in (("a.txt", r"a\.txt: byte 2: 0x81 is not cp1252 here"),):
        with pytest.raises(ValueError, match=place):
            read(tmp_path, name, b"ab\x81", form)
    bad = r"a byte that is not cp1252: correct data\.encoding or the file"
    for name, raw in (("a.jsonl", b'{"text": "a"}\n{"text": "\x81"}\n'), ("a.csv", b'text\n"\x81"\n')):
        with pytest.raises(ValueError, match=rf"^{name}:2: {bad}"):
            read(tmp_path, name, raw, form)
    with pytest.raises(ValueError, match=rf"^a\.json: {bad}"):
        read(tmp_path, "a.json", b'["\x81"]', form)


def test_the_message_about_bytes_offers_the_setting(tmp_path: Path) -> None:
    for raw, offer in (
        (b"caf\xe9" * 50, r"data\.encoding=cp1252"),
        ("café".encode("utf-16"), r"data\.encoding=utf-16"),
    ):
        with pytest.raises(ValueError, match=offer):
            prepared_few(tmp_path, put(tmp_path / "a.txt", raw))
    rows = f'{{"text": "{"café" * 50}"}}\n' * 20
    (tmp_path / "alone").mkdir()
    for name, raw in (
        ("a.jsonl", rows),
        ("a.csv", f"text\n{rows}".replace('"', "")),
        ("a.json", f"[{rows.strip().replace(chr(10), ',')}]"),
    ):
        # A byte of a row of CSV is named by `clean`, as one of a text is.
        for encoding in ("utf-16", "cp1252") if name != "a.csv" else ("utf-16",):
            refused(tmp_path / "alone", name, raw.encode(encoding), rf"data\.encoding(={encoding})?")


# --------------------------------------------------------------------------------------- separators
def test_an_end_of_text_within_a_file_is_said_and_the_option_parts_documents(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f"{PAGE}{'ab' * i}\n" for i in range(30)]
    path = put(tmp_path / "own/a.txt", "<|endoftext|>\n".join(texts) + "<|endoftext|>\n")
    whole = prepared_few(tmp_path, path)
    assert "data.separator='<|endoftext|>'" in caplog.text
    assert whole.manifest["splits"]["train"]["documents"] == 1
    caplog.clear()
    parted = prepared_few(tmp_path, path, separator="<|endoftext|>")
    assert sorted([*parted.documents("train"), *parted.documents("val")]) == sorted(texts)
    assert "separator" not in caplog.text
    ids = parted.shards("train")[0].tokens.tolist()
    assert ids.count(parted.tokenizer.eot_id) == parted.manifest["splits"]["train"]["documents"]
    assert read(tmp_path, "a.txt", "one<|e|>\r\ntwo<|e|><|e|>three", Format(separator="<|e|>")) == [
        "one",
        "two",
        "",
        "three",
    ]
    assert read(tmp_path, "a.jsonl", '{"text": "a<|e|>b"}', Format(separator="<|e|>")) == ["a<|e|>b"]


# ------------------------------------------------------------------------------------------- splits
@given(st.text(max_size=50), st.floats(0, 1))
def test_the_pieces_of_a_split_are_the_document(text: str, val_fraction: float) -> None:
    for whole in (True, False):
        parts = dict.fromkeys(SPLITS, "")
        for split, piece in split_pieces("a.txt", text, Selection(val_fraction=val_fraction), whole):
            assert piece
            parts[split] += piece
        if not whole:
            assert tuple(parts.values()) == split_document(text, val_fraction)
        else:
            assert parts["val" if is_validation("a.txt", val_fraction) else "train"] == text
            assert "" in parts.values()
