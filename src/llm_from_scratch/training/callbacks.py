"""What happens beside the steps: curves, progress, samples, checkpoints. Each callback does one of these.

The step itself never waits for them: losses stay on the device, and are read every `log_every_n_steps` optimizer steps.
"""

import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llm_from_scratch import signals
from llm_from_scratch.checkpoint import (
    Background,
    append_row,
    checkpoints,
    line_checksums,
    model_facts,
    prune_states,
    read_rows,
    remove_leftovers,
    save_model,
    write_rows,
)
from llm_from_scratch.config import OptimConfig, SampleConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import open_regular, sync, write_file
from llm_from_scratch.generation import SamplingConfig, generate
from llm_from_scratch.terminal import argument, console, end_echo, shell
from llm_from_scratch.tokenizer import Tokenizer
from llm_from_scratch.training.loggers import TensorBoard, UserRows, flush, open_loggers, rewind
from llm_from_scratch.training.module import LanguageModel
from llm_from_scratch.training.progress import Pace, clock
from llm_from_scratch.training.sharded import whole_model
from llm_from_scratch.training.states import plain_state

log = logging.getLogger(__name__)


def stepped(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Whether this micro-batch ended an optimizer step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class Metrics(Callback):
    """Writes metrics.jsonl (the same for the same seed), timing.jsonl (what depends on the clock) and the loggers' curves.

    A training row is the loss of that very step's batch, so that it does not depend on the steps that were logged before.
    """

    def __init__(self, run_dir: Path, every_n_steps: int, settings: dict[str, Any]) -> None:
        self.settings = settings  # for the loggers
        self.path, self.timing = run_dir / "metrics.jsonl", run_dir / "timing.jsonl"
        self.every_n_steps, self.tokens = every_n_steps, 0  # of this process, since the last row
        self.latest: dict[str, Any] = {}  # for the progress callback

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Drops what was logged after the checkpoint that this run goes on from: it comes again."""
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
        """Every few optimizer steps: the one moment at which the host waits for the device."""
        step = trainer.global_step
        self.tokens += batch[0].numel()
        if not stepped(trainer, batch_idx) or not (step % self.every_n_steps == 0 or step == trainer.max_steps):
            return
        loss = trainer.strategy.reduce(sum(pl_module.losses) / len(pl_module.losses), reduce_op="mean").item()
        assert pl_module.grad_norm is not None
        pl_module.check_numbers()
        norm = pl_module.grad_norm.item()
        row = {"step": step, "split": "train", "loss": _number(loss), "lr": pl_module.lr, "grad_norm": _number(norm)}
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
        """The time of a validation is not that of training steps."""
        self.validation_since = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """One row over the whole split."""
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
    """JSON has no NaN: the loss of a batch that was passed over is null."""
    return value if math.isfinite(value) else None


class ProgressLine(Callback):
    """A bar with loss and tokens/s in a terminal; elsewhere plain lines, a few a minute."""

    def __init__(self, metrics: Metrics, show_bar: bool) -> None:
        self.metrics = metrics
        self.console = console(stderr=True)
        self.bar: Progress | None = None
        if show_bar and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, TextColumn("{task.fields[figures]}"), console=self.console)
        self.printed = time.perf_counter()

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        self.console.print(line) if self.bar else log.info("%s", line)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Shows the bar."""
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
        """Shows the newest row, when there is one, and with the second one how long the run takes."""
        row = self.metrics.latest
        if not trainer.is_global_zero or row.get("step") != trainer.global_step or not stepped(trainer, batch_idx):
            return
        loss = "NaN, passed over" if row["loss"] is None else f"{row['loss']:.3f}"
        figures = f"loss {loss}  {row['tokens_per_second']:,} tokens/s"
        self.pace.trained(self.step, row["step"], row["seconds"])
        self.step = row["step"]
        left = f"{clock(self.pace.left(row['step']))} left"
        if self.bar:
            self.bar.update(self.task, completed=row["step"], figures=figures)
        line = f"step {row['step']}/{trainer.max_steps}  {figures}"
        if row["step"] == trainer.max_steps or self.pace.rows < 2:  # the first row also warmed up
            return
        if self.pace.rows == 2:
            self.printed = time.perf_counter()
            self.say(f"{line}  about {left}")
        elif not self.bar and time.perf_counter() - self.printed > 10:
            self.printed = time.perf_counter()
            self.say(f"{line}  {left}")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The time that is left has validations in it."""
        self.validation_since = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """One line that stays, for each validation."""
        self.pace.validated(time.perf_counter() - self.validation_since)
        row = pl_module.val_row
        figures = f"validation loss {row['loss']:.4f}, {row['bits_per_byte']:.4f} bits per byte"
        line = f"step {trainer.global_step}/{trainer.max_steps}  {figures}"
        if trainer.is_global_zero:
            self.say(line)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Gives the terminal back, also after an error."""
        if self.bar:
            self.bar.stop()
            _log_above_the_bar()


def _log_above_the_bar() -> None:
    """Lets log lines go where `sys.stderr` is now: a bar puts its own there, which writes above it and then draws it again."""
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler and handler.stream is not sys.stdout:
            handler.setStream(sys.stderr)


class Samples(Callback):
    """Text that the model writes at every validation, in samples.md and TensorBoard, so that its growth can be read.

    `sample.show` also shows it as it comes, beside the progress.
    """

    def __init__(
        self, run_dir: Path, tokenizer: Tokenizer, prompt: str, config: SampleConfig, seed: int, progress: ProgressLine
    ) -> None:
        self.path, self.tokenizer, self.prompt = run_dir / "samples.md", tokenizer, prompt
        self.progress = progress
        self.shown = progress.console.is_terminal if config.show == "auto" else bool(config.show)
        self.sampling = SamplingConfig(
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=seed, compile=False
        )

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keeps the samples of up to the step that this run goes on from."""
        if trainer.is_global_zero:
            old = _sections(self.path) if self.path.exists() and trainer.global_step else []
            kept = [f"\n## Step {step}\n{text}" for step, text in old if step <= trainer.global_step]
            write_file(self.path, "".join(["# Samples\n", *kept]))

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Writes one sample."""
        model = whole_model(pl_module.model)
        if not trainer.is_global_zero:
            return
        with (
            pl_module.averaged(),
            torch.compiler.set_stance("force_eager"),
        ):  # blocks compiled for training would be compiled again for every length
            pieces = [new[0] for new in generate(model, self.tokenizer, self.prompt, self.sampling)]
        text = self.prompt + "".join(pieces)
        with self.path.open("a", encoding="utf-8") as file:
            quoted = "\n".join(
                f"    {line}".rstrip() for line in text.splitlines()
            )  # an indented block shows any text as it is
            file.write(f"\n## Step {trainer.global_step}\n\n{quoted}\n")
        if self.shown:
            self.progress.say(quoted)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.log_sample(text, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_text("sample", ["text"], [[text]], step=trainer.global_step)


def _sections(path: Path) -> list[tuple[int, str]]:
    """The steps of samples.md with their texts. It is a record: what cannot be read costs one warning and its own section."""
    with open_regular(path) as file:
        content = file.read()
    text = content.decode(errors="replace")
    found, damaged = [], text.encode() != content
    for part in text.split("\n## Step ")[1:]:
        step, _, rest = part.partition("\n")
        if step.isascii() and step.isdigit():
            found.append((int(step), rest))
        else:
            damaged = True
    if damaged:
        log.warning("%s: damaged; what can be read of it is kept", path)
    return found


class Patience(Callback):
    """Ends a run whose validation loss no longer falls; under the schedule `plateau` the learning rate falls first, down to its least."""

    def __init__(self, optim: OptimConfig) -> None:
        self.optim = optim
        self.best, self.waited, self.lowered = float("inf"), 0, 0

    def state_dict(self) -> dict[str, Any]:
        """The best loss, the validations since, and how often the learning rate was lowered."""
        return {"best": self.best, "waited": self.waited, "lowered": self.lowered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self.best, self.waited, self.lowered = (state_dict[name] for name in ("best", "waited", "lowered"))

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """A run that had stopped stops again, unless it is given more patience."""
        pl_module.lr_scale = self.optim.plateau_factor**self.lowered
        trainer.should_stop = self.is_over

    @property
    def is_over(self) -> bool:
        """Whether as many validations as `optim.patience` came without a lower loss."""
        return self.waited >= (self.optim.patience or math.inf)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Counts; every process comes to the same."""
        loss = pl_module.val_row["loss"]
        self.waited = 0 if loss < self.best else self.waited + 1
        self.best = min(self.best, loss)
        if self.waited < (self.optim.patience or math.inf):
            return
        factor = self.optim.plateau_factor
        if self.optim.schedule == "plateau" and factor ** (self.lowered + 1) >= self.optim.min_lr_ratio:
            self.waited, self.lowered = 0, self.lowered + 1
            pl_module.lr_scale = factor**self.lowered
            pl_module.follow_settings()  # the schedule comes to it after the next step
            what = f"the learning rate falls to {factor**self.lowered:g} of its peak"
        else:
            trainer.should_stop, what = True, "training stops"
        if trainer.is_global_zero:
            log.info("step %d: %d validations without a lower loss: %s", trainer.global_step, self.optim.patience, what)


class Checkpoints(Callback):
    """At every validation: `model/` where it is the best so far, then the state that resuming needs; the last two states are kept.

    The validation comes first, so that a kill in its middle repeats it rather than loses it.
    """

    KEPT = 2

    def __init__(
        self,
        run_dir: Path,
        tokenizer: Tokenizer,
        background: Background,
        data: str,
        users: dict[str, Callback],
        settings: dict[str, Any],
    ) -> None:
        self.run_dir, self.tokenizer, self.background = run_dir, tokenizer, background
        self.data = data  # the fingerprint of the prepared text
        self.users, self.settings = users, {name: json.dumps(settings[name], sort_keys=True) for name in users}
        self.best, self.saved, self.stopped = float("inf"), 0, False

    def state_dict(self) -> dict[str, Any]:
        """The best validation loss so far; whether a callback of the user's has stopped the run, and their settings."""
        return {"best": self.best, "stopped": self.stopped, "users": self.settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there, or from what is in `model/` where that is worse: then the next better validation replaces it.

        A run that a callback has stopped stays so for as long as the callbacks are the same.
        """
        self.best = float(state_dict["best"])
        self.stopped = state_dict.get("stopped", False) and state_dict["users"] == self.settings
        if math.isinf(self.best):
            return  # no validation yet: nothing is missing
        try:
            held = float(model_facts(self.run_dir)["loss"])
        except UserError as error:
            log.warning("%s: the next validation writes it again", error)
            held = float("inf")
        if held > self.best:
            if held < float("inf"):
                log.warning(
                    "%s: of a validation loss of %.4f, where the run had reached %.4f: the next better validation replaces it",
                    *(self.run_dir / "model", held, self.best),
                )
            self.best = held

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A callback whose settings were changed begins anew: its old state would bring the old ones back."""
        states = checkpoint["callbacks"]
        before = states.get(self.state_key, {}).get("users", {})
        for name, callback in self.users.items():
            if before.get(name, self.settings[name]) != self.settings[name] and states.pop(callback.state_key, None):
                log.info("callbacks.%s has other settings than before: it begins anew", name)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Finds a state that no checkpoint can hold before the first step rather than at the first validation."""
        for name, callback in self.users.items():
            plain_state(callback.state_dict(), f"callbacks.{name}")
        if self.stopped:
            trainer.should_stop = True
            log.info(
                "a callback stopped this run at step %d; it goes on when callbacks.* are others: %s",
                trainer.global_step,
                ", ".join(self.users),
            )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Asks for a validation at the last step, which need not be a multiple of the interval."""
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Nobody writes yet."""
        if trainer.is_global_zero:
            remove_leftovers(self.run_dir)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Saves; every rank calls, the first one writes."""
        loss = pl_module.val_row["loss"]
        if loss < self.best:
            self.best = loss
            model, facts = whole_model(pl_module.model), {"step": trainer.global_step, "loss": loss, "data": self.data}
            if trainer.is_global_zero:
                weights = dict(model.named_parameters())
                with pl_module.averaged():
                    self.background.submit(save_model, weights, model.config, self.tokenizer, self.run_dir, **facts)
        plateau = any(isinstance(other, Patience) and other.is_over for other in trainer.callbacks)  # type: ignore[attr-defined]
        self.stopped = trainer.should_stop and trainer.global_step < trainer.max_steps and not plateau
        self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Hands over the state of this step; when it has been written, read back and compared, the oldest ones go."""
        folder = self.run_dir / "checkpoints" / f"step_{trainer.global_step:08d}"
        if trainer.is_global_zero:
            # What was logged up to here must be as durable as the state: it does not come again.
            flush(trainer.loggers)
            rows = self.run_dir / "metrics.jsonl"
            for path in (line_checksums(rows), rows, self.run_dir / "samples.md"):
                if path.exists():
                    sync(path)
        trainer.save_checkpoint(folder)
        self.saved = trainer.global_step
        if trainer.is_global_zero:
            self.background.submit(prune_states, self.run_dir, self.KEPT)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """What was handed over before a failure is good: it goes to the disk."""
        self.background.wait()

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Waits for the disk; a kill behind the last save left its removals to do."""
        self.background.wait()
        if trainer.is_global_zero:
            prune_states(self.run_dir, self.KEPT)


class Signals(Callback):
    """A signal finishes the step with its validation, saves and ends the run with 128 + the signal's number.

    It is the first callback: when the state is saved, none has begun the next step.
    """

    def __init__(self, saver: Checkpoints) -> None:
        self.saver, self.told = saver, False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Holds signals back from here on."""
        self.saver.saved = trainer.global_step
        signals.hold()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Says that the signal has come: a handler must not."""
        if signals.received() and not self.told and trainer.is_global_zero:
            self.told = True
            end_echo()
            log.warning("stopping: this step is finished and saved first")

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Saves and leaves between two optimizer steps; the last step ends the run by itself."""
        if batch_idx % trainer.accumulate_grad_batches:
            return
        received = signals.received() or 0
        if trainer.world_size > 1:
            if trainer.global_step % 10:
                return  # the ranks must agree, and asking costs a message
            number = torch.tensor(received, device=pl_module.device)
            received = int(trainer.strategy.reduce(number, reduce_op="max").item())
        if not received:
            return
        if self.saver.saved != trainer.global_step:
            self.saver.save(trainer)
        self.saver.background.wait()
        # Lightning kills the first process soon after another one has ended: none may end before the first has saved.
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            log.warning("stopped at step %d; go on with: %s", trainer.global_step, self._command())
        sys.exit(128 + received)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """A second Ctrl-C leaves in the middle of a step."""
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            try:
                self.saver.background.wait()
            except Exception as error:
                log.warning("the last checkpoint was not written: %s", error)
            found = checkpoints(self.saver.run_dir)
            step = int(found[0].name.removeprefix("step_")) if found else 0
            log.warning("left in step %d; go on from step %d with: %s", trainer.global_step + 1, step, self._command())

    def _command(self) -> str:
        return shell("python", "train.py", f"resume={argument(self.saver.run_dir)}")

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        signals.release()
