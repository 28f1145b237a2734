"""The numbers that the page shows, computed anew from the model by plain formulas in float64."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from llm_from_scratch.weights import LoadedModel

Array = np.ndarray


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def logits_after(loaded: LoadedModel, ids: Sequence[int]) -> Array:
    """The logits (T, V) at each of ids (T,)."""
    with torch.no_grad():
        return loaded.model(torch.tensor([list(ids)]))[0].double().numpy()


def logprobs(loaded: LoadedModel, ids: Sequence[int]) -> Array:
    """ln p (T, V) of every token, at each of ids (T,)."""
    return np.log(softmax(logits_after(loaded, ids)))


def drawn(logits: Array, ids: Sequence[int], settings: Mapping[str, Any]) -> Array:
    """The probabilities (V,) with which a token is drawn after ids, from the model's logits (V,)."""
    logits = logits.copy()
    for token in {*ids}:
        penalty = settings.get("repetition_penalty", 1.0)
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    temperature = settings.get("temperature", 1.0)
    if temperature == 0:
        return (np.arange(len(logits)) == logits.argmax()).astype(float)
    logits = logits / temperature
    if (k := settings.get("top_k")) is not None:
        logits[logits < np.sort(logits)[-k]] = -math.inf
    if (wanted := settings.get("top_p")) is not None:
        p, order = softmax(logits), np.argsort(-logits)
        fewest = 1 + int(np.argmax(np.cumsum(p[order]) >= wanted))
        logits[order[fewest:]] = -math.inf
    if (share := settings.get("min_p")) is not None:
        p = softmax(logits)
        logits[p < share * p.max()] = -math.inf
    return softmax(logits)


def attention(loaded: LoadedModel, ids: Sequence[int], layer: int) -> Array:
    """The weights (H, T, T) of a layer's heads: softmax(Q K^T / sqrt(D)) of rotary heads whose
    queries and keys are normalised, each with a head of keys of its own.
    """
    model, inputs = loaded.model, []
    part = model.blocks[layer].attention
    hook = part.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    with torch.no_grad():
        model(torch.tensor([list(ids)]))
        hook.remove()
        heads, size = model.config.n_head, model.config.head_dim
        q, k, _ = part.qkv(inputs[0])[0].view(len(ids), 3 * heads, size).split(heads, dim=1)
        q, k = part.q_norm(q).double().numpy(), part.k_norm(k).double().numpy()  # (T, H, D)
    half = size // 2
    angle = np.arange(len(ids))[:, None, None] / model.config.rope_base ** (np.arange(half) / half)

    def rotated(x: Array) -> Array:
        turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
        return np.concatenate((turned.real, turned.imag), axis=-1)

    scores = np.einsum("thd,shd->hts", rotated(q), rotated(k)) / math.sqrt(size)
    scores[:, np.triu(np.ones(scores.shape[1:], dtype=bool), 1)] = -math.inf
    return softmax(scores)
