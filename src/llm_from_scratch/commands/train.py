"""`train.py`: checks the settings of every job, then trains.

Imports are local to functions: `--help` and a mistake in a setting need neither torch nor
Lightning.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from llm_from_scratch.errors import UserError, first_line
from llm_from_scratch.files import existing_parent, refuse_links
from llm_from_scratch.front.compose import experiments
from llm_from_scratch.front.inherit import final_config, may_fetch, tokenizer_of_origin
from llm_from_scratch.front.program import command
from llm_from_scratch.front.run_name import begun_before, remembered, shares_name
from llm_from_scratch.front.search import CurrentTrial, current_trial, is_search
from llm_from_scratch.front.sweep import announce, run_folder
from llm_from_scratch.front.words import given_settings, job_overrides, literal
from llm_from_scratch.places import config_dir
from llm_from_scratch.settings import written
from llm_from_scratch.study import STUDY
from llm_from_scratch.terminal import console, note, quote

if TYPE_CHECKING:
    from rich.tree import Tree

    from llm_from_scratch.config import Config
    from llm_from_scratch.data.prepared import Prepared

log = logging.getLogger(__name__)


def settle(composed: DictConfig, job: Sequence[str]) -> "Config":
    """Returns the checked config of one job.

    Args:
        composed: the configuration of the job (`final_config`).
        job: its overrides.

    Raises:
        UserError: when a value is wrong or a setting has no effect.
    """
    from llm_from_scratch.check import check as check_settings
    from llm_from_scratch.check import check_given
    from llm_from_scratch.config import Config

    config = check_settings(composed, Config)
    check_given(config, given_settings(job))
    return config


def check(composed: DictConfig, job: Sequence[str]) -> None:
    """Raises UserError for a job that cannot run, before any job starts; writes no files.

    A line on standard error warns of a run that would take too long.
    """
    config = settle(composed, job)
    check_place(config, job)

    from llm_from_scratch.data.prepare import check_text

    if not config.resume:
        check_text(config.data, given_settings(job))

    # These import torch and Lightning, which takes seconds.
    from llm_from_scratch.plan.warnings import too_much
    from llm_from_scratch.run import refuse_other_kinds
    from llm_from_scratch.training.checks import check_trainer, require_device
    from llm_from_scratch.training.watch import watched_settings

    watched_settings(config)
    refuse_other_kinds(Path(config.run_dir))
    if not _in_slurm_jobs():  # which have other devices than this machine
        require_device(config.trainer)
        check_trainer(config)
    if config.resume and text_to_resume(config, job, warn=False) is None:
        check_text(config.data, given_settings(job))
    origin = tokenizer_of_origin(config)
    if not _in_slurm_jobs():
        for line in too_much(config, recipes, origin.vocab_size if origin else None):
            note(line)


def _in_slurm_jobs() -> bool:
    """Returns whether each run of this command will be a job of SLURM's."""
    return str(HydraConfig.get().launcher.get("_target_")).endswith(".SlurmLauncher")


def check_place(config: "Config", job: Sequence[str]) -> None:
    """Refuses a run folder that is not writable, holds a run, or has another name on each machine.

    Raises:
        UserError: in one line, with what to change.
    """
    from llm_from_scratch.data.prepare import is_first_rank

    run_dir = Path(config.run_dir)
    refuse_links(run_dir, run_dir)
    own_name = config.resume or shares_name() or "run_dir" in given_settings(job) or _in_slurm_jobs()
    if config.trainer.num_nodes > 1 and not own_name:
        raise UserError(
            f"trainer.num_nodes={config.trainer.num_nodes}: the command of each machine would choose a run folder of its own:"
            " give all of them one run_dir=PATH, or start them with torchrun or srun"
        )
    there = existing_parent(run_dir)
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"run_dir={config.run_dir}: {there} cannot be written; choose another folder")
    if (run_dir / STUDY).exists() and is_search(HydraConfig.get().sweeper):
        return  # a sweep that goes on
    held = [*run_dir.glob("config.yaml"), *run_dir.glob("[!.]*/config.yaml")]
    # Rank 0 may have begun this very run before the other ranks look
    if held and not config.resume and is_first_rank() and not begun_before(run_dir):
        raise UserError(
            f"run_dir={config.run_dir} holds a run already: choose another folder, or go on with"
            f" {quote(f'resume={held[0].parent}')}"
        )


def tree(config: "Config") -> "Tree":
    """Returns the config of one run as a rich tree, with a branch for each group."""
    from dataclasses import asdict

    from rich.tree import Tree

    def grow(branch: Tree, values: Mapping[str, Any]) -> Tree:
        for name, value in values.items():
            if isinstance(value, dict) and value:
                grow(branch.add(str(name)), value)
            else:
                branch.add(f"{name}: {written(value)}")
        return branch

    return grow(Tree(config.run_dir), asdict(config))


def recipes() -> dict[str, "Config"]:
    """Returns name -> checked config of each experiment that is one run."""
    from llm_from_scratch.check import check as check_settings
    from llm_from_scratch.config import Config

    return {name: check_settings(composed, Config) for name, composed in experiments()}


def text_to_resume(config: "Config", job: Sequence[str], *, warn: bool) -> "Prepared | None":
    """Returns the prepared text of the resumed run; None if it has to be prepared again.

    Args:
        config: the config of the resumed run.
        job: its overrides.
        warn: whether to log a warning if the source files are missing.

    Raises:
        UserError: when the source files have changed, when `data.path` is given and does not exist,
            or when config.yaml names another kind of tokenizer.
    """
    from llm_from_scratch.checkpoint import checkpoints
    from llm_from_scratch.data.prepare import source_fingerprint, source_now
    from llm_from_scratch.evaluation.measure import own_text
    from llm_from_scratch.run import source_of_checkpoint

    run = Path(str(config.resume))
    prepared = own_text(run, config)
    # Version 0.1 kept the tokenizer's settings of a new run beside weights that came with another
    # tokenizer.
    if prepared and not config.init_from and prepared.tokenizer.kind != config.tokenizer.kind:
        raise UserError(
            f"{run / 'config.yaml'}: tokenizer.kind={config.tokenizer.kind}, and the run's text was prepared with"
            f" {prepared.tokenizer.kind}: restore it from a copy"
        )
    before = source_fingerprint(prepared) if prepared else source_of_checkpoint(run)
    if before is None:
        return None
    try:
        now = source_now(config.data)
    except UserError as error:
        if "data.path" in given_settings(job):
            raise
        if warn and prepared:
            log.warning("%s: the run goes on with its prepared text, %s", first_line(error), prepared.folder)
        return prepared
    if before != now:
        made = next(iter(checkpoints(run)), run)
        raise UserError(
            f"{made}: made with the data {before[:16]}, and this run has {now[:16]}: put the text back as it was, under the"
            f" names it had, or start a new run from the weights ({quote(f'init_from={run}')})"
        )
    return prepared


def one_run(composed: DictConfig) -> float:
    """Trains one run and returns the value of its best validation, which sweepers minimise."""
    trial, run = current_trial(), run_folder(composed)
    if trial is None:
        if not composed.resume and begun_before(run):
            composed.resume = str(run)
        return train_run(composed, run)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        value = trial.finished(run)
        if value is not None:
            return value
        if (run / "config.yaml").exists():  # killed: Lightning starts the other ranks with this word, too
            composed.resume = str(run)
            sys.argv.append(literal(f"resume={run}"))
    with trial.shared():
        return train_run(composed, run, trial)


def train_run(composed: DictConfig, run: Path, trial: CurrentTrial | None = None) -> float:
    """Trains one run in the folder `run`; see `one_run`.

    Args:
        composed: the configuration of the job.
        run: the run folder.
        trial: the trial of a sweep that this run is; its validations may stop it.
    """
    from llm_from_scratch.data.prepare import is_first_rank
    from llm_from_scratch.training.checks import check_trainer, require_device
    from llm_from_scratch.training.claim import Claim
    from llm_from_scratch.training.fit import train
    from llm_from_scratch.training.pruning import Pruning
    from llm_from_scratch.training.trainer import separate_processes

    job = job_overrides()
    if composed.resume and not any(word.startswith("resume=") for word in job):
        job.append(literal(f"resume={composed.resume}"))  # it was killed, and goes on
    final = final_config(composed, job)
    config = settle(final, job)
    config.run_dir = str(run)
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        require_device(config.trainer)
    check_trainer(config)  # values that a sweeper draws were not checked before
    if config.print_config and is_first_rank():
        console(stderr=True).print(tree(config))
    with (
        Claim(config, owner=is_first_rank()) as claim,
        remembered(run, owner=claim.owner and not config.resume, started=lambda: claim.started),
        separate_processes(),
    ):
        return train(
            config,
            claim,
            text_to_resume(config, job, warn=is_first_rank()) if config.resume else None,
            fetch=may_fetch(final, composed, job),
            more=[Pruning(trial.folder, trial.number)] if trial else [],
            write=not config.resume or config.data.dir == composed.data.dir,
            announce=announce,
        )


main = command(config_dir(), "train", check, starting="starting: torch and Lightning are being loaded")(one_run)
