"""A GPT of two layers whose weights are set by hand, so that it copies (Elhage et al. 2021).

The residual stream has three parts: the token (V), the position (T) and the token before it (V).
Head 1 of layer 1 attends to the previous position and writes its token into the third part; head 1
of layer 2 attends to places whose third part is the present token, and adds their token to the
first part, which the head of the model reads.
"""

from typing import Any

import torch

from llm_from_scratch.model import GPT, GPTConfig

V, T = 40, 102


def induction_model(*, previous: bool = True) -> GPT:
    """The model; without `previous` the head of layer 1 writes nothing, and layer 2 finds nothing."""
    config = GPTConfig(
        vocab_size=V, block_size=T, n_layer=2, n_head=1, n_embd=2 * V + T, head_size=T, position="learned",
        norm="rmsnorm", norm_position="pre", activation="relu", qk_norm=False, bias=False, tie_weights=False,
        n_inner=2,
    )  # fmt: skip
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.dim() == 1 else 0.0)
        tokens, places, before = torch.arange(V), V + torch.arange(T), V + T + torch.arange(V)
        model.token_embedding.weight[tokens, tokens] = 1
        model.position_embedding.weight[torch.arange(T), places] = 1
        blocks: list[Any] = list(model.blocks)
        first, second = (block.attention for block in blocks)
        # The query of position t is the key of position t - 1
        first.qkv.weight[torch.arange(T - 1), places[1:]] = 3
        first.qkv.weight[T + torch.arange(T - 1), places[:-1]] = 1
        first.qkv.weight[2 * T + tokens, tokens] = 0.1
        first.out.weight[before, tokens] = float(previous)
        # The query is the token, the key the token before
        second.qkv.weight[tokens, tokens] = 3
        second.qkv.weight[T + tokens, before] = 1
        second.qkv.weight[2 * T + tokens, tokens] = 1
        second.out.weight[tokens, tokens] = 1
        assert model.head is not None
        model.head.weight[tokens, tokens] = 1
    return model.eval()
