"""Attention weights of a model: how much of each earlier position a head reads.

The queries and keys are those that the model's own forward pass hands to the attention kernel:
after the norm of queries and keys and after the rotation, where the model has them.

Shapes: T positions, H query heads, G key/value heads, D head size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from llm_from_scratch.model import GPT


@dataclass(frozen=True)
class Layer:
    """Queries (H, T, D) and keys (G, T, D) of one layer.

    `mask` (T, T) is True where attention is allowed beside being causal; None: everywhere.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return self.queries.nbytes + self.keys.nbytes


class Recorder(TorchFunctionMode):
    """Keeps the arguments of every call of the attention kernel in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Layer] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            queries, keys, mask = args[0], args[1], kwargs.get("attn_mask")
            self.layers.append(Layer(queries[0], keys[0], None if mask is None else mask[0, 0]))
        return func(*args, **kwargs)


@torch.inference_mode()
def read_layers(model: GPT, ids: Sequence[int]) -> list[Layer]:
    """Reads ids (T,) once and returns each layer's queries and keys.

    The model is in evaluation mode. Other threads may use it at the same time.

    Raises:
        UserError: when there are more ids than the model has positions.
    """
    given = torch.tensor([list(ids)], device=model.token_embedding.weight.device)
    with Recorder() as recorder:
        model.hidden_states(given)
    return recorder.layers


@torch.inference_mode()
def weights(layer: Layer, head: int | None) -> Tensor:
    """Returns the weights (T, T) of one head, or their mean over all heads for None."""
    if head is None:
        return patterns(layer).mean(dim=0)
    group = len(layer.queries) // len(layer.keys)
    return patterns(replace(layer, queries=layer.queries[head, None], keys=layer.keys[head // group, None]))[0]


@torch.inference_mode()
def patterns(layer: Layer) -> Tensor:
    """Returns the weights (H, T, T) of all heads.

    softmax(Q K^T / sqrt(D)), causal: row t is the distribution over the positions up to t.
    """
    group = len(layer.queries) // len(layer.keys)  # query heads that share a key head
    keys = layer.keys.repeat_interleave(group, dim=0)
    scores = layer.queries.float() @ keys.float().transpose(1, 2) / math.sqrt(layer.queries.shape[-1])  # (H, T, T)
    allowed = torch.ones_like(scores[0], dtype=torch.bool).tril()
    if layer.mask is not None:
        allowed = allowed & layer.mask
    return scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)
