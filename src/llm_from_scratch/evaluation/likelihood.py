"""How well a model predicts a text: the sum of its losses over every token, once.

Shapes: B windows, T tokens a window. One forward pass a batch, summed on the device, read once at the end.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torchmetrics.text import Perplexity

from llm_from_scratch.model import GPT, IGNORE

LOGITS = 2**27  # numbers of a batch's logits: half a GB, whatever the vocabulary


def windows_at_once(batch_size: int, block_size: int, vocab_size: int) -> int:
    """`batch_size`, or as many windows as keep their logits (B, T, V) within `LOGITS`; the figures do not depend on it."""
    return max(1, min(batch_size, LOGITS // (block_size * vocab_size)))


def likelihood_row(nats: float, tokens: int, text_bytes: int) -> dict[str, float]:
    """The figures of a validation row: loss (nats a token), bits per byte of the text, perplexity a token."""
    loss = nats / tokens
    return {"loss": loss, "bits_per_byte": nats / math.log(2) / text_bytes, "perplexity": math.exp(min(loss, 700.0))}


@torch.inference_mode()
def likelihood(model: GPT, batches: Iterable[tuple[np.ndarray, np.ndarray]], text_bytes: int) -> dict[str, float]:
    """Loss (nats a token), bits per byte, perplexity, tokens and bytes of a whole split.

    Args:
        model: in evaluation mode.
        batches: windows x and y, (B, T) int64 each, that count every token of the split once.
        text_bytes: UTF-8 bytes of the text that the tokens stand for.
    """
    device = next(model.parameters()).device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    nats = torch.zeros((), dtype=dtype, device=device)
    tokens = 0
    perplexity = Perplexity(ignore_index=IGNORE).to(device).set_dtype(dtype)
    for x, y in batches:
        ids, targets = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        logits: Tensor = model(ids)
        nats += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
        ).to(dtype)
        perplexity.update(logits, targets)
        tokens += int((y != IGNORE).sum())
    row = likelihood_row(float(nats), tokens, text_bytes)
    return row | {"perplexity": float(perplexity.compute()), "tokens": tokens, "bytes": text_bytes}


@torch.inference_mode()
def token_nats(
    logits: Callable[[Tensor], Tensor], batches: Iterable[tuple[np.ndarray, np.ndarray]], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """-ln p of every token of the windows that counts, in order, and its place in its window: (N,) float64, (N,) int64.

    Args:
        logits: ids (B, T) -> logits (B, T, V); any model.
        batches: as for `likelihood`.
    """
    nats, places = [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for x, y in batches:
        counted = y != IGNORE
        losses = torch.nn.functional.cross_entropy(
            logits(torch.from_numpy(x).to(device)).float().flatten(0, 1),
            torch.from_numpy(y).to(device).flatten(),
            ignore_index=IGNORE,
            reduction="none",
        )
        nats.append(losses.cpu().numpy().astype(np.float64).reshape(y.shape)[counted])
        places.append(np.nonzero(counted)[1])
    return np.concatenate(nats), np.concatenate(places)
