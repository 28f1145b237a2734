"""Watched texts and conversations: validated beside what is trained on, so that forgetting is seen.

watch=shakespeare -> rows of split val/shakespeare in metrics.jsonl, first at step 0
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from llm_from_scratch.check import check
from llm_from_scratch.config import Config, DataConfig
from llm_from_scratch.data.conversations import PREFERENCES
from llm_from_scratch.data.corpus import is_mixture
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.data.prepared import Conversations, Prepared
from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.evaluation.scoring import likelihood_row
from llm_from_scratch.kernels import IGNORE
from llm_from_scratch.run import WATCHED, read_rows
from llm_from_scratch.tokenizer import Tokenizer
from llm_from_scratch.training.data import ValidationBatches
from llm_from_scratch.training.metrics import Metrics
from llm_from_scratch.training.module import LanguageModel, sum_dtype
from llm_from_scratch.training.progress import ProgressBar


def watched_settings(config: Config) -> dict[str, DataConfig]:
    """Returns the settings of each watched text, by its name in `watch`.

    Raises:
        UserError: when one has invalid settings, or is a mixture or of pairs of answers.
    """
    found = {}
    for name, settings in config.watch.items():
        try:
            one = check({"name": name} | dict(settings), DataConfig)
        except UserError as error:
            raise UserError(f"watch.{name}: {message_of(error, 300)}") from None
        if is_mixture(one):
            raise UserError(f"watch.{name}: a mixture is watched in its parts: name each text by itself")
        if one.format == PREFERENCES:
            raise UserError(
                f"watch.{name}: pairs of answers are not watched, but texts and conversations (format: chat): watch rows of"
                " the chosen answers as such"
            )
        found[name] = replace(one, dir=config.data.dir, stream="tokens", subword_dropout=0.0)
    return found


class WatchedText(NamedTuple):
    """A prepared text or conversations, with their settings."""

    prepared: Prepared
    settings: DataConfig


def prepare_watched(
    config: Config, tokenizer: Tokenizer, template: str | None, *, fetch: bool, write: bool
) -> dict[str, WatchedText]:
    """Prepares or opens the watched texts, with the tokenizer and the chat template of the run.

    `fetch` and `write` as in `prepare`.

    Raises:
        UserError: as `prepare`, and when a validation split is shorter than one block.
    """
    found = {}
    for name, settings in watched_settings(config).items():
        place = {"fetch": fetch, "write": write, "wait": True}
        try:
            prepared = prepare(
                settings, config.tokenizer, tokenizer=tokenizer, template=template, settings=config.prepare, **place
            )
        except UserError as error:
            raise UserError(f"watch.{name}: {message_of(error, 1000)}") from None
        tokens = prepared.manifest["splits"]["val"]["tokens"]
        if tokens < config.model.block_size and not isinstance(prepared, Conversations):
            raise UserError(
                f"watch.{name}: its validation split has {tokens} tokens, less than one block: use a longer text"
            )
        found[name] = WatchedText(prepared, settings)
        found[name].prepared.validation(settings, config.model.block_size)  # refuses before the first step
    return found


class Watched(Callback):
    """The callback that validates the watched texts at step 0 and at every validation.

    The rows are functions of the weights alone, so a resumed run writes what an unbroken one would.

    Args:
        texts: the watched texts, by their names.
        metrics: writes the rows.
        progress: prints a line a validation.
    """

    def __init__(self, texts: Mapping[str, WatchedText], metrics: Metrics, progress: ProgressBar) -> None:
        self.texts, self.metrics, self.progress = texts, metrics, progress

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Measures the initial weights; a run that starts again at step 0 keeps its rows."""
        if trainer.global_step == 0:
            there = {row["split"] for row in read_rows(self.metrics.path) if row["step"] == 0}
            trainer.strategy.barrier()  # before rank 0 adds rows
            self._measure(trainer, pl_module, [name for name in self.texts if WATCHED + name not in there])

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Measures the present weights, or their average where there is one."""
        self.progress.pace.watched(self._measure(trainer, pl_module, list(self.texts)))

    def _measure(self, trainer: lightning.Trainer, module: LanguageModel, names: list[str]) -> float:
        """Writes a row for each of the named texts.

        Returns:
            The seconds that it took, which are not counted as training time.
        """
        since, figures = time.perf_counter(), []
        for name in names:
            row = self._row(trainer, module, self.texts[name])
            self.metrics.write(trainer, {"step": trainer.global_step, "split": WATCHED + name} | row, {})
            figures.append(f"{name} {row['loss']:.4f}, {row['bits_per_byte']:.4f} bits per byte")
        seconds = time.perf_counter() - since
        self.metrics.since += seconds
        if names and trainer.is_global_zero:
            self.progress.say(f"step {trainer.global_step}/{trainer.max_steps}  watched: {'; '.join(figures)}")
        return seconds

    @torch.no_grad()
    def _row(self, trainer: lightning.Trainer, module: LanguageModel, text: WatchedText) -> dict[str, Any]:
        """Returns the likelihood of a whole validation split; the ranks share its windows."""
        device, was_training = module.device, module.model.training
        prepared, place = text.prepared, (text.settings, module.config.model.block_size)
        windows = prepared.validation(*place)
        size: int = trainer.datamodule.micro_batch_size  # type: ignore[attr-defined]
        nats = torch.zeros((), dtype=sum_dtype(device), device=device)
        tokens = torch.zeros((), dtype=torch.int64, device=device)
        module.model.eval()
        with module.averaged(), trainer.precision_plugin.forward_context():
            for batch in ValidationBatches(windows, size, trainer.global_rank, trainer.world_size):
                x, y, documents, _ = trainer.datamodule.transfer_batch_to_device(batch, device, 0)  # type: ignore[attr-defined]
                nats += module.loss(x, y, reduction="sum", documents=documents)
                tokens += (y != IGNORE).sum()
        module.model.train(was_training)
        total, count = (trainer.strategy.reduce(one, reduce_op="sum").item() for one in (nats, tokens))
        return likelihood_row(total, int(count), prepared.scored_bytes(*place))
