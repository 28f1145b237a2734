"""Callbacks that act between optimizer steps: samples, early stopping, checkpoints, signals."""

import json
import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from llm_from_scratch import signals
from llm_from_scratch.checkpoint import Background, checkpoints, prune_states
from llm_from_scratch.config import OptimConfig, SampleConfig, SamplingConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import sync, write_file
from llm_from_scratch.generation import generate
from llm_from_scratch.lora import kept_parameters
from llm_from_scratch.places import program
from llm_from_scratch.run import line_checksums, read_samples, remove_leftovers
from llm_from_scratch.terminal import argument, end_echo, shell
from llm_from_scratch.tokenizer import Tokenizer
from llm_from_scratch.training.loggers import TensorBoard, flush
from llm_from_scratch.training.module import LanguageModel
from llm_from_scratch.training.progress import ProgressBar
from llm_from_scratch.training.sharded import whole_model
from llm_from_scratch.training.states import plain_state
from llm_from_scratch.training.trackers import Wandb
from llm_from_scratch.weights import model_metadata, save_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """The beginning of the samples: a text, and of a conversation its ids (None: of a text)."""

    text: str
    ids: Sequence[int] | None = None


class Samples(Callback):
    """Text that the model generates at every validation, in samples.md, TensorBoard and wandb.

    With `sample.show` it is also printed on standard error.
    """

    def __init__(
        self,
        run_dir: Path,
        tokenizer: Tokenizer,
        prompt: Prompt,
        config: SampleConfig,
        seed: int,
        progress: ProgressBar,
        end_ids: Sequence[int] = (),
    ) -> None:
        self.path, self.tokenizer, self.prompt = run_dir / "samples.md", tokenizer, prompt
        self.end_ids = end_ids
        self.progress = progress
        self.shown = progress.console.is_terminal if config.show == "auto" else bool(config.show)
        self.sampling = SamplingConfig(
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=seed, compile=False
        )

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts samples.md; a resumed run keeps the samples up to its checkpoint."""
        if trainer.is_global_zero:
            old = read_samples(self.path) if trainer.global_step else []
            kept = [f"\n## Step {step}\n{text}" for step, text in old if step <= trainer.global_step]
            write_file(self.path, "".join(["# Samples\n", *kept]))

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Appends one sample to samples.md and logs it."""
        # torch.compile would compile the training blocks again for every length of the text.
        with pl_module.averaged(), torch.compiler.set_stance("force_eager"):
            model = whole_model(trainer.strategy, pl_module.model)
            if not trainer.is_global_zero:
                return
            begin = self.prompt.text if self.prompt.ids is None else self.prompt.ids
            pieces = [new[0] for new in generate(model, self.tokenizer, begin, self.sampling, self.end_ids)]
        # An answer has a line of its own behind a question.
        between = "" if self.prompt.ids is None or self.prompt.text[-1:].isspace() else "\n"
        text = self.prompt.text + between + "".join(pieces)
        with self.path.open("a", encoding="utf-8") as file:
            # An indented block shows any text as it is.
            quoted = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
            file.write(f"\n## Step {trainer.global_step}\n\n{quoted}\n")
        if self.shown:
            self.progress.say(quoted)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard | Wandb):
                logger.log_sample(text, trainer.global_step)


class EarlyStopping(Callback):
    """Early stopping: ends a run whose validation loss no longer falls.

    Under the schedule `plateau` the learning rate falls first, down to its smallest value.
    """

    def __init__(self, optim: OptimConfig) -> None:
        self.optim = optim
        self.best, self.waited, self.lowered = float("inf"), 0, 0

    @property
    def state_key(self) -> str:
        """Returns the key of this callback's state in checkpoints, "Patience" since version 0.1."""
        return "Patience"

    def state_dict(self) -> dict[str, Any]:
        """Returns the best loss, the validations since then, and how often the rate was lowered."""
        return {"best": self.best, "waited": self.waited, "lowered": self.lowered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self.best, self.waited, self.lowered = (state_dict[name] for name in ("best", "waited", "lowered"))

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Restores a lowered learning rate, and stops a resumed run that early stopping had ended.

        Such a run goes on where `optim.patience` is larger now.
        """
        pl_module.lr_scale = self.optim.plateau_factor**self.lowered
        trainer.should_stop = self.is_over

    @property
    def is_over(self) -> bool:
        """Returns whether `optim.patience` validations brought no lower loss; None: never."""
        return self.waited >= (self.optim.patience or math.inf)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Counts validations without a lower loss; then lowers the learning rate or stops the run.

        Every rank comes to the same count.
        """
        loss = pl_module.val_row["loss"]
        self.waited = 0 if loss < self.best else self.waited + 1
        self.best = min(self.best, loss)
        if self.waited < (self.optim.patience or math.inf):
            return
        factor = self.optim.plateau_factor
        if self.optim.schedule == "plateau" and factor ** (self.lowered + 1) >= self.optim.min_lr_ratio:
            self.waited, self.lowered = 0, self.lowered + 1
            pl_module.lr_scale = factor**self.lowered
            pl_module.follow_settings()  # the scheduler would set it only after the next step
            what = f"the learning rate falls to {factor**self.lowered:g} of its peak"
        else:
            trainer.should_stop, what = True, "training stops"
        if trainer.is_global_zero:
            log.info("step %d: %d validations without a lower loss: %s", trainer.global_step, self.optim.patience, what)


class Checkpoints(Callback):
    """Checkpoints at every validation: `model/` at each new best loss, then the state to resume.

    The last KEPT states are kept. The validation comes before its checkpoint, so a run that is
    killed during a validation repeats it.
    """

    KEPT = 2

    def __init__(
        self,
        run_dir: Path,
        tokenizer: Tokenizer,
        background: Background,
        facts: dict[str, Any],
        users: dict[str, Callback],
        settings: dict[str, Any],
    ) -> None:
        self.run_dir, self.tokenizer, self.background = run_dir, tokenizer, background
        self.facts = facts  # for model/config.json: the prepared text's fingerprint, the chat template
        self.users, self.settings = users, {name: json.dumps(settings[name], sort_keys=True) for name in users}
        self.best, self.saved, self.stopped = float("inf"), 0, False

    def state_dict(self) -> dict[str, Any]:
        """Returns the best loss, the user's callback settings, and whether one stopped the run."""
        return {"best": self.best, "stopped": self.stopped, "users": self.settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best loss, or takes the loss of `model/` where that is higher.

        A damaged `model/` has an infinite loss: the next validation writes it again. A run that a
        callback stopped stays stopped while the settings of the user's callbacks are the same.
        """
        self.best = float(state_dict["best"])
        self.stopped = state_dict.get("stopped", False) and state_dict["users"] == self.settings
        if math.isinf(self.best):
            return  # no validation yet, so no model/ is expected
        try:
            held = float(model_metadata(self.run_dir)["loss"])
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
        """Drops the saved state of each user's callback whose settings have changed."""
        states = checkpoint["callbacks"]
        before = states.get(self.state_key, {}).get("users", {})
        for name, callback in self.users.items():
            if before.get(name, self.settings[name]) != self.settings[name] and states.pop(callback.state_key, None):
                log.info("callbacks.%s has other settings than before: it begins anew", name)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Stops a resumed run that a callback of the user's had stopped."""
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
        """Ends training after the last step; Lightning then validates, also within an interval."""
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Checks that a checkpoint can hold the state of each user's callback.

        The claim has not started yet. Then checkpoints that a killed run left half built are
        removed, before the writer starts.

        Raises:
            UserError: when a state holds a value of an unsupported type.
        """
        for name, callback in self.users.items():
            plain_state(callback.state_dict(), f"callbacks.{name}")
        if trainer.is_global_zero:
            remove_leftovers(self.run_dir)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Saves the model where its loss is the best, then the state; rank 0 writes."""
        loss = pl_module.val_row["loss"]
        if loss < self.best:
            self.best = loss
            metadata = {"step": trainer.global_step, "loss": loss, **self.facts}
            with pl_module.averaged():
                model = whole_model(trainer.strategy, pl_module.model)
                if trainer.is_global_zero:
                    weights = dict(kept_parameters(model))
                    self.background.submit(save_model, weights, model.config, self.tokenizer, self.run_dir, **metadata)
        plateau = any(isinstance(other, EarlyStopping) and other.is_over for other in trainer.callbacks)  # type: ignore[attr-defined]
        self.stopped = trainer.should_stop and trainer.global_step < trainer.max_steps and not plateau
        self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Syncs the logs, then queues this step's state; the writer thread prunes old states."""
        folder = self.run_dir / "checkpoints" / f"step_{trainer.global_step:08d}"
        if trainer.is_global_zero:
            # A resumed run does not log these points again: they must be as durable as the state.
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
        """Waits until the states queued before an exception are on the disk."""
        self.background.wait()

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Waits for the disk, and removes old states that a kill after the last save left."""
        self.background.wait()
        if trainer.is_global_zero:
            prune_states(self.run_dir, self.KEPT)


class Signals(Callback):
    """Signal handling: a run finishes its step, saves, and exits with 128 + the signal's number.

    It is the first callback: when the state is saved, no other has begun the next step.
    """

    def __init__(self, saver: Checkpoints, close_bar: Callable[[], None]) -> None:
        self.saver, self.close_bar, self.announced = saver, close_bar, False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Holds signals back until the running step has ended."""
        self.saver.saved = trainer.global_step
        signals.hold()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs that a signal came; the signal handler itself must not write."""
        if signals.received() and not self.announced and trainer.is_global_zero:
            self.announced = True
            end_echo()
            log.warning("stopping: this step is finished and saved first")

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Saves and exits between two optimizer steps, after a signal.

        Several ranks do so only before a step that is a multiple of 10.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return
        received = signals.received() or 0
        if trainer.world_size > 1:
            if trainer.global_step % 10:
                return  # the ranks must agree, which takes one message between them
            number = torch.tensor(received, device=pl_module.device)
            received = int(trainer.strategy.reduce(number, reduce_op="max").item())
        if not received:
            return
        if self.saver.saved != trainer.global_step:
            self.saver.save(trainer)
        self.saver.background.wait()
        # Lightning kills rank 0 soon after another rank has ended: rank 0 must have saved before.
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self.close_bar()
            log.warning("stopped at step %d; go on with: %s", trainer.global_step, self._command())
        sys.exit(128 + received)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Logs the step to resume from, where a second Ctrl-C interrupted a step."""
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            try:
                self.saver.background.wait()
            except Exception as error:
                log.warning("the last checkpoint was not written: %s", error)
            found = checkpoints(self.saver.run_dir)
            step = int(found[0].name.removeprefix("step_")) if found else 0
            self.close_bar()
            log.warning("left in step %d; go on from step %d with: %s", trainer.global_step + 1, step, self._command())

    def _command(self) -> str:
        return shell(*program("train"), f"resume={argument(self.saver.run_dir)}")

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Restores the signal handlers from before training."""
        signals.release()
