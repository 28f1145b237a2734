"""Seconds of a training step, measured with the run's model on random ids."""

import math
import time
from dataclasses import dataclass

import torch

from llm_from_scratch.config import Config
from llm_from_scratch.machine import has_mps
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.training.finetuning import choose_trained
from llm_from_scratch.training.memory import (
    on_gpu,
)
from llm_from_scratch.training.optimizers import make_optimizer
from llm_from_scratch.training.trainer import precision

SECONDS = 4.0  # duration of a measurement


@dataclass(frozen=True)
class Measured:
    """Times of training steps of the real model on this machine's device, without torch.compile."""

    device: str
    precision: str
    sequences: int  # size of the measured micro-batch
    seconds_a_sequence: float  # forward and backward
    seconds_an_update: float  # gradient clipping and optimizer step
    peak_bytes: int | None  # of a CUDA GPU's memory; None on other devices


def measure(config: Config, shape: GPTConfig, micro: int, seconds: float = SECONDS) -> Measured:
    """Times a few training steps on random ids, in about `seconds` seconds.

    The micro-batch doubles from 1 sequence up to `micro`, or until one takes an eighth of
    `seconds`.
    """
    settings, name = config.trainer, precision(config.trainer, shape.n_embd)
    device = torch.device("cpu")
    if on_gpu(settings):
        device = torch.device("cuda")
    elif settings.accelerator in ("auto", "mps") and has_mps():
        device = torch.device("mps")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision("high")
    kind, _, mode = name.partition("-")
    dtype = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}.get(kind, torch.float32)
    model = GPT(shape, recompute=settings.activation_checkpointing)
    choose_trained(model, config.finetune)
    model = model.to(device, dtype if mode == "true" else torch.float32).train()
    optimizer = make_optimizer(model, config.optim, fused=True)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def now() -> float:
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        return time.perf_counter()

    def forward_backward(sequences: int) -> float:
        ids = torch.randint(shape.vocab_size, (sequences, shape.block_size + 1), device=device)
        start = now()
        with torch.autocast(device.type, dtype, enabled=mode == "mixed"):
            loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        return now() - start

    def update() -> float:
        start = now()
        torch.nn.utils.clip_grad_norm_(weights, settings.gradient_clip_val or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        return now() - start

    forward_backward(1)
    update()  # allocates the moments
    sequences, until = 1, time.perf_counter() + seconds
    while sequences < micro and forward_backward(sequences) < seconds / 8:
        sequences = min(2 * sequences, micro)
    forward_backward(sequences)
    updates, steps = [update()], [forward_backward(sequences)]
    while len(steps) < 20 and time.perf_counter() + steps[-1] + updates[-1] < until:
        updates.append(update())
        steps.append(forward_backward(sequences))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return Measured(device.type, name, sequences, _median(steps) / sequences, _median(updates), peak)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
