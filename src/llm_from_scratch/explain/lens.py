"""The logit lens: what a model would say if it ended after an earlier layer (nostalgebraist 2020).

The residual stream after any block has the shape of the last one, so that the final norm and the
head can read it. The last layer's reading is the model's own.

Shapes: L layers, T positions, C channels, V vocabulary, K tokens that are named.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_from_scratch.model import GPT

LOGITS = 2**24  # in memory at a time, at most


@dataclass(frozen=True)
class Expectations:
    """What is expected after each token of a text.

    Attributes:
        ids: (T, K), the likeliest next tokens, the likeliest first.
        p: (T, K), their probabilities.
        entropy: (T,), of the distribution, in bits.
        surprise: (T - 1,), bits of each token but the first: -log2 of the probability it had.
    """

    ids: Tensor
    p: Tensor
    entropy: Tensor
    surprise: Tensor


@torch.inference_mode()
def expectations(logits: Tensor, ids: Sequence[int], top: int) -> Expectations:
    """Describes the next token after each of ids (T,) by the logits (T, V) there."""
    return _joined([_of_rows(logits, _following(ids, logits.device), top)])


@torch.inference_mode()
def lens(model: GPT, residual: Tensor, ids: Sequence[int], top: int) -> list[Expectations]:
    """Reads the residual stream (L + 1, T, C) of ids (T,) with the model's final norm and head.

    The first of the L + 1 readings is of the embedding, the last one that of the whole model, which
    is in evaluation mode.
    """
    following = _following(ids, residual.device)
    return [_joined(list(_read(model, stream, following, top))) for stream in residual]


def _following(ids: Sequence[int], device: torch.device) -> Tensor:
    """Returns the token after each of ids (T,); after the last one -1."""
    return torch.tensor([*ids[1:], -1], device=device)


def _read(model: GPT, stream: Tensor, following: Tensor, top: int) -> Iterator[Expectations]:
    """Reads a stream (T, C) in chunks of positions."""
    rows = max(1, LOGITS // model.config.vocab_size)
    for part, after in zip(stream.split(rows), following.split(rows), strict=True):
        yield _of_rows(model.logits(model.norm(part)), after, top)


def _of_rows(logits: Tensor, following: Tensor, top: int) -> Expectations:
    """Describes logits (n, V) before the tokens `following` (n,), -1: there is none."""
    logs = logits.cpu().float().log_softmax(dim=-1)
    best = logs.topk(min(top, logs.shape[-1]))
    known = following.cpu() >= 0
    surprise = -logs[known].gather(1, following.cpu()[known, None])[:, 0] / math.log(2)
    p = logs.exp()
    entropy = -(p * logs.nan_to_num(neginf=0.0)).sum(dim=-1) / math.log(2)
    return Expectations(best.indices, best.values.exp(), entropy, surprise)


def _joined(parts: Sequence[Expectations]) -> Expectations:
    return Expectations(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))
