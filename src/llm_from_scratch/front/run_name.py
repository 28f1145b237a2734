"""The name of a run, shared by all processes of its command."""

import os
import secrets
import time

from omegaconf import OmegaConf

# The environment variable that passes the run's name to the processes of Lightning and of Hydra's
# launchers.
RUN_NAME = "LLM_FROM_SCRATCH_RUN_NAME"


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
        key = f"llm_from_scratch/run_name/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if os.environ["RANK"] == "0":
            store.set(key, name)
        return store.get(key).decode()
    if _of_slurm():
        started = time.localtime(int(os.environ.get("SLURM_JOB_START_TIME", "0")))
        parts = (os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_STEP_ID"), os.environ.get("SLURM_RESTART_COUNT"))
        return time.strftime("%Y-%m-%d_%H-%M-%S", started) + "_" + "_".join(part for part in parts if part)
    return name


def _of_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _of_slurm() -> bool:
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ


def shares_name() -> bool:
    """Returns whether all machines share the run's name, as they do under torchrun and srun."""
    return _of_torchrun() or _of_slurm()


OmegaConf.register_new_resolver("run_name", run_name, replace=True, use_cache=True)
