"""Figures of an `Explanation`, in Okabe and Ito's colours (2008), for a light and a dark page."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from llm_from_scratch.explain.explanation import Explanation
from llm_from_scratch.pages import Picture
from llm_from_scratch.plots import DPI, Theme, drawn, save

PATTERN, GRID, BARS = 40, 14, 64  # tokens of the weights of a head, of the lens, of the surprise
READINGS = 16  # rows of the lens
LABEL = 12  # characters of a token beside an axis


@dataclass(frozen=True)
class Palette(Theme):
    """Colours of one theme; `heat` is that of the largest value of a map, from `back` on."""

    heat: tuple[str, str]
    blue: str
    orange: str
    green: str


LIGHT = Palette("", "#ffffff", "#222222", "#c8c8c8", ("#56b4e9", "#00395c"), "#0072b2", "#d55e00", "#009e73")
DARK = Palette("_dark", "#16181c", "#dddddd", "#4a4e55", ("#0072b2", "#cbeaff"), "#56b4e9", "#e69f00", "#2fc79c")
NAMES = {
    "previous": "previous token",
    "first": "first token",
    "itself": "itself",
    "same": "same token before",
    "induction": "induction",
}
Drawing = Callable[[Explanation, Palette], Figure | None]


# ---------------------------------------------------------------------------------------- the files
def draw(found: Explanation, folder: Path, captions: Mapping[str, str]) -> dict[str, Picture]:
    """Writes all figures as PNG files into a folder, each for a light and for a dark page.

    Args:
        found: the explanation.
        folder: where the files go.
        captions: of each figure.

    Returns:
        name -> picture; `layer_N` is of the heads of layer N.
    """
    drawings = {**DRAWINGS, **{f"layer_{n + 1:02d}": _layer(n) for n in range(len(found.trace.layers))}}
    pictures = {}
    for name, drawing in drawings.items():
        for palette in (LIGHT, DARK):
            image = picture(found, drawing, palette)
            if image is not None:
                save(image, folder / f"{name}{palette.suffix}.png", colours=256)
                pictures[name] = Picture(f"{name}.png", captions[name], dark=f"{name}{DARK.suffix}.png")
    return pictures


def picture(found: Explanation, drawing: Drawing, palette: Palette = LIGHT, dpi: int = DPI) -> Image.Image | None:
    """Draws one figure; None where it has nothing to show."""
    with palette.used():
        figure = drawing(found, palette)
        return drawn(figure, dpi) if figure else None


# ------------------------------------------------------------------------------------------- labels
@cache
def _font() -> FT2Font:
    return FT2Font(font_manager.findfont("DejaVu Sans"))


def label(text: str, most: int = LABEL) -> str:
    """Returns a token as a figure shows it: a box for each character that the font lacks."""
    drawn = "".join(one if _font().get_char_index(ord(one)) else "▯" for one in text)
    return drawn if len(drawn) <= most else drawn[: most - 1] + "…"


def _ticks(axes: Axes, axis: Literal["x", "y"], labels: list[str], size: float = 7.5) -> None:
    """Labels an axis with tokens, whose dollars are no mathematics."""
    which = axes.xaxis if axis == "x" else axes.yaxis
    which.set_ticks(range(len(labels)), labels, fontsize=size, rotation=90 if axis == "x" else 0)
    for one in which.get_ticklabels():
        one.set_parse_math(False)
    axes.tick_params(axis=axis, length=0)


def _map(palette: Palette) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("heat", [palette.back, *palette.heat])


def _lightness(colour: Any) -> float:
    return float(np.dot(colour[:3], (0.2126, 0.7152, 0.0722)))


# ------------------------------------------------------------------------------------------ figures
def _flow(found: Explanation, palette: Palette) -> Figure:
    """Draws the standard deviation of the residual stream, and of what each layer adds to it."""
    stream = found.trace.residual.cpu().double()
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    layers = len(stream) - 1
    places = range(layers + 1)
    deviations = stream.std(dim=(1, 2), correction=0).tolist()
    axes.plot(places, deviations, "o-", color=palette.blue, label="residual stream after the layer", markersize=4)
    for tensor, name, style, colour in (
        ("attention output", "attention output", "s--", palette.orange),
        ("feed-forward out", "feed-forward output", "^:", palette.green),
    ):
        values = [stage.deviation or 0.0 for stage in found.trace.stages if stage.tensor == tensor]
        axes.plot(range(1, layers + 1), values, style, color=colour, label=name, markersize=4)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("layer (0: the embedding)")
    axes.set_ylabel("standard deviation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.5)
    figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=3)
    return figure


def _surprise(found: Explanation, palette: Palette) -> Figure:
    """Draws the bits of each token as bars, and the entropy of what was expected there as marks."""
    bits = found.surprise[:BARS].tolist()
    expected = found.lens[-1].entropy[: len(bits)].tolist()
    figure = Figure(figsize=(min(max(4.5, 1.2 + 0.2 * len(bits)), 10.0), 3.6), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(bits))
    axes.bar(places, bits, color=palette.blue, width=0.75, label="surprise of the token")
    axes.plot(places, expected, "D", color=palette.orange, markersize=4, label="entropy: the surprise expected there")
    _ticks(axes, "x", [label(one) for one in found.tokens[1 : len(bits) + 1]])
    axes.set_xlabel("token")
    axes.set_ylabel("bits")
    axes.set_xlim(-0.7, len(bits) - 0.3)
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.5)
    figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=2)
    return figure


def _next(found: Explanation, palette: Palette) -> Figure:
    """Draws the probabilities of the likeliest tokens after the text."""
    last = found.lens[-1]
    names = [label(found.names[one], 20) for one in last.ids[-1].tolist()]
    values = [100 * p for p in last.p[-1].tolist()]
    figure = Figure(figsize=(5.4, 0.9 + 0.32 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(names)), values, color=palette.blue, height=0.7)
    axes.bar_label(bars, fmt="%.1f", fontsize=8.5, padding=3)
    axes.set_xlim(0, 1.15 * max(values))
    _ticks(axes, "y", names, 9)
    axes.invert_yaxis()
    axes.set_xlabel("probability of the next token (%)")
    return figure


def _attention(found: Explanation, palette: Palette) -> Figure:
    """Draws the weights of one head, or their mean over a layer."""
    time = min(PATTERN, len(found.ids))
    names = [label(one) for one in found.tokens[:time]]
    side = max(3.2, 1.6 + 0.155 * time)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(found.weights()[:time, :time].numpy(), cmap=_map(palette), norm=PowerNorm(0.5, 0, 1))
    _ticks(axes, "x", names, 7)
    _ticks(axes, "y", names, 7)
    axes.set_xlabel("token that is attended to")
    axes.set_ylabel("token that reads")
    bar = figure.colorbar(image, shrink=0.8, ticks=[0, 0.01, 0.1, 0.3, 0.6, 1])
    bar.ax.set_yticklabels(["0", "0.01", "0.1", "0.3", "0.6", "1"], fontsize=8)
    bar.set_label("weight")
    bar.outline.set_visible(False)
    return figure


def _layer(number: int) -> Drawing:
    """Returns the drawing of all heads of a layer, side by side as tiles of one picture."""

    def drawing(found: Explanation, palette: Palette) -> Figure:
        time = min(PATTERN, len(found.ids))
        weights = found.patterns(number)[:, :time, :time].numpy()
        columns = min(len(weights), 4)
        rows = math.ceil(len(weights) / columns)
        # A gap around each tile, with room for the head's number above it
        side, high = time + max(1, time // 12), time + max(2, time // 5)
        tiles = np.full((rows * high, columns * side), np.nan)
        for head, one in enumerate(weights):
            top, left = head // columns * high + high - time, head % columns * side
            tiles[top : top + time, left : left + time] = np.where(np.tri(time, dtype=bool), one, np.nan)
        width = 0.5 + 1.7 * columns
        figure = Figure(figsize=(width, 0.5 + 1.7 * rows * high / side))
        axes = figure.add_axes((0.3 / width, 0.06, 1 - 0.35 / width, 0.93))
        axes.imshow(tiles, cmap=_map(palette), norm=PowerNorm(0.5, 0, 1), aspect="equal", interpolation="nearest")
        for head in range(len(weights)):
            top, left = head // columns * high + high - time, head % columns * side
            axes.text(left, top - 1, f"head {head + 1}", fontsize=8, va="bottom")
            axes.plot([left - 0.5] * 2, [top - 0.5, top + time - 0.5], color=palette.line, linewidth=0.8)
            axes.plot([left - 0.5, left + time - 0.5], [top + time - 0.5] * 2, color=palette.line, linewidth=0.8)
        axes.set(xticks=[], yticks=[], xlabel="token that is attended to", ylabel="token that reads")
        axes.spines[:].set_visible(False)
        return figure

    return drawing


def _lens(found: Explanation, palette: Palette) -> Figure:
    """Draws the likeliest next token of each reading of the residual stream, at the last places."""
    last = len(found.lens) - 1
    layers = sorted({round(one) for one in np.linspace(0, last, min(READINGS, last + 1))}, reverse=True)
    first = max(0, len(found.ids) - GRID)
    places = range(first, len(found.ids))
    p = np.array([found.lens[layer].p[first:, 0].tolist() for layer in layers])
    figure = Figure(figsize=(1.6 + 0.62 * max(len(places), 5), 1.7 + 0.26 * len(layers)), layout="constrained")
    axes, colours = figure.add_subplot(), _map(palette)
    image = axes.imshow(p, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for row, layer in enumerate(layers):
        for column, place in enumerate(places):
            name = label(found.names[int(found.lens[layer].ids[place, 0])], 7)
            dark = _lightness(colours(p[row, column])) < 0.45
            colour = "#ffffff" if dark else "#111111"
            axes.text(column, row, name, ha="center", va="center", fontsize=6.8, color=colour, parse_math=False)
    _ticks(axes, "x", [label(found.tokens[place]) for place in places], 8)
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers], fontsize=8)
    axes.set_xlabel("token that was just read")
    axes.set_ylabel("layer")
    bar = figure.colorbar(image, shrink=0.9, pad=0.01)
    bar.set_label("probability")
    bar.outline.set_visible(False)
    return figure


def _layers(found: Explanation, palette: Palette) -> Figure:
    """Draws the mean surprise of the text by reading."""
    values = [float(reading.surprise.mean()) for reading in found.lens]
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(len(values)), values, "o-", color=palette.blue, markersize=4)
    even = math.log2(found.trace.logits.shape[-1])
    axes.axhline(even, color=palette.orange, linestyle="--", linewidth=1.2, label="all tokens equally likely")
    axes.set_ylim(0, 1.08 * min(max(*values, even), 3 * even))
    axes.set_xlabel("layer (0: the embedding)")
    axes.set_ylabel("mean surprise (bits a token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.5)
    figure.legend(frameon=False, fontsize=9, loc="outside upper center")
    return figure


def _heads(found: Explanation, palette: Palette) -> Figure | None:
    """Draws each measure as a map of layers and heads."""
    measures = found.heads
    if not measures:
        return None
    layers, heads = next(iter(measures.values())).shape
    figure = Figure(figsize=(1.2 + 1.75 * len(measures), 1.5 + max(0.16 * layers, 0.7)), layout="constrained")
    columns = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, (name, values) in zip(columns, measures.items(), strict=True):
        image = axes.imshow(
            values.numpy(),
            cmap=_map(palette),
            vmin=0,
            vmax=1,
            aspect="auto",
            extent=(0.5, heads + 0.5, layers + 0.5, 0.5),
        )
        axes.set_title(NAMES[name], fontsize=9.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.tick_params(labelsize=8)
    columns[0].set_ylabel("layer")
    figure.supxlabel("head", fontsize=10)
    bar = figure.colorbar(image, ax=list(columns), pad=0.01)
    bar.set_label("mean weight")
    bar.outline.set_visible(False)
    return figure


DRAWINGS: dict[str, Drawing] = {
    "flow": _flow,
    "surprise": _surprise,
    "next": _next,
    "lens": _lens,
    "layers": _layers,
    "attention": _attention,
    "heads": _heads,
}
