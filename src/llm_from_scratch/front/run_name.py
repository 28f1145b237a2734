"""The name of a run, shared by all processes of its command."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf

from llm_from_scratch.files import write_file

# The environment variable that passes the run's name to the processes of Lightning and of Hydra's
# launchers.
RUN_NAME = "LLM_FROM_SCRATCH_RUN_NAME"
NAME = "llm_from_scratch/run_name"  # in torchrun's store
# A file of a run folder: which launch began the run, and how often it had been started again then.
LAUNCH = ".launch"


def run_name() -> str:
    """Returns the run's name, DATE_TIME_ID: the one in RUN_NAME, or a new one.

    The id separates runs that start in the same second, also when the clock goes back. A command
    passes its name in RUN_NAME to all jobs of a sweep and all processes of a run. A config that is
    composed outside a command gets a name of its own.
    """
    return os.environ.get(RUN_NAME) or new_name()


def new_name() -> str:
    """Returns a name for a new command's run, the same in all processes of torchrun or srun."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S") + "_" + secrets.token_hex(2)
    if _of_torchrun():
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torchrun keeps a store for its processes

        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        # Processes that torchrun has started again keep the name.
        if os.environ["RANK"] == "0" and not store.check([NAME]):
            store.set(NAME, name)
        return store.get(NAME).decode()
    if _of_slurm():
        started = time.localtime(int(os.environ.get("SLURM_JOB_START_TIME", "0")))
        parts = (os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_STEP_ID"), os.environ.get("SLURM_RESTART_COUNT"))
        return time.strftime("%Y-%m-%d_%H-%M-%S", started) + "_" + "_".join(part for part in parts if part)
    return name


def _of_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def begun_before(run: Path) -> bool:
    """Returns whether a launcher starts this command again after it began the run in `run`.

    torchrun does after a process has died (`--max-restarts`), SLURM where a job is queued again.
    """
    try:
        launch, _, round_ = (run / LAUNCH).read_text(encoding="utf-8").partition(" ")
        return launch == _launch() and int(round_) < _round()
    except (OSError, ValueError):
        return False


@contextmanager
def remembered(run: Path, *, owner: bool, started: Callable[[], bool]) -> Iterator[None]:
    """Makes `begun_before` true of a new run, unless it fails before it has `started`.

    `owner`: whether this process has claimed the run folder.
    """
    launch = _launch() if owner else None
    if launch:
        write_file(run / LAUNCH, f"{launch} {_round()}")
    try:
        yield
    finally:
        if launch and not started():
            (run / LAUNCH).unlink(missing_ok=True)


def _launch() -> str | None:
    """Returns an id of what a launcher was told to run, the same when it starts it again."""
    return os.environ.get(RUN_NAME) if _of_torchrun() else os.environ.get("SLURM_JOB_ID")


def _round() -> int:
    """Returns how often the launcher has started its processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or os.environ.get("SLURM_RESTART_COUNT") or 0)


def _of_slurm() -> bool:
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ


def shares_name() -> bool:
    """Returns whether all machines share the run's name, as they do under torchrun and srun."""
    return _of_torchrun() or _of_slurm()


OmegaConf.register_new_resolver("run_name", run_name, replace=True, use_cache=True)
