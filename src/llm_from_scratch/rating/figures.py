"""Figures of a study: `Results` -> PNG files, each for a light and for a dark page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from llm_from_scratch.pages import Picture, one_line
from llm_from_scratch.plots import Theme, drawn, save
from llm_from_scratch.rating.statistics.results import Difference, Panel, Results
from llm_from_scratch.rating.statistics.scales import MARGIN

BETTER, TIED, OPEN = "better", "tie", "open"


@dataclass(frozen=True)
class Palette(Theme):
    """Colours of one theme. `systems` come in the study's order, `levels` from 1 to 5."""

    band: str
    systems: tuple[str, ...]
    levels: tuple[str, ...]
    verdicts: dict[str, str]
    flagged: str


LIGHT = Palette(
    suffix="",
    back="#ffffff",
    text="#222222",
    line="#c8c8c8",
    band="#ececec",
    systems=("#d94801", "#6a51a3", "#238b45", "#b8860b", "#c51b8a", "#525252"),
    levels=("#b2432f", "#e39a80", "#d9d9d9", "#84aed0", "#2a6ba6"),
    verdicts={BETTER: "#1a6fb3", TIED: "#238b45", OPEN: "#8a8a8a"},
    flagged="#c22f1f",
)
DARK = Palette(
    suffix="_dark",
    back="#16181c",
    text="#dddddd",
    line="#4a4e55",
    band="#25282e",
    systems=("#fd8d3c", "#a49fd6", "#74c476", "#e6bf55", "#f27fb8", "#bdbdbd"),
    levels=("#c65a45", "#9c6a5b", "#5b6068", "#5d87ab", "#5fa6e0"),
    verdicts={BETTER: "#62aee6", TIED: "#74c476", OPEN: "#9a9a9a"},
    flagged="#ff6b57",
)
CAPTIONS = {
    "means": "Mean ratings; lines are 95 % intervals over raters and prompts. Hollow: without the raters who have a flag.",
    "levels": "Share of each answer, from 1 (left) to 5 (right).",
    "differences": "First minus second, with 95 % intervals: blue is a difference that stays after correction, green a tie"
    " (surely within the band), grey not settled.",
    "strengths": "Strength in logits: 0 is the average system, +1 wins 73 of 100 comparisons with it that have a winner."
    " Lines are 95 % intervals over raters and prompts. Hollow: without the raters who have a flag.",
    "rates": "How often the row's text was preferred to the column's (%); a tie counts one half.",
    "raters": "Agreement of each rater with the others' means of the same items (rank correlation; lines are 95 % intervals)."
    " Red: raters who have a flag.",
    "metrics": "Rank correlation of people's judgement with automatic metrics: filled over texts, hollow over systems. The further"
    " from 0, the more a metric says what people say; lines are 95 % intervals.",
}
Drawing = Callable[[Results, Panel, Palette], Figure | None]


def draw(results: Results, folder: Path) -> dict[tuple[str, str], Picture]:
    """Writes the figures into a folder; returns (panel, figure) -> picture, in order."""
    found = {}
    for panel in (results.people, *results.models):
        prefix = "" if panel is results.people else panel.name.replace(" ", "_") + "_"
        for name, drawing in DRAWINGS.items():
            if panel is not results.people and drawing in (_raters, _metrics):
                continue  # these tell of people
            if picture := _saved(partial(drawing, results, panel), folder, prefix + name, CAPTIONS[name]):
                found[panel.name, name] = picture
    return found


def _saved(drawing: Callable[[Palette], Figure | None], folder: Path, name: str, caption: str) -> Picture | None:
    """Draws a figure in both themes; None where it has nothing to show."""
    for palette in (LIGHT, DARK):
        with palette.used():
            figure = drawing(palette)
            if figure is None:
                return None
            save(drawn(figure), folder / f"{name}{palette.suffix}.png")
    return Picture(f"{name}{LIGHT.suffix}.png", caption, dark=f"{name}{DARK.suffix}.png")


def _label(name: str, most: int = 28) -> str:
    """Returns a name for matplotlib, its dollars escaped: a pair would enclose mathematics."""
    return one_line(name, most).replace("$", r"\$")


def _columns(count: int, rows: int, left: float = 1.6, row: float = 0.36) -> tuple[Figure, list[Axes]]:
    """Returns a figure with a column for each question, and room for so many rows (inches)."""
    columns = max(count, 1)
    figure = Figure(figsize=(max(left + 2.6 * columns, 6.0), 1.25 + row * rows), layout="constrained")
    return figure, list(figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0])


def _colour(palette: Palette, system: int) -> str:
    return palette.systems[system % len(palette.systems)]


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), list(labels), fontsize=9)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", alpha=0.5)
    axes.set_axisbelow(True)


def _spread(axes: Axes, place: float, low: float | None, value: float, high: float | None, colour: str) -> None:
    """Draws a filled dot with its interval; an end that is not known is left out."""
    ends = [value if end is None else end for end in (low, high)]
    axes.plot(ends, [place, place], color=colour, linewidth=2, solid_capstyle="round")
    axes.plot([value], [place], "o", color=colour, markersize=7)


def _hollow(axes: Axes, place: float, value: float | None, colour: str, palette: Palette) -> None:
    if value is not None:
        axes.plot([value], [place + 0.24], "o", markersize=5.5, markeredgecolor=colour, markerfacecolor=palette.back)


# ------------------------------------------------------------------------------------------- scales
def _order(results: Results, panel: Panel) -> list[int]:
    """Returns the systems' numbers, the best one first: by the mean over all questions."""
    if panel.pairs:
        scores = {row.system: row.score for row in panel.pairs.strengths}
        return sorted(range(len(results.systems)), key=lambda i: -scores.get(results.systems[i], -99.0))
    totals = [0.0] * len(results.systems)
    for question in panel.questions:
        for i, row in enumerate(question.means):
            totals[i] += row.mean or 0.0
    return sorted(range(len(results.systems)), key=lambda i: -totals[i])


def _means(results: Results, panel: Panel, palette: Palette) -> Figure | None:
    if not panel.questions:
        return None
    order = _order(results, panel)
    figure, columns = _columns(len(panel.questions), len(order))
    for axes, question in zip(columns, panel.questions, strict=True):
        for place, i in enumerate(order):
            row, colour = question.means[i], _colour(palette, i)
            if row.mean is None:
                continue
            _spread(axes, place, row.low, row.mean, row.high, colour)
            if question.without_flagged:
                _hollow(axes, place, question.without_flagged[i].mean, colour, palette)
            axes.annotate(
                f"{row.mean:.2f}", (row.mean, place), (0, 7), textcoords="offset points", ha="center", fontsize=8
            )
        axes.set_title(_label(question.name), fontsize=10)
        axes.set_xlim(0.9, 5.1)
        _rows(axes, [_label(results.systems[i]) for i in order])
        axes.set_xticks(range(1, 6))
    figure.supxlabel("mean rating, 1 to 5 (higher is better)", fontsize=9)
    return figure


def _levels(results: Results, panel: Panel, palette: Palette) -> Figure | None:
    if not panel.questions:
        return None
    order = _order(results, panel)
    figure, columns = _columns(len(panel.questions), len(order) + 1)
    for axes, question in zip(columns, panel.questions, strict=True):
        for place, i in enumerate(order):
            counts, start = question.means[i].counts, 0.0
            for level, count in enumerate(counts):
                share = 100 * count / sum(counts)
                axes.barh(place, share, left=start, height=0.74, color=palette.levels[level])
                if share >= 9:
                    ink = "#ffffff" if level in (0, 4) else palette.text  # the two dark ends
                    axes.text(start + share / 2, place, f"{share:.0f}", ha="center", va="center", fontsize=8, color=ink)
                start += share
        axes.set_title(_label(question.name), fontsize=10)
        axes.set_xlim(0, 100)
        _rows(axes, [_label(results.systems[i]) for i in order])
    figure.supxlabel("answers (%)", fontsize=9)
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in palette.levels]
    figure.legend(handles, [str(level) for level in range(1, 6)], loc="outside upper center", ncols=5, frameon=False)
    return figure


def _differences(_: Results, panel: Panel, palette: Palette) -> Figure | None:
    groups: list[tuple[str, list[Difference]]]
    if panel.pairs:
        groups, margin, unit = [("", panel.pairs.differences)], 0.405, "difference (logits)"
    else:
        groups = [(question.name, question.differences) for question in panel.questions]
        margin, unit = MARGIN, "difference of ratings (points)"
    names = list(dict.fromkeys((row.first, row.second) for __, rows in groups for row in rows))
    if not names:
        return None
    figure, columns = _columns(len(groups), len(names) + 1, left=2.6)
    for axes, (title, rows) in zip(columns, groups, strict=True):
        axes.axvspan(-margin, margin, color=palette.band, zorder=0)
        axes.axvline(0, color=palette.line, linewidth=1)
        for row in rows:
            verdict = BETTER if row.verdict == "worse" else row.verdict
            place = names.index((row.first, row.second))
            _spread(axes, place, row.low, row.value, row.high, palette.verdicts[verdict])
        axes.set_title(_label(title), fontsize=10)
        _rows(axes, [f"{_label(first, 18)} – {_label(second, 18)}" for first, second in names])
    figure.supxlabel(unit, fontsize=9)
    named = {BETTER: "a difference", TIED: "a tie", OPEN: "not settled"}
    handles = [Line2D([], [], color=palette.verdicts[verdict], marker="o", linewidth=2) for verdict in named]
    figure.legend(handles, list(named.values()), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


# -------------------------------------------------------------------------------------------- pairs
def _strengths(results: Results, panel: Panel, palette: Palette) -> Figure | None:
    if not panel.pairs:
        return None
    order = _order(results, panel)
    figure, (axes,) = _columns(1, len(order), left=3.4)
    for place, i in enumerate(order):
        row, colour = panel.pairs.strengths[i], _colour(palette, i)
        _spread(axes, place, row.low, row.score, row.high, colour)
        if panel.pairs.strengths_without_flagged:
            _hollow(axes, place, panel.pairs.strengths_without_flagged[i].score, colour, palette)
        axes.annotate(
            f"{row.score:+.2f}", (row.score, place), (0, 7), textcoords="offset points", ha="center", fontsize=8
        )
    axes.axvline(0, color=palette.line, linewidth=1)
    _rows(axes, [_label(results.systems[i]) for i in order])
    axes.set_xlabel("strength (logits, higher is better)", fontsize=9)
    return figure


def _rates(results: Results, panel: Panel, palette: Palette) -> Figure | None:
    if not panel.pairs or len(results.systems) < 3:
        return None
    shares = {(row.first, row.second): row.share for row in panel.pairs.rates}
    shares |= {(second, first): 1 - share for (first, second), share in shares.items()}
    order = [results.systems[i] for i in _order(results, panel)]
    size = 1.6 + 0.75 * len(order)
    figure = Figure(figsize=(size + 1.2, size), layout="constrained")
    axes = figure.add_subplot()
    for y, first in enumerate(order):
        for x, second in enumerate(order):
            share = shares.get((first, second))
            if share is None:
                continue
            colour = palette.levels[4] if share >= 0.5 else palette.levels[0]
            strength = 0.15 + 0.85 * min(2 * abs(share - 0.5), 1)
            axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, color=colour, alpha=strength, linewidth=0))
            ink = "#ffffff" if strength > 0.7 else palette.text  # on the dark ends
            axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=10, color=ink)
    names = [_label(name, 16) for name in order]
    axes.set_xticks(range(len(order)), names, rotation=30, ha="left", fontsize=9)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(order)), names, fontsize=9)
    axes.set(xlim=(-0.5, len(order) - 0.5), ylim=(len(order) - 0.5, -0.5))
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


# ---------------------------------------------------------------------------------- raters, metrics
def _raters(_: Results, panel: Panel, palette: Palette) -> Figure | None:
    rows = sorted((row for row in panel.raters if row.agreement is not None), key=lambda row: -(row.agreement or 0))
    if not rows:
        return None
    figure, (axes,) = _columns(1, len(rows), left=4.4, row=0.26)
    axes.axvline(0, color=palette.line, linewidth=1)
    for place, row in enumerate(rows):
        colour = palette.flagged if row.flags else palette.verdicts[BETTER]
        _spread(axes, place, row.agreement_low, row.agreement or 0.0, row.agreement_high, colour)
        if row.flags:
            axes.text(1.04, place, "; ".join(row.flags), color=colour, fontsize=8, va="center", clip_on=False)
    _rows(axes, [f"rater {row.rater}" for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(palette.flagged if row.flags else palette.text)
    axes.set_xlim(-1, 1)
    axes.set_xlabel("rank correlation with the others", fontsize=9)
    return figure


def _metrics(results: Results, _: Panel, palette: Palette) -> Figure | None:
    known = [row for row in results.metrics if row.spearman is not None]
    if not known:
        return None
    questions = list(dict.fromkeys(row.question for row in known))
    best: dict[str, float] = {}
    for row in known:
        strength = abs(row.spearman or 0.0) + (1 if row.over == "texts" else 0)  # texts first: they tell more
        best[row.metric] = max(best.get(row.metric, 0.0), strength)
    names = sorted(best, key=lambda name: -best[name])
    figure, columns = _columns(len(questions), len(names), left=1.8)
    for axes, question in zip(columns, questions, strict=True):
        axes.axvline(0, color=palette.line, linewidth=1)
        for row in known:
            if row.question != question:
                continue
            place, value = names.index(row.metric), row.spearman or 0.0
            if row.over == "texts":
                _spread(axes, place, row.spearman_low, value, row.spearman_high, palette.verdicts[BETTER])
            else:
                _hollow(axes, place, value, palette.verdicts[OPEN], palette)
        axes.set_title(_label(question), fontsize=10)
        axes.set_xlim(-1.05, 1.05)
        _rows(axes, [_label(name) for name in names])
    figure.supxlabel("rank correlation with people (Spearman)", fontsize=9)
    return figure


DRAWINGS: dict[str, Drawing] = {
    "means": _means,
    "levels": _levels,
    "strengths": _strengths,
    "rates": _rates,
    "differences": _differences,
    "raters": _raters,
    "metrics": _metrics,
}
