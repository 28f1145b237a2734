"""Checks before a run starts: the device, the Trainer's settings, callbacks and loggers."""

import inspect
import os

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ProgressBar,
)

from llm_from_scratch import mistakes
from llm_from_scratch.config import Config, TrainerConfig
from llm_from_scratch.errors import UserError, first_line
from llm_from_scratch.machine import has_mps
from llm_from_scratch.training.explaining import Explain, check_explain
from llm_from_scratch.training.live import Live, check_live
from llm_from_scratch.training.loggers import check_settings
from llm_from_scratch.training.memory import micro_batch_size
from llm_from_scratch.training.objects import object_class
from llm_from_scratch.training.trainer import precision, quiet, trainer_arguments


def require_device(config: TrainerConfig) -> None:
    """Checks that this machine has the accelerator and the devices of the settings.

    Raises:
        UserError: when it lacks them, when several nodes have no launcher, or for `devices=auto` on
            a CPU.
    """
    gpus = torch.cuda.device_count()
    there = [f"a CPU with {os.cpu_count()} cores (trainer=cpu)"]
    if has_mps():
        there.insert(0, "an Apple GPU (trainer=mps)")
    if gpus:
        there.insert(0, f"{gpus} CUDA GPU{'s' * (gpus > 1)}")
    missing = {"gpu": gpus == 0, "mps": not has_mps()}.get(config.accelerator, False)
    if missing:
        raise UserError(
            f"trainer.accelerator={config.accelerator}: there is none here; this machine has {', '.join(there)}"
        )
    if config.accelerator == "gpu" and isinstance(config.devices, int) and config.devices > gpus:
        raise UserError(f"trainer.devices={config.devices}: this machine has {gpus} CUDA GPU{'s' * (gpus > 1)}")
    launchers = ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "KUBERNETES_PORT")
    if config.num_nodes > 1 and not any(name in os.environ for name in launchers):
        raise UserError(
            f"trainer.num_nodes={config.num_nodes}: the other machines are not named, so this one would wait for ever: start it on"
            " each with torchrun or SLURM"
        )
    if config.devices == "auto" and config.accelerator == "cpu":
        raise UserError("trainer.devices=auto: say how many processes the CPU is to be shared by")


# Errors that a callback raises where it does not fit a run or lacks a library.
MISFITS = (MisconfigurationException, ModuleNotFoundError)
# Values that a validation logs for callbacks to monitor (`LanguageModel.on_validation_epoch_end`).
MONITORED = {
    "cross_entropy": ("val/loss", "val/bits_per_byte", "val/perplexity"),
    "dpo": ("val/loss", "val/accuracy", "val/margin", "val/reward_chosen", "val/reward_rejected"),
}


def check_trainer(config: Config) -> None:
    """Checks the settings of the Trainer, its loggers, callbacks and optimizer before a run starts.

    Raises:
        UserError: when Lightning would refuse a setting later, or ignore it.
    """
    known = set(inspect.signature(lightning.Trainer.__init__).parameters) - {"self"}
    for name in config.trainer.extra:
        if name not in known:
            raise UserError(f"trainer.extra.{name}: lightning.Trainer has no such argument")
        if name not in mistakes.TRAINER_EXTRA:
            own = mistakes.answer(name, "train")
            for prefix, group in (("", config), ("trainer.", config.trainer)):
                own = f"use {prefix}{name}" if hasattr(group, name) else own
            raise UserError(f"trainer.extra.{name}: a run sets this itself: {own or 'leave it out'}")
    if config.data.format == "preferences" and config.loss.name != "dpo":
        raise UserError(f"data=preferences: loss={config.loss.name} would learn rejected answers, too: add loss=dpo")
    for name in ("benchmark", "detect_anomaly"):
        value = config.trainer.extra.get(name)
        # Lightning itself would raise only after the run has begun to start.
        if not isinstance(value, bool | None):
            raise UserError(f"trainer.extra.{name}={value}: must be true or false")
    least = config.trainer.extra.get("min_steps")
    if isinstance(least, int) and least > config.trainer.max_steps:
        raise UserError(f"trainer.extra.min_steps={least}: is more than trainer.max_steps={config.trainer.max_steps}")
    for name, settings in config.logger.items():
        if "_target_" in settings:
            object_class("logger", name, settings)
        else:
            check_settings(name, settings)
    if config.optim.name == "custom":
        object_class("optim", "custom", config.optim.custom)
    for name, settings in config.callbacks.items():
        _check_callback(name, object_class("callbacks", name, settings), config)
    quiet()
    try:
        trainer = lightning.Trainer(
            **trainer_arguments(config, config.model.n_embd), logger=False, default_root_dir=config.run_dir
        )
    except Exception as error:  # Lightning raises errors of many types for what it does not take
        raise UserError(f"trainer: Lightning refuses these settings: {first_line(error)}") from None
    asked = precision(config.trainer, config.model.n_embd)
    if asked in ("16", "16-mixed") and trainer.precision != "16-mixed":
        raise UserError(f"trainer.precision={asked}: this device has none of float16: use trainer.precision=bf16-mixed")
    micro_batch_size(config, trainer.world_size)


def _check_callback(name: str, kind: type[Callback], config: Config) -> None:
    """Checks one callback of the user's.

    Raises:
        UserError: when it repeats a part of the run, or monitors a value that is never logged.
    """
    for own, instead in (
        (Checkpoint, "a run keeps its checkpoints itself: leave it out"),
        (ProgressBar, "a run shows its progress itself (trainer.progress): leave it out"),
        (GradientAccumulationScheduler, "a run cuts its batches itself: use data.batch_size or data.batch_schedule"),
    ):
        if issubclass(kind, own):
            raise UserError(f"callbacks.{name}: {instead}")
    if kind is Live:
        check_live(name, config.callbacks[name])
    if kind is Explain:
        check_explain(name, config.callbacks[name], config.logger)
    if issubclass(kind, LearningRateMonitor | DeviceStatsMonitor) and not config.logger:
        raise UserError(f"callbacks.{name}: writes to loggers, and logger=none: leave one of them out")
    monitor = config.callbacks[name].get("monitor")
    # Another callback may log the monitored value; a page and images log none.
    monitored, others = MONITORED[config.loss.name], config.callbacks.keys() - {name, "live", "explain"}
    if kind is EarlyStopping and monitor not in monitored and not others:
        raise UserError(f"callbacks.{name}.monitor={monitor}: must be one of {', '.join(monitored)}")
