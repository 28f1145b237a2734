"""The sweeper of `sweep=optuna`: draws trials, launches them, and goes on where a kill ended it.

    search space -> a trial of the study -> a job of Hydra's launcher -> its value -> the next trial

The folder of a sweep holds `study.db` (`study.Study`), Hydra's multirun.yaml with the words that
started it, and a run folder for each trial, named by its number.
"""

import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import yaml
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from llm_from_scratch import signals
from llm_from_scratch.check import check
from llm_from_scratch.config import SweeperConfig
from llm_from_scratch.errors import UserError, message_of, stop
from llm_from_scratch.files import write_file
from llm_from_scratch.front.run_name import shares_name
from llm_from_scratch.front.sweep import SweepTable, is_basic
from llm_from_scratch.front.words import parse
from llm_from_scratch.machine import cores
from llm_from_scratch.places import program
from llm_from_scratch.study import STUDY, Dimension, Study, TrialRow, combinations_of, objective, require_optuna
from llm_from_scratch.terminal import argument, note, shell

log = logging.getLogger(__name__)

# Hydra takes sweepers from its plugins' namespace alone; `register` puts this one there.
TARGET = "hydra_plugins.llm_from_scratch.OptunaSweeper"
MULTIRUN = "multirun.yaml"
# The trial that this process trains, for the other ranks of a DDP run: NUMBER:FOLDER_OF_THE_SWEEP.
TRIAL = "LLM_FROM_SCRATCH_TRIAL"
GRACE = 1.0  # seconds in which a signal to the whole group reaches the workers by itself
PATIENCE = 60.0  # seconds that a worker has to finish its step and to save it


# ------------------------------------------------------------------------------------- its settings
def register() -> None:
    """Makes the sweeper known to Hydra under TARGET."""
    Plugins.instance().class_name_to_class[TARGET] = OptunaSweeper


def is_search(sweeper: Mapping[str, Any]) -> bool:
    """Returns whether Hydra's settings of a sweeper are those of `sweep=optuna`."""
    return str(sweeper.get("_target_")) == TARGET


def sweeper_settings(sweeper: Mapping[str, Any]) -> SweeperConfig:
    """Returns the checked settings of the sweeper.

    Raises:
        UserError: when one is unknown or out of its range.
    """
    values = OmegaConf.to_container(sweeper, resolve=True) if isinstance(sweeper, DictConfig) else dict(sweeper)
    assert isinstance(values, dict)
    try:
        return check({str(key): value for key, value in values.items() if key != "_target_"}, SweeperConfig)
    except UserError as error:
        raise UserError(f"hydra.sweeper.{error}") from None


def search_space(params: Mapping[str, Any], words: Sequence[str]) -> tuple[list[str], dict[str, Dimension]]:
    """Returns the settings that all trials share, as words, and the space of the others.

    Args:
        params: setting -> values, of `hydra.sweeper.params`.
        words: the words of the command line; they replace those of `params`.

    Raises:
        UserError: when no setting has several values, or an interval is no interval.
    """
    given = {override.key_or_group for override in parse(words)}
    every = [f"{key}={value}" for key, value in params.items() if key not in given] + list(words)
    fixed, space = [], {}
    for override, word in zip(parse(every), every, strict=True):
        if override.is_sweep_override():
            space[override.get_key_element()] = _dimension(override, word)
        else:
            fixed.append(word)
    if not space:
        raise UserError("sweep=optuna: no setting has several values: give one, such as optim.lr='interval(1e-4,1e-2)'")
    return fixed, space


def _dimension(override: Override, word: str) -> Dimension:
    """Returns the values that a word of Hydra's grammar stands for.

    A range includes its end, as in Hydra's own Optuna sweeper.
    """
    value = override.value()
    if isinstance(value, ChoiceSweep) or (isinstance(value, RangeSweep) and value.shuffle):
        return Dimension(choices=tuple(override.sweep_string_iterator()))
    assert isinstance(value, IntervalSweep | RangeSweep)
    low, high = value.start, value.end if isinstance(value, IntervalSweep) else value.stop
    step = value.step if isinstance(value, RangeSweep) else None
    log_scale = "log" in value.tags
    if low is None or high is None or low >= high or (step is not None and step <= 0):
        raise UserError(f"{word}: the first number must be below the second one, and a step above 0")
    if log_scale and (low <= 0 or step is not None):
        raise UserError(f"{word}: a logarithmic scale is for an interval above 0")
    whole = all(isinstance(one, int) for one in (low, high, 1 if step is None else step))
    return Dimension(low if whole else float(low), high if whole else float(high), step, log_scale)


def corner_jobs(fixed: Sequence[str], space: Mapping[str, Dimension]) -> Iterator[list[str]]:
    """Yields the jobs to check before a sweep: first values of all settings, then each other end.

    Args:
        fixed: the words that all jobs share.
        space: setting -> its values; every choice, and both ends of every interval, are in a job.
    """
    firsts = {key: one.ends[0] for key, one in space.items()}
    others = ({key: end} for key, one in space.items() for end in one.ends[1:])
    for changed in ({}, *others):
        yield [*fixed, *(f"{key}={_written(value)}" for key, value in (firsts | changed).items())]


def workers(settings: SweeperConfig, hydra: Any) -> int:
    """Returns the number of trials at a time.

    Raises:
        UserError: when the launcher runs one at a time, or does not say how many.
    """
    if is_basic(hydra):
        if (settings.n_jobs or 1) > 1:
            raise UserError(
                f"hydra.sweeper.n_jobs={settings.n_jobs}: several trials at a time need hydra/launcher=joblib, or submitit_local"
                " or submitit_slurm"
            )
        return 1
    if settings.n_jobs is not None:
        return settings.n_jobs
    if "n_jobs" in hydra.launcher:
        return int(hydra.launcher.n_jobs) if hydra.launcher.n_jobs > 0 else cores()
    raise UserError("hydra.sweeper.n_jobs: give the number of trials that the launcher is to run at a time")


# ----------------------------------------------------------------------------- a sweep that goes on
def going_on(words: Sequence[str]) -> list[str]:
    """Returns the words of a sweep: those that started it, where `run_dir` names an earlier one.

    Of the words given then, those of the sweeper and the launcher replace its own.

    Raises:
        UserError: when another word differs from the sweep's own.
    """
    given = {override.key_or_group: override for override in parse(words)}
    if not given.keys() & {"sweep", "experiment"} or "run_dir" not in given:
        return list(words)
    folder = Path(str(given["run_dir"].value()))
    if not (folder / STUDY).exists():
        return list(words)
    by_key = {_key(word): word for word in _saved_words(folder)}
    chosen = {}
    for word in words:
        key = _key(word)
        if key.startswith("hydra") or key == "run_dir":
            chosen[key] = word
        elif by_key.get(key) != word:
            raise UserError(
                f"{word}: the sweep in {folder} has {by_key.get(key, 'not given it')}: leave it out, or start a new sweep"
                " with another run_dir"
            )
    if "hydra/launcher" in chosen:
        by_key = {key: word for key, word in by_key.items() if not key.startswith("hydra.launcher.")}
    return list((by_key | chosen).values())


def _key(word: str) -> str:
    """Returns what a word sets; `data` and `data@watch.oz` are two groups."""
    return word.partition("=")[0].lstrip("+~")


def _saved_words(folder: Path) -> list[str]:
    try:
        saved = yaml.safe_load((folder / MULTIRUN).read_text(encoding="utf-8"))["hydra"]["overrides"]
        words = [str(word) for word in (*saved["hydra"], *saved["task"])]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"{folder / MULTIRUN} cannot be read ({message_of(error, 100)}): restore it from a copy"
        ) from None
    return [word for word in words if not word.startswith(("hydra.mode=", "hydra.sweep.dir=", "hydra.output_subdir="))]


def check_search(hydra: Any, words: Sequence[str]) -> tuple[list[str], dict[str, Dimension]]:
    """Checks a sweep of `sweep=optuna` before it starts; returns what `search_space` does.

    Args:
        hydra: Hydra's settings.
        words: of the command line.

    Raises:
        UserError: when a library is missing, a setting is wrong, or a launcher does not fit.
    """
    require_optuna("sweep=optuna")
    if shares_name():
        raise UserError("sweep=optuna starts its processes itself: start it without torchrun or srun")
    settings = sweeper_settings(hydra.sweeper)
    workers(settings, hydra)
    fixed, space = search_space(settings.params, words)
    if settings.sampler == "grid" and settings.n_trials > combinations_of(space):
        raise UserError(
            f"hydra.sweeper.n_trials={settings.n_trials}: sampler=grid has {combinations_of(space)} combinations of choices"
            " (an interval has none): give as many trials, or fewer"
        )
    return fixed, space


# ----------------------------------------------------------------------------- in a trial's process
@dataclass(frozen=True)
class CurrentTrial:
    """The trial that this process trains: its sweep's folder, its number."""

    folder: Path
    number: int

    def finished(self, run: Path) -> float | None:
        """Returns the value of a run that has its results; None for one that has to train.

        A process that outlived its killed sweep may train this run still: then it waits for that.
        """
        if not (run / "config.yaml").exists():
            return None
        lock = FileLock(run / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("%s: another process trains there still: waiting for it", run)
            lock.acquire()
        lock.release()
        from llm_from_scratch.run import RunFolder  # imports torch

        best = RunFolder(run).best() if (run / "curves.png").exists() else None
        return None if best is None else objective(best)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Names the trial to the processes that this one starts, within a `with` block."""
        os.environ[TRIAL] = f"{self.number}:{self.folder}"
        try:
            yield
        finally:
            del os.environ[TRIAL]


def current_trial() -> CurrentTrial | None:
    """Returns the trial of this process, or of the one that started it as a rank; else None."""
    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN:
        if not is_search(settings.sweeper):
            return None
        if "joblib" in str(settings.launcher._target_).lower():
            _end_with_sweep()
        return CurrentTrial(Path(settings.sweep.dir), int(settings.job.num))
    if TRIAL not in os.environ:
        return None
    number, _, folder = os.environ[TRIAL].partition(":")
    return CurrentTrial(Path(folder), int(number))


_following = threading.Event()


def _end_with_sweep() -> None:
    """Ends a worker of joblib soon after the sweep that started it, even where that was killed."""
    if multiprocessing.parent_process() is not None and not _following.is_set():
        _following.set()
        signals.end_with_parent()


# ------------------------------------------------------------------------------------- the sweeper
class OptunaSweeper(Sweeper):
    """Draws the values of trials with Optuna, and launches each as one job of Hydra's launcher."""

    def __init__(self, **settings: Any) -> None:
        self.settings = sweeper_settings(settings)
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Any = None
        self.workers = 1

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Makes the launcher, as Hydra asks of every sweeper."""
        self.hydra_context, self.config = hydra_context, config
        self.workers = workers(self.settings, config.hydra)
        if "n_jobs" in config.hydra.launcher:
            with open_dict(config.hydra.launcher):
                config.hydra.launcher.n_jobs = self.workers
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        # Each launch of a single job would announce itself in three lines
        logging.getLogger(type(self.launcher).__module__.rpartition(".")[0]).setLevel(logging.WARNING)

    def sweep(self, arguments: list[str]) -> None:
        """Makes all trials that the sweep has not finished yet.

        Raises:
            SystemExit: when the sweep cannot start, or was interrupted.
        """
        try:
            self._sweep(arguments)
        except Exception as error:
            stop(error, "train")

    def _sweep(self, arguments: Sequence[str]) -> None:
        assert self.config is not None
        folder = Path(str(self.config.hydra.sweep.dir))
        fixed, space = search_space(self.settings.params, arguments)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".sweep.lock", timeout=0):
                study = self._study(folder, space)
                command = shell(*program("train"), self._name(), f"run_dir={argument(folder)}")
                try:
                    self._run(study, fixed)
                except BaseException:
                    note(f"the sweep goes on with: {command}")
                    raise
                else:
                    left = sum(row.state == "running" for row in study.trials())
                    if left:
                        note(f"{left} trials have no result yet; they are made again with: {command}")
                finally:
                    study.close()
        except Timeout:
            raise UserError(f"run_dir={folder}: another process makes the trials of this sweep now") from None

    def _name(self) -> str:
        """Returns the word that chooses this sweep: a sweep, or an experiment that is one."""
        assert self.config is not None
        choices = self.config.hydra.runtime.choices
        return f"sweep={choices.get('sweep')}" if choices.get("sweep") else f"experiment={choices.get('experiment')}"

    def _study(self, folder: Path, space: dict[str, Dimension]) -> Study:
        """Opens the study of a sweep that goes on, or makes a new one."""
        assert self.config is not None
        if not (folder / STUDY).exists():
            # Before the study: a folder with a study has all that the sweep needs to go on
            write_file(folder / MULTIRUN, OmegaConf.to_yaml(self.config))
            steps = self.config.trainer.val_check_interval, self.config.trainer.max_steps
            return Study.create(folder, self.settings, space, steps)
        study = Study(folder)
        if study.space != space:
            raise UserError(
                f"{folder}: the file of the sweep has other values now: start a new sweep with another run_dir"
            )
        study.follow(self.settings)
        rows = study.trials()
        done = sum(row.state != "running" for row in rows)
        note(
            f"{folder}: goes on: {done} of {self.settings.n_trials} trials are finished, {len(rows) - done} were begun"
        )
        return study

    def _run(self, study: Study, fixed: Sequence[str]) -> None:
        """Runs the trials that are begun, then new ones, `workers` at a time."""
        begun = [row.number for row in study.trials() if row.state == "running"]
        results: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        running = 0
        while True:
            while running < self.workers and (row := self._next(study, begun)):
                words = [*fixed, *(f"{key}={_written(value)}" for key, value in row.params.items())]
                drawn = " ".join(words[len(fixed) :])
                log.info("trial %d (%d in all): %s", row.number, self.settings.n_trials, drawn)
                self._start(row.number, words, results)
                running += 1
            if not running:
                return
            self._finish(study, *self._wait(results, running))
            running -= 1

    def _next(self, study: Study, begun: list[int]) -> TrialRow | None:
        if begun:
            return study.draw(begun.pop(0))
        return study.draw() if len(study.trials()) < self.settings.n_trials else None

    def _start(self, number: int, words: list[str], results: "SimpleQueue[tuple[int, Any]]") -> None:
        """Launches a trial: in this thread where it is alone, for signals and Lightning need it."""

        def launch() -> None:
            try:
                (job,) = self.launcher.launch([words], initial_job_idx=number)
                results.put((number, float(job.return_value)))
            except BaseException as error:
                results.put((number, error))

        if self.workers == 1:
            launch()
        else:
            threading.Thread(target=launch, daemon=True).start()

    def _wait(self, results: "SimpleQueue[tuple[int, Any]]", running: int) -> tuple[int, Any]:
        """Returns the next of `running` results; an interruption waits until workers have saved."""
        try:
            return results.get()
        except BaseException:
            time.sleep(GRACE)
            workers = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
            for pid in workers:
                os.kill(pid, signal.SIGTERM)
            with suppress(Empty):
                for _ in range(running if workers else 0):  # a launcher on a cluster has none here
                    results.get(timeout=PATIENCE)
            raise

    def _finish(self, study: Study, number: int, result: Any) -> None:
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result  # a signal has ended the trial
        if isinstance(result, Exception):
            # A worker that was killed; its trial is taken up when the sweep goes on
            note(f"trial {number} ended without a result: {message_of(result, 200)}")
            SweepTable.failures += 1
        elif not math.isnan(result):
            study.finish(number, result)


def _written(value: Any) -> str:
    """Returns a drawn value as Hydra reads it; a choice is written so already."""
    return value if isinstance(value, str) else repr(value)
