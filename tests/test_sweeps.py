"""Sweeps of sweep=optuna in processes of their own: killed, gone on with, in parallel, with DDP."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import REPO, SMALL, Process, story

from llm_from_scratch.study import STUDY, Study, TrialRow

pytestmark = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs the extra `sweep`")
QUICK = (
    *(word for word in SMALL if "max_new_tokens" not in word),
    "sample.max_new_tokens=0",
    "logger=none",
    "optim.warmup_steps=2",
    "sweep=optuna",
)
SEARCH = (
    *QUICK,
    "trainer.max_steps=24",
    "trainer.val_check_interval=4",
    "hydra.sweeper.n_trials=12",
    "hydra.sweeper.startup_trials=3",
    "hydra.sweeper.pruner_startup=2",
)


@pytest.fixture(autouse=True)
def text(tmp_path: Path) -> Path:
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    return tmp_path / "story.txt"


def trials(folder: Path) -> list[TrialRow]:
    study = Study(folder)
    rows = study.trials()
    study.close()
    return rows


def killed_when(cwd: Path, ready: Callable[[], bool], words: Sequence[str], *, alone: bool = False) -> None:
    """Starts a sweep and kills it with SIGKILL at a moment: all its processes, or the first one."""
    command = [sys.executable, str(REPO / "train.py"), *words]
    environment = os.environ | {"PYTHONPATH": str(REPO / "src"), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not ready():
        assert process.poll() is None, "the sweep ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    if alone:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def has_step(run: Path, step: int) -> Callable[[], bool]:
    """Whether a run has the checkpoint of a step."""
    return lambda: (run / "checkpoints" / f"step_{step:08d}").exists()


def same_runs(one: Path, other: Path) -> None:
    """All runs of two sweeps have the same rows and weights, byte for byte."""
    runs = sorted(path.parent.name for path in one.glob("*/curves.png"))
    assert sorted(path.parent.name for path in other.glob("*/curves.png")) == runs
    for run in runs:
        for name in ("metrics.jsonl", "model/model.safetensors"):
            assert (one / run / name).read_bytes() == (other / run / name).read_bytes(), (run, name)


def test_a_sweep_draws_and_tells_and_refuses_other_settings_later(train: Process, tmp_path: Path) -> None:
    words = (*QUICK, "trainer.max_steps=2", "hydra.sweeper.n_trials=1", "run_dir=s", "model.dropout=0.0")
    done = train(*words, "optim.lr=choice(1e-3,1e-2)")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"run: {Path('s/0')}\n"
    assert "1 trials of s: 1 finished" in done.stderr
    assert {path.name for path in (tmp_path / "s").glob("*.png")} == {"trials.png", "settings.png"}
    (first,) = trials(tmp_path / "s")
    assert first.state == "complete"
    assert set(first.params) == {"optim.lr", "optim.weight_decay"}
    other = train("sweep=optuna", "run_dir=s", "optim.lr=1e-3")
    assert (other.returncode, other.stdout) == (2, "")
    assert "leave it out, or start a new sweep" in other.stderr


@pytest.mark.slow
def test_a_finished_sweep_goes_on_to_more_trials(train: Process, tmp_path: Path) -> None:
    done = train(*QUICK, "trainer.max_steps=2", "hydra.sweeper.n_trials=1", "run_dir=s")
    assert done.returncode == 0, done.stderr
    (first,) = trials(tmp_path / "s")
    more = train("sweep=optuna", "run_dir=s", "hydra.sweeper.n_trials=2")
    assert more.returncode == 0, more.stderr
    assert more.stdout == f"run: {Path('s/1')}\n"
    assert "s: goes on: 1 of 2 trials are finished" in more.stderr
    again, second = trials(tmp_path / "s")
    assert (again, second.state) == (first, "complete")


@pytest.mark.slow
def test_a_sweep_that_is_killed_three_times_ends_as_an_undisturbed_one(train: Process, tmp_path: Path) -> None:
    whole = train(*SEARCH, "run_dir=whole")
    assert whole.returncode == 0, whole.stderr
    words: tuple[str, ...] = (*SEARCH, "run_dir=killed")
    for ready in (
        (tmp_path / "killed" / STUDY).exists,  # before the first trial
        has_step(tmp_path / "killed/1", 8),
        has_step(tmp_path / "killed/5", 4),
    ):
        killed_when(tmp_path, ready, words)
        words = ("sweep=optuna", "run_dir=killed")
    done = train(*words)
    assert done.returncode == 0, done.stderr
    rows = trials(tmp_path / "killed")
    assert [row.number for row in rows] == list(range(12))
    assert {row.state for row in rows} == {"complete", "pruned"}
    assert rows == trials(tmp_path / "whole")
    same_runs(tmp_path / "whole", tmp_path / "killed")
    assert len(list((tmp_path / "killed").glob("*/curves.png"))) == 12


@pytest.mark.slow
def test_two_workers_give_the_same_results_also_after_a_kill(train: Process, tmp_path: Path) -> None:
    """Values that depend on the trial's number alone: then the order of the trials does not count.

    The kill leaves the workers without their sweep: no trial may be lost or trained by two.
    """
    if not importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"):
        pytest.skip("needs hydra-joblib-launcher, of the extra `sweep`")
    words = [word for word in SEARCH if "n_trials" not in word and "sampler" not in word]
    words += ["hydra.sweeper.sampler=random", "hydra.sweeper.pruner=none", "hydra.sweeper.n_trials=6"]
    alone = train(*words, "run_dir=alone")
    assert alone.returncode == 0, alone.stderr
    parallel = (*words, "hydra/launcher=joblib", "hydra.sweeper.n_jobs=2", "run_dir=two")
    killed_when(tmp_path, has_step(tmp_path / "two/2", 8), parallel, alone=True)
    done = train("sweep=optuna", "run_dir=two")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(f"run: {Path('two') / str(number)}\n" for number in range(6))
    assert trials(tmp_path / "two") == trials(tmp_path / "alone")
    same_runs(tmp_path / "alone", tmp_path / "two")


@pytest.mark.slow
def test_pruning_and_going_on_with_two_processes_a_run(train: Process, tmp_path: Path) -> None:
    others = ("trainer=cpu", "hydra.sweeper.n_trials=12", "hydra.sweeper.pruner_startup=2")
    words = [word for word in SEARCH if word not in others]
    words += ["trainer=ddp_cpu", "hydra.sweeper.n_trials=4", "hydra.sweeper.pruner_startup=1", "run_dir=ddp"]
    killed_when(tmp_path, has_step(tmp_path / "ddp/1", 4), words)
    done = train("sweep=optuna", "run_dir=ddp")
    assert done.returncode == 0, done.stderr
    rows = trials(tmp_path / "ddp")
    assert [row.number for row in rows] == list(range(4))
    assert {row.state for row in rows} <= {"complete", "pruned"}
    assert rows[0].state == "complete"


@pytest.mark.slow
def test_settings_that_cannot_be_trained_are_told_and_the_sweep_goes_on(train: Process, tmp_path: Path) -> None:
    quick = [word for word in QUICK if "warmup" not in word]
    words = (*quick, "trainer.max_steps=3", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler=random", "run_dir=s")
    done = train(*words, "optim.lr=choice(1e38,1e-3)", "optim.warmup_steps=0", "hydra.sweeper.seed=2")
    rows = trials(tmp_path / "s")
    unfit = [row for row in rows if row.params["optim.lr"] == "1e+38"]
    assert 0 < len(unfit) < 4
    assert {row.value for row in unfit} == {float("inf")}
    assert all(row.state == "complete" for row in rows)
    assert done.returncode == 1, done.stderr
    assert f"{len(unfit)} failed" in done.stderr


CALLBACK = """
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class Disk(Callback):
    def on_train_batch_end(self, trainer, *others):
        if Path("full").exists() and trainer.global_step == 3:
            raise OSError("No space left on device")
"""


@pytest.mark.slow
def test_a_failure_of_the_machine_is_no_value_and_the_trial_is_made_again(train: Process, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CALLBACK, encoding="utf-8")
    (tmp_path / "full").touch()
    words = (*QUICK, "trainer.max_steps=4", "trainer.val_check_interval=2", "hydra.sweeper.n_trials=2", "run_dir=s")
    done = train(*words, "+callbacks.disk._target_=mine.Disk")
    assert done.returncode == 1, done.stderr
    assert (
        "2 trials have no result yet; they are made again with: python train.py sweep=optuna run_dir=s" in done.stderr
    )
    drawn = trials(tmp_path / "s")
    assert {row.state for row in drawn} == {"running"}
    (tmp_path / "full").unlink()
    again = train("sweep=optuna", "run_dir=s")
    assert again.returncode == 0, again.stderr
    rows = trials(tmp_path / "s")
    assert [(row.params, row.state) for row in rows] == [(row.params, "complete") for row in drawn]
    assert not list((tmp_path / "s").glob("*/error.txt"))
