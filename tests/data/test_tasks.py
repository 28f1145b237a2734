"""A large corpus as tasks: the layouts of OpenWebText, any number of workers, kills, and what is
left out.
"""

import lzma
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO, Process, story
from containers import (
    parquet,
    tar,
)

from llm_from_scratch.config import DataConfig, PrepareConfig, TokenizerConfig
from llm_from_scratch.data.documents import is_validation
from llm_from_scratch.data.prepare import Prepared, prepare, prepare_task

BPE = TokenizerConfig(vocab_size=320)
ONE, TWO = PrepareConfig(workers=1), PrepareConfig(workers=2)
PAGE = "The same page of text, word for word, stands in two of the archives. " * 5


def pages(part: int, count: int) -> dict[str, bytes]:
    texts = {f"{i:07}-{part}.txt": story(400, seed=1000 * part + i).encode() for i in range(count)}
    return texts | {"bad.txt": b"abc\xff\xfe", "empty.txt": b"", "same.txt": PAGE.encode()}


def subsets(folder: Path, parts: int = 4, count: int = 40) -> Path:
    """OpenWebText as its parts are published: tars of compressed tars."""
    place = folder / "data/openwebtext"
    place.mkdir(parents=True)
    for part in range(parts):
        members = {f"openwebtext/urlsf_subset{part:02}-1_data.xz": lzma.compress(tar(pages(part, count)), preset=0)}
        (place / f"urlsf_subset{part:02}.tar").write_bytes(tar(members))
    return folder


def settings(folder: Path, **more: object) -> DataConfig:
    given = {
        "name": "openwebtext",
        "val_fraction": 0.1,
        "keep_text": False,
        "shard_bytes": 1000,
        "dir": str(folder / "data"),
    }
    given |= {"layouts": ["openwebtext/**/*.parquet", "openwebtext/**/*.tar", "openwebtext/*.tar.xz"]}
    return DataConfig(**(given | more))  # type: ignore[arg-type]


def contents(prepared: Prepared) -> dict[str, bytes]:
    files = (path for path in prepared.folder.rglob("*") if path.is_file())
    return {path.relative_to(prepared.folder).as_posix(): path.read_bytes() for path in files}


def test_one_worker_and_two_make_the_same_bytes(tmp_path: Path) -> None:
    one = prepare(settings(subsets(tmp_path / "1"), dedup="exact"), BPE, settings=ONE)
    two = prepare(settings(subsets(tmp_path / "2"), dedup="exact"), BPE, settings=TWO)
    assert contents(one) == contents(two)
    assert len(one.shards("train")) == 4
    assert one.manifest["removed"] == {"no_text": 4, "empty": 4, "exact_duplicate": 3}
    assert not (one.folder / "train.txt").exists()
    report = (one.folder / "report.md").read_text(encoding="utf-8")
    assert "| exact_duplicate | 3 | the first of equal texts |" in report
    assert "urlsf_subset01.tar/openwebtext/urlsf_subset01-1_data.xz/same.txt" in report


def test_every_document_comes_back_on_its_side(tmp_path: Path) -> None:
    prepared = prepare(settings(subsets(tmp_path, parts=2)), BPE, settings=ONE)
    expected: dict[str, list[str]] = {"train": [], "val": []}
    for part in range(2):
        for name, raw in pages(part, 40).items():
            if name not in ("bad.txt", "empty.txt"):
                identity = f"openwebtext/urlsf_subset{part:02}.tar/openwebtext/urlsf_subset{part:02}-1_data.xz/{name}"
                expected["val" if is_validation(identity, 0.1) else "train"].append(raw.decode())
    assert {split: list(prepared.documents(split)) for split in expected} == expected
    assert prepared.text_bytes("train") == sum(len(text.encode()) for text in expected["train"])


@pytest.mark.parametrize("layout", ["parquet", "tar.xz"])
def test_the_other_layouts_are_read_where_they_lie(layout: str, tmp_path: Path) -> None:
    place = tmp_path / "data/openwebtext"
    place.mkdir(parents=True)
    texts = [story(300, seed=i) for i in range(60)]
    if layout == "parquet":
        (place / "plain_text").mkdir()
        (place / "plain_text/train-00000-of-00001.parquet").write_bytes(parquet(list(texts)))
    else:
        inner = lzma.compress(tar({f"{i:07}.txt": text.encode() for i, text in enumerate(texts)}))
        (place / "openwebtext.tar.xz").write_bytes(lzma.compress(tar({"openwebtext/urlsf_subset00-1_data.xz": inner})))
    prepared = prepare(settings(tmp_path), BPE, settings=ONE)
    assert sorted([*prepared.documents("train"), *prepared.documents("val")]) == sorted(texts)


def test_the_tasks_of_an_array_make_what_a_plain_preparation_makes(tmp_path: Path) -> None:
    whole = prepare(settings(subsets(tmp_path / "1", parts=3)), BPE, settings=ONE)
    data = settings(subsets(tmp_path / "2", parts=3))
    assert prepare_task(data, BPE, PrepareConfig(task=2)) is None
    assert prepare_task(data, BPE, PrepareConfig(task=0)) is None
    last = prepare_task(data, BPE, PrepareConfig(task=1))
    assert last is not None
    assert contents(last) == contents(whole)
    with pytest.raises(ValueError, match=r"prepare\.task=3: the corpus has 3 tasks, 0 to 2"):
        prepare_task(data, BPE, PrepareConfig(task=3))


def test_a_subset_is_nested_and_stable(tmp_path: Path) -> None:
    kept = []
    for fraction in (0.2, 0.5):
        prepared = prepare(settings(subsets(tmp_path / str(fraction)), fraction=fraction), BPE, settings=ONE)
        kept.append({*prepared.documents("train"), *prepared.documents("val")})
    assert kept[0] < kept[1]
    prepared = prepare(settings(subsets(tmp_path / "max"), max_docs=50), BPE, settings=ONE)
    facts = prepared.manifest["splits"]
    assert facts["train"]["documents"] + facts["val"]["documents"] == 50
    assert len(prepared.shards("train")) == 2  # 41 documents stand in the first file


def test_fault_12_a_truncated_archive_leaves_no_shard_of_its_own(tmp_path: Path) -> None:
    folder = subsets(tmp_path, parts=3)
    path = folder / "data/openwebtext/urlsf_subset02.tar"
    path.write_bytes(path.read_bytes()[:-12_000])
    with pytest.raises(ValueError, match=r"^openwebtext/urlsf_subset02\.tar.*cut off"):
        prepare(settings(folder), TokenizerConfig(kind="bpe", vocab_size=320), settings=ONE)
    assert [path.name for path in folder.rglob("*_00002*")] == []
    assert not list((folder / "data/openwebtext").glob("prepared-*/"))


def test_fault_13_killed_three_times_and_started_again(tmp_path: Path) -> None:
    whole = prepare(settings(subsets(tmp_path / "whole", count=120)), BPE, settings=ONE)
    folder = subsets(tmp_path / "killed", count=120)
    code = """
import os, signal, sys
from llm_from_scratch.config import PrepareConfig
from llm_from_scratch.data import shards, tasks
from llm_from_scratch.data.prepare import prepare
sys.path[:0] = sys.argv[2:]
import test_tasks
write_file = tasks.write_file
def dying(path, content):
    write_file(path, content)
    if path.name.startswith("task_"):
        os.kill(os.getpid(), signal.SIGKILL)
tasks.write_file = dying
prepare(test_tasks.settings(test_tasks.Path(sys.argv[1])), test_tasks.BPE, settings=test_tasks.ONE)
"""
    paths = [str(REPO / "tests"), str(REPO / "tests/data")]
    for done in (1, 2, 3):
        command = [sys.executable, "-c", code, str(folder), *paths]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO / "src"), *paths])}
        killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        building = next((folder / "data/openwebtext").glob(".building-*[!s]/"))
        assert len(list(building.glob("task_*.json"))) == done
        if done == 1:
            first = (building / "train_00000.bin").stat().st_mtime_ns
    again = prepare(settings(folder), BPE, settings=ONE)
    assert contents(again) == contents(whole)
    assert (again.folder / "train_00000.bin").stat().st_mtime_ns == first  # kept, not made again


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a tmpfs")
def test_fault_13_a_disk_that_fills_up_is_one_line_and_room_is_enough_to_go_on(tmp_path: Path) -> None:
    folder = subsets(tmp_path, count=150)
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    data = settings(folder, dir=str(small), path=str(folder / "data/openwebtext"), layouts=None)
    try:
        with pytest.raises(ValueError, match=r"the disk is full.*finished shards|GB are free"):
            prepare(data, BPE, settings=ONE)
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        assert prepare(data, BPE, settings=ONE).manifest["splits"]["train"]["documents"] > 400
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


def test_where_nothing_lies_one_line_says_what_to_put_there(command: Process, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(REPO / "configs")
    done = command("prepare", "data=openwebtext")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "urlsf_subset*.tar" in line
    assert "Zenodo record 3834942" in line


def test_prepared_by_the_command_then_trained_on(command: Process, train: Process, tmp_path: Path) -> None:
    subsets(tmp_path)
    (tmp_path / "configs").symlink_to(REPO / "configs")
    shared = ["data=openwebtext", "data.val_fraction=0.1", "data.shard_bytes=1000", "tokenizer.vocab_size=320"]
    done = command("prepare", *shared, "prepare.workers=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("prepared: data/openwebtext/prepared-")
    small = ["model.n_layer=1", "model.n_embd=32", "model.n_head=2", "model.block_size=32", "trainer=cpu"]
    steps = ["trainer.max_steps=20", "trainer.val_check_interval=20", "data.batch_size=8", "run_dir=run"]
    done = train(*shared, *small, *steps, "sample.max_new_tokens=5")
    assert done.returncode == 0, done.stderr
    assert "learning the tokenizer" not in done.stderr  # what the command made is used
