"""A `Scaling` -> tables, a figure, a page."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from llm_from_scratch.evaluation.figures import RUNS
from llm_from_scratch.evaluation.scaling import PARAMETERS, Scaling, law
from llm_from_scratch.files import write_file
from llm_from_scratch.pages import Block, Heading, Paragraph, Picture, Table, markdown
from llm_from_scratch.plots import drawn, save

PICTURE = "scaling.png"
MEANINGS = {
    "E": "bits per byte that remain",
    "A": "of the size, beside N^a",
    "B": "of the amount of text, beside D^b",
    "a": "exponent of the parameters N",
    "b": "exponent of the tokens D",
}


def blocks(found: Scaling, pictures: list[Picture] | None = None) -> list[Block]:
    """Returns the blocks of a page: the law, the figure, the runs."""
    rows = [
        [name, _number(one.value), f"{_number(one.low)} – {_number(one.high)}", MEANINGS[name]]
        for name in PARAMETERS
        for one in (found.law[name],)
    ]
    parts: list[Block] = [
        Heading(1, f"Loss by size and amount of text: {len(found.runs)} runs"),
        Table("L(N, D) = E + A/N^a + B/D^b", ["", "value", "95 %", "meaning"], rows),
        Paragraph(
            "Fitted by least squares of the relative error (the form is that of Hoffmann et al. 2022); intervals by bootstrap"
            " over the runs, which covers neither their seeds nor a law of another form."
        ),
    ]
    if found.entropy is not None:
        E = found.law["E"]
        inside = "within" if E.low <= found.entropy <= E.high else "outside"
        parts.append(
            Paragraph(f"The entropy of the stories is {found.entropy:.5f} bits per byte: {inside} the interval of E.")
        )
    parts += pictures or []
    runs = [
        [
            Path(one.run).name,
            f"{one.parameters:,}",
            f"{one.tokens:,}",
            f"{one.loss:.4f}",
            f"{float(law(found.law, one.parameters, one.tokens)):.4f}",
        ]
        for one in found.runs
    ]
    parts.append(Table("The runs", ["run", "parameters", "tokens", "bits per byte", "by the law"], runs))
    return [*parts, *(Paragraph(f"left out: {line}") for line in found.left_out)]


def write_page(found: Scaling, path: Path) -> None:
    """Writes a page in Markdown, and its picture into a folder of its name."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    save(drawn(draw(found)), folder / PICTURE)
    caption = "Loss of each run by its tokens, a colour for each size; lines are the fitted law, the dashed one its E."
    write_file(path, markdown(blocks(found, [Picture(f"{folder.name}/{PICTURE}", caption)])))


def draw(found: Scaling) -> Figure:
    """Draws loss over tokens, a curve of the law for each size."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    tokens = np.array([one.tokens for one in found.runs])
    over = np.geomspace(tokens.min() / 1.3, tokens.max() * 1.3, 100)
    for place, size in enumerate(sorted({one.parameters for one in found.runs})):
        own, colour = [one for one in found.runs if one.parameters == size], RUNS[place % len(RUNS)]
        axes.plot(
            [one.tokens for one in own], [one.loss for one in own], "o", color=colour, label=f"{size:,} parameters"
        )
        axes.plot(over, law(found.law, size, over), color=colour, linewidth=1)
    axes.axhline(found.law["E"].value, color="#525252", linestyle="--", linewidth=1, label="E of the law")
    if found.entropy is not None:
        axes.axhline(found.entropy, color="#000000", linestyle=":", linewidth=1.5, label="entropy")
    axes.set(xscale="log", yscale="log", xlabel="tokens read", ylabel="bits per byte")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, which="both")
    figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=3)
    return figure


def _number(value: float) -> str:
    return f"{value:.4g}"
