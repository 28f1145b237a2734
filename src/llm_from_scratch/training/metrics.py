"""metrics.jsonl, timing.jsonl and the loggers' curves: a row per logged step and validation."""

import math
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from llm_from_scratch.run import append_row, read_rows, write_rows
from llm_from_scratch.training.loggers import UserRows, open_loggers, rewind
from llm_from_scratch.training.module import LanguageModel


def stepped(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Returns whether this micro-batch (0-based) ended an optimizer step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class Metrics(Callback):
    """The callback that writes metrics.jsonl, timing.jsonl and the loggers' curves.

    metrics.jsonl is a function of the seed; timing.jsonl holds the times. The loss of a training
    row is that of its step's batch alone, whatever the logging interval.
    """

    def __init__(self, run_dir: Path, every_n_steps: int, settings: dict[str, Any]) -> None:
        self.settings = settings  # for the loggers
        self.path, self.timing = run_dir / "metrics.jsonl", run_dir / "timing.jsonl"
        self.every_n_steps, self.tokens = every_n_steps, 0  # this process's, since the last row
        self.latest: dict[str, Any] = {}  # for the progress callback

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Drops the rows after a resumed run's checkpoint, which the run writes again."""
        if trainer.is_global_zero:
            for path in (self.path, self.timing):
                rows = [row for row in read_rows(path) if row["step"] <= trainer.global_step]
                write_rows(path, rows)
            rewind(trainer.loggers, trainer.global_step)
            open_loggers(trainer.loggers, self.settings)
        self.since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: LanguageModel, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes a row every `every_n_steps` optimizer steps and at the last step.

        Only then does the host wait for the device.
        """
        step = trainer.global_step
        self.tokens += batch[0].numel()
        if not stepped(trainer, batch_idx) or not (step % self.every_n_steps == 0 or step == trainer.max_steps):
            return
        loss = trainer.strategy.reduce(sum(pl_module.losses) / len(pl_module.losses), reduce_op="mean").item()
        assert pl_module.grad_norm is not None
        pl_module.check_numbers()
        norm = pl_module.grad_norm.item()
        row = {"step": step, "split": "train", "loss": _number(loss), "lr": pl_module.lr, "grad_norm": _number(norm)}
        row |= {name: _number(value) for name, value in pl_module.step_measures().items()}
        seconds = time.perf_counter() - self.since
        timing = {
            "step": step,
            "tokens_per_second": round(self.tokens * trainer.world_size / seconds),
            "seconds": round(seconds, 3),
        }
        self.latest = row | timing
        self._write(trainer, row, timing)
        self.since, self.tokens = time.perf_counter(), 0

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the clock of a validation, whose time is not counted as training time."""
        self.validation_since = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Writes the row of a validation."""
        seconds = time.perf_counter() - self.validation_since
        self.since += seconds
        row = {"step": trainer.global_step, "split": "val"} | pl_module.val_row
        if pl_module.raw_row:
            self._write(trainer, {"step": trainer.global_step, "split": "val_raw"} | pl_module.raw_row, {})
        self._write(trainer, row, {"step": trainer.global_step, "validation_seconds": round(seconds, 3)})

    def _write(self, trainer: lightning.Trainer, row: dict[str, Any], timing: dict[str, Any]) -> None:
        if not trainer.is_global_zero:
            return
        for path, line in ((self.path, row), (self.timing, timing)):
            if not line:
                continue
            append_row(path, line)
        values = {f"{row['split']}/{name}": value for name, value in row.items() if isinstance(value, float)}
        values |= {f"time/{name}": value for name, value in timing.items() if name == "tokens_per_second"}
        for logger in trainer.loggers:
            if not isinstance(logger, UserRows):  # metrics.jsonl has the row
                logger.log_metrics(values, step=row["step"])


def _number(value: float) -> float | None:
    """Returns the value, or None where it is NaN or infinite: JSON has no such numbers."""
    return value if math.isfinite(value) else None
