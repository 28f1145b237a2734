"""A Lightning Trainer from the settings: device, precision, loggers, callbacks, checkpoints without pickle."""

import ctypes
import inspect
import logging
import os
import shutil
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import torch
from filelock import FileLock, Timeout
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.profilers import PyTorchProfiler
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from llm_from_scratch.checkpoint import Background, load_state, save_state, verify_state
from llm_from_scratch.config import Config, TrainerConfig, leaves, save_config
from llm_from_scratch.data.sampler import batch_size_at
from llm_from_scratch.errors import UserError
from llm_from_scratch.training.loggers import make_loggers
from llm_from_scratch.training.memory import micro_batch_size
from llm_from_scratch.training.sharded import Sharded
from llm_from_scratch.training.states import plain_state, user_state


class StateFolders(CheckpointIO):
    """Lightning's checkpoints as verified folders of tensors and plain values.

    Args:
        facts: fingerprints of the data and the tokenizer: a state of others is refused.
        background: writes while training goes on.
    """

    def __init__(self, facts: dict[str, str], background: Background) -> None:
        self.facts, self.background = facts, background

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Copies; the writing beside `path`, which then takes its place, happens behind the steps that follow."""
        self.background.submit(save_state, plain_state(checkpoint), Path(path), self.facts)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads and verifies; nothing in a checkpoint can run."""
        self.background.wait()
        for name, fingerprint in verify_state(Path(path)).items():
            if fingerprint != self.facts[name]:
                raise UserError(
                    f"{path}: made with the {name} {fingerprint[:16]}, and this run has {self.facts[name][:16]}"
                )
        return user_state(load_state(Path(path)))

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes a checkpoint folder."""
        self.background.wait()
        shutil.rmtree(path)

    def teardown(self) -> None:
        """What was handed over is on the disk when the Trainer ends."""
        self.background.wait()


def require_device(config: TrainerConfig) -> None:
    """Refuses an accelerator that this machine lacks.

    Raises:
        UserError: in one line that names what there is.
    """
    gpus = torch.cuda.device_count()
    there = [f"{gpus} CUDA GPU{'s' * (gpus > 1)}"] * (gpus > 0) + [
        "an Apple GPU (trainer=mps)"
    ] * torch.backends.mps.is_available()
    there.append(f"a CPU with {os.cpu_count()} cores (trainer=cpu)")
    missing = {"gpu": gpus == 0, "mps": not torch.backends.mps.is_available()}.get(config.accelerator, False)
    if missing:
        raise UserError(
            f"trainer.accelerator={config.accelerator}: there is none here; this machine has {', '.join(there)}"
        )
    if config.accelerator == "gpu" and isinstance(config.devices, int) and config.devices > gpus:
        raise UserError(f"trainer.devices={config.devices}: this machine has {gpus} CUDA GPU{'s' * (gpus > 1)}")
    if config.devices == "auto" and config.accelerator == "cpu":
        raise UserError("trainer.devices=auto: say how many processes the CPU is to be shared by")
    known = set(inspect.signature(lightning.Trainer.__init__).parameters) - {"self"}
    for name in config.extra:
        if name not in known:
            raise UserError(f"trainer.extra.{name}: lightning.Trainer has no such argument")


def open_run(config: Config) -> None:
    """Takes a run folder: one owner, never two runs, `config.yaml` before anything else.

    Raises:
        UserError: when another process trains there, or an earlier run did.
    """
    run_dir = Path(config.run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run_dir / ".lock", timeout=0)
        lock.acquire()
        _LOCKS.append(lock)  # held until the process ends
        if not config.resume and (run_dir / "config.yaml").exists():
            raise UserError(
                f"run_dir={run_dir} holds a run already: choose another folder, or go on with resume={run_dir}"
            )
        save_config(config, run_dir / "config.yaml")
    except Timeout:
        raise UserError(f"{run_dir} belongs to a training that is running now") from None
    except OSError as error:
        raise UserError(f"run_dir={run_dir} cannot be written ({error.strerror}): choose another folder") from None


_LOCKS: list[FileLock] = []


def build_trainer(
    config: Config, run_dir: Path, callbacks: list[Callback], first_step: int, states: StateFolders
) -> lightning.Trainer:
    """The Trainer of one run.

    Args:
        config: the whole configuration.
        run_dir: where the loggers write.
        callbacks: the project's and the user's.
        first_step: the step that a resumed run goes on from; its curves go on there too.
        states: how checkpoints are written and read.
    """
    _quiet()
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
    arguments = {
        "accelerator": settings.accelerator,
        "devices": settings.devices,
        "num_nodes": settings.num_nodes,
        "strategy": _strategy(settings.strategy),
        "precision": precision(settings),
        "max_steps": settings.max_steps,
        "max_epochs": -1,
        "min_epochs": 0,  # else Lightning ignores a stop before the first epoch's end, and an endless sampler has no epochs
        "check_val_every_n_epoch": None,
        "val_check_interval": settings.val_check_interval,
        "num_sanity_val_steps": 0,
        "gradient_clip_val": settings.gradient_clip_val,
        "logger": make_loggers(config.logger, run_dir, first_step, bool(config.resume)),
        "callbacks": callbacks,
        "plugins": [states],
        "profiler": profiler,
        "default_root_dir": run_dir,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    trainer = lightning.Trainer(**(arguments | settings.extra))
    # Of several processes Lightning asks each at every step whether a signal came, and waits for the answer; Signals asks now and then.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _no_question  # type: ignore[method-assign]
    # Its handlers log and send messages between processes at whatever moment a signal comes.
    trainer._signal_connector.register_signal_handlers = _no_question  # type: ignore[method-assign]
    return trainer


def _no_question() -> None:
    pass


def _strategy(name: str) -> str | Strategy:
    """Lightning's name, or what it stands for here."""
    if name == "fsdp":
        return Sharded()
    if name == "ddp":  # the tables of positions, which are buffers, are the same everywhere: nobody need send them
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        sync = (
            "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        )  # its name before torch 2.13
        settings: dict[str, Any] = {sync: False, "gradient_as_bucket_view": True}
        return DDPStrategy(**settings)
    return name


def _keep_memory() -> None:
    """Lets glibc keep what a step frees for the next one: else it hands large blocks back, and the kernel clears them anew each time."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            for parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
                ctypes.CDLL(None).mallopt(parameter, 2**30)


def _quiet() -> None:
    """Hides what Lightning says at every start, and what does not apply to an endless sampler and checkpoints of its own."""
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
    """Lightning's name of what `trainer.precision` means on this machine."""
    if settings.precision != "auto":
        return settings.precision
    if settings.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "32-true"


def log_hyperparameters(trainer: lightning.Trainer, config: Config, best: dict[str, Any]) -> None:
    """The settings beside the best validation, for TensorBoard's and wandb's tables of runs."""
    settings = {key: value for key, value in leaves(config) if isinstance(value, int | float | str)}
    metrics = {f"best/{name}": best[name] for name in ("loss", "bits_per_byte", "perplexity")}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            # Behind the last step, so that a resumed run, which drops what comes behind its checkpoint, has one such point.
            logger.log_hyperparams(settings, metrics, step=trainer.global_step + 1)
        elif isinstance(logger, WandbLogger):
            logger.log_hyperparams(settings | metrics)
        logger.finalize("success")
        if isinstance(logger, TensorBoardLogger):
            logger.finalize("closed")


def micro_batches(trainer: lightning.Trainer, config: Config) -> int:
    """Sequences that a device takes at a time (`memory.micro_batch_size`), and the Trainer's intervals in such micro-batches."""
    size = micro_batch_size(config, trainer.world_size)
    sequences = batch_size_at(0, config.data.batch_size, config.data.batch_schedule)
    trainer.accumulate_grad_batches = sequences // trainer.world_size // size
    trainer.val_check_interval = config.trainer.val_check_interval * trainer.accumulate_grad_batches
    return size
