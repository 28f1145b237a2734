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
from llm_from_scratch.training.finetuning import layer_numbers
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


def make_optimizer(model: GPT, config: OptimConfig, *, fused: bool, layer_decay: float | None = None) -> Optimizer:
    """Builds the optimizer that `optim.name` names, with weight decay on matrices only.

    For `muon`, Muon updates the matrices within blocks; AdamW updates embeddings, head, norms and
    biases. For `custom`, the user's class gets the parameter groups of AdamW. Frozen weights are in
    no group.

    Args:
        model: the model.
        config: the settings of the optimizer.
        fused: whether AdamW runs as one kernel.
        layer_decay: the learning rate of a layer over that of the next one (Howard & Ruder 2018);
            None: one for all. `optim.lr` is that of the last trained layer.

    Raises:
        UserError: when the user's class does not take its arguments.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    betas = (config.beta1, config.beta2)
    muon = config.name == "muon"
    own = {name for name, p in named if muon and name.startswith("blocks.") and p.dim() == 2}
    lr = (config.adamw_lr or config.lr) if muon else config.lr
    matrices: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    for factor, layer in _layers(model, named, layer_decay):
        mine = [(name, p) for name, p in layer if name in own]
        heights = [_rows(model, name, p) for name, p in mine]
        matrices.append({"params": [p for _, p in mine], "rows": heights, "kind": "muon", "lr": config.lr * factor})
        rest = [p for name, p in layer if name not in own]
        scaled = {"kind": "adamw", "lr": lr * factor} if muon else {} if factor == 1 else {"lr": lr * factor}
        groups += [
            {"params": [p for p in rest if p.dim() >= 2], "weight_decay": config.weight_decay} | scaled,
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0} | scaled,
        ]
    groups = [group for group in [*matrices, *groups] if group["params"]]
    if config.name == "adamw":
        return AdamW(groups, lr=config.lr, betas=betas, fused=fused)
    if config.name == "custom":
        return _make_custom(groups, config)
    return Muon(
        groups,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        betas=betas,
        fused=fused,
    )


def _layers(
    model: GPT, named: list[tuple[str, Parameter]], layer_decay: float | None
) -> list[tuple[float, list[tuple[str, Parameter]]]]:
    """Returns (factor of the learning rate, named parameters) of each layer, the last one first.

    `layer_decay` None: all parameters, with the factor 1.
    """
    if layer_decay is None:
        return [(1.0, named)]
    numbers = layer_numbers(model)
    layers: dict[int, list[tuple[str, Parameter]]] = {number: [] for number in sorted(set(numbers.values()))}
    for name, parameter in named:
        layers[numbers[name]].append((name, parameter))
    return [(layer_decay**number, layer) for number, layer in layers.items() if layer]


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

    A fused weight holds queries, keys and values, or SwiGLU's gate and value; B of its adapter has
    rows for each.
    """
    if name.endswith(("attention.qkv.weight", "attention.qkv.lora_B")):
        size = model.config.head_dim
        return [model.config.n_head * size, model.config.kv_heads * size, model.config.kv_heads * size]
    if name.endswith(("feed_forward.up.weight", "feed_forward.up.lora_B")) and model.config.activation == "swiglu":
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
