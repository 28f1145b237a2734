"""Lightning's private names, used in this file only; a test finds each in the installed version."""

from typing import Any

import lightning
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import ModelParallelStrategy

# The LightningModule's attribute for the running hook, which Lightning sets fifty times a step.
CURRENT_HOOK = "_current_fx_name"


def log_at_own_steps(trainer: lightning.Trainer) -> None:
    """Makes `self.log` log under the number of completed optimizer steps; Lightning counts from 0.

    A `step` that the user logs takes precedence.
    """
    connector = trainer._logger_connector
    log_metrics = connector.log_metrics

    def log_at_step(metrics: Any, step: int | None = None) -> None:
        own = "step" in metrics  # a step number logged by the user
        log_metrics(metrics, step=trainer.global_step if step is None and not own else step)

    connector.log_metrics = log_at_step  # type: ignore[method-assign]


def leave_signals_alone(trainer: lightning.Trainer) -> None:
    """Switches off Lightning's signal handling; `callbacks.Signals` handles signals.

    With several processes Lightning asks each one at every step whether a signal came, and waits
    for the answer. Its handlers log and send messages between processes whenever a signal comes.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing  # type: ignore[method-assign]
    trainer._signal_connector.register_signal_handlers = _do_nothing  # type: ignore[method-assign]


def _do_nothing() -> None:
    pass


def count_micro_batches(trainer: lightning.Trainer, step: int, count: int) -> None:
    """Sets the micro-batch counters as if each of the first `step` steps had `count` micro-batches.

    Lightning divides these counters by the accumulation and by the validation interval; both then
    end at the same optimizer steps for any `count`.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    interval = int(trainer.val_check_interval) // trainer.accumulate_grad_batches
    trainer.accumulate_grad_batches = count
    trainer.val_check_interval = trainer.val_check_batch = interval * count
    progress.total.ready = progress.current.ready = step * count


def count_optimizer_steps(trainer: lightning.Trainer, step: int) -> None:
    """Sets Lightning's counters to `step` completed optimizer steps."""
    loop = trainer.fit_loop.epoch_loop
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    loop._batches_that_stepped = step


def share_among_all(strategy: ModelParallelStrategy) -> None:
    """Shards one set of weights over all processes of all nodes.

    Called before the strategy sets up its environment.
    """
    strategy._data_parallel_size = strategy.num_nodes * strategy.num_processes


def is_open(logger: WandbLogger) -> bool:
    """Returns whether the logger has started its wandb run; reading `experiment` would start it."""
    return logger._experiment is not None
