"""The progress of a run: start line, progress bar, time left, rising validation loss."""

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llm_from_scratch.config import Config
from llm_from_scratch.model import GPT
from llm_from_scratch.pace import Pace
from llm_from_scratch.run import read_rows
from llm_from_scratch.terminal import console
from llm_from_scratch.training.metrics import Metrics, stepped
from llm_from_scratch.training.module import LanguageModel

log = logging.getLogger(__name__)
PRECISIONS = {
    "32-true": "float32",
    "bf16-mixed": "bfloat16 over float32 weights",
    "16-mixed": "float16 over float32 weights",
    "bf16-true": "bfloat16",
    "16-true": "float16",
    "64-true": "float64",
}
# Measures of a validation that its line shows, behind the loss
SHOWN = {"bits_per_byte": "{:.4f} bits per byte", "accuracy": "{:.1%} of the pairs right", "margin": "margin {:.3f}"}
RISES = 2  # validations in a row that must be higher: a single one may be chance
CLEARLY = 1.01  # factor of the best loss: smaller differences are noise on a plateau
# Epochs from which on a rising validation loss means that the model memorizes the text
READ_OFTEN = 2


def clock(seconds: float) -> str:
    """Formats a duration: 80 -> "1 min 20 s". From 10 hours on the smaller unit is left out."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 36_000:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{round(whole / 3600)} h" if whole < 172_800 else f"{whole / 86_400:.1f} days"


class ProgressBar(Callback):
    """A progress bar with loss and tokens/s in a terminal; elsewhere a few log lines a minute."""

    def __init__(self, metrics: Metrics, show_bar: bool) -> None:
        self.metrics = metrics
        self.console = console(stderr=True)
        self.bar: Progress | None = None
        if show_bar and self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Progress(*columns, TextColumn("{task.fields[figures]}"), console=self.console)
        self.printed = time.perf_counter()

    def say(self, line: str) -> None:
        """Prints a line above the bar, or logs it where there is no bar."""
        self.console.print(line) if self.bar else log.info("%s", line)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Starts the bar and the estimate of the time left."""
        every = round(trainer.val_check_interval / trainer.accumulate_grad_batches)
        self.pace = Pace(pl_module.batches, trainer.max_steps, every)
        self.step = trainer.global_step
        if self.bar and trainer.is_global_zero:
            self.bar.start()
            _log_above_the_bar()
            self.task = self.bar.add_task(
                "training", total=trainer.max_steps, completed=trainer.global_step, figures=""
            )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Shows the newest metrics row, from the second row on with the time left."""
        row = self.metrics.latest
        if not trainer.is_global_zero or not stepped(trainer, batch_idx):
            return
        if self.bar:
            self.bar.update(self.task, completed=trainer.global_step)
        if row.get("step") != trainer.global_step:
            return
        loss = "NaN, passed over" if row["loss"] is None else f"{row['loss']:.3f}"
        figures = f"loss {loss}  {row['tokens_per_second']:,} tokens/s"
        self.pace.trained(self.step, row["step"], row["seconds"])
        self.step = row["step"]
        left = f"{clock(self.pace.left(row['step']))} left"
        early = self.pace.rows < 2  # the first row includes start-up costs
        over = row["step"] == trainer.max_steps
        if self.bar:
            self.bar.update(self.task, figures=figures if early or over else f"{figures}  {left}")
        line = f"step {row['step']}/{trainer.max_steps}  {figures}"
        if over or early:
            return
        if self.pace.rows == 2:
            self.printed = time.perf_counter()
            self.say(f"{line}  about {left}")
        elif not self.bar and time.perf_counter() - self.printed > 10:
            self.printed = time.perf_counter()
            self.say(f"{line}  {left}")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the clock of a validation."""
        self.validation_since = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Prints the losses of a validation in one line."""
        self.pace.validated(time.perf_counter() - self.validation_since)
        row = pl_module.val_row
        others = (words.format(row[name]) for name, words in SHOWN.items() if name in row)
        figures = ", ".join([f"validation loss {row['loss']:.4f}", *others])
        line = f"step {trainer.global_step}/{trainer.max_steps}  {figures}"
        if trainer.is_global_zero:
            self.say(line)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Closes the bar, also after an error."""
        self.close()

    def close(self) -> None:
        """Ends the bar, so that later lines appear below it."""
        if self.bar:
            self.bar.stop()
            _log_above_the_bar()


def _log_above_the_bar() -> None:
    """Sends log lines to the present `sys.stderr`.

    While a bar runs, it replaces that stream by its own, which prints above the bar.
    """
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler and handler.stream is not sys.stdout:
            handler.setStream(sys.stderr)


class Opening(Callback):
    """The callback that logs a line about the run at its start, and the warnings of `plan`.

    Args:
        config: the settings of the run.
        epochs: epochs over the training text in the whole run.
        warnings: the lines of `plan`.
    """

    def __init__(self, config: Config, epochs: float, warnings: Sequence[str]) -> None:
        self.config, self.epochs, self.warnings = config, epochs, warnings

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Logs the lines once the checkpoint is loaded and every check has passed."""
        if not trainer.is_global_zero:
            return
        shape, first = self.config.model, trainer.global_step
        sequences, prefers = self.config.data.batch_size, self.config.loss.name == "dpo"
        steps = f"steps {first + 1:,} to {trainer.max_steps:,}" if first else f"{trainer.max_steps:,} steps"
        log.info(
            "%s: %s parameters%s (%d layer%s, width %d) on %s; %s of %s, %s",
            self.config.run_dir,
            f"{pl_module.model.num_parameters():,}",
            _trained(pl_module.model),
            *(shape.n_layer, "s" * (shape.n_layer > 1), shape.n_embd, _device(trainer, pl_module.device), steps),
            f"{sequences:,} pairs" if prefers else f"{sequences * shape.block_size:,} tokens",
            "every story new"
            if self.config.data.stream == "fresh"
            else f"{self.epochs:.3g} passes over the {'pairs' if prefers else 'text'}",
        )
        for line in self.warnings:
            log.info("unwise: %s", line)


def _trained(model: GPT) -> str:
    """Describes the trained part of a model; "" for all of it."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = model.num_parameters()
    return "" if trained == total else f", {trained:,} of them trained ({trained / total:.2%})"


def _device(trainer: lightning.Trainer, device: torch.device) -> str:
    """Describes the device and precision, such as "the CPU, 2 threads, float32"."""
    name = {"cuda": "a GPU", "mps": "the Apple GPU"}.get(device.type, "the CPU")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        name += f", {threads} thread{'s' * (threads > 1)}"
    if trainer.world_size > 1:
        name = f"{trainer.world_size} processes, each on {name}"
    return f"{name}, {PRECISIONS.get(trainer.precision, trainer.precision)}"


class Overfitting(Callback):
    """The callback that reports a rising validation loss, once for each best loss.

    The report names the step of the best weights and the settings that help.

    Args:
        run_dir: the run folder, whose earlier validations count.
        config: the settings of the run.
        epochs: the epochs over the training text before a step.
        say: prints a line, above the progress bar where there is one.
    """

    def __init__(
        self, run_dir: Path, config: Config, epochs: Callable[[int], float], say: Callable[[str], None]
    ) -> None:
        self.run_dir, self.config, self.epochs, self.say = run_dir, config, epochs, say
        self.unit, self.text = ("pair", "pairs") if config.loss.name == "dpo" else ("token", "text")
        self.losses: list[tuple[int, float]] = []  # step, validation loss
        self.reported = 0  # the step of the best weights at the last report; 0: none

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Reads a resumed run's validations; a rise among them counts as reported."""
        rows = [row for row in read_rows(self.run_dir / "metrics.jsonl") if row["split"] == "val"]
        self.losses = [(row["step"], row["loss"]) for row in rows if row["step"] <= trainer.global_step]
        self.reported = self._best()[0] if self._rises() else 0

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Adds the newest loss; reports a rise after READ_OFTEN epochs."""
        step = trainer.global_step
        self.losses = [*(pair for pair in self.losses if pair[0] < step), (step, pl_module.val_row["loss"])]
        best, loss = self._best()
        if not trainer.is_global_zero or not self._rises() or best == self.reported or self.epochs(step) < READ_OFTEN:
            return
        self.reported = best
        self.say(
            f"step {step}: the validation loss rises, after {self.epochs(step):.3g} passes over the {self.text}; the best weights,"
            f" of step {best} ({loss:.4f} nats a {self.unit}), are in model/; optim.patience={RISES} ends a run there;"
            f" {_against_overfitting(self.config)}"
        )

    def _best(self) -> tuple[int, float]:
        return min(self.losses, key=lambda pair: pair[1], default=(0, math.inf))

    def _rises(self) -> bool:
        """Returns whether the validation loss rises.

        It does where each of the last RISES losses exceeds the one before, or all of them exceed
        CLEARLY times the best.
        """
        best, newest = self._best()[1], [loss for _, loss in self.losses[-RISES - 1 :]]
        climbs = all(a < b for a, b in pairwise(newest))
        return len(newest) > RISES and (climbs or min(newest[1:]) > CLEARLY * best)


def _against_overfitting(config: Config) -> str:
    """Returns the advice for this kind of training; a pretrained model loses by more dropout."""
    slower = f"a smaller optim.lr than {config.optim.lr:g}"
    if config.loss.name == "dpo":
        return f"{slower} or a larger loss.beta than {config.loss.beta:g} keeps the model nearer to the reference"
    if config.finetune.method == "lora":
        return (
            f"{slower}, a smaller finetune.rank than {config.finetune.rank} or more finetune.dropout than"
            f" {config.finetune.dropout:g} lets it learn for longer"
        )
    weights_alone = str(config.init_from).endswith((".pt", ".pth", ".ckpt"))  # without a tokenizer: no adapters
    if config.finetune.method == "head" or config.finetune.freeze or weights_alone:
        return f"{slower} lets it learn for longer"
    if config.init_from is not None:
        return f"{slower} or finetune=lora changes less of what the model had learned"
    return (
        f"more model.dropout than {config.model.dropout:g} or more optim.weight_decay than"
        f" {config.optim.weight_decay:g} lets it learn for longer"
    )
