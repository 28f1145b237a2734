"""Files of conversations, prepared: shards with a mask, found again, verified; faults by file and row."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_from_scratch.config import DataConfig, TokenizerConfig
from llm_from_scratch.data.conversations import MARKERS
from llm_from_scratch.data.documents import hash_in_unit_interval
from llm_from_scratch.data.prepare import prepare, source_fingerprint, source_now
from llm_from_scratch.data.prepared import Conversations, find_prepared, open_prepared
from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer import BPETokenizer, CharTokenizer

BPE = BPETokenizer.train(
    ["Who is number one hundred? It is 1 2 3 4 5 6 7 8 9 0. user assistant\n" * 9], 300, special=MARKERS
)
ROWS = [
    {"messages": [{"role": "user", "content": f"Who is {n}?"}, {"role": "assistant", "content": f"It is {n}."}]}
    for n in range(30)
]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


def conversations(path: str = "rows.jsonl", tokenizer: Any = BPE, **more: Any) -> Conversations:
    given = {"name": "chat", "path": path, "format": "chat"} | more
    found = prepare(DataConfig(**given), TokenizerConfig(vocab_size=300), tokenizer=tokenizer)
    assert isinstance(found, Conversations)
    return found


def answers(prepared: Conversations, split: str) -> list[str]:
    return [prepared.tokenizer.decode(answer) for _, answer in prepared.prompts(split)]


def test_each_conversation_is_in_one_split(folder: Path) -> None:
    prepared = conversations()
    train, val = answers(prepared, "train"), answers(prepared, "val")
    assert sorted(train + val) == sorted(f"It is {n}." for n in range(30))
    assert 0 < len(val) < 10
    counts = prepared.manifest["splits"]["val"]
    assert counts["documents"] == len(val)
    assert counts["text_bytes"] == sum(map(len, val)) == prepared.text_bytes("val")
    assert counts["learned"] == prepared.learned("val").mask.sum()
    # More rows leave the others where they are.
    write(folder / "rows.jsonl", ROWS + ROWS[:5])
    assert set(val) <= set(answers(conversations(), "val"))


def test_a_mask_lies_beside_the_ids(folder: Path) -> None:
    prepared = conversations()
    mask = np.fromfile(prepared.folder / "train_00000.mask", np.uint8)
    ids = np.fromfile(prepared.folder / "train_00000.bin", "<u2")
    assert len(mask) == len(ids) == prepared.manifest["splits"]["train"]["tokens"]
    assert set(mask.tolist()) == {0, 1}
    assert prepared.tokenizer.decode(ids[mask == 1].tolist()) == "".join(answers(prepared, "train"))
    assert sorted(path.name for path in prepared.folder.iterdir()) == sorted(
        [
            "manifest.json",
            "tokenizer",
            *(f"{split}_00000{end}" for split in ("train", "val") for end in (".bin", ".idx", ".mask")),
        ]
    )
    assert prepared.manifest["template"].startswith("{% for message")


def test_a_text_is_found_again_until_something_changes(folder: Path) -> None:
    first = conversations()
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    assert conversations().folder == first.folder
    assert (first.folder / "manifest.json").stat().st_mtime_ns == stamp
    again = find_prepared(first.folder.parent, first.manifest["sha256"])
    assert isinstance(again, Conversations)
    assert again.manifest == first.manifest
    assert source_now(DataConfig(name="chat", path="rows.jsonl", format="chat")) == source_fingerprint(first)
    (folder / "other.jinja").write_text(
        "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", encoding="utf-8"
    )
    write(folder / "held.jsonl", ROWS[:3])
    more: list[dict[str, Any]] = [
        {"template": "other.jinja"},
        {"val_path": "held.jsonl"},
        {"val_fraction": 0.2},
        {"max_docs": 20},
        {"fraction": 0.5},
    ]
    folders = {conversations(**one).folder for one in more} | {first.folder}
    assert len(folders) == len(more) + 1
    write(folder / "rows.jsonl", ROWS[:-1])
    assert source_now(DataConfig(name="chat", path="rows.jsonl", format="chat")) != source_fingerprint(first)


def test_made_rows_are_compared_and_not_written(folder: Path) -> None:
    with pytest.raises(UserError, match=r"data/sentiment/train\.jsonl: is missing"):
        source_now(DataConfig(name="sentiment", format="chat", generator="sentiment"))
    assert not (folder / "data").exists()


def test_held_out_rows_of_a_file(folder: Path) -> None:
    write(folder / "held.jsonl", [{"prompt": "a", "completion": "b"}] * 2)
    prepared = conversations(val_path="held.jsonl")
    assert answers(prepared, "val") == ["b", "b"]
    assert len(answers(prepared, "train")) == 30
    # data.fraction and data.max_docs choose of the rows that are trained on.
    write(folder / "many.jsonl", [{"prompt": "a", "completion": f"b{n}"} for n in range(20)])
    few = conversations(val_path="many.jsonl", fraction=0.5, max_docs=3)
    assert (len(answers(few, "train")), len(answers(few, "val"))) == (3, 20)
    with pytest.raises(UserError, match=r"data\.val_path=gone\.jsonl: there is no such file"):
        conversations(val_path="gone.jsonl")
    write(folder / "none.jsonl", ["no row"])
    with pytest.raises(UserError, match="chat: the val split is empty: use more rows$"):
        conversations(val_path="none.jsonl", on_error="skip")


def test_a_part_of_the_rows(folder: Path) -> None:
    prepared = conversations(max_docs=10)
    assert sum(prepared.manifest["splits"][split]["documents"] for split in ("train", "val")) == 10
    half = conversations(fraction=0.5)
    count = sum(half.manifest["splits"][split]["documents"] for split in ("train", "val"))
    assert 5 < count < 25
    assert half.manifest["removed"] == {"fraction": 30 - count}
    # A faulty row that data.fraction leaves out is none of the text.
    left_out = next(n for n in range(31, 99) if hash_in_unit_interval(f"many.jsonl:{n}", "subset 0") >= 0.5)
    write(folder / "many.jsonl", [*ROWS, *ROWS, *ROWS][: left_out - 1] + ["no row"])
    conversations("many.jsonl", fraction=0.5)
    with pytest.raises(UserError, match=rf"many\.jsonl:{left_out}: no object"):
        conversations("many.jsonl")
    # Of two rows one is held out, whatever their hashes are.
    write(folder / "two.jsonl", ROWS[:2])
    assert [len(answers(conversations("two.jsonl"), split)) for split in ("train", "val")] == [1, 1]
    write(folder / "one.jsonl", ROWS[:1])
    with pytest.raises(UserError, match="the train split is empty"):
        conversations("one.jsonl")


def test_parquet_is_read_as_json_is(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    mixed = [row["messages"] if n % 2 else None for n, row in enumerate(ROWS)]
    columns = {
        "messages": mixed,
        "prompt": [None if one else "Who?" for one in mixed],
        "completion": [None if one else f"It is {n}." for n, one in enumerate(mixed)],
        "id": list(range(30)),
    }
    parquet.write_table(pyarrow.table(columns), folder / "rows.parquet")
    rows = [
        {"messages": one} if one else {"prompt": "Who?", "completion": f"It is {n}."} for n, one in enumerate(mixed)
    ]
    write(folder / "same.jsonl", rows)
    found, same = (conversations(name, val_path=name, name=name[:4]) for name in ("rows.parquet", "same.jsonl"))
    for split in ("train", "val"):
        for kind in ("bin", "mask"):
            name = f"{split}_00000.{kind}"
            assert (found.folder / name).read_bytes() == (same.folder / name).read_bytes()
    with pytest.raises(UserError, match='rows.parquet:1: it has no "chosen"'):
        conversations("rows.parquet", format="preferences")
    parquet.write_table(pyarrow.table({"id": [1]}), folder / "ids.parquet")
    with pytest.raises(UserError, match="ids.parquet: has none of the columns completion, messages, prompt, but"):
        conversations("ids.parquet")


def test_a_tokenizer_is_learned_with_the_marks_of_a_chat(folder: Path) -> None:
    prepared = conversations(tokenizer=None)
    special = prepared.tokenizer.special
    assert set(special) == {"<|endoftext|>", *MARKERS}
    assert not set(special.values()) & set(prepared.tokenizer.encode("".join(special)))
    assert open_prepared(prepared.folder).tokenizer.special == special


def test_prompts_and_completions_need_no_template(folder: Path) -> None:
    write(folder / "plain.jsonl", [{"prompt": f"{n}", "completion": "x"} for n in range(9)])
    prepared = conversations("plain.jsonl", tokenizer=CharTokenizer("0123456789x"))
    assert prepared.manifest["template"] is None
    with pytest.raises(UserError, match=r"^tokenizer=char has no token <\|im_start\|>"):
        conversations(tokenizer=CharTokenizer("abc"))


def test_preferences_are_counted_in_pairs(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write(folder / "pairs.jsonl", [{"prompt": "Who?", "chosen": f"{n}", "rejected": f"It is {n}."} for n in range(12)])
    write(folder / "held.jsonl", [{"prompt": "Who?", "chosen": "5", "rejected": "It is 5."}] * 3)
    conversations("pairs.jsonl", val_path="held.jsonl", format="preferences")
    assert re.search(
        r": 12 pairs to train on, with \d+ tokens to learn; 3 to validate, with \d+; left out: none", caplog.text
    )


def test_preferences_are_pairs(folder: Path) -> None:
    write(folder / "pairs.jsonl", [{"prompt": "Who?", "chosen": f"{n}", "rejected": f"It is {n}."} for n in range(12)])
    prepared = conversations("pairs.jsonl", format="preferences")
    found = answers(prepared, "train")
    assert found[1::2] == [f"It is {n}." for n in found[::2]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"messages": [', r"rows\.jsonl:31: no JSON"),
        ('["a"]', r"rows\.jsonl:31: no object"),
        ('{"text": "a"}', r'rows\.jsonl:31: a row needs "messages"'),
        (
            '{"messages": [{"role": "user", "content": "a"}]}',
            r"rows\.jsonl:31: it has no message of the role assistant",
        ),
        ('{"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}', r"rows\.jsonl:31: message 1"),
        ('{"prompt": "\\ud800", "completion": "a"}', r"rows\.jsonl:31: the text holds a lone surrogate"),
    ],
)
def test_one_line_names_file_row_and_fault(line: str, said: str, folder: Path) -> None:
    with (folder / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=said) as raised:
        conversations()
    assert "\n" not in str(raised.value)
    assert not list((folder / "data/chat").glob("prepared-*"))
    prepared = conversations(on_error="skip")
    assert prepared.manifest["removed"] == {"no_text": 1}
    assert sum(prepared.manifest["splits"][split]["documents"] for split in ("train", "val")) == 30


def test_other_files_are_refused(folder: Path) -> None:
    (folder / "rows.txt").write_text("Who is it?", encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.txt: rows are read from \.jsonl, \.json and \.parquet files"):
        conversations("rows.txt")


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_mask_is_refused(damage: str, folder: Path) -> None:
    prepared = conversations()
    path = prepared.folder / "train_00000.mask"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(UserError, match=r"train_00000\.mask .*delete .* and it is prepared anew"):
        open_prepared(prepared.folder).learned("train")


def test_nothing_left_to_learn_is_told(folder: Path) -> None:
    prepared = conversations()
    data = DataConfig(name="chat", path="rows.jsonl", format="chat", too_long="skip")
    with pytest.raises(UserError, match="all 2. conversations of the train split are left out.*model.block_size"):
        prepared.packed("train", data, 4)


def test_bits_per_byte_are_over_the_answers(folder: Path) -> None:
    prepared = conversations()
    data = DataConfig(name="chat", path="rows.jsonl", format="chat")
    assert prepared.scored_bytes(data, 64) == prepared.text_bytes("val")
    rows = prepared.packed("val", data, 64)
    assert rows.targets.sum() == prepared.manifest["splits"]["val"]["learned"]
    # A cut answer counts with the bytes that are left of it.
    limit = max(len(prompt) for prompt, _ in prepared.prompts("val")) + 2
    special = set(prepared.tokenizer.special.values())
    left = [i for i in prepared.packed("val", data, limit).learned_ids.tolist() if i not in special]
    assert prepared.scored_bytes(data, limit) == len(prepared.tokenizer.decode_bytes(left)) < prepared.text_bytes("val")
