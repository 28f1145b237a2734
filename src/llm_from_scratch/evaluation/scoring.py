"""Scoring: the nats (-ln p) that a model gives each token of a text.

    ids -> windows -> hidden states -> logits, a chunk of tokens at a time -> nats

The logits of a batch are never in memory together: at GPT-2's vocabulary they would take 200 MB a
window.

Shapes: B windows, T tokens a window, N tokens of a text, C channels, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llm_from_scratch.data.sampler import ValidationWindows
from llm_from_scratch.errors import UserError
from llm_from_scratch.kernels import IGNORE
from llm_from_scratch.model import GPT

CPU_LOGITS, GPU_LOGITS = 2**24, 2**28  # logits of a chunk, at most: 64 MiB, 1 GiB
ACTIVATIONS = 2**25  # numbers of a batch's widest activation, at most: 128 MiB

Windows = Iterable[tuple[np.ndarray, np.ndarray]]  # inputs and targets, (B, T) int64 each


@dataclass(frozen=True)
class Scorer:
    """A language model in two halves, so that its logits are computed in chunks of tokens."""

    hidden_states: Callable[[Tensor], Tensor]  # ids (B, T) -> (B, T, C)
    head: Callable[[Tensor], Tensor]  # (n, C) -> logits (n, V)
    block_size: int  # the longest context, tokens
    width: int  # numbers a token of the widest activation
    vocab_size: int
    eot_id: int
    device: torch.device


def scorer(model: GPT, eot_id: int) -> Scorer:
    """Returns the scorer of a GPT that is in evaluation mode."""
    config = model.config
    width = max(config.inner_size * (2 if config.activation == "swiglu" else 1), 3 * config.n_embd)
    device = next(model.parameters()).device
    return Scorer(model.hidden_states, model.logits, config.block_size, width, config.vocab_size, eot_id, device)


# ------------------------------------------------------------------------------------------ windows
def windows_at_once(batch_size: int, block_size: int, width: int) -> int:
    """Returns the number of windows in a batch: `batch_size`, or fewer to fit `ACTIVATIONS`.

    width: numbers a token of the widest activation.
    """
    return max(1, min(batch_size, ACTIVATIONS // (block_size * width)))


def windows(shards: Sequence[np.ndarray], model: Scorer, overlap: float, batch_size: int) -> Windows:
    """Returns the windows of a text, in batches that score each of its tokens once.

    Args:
        shards: the ids of the text, (n,) each, in order.
        model: its context is the length of a window; a shorter text is one window.
        overlap: the share of a window, from 0 to below 1, that is context scored before.
        batch_size: windows at a time at most; the figures do not depend on it.

    Raises:
        UserError: when there are no tokens.
    """
    size = min(model.block_size, sum(map(len, shards)))
    if not size:
        raise UserError(
            "there are no tokens to score (data.stream=text or fresh keeps none of the train split): use --split val"
        )
    text = ValidationWindows(shards, block_size=size, eot_id=model.eot_id, overlap=overlap)
    return text.batches(min(windows_at_once(batch_size, size, model.width), len(text)))


def document_windows(documents: Sequence[np.ndarray], model: Scorer, batch_size: int) -> Windows:
    """Yields documents, each read from its beginning after an end-of-text token, in batches.

    Args:
        documents: the ids of each, (n,), at most as many as the context holds.
        model: the model that reads them.
        batch_size: documents at a time, at most.
    """
    longest = max(map(len, documents), default=1)
    rows = windows_at_once(batch_size, longest, model.width)
    for first in range(0, len(documents), rows):
        batch = documents[first : first + rows]
        shape = (len(batch), max(map(len, batch)))
        x, y = np.full(shape, model.eot_id, dtype=np.int64), np.full(shape, IGNORE, dtype=np.int64)
        for row, ids in enumerate(batch):
            x[row, 1 : len(ids)], y[row, : len(ids)] = ids[:-1], ids
        yield x, y


# --------------------------------------------------------------------------------------------- nats
@torch.inference_mode()
def token_nats(model: Scorer, ids: Tensor, targets: Tensor) -> Tensor:
    """Returns -ln p of each target: ids, targets (B, T) -> (B, T) float32, 0 at IGNORE."""
    nats = torch.zeros(targets.numel(), device=targets.device)
    for rows, logits, wanted in _logits(model, ids, targets):
        nats[rows] = F.cross_entropy(logits, wanted, reduction="none")
    return nats.view_as(targets)


@torch.inference_mode()
def token_nats_and_greedy(model: Scorer, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `token_nats`, and whether each target is the likeliest, (B, T), True at IGNORE."""
    nats = torch.zeros(targets.numel(), device=targets.device)
    greedy = torch.ones(targets.numel(), dtype=torch.bool, device=targets.device)
    for rows, logits, wanted in _logits(model, ids, targets):
        nats[rows] = F.cross_entropy(logits, wanted, reduction="none")
        greedy[rows] = logits.argmax(-1) == wanted
    return nats.view_as(targets), greedy.view_as(targets)


def _logits(model: Scorer, ids: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Computes the logits at the targets that are not IGNORE, a chunk of them at a time.

    Yields:
        Their rows (n,) in the flattened batch, float32 logits (n, V), and targets (n,).
    """
    flat = targets.flatten()
    counted = (flat != IGNORE).nonzero().flatten()
    numbers = CPU_LOGITS if ids.device.type == "cpu" else GPU_LOGITS
    hidden = model.hidden_states(ids).flatten(0, 1)  # (BT, C)
    for rows in counted.split(max(1, numbers // model.vocab_size)):
        yield rows, model.head(hidden[rows]).float(), flat[rows]


def score(model: Scorer, batches: Windows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores the targets that are not IGNORE, in the order of the text.

    Yields:
        Nats (n,) float32 and positions in the window (n,) int64, 0-based.
    """
    for x, y in batches:
        counted = y != IGNORE
        nats = token_nats(model, torch.from_numpy(x).to(model.device), torch.from_numpy(y).to(model.device))
        yield nats.cpu().numpy()[counted], np.nonzero(counted)[1]


def mean_probability(nats: Sequence[np.ndarray]) -> np.ndarray:
    """Returns -ln of the mean probability of each token: (N,) of -ln p from each model -> (N,).

    An ensemble (Hansen and Salamon 1990): the mean is a distribution, too, and its nats are at most
    the mean of the models' nats.
    """
    return np.log(len(nats)) - np.logaddexp.reduce(-np.stack(nats).astype(np.float64))


# ------------------------------------------------------------------------------------------ figures
def total_nats(model: Scorer, batches: Windows) -> tuple[float, int]:
    """Returns the total -ln p of the targets, and their number."""
    total, tokens = 0.0, 0
    for nats, _ in score(model, batches):
        total += float(nats.sum(dtype=np.float64))
        tokens += len(nats)
    return total, tokens


def conversation_nats(model: GPT, eot_id: int, rows: Iterable[tuple[np.ndarray, ...]]) -> tuple[float, int]:
    """Returns the total -ln p of what is learned in packed conversations, and its tokens.

    Args:
        model: in evaluation mode.
        eot_id: the end-of-text token.
        rows: inputs, targets and the number of each token's conversation, (B, T) int64 each.
    """
    total, tokens = 0.0, 0
    plain = scorer(model, eot_id)
    for batch in rows:
        x, y, documents = (torch.from_numpy(part).to(plain.device) for part in batch)
        within = replace(plain, hidden_states=partial(model.hidden_states, documents=documents))
        total += float(token_nats(within, x, y).sum(dtype=torch.float64))
        tokens += int((y != IGNORE).sum())
    return total, tokens


def text_nats(model: Scorer, ids: Sequence[int]) -> float:
    """Returns the total -ln p of a text after an end-of-text, in windows without overlap."""
    return total_nats(model, windows([np.array(ids, dtype=np.int64)], model, overlap=0.0, batch_size=1))[0]


def perplexity(nats: float) -> float:
    """Returns exp(nats), with the nats capped at 700 so that it is finite."""
    return math.exp(min(nats, 700.0))


def likelihood_row(nats: float, tokens: int, text_bytes: int) -> dict[str, float]:
    """Returns loss (nats a token), bits per byte and perplexity a token, from the total nats."""
    loss = nats / tokens
    return {"loss": loss, "bits_per_byte": nats / math.log(2) / text_bytes, "perplexity": perplexity(loss)}
