"""From files to shards: what is reused, what is prepared anew, what is refused."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from containers import CHARS
from filelock import FileLock
from small_corpora import corpus

from llm_from_scratch.config import DataConfig, PrepareConfig, TokenizerConfig
from llm_from_scratch.data import learning, tasks
from llm_from_scratch.data.prepare import Prepared, is_validation, prepare, prepare_task, split_document
from llm_from_scratch.data.prepared import check_doc_mask
from llm_from_scratch.errors import UserError


def test_one_document_gives_its_last_part(tmp_path: Path) -> None:
    text = "ab cd é" * 100 + "dddd"
    prepared = prepare(corpus(tmp_path, {"a.txt": text}, val_fraction=0.25), CHARS)
    assert ["".join(prepared.documents(split)) for split in ("train", "val")] == [text[:528], text[528:]]
    assert prepared.text_bytes("val") == len(text[528:].encode())
    assert prepared.tokenizer.decode(prepared.shards("train")[0].tokens.tolist()) == text[:528]
    assert split_document("0123456789", 0.3) == ("0123456", "789")


def test_many_documents_are_kept_whole(tmp_path: Path) -> None:
    texts = {f"{i:02}.txt": f"document {chr(97 + i % 5)}{i * '!'} " * 20 for i in range(30)}
    prepared = prepare(corpus(tmp_path, texts, val_fraction=0.3), CHARS)
    sides = {split: set(prepared.documents(split)) for split in ("train", "val")}
    assert sides["train"] | sides["val"] == set(texts.values())
    assert sides["val"] == {text for name, text in texts.items() if is_validation(name, 0.3)} != set()
    ids = prepared.shards("train")[0].tokens.tolist()
    assert ids.count(prepared.tokenizer.eot_id) == len(sides["train"])  # one behind each document


def test_a_document_mask_for_one_document_is_refused(tmp_path: Path) -> None:
    one = prepare(corpus(tmp_path, {"00.txt": "some text " * 50}), CHARS)
    with pytest.raises(UserError, match=r"^data\.doc_mask=true: the text is one document"):
        check_doc_mask(one)
    # Chunks go on behind the end
    check_doc_mask(prepare(corpus(tmp_path, {}, stream="text"), CHARS))
    check_doc_mask(prepare(corpus(tmp_path, {f"{i:02}.txt": "some text " * 50 for i in range(30)}), CHARS))


def test_workers_that_have_no_part_in_it_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    small, workers = corpus(tmp_path, {"a.txt": "some text " * 50}), PrepareConfig(workers=2)
    line = "one process prepares a text that is kept beside its tokens (data.keep_text)"
    prepare(small, CHARS)
    assert line not in caplog.text
    prepare(replace(small, val_fraction=0.2), CHARS, settings=workers)
    assert caplog.text.count(line) == 1
    prepare(replace(small, keep_text=False), CHARS, settings=workers)
    assert caplog.text.count(line) == 1


def test_prepared_once_and_again_when_something_changes(tmp_path: Path) -> None:
    first = prepare(corpus(tmp_path, {"a.txt": "some text " * 50}), CHARS)
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    again = prepare(corpus(tmp_path, {}), CHARS)
    assert again.folder == first.folder
    assert (again.folder / "manifest.json").stat().st_mtime_ns == stamp
    folders = {
        first.folder,
        prepare(corpus(tmp_path, {}, val_fraction=0.2), CHARS).folder,
        prepare(corpus(tmp_path, {}), TokenizerConfig(kind="bpe", vocab_size=270)).folder,
        prepare(corpus(tmp_path, {}, stream="text"), CHARS).folder,
        prepare(corpus(tmp_path, {"a.txt": "other text " * 50}), CHARS).folder,
    }
    assert len(folders) == 5


def test_a_preparation_is_the_same_bytes_twice(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        prepared = prepare(
            corpus(tmp_path / name, {"a.txt": "some text, and some more. " * 50}), TokenizerConfig(vocab_size=280)
        )
        contents.append(
            {
                path.relative_to(prepared.folder): path.read_bytes()
                for path in prepared.folder.rglob("*")
                if path.is_file()
            }
        )
    assert contents[0] == contents[1]


def test_fault_13_what_a_killed_preparation_left_is_no_hindrance(tmp_path: Path) -> None:
    settings = corpus(tmp_path, {"a.txt": "some text " * 50})
    folder = prepare(settings, CHARS).folder
    folder.rename(folder.with_name(f".building-{folder.name}"))
    assert prepare(settings, CHARS).folder == folder
    assert [path.name for path in folder.parent.glob(".building*")] == []


def test_fault_14_a_second_preparation_stops_at_once(tmp_path: Path) -> None:
    settings = corpus(tmp_path, {"a.txt": "some text " * 50})
    folder = prepare(settings, CHARS).folder
    with FileLock(f"{folder}.lock"):
        assert prepare(settings, CHARS).folder == folder  # what is done there is open to all
        shutil.rmtree(folder)
        with pytest.raises(ValueError, match="is being prepared by another process"):
            prepare(settings, CHARS)


def rewrite(path: Path, word: str) -> None:
    """Writes a table of 30 rows; of one size and one time of modification, whatever the word."""
    rows = [json.dumps({"text": f"{word} {i:02} and {word} once more " * 9}) for i in range(30)]
    path.write_text("\n".join(rows), encoding="utf-8")
    os.utime(path, (1_000_000_000, 1_000_000_000))


WAYS = ("alone", "mixture", "task")
ONE_WORKER = PrepareConfig(workers=1)


def start(way: str, folder: Path, **settings: Any) -> Prepared:
    """Prepares the table `folder`/a.jsonl by itself, in a mixture, or as the task of a job array."""
    given: dict[str, Any] = {"path": str(folder / "a.jsonl"), "val_fraction": 0.3, "keep_text": False}
    shared = {"dir": str(folder / "data")} | settings
    if way == "mixture":
        data = DataConfig(name="mix", mix={"rows": 1.0}, corpora={"rows": given}, **shared)
        return prepare(data, CHARS, settings=ONE_WORKER)
    data = DataConfig(name="rows", **given, **shared)
    if way == "alone":
        return prepare(data, CHARS, settings=ONE_WORKER)
    made = prepare_task(data, CHARS, PrepareConfig(task=0))
    assert made is not None
    return made


@pytest.mark.parametrize("way", WAYS)
def test_after_a_changed_file_a_new_start_succeeds(way: str, tmp_path: Path) -> None:
    rewrite(tmp_path / "a.jsonl", "first")
    start("alone", tmp_path, min_chars=1)  # caches the checksum
    rewrite(tmp_path / "a.jsonl", "other")
    with pytest.raises(UserError, match="it was changed while it was read: start again"):
        start(way, tmp_path)
    assert next(start(way, tmp_path).documents("train")).startswith("other")


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_cannot_be_written_is_one_line(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(tmp_path / "a.jsonl", "first")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^data\.dir=.*file/data: .* cannot be written \(Not a directory\): choose"):
        start(way, tmp_path, dir=str(tmp_path / "file/data"))

    def fail(number: int, name: str) -> Callable[..., None]:
        def failing(*given: object, **named: object) -> None:
            raise OSError(number, os.strerror(number), str(tmp_path / name))

        return failing

    monkeypatch.setattr(FileLock, "acquire", fail(errno.EACCES, "data/a.lock"))
    with pytest.raises(
        UserError, match=r"^data\.dir=.*/data: .*a\.lock cannot be written \(Permission denied\): choose"
    ):
        start(way, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(tasks, "write_shard", fail(errno.ENOSPC, "elsewhere"))
    with pytest.raises(UserError, match=r"^the disk is full \(No space left on device\): .*data\.dir=FOLDER"):
        start(way, tmp_path)
    monkeypatch.setattr(tasks, "write_shard", fail(errno.EACCES, "elsewhere"))
    with pytest.raises(PermissionError):  # data.dir is not the cause
        start(way, tmp_path)


def test_a_mixture_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    rewrite(tmp_path / "a.jsonl", "first")
    corpora = {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in ("a", "missing")}
    data = DataConfig(name="mix", dir=str(tmp_path / "new/data"), mix=dict.fromkeys(corpora, 1.0), corpora=corpora)
    with pytest.raises(UserError, match=r"missing\.jsonl: there is no such file"):
        prepare(data, CHARS)
    assert not (tmp_path / "new").exists()


def test_nothing_learned_from_a_changed_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "SAMPLE_BYTES", 2000)  # less than the file: its checksum is not reached
    bpe = TokenizerConfig(vocab_size=280)
    data = DataConfig(name="rows", path=str(tmp_path / "a.jsonl"), dir=str(tmp_path / "data"), keep_text=False)
    rewrite(tmp_path / "a.jsonl", "first")
    expected = prepare(replace(data, dir=str(tmp_path / "elsewhere")), bpe, settings=ONE_WORKER)
    prepare(replace(data, min_chars=1), bpe, settings=ONE_WORKER)
    rewrite(tmp_path / "a.jsonl", "other")
    with pytest.raises(UserError, match="start again"):
        prepare(data, bpe, settings=ONE_WORKER)
    rewrite(tmp_path / "a.jsonl", "first")
    assert prepare(data, bpe, settings=ONE_WORKER).tokenizer.fingerprint == expected.tokenizer.fingerprint


def test_fault_11_broken_texts_name_file_and_byte(tmp_path: Path) -> None:
    settings = corpus(tmp_path, {"a.txt": "fine"})
    for content, place in ((b"abc\xff", "3"), (b"ab\0cd", "2"), ("text".encode("utf-16"), "UTF-16")):
        (tmp_path / "texts/a.txt").write_bytes(content * 20)
        with pytest.raises(ValueError, match=rf"a\.txt.*{place}"):
            prepare(settings, CHARS)


def test_fault_11_what_cleaning_did_is_counted(tmp_path: Path) -> None:
    settings = corpus(tmp_path, {"a.txt": "x"})
    (tmp_path / "texts/a.txt").write_bytes("\ufeffline one\r\nline two\r\n".encode() * 1 + b"more words here\r\n" * 20)
    report = prepare(settings, CHARS).manifest["cleaned"]
    assert sum(report.values()) >= 23  # one byte order mark, 22 carriage returns


@pytest.mark.parametrize("text", ["", "a"])
def test_fault_10_a_text_too_short_to_split(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        prepare(corpus(tmp_path, {"a.txt": text}), CHARS)


# Of what "ab " lacks: ß £ 5, an emoji, q with two marks, two characters
NEW = "ß £5 \U0001f600 q\u0323\u0301 日本"


@pytest.mark.parametrize("stream", ["tokens", "text"])
def test_a_new_character_of_the_validation_split_is_its_bytes(
    tmp_path: Path, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = "ab " * 100 + NEW
    prepared = prepare(corpus(tmp_path, {"a.txt": text}, stream=stream), CHARS)
    ids = prepared.shards("val")[0].tokens.tolist()
    validation = text[int(len(text) * 0.9) :]
    assert prepared.tokenizer.decode(ids) == validation == "".join(prepared.documents("val"))
    assert len(ids) == sum(1 if character in "ab " else len(character.encode()) for character in validation)
    assert prepared.text_bytes("val") == len(validation.encode())
    assert prepared.tokenizer.vocab_size == 1 + 3 + 256
    assert prepared.manifest["splits"]["val"]["unknown_characters"] == 9
    assert "unknown_characters" not in prepared.manifest["splits"]["train"]
    assert "text, val split: characters that are none of the tokenizer's 3: 9; each is written" in caplog.text
    # The training text alone is learned from; without a new character nothing is added.
    settings = corpus(tmp_path, {"a.txt": "ab " * 100 + "bbb"}, stream=stream)
    plain = prepare(settings, CHARS)
    assert (plain.tokenizer.vocab_size, "unknown_characters" in plain.manifest["splits"]["val"]) == (4, False)
    # A model of those three characters has no way to write others.
    with pytest.raises(UserError, match=r"val split: .*'ß' .*none of the training text's 3: leave it out, or"):
        prepare(corpus(tmp_path, {"a.txt": text}, stream=stream), CHARS, tokenizer=plain.tokenizer)
    # One with bytes writes all of another text, which is counted.
    other = prepare(corpus(tmp_path, {"a.txt": "añb" * 50}, stream=stream), CHARS, tokenizer=prepared.tokenizer)
    assert "".join(other.documents("train")) == "añb" * 45
    assert other.manifest["splits"]["val"]["unknown_characters"] == 5


@pytest.mark.parametrize("keep_text", [True, False])
def test_a_new_character_in_one_of_many_documents_is_its_bytes(tmp_path: Path, keep_text: bool) -> None:
    texts = {f"{i:02}.txt": "ab " * 20 + "£" * is_validation(f"{i:02}.txt", 0.3) for i in range(30)}
    settings = corpus(tmp_path, texts, val_fraction=0.3, keep_text=keep_text)
    prepared = prepare(settings, CHARS, settings=PrepareConfig(workers=1))
    count = sum(text.endswith("£") for text in texts.values())
    assert count > 0
    assert prepared.manifest["splits"]["val"]["unknown_characters"] == count
    assert list(prepared.documents("val")) == ["ab " * 20 + "£"] * count
    assert set("".join(prepared.documents("train"))) == set("ab ")


def test_a_new_character_in_a_corpus_of_a_mixture_is_its_bytes(tmp_path: Path) -> None:
    for name, end in (("one", ""), ("two", "£€")):
        (tmp_path / f"{name}.txt").write_text("ab " * 100 + end, encoding="utf-8")
    corpora = {name: {"path": str(tmp_path / f"{name}.txt")} for name in ("one", "two")}
    mix = {"one": 0.5, "two": 0.5}
    data = DataConfig(name="mix", dir=str(tmp_path / "data"), mix=mix, corpora=corpora)
    prepared = prepare(data, CHARS)
    assert prepared.manifest["splits"]["val"]["unknown_characters"] == 2
    assert [part.manifest["splits"]["val"].get("unknown_characters") for part in prepared.parts] == [None, 2]
    assert "".join(prepared.documents("val")).endswith("£€")
