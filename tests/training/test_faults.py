"""Numbers that go wrong, signals, disks that are full: real processes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO, SMALL, Process, story

from llm_from_scratch.checkpoint import checkpoints, load_state, read_rows, save_state, verify_state

POISON = '''
import torch
from lightning.pytorch.callbacks import Callback


class Poison(Callback):
    """A gradient of NaN at given optimizer steps (from 1)."""

    def __init__(self, steps):
        self.steps = list(steps)

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step + 1 in self.steps:
            next(pl_module.parameters()).grad[0] = float("nan")
'''


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(story(30_000), encoding="utf-8")
    (tmp_path / "poison.py").write_text(POISON)
    return path


def poisoned(*steps: int) -> str:
    return "+callbacks.poison={_target_: poison.Poison, steps: [" + ", ".join(map(str, steps)) + "]}"


def test_fault_17_a_gradient_that_is_nan_stops_the_run(train: Process, text: Path, tmp_path: Path) -> None:
    overrides = (
        *SMALL,
        "trainer.max_steps=20",
        "trainer.val_check_interval=5",
        "trainer.log_every_n_steps=1",
        "run_dir=run",
    )
    done = train(*overrides, poisoned(8))
    assert done.returncode == 1, done.stderr
    line = done.stderr.splitlines()[-1]
    assert re.match(
        r"error: FloatingPointError: step 8: .*learning rate .*begin at \d+, \d+, .*optim\.skip_bad_steps=N", line
    ), line
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step_00000005"]
    weights = load_state(tmp_path / "run/checkpoints/step_00000005")["state_dict"]
    assert all(tensor.isfinite().all() for tensor in weights.values())
    # Resumed without the poison, it goes on from the last good checkpoint to the end.
    resumed = train("resume=run")
    assert resumed.returncode == 0, resumed.stderr
    assert read_rows(tmp_path / "run/metrics.jsonl")[-1]["step"] == 20


def test_fault_17_bad_steps_are_passed_over_up_to_a_number(train: Process, text: Path, tmp_path: Path) -> None:
    overrides = (
        *SMALL,
        "trainer.max_steps=12",
        "trainer.val_check_interval=6",
        "trainer.log_every_n_steps=1",
        "optim.skip_bad_steps=2",
    )
    done = train(*overrides, poisoned(3, 8), "run_dir=two")
    assert done.returncode == 0, done.stderr
    rows = {row["step"]: row for row in read_rows(tmp_path / "two/metrics.jsonl") if row["split"] == "train"}
    assert [step for step, row in rows.items() if row["grad_norm"] is None] == [3, 8]
    assert load_state(checkpoints(tmp_path / "two")[0])["skipped"].tolist() == [2, 8]
    states = load_state(checkpoints(tmp_path / "two")[0])["optimizer_states"][0]["state"]
    assert {float(state["step"]) for state in states.values()} == {10.0}  # twelve steps, two of them without an update
    third = train(*overrides, poisoned(3, 8, 9), "run_dir=three")
    assert third.returncode == 1
    assert "step 9:" in third.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_fault_03_a_signal_finishes_the_step_and_saves(train: Process, text: Path, tmp_path: Path) -> None:
    shared = (*SMALL, "model.dropout=0.1", "trainer.max_steps=300", "trainer.val_check_interval=100")
    environment = os.environ | {"PYTHONPATH": str(REPO / "src"), "OMP_NUM_THREADS": "1"}
    first = [*shared, "run_dir=run"]
    for number, status, at in ((signal.SIGTERM, 143, 20), (signal.SIGINT, 130, 120)):
        command = [sys.executable, str(REPO / "train.py"), *first]
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 100
            while not any(row["step"] >= at for row in read_rows(tmp_path / "run/metrics.jsonl")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(number)
            _, error = process.communicate(timeout=60)
        assert process.returncode == status, error
        saved = checkpoints(tmp_path / "run")[0]
        verify_state(saved)
        assert f"stopped at step {int(saved.name.removeprefix('step_'))}" in error
        first = ["resume=run"]
    resumed, whole = train("resume=run"), train(*shared, "run_dir=whole")
    assert (resumed.returncode, whole.returncode) == (0, 0), resumed.stderr + whole.stderr
    for name in ("metrics.jsonl", "model/model.safetensors", "samples.md"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_fault_04_a_full_disk_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    save_state({"x": torch.ones(1000)}, tmp_path / "step_1")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="bytes, and 0 are free; earlier checkpoints stay"):
        save_state({"x": torch.ones(1000)}, tmp_path / "step_2")
    verify_state(tmp_path / "step_1")
    assert not (tmp_path / "step_2").exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="mounting a small disk needs root on Linux")
def test_fault_04_a_disk_that_really_is_full(train: Process, text: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        overrides = (
            *SMALL,
            "trainer.max_steps=30",
            "trainer.val_check_interval=5",
            "run_dir=disk/run",
        )
        first = train(*overrides, "logger=none")
        assert first.returncode == 0, first.stderr
        filler = disk / "filler"
        filler.write_bytes(
            b"\0" * (shutil.disk_usage(disk).free - 16384)
        )  # room for lines of metrics, not for a checkpoint
        before = {path.name: verify_state(path) for path in checkpoints(disk / "run")}
        done = train("resume=disk/run", "trainer.max_steps=60")
        assert done.returncode != 0
        assert {path.name: verify_state(path) for path in checkpoints(disk / "run")} == before
        filler.unlink()
        again = train("resume=disk/run", "trainer.max_steps=60")
        assert again.returncode == 0, again.stderr
    finally:
        subprocess.run(["umount", disk], check=False)


def test_fault_04_a_folder_that_cannot_be_written(train: Process, text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = train(*SMALL, "trainer.max_steps=1", "run_dir=file/run")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: run_dir=file/run: ")


def test_fault_08_another_text_than_the_checkpoints(train: Process, text: Path, tmp_path: Path) -> None:
    first = train(*SMALL, "trainer.max_steps=4", "run_dir=run")
    assert first.returncode == 0, first.stderr
    text.write_text(story(30_000, seed=1), encoding="utf-8")
    done = train("resume=run", "trainer.max_steps=8")
    assert done.returncode == 2, done.stderr
    assert re.search(
        r"made with the (tokenizer|data) [0-9a-f]{16}, and this run has [0-9a-f]{16}", done.stderr.splitlines()[-1]
    )


def test_fault_14_a_second_training_in_the_same_folder(train: Process, finished: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    with FileLock(tmp_path / "run/.lock"):
        done = train("resume=run", "trainer.max_steps=100")
    assert done.returncode == 2
    assert done.stderr == "error: run belongs to a training that is running now\n"


def test_a_finished_run_and_one_without_a_checkpoint(train: Process, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    done = train("resume=run")
    assert (done.returncode, done.stderr) == (
        2,
        "error: run has made its 60 steps: to go on, add trainer.max_steps=120\n",
    )
    shutil.rmtree(tmp_path / "run/checkpoints")
    again = train("resume=run")
    assert again.returncode == 0, again.stderr
    assert "run has no checkpoint yet: it starts again at step 0" in again.stderr
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (finished / "run/metrics.jsonl").read_bytes()
