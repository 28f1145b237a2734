"""Numbers that go wrong, signals to real processes, disks that are full."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO, SMALL, InProcess, Process, run, story

from llm_from_scratch.checkpoint import checkpoints, load_state, save_state, verify_state
from llm_from_scratch.run import read_rows

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


SIGNALS = '''
import os
import time
from lightning.pytorch.callbacks import Callback


class Send(Callback):
    """Signals to this process, one after the other, in a hook at an optimizer step."""

    def __init__(self, hook, step, numbers):
        def send(trainer, *arguments):
            if trainer.global_step == step:
                for number in numbers:
                    os.kill(os.getpid(), number)
                    time.sleep(0.5)
        setattr(self, hook, send)
'''


def sending(hook: str, step: int, *numbers: int) -> str:
    values = ", ".join(str(int(number)) for number in numbers)
    return f"+callbacks.send={{_target_: signals_of_a_test.Send, hook: {hook}, step: {step}, numbers: [{values}]}}"


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text in the present folder, and a module of callbacks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "story.txt"
    path.write_text(story(30_000), encoding="utf-8")
    (tmp_path / "poison.py").write_text(POISON)
    return path


def poisoned(*steps: int) -> str:
    return "+callbacks.poison={_target_: poison.Poison, steps: [" + ", ".join(map(str, steps)) + "]}"


def test_fault_17_a_gradient_that_is_nan_stops_the_run(train_here: InProcess, text: Path, tmp_path: Path) -> None:
    overrides = (
        *SMALL,
        "trainer.max_steps=20",
        "trainer.val_check_interval=5",
        "trainer.log_every_n_steps=1",
        "run_dir=run",
    )
    status, said = train_here(*overrides, poisoned(8))
    assert status == 1, said
    line = said.splitlines()[-1]
    assert re.match(
        r"error: FloatingPointError: step 8: .*learning rate .*begin at \d+, \d+, .*optim\.skip_bad_steps=N", line
    ), line
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step_00000005"]
    weights = load_state(tmp_path / "run/checkpoints/step_00000005")["state_dict"]
    assert all(tensor.isfinite().all() for tensor in weights.values())
    # Resumed without the poison, it goes on from the last good checkpoint to the end.
    status, said = train_here("resume=run", "callbacks=none")
    assert status == 0, said
    assert read_rows(tmp_path / "run/metrics.jsonl")[-1]["step"] == 20


def test_fault_17_bad_steps_are_passed_over_up_to_a_number(train_here: InProcess, text: Path, tmp_path: Path) -> None:
    overrides = (
        *SMALL,
        "trainer.max_steps=12",
        "trainer.val_check_interval=6",
        "trainer.log_every_n_steps=1",
        "optim.skip_bad_steps=2",
    )
    status, said = train_here(*overrides, poisoned(3, 8), "run_dir=two")
    assert status == 0, said
    rows = {row["step"]: row for row in read_rows(tmp_path / "two/metrics.jsonl") if row["split"] == "train"}
    assert [step for step, row in rows.items() if row["grad_norm"] is None] == [3, 8]
    assert load_state(checkpoints(tmp_path / "two")[0])["skipped"].tolist() == [2, 8]
    states = load_state(checkpoints(tmp_path / "two")[0])["optimizer_states"][0]["state"]
    # Twelve steps, two of them without an update
    assert {float(state["step"]) for state in states.values()} == {10.0}
    status, said = train_here(*overrides, poisoned(3, 8, 9), "run_dir=three")
    assert (status, "step 9:" in said) == (1, True), said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_fault_03_a_signal_finishes_the_step_and_saves(train: Process, text: Path, tmp_path: Path) -> None:
    shared = (*SMALL, "model.dropout=0.1", "trainer.max_steps=300", "trainer.val_check_interval=100")
    environment = os.environ | {"PYTHONPATH": str(REPO / "src")}
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


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.slow
def test_fault_03_a_signal_at_a_step_with_a_validation(train: Process, finished: Path, tmp_path: Path) -> None:
    """The row, the sample and the curves of that validation come; then a second Ctrl-C leaves at
    once.
    """
    for name in ("story.txt", "data"):
        copy = shutil.copytree if name == "data" else shutil.copy
        copy(finished / name, tmp_path / name)
    (tmp_path / "signals_of_a_test.py").write_text(SIGNALS)
    settings = ("model.dropout=0.1", "optim.warmup_steps=5", "trainer.max_steps=60", "trainer.val_check_interval=25")
    at_its_end = sending("on_train_batch_end", 25, signal.SIGTERM)
    stopped = train(*SMALL, *settings, "run_dir=run", at_its_end)
    assert stopped.returncode == 143, stopped.stderr
    assert stopped.stderr.splitlines()[-1] == "stopped at step 25; go on with: python train.py resume=run"
    assert read_rows(tmp_path / "run/metrics.jsonl")[-1]["split"] == "val"
    left = train("resume=run", sending("on_train_batch_start", 30, signal.SIGINT, signal.SIGINT))
    assert left.returncode == 130, left.stderr
    line = "left in step 31; go on from step 25 with: python train.py resume=run"
    assert left.stderr.splitlines()[-1] == line
    # Behind nohup SIGHUP stays ignored.
    number = signal.SIGUSR1 if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else signal.SIGHUP
    within = train("resume=run", sending("on_validation_start", 50, number))
    assert within.returncode == 128 + number, within.stderr
    assert read_rows(tmp_path / "run/metrics.jsonl")[-1]["split"] == "val"
    assert train("resume=run").returncode == 0
    for name in ("metrics.jsonl", "model/model.safetensors", "samples.md"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / "run" / name).read_bytes(), name


def test_a_run_that_early_stopping_ended_does_not_go_on(train_here: InProcess, text: Path, tmp_path: Path) -> None:
    stopping = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optim.lr=1e-9")
    words = ("trainer.max_steps=100", "trainer.val_check_interval=3", "run_dir=run")
    status, said = train_here(*SMALL, *stopping, *words)
    assert status == 0, said
    rows = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert read_rows(tmp_path / "run/metrics.jsonl")[-1]["step"] < 50
    status, said = train_here("resume=run")
    assert status == 0, said
    assert "a callback stopped this run at step" in said
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == rows


def test_fault_04_a_full_disk_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    save_state({"x": torch.ones(1000)}, tmp_path / "step_1")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="bytes, and 0 are free; earlier checkpoints stay"):
        save_state({"x": torch.ones(1000)}, tmp_path / "step_2")
    verify_state(tmp_path / "step_1")
    assert not (tmp_path / "step_2").exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="mounting a small disk needs root on Linux")
@pytest.mark.slow
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


def test_fault_08_another_text_than_the_checkpoints(train_here: InProcess, text: Path) -> None:
    status, said = train_here(*SMALL, "trainer.max_steps=4", "run_dir=run")
    assert status == 0, said
    text.write_text(story(30_000, seed=1), encoding="utf-8")
    status, said = train_here("resume=run", "trainer.max_steps=8")
    assert status == 2, said
    line = said.splitlines()[-1]
    assert re.search(r"made with the (tokenizer|data) [0-9a-f]{16}, and this run has [0-9a-f]{16}", line), line


def test_fault_14_a_second_training_in_the_same_folder(train_here: InProcess, finished_here: Path) -> None:
    from filelock import FileLock

    with FileLock("run/.lock"):
        ended = train_here("resume=run", "trainer.max_steps=100")
    assert ended == (2, "error: run belongs to a training that is running now\n")


def test_a_finished_run_and_one_without_a_checkpoint(
    train_here: InProcess, finished: Path, finished_here: Path
) -> None:
    said = "error: run has made its 60 steps: to go on, add trainer.max_steps=120\n"
    assert train_here("resume=run") == (2, said)
    shutil.rmtree("run/checkpoints")
    status, said = train_here("resume=run")
    assert status == 0, said
    assert "run has no checkpoint yet: it starts again at step 0" in said
    assert Path("run/metrics.jsonl").read_bytes() == (finished / "run/metrics.jsonl").read_bytes()


# What runs when the file is unpickled by a reader that trusts it.
class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("owned",)


def test_fault_15_a_malicious_pickle_is_refused(
    train_here: InProcess, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    torch.save({"state_dict": Malice()}, tmp_path / "evil.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    status, said = train_here(*SMALL, "init_from=evil.pt", "trainer.max_steps=1", "run_dir=run")
    assert status == 2, said
    assert said.splitlines()[-1].startswith("error: evil.pt: cannot be read as weights: ")
    assert not (tmp_path / "owned").exists()
    # In a run folder there is no place where a pickle would be read as one.
    save_state({"x": torch.ones(1)}, tmp_path / "state")
    (tmp_path / "state/tensors.safetensors").write_bytes((tmp_path / "evil.pt").read_bytes())
    with pytest.raises(ValueError, match="cut short|have changed"):
        load_state(tmp_path / "state")
    assert not (tmp_path / "owned").exists()


def test_weights_of_torch_and_lightning_files(finished: Path, tmp_path: Path) -> None:
    import torch

    from llm_from_scratch.model import GPT
    from llm_from_scratch.weights import fill, load_model, read_pickle

    trained = load_model(finished / "run").model
    for name, content in (
        ("plain.pt", trained.state_dict()),
        ("lightning.ckpt", {"state_dict": {f"model.{key}": value for key, value in trained.state_dict().items()}}),
    ):
        torch.save(content, tmp_path / name)
        other = GPT(trained.config)
        fill(other, read_pickle(tmp_path / name), tmp_path / name)
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), trained.parameters(), strict=True))
    with pytest.raises(ValueError, match="the weights of another model"):
        fill(GPT(trained.config), {"head": torch.ones(1)}, tmp_path / "other.pt")


@pytest.mark.slow
def test_fault_22_other_processes_and_micro_batches_on_resume(train: Process, text: Path, tmp_path: Path) -> None:
    small = [word for word in SMALL if word != "trainer=cpu"]
    shared = (*small, "trainer.val_check_interval=5", "trainer.log_every_n_steps=1", "optim.warmup_steps=25")
    shared += ("model.dropout=0.2",)
    whole = train(*shared, "trainer=cpu", "trainer.max_steps=20", "run_dir=whole")
    assert whole.returncode == 0, whole.stderr
    parts = (
        (*shared, "trainer=cpu", "trainer.max_steps=5", "optim.min_lr_ratio=0.1", "run_dir=run"),
        ("resume=run", "trainer=ddp_cpu", "trainer.max_steps=10"),
        ("resume=run", "trainer=fsdp_cpu", "trainer.max_steps=15"),
        ("resume=run", "trainer=cpu", "data.micro_batch_size=2", "trainer.max_steps=20"),
    )
    # The warm-up is longer than the run, so that its length does not change the learning rate
    for part in parts:
        done = train(*part)
        assert done.returncode == 0, done.stderr
        if part[0] == "resume=run" and part[1] != "trainer=fsdp_cpu":  # from two processes to two
            assert "nor does dropout; losses differ by rounding" in done.stderr
    rows = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("whole", "run")]
    assert [(row["step"], row["split"]) for row in rows[0]] == [(row["step"], row["split"]) for row in rows[1]]
    for a, b in zip(*rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fault_13_a_preparation_killed_and_started_again(tmp_path: Path) -> None:
    """Killed at every tenth write of the preparation; the one that is let through gives the bytes
    of an undisturbed one.
    """
    program = """
import io, os, signal, sys
from pathlib import Path
from llm_from_scratch.config import DataConfig, TokenizerConfig
from llm_from_scratch.data.prepare import prepare

left = 0
def dying(function):
    def call(*arguments, **settings):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **settings)
    return call
for owner, name in ((os, "fsync"), (os, "replace"), (Path, "rename"), (Path, "open"), (Path, "write_text"), (Path, "mkdir")):
    setattr(owner, name, dying(getattr(owner, name)))

def prepared(folder, dies_at):
    # In a process of its own, forked from this one, which has loaded everything
    global left
    child = os.fork()
    if not child:
        left = dies_at
        prepare(DataConfig(name="text", path="story.txt", dir=folder), TokenizerConfig(vocab_size=300))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

assert prepared("whole", 0) == 0
for number in range(1, 100, 3):
    status = prepared("killed", number)
    print(status, flush=True)
    if status != -signal.SIGKILL:
        break
"""
    (tmp_path / "story.txt").write_text(story(5_000), encoding="utf-8")

    def contents(folder: str) -> dict[str, bytes]:
        (prepared,) = (tmp_path / folder / "text").glob("prepared-*/")
        return {
            path.relative_to(prepared).as_posix(): path.read_bytes() for path in prepared.rglob("*") if path.is_file()
        }

    done = run(["-c", program], tmp_path)
    assert done.returncode == 0, done.stderr
    *kills, last = map(int, done.stdout.split())
    assert (kills, last) == ([-signal.SIGKILL] * len(kills), 0), done.stderr
    assert len(kills) >= 4
    assert contents("killed") == contents("whole")
