"""Figures of chapter 4: sinusoids, and rotary positions."""

import math

import torch
from style import BLUE, COLOURS, DIVERGING, LINES, ORANGE, new, save

from llm_from_scratch.model import rotary_tables, rotate, sinusoids


def sinusoid_table() -> None:
    """Draws the table, and how alike positions are."""
    table = sinusoids(64, 32)
    figure, (heat, dots) = new(1, 2, width=8.2, height=3.6)
    drawn = heat.imshow(table, cmap=DIVERGING, aspect="auto", vmin=-1, vmax=1, interpolation="nearest")
    heat.grid(visible=False)
    heat.set(xlabel="channel", ylabel="position", title="The table: fast channels left, slow ones right")
    figure.colorbar(drawn, ax=heat, label="value")
    for position, colour, line in zip((16, 32, 48), COLOURS, LINES, strict=False):
        dots.plot(table @ table[position], line, color=colour, label=f"position {position}")
    dots.set(xlabel="other position", ylabel="dot product", title="How alike two positions are", ylim=(5, 21))
    dots.legend(loc="upper center", ncols=1)
    save(figure, "04_positions")


def rotations() -> None:
    """Draws two pairs of channels at some positions, and the score of a vector with itself turned."""
    figure, (circle, scores) = new(1, 2, width=8.2, height=3.7)
    size, length = 32, 64
    cos, sin = rotary_tables(length, size, 10_000.0)
    for pair, radius, colour, name in ((0, 1.0, BLUE, "fastest pair"), (4, 0.55, ORANGE, "fifth pair (drawn shorter)")):
        vector = torch.zeros(length, size)
        vector[:, pair] = radius
        turned = rotate(vector.view(1, length, 1, size), cos, sin)[0, :, 0]
        for position in range(6):
            x, y = turned[position, pair].item(), turned[position, pair + size // 2].item()
            circle.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.8})
            if pair == 0 or position in (0, 5):  # others would overlap
                circle.text(1.18 * x, 1.18 * y, str(position), color=colour, ha="center", va="center")
        circle.plot([], [], color=colour, label=name)
    circle.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.75), aspect="equal", xlabel="first channel of the pair")
    circle.set(ylabel="second channel of the pair", title="One vector at positions 0 to 5")
    circle.legend(loc="upper left", fontsize=8)
    one = torch.ones(length, size) / math.sqrt(size)
    turned = rotate(one.view(1, length, 1, size), cos, sin)[0, :, 0]
    for position, colour, line, width in ((0, BLUE, "-", 3.2), (10, ORANGE, "--", 1.8)):
        scores.plot(
            turned[position:] @ turned[position], line, color=colour, lw=width, label=f"from position {position}"
        )
    scores.set(xlabel="distance (positions)", ylabel="dot product", title="The same vector, some positions apart")
    scores.legend()
    save(figure, "04_rotary")


sinusoid_table()
rotations()
