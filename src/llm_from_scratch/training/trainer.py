"""A Lightning Trainer from the settings: device, precision, loggers, callbacks, checkpoints without pickle."""

import ctypes
import importlib
import inspect
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning
import torch
from filelock import FileLock, Timeout
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
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
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.profilers import PyTorchProfiler
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from llm_from_scratch import mistakes
from llm_from_scratch.checkpoint import (
    Background,
    load_state,
    recorded_layout,
    save_state,
    started_last,
    verify_state,
)
from llm_from_scratch.config import FAILURE, Config, TrainerConfig, leaves, save_config
from llm_from_scratch.data.sampler import batch_size_at
from llm_from_scratch.errors import UserError, first_line
from llm_from_scratch.terminal import quote
from llm_from_scratch.training.loggers import TensorBoard, UserRows, check_settings, make_logger
from llm_from_scratch.training.memory import device_bytes, micro_batch_size
from llm_from_scratch.training.sharded import Sharded
from llm_from_scratch.training.states import plain_state, user_state

log = logging.getLogger(__name__)


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
        self.compare(Path(path))
        return user_state(load_state(Path(path)))

    def compare(self, path: Path) -> None:
        """Refuses a checkpoint of other data or of another tokenizer.

        Raises:
            UserError: in one line, with both fingerprints.
        """
        for name, fingerprint in verify_state(path).items():
            own = self.facts.get(name, "none")
            if fingerprint != own:
                start = quote(f"init_from={path.parents[1]}")
                raise UserError(
                    f"{path}: made with the {name} {fingerprint[:16]}, and this run has {own[:16]}: put the text back as it"
                    f" was, or start a new run from the weights ({start})"
                )

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
    launchers = ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "KUBERNETES_PORT")
    if config.num_nodes > 1 and not any(name in os.environ for name in launchers):
        raise UserError(
            f"trainer.num_nodes={config.num_nodes}: the other machines are not named, so this one would wait for ever: start it on"
            " each with torchrun or SLURM"
        )
    if config.devices == "auto" and config.accelerator == "cpu":
        raise UserError("trainer.devices=auto: say how many processes the CPU is to be shared by")


# What a callback raises that does not fit a run, or lacks a library.
MISFITS = (MisconfigurationException, ModuleNotFoundError)
# What a validation logs for callbacks (`LanguageModel.on_validation_epoch_end`).
MONITORED = ("val/loss", "val/bits_per_byte", "val/perplexity")


def check_trainer(config: Config) -> None:
    """Refuses what the Trainer, its loggers and its callbacks would refuse later, and what they would ignore.

    Raises:
        UserError: in one line.
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
    for name in ("benchmark", "detect_anomaly"):
        value = config.trainer.extra.get(name)
        if not isinstance(value, bool | None):  # Lightning finds that out in the middle of the start
            raise UserError(f"trainer.extra.{name}={value}: must be true or false")
    least = config.trainer.extra.get("min_steps")
    if isinstance(least, int) and least > config.trainer.max_steps:
        raise UserError(f"trainer.extra.min_steps={least}: is more than trainer.max_steps={config.trainer.max_steps}")
    for name, settings in config.logger.items():
        if "_target_" in settings:
            object_class("logger", name, settings)
        else:
            check_settings(name, settings)
    for name, settings in config.callbacks.items():
        _check_callback(name, object_class("callbacks", name, settings), config)
    _quiet()
    try:
        trainer = lightning.Trainer(**_arguments(config), logger=False, default_root_dir=config.run_dir)
    except Exception as error:  # Lightning raises errors of many types for what it does not take
        raise UserError(f"trainer: Lightning refuses these settings: {first_line(error)}") from None
    asked = precision(config.trainer)
    if asked in ("16", "16-mixed") and trainer.precision != "16-mixed":
        raise UserError(f"trainer.precision={asked}: this device has none of float16: use trainer.precision=bf16-mixed")
    micro_batch_size(config, trainer.world_size)


def _check_callback(name: str, kind: type[Callback], config: Config) -> None:
    """Refuses a callback of Lightning's that would do what a run does itself, or that watches what is never logged."""
    for own, instead in (
        (Checkpoint, "a run keeps its checkpoints itself: leave it out"),
        (ProgressBar, "a run shows its progress itself (trainer.progress): leave it out"),
        (GradientAccumulationScheduler, "a run cuts its batches itself: use data.batch_size or data.batch_schedule"),
    ):
        if issubclass(kind, own):
            raise UserError(f"callbacks.{name}: {instead}")
    if issubclass(kind, LearningRateMonitor | DeviceStatsMonitor) and not config.logger:
        raise UserError(f"callbacks.{name}: writes to loggers, and logger=none: leave one of them out")
    monitor = config.callbacks[name].get("monitor")
    # Another callback of the user's may log what this one watches.
    if kind is EarlyStopping and monitor not in MONITORED and len(config.callbacks) == 1:
        raise UserError(f"callbacks.{name}.monitor={monitor}: must be one of {', '.join(MONITORED)}")


def object_class(group: str, name: str, settings: Any) -> type:
    """The class that a callback or a logger of the user's names.

    Raises:
        UserError: there is none, or it is not of Lightning's kind.
    """
    key = f"{group}.{name}"
    kind: type = {"callbacks": Callback, "logger": Logger}[group]
    target = settings.get("_target_") if isinstance(settings, dict) else None
    if not isinstance(target, str):
        raise UserError(f"{key}: write {key}._target_=MODULE.CLASS, a {kind.__name__.lower()} of Lightning's")
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module of the user's raises when it is read
        raise UserError(f"{key}._target_={target}: cannot be loaded: {first_line(error)}") from None
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{key}._target_={target}: is no lightning.pytorch.{group.rstrip('s')}s.{kind.__name__}")
    return found


class Claim:
    """The run folder of one process: one owner, never two runs, `config.yaml` before anything is prepared.

    Until `start`, a new run that fails leaves its folder as it was found, and a resumed one its `config.yaml`: a command
    that is refused changes nothing. Within `with`, the folder is locked.

    Args:
        config: of the run; `run_dir` names the folder.
        owner: whether this is the first of the processes of a run; the others leave the folder to it.
    """

    LOGS = ("tensorboard", "csv")  # made by loggers before a run has started

    def __init__(self, config: Config, owner: bool) -> None:
        self.config, self.owner, self.started = config, owner, False
        self.run_dir = Path(config.run_dir)
        self.lock = FileLock(self.run_dir / ".lock", timeout=0)
        self.made: list[Path] = []  # by this process, in the order in which they go again
        self.handle: int | None = None  # of the lock's file: open, so that no other file gets its number

    def __enter__(self) -> "Claim":
        """Takes the folder.

        Raises:
            UserError: when another process trains there, or an earlier run did.
        """
        if not self.owner:
            return self
        run_dir = self.run_dir
        try:
            missing = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
            names = ("config.yaml", *self.LOGS, ".lock")
            self.made = [run_dir / name for name in names if not (run_dir / name).exists()] + missing
            run_dir.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
            self.handle = os.open(run_dir / ".lock", os.O_RDONLY)
            if not self.config.resume:
                if (run_dir / "config.yaml").exists():
                    self.made = []  # another process was faster
                    raise UserError(
                        f"run_dir={run_dir} holds a run already: choose another folder, or go on with"
                        f" {quote(f'resume={run_dir}')}"
                    )
                save_config(self.config, run_dir / "config.yaml")
                started_last(run_dir)
        except Timeout:
            self.made = []
            raise UserError(f"{run_dir} belongs to a training that is running now") from None
        except OSError as error:
            self._leave()
            raise UserError(f"run_dir={run_dir} cannot be written ({error.strerror}): choose another folder") from None
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Gives the folder back."""
        if self.owner:
            self._leave()

    def _leave(self) -> None:
        if not self.started and (self.handle is None or self._is_own()):
            for path in self.made:
                with suppress(OSError):  # a folder that holds more than this start made stays
                    if path.name in self.LOGS and path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    elif path.is_dir():
                        path.rmdir()
                    else:
                        path.unlink()
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None
        self.lock.release()

    def _is_own(self) -> bool:
        assert self.handle is not None
        try:
            return os.path.samestat(os.fstat(self.handle), (self.run_dir / ".lock").stat())
        except OSError:
            return False

    def start(self) -> None:
        """From here on it is a run: a resumed one takes over its new settings, and what tells that it was complete goes."""
        if self.owner and not self.started:
            self.started = True
            if self.config.resume:
                save_config(self.config, self.run_dir / "config.yaml")
                started_last(self.run_dir)
            for name in ("curves.png", FAILURE):
                (self.run_dir / name).unlink(missing_ok=True)

    def verify(self) -> None:
        """Raises RuntimeError where the folder was deleted, also where another run has made it anew."""
        if self.owner and not self._is_own():
            raise RuntimeError(f"{self.run_dir} was deleted or replaced while this run wrote there: it stops")


@contextmanager
def separate_processes() -> Iterator[None]:
    """Within it a run has processes of its own; Lightning leaves their group and their variables to the next run."""
    before = dict(os.environ)
    try:
        yield
    finally:
        started = "LOCAL_RANK" in os.environ and "LOCAL_RANK" not in before  # by this process, and by no launcher
        if started and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if started:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]


class Ownership(Callback):
    """Guards the run folder, as the first of the callbacks: nothing is written before the start or after a replacement."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The checkpoint is loaded, and nothing can be refused any more."""
        self.claim.verify()
        self.claim.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Before a row is written."""
        self.claim.verify()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Before the row, the sample and the checkpoint of a validation are written."""
        self.claim.verify()


def build_trainer(
    config: Config,
    run_dir: Path,
    callbacks: list[Callback],
    loggers: Mapping[str, Logger],
    first_step: int,
    states: StateFolders,
) -> lightning.Trainer:
    """The Trainer of one run.

    Args:
        config: the whole configuration.
        run_dir: where the loggers write.
        callbacks: the project's and the user's.
        loggers: the user's own, by their names.
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
    trainer = lightning.Trainer(
        **_arguments(config),
        logger=_loggers(config, run_dir, first_step, loggers),
        callbacks=callbacks,
        plugins=[states],
        profiler=profiler,
        default_root_dir=run_dir,
    )
    _log_at_own_steps(trainer)
    # Of several processes Lightning asks each at every step whether a signal came, and waits for the answer; Signals asks now and then.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _no_question  # type: ignore[method-assign]
    # Its handlers log and send messages between processes at whatever moment a signal comes.
    trainer._signal_connector.register_signal_handlers = _no_question  # type: ignore[method-assign]
    return trainer


def _arguments(config: Config) -> dict[str, Any]:
    """The Trainer's arguments, without its loggers and callbacks."""
    settings = config.trainer
    return {
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
        "log_every_n_steps": settings.log_every_n_steps,  # of what a module or a callback of the user's logs
        "num_sanity_val_steps": 0,
        "gradient_clip_val": settings.gradient_clip_val,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        **settings.extra,
    }


def _loggers(config: Config, run_dir: Path, first_step: int, users: Mapping[str, Logger]) -> list[Logger]:
    """The loggers that the setting `logger` names, in its order, and the rows of what is logged beside the loop."""
    resumed_from = first_step if config.resume else None
    made = [
        users[name] if name in users else make_logger(name, settings, run_dir, resumed_from)
        for name, settings in config.logger.items()
    ]
    return [*made, UserRows(run_dir)]


def _log_at_own_steps(trainer: lightning.Trainer) -> None:
    """Gives what `self.log` logs the number of the step that has ended, as all curves have it; Lightning counts from 0."""
    connector = trainer._logger_connector
    log_metrics = connector.log_metrics

    def log_at_step(metrics: Any, step: int | None = None) -> None:
        own = "step" in metrics  # a user's own number of the step
        log_metrics(metrics, step=trainer.global_step if step is None and not own else step)

    connector.log_metrics = log_at_step  # type: ignore[method-assign]


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


# The columns of TensorBoard's table of runs, in this order; behind them come settings that are not at their defaults.
COLUMNS = (
    *("optim.lr", "optim.weight_decay", "data.batch_size", "model.n_layer", "model.n_embd", "model.n_head"),
    *("model.block_size", "model.dropout", "tokenizer.vocab_size", "trainer.max_steps", "seed"),
)


def columns(config: Config, parameters: int, best: dict[str, Any]) -> dict[str, Any]:
    """A row of the table of runs: the best validation, the size of the model, the settings that matter, the others.

    The best validation stands among the settings: as a metric it would be a curve of one point beside the real ones.
    """
    settings, defaults = plain_settings(config), dict(leaves(Config()))
    first = {f"best {name}": best[name] for name in ("bits_per_byte", "loss", "step")} | {"parameters": parameters}
    first |= {name: settings[name] for name in COLUMNS if name in settings}
    others = {name: value for name, value in settings.items() if name not in first and value != defaults[name]}
    return first | {name: value for name, value in others.items() if name != "run_dir"}


def plain_settings(config: Config) -> dict[str, Any]:
    """Every setting that is one number or text, by its dotted name."""
    return {key: value for key, value in leaves(config) if isinstance(value, int | float | str)}


def log_hyperparameters(trainer: lightning.Trainer, config: Config, parameters: int, best: dict[str, Any]) -> None:
    """The best validation beside the settings, for the loggers' tables of runs."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            logger.log_row(columns(config, parameters, best), trainer.global_step + 1)
        elif isinstance(logger, WandbLogger):
            logger.log_hyperparams({f"best/{name}": best[name] for name in ("loss", "bits_per_byte", "perplexity")})
        logger.finalize("success")
        if isinstance(logger, TensorBoard):
            logger.finalize("closed")


def micro_batches(trainer: lightning.Trainer, config: Config, state: Path | None = None) -> int:
    """Sequences that a device takes at a time (`memory.micro_batch_size`), and the Trainer's intervals in such micro-batches.

    Args:
        trainer: whose intervals are set.
        config: the whole configuration.
        state: the checkpoint that the run goes on from. A size that was chosen for its run stays, where there is room.
    """
    layout = recorded_layout(state) if state else {}
    recorded = layout.get("micro_batch_size") if layout.get("micro_batch_chosen") else None
    size = micro_batch_size(config, trainer.world_size, recorded)
    sequences = batch_size_at(0, config.data.batch_size, config.data.batch_schedule)
    trainer.accumulate_grad_batches = sequences // trainer.world_size // size
    trainer.val_check_interval = config.trainer.val_check_interval * trainer.accumulate_grad_batches
    # The start line says the batch; a batch that is cut is worth a line of its own.
    if config.data.micro_batch_size is None and trainer.is_global_zero and trainer.accumulate_grad_batches > 1:
        why = "as before" if size == recorded else f"by the {device_bytes(config.trainer) / 1e9:.1f} GB of a device"
        log.info("data.micro_batch_size: %d sequences, %s", size, why)
    return size
