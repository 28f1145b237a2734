"""The distribution of the next token, before and after the settings of sampling.

Shapes: T positions, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.generation import filtered, penalized


@dataclass(frozen=True)
class Candidate:
    """A token with its probability `p` under the model and `q` after the settings."""

    id: int
    p: float
    q: float


@dataclass(frozen=True)
class NextToken:
    """The distribution of the next token.

    Attributes:
        top: the likeliest tokens under the model, in this order.
        rest_p, rest_q: the probability of all other tokens together.
        kept: tokens that may be drawn, those with q > 0.
        entropy: of the model's probabilities, in bits.
    """

    top: tuple[Candidate, ...]
    rest_p: float
    rest_q: float
    kept: int
    entropy: float


def sampling_distribution(logits: Tensor, ids: Sequence[int], config: SamplingConfig) -> Tensor:
    """Returns the probabilities (V,) with which `generation.sample` draws each token.

    Logits (V,) follow ids (T,), the text that the repetition penalty reads. Of temperature 0 one
    token has all the probability.
    """
    rows = penalized(logits[None], torch.tensor([list(ids)], device=logits.device), config)
    if config.temperature == 0:
        return F.one_hot(rows[0].argmax(), rows.shape[-1]).float()
    return filtered(rows, config)[0].softmax(dim=-1)


def next_token(logits: Tensor, ids: Sequence[int], config: SamplingConfig, top: int) -> NextToken:
    """Describes what follows ids (T,) by the model's logits (V,) there, and by the settings."""
    p = logits.double().softmax(dim=-1)
    q = sampling_distribution(logits, ids, config).double()
    best = p.topk(min(top, len(p)))
    others = torch.ones_like(p, dtype=torch.bool).index_fill(0, best.indices, False)
    chances = zip(best.indices.tolist(), best.values.tolist(), q[best.indices].tolist(), strict=True)
    return NextToken(
        tuple(Candidate(*one) for one in chances),
        float(p[others].sum()),
        float(q[others].sum()),
        int((q > 0).sum()),
        float(torch.special.entr(p).sum()) / math.log(2),
    )
