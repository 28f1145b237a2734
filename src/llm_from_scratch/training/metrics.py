"""metrics.jsonl, timing.jsonl and the loggers' curves: a row per logged step and validation."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from llm_from_scratch.plan.sizes import training_flops
from llm_from_scratch.run import append_row, read_rows, write_rows
from llm_from_scratch.training.loggers import UserRows, open_loggers, rewind
from llm_from_scratch.training.module import LanguageModel
from llm_from_scratch.training.peak import peak_flops
from llm_from_scratch.training.trackers import curve_point, ids_of, known_ids, record, save_ids


def stepped(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Returns whether this micro-batch (0-based) ended an optimizer step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class Metrics(Callback):
    """The callback that writes metrics.jsonl, timing.jsonl and the loggers' curves.

    metrics.jsonl is a function of the seed; timing.jsonl holds the times. The loss of a training
    row is that of its step's batch alone, whatever the logging interval.

    Args:
        run_dir: the run folder.
        every_n_steps: optimizer steps from one row of the training curve to the next.
        settings: the run's settings by their dotted names, for the loggers.
        loggers: the names of the loggers, in the order of the Trainer's.
    """

    def __init__(self, run_dir: Path, every_n_steps: int, settings: dict[str, Any], loggers: Sequence[str]) -> None:
        self.settings, self.names = settings, loggers
        self.run_dir, self.path, self.timing = run_dir, run_dir / "metrics.jsonl", run_dir / "timing.jsonl"
        self.every_n_steps, self.tokens = every_n_steps, 0  # this process's, since the last row
        self.seen: int | None = None  # tokens of all processes since step 0
        self.trackers: dict[str, str] = {}  # the names of the loggers -> the ids of the run there
        self.latest: dict[str, Any] = {}  # for the progress callback

    def state_dict(self) -> dict[str, Any]:
        """Returns the tokens seen, and the ids of the run in its trackers."""
        return {"seen": self.seen, "trackers": self.trackers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the tokens seen; the loggers, which exist already, have read the ids."""
        self.seen = state_dict["seen"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Drops the rows after a resumed run's checkpoint, which the run writes again."""
        step, config = trainer.global_step, pl_module.config
        if self.seen is None:  # also a checkpoint of version 0.1
            self.seen = int(pl_module.batches(step) * config.data.batch_size) * config.model.block_size
        if trainer.is_global_zero:
            for path in (self.path, self.timing):
                rows = [row for row in read_rows(path) if row["step"] <= step]
                write_rows(path, rows)
            rewind(trainer.loggers, step, record(self.run_dir, step))
            open_loggers(trainer.loggers, self.settings)
            save_ids(self.run_dir, ids_of(dict(zip(self.names, trainer.loggers, strict=False))))
            self.trackers = known_ids(self.run_dir, None)
        self.flops = training_flops(pl_module.model)
        self.peak = peak_flops(trainer.strategy.root_device, str(trainer.precision)) * trainer.world_size
        self.since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: LanguageModel, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes a row every `every_n_steps` optimizer steps and at the last step.

        Only then does the host wait for the device.
        """
        step = trainer.global_step
        self.tokens += batch[0].numel()
        self.seen = (self.seen or 0) + batch[0].numel() * trainer.world_size
        if not stepped(trainer, batch_idx) or not (step % self.every_n_steps == 0 or step == trainer.max_steps):
            return
        loss = trainer.strategy.reduce(sum(pl_module.losses) / len(pl_module.losses), reduce_op="mean").item()
        assert pl_module.grad_norm is not None
        pl_module.check_numbers()
        norm = pl_module.grad_norm.item()
        row = {"step": step, "split": "train", "loss": _number(loss), "lr": pl_module.lr, "grad_norm": _number(norm)}
        row |= {name: _number(value) for name, value in pl_module.step_measures().items()}
        seconds = time.perf_counter() - self.since
        rate = self.tokens * trainer.world_size / seconds
        timing = {
            "step": step,
            "tokens_per_second": round(rate),
            "seconds": round(seconds, 3),
            "mfu": round(rate * self.flops / self.peak, 4),
            "tokens_seen": self.seen,
        }
        if pl_module.device.type == "cuda":
            timing["gpu_memory_gb"] = round(torch.cuda.max_memory_allocated(pl_module.device) / 1e9, 3)
        self.latest = row | timing
        self.write(trainer, row, timing)
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
            self.write(trainer, {"step": trainer.global_step, "split": "val_raw"} | pl_module.raw_row, {})
        self.write(trainer, row, {"step": trainer.global_step, "validation_seconds": round(seconds, 3)})

    def write(self, trainer: lightning.Trainer, row: dict[str, Any], timing: dict[str, Any]) -> None:
        """Appends a row to metrics.jsonl, and its times to timing.jsonl where there are any."""
        if not trainer.is_global_zero:
            return
        for path, line in ((self.path, row), (self.timing, timing)):
            if not line:
                continue
            append_row(path, line)
        point = curve_point(row, timing)
        for logger in trainer.loggers:
            if not isinstance(logger, UserRows):  # metrics.jsonl has the row
                logger.log_metrics(dict(point.values), step=point.step)


def _number(value: float) -> float | None:
    """Returns the value, or None where it is NaN or infinite: JSON has no such numbers."""
    return value if math.isfinite(value) else None
