"""Figure of chapter 8: the gradient of the first block against the size of the initial weights.

python docs/course/figures/08_gradients.py
"""

import math

import torch
from small import gradients, of_kind
from style import COLOURS, GREY, LINES, MARKERS, new, save

DEPTHS = (2, 8, 24)
SIZES = (0.01, 0.03, 0.1, 32**-0.5, 0.3, 0.6, 1.0)  # init_std; 32 ** -0.5 is the package's choice
KINDS = ("no norms", "post-norm", "pre-norm, smaller writers")


def against_size() -> None:
    """Draws the gradient of the first block against init_std, for three depths and kinds."""
    figure, axes = new(1, 3, width=8.2, height=3.6, sharey=True)
    for place, kind in zip(axes, KINDS, strict=True):
        for number, depth in enumerate(DEPTHS):
            norms = [gradients(of_kind(kind, depth, init_std=std))[0] for std in SIZES]
            print(kind, depth, [f"{one:.2g}" for one in norms])
            drawn = [(std, one) for std, one in zip(SIZES, norms, strict=True) if math.isfinite(one)]
            place.plot(
                *zip(*drawn, strict=True),
                color=COLOURS[number],
                marker=MARKERS[number],
                linestyle=LINES[number],
                label=f"{depth} blocks",
            )
        place.axvline(32**-0.5, color=GREY, linewidth=1, linestyle=":")
        place.set(xscale="log", yscale="log", title=kind, xlabel="init_std")
        place.set_ylim(1e-6, 1e12)
    axes[0].set_ylabel("gradient of the first block (norm)")
    axes[0].legend()
    save(figure, "08_size")


if __name__ == "__main__":
    torch.set_num_threads(1)
    against_size()
