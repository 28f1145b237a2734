"""A call of the file system that fails, at any place of a run or of its preparation: one line, and
the run goes on the same.

Each point is hit in a process of its own (fail.py); the process after it goes on, and every byte
must be that of a run which nothing disturbed.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, story

FAIL = str(Path(__file__).with_name("fail.py"))
KINDS = ("write", "fsync", "rename", "open", "mkdir", "unlink")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS)
COUNT, PARTS = 120, 8  # calls, and the tests that share them
WORDS = [
    "data=text",
    "data.path=story.txt",
    "data.batch_size=4",
    "model.n_layer=1",
    "model.n_embd=16",
    "model.n_head=2",
    "model.block_size=16",
    "model.dropout=0.1",
    "tokenizer=char",
    "trainer=cpu",
    "trainer.max_steps=12",
    "trainer.val_check_interval=3",
    "trainer.log_every_n_steps=1",
    "optim.warmup_steps=2",
    "optim.lr=1e-2",
    "sample.max_new_tokens=4",
    "logger=none",
    "run_dir=run",
]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def processes(plan: list[list[Any]], place: Path) -> list[dict[str, Any]]:
    """fail.py's answers."""
    path = place / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, FAIL, str(path)],
        env=os.environ | {"PYTHONPATH": str(REPO / "src"), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def folder(place: Path, name: str) -> Path:
    made = place / name
    made.mkdir()
    (made / "story.txt").write_text(story(4_000), encoding="utf-8")
    return made


def ends(place: Path) -> dict[str, bytes]:
    """What must be the same: the rows, the samples, the model, the states, the prepared text."""
    parts = ("run/metrics.jsonl", "run/samples.md", "run/model", "run/checkpoints", "data")
    found = [path for part in parts for path in (place / part, *sorted((place / part).rglob("*"))) if path.is_file()]
    return {str(path.relative_to(place)): path.read_bytes() for path in found if path.suffix != ".lock"}


def spread(counts: dict[str, int], count: int) -> list[tuple[str, int]]:
    """Points over both areas, all kinds and all errors, evenly over the calls of each kind."""
    points = []
    for number in range(count):
        area, kind = ("run", "data")[number % 2], KINDS[number // 2 % len(KINDS)]
        total, turn = counts.get(f"{area} {kind}", 0), number // 2 // len(KINDS)
        if total:
            place = turn * total * 2 * len(KINDS) // count % total + 1
            points.append((f"{area} {kind} {place}", ERRORS[turn % len(ERRORS)]))
    return points


@pytest.mark.chaos
@pytest.mark.parametrize("part", range(PARTS))
def test_a_call_that_fails_costs_no_step(part: int, tmp_path: Path) -> None:
    whole = folder(tmp_path, "whole")
    (found,) = processes([[str(whole), "none", 0, WORDS]], tmp_path)
    assert found["status"] == 0, found["said"]
    points, wanted = spread(found["counts"], COUNT), ends(whole)
    assert len(set(points)) == COUNT
    assert {point.split()[1] for point, _ in points} == {*KINDS}
    for number, (point, error) in enumerate(points[part::PARTS]):
        here = folder(tmp_path, f"point {number}")
        (hit,) = processes([[str(here), point, error, WORDS]], tmp_path)
        name = f"{point}, {errno.errorcode[error]}: {hit['said']}"
        lines = [line for line in hit["said"].splitlines() if line.startswith("error: ")]
        # A removal of what nothing reads may fail without a word.
        assert (hit["status"] in (1, 2) and len(lines) == 1) or (hit["status"] == 0 and ends(here) == wanted), name
        assert "Traceback" not in hit["said"], name
        if hit["status"]:
            again = ["resume=run"] if (here / "run/config.yaml").exists() else WORDS
            (rest,) = processes([[str(here), "none", 0, again]], tmp_path)
            over = rest["status"] == 2 and "has made its" in rest["said"]
            assert rest["status"] == 0 or over, f"{name}\nthen {again}: {rest['said']}"
        found_ends = ends(here)
        assert {key: found_ends.get(key) == value for key, value in wanted.items()} == dict.fromkeys(wanted, True), name
        assert set(found_ends) == set(wanted), name
