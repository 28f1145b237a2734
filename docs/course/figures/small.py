"""Small models on told stories, for the figures that measure a training.

Characters rather than pairs of bytes keep the models small: 62 of them. A batch is 8 chunks of 32
characters, a function of the step alone, so that trainings differ by what a figure compares.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm_from_scratch import GPT, GPTConfig, RandomChunkSampler, tales, train_tokenizer
from llm_from_scratch.config import OptimConfig
from llm_from_scratch.training.optimizers import lr_factor

BLOCK_SIZE, BATCH_SIZE = 32, 8


@cache
def told() -> tuple[int, RandomChunkSampler, RandomChunkSampler]:
    """Returns the size of the vocabulary, and the samplers of 500 stories and of 50 held-out ones."""
    texts = [list(tales.stories(seed=0, start=0, count=n, level=1, split=s)) for s, n in (("train", 500), ("val", 50))]
    tokenizer = train_tokenizer("char", [text for split in texts for text in split])
    ids = [np.array([i for text in split for i in [tokenizer.eot_id, *tokenizer.encode(text)]]) for split in texts]
    samplers = [
        RandomChunkSampler([one], block_size=BLOCK_SIZE, batch_size=size, seed=1)
        for one, size in zip(ids, (BATCH_SIZE, 64), strict=True)
    ]
    return tokenizer.vocab_size, samplers[0], samplers[1]


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Returns inputs and targets of a step, (B, T) each."""
    x, y = told()[1].batch(step)
    return torch.from_numpy(x), torch.from_numpy(y)


@torch.no_grad()
def held_out_loss(model: GPT) -> float:
    """Returns the loss on 64 chunks of held-out stories, nats a character."""
    x, y = told()[2].batch(0)
    return model.eval().loss(torch.from_numpy(x), torch.from_numpy(y)).item()


def build(seed: int = 0, **settings: Any) -> GPT:
    """Builds a GPT of 32 channels and 2 heads with fresh weights; `settings` are those of `model`."""
    torch.manual_seed(seed)
    return GPT(GPTConfig(vocab_size=told()[0], block_size=BLOCK_SIZE, **{"n_embd": 32, "n_head": 2} | settings))


def of_kind(kind: str, depth: int, **settings: Any) -> GPT:
    """Builds a GPT whose norms are before or after each part, or left out.

    `kind`: no norms | post-norm | pre-norm, and ", smaller writers" for the package's factor
    1/sqrt(2 depth) on the two matrices of each block that write into the residual stream.
    """
    norms, _, writers = kind.partition(", ")
    position = "post" if norms == "post-norm" else "pre"
    made = build(n_layer=depth, norm_position=position, tie_weights=False, qk_norm=False, **settings)
    for block in made.blocks:
        if not writers:
            for layer in (block.attention.out, block.feed_forward.out):
                layer.weight.data *= math.sqrt(2 * depth)
        if norms == "no norms":
            block.attention_norm, block.feed_forward_norm = nn.Identity(), nn.Identity()
    if norms == "no norms":
        made.norm = nn.Identity()
    return made


def gradients(model: GPT) -> list[float]:
    """Returns the norm of the gradient of each block's `attention.qkv`, for one batch."""
    model.loss(*batch(0)).backward()
    return [block.attention.qkv.weight.grad.double().norm().item() for block in model.blocks]


def train(
    model: GPT,
    optimizer: torch.optim.Optimizer,
    optim: OptimConfig,
    steps: int,
    clip: float = 1.0,
    watch: Callable[[int, float], None] = lambda step, norm: None,
) -> list[float]:
    """Trains a model; returns the loss of each step, nats a character.

    `watch` is told the step and the norm of the gradients before clipping.
    """
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * lr_factor(step, optim, steps)
        loss = model.loss(*batch(step))
        optimizer.zero_grad()
        loss.backward()
        watch(step, torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item())
        optimizer.step()
        losses.append(loss.item())
    return losses
