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
from llm_from_scratch.terminal import for_stream


def no_sweep(run: str) -> UserError:
    """The error for a sweep over a resumed run."""
    return UserError(
        f"resume={run}: a sweep makes new runs and resumes none: leave the sweep out, or use init_from={run}, which"
        " starts each from its weights"
    )


def check_sweep(words: Sequence[str], sweeps: bool, sweeper: Mapping[str, Any], resume: str) -> None:
    """Refuses several values without a sweep, and values that a sweep would not vary.

    Args:
        words: the overrides of all jobs.
        sweeps: whether this is a sweep.
        sweeper: Hydra's settings of it.
        resume: the run to go on with, or nothing.

    Raises:
        UserError: in one line, with what to write.
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
        if sweeps and key in params:
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


def failed(error: Exception, config: DictConfig) -> float:
    """Reports the error of one run of a sweep, and writes it for the table; the other runs go on.

    Returns:
        Infinity: the worst validation loss, so that a sweeper that minimises it keeps away from
            there.
    """
    from llm_from_scratch.config import FAILURE
    from llm_from_scratch.files import write_file

    line, _ = explained(error)
    report(error)
    SweepTable.failures += 1
    if "run_dir" in config:
        folder = run_folder(config)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / FAILURE, line + "\n")
    return math.inf


def run_folder(config: DictConfig) -> Path:
    """The folder of the present job: `run_dir`, or for a job of a sweep a numbered folder
    below it.
    """
    settings = HydraConfig.get()
    if settings.mode != RunMode.MULTIRUN:
        return Path(expanded(config.run_dir))
    folder = Path(settings.sweep.dir) / settings.sweep.subdir
    # Lightning starts the other processes with these arguments: this job alone, not the sweep.
    own = [word for word in job_overrides() if not word.startswith(("run_dir=", "task="))]
    sys.argv[1:] = [*own, literal(f"run_dir={folder}"), "hydra.mode=RUN"]
    return folder


def announce(folder: str) -> None:
    """Prints `run: PATH`; for the processes of a launcher, `SweepTable` prints it."""
    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN and not is_basic(settings):
        return
    print(for_stream(f"run: {folder}", sys.stdout), flush=True)


def is_basic(settings: Any) -> bool:
    """Whether the jobs of a sweep run one after another in this process."""
    return str(settings.launcher._target_).endswith(".BasicLauncher")


class SweepTable(Callback):
    """A Hydra callback: a multirun ends with one table of all its runs."""

    failures = 0  # of the sweep that this process made

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra with its whole configuration."""
        from llm_from_scratch.training.results import completed, print_sweep

        root = Path(config.hydra.sweep.dir)
        if not is_basic(config.hydra):  # its processes may have their output elsewhere
            for run in completed(root):
                print(for_stream(f"run: {run}", sys.stdout), flush=True)
        # A launcher may have made the runs in other processes.
        SweepTable.failures = max(SweepTable.failures, print_sweep([root]))
