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
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PyTorchProfiler
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from llm_from_scratch import signals
from llm_from_scratch.checkpoint import recorded_layout
from llm_from_scratch.config import Config, TrainerConfig
from llm_from_scratch.data.sampler import batch_size_at
from llm_from_scratch.machine import has_bfloat16, has_mps
from llm_from_scratch.training.internals import leave_signals_alone, log_at_own_steps
from llm_from_scratch.training.loggers import UserRows, make_logger
from llm_from_scratch.training.memory import device_bytes, micro_batch_size, on_gpu
from llm_from_scratch.training.sharded import Sharded
from llm_from_scratch.training.states import StateFolders
from llm_from_scratch.training.trackers import CHOSEN, new_id, save_ids

log = logging.getLogger(__name__)


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
        if started and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if started:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]


def build_trainer(
    config: Config,
    run_dir: Path,
    callbacks: list[Callback],
    loggers: Mapping[str, Logger],
    ids: Mapping[str, str],
    first_step: int,
    states: StateFolders,
) -> lightning.Trainer:
    """Builds the Trainer of one run.

    Args:
        config: the whole configuration.
        run_dir: the run folder, where the loggers write.
        callbacks: the project's and the user's.
        loggers: the user's own, by their names.
        ids: the ids of the run in its trackers, by the names of the loggers.
        first_step: the step that a resumed run continues from, for its curves; 0 for a new run.
        states: writes and reads the checkpoints.
    """
    quiet()
    _keep_memory()
    settings = config.trainer
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision("high")
    lightning.seed_everything(config.seed, verbose=False)
    profiler = None
    if settings.profile:
        trace = torch.profiler.tensorboard_trace_handler(str(run_dir / "tensorboard"))
        profiler = PyTorchProfiler(dirpath=run_dir, filename="profile", on_trace_ready=trace, export_to_chrome=False)
    trainer = lightning.Trainer(
        **trainer_arguments(config),
        logger=_loggers(config, run_dir, first_step, loggers, ids),
        callbacks=callbacks,
        plugins=[states],
        profiler=profiler,
        default_root_dir=run_dir,
    )
    log_at_own_steps(trainer)
    leave_signals_alone(trainer)
    return trainer


def trainer_arguments(config: Config) -> dict[str, Any]:
    """Returns the Trainer's arguments from the settings, without loggers and callbacks."""
    settings = config.trainer
    return {
        "accelerator": settings.accelerator,
        "devices": settings.devices,
        "num_nodes": settings.num_nodes,
        "strategy": _strategy(settings.strategy),
        "precision": precision(settings),
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


def precision(settings: TrainerConfig) -> str:
    """Returns Lightning's name of the precision that `trainer.precision` means on this machine."""
    if settings.precision not in ("auto", "bf16-auto"):
        return settings.precision
    if on_gpu(settings):
        return "bf16-mixed" if has_bfloat16("cuda") else "16-mixed"
    on_cpu = settings.accelerator == "cpu" or (settings.accelerator == "auto" and not has_mps())
    return "bf16-mixed" if settings.precision == "bf16-auto" and on_cpu and has_bfloat16("cpu") else "32-true"


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
