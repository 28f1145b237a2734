"""Preferences: the loss that makes the chosen answer of each pair likelier than the rejected one.

Shapes: P pairs, B = 2P sequences (the chosen answer of pair i is sequence 2i, the rejected one
2i + 1), T tokens of a sequence, C channels, N tokens of answers.
"""

import logging
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llm_from_scratch.config import Config, LossConfig
from llm_from_scratch.data.preferences import Pairs
from llm_from_scratch.errors import UserError
from llm_from_scratch.kernels import IGNORE
from llm_from_scratch.model import GPT
from llm_from_scratch.reference_model import (
    Reference,
    check_reference,
    read_reference,
    reference_path,
    write_reference,
)
from llm_from_scratch.training.data import Batch, as_batch
from llm_from_scratch.training.module import LanguageModel, sum_dtype

log = logging.getLogger(__name__)
# Of a pair, as rows of metrics.jsonl name them
MEASURES = ("loss", "accuracy", "margin", "reward_chosen", "reward_rejected")
CPU_LOGITS, GPU_LOGITS = 2**24, 2**28  # logits of a chunk, at most: 64 MiB, 1 GiB


class Outcome(NamedTuple):
    """Loss and rewards of each pair, (P,) each."""

    loss: Tensor
    reward_chosen: Tensor
    reward_rejected: Tensor


def dpo(log_probs: Tensor, reference: Tensor, lengths: Tensor, settings: LossConfig) -> Outcome:
    """Computes the loss of direct preference optimization (Rafailov et al. 2023, equation 7).

    The reward of an answer is beta times the nats by which it is likelier than under the reference.
    The loss is -ln of the probability that the chosen answer wins (Bradley & Terry 1952). With
    `label_smoothing` e, a share e of the pairs is taken to be labelled the wrong way round
    (Mitchell 2023); with `length_normalised` rewards are a token's (Lambert et al. 2024).

    Args:
        log_probs: (B,) of each answer under the model that is trained.
        reference: (B,) of each answer under the model that the training starts from.
        lengths: (B,) tokens of each answer.
        settings: the group `loss`.
    """
    gains = log_probs - reference
    if settings.length_normalised:
        gains = gains / lengths.clamp(min=1)
    chosen, rejected = (settings.beta * gains).view(-1, 2).unbind(1)
    margin, wrong = chosen - rejected, settings.label_smoothing
    loss = -(1 - wrong) * F.logsigmoid(margin) - wrong * F.logsigmoid(-margin)
    return Outcome(loss, chosen, rejected)


def answer_log_probs(model: GPT, ids: Tensor, targets: Tensor, keys: Tensor | None = None) -> Tensor:
    """Returns the log-probability of each answer: ids, targets (B, T) -> (B,) in nats.

    Targets equal to IGNORE are no part of the answer. Logits are computed for answers alone; where
    they take more than a chunk, they are computed again in the backward pass (Chen et al. 2016).

    Args:
        model: the network.
        ids: the inputs.
        targets: the next tokens.
        keys: (B,) keys of the dropout, as in `GPT.hidden_states`.
    """
    counted = (targets.flatten() != IGNORE).nonzero().flatten()  # (N,)
    hidden = model.hidden_states(ids, keys=keys).flatten(0, 1)[counted]  # (N, C)
    rows = max(1, (CPU_LOGITS if ids.device.type == "cpu" else GPU_LOGITS) // model.config.vocab_size)
    chunks = list(zip(hidden.split(rows), targets.flatten()[counted].split(rows), strict=True))
    if len(chunks) > 1 and torch.is_grad_enabled():
        nats = [checkpoint(_nats, model, *chunk, use_reentrant=False) for chunk in chunks]
    else:
        nats = [_nats(model, *chunk) for chunk in chunks]
    # A copy to distinct places, whose sum does not depend on the order of threads
    found = torch.cat(nats)
    spread = found.new_zeros(targets.numel()).index_copy(0, counted, found)
    return -spread.view_as(targets).sum(1)


def _nats(model: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """Returns -ln p of each target: hidden (n, C), targets (n,) -> (n,) float32 or float64."""
    logits = model.logits(hidden)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none")


def answer_lengths(targets: Tensor) -> Tensor:
    """Returns the tokens of each answer: targets (B, T) -> (B,)."""
    return (targets != IGNORE).sum(1)


# ----------------------------------------------------------------------------------------- training
def measures(outcome: Outcome) -> Tensor:
    """Returns the values of MEASURES of each pair, (P, 5), without a gradient.

    The accuracy of a pair is 1 where the chosen answer has the higher reward, else 0.
    """
    loss, chosen, rejected = (one.detach() for one in outcome)
    margin = chosen - rejected
    return torch.stack([loss, (margin > 0).float(), margin, chosen, rejected], dim=1)


@torch.no_grad()
def held_out(model: GPT, pairs: Pairs, settings: LossConfig, batch_size: int) -> dict[str, float]:
    """Returns the means of MEASURES over all pairs, whose reference is known.

    Args:
        model: the network, in evaluation mode.
        pairs: the pairs of a split.
        settings: the group `loss`.
        batch_size: pairs at a time; the figures do not depend on it.
    """
    device = next(model.parameters()).device
    total = torch.zeros(len(MEASURES), dtype=sum_dtype(device), device=device)
    for arrays in pairs.batches(batch_size):
        batch = as_batch(arrays)
        assert batch.reference is not None
        x, y, reference = (one.to(device) for one in (batch.x, batch.y, batch.reference))
        lengths = answer_lengths(y)
        rows = measures(dpo(answer_log_probs(model, x, y), reference, lengths, settings))
        total += rows[lengths.view(-1, 2)[:, 0] > 0].sum(0)
    return dict(zip(MEASURES, (total / len(pairs)).tolist(), strict=True))


class PreferenceModel(LanguageModel):
    """The LightningModule that trains a GPT on pairs of answers; losses are nats a pair.

    Args:
        model: the network.
        config: the settings of the run.
        pairs: the pairs of each split, which get their reference.
        data: their fingerprint.
    """

    forward_method = "hidden_states"

    def __init__(self, model: GPT, config: Config, *, pairs: Mapping[str, Pairs], data: str) -> None:
        super().__init__(model, config, val_bytes=0)
        self.pairs, self.data = pairs, data
        self.compiles = False  # each step has another length
        self.outcomes: list[Tensor] = []  # (5,) of each micro-batch of this optimizer step
        self.reference: Reference | None = None
        self.recorded: str | None = None  # the checksum of the reference in a resumed checkpoint

    def on_fit_start(self) -> None:
        """Computes log-probabilities of all answers under the initial weights, or reads them.

        They are known before the first batch is read; the run folder does not change yet.

        Raises:
            UserError: when a resumed run's file of them is missing, damaged or another run's.
        """
        super().on_fit_start()
        if self.recorded is None:
            values = {split: self.log_probs_of(pairs) for split, pairs in self.pairs.items()}
            self.reference = Reference(self.data, values)
        else:
            self.reference = read_reference(self.path)
            sizes = {split: 2 * len(pairs) for split, pairs in self.pairs.items()}
            check_reference(self.path, self.reference, self.data, sizes)
            if self.recorded != self.reference.sha256:
                raise UserError(f"{self.path}: is of another run: restore this run's, or start a new run")
        for split, pairs in self.pairs.items():
            pairs.reference = self.reference.log_probs[split]

    def on_train_start(self) -> None:
        """Writes the log-probabilities of a new run, once all checks have passed."""
        super().on_train_start()
        if self.recorded is None and self.trainer.is_global_zero:
            assert self.reference is not None
            answers = sum(map(len, self.reference.log_probs.values()))
            log.info("reference: log-probabilities of %s answers under the initial weights", f"{answers:,}")
            write_reference(self.path, self.reference)

    @property
    def path(self) -> Path:
        """Returns the path of the reference's file."""
        return reference_path(Path(self.trainer.default_root_dir))

    @torch.no_grad()
    def log_probs_of(self, pairs: Pairs) -> np.ndarray:
        """Returns the log-probabilities of all answers of some pairs, (2P,) float32.

        The ranks share the pairs.
        """
        size: int = self.trainer.datamodule.micro_batch_size  # type: ignore[attr-defined]
        rank, world = self.global_rank, self.trainer.world_size
        found = torch.zeros(2 * len(pairs), device=self.device)
        was_training = self.model.training
        self.model.eval()
        with self.trainer.precision_plugin.forward_context():
            for number, (x, y, *_) in zip(count(rank, world), pairs.batches(size, rank, world), strict=False):
                slot = found[2 * number * size : 2 * (number + 1) * size]
                ids, targets = (torch.from_numpy(one).to(self.device) for one in (x, y))
                slot.copy_(answer_log_probs(self.model, ids, targets)[: len(slot)])
        self.model.train(was_training)
        return self.trainer.strategy.reduce(found, reduce_op="sum").cpu().numpy()

    def outcome(self, batch: Batch, keys: Tensor | None = None) -> Outcome:
        """Returns loss and rewards of the pairs of a batch."""
        assert batch.reference is not None
        log_probs = answer_log_probs(self.model, batch.x, batch.y, keys)
        return dpo(log_probs, batch.reference, answer_lengths(batch.y), self.config.loss)

    def _micro_batch_loss(self, batch: Batch, keys: Tensor | None) -> Tensor:
        """Returns the mean loss of a micro-batch; all of a step have the same number of pairs."""
        outcome = self.outcome(batch, keys)
        if not self.losses:  # the first of the step
            self.outcomes = []
        self.outcomes.append(measures(outcome).mean(0))
        return outcome.loss.mean()

    def step_measures(self) -> dict[str, float]:
        """Returns accuracy, margin and rewards of this step's pairs, over all ranks."""
        means = self.trainer.strategy.reduce(torch.stack(self.outcomes).mean(0), reduce_op="mean")
        return dict(zip(MEASURES[1:], means.tolist()[1:], strict=True))

    def on_validation_epoch_start(self) -> None:
        """Sets a validation's sums to zero, on the device."""
        # Of the trained weights and of their average
        self.sums = torch.zeros(2, len(MEASURES), dtype=sum_dtype(self.device), device=self.device)
        self.validated = torch.zeros((), dtype=torch.int64, device=self.device)  # pairs

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds the measures of one batch of pairs; rows without a pair are ignored."""
        there = (answer_lengths(batch.y) > 0).view(-1, 2)[:, 0]
        self.sums[0] += measures(self.outcome(batch))[there].sum(0)
        if self.average:
            with self.average.applied():
                self.sums[1] += measures(self.outcome(batch))[there].sum(0)
        self.validated += there.sum()

    def validation_rows(self) -> tuple[dict[str, float], dict[str, float]]:
        """Returns the means over all pairs and ranks, of the weights and of their average."""
        sums, pairs = (self.trainer.strategy.reduce(one, reduce_op="sum") for one in (self.sums, self.validated))
        weights, average = (dict(zip(MEASURES, row, strict=True)) for row in (sums / pairs).tolist())
        return weights, average

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the checksum of the reference's log-probabilities."""
        super().on_save_checkpoint(checkpoint)
        assert self.reference is not None
        checkpoint["reference"] = self.reference.sha256

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the checksum of the reference, to compare it with the file's."""
        super().on_load_checkpoint(checkpoint)
        self.recorded = checkpoint["reference"]
