"""The Lightning Trainer from the settings: device, precision, loggers, callbacks, checkpoints."""

import ctypes
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PyTorchProfiler
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from llm_from_scratch import signals
from llm_from_scratch.checkpoint import recorded_layout, step_of
from llm_from_scratch.config import Config, TrainerConfig
from llm_from_scratch.data.sampler import batch_size_at
from llm_from_scratch.machine import WIDE, bfloat16_pays, has_bfloat16, has_mps
from llm_from_scratch.training.internals import leave_signals_alone, log_at_own_steps
from llm_from_scratch.training.loggers import UserRows, make_logger
from llm_from_scratch.training.memory import device_bytes, micro_batch_size, on_gpu
from llm_from_scratch.training.sharded import Sharded
from llm_from_scratch.training.states import StateFolders
from llm_from_scratch.training.trackers import CHOSEN, new_id, save_ids

log = logging.getLogger(__name__)


def join_again() -> None:
    """Forms the process group where torchrun has started the processes again; Lightning keeps it.

    torchrun keeps one store for all its attempts, with the addresses of the processes that died
    in it (torch 2.13), so that each attempt needs keys of its own.
    """
    attempt, variables = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ
    if attempt == "0" or variables.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or int(variables["WORLD_SIZE"]) == 1:
        return
    store = dist.TCPStore(variables["MASTER_ADDR"], int(variables["MASTER_PORT"]), is_master=False)  # type: ignore[attr-defined]
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=dist.PrefixStore(f"attempt {attempt}", store),  # type: ignore[attr-defined]
        rank=int(variables["RANK"]),
        world_size=int(variables["WORLD_SIZE"]),
    )


@contextmanager
def separate_processes() -> Iterator[None]:
    """Ends the process group that Lightning leaves after a run, and removes its environment
    variables.

    It applies to a `with` block, and only where Lightning, not a launcher, started the processes.
    """
    before = dict(os.environ)
    if "LOCAL_RANK" not in before:
        os.environ[signals.PARENT] = str(os.getpid())
    try:
        yield
    finally:
        if "LOCAL_RANK" not in before:
            del os.environ[signals.PARENT]
        # Lightning in this process set the variables, not a launcher
        started = "LOCAL_RANK" in os.environ and "LOCAL_RANK" not in before
        if started and dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        if started:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]


def build_trainer(
    config: Config,
    callbacks: list[Callback],
    loggers: Mapping[str, Logger],
    ids: Mapping[str, str],
    state: Path | None,
    states: StateFolders,
    width: int,
) -> lightning.Trainer:
    """Builds the Trainer of one run.

    Args:
        config: the whole configuration.
        callbacks: the project's and the user's.
        loggers: the user's own, by their names.
        ids: the ids of the run in its trackers, by the names of the loggers.
        state: the checkpoint to resume, None for a new run.
        states: writes and reads the checkpoints.
        width: of the model, n_embd.
    """
    quiet()
    _keep_memory()
    settings, run_dir = config.trainer, Path(config.run_dir)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision("high")
    lightning.seed_everything(config.seed, verbose=False)
    profiler = None
    if settings.profile:
        trace = torch.profiler.tensorboard_trace_handler(str(run_dir / "tensorboard"))
        profiler = PyTorchProfiler(dirpath=run_dir, filename="profile", on_trace_ready=trace, export_to_chrome=False)
    trainer = lightning.Trainer(
        **trainer_arguments(config, width, recorded_layout(state).get("precision") if state else None),
        logger=_loggers(config, run_dir, step_of(state), loggers, ids),
        callbacks=callbacks,
        plugins=[states],
        profiler=profiler,
        default_root_dir=run_dir,
    )
    log_at_own_steps(trainer)
    leave_signals_alone(trainer)
    return trainer


def trainer_arguments(config: Config, width: int, recorded: str | None = None) -> dict[str, Any]:
    """Returns the Trainer's arguments from the settings, without loggers and callbacks.

    `width` and `recorded` are those of `precision`.
    """
    settings = config.trainer
    return {
        "accelerator": settings.accelerator,
        "devices": settings.devices,
        "num_nodes": settings.num_nodes,
        "strategy": _strategy(settings.strategy),
        "precision": precision(settings, width, recorded),
        "max_steps": settings.max_steps,
        "max_epochs": -1,
        # Otherwise Lightning ignores a stop before the end of the first epoch, and the endless
        # sampler never ends one
        "min_epochs": 0,
        "check_val_every_n_epoch": None,
        "val_check_interval": settings.val_check_interval,
        # For values that a user's callback logs through `self.log`
        "log_every_n_steps": settings.log_every_n_steps,
        "num_sanity_val_steps": 0,
        "gradient_clip_val": settings.gradient_clip_val,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        **settings.extra,
    }


def _loggers(
    config: Config, run_dir: Path, first_step: int, users: Mapping[str, Logger], ids: Mapping[str, str]
) -> list[Logger]:
    """Returns the loggers of the setting `logger` in its order, then `UserRows` for `self.log`."""
    resumed_from = first_step if config.resume else None
    ids = {name: new_id() for name in CHOSEN if name in config.logger and name not in users} | dict(ids)
    save_ids(run_dir, ids)
    made = [
        users[name] if name in users else make_logger(name, settings, run_dir, resumed_from, ids.get(name, ""))
        for name, settings in config.logger.items()
    ]
    return [*made, UserRows(run_dir)]


def _strategy(name: str) -> str | Strategy:
    """Returns the Trainer's strategy: an object for fsdp and ddp, else the name itself."""
    if name == "fsdp":
        return Sharded()
    # The only buffers are position tables, equal on all processes: they need no synchronization
    if name == "ddp":
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        # broadcast_buffers is the name before torch 2.13.
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        settings: dict[str, Any] = {sync: False, "gradient_as_bucket_view": True}
        return DDPStrategy(**settings)
    return name


def _keep_memory() -> None:
    """Makes glibc keep freed memory for the next step.

    Returned to the kernel, it would be zeroed anew at each step.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            for parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
                ctypes.CDLL(None).mallopt(parameter, 2**30)


def quiet() -> None:
    """Hides Lightning's messages at every start, and warnings that do not apply to these runs."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory.*",
        ".*isinstance.treespec.*",
        ".*GPU available but not used.*",
        ".*litlogger.*",
        ".*sync_dist=True.*",  # the rows are the same on every process
    ):
        warnings.filterwarnings("ignore", message)


def precision(settings: TrainerConfig, width: int, recorded: str | None = None) -> str:
    """Returns Lightning's name of the precision that `trainer.precision` means on this machine.

    `auto` is bfloat16 over float32 weights on a GPU that has it, and on a processor that multiplies
    it faster, for models of WIDE or more.

    Args:
        settings: the settings of the trainer.
        width: of the model, n_embd.
        recorded: the precision of the checkpoint that a run goes on from, which it keeps where this
            device computes in it.
    """
    if settings.precision != "auto":
        return settings.precision
    if on_gpu(settings):
        return "bf16-mixed" if has_bfloat16("cuda") else "16-mixed"
    if settings.accelerator == "mps" or (settings.accelerator == "auto" and has_mps()):
        return "32-true"
    if recorded == "32-true" or (recorded == "bf16-mixed" and has_bfloat16("cpu")):
        return recorded
    # Several processes would have to agree.
    alone = settings.devices in (1, "auto") and settings.num_nodes == 1
    return "bf16-mixed" if alone and width >= WIDE and bfloat16_pays() else "32-true"


def micro_batches(trainer: lightning.Trainer, config: Config, state: Path | None = None) -> int:
    """Returns the sequences of one device in a micro-batch, and sets the Trainer's intervals by it.

    Args:
        trainer: the Trainer, whose accumulation and validation intervals are set.
        config: the whole configuration.
        state: the checkpoint to resume, None for a new run. A size that was chosen automatically is
            kept where it fits into memory.
    """
    layout = recorded_layout(state) if state else {}
    recorded = layout.get("micro_batch_size") if layout.get("micro_batch_chosen") else None
    size = micro_batch_size(config, trainer.world_size, recorded)
    sequences = batch_size_at(0, config.data.batch_size, config.data.batch_schedule)
    trainer.accumulate_grad_batches = sequences // trainer.world_size // size
    trainer.val_check_interval = config.trainer.val_check_interval * trainer.accumulate_grad_batches
    # The start line gives the batch size; a batch in several micro-batches gets a line of its own.
    if config.data.micro_batch_size is None and trainer.is_global_zero and trainer.accumulate_grad_batches > 1:
        why = "as before" if size == recorded else f"by the {device_bytes(config.trainer) / 1e9:.1f} GB of a device"
        log.info("data.micro_batch_size: %d sequences, %s", size, why)
    return size
