"""Optimizers and learning-rate schedules: plain functions of the parameters and of the step."""

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from llm_from_scratch.config import OptimConfig


def warmup_cosine(step: int, *, warmup_steps: int, max_steps: int, min_ratio: float) -> float:
    """The learning rate of optimizer step `step` (from 0), as a share of its peak.

    Linear from 1 / warmup_steps to 1 over the warm-up (the first step must move too), then half a cosine down to `min_ratio`
    at the last step (Loshchilov & Hutter 2017).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - 1 - warmup_steps))
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def adamw(parameters: Iterable[Parameter], config: OptimConfig, *, fused: bool) -> Optimizer:
    """AdamW with weight decay on matrices alone; `fused` does the whole update in one kernel."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=fused)


def seed_step(seed: int, step: int, micro: int, rank: int) -> None:
    """Seeds dropout as a function of where the run stands, so that there is no random state to save (splitmix64's mixing)."""
    mixed = seed
    for part in (step, micro, rank):
        mixed = (mixed + 0x9E3779B97F4A7C15 * (part + 1)) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    torch.manual_seed(mixed)
