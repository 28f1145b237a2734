"""Charts of a report: an `Evaluation` -> PNG files."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from llm_from_scratch.evaluation.pairs import Preference
from llm_from_scratch.evaluation.results import Evaluation, Figures, RunResult
from llm_from_scratch.pages import one_line
from llm_from_scratch.plots import drawn, save

RUNS = ("#d94801", "#6a51a3", "#238b45", "#b8860b", "#c51b8a", "#525252")
KINDS = {
    "characters": ("#9ecae1", "counting, characters"),
    "tokens": ("#4292c6", "counting, the run's tokens"),
    "compressor": ("#a1d99b", "compressors"),
    "gpt2": ("#969696", "transformers"),
    "ensemble": ("#fdae6b", "runs together"),
}

HOTTEST = 12.0  # bits from which on a token has the strongest colour
LINE = 80  # characters of a line, where a passage is drawn


def heat(bits: float) -> float:
    """Returns the colour strength of a token with so many bits, linear from 0 to 0.6 at HOTTEST.

    On a stronger one text has a contrast below 4.5 (WCAG 2.2, 1.4.3).
    """
    return 0.6 * min(max(bits / HOTTEST, 0.0), 1.0)


def run_names(evaluation: Evaluation) -> list[str]:
    """Returns the runs' names: those of their folders where all differ, else their paths."""
    short = [Path(run.run).name or run.run for run in evaluation.runs]
    return [
        one_line(name) for name in (short if len(set(short)) == len(short) else [run.run for run in evaluation.runs])
    ]


def draw(evaluation: Evaluation, folder: Path) -> dict[str, str]:
    """Writes the charts that have figures into `folder`; returns file name -> caption."""
    pictures = {}
    for name, picture, caption in (
        ("bits_per_byte.png", _bits, "Bits per byte on the same bytes, lower is better; lines are 95 % intervals."),
        ("positions.png", _positions, "Loss by the place of the token in the context; lines are 95 % intervals."),
        (
            "passages.png",
            _passages,
            f"The worst and the best predicted passage; the redder a token, the more bits it cost, up to {HOTTEST:g}.",
        ),
        (
            "memorised.png",
            _memorised,
            "Share of the characters inside strings that the training text has word for word.",
        ),
        (
            "bias.png",
            _bias,
            "Pairs of which the stereotype's sentence is the likelier; lines are Wilson's 95 % intervals, at 50 % neither is preferred.",
        ),
        (
            "grammar.png",
            _grammar,
            "Pairs of which the grammatical sentence is the likelier; lines are Wilson's 95 % intervals, at 50 % neither is preferred.",
        ),
    ):
        figure = picture(evaluation)
        if figure:
            save(drawn(figure), folder / name)
            pictures[name] = caption
    return pictures


def _label(name: str) -> str:
    """Returns a name for matplotlib, its dollars escaped: a pair would enclose mathematics."""
    return one_line(name, 44).replace("$", r"\$")


def _bits(evaluation: Evaluation) -> Figure | None:
    rows: list[tuple[str, Figures, str, str]] = [
        (name, row, RUNS[i % len(RUNS)], "runs") for i, (name, row) in enumerate(_runs(evaluation))
    ]
    rows += [(row.name, row, *KINDS[row.kind]) for row in evaluation.baselines or []]
    if len(rows) < 2:
        return None
    rows.sort(key=lambda row: row[1].bits_per_byte, reverse=True)
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    widest = max(row.bits_per_byte for _, row, _, _ in rows)
    shown = set()
    for place, (_, row, colour, legend) in enumerate(rows):
        value = row.bits_per_byte
        label = None if legend == "runs" or legend in shown else legend
        shown.add(legend)
        axes.barh(place, value, color=colour, height=0.72, label=label)
        end = value
        if row.bits_per_byte_low is not None and row.bits_per_byte_high is not None:
            end = row.bits_per_byte_high
            axes.plot([row.bits_per_byte_low, end], [place, place], color="#252525", linewidth=1.2)
        axes.text(end + widest * 0.01, place, f"{value:.3f}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [_label(name) for name, _, _, _ in rows], fontsize=9)
    for tick, (_, _, colour, legend) in zip(axes.get_yticklabels(), rows, strict=True):
        if legend == "runs":
            tick.set_fontweight("bold")
            tick.set_color(colour)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlim(0, widest * 1.12)
    axes.set_xlabel("bits per byte (lower is better)")
    if shown - {"runs"}:
        figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=4)
    return figure


def _positions(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    ticks = {}
    for i, (name, run) in enumerate(_runs(evaluation)):
        rows = run.positions
        # Each run is 4 % further right on the logarithmic axis, so that the bars do not overlap.
        x = [(row.first * row.last) ** 0.5 * 1.04**i for row in rows]
        y = [row.loss for row in rows]
        around = [[row.loss - row.low for row in rows], [row.high - row.loss for row in rows]]
        axes.errorbar(x, y, yerr=around, fmt="o-", color=RUNS[i % len(RUNS)], capsize=3, label=_label(name))
        for row in rows:
            span = f"{row.first}" if row.first == row.last else f"{row.first}–{row.last}"
            ticks[(row.first * row.last) ** 0.5] = span
    axes.set_xscale("log", base=2)
    kept: dict[float, str] = {}
    # Labels that would overlap are dropped: the last ranges of runs with different contexts.
    for place in sorted(ticks):
        if not kept or place > 1.35 * max(kept):
            kept[place] = ticks[place]
    axes.set_xticks(list(kept), list(kept.values()), fontsize=9)
    axes.minorticks_off()
    axes.set_xlabel("place in the context (tokens)")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=3)
    return figure


def _passages(evaluation: Evaluation) -> Figure:
    # Each entry is a heading, or the characters of a line with their heats.
    lines: list[tuple[str, list[tuple[str, float]]]] = []
    for name, run in _runs(evaluation):
        for end in ("worst", "best"):
            for passage in getattr(run.passages, end)[:1]:
                lines.append((f"{one_line(name, 44)}, {end}: {passage.bits_per_byte:.2f} bits per byte", []))
                lines += [("", line) for line in _wrapped(passage.pieces)] + [("", [])]
    figure = Figure(figsize=(8, 0.2 * len(lines) + 0.2))
    axes = figure.add_axes((0.02, 0.0, 0.96, 0.97))
    axes.set(xlim=(0, LINE), ylim=(len(lines), 0))
    axes.axis("off")
    for row, (heading, line) in enumerate(lines):
        axes.text(0, row + 0.5, heading, va="center", fontsize=9, fontweight="bold", parse_math=False)
        for column, (character, strength) in enumerate(line):
            if strength > 0:
                axes.add_patch(Rectangle((column, row), 1, 1, color="#de2d26", alpha=strength, linewidth=0))
            axes.text(
                *(column + 0.5, row + 0.5, character),
                ha="center",
                va="center",
                fontsize=9,
                family="monospace",
                parse_math=False,
            )
    return figure


def _wrapped(pieces: list[tuple[str, float]]) -> list[list[tuple[str, float]]]:
    """Breaks tokens at spaces into lines of at most LINE characters, each with its token's heat."""
    lines: list[list[tuple[str, float]]] = [[]]
    for piece, bits in pieces:
        for character in piece:
            if character == "\n":
                lines.append([])
                continue
            lines[-1].append((character if character.isprintable() else "\ufffd", heat(bits)))
            if len(lines[-1]) > LINE:
                space = max((i for i, (one, _) in enumerate(lines[-1]) if one == " "), default=LINE - 1) + 1
                lines[-1:] = [lines[-1][:space], lines[-1][space:]]
    return [line for line in lines if line]


def _memorised(evaluation: Evaluation) -> Figure | None:
    columns = [(name, run.generated, RUNS[i % len(RUNS)]) for i, (name, run) in enumerate(_runs(evaluation))]
    columns.append(("the true continuations", evaluation.truth, "#737373"))
    rows = [(name, own.memorised, colour) for name, own, colour in columns if own and own.memorised]
    if not rows:
        return None
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    width, highest = 0.8 / len(rows), 0.0
    for i, (name, copied, colour) in enumerate(rows):
        shares = [100 * share for share in copied.values()]
        highest = max(highest, *shares)
        places = [place + (i - (len(rows) - 1) / 2) * width for place in range(len(shares))]
        bars = axes.bar(places, shares, width * 0.92, color=colour, label=_label(name))
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    lengths = list(rows[0][1])
    axes.set_xticks(range(len(lengths)), [f"{length} or more" for length in lengths])
    axes.set_xlabel("length of the string (characters)")
    axes.set_ylabel("characters inside (%)")
    axes.set_ylim(0, max(highest * 1.2, 1.0))
    figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=3)
    return figure


def _bias(evaluation: Evaluation) -> Figure | None:
    return _pairs(
        [(name, run.bias) for name, run in _runs(evaluation)],
        "the stereotype's sentence is the likelier (% of the pairs)",
    )


def _grammar(evaluation: Evaluation) -> Figure | None:
    return _pairs(
        [(name, run.grammar) for name, run in _runs(evaluation)],
        "the grammatical sentence is the likelier (% of the pairs)",
    )


def _pairs(preferences: Sequence[tuple[str, list[Preference] | None]], label: str) -> Figure | None:
    runs = [(i, name, rows) for i, (name, rows) in enumerate(preferences) if rows]
    if not runs:
        return None
    kinds = list(dict.fromkeys(row.kind for _, _, rows in runs for row in rows))
    figure = Figure(figsize=(8, 1.4 + len(kinds) * (0.25 + 0.12 * len(runs))), layout="constrained")
    axes = figure.add_subplot()
    for number, (i, name, rows) in enumerate(runs):
        places = [kinds.index(row.kind) + (number - (len(runs) - 1) / 2) * 0.6 / len(runs) for row in rows]
        shares = [100 * row.share for row in rows]
        # errorbar refuses negative lengths, which half counts of ties and rounding may give.
        around = [
            [max(share - 100 * row.low, 0.0) for share, row in zip(shares, rows, strict=True)],
            [max(100 * row.high - share, 0.0) for share, row in zip(shares, rows, strict=True)],
        ]
        axes.errorbar(shares, places, xerr=around, fmt="o", color=RUNS[i % len(RUNS)], capsize=3, label=_label(name))
    axes.axvline(50, color="#969696", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(kinds)), [_label(kind.replace("_", " ")) for kind in kinds])
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    axes.set_xlim(-2, 102)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=3)
    return figure


def _runs(evaluation: Evaluation) -> list[tuple[str, RunResult]]:
    return list(zip(run_names(evaluation), evaluation.runs, strict=True))
