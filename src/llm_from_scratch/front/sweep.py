"""Sweeps: many jobs of one command, their folders, their failures and their table."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from llm_from_scratch.errors import UserError, explained, report
from llm_from_scratch.front.words import LITERAL, SWEPT, job_overrides, literal, parse
from llm_from_scratch.places import expanded
from llm_from_scratch.study import STUDY
from llm_from_scratch.terminal import for_stream


def no_sweep(run: str) -> UserError:
    """Returns the error for a sweep over the resumed run `run`."""
    return UserError(
        f"resume={run}: a sweep makes new runs and resumes none: leave the sweep out, or use init_from={run}, which"
        " starts each from its weights"
    )


def check_sweep(words: Sequence[str], sweeps: bool, sweeper: Mapping[str, Any], resume: str) -> None:
    """Refuses several values without a sweep, and values that a sweep would not vary.

    Args:
        words: the overrides of all jobs.
        sweeps: whether this is a sweep.
        sweeper: Hydra's settings of the sweeper.
        resume: the run to resume; "" for none.

    Raises:
        UserError: for the first refused override, with what to write.
    """
    if sweeps and resume:
        raise no_sweep(resume)
    params = sweeper.get("params") or {}
    grid = str(sweeper.get("_target_")).endswith(".BasicSweeper")
    for override, word in zip(parse(words), words, strict=True):
        key = override.key_or_group
        if override.is_sweep_override() and not sweeps:
            raise UserError(f"{word}: several values: add -m to make one run for each")
        if override.is_sweep_override() and not override.is_discrete_sweep() and grid:
            raise UserError(
                f"{word}: Hydra's own sweeper takes lists of values alone: add sweep=optuna, or write {key}=A,B"
            )
        if sweeps and key in params and grid:
            raise UserError(
                f"{word}: the sweep has values for it ({params[key]}): leave it out, or sweep over it alone with -m"
            )
        value = override.value()
        if not (sweeps and key in LITERAL and isinstance(value, str) and "," in value):
            continue
        if key in SWEPT and key != "sample.prompt" and not Path(value).exists():
            raise UserError(f"{key}={value}: is taken as one value; for one run each write {key}='choice({value})'")
        if key == "run_dir":
            print(f"run_dir={value}: is one folder, in which each run has a numbered one", file=sys.stderr)
        if key not in SWEPT:
            continue
        print(f"{key}={value}: is one value; for one run each write {key}='choice(…)'", file=sys.stderr)


def failed(error: Exception, command: str, config: DictConfig) -> float:
    """Reports the error of one run of a sweep and saves it for the table; the other runs go on.

    `command` is the name of the command, `config` the configuration of the run.

    Returns:
        Infinity, the worst value, where the run's settings are the reason: a sweeper avoids them.
        NaN where they may not be: the sweep makes the run again when it goes on.
    """
    from llm_from_scratch.config import FAILURE
    from llm_from_scratch.files import write_file

    line, _ = explained(error, command)
    report(error, command)
    SweepTable.failures += 1
    if "run_dir" in config:
        folder = run_folder(config)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / FAILURE, line + "\n")
    unfit = isinstance(error, UserError) and not config.get("resume")  # a run that never began
    return math.inf if unfit or isinstance(error, FloatingPointError) else math.nan


def run_folder(config: DictConfig) -> Path:
    """Returns the folder of the current job: `run_dir`, or in a sweep a numbered folder below it.

    In a sweep it also reduces sys.argv to this job's overrides.
    """
    settings = HydraConfig.get()
    if settings.mode != RunMode.MULTIRUN:
        return Path(expanded(config.run_dir))
    folder = Path(settings.sweep.dir) / settings.sweep.subdir
    # Lightning starts the other ranks with these arguments: this job's, not the sweep's.
    own = [word for word in job_overrides() if not word.startswith(("run_dir=", "task="))]
    sys.argv[1:] = [*own, literal(f"run_dir={folder}"), "hydra.mode=RUN"]
    return folder


def announce(folder: str) -> None:
    """Prints `run: PATH`; for the processes of a launcher, `SweepTable` prints it instead."""
    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN and not is_basic(settings):
        return
    print(for_stream(f"run: {folder}", sys.stdout), flush=True)


def is_basic(settings: Any) -> bool:
    """Returns whether the jobs of a sweep run one after another in this process."""
    return str(settings.launcher._target_).endswith(".BasicLauncher")


class SweepTable(Callback):
    """A Hydra callback that prints one table of all runs at the end of a sweep."""

    failures = 0  # failed runs of the sweep in this process

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints the table and counts the failures. Hydra calls it with its whole configuration."""
        from llm_from_scratch.evaluation.comparison_report import print_search
        from llm_from_scratch.training.results import completed, print_sweep

        root = Path(config.hydra.sweep.dir)
        if not is_basic(config.hydra):  # the output of a launcher's processes may be elsewhere
            for run in completed(root):
                print(for_stream(f"run: {run}", sys.stdout), flush=True)
        show = print_search if (root / STUDY).exists() else print_sweep
        # Failures in other processes are counted from the folders of the runs.
        SweepTable.failures = max(SweepTable.failures, show(root))
