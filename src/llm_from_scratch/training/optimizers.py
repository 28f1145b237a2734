"""Optimizers and learning-rate schedules: functions of the parameters and of the step."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from llm_from_scratch.config import OptimConfig
from llm_from_scratch.errors import UserError, first_line
from llm_from_scratch.kernels import splitmix
from llm_from_scratch.model import GPT
from llm_from_scratch.training.muon import Muon
from llm_from_scratch.training.objects import object_class


def lr_factor(step: float, config: OptimConfig, max_steps: float) -> float:
    """Returns the learning rate at optimizer step `step` (0-based) as a factor of its peak.

    `step` and `max_steps` count full batches; a smaller batch counts as a fraction.

    The warm-up is linear from 1 / warmup_steps to 1, so the first step moves too. Then `cosine`:
    half a cosine down to `min_lr_ratio` at the last step (Loshchilov & Hutter 2017); `linear`: a
    straight line to the same value; `wsd`: the peak, and a straight line over the last
    `decay_fraction` of the steps (Hu et al. 2024); `constant`: the peak; `plateau`: the peak, which
    `EarlyStopping` lowers.
    """
    if step < config.warmup_steps:
        return min(1.0, (step + 1) / config.warmup_steps)
    if config.schedule in ("constant", "plateau"):
        return 1.0
    last, start = max_steps - 1, float(config.warmup_steps)
    if config.schedule == "wsd":
        start = max(start, last - round(config.decay_fraction * max_steps))
    progress = min(1.0, max(0, step - start) / max(1, last - start))
    left = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * left


def make_optimizer(model: GPT, config: OptimConfig, *, fused: bool) -> Optimizer:
    """Builds the optimizer that `optim.name` names, with weight decay on matrices only.

    For `muon`, Muon updates the matrices within blocks; AdamW updates embeddings, head, norms and
    biases. For `custom`, the user's class gets the parameter groups of AdamW.

    Args:
        model: the model.
        config: the settings of the optimizer.
        fused: whether AdamW runs as one kernel.

    Raises:
        UserError: when the user's class does not take its arguments.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    betas = (config.beta1, config.beta2)
    inner = [(name, p) for name, p in named if config.name == "muon" and name.startswith("blocks.") and p.dim() == 2]
    own = {name for name, _ in inner}
    rest = [p for name, p in named if name not in own]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return AdamW(groups, lr=config.lr, betas=betas, fused=fused)
    if config.name == "custom":
        return _make_custom(groups, config)
    groups = [group | {"kind": "adamw", "lr": config.adamw_lr or config.lr} for group in groups]
    matrices = {"params": [p for _, p in inner], "rows": [_rows(model, name, p) for name, p in inner], "kind": "muon"}
    return Muon(
        [matrices, *groups],
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        betas=betas,
        fused=fused,
    )


def _make_custom(groups: list[dict[str, Any]], config: OptimConfig) -> Optimizer:
    made = object_class("optim", "custom", config.custom)
    arguments = {name: value for name, value in config.custom.items() if name != "_target_"}
    try:
        optimizer: Optimizer = made(groups, lr=config.lr, **arguments)
    except Exception as error:  # a user's class can raise any error
        raise UserError(f"optim.custom: {first_line(error)}") from None
    return optimizer


def _rows(model: GPT, name: str, matrix: Parameter) -> list[int]:
    """Returns the heights of the matrices that are stacked in one weight.

    A fused weight holds queries, keys and values, or SwiGLU's gate and value.
    """
    if name.endswith("attention.qkv.weight"):
        size = model.config.head_dim
        return [model.config.n_head * size, model.config.kv_heads * size, model.config.kv_heads * size]
    if name.endswith("feed_forward.up.weight") and model.config.activation == "swiglu":
        return [len(matrix) // 2] * 2
    return [len(matrix)]


def row_keys(seed: int, step: int, first: int, count: int, device: torch.device) -> Tensor:
    """Returns a dropout key for each of `count` sequences of a step's batch: (count,) int64.

    `first` is the 0-based place of the first one in the whole batch over all ranks. A key is a
    function of seed, step and place: there is no random state to save, and the micro-batches change
    no dropout mask.
    """
    start = _mixed(seed, step)
    # Made on the device, which needs no copy and no wait
    rows = torch.arange(first, first + count, device=device)
    return splitmix(start if start < 2**63 else start - 2**64, rows)


def seed_step(seed: int, step: int, micro: int, rank: int) -> None:
    """Seeds torch's generators with (seed, step, micro-batch, rank), for kernels that use them."""
    torch.manual_seed(_mixed(seed, step, micro, rank))


def _mixed(start: int, *parts: int) -> int:
    """Returns a 64-bit hash of several integers, mixed as in splitmix64."""
    for part in parts:
        start = (start + 0x9E3779B97F4A7C15 * (part + 1)) % 2**64
        start = (start ^ (start >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        start = (start ^ (start >> 27)) * 0x94D049BB133111EB % 2**64
        start ^= start >> 31
    return start
