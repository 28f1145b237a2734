"""Lightning's private names, in this file alone; a test looks each up in the installed version."""

from typing import Any

import lightning
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import ModelParallelStrategy

# LightningModule: the hook that runs now, noted fifty times a step.
CURRENT_HOOK = "_current_fx_name"


def log_at_own_steps(trainer: lightning.Trainer) -> None:
    """Logs values of `self.log` under the number of the ended step; Lightning counts from 0."""
    connector = trainer._logger_connector
    log_metrics = connector.log_metrics

    def log_at_step(metrics: Any, step: int | None = None) -> None:
        own = "step" in metrics  # a user's own number of the step
        log_metrics(metrics, step=trainer.global_step if step is None and not own else step)

    connector.log_metrics = log_at_step  # type: ignore[method-assign]


def leave_signals_alone(trainer: lightning.Trainer) -> None:
    """Switches Lightning's handling of signals off; `callbacks.Signals` handles them.

    Of several processes Lightning asks each at every step whether a signal came, and waits for the
    answer. Its handlers log and send messages between processes at whatever moment a signal comes.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing  # type: ignore[method-assign]
    trainer._signal_connector.register_signal_handlers = _do_nothing  # type: ignore[method-assign]


def _do_nothing() -> None:
    pass


def count_micro_batches(trainer: lightning.Trainer, step: int, count: int) -> None:
    """Sets the counts of micro-batches as if each of the first `step` steps had `count`.

    So whatever it divides them by, an accumulation or an interval, it comes to the same optimizer
    steps.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    interval = int(trainer.val_check_interval) // trainer.accumulate_grad_batches
    trainer.accumulate_grad_batches = count
    trainer.val_check_interval = trainer.val_check_batch = interval * count
    progress.total.ready = progress.current.ready = step * count


def count_optimizer_steps(trainer: lightning.Trainer, step: int) -> None:
    """Sets the counters of optimizer steps, as after `step` of them."""
    loop = trainer.fit_loop.epoch_loop
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    loop._batches_that_stepped = step


def share_among_all(strategy: ModelParallelStrategy) -> None:
    """Shares one set of weights among all processes; called before the environment is set up."""
    strategy._data_parallel_size = strategy.num_nodes * strategy.num_processes


def is_open(logger: WandbLogger) -> bool:
    """Whether the logger has started its run in wandb; asking for `experiment` would start it."""
    return logger._experiment is not None
