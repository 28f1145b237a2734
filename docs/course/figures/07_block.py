"""Figures of chapter 7: gradients by block at the start, and trainings with and without warm-up.

python docs/course/figures/07_block.py
"""

import numpy as np
import torch
from small import gradients, of_kind, train
from style import COLOURS, GREY, LINES, MARKERS, new, save

from llm_from_scratch.config import OptimConfig
from llm_from_scratch.training.optimizers import make_optimizer

KINDS = ("post-norm", "post-norm, smaller writers", "pre-norm", "pre-norm, smaller writers")
DEEP, DEPTH = 24, 6  # blocks of the two figures
LR, STEPS, WARMUP = 1e-2, 200, 100
SMOOTHED = 10  # steps
OF_2017 = {"norm": "layernorm", "activation": "relu"}


def by_block() -> None:
    """Draws the gradient of each block of four fresh models."""
    figure, axes = new(width=7, height=3.8)
    for number, kind in enumerate(KINDS):
        norms = gradients(of_kind(kind, DEEP))
        print(kind, [f"{one:.2g}" for one in norms])
        axes.plot(
            range(1, DEEP + 1),
            norms,
            color=COLOURS[number],
            marker=MARKERS[number],
            markersize=4,
            linestyle=LINES[number],
            label=kind,
        )
    axes.set(yscale="log", xlabel="block, from the tokens to the loss", ylabel="gradient of qkv (norm)")
    axes.legend(fontsize=9)
    save(figure, "07_gradients")


def with_warmup() -> None:
    """Draws the loss of four trainings: post-norm and pre-norm, with and without warm-up."""
    figure, axes = new(1, 2, width=7.6, height=3.5, sharey=True)
    for place, kind in zip(axes, ("post-norm", "pre-norm"), strict=True):
        for number, warmup in enumerate((0, WARMUP)):
            model = of_kind(kind, DEPTH, **OF_2017)
            optim = OptimConfig(lr=LR, warmup_steps=warmup, schedule="constant", weight_decay=0.0)
            losses = train(model, make_optimizer(model, optim, fused=True), optim, STEPS)
            smooth = np.convolve(losses, np.ones(SMOOTHED) / SMOOTHED, mode="valid")
            print(kind, warmup, f"{np.mean(losses[-20:]):.3f}")
            place.plot(
                np.arange(SMOOTHED - 1, STEPS) + 1,
                smooth,
                color=COLOURS[number],
                linestyle=LINES[number],
                label=f"warm-up of {warmup} steps" if warmup else "no warm-up",
            )
        place.axvline(WARMUP, color=GREY, linewidth=1, linestyle=":")
        place.set(title=kind, xlabel="step")
    axes[0].set_ylabel("loss (nats a character)")
    axes[1].legend()
    save(figure, "07_warmup")


if __name__ == "__main__":
    torch.set_num_threads(1)
    by_block()
    with_warmup()
