"""Neighbours of a token's embedding: the tokens whose vectors point the same way.

Shapes: C channels (n_embd), N tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from llm_from_scratch.model import GPT


@torch.inference_mode()
def neighbours(model: GPT, tokens: Sequence[int], count: int) -> list[list[tuple[int, float]]]:
    """Returns the tokens of largest cosine with each token's embedding, itself left out.

    The cosine of two vectors (C,) is 1 where they point the same way, and about 0 where they have
    nothing in common. Each neighbour comes with its cosine, the nearest first.
    """
    vectors = F.normalize(model.token_embedding.weight.float(), dim=-1)  # (V, C)
    cosines = vectors[list(tokens)] @ vectors.T  # (N, V)
    cosines[torch.arange(len(tokens)), list(tokens)] = -torch.inf
    best = cosines.topk(min(count, len(vectors) - 1))
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [list(zip(ids, values, strict=True)) for ids, values in rows]
