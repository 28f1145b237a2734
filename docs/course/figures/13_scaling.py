"""The figures of chapter 13: a made law, and the runs of a sweep with the law that fits them.

    python train.py experiment=tales_scaling
    python docs/course/figures/13_scaling.py outputs/tales_scaling/SWEEP

With a folder it keeps the runs in 13_scaling.json and writes the table into the chapter; without
one it draws from that file.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import style

from llm_from_scratch.evaluation.scaling import PARAMETERS, Estimate, Point, Scaling, law, scaling

HERE = Path(__file__).resolve().parent
CHAPTER, RESULTS = HERE.parent / "13_scaling.md", HERE / "13_scaling.json"
BEGIN, END = "<!-- scaling: begin -->", "<!-- scaling: end -->"
PICTURE = (
    "![Bits per byte over the tokens read, a marker and a fitted curve for each of the sizes of the sweep; the curves of"
    " all sizes fall towards a dotted line at the entropy](images/13_sweep.png)"
)


def made_law() -> None:
    """Draws the law of the chapter's first block, a curve for each size."""
    E, A, B, a, b = 0.11, 14.0, 60.0, 0.52, 0.45
    tokens = np.geomspace(1e5, 1e9, 200)
    figure, axes = style.new(width=7.0, height=3.8)
    sizes = (3_000, 30_000, 300_000, 3_000_000)
    for size, colour, line in zip(sizes, style.COLOURS, style.LINES, strict=False):
        loss = E + A / size**a + B / tokens**b
        axes.plot(tokens, loss, line, color=colour, label=f"{size:,} parameters")
    axes.axhline(E, color="black", linestyle=":", linewidth=1.2)
    axes.text(1.1e5, E * 1.02, "E, which remains")
    axes.set(xscale="log", yscale="log", xlabel="tokens read", ylabel="loss, bits per byte")
    _plain_ticks(axes, (0.1, 0.15, 0.2, 0.3, 0.4, 0.5))
    axes.legend()
    style.save(figure, "13_law")


def _plain_ticks(axes, ticks) -> None:
    axes.set_yticks(ticks, [f"{one:g}" for one in ticks])
    axes.minorticks_off()


def sweep(found: Scaling) -> None:
    """Draws the runs of a sweep and the fitted law."""
    figure, axes = style.new(width=7.6, height=4.4)
    tokens = np.array([one.tokens for one in found.runs])
    over = np.geomspace(tokens.min() / 1.3, tokens.max() * 4, 100)
    sizes = sorted({one.parameters for one in found.runs})
    for size, colour, marker in zip(sizes, style.COLOURS, style.MARKERS, strict=False):
        own = [one for one in found.runs if one.parameters == size]
        x, y = zip(*((one.tokens, one.loss) for one in own), strict=True)
        axes.plot(x, y, marker, color=colour, label=f"{size:,} parameters")
        axes.plot(over, law(found.law, size, over), color=colour, linewidth=1.1)
    axes.axhline(found.law["E"].value, color=style.GREY, linestyle="--", linewidth=1.2, label="E of the fitted law")
    if found.entropy is not None:
        axes.axhline(found.entropy, color="black", linestyle=":", linewidth=1.6, label="entropy")
    axes.set(xscale="log", xlabel="tokens read", ylabel="bits per byte on held-out stories", ylim=(0, None))
    axes.legend(fontsize=9)
    style.save(figure, "13_sweep")


def table(found: Scaling) -> str:
    """Returns the chapter's section: the law, the losses by size and amount, the picture."""
    seen = "holds" if found.entropy is None or _inside(found.law["E"], found.entropy) else "does not hold"
    amounts = sorted({one.tokens for one in found.runs})
    by_cell = {(one.parameters, one.tokens): one.loss for one in found.runs}
    rows = [["parameters", *(f"{one / 1e6:.2f} M tokens" for one in amounts)], ["---:"] * (len(amounts) + 1)]
    for size in sorted({one.parameters for one in found.runs}):
        cells = (f"{by_cell[size, one]:.4f}" if (size, one) in by_cell else "" for one in amounts)
        rows.append([f"{size:,}", *cells])
    fitted = [["", *PARAMETERS], ["---", *["---:"] * len(PARAMETERS)]]
    fitted.append(["fitted", *(f"{found.law[name].value:.3g}" for name in PARAMETERS)])
    fitted.append(["95 %", *(f"{found.law[name].low:.3g} – {found.law[name].high:.3g}" for name in PARAMETERS)])
    entropy = "" if found.entropy is None else f" The interval of E {seen} the entropy, {found.entropy:.4f}."
    return "\n".join(
        [
            f"{len(found.runs)} runs (the three commands above), bits per byte on held-out stories:",
            "",
            *map(_row, rows),
            "",
            f"The fitted law, with intervals by the bootstrap over the runs.{entropy}",
            "",
            *map(_row, fitted),
            "",
            PICTURE,
        ]
    )


def _inside(one: Estimate, value: float) -> bool:
    return one.low <= value <= one.high


def _row(cells) -> str:
    return f"| {' | '.join(cells)} |"


def fill(section: str) -> None:
    """Writes a section between its two marks in the chapter."""
    text = CHAPTER.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    CHAPTER.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Draws the made law, and the sweep where its results are at hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", help="the folder of experiment=tales_scaling")
    options = parser.parse_args()
    made_law()
    if options.sweep:
        found = scaling([options.sweep])
        kept = {
            "runs": [asdict(one) | {"run": Path(one.run).name} for one in found.runs],
            "law": {name: asdict(one) for name, one in found.law.items()},
            "entropy": found.entropy,
        }
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if RESULTS.exists():
        kept = json.loads(RESULTS.read_text("utf-8"))
        runs, fitted = [Point(**one) for one in kept["runs"]], {k: Estimate(**v) for k, v in kept["law"].items()}
        found = Scaling(runs=runs, law=fitted, entropy=kept["entropy"], left_out=[])
        fill(table(found))
        sweep(found)


if __name__ == "__main__":
    main()
