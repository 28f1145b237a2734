"""Figures of chapter 10: the loss against the learning rate for four optimisers; five schedules.

python docs/course/figures/10_optimisers.py
"""

import torch
from small import build, held_out_loss, train
from style import COLOURS, GREY, LINES, MARKERS, new, save
from torch.optim import SGD, Optimizer

from llm_from_scratch import GPT
from llm_from_scratch.config import OptimConfig
from llm_from_scratch.training.optimizers import lr_factor, make_optimizer

STEPS = 120
RATES = {
    "SGD": (0.03, 0.1, 0.3, 1.0, 3.0),
    "SGD with momentum": (0.01, 0.03, 0.1, 0.3, 1.0),
    "AdamW": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "Muon": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
}
SCHEDULES = ("constant", "cosine", "linear", "wsd")


def optimizer_of(kind: str, model: GPT, optim: OptimConfig) -> Optimizer:
    """Builds one of the four optimisers."""
    if kind.startswith("SGD"):
        return SGD(model.parameters(), lr=optim.lr, momentum=0.9 if "momentum" in kind else 0.0)
    return make_optimizer(model, optim, fused=True)


def learning_rates() -> None:
    """Draws the held-out loss after the same steps against the peak learning rate."""
    figure, axes = new(width=7, height=4.0)
    for number, (kind, rates) in enumerate(RATES.items()):
        losses = []
        for lr in rates:
            name = "muon" if kind == "Muon" else "adamw"
            optim = OptimConfig(name=name, lr=lr, warmup_steps=10, min_lr_ratio=0.0, weight_decay=0.0)
            model = build(n_layer=2)
            train(model, optimizer_of(kind, model, optim), optim, STEPS)
            losses.append(held_out_loss(model))
        print(kind, dict(zip(rates, (round(loss, 3) for loss in losses), strict=True)), flush=True)
        axes.plot(rates, losses, color=COLOURS[number], marker=MARKERS[number], linestyle=LINES[number], label=kind)
    axes.set(
        xscale="log",
        xlabel="learning rate at its peak",
        ylabel=f"held-out loss after {STEPS} steps\n(nats a character)",
    )
    axes.legend()
    save(figure, "10_rates")


def schedules() -> None:
    """Draws the schedules of the package, as shares of the peak."""
    steps = 1000
    figure, axes = new(width=7, height=3.2)
    for number, schedule in enumerate(SCHEDULES):
        optim = OptimConfig(schedule=schedule, warmup_steps=100, min_lr_ratio=0.1)
        factors = [lr_factor(step, optim, steps) for step in range(steps)]
        axes.plot(factors, color=COLOURS[number], linestyle=LINES[number], label=schedule)
    axes.axvline(100, color=GREY, linewidth=1, linestyle=":")
    axes.text(106, 0.02, "end of the warm-up", color=GREY, fontsize=9)
    axes.set(xlabel="step", ylabel="learning rate / its peak", ylim=(0, 1.05))
    axes.legend(loc="lower left", bbox_to_anchor=(0.13, 0.1))
    save(figure, "10_schedules")


if __name__ == "__main__":
    torch.set_num_threads(1)
    schedules()
    learning_rates()
