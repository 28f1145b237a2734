"""The pruning of a sweep's trial: a callback that stops an unpromising run at a validation."""

import logging
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback

from llm_from_scratch.study import Study, objective
from llm_from_scratch.training.module import LanguageModel

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Adds the value of each validation to the sweep's study, which may stop the run there.

    Args:
        folder: the folder of the sweep.
        number: of the trial.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.study: Study | None = None  # of rank 0, from its first validation on

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Reports the validation; rank 0 asks the study, and all ranks follow its answer."""
        stops = False
        if trainer.is_global_zero:
            self.study, step = self.study or Study(self.folder), trainer.global_step
            value = objective(pl_module.val_row)
            stops = self.study.report(self.number, step, value, last=step >= trainer.max_steps)
            if stops:
                log.info("trial %d is pruned at step %d: its validation is worse than others'", self.number, step)
        if trainer.strategy.broadcast(stops):
            trainer.should_stop = True

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Closes the study."""
        if self.study:
            self.study.close()
            self.study = None
