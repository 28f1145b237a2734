"""`trainer.compile`: torch.compile (Ansel et al. 2024) where it pays for itself within the run.

It is done in place, so that no weight changes its name.
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

# device -> (FLOP/s of plain training, share of the time that compiling saves, seconds of
# compiling). On an H200 the seconds were 19 to 23 for six layers; the share was 0.55, where
# launching kernels is most of a plain step. On two CPU cores the share was 0.04 for GPT-2's shape
# and 0.15 to 0.22 for the modern family, the seconds 36 to 66 (docs/log.md).
PAYS = {"cuda": (1.5e14, 0.3, 25.0), "cpu": (1e11, 0.15, 45.0)}


def compile_model(
    model: GPT, setting: bool | str, *, device: torch.device, alone: bool, tokens: int
) -> tuple[bool, Callable[..., Tensor]]:
    """Compiles as the setting says; returns whether it did, and the function of the loss.

    Args:
        model: its blocks are compiled in place where several processes share the work: a whole
            graph would keep all gradients back to the end of its backward pass, where they could
            have been sent on the way.
        setting: true, false, or auto: where the time saved in the run exceeds that of compiling.
        device: where it trains.
        alone: one process does all the work.
        tokens: that this process trains on in the whole run.
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
    """Whether to compile; `auto` does where the time saved exceeds that of compiling."""
    rate, share, cost = PAYS.get(device, (math.inf, 0.0, 0.0))
    seconds = 6 * parameters * tokens / rate  # 2 FLOPs a weight and token forward, 4 backward
    return seconds * share > cost if setting == "auto" else bool(setting)


def why_not(device: torch.device) -> str | None:
    """The reason why torch.compile fails on a device; None where it compiles an addition."""
    if device.type == "mps":
        return "torch.compile is not ready for Apple GPUs"
    try:
        torch.compile(_one_more, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:  # no compiler, no Triton, an old GPU, …: each raises another
        return f"{type(error).__name__}: {first_line(error, 150)}"
    return None


def _one_more(x: Tensor) -> Tensor:
    return x + 1
