"""`trainer.compile`: torch.compile (Ansel et al. 2024) where it saves more time than it takes.

Modules are compiled in place, so the weights keep their names.
"""

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

from llm_from_scratch.data.prepare import is_first_rank
from llm_from_scratch.errors import first_line
from llm_from_scratch.model import GPT

log = logging.getLogger(__name__)

# device -> (FLOP/s without compiling, fraction of the training time that compiling saves, seconds
# that compiling takes). On an H200 compiling took 19 to 23 s for six layers; the fraction was 0.55,
# where kernel launches are most of an uncompiled step. On two CPU cores the fraction was 0.04 for
# GPT-2's shape and 0.15 to 0.22 for the modern family, and compiling took 36 to 66 s (docs/log.md).
PAYS = {"cuda": (1.5e14, 0.3, 25.0), "cpu": (1e11, 0.15, 45.0)}


def compile_model(
    model: GPT, setting: bool | str, *, device: torch.device, alone: bool, tokens: int
) -> tuple[bool, Callable[..., Tensor]]:
    """Compiles the model where `wanted` says so and torch.compile works on the device.

    Args:
        model: its whole loss is compiled, or with several processes each block in place: one whole
            graph would send no gradient before its backward pass has ended.
        setting: true, false, or auto (as in `wanted`).
        device: the device of the training.
        alone: whether this is the only process.
        tokens: tokens that this process trains on in the whole run.

    Returns:
        Whether the model was compiled, and the loss function to train with.
    """
    if not wanted(setting, device.type, model.num_parameters(), tokens):
        return False, model.loss
    reason = why_not(device)
    if reason:
        log.warning("trainer.compile: %s: the training goes on without", reason)
        return False, model.loss
    if is_first_rank():
        log.info("compiling: the first step takes a minute")
    if alone:
        return True, torch.compile(model.loss, dynamic=False)
    for block in model.blocks:
        block.compile(dynamic=False)
    return True, model.loss


def wanted(setting: bool | str, device: str, parameters: int, tokens: int) -> bool:
    """Returns whether to compile a model of `parameters` weights that trains on `tokens` tokens.

    The setting true or false decides; `auto` compiles where the saved time exceeds the compile
    time.
    """
    rate, share, cost = PAYS.get(device, (math.inf, 0.0, 0.0))
    seconds = 6 * parameters * tokens / rate  # 2 FLOPs a weight and token forward, 4 backward
    return seconds * share > cost if setting == "auto" else bool(setting)


def why_not(device: torch.device) -> str | None:
    """Returns why torch.compile fails on a device, or None where it compiles an addition."""
    if device.type == "mps":
        return "torch.compile is not ready for Apple GPUs"
    try:
        torch.compile(_one_more, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:  # each cause (no compiler, no Triton, an old GPU) has its own type
        return f"{type(error).__name__}: {first_line(error, 150)}"
    return None


def _one_more(x: Tensor) -> Tensor:
    return x + 1
