"""A `Comparison` -> tables, two figures, a page; the end of a sweep."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llm_from_scratch.evaluation.comparison import ComparedRun, Comparison, by_params, compare
from llm_from_scratch.evaluation.figures import RUNS
from llm_from_scratch.pages import Block, Heading, Paragraph, Picture, Table, html_page, one_line, show
from llm_from_scratch.plots import drawn, save
from llm_from_scratch.study import Dimension, Study
from llm_from_scratch.terminal import console

CURVES, TRIALS, SETTINGS = "curves.png", "trials.png", "settings.png"
FEW = 5  # runs whose settings stand side by side; of more, each is a row
NAMED = 12  # curves with a name in the legend
BOOTSTRAP = (
    "“More” is in bits per byte, by a paired bootstrap over the units of the text (Koehn 2004): what a run needs more than the"
    " best one. An interval that stays above 0 says that it is worse; it covers which text was scored, not the seed of the training."
)
FANOVA = (
    "Share of the variance of the results that each setting alone accounts for, by fANOVA over the finished runs (Hutter et al."
    " 2014). With few runs it is rough."
)


# ------------------------------------------------------------------------------------------- blocks
def run_names(runs: Sequence[ComparedRun]) -> list[str]:
    """Returns the names of the runs: of their folders where all differ, else their paths."""
    short = [Path(run.run).name for run in runs]
    return [one_line(name) for name in (short if len(set(short)) == len(short) else [run.run for run in runs])]


def blocks(found: Comparison, pictures: Sequence[Picture] = ()) -> list[Block]:
    """Returns the blocks of a comparison in order."""
    names = run_names(found.runs)
    parts: list[Block] = [Heading(1, f"{len(names)} runs compared" + (f": {found.sweep}" if found.sweep else ""))]
    parts += [_results(found, names), *pictures]
    if found.scored:
        parts.append(Paragraph(f"Scored on {found.scored}. {BOOTSTRAP}"))
    parts.append(_settings(found, names))
    if found.importances:
        rows = [[name, f"{share:.1%}"] for name, share in found.importances.items()]
        parts += [Table("Which settings mattered", ["setting", "share"], rows), Paragraph(FANOVA)]
    reasons = [f"{name} failed: {run.reason}" for name, run in zip(names, found.runs, strict=True) if run.reason]
    return [*parts, *(Paragraph(line) for line in (*reasons, *(f"left out: {line}" for line in found.left_out)))]


def _results(found: Comparison, names: Sequence[str]) -> Table:
    rows = []
    best = "the best"
    for name, run in zip(names, found.runs, strict=True):
        best = name if run.run == found.best_scored else best
        interval = "" if run.more is None else f"{run.more:+.4f} ({run.more_low:+.4f} – {run.more_high:+.4f})"
        rows.append(
            [
                name,
                run.state if run.state != "pruned" else f"pruned at {run.last_step}",
                _number(run.best_step, "d"),
                _number(run.bits_per_byte, ".4f"),
                interval,
                _number(run.loss, ".4f"),
                _number(run.last_step, "d"),
                _number(None if run.seconds is None else run.seconds / 60, ".1f"),
            ]
        )
    header = [
        "run",
        "state",
        "best step",
        "bits per byte",
        f"more than {best}, 95 %",
        "nats a token",
        "steps",
        "minutes",
    ]
    return Table("Results, the best first", header, rows)


def _settings(found: Comparison, names: Sequence[str]) -> Block:
    if not found.settings:
        return Paragraph("All settings are equal.")
    if len(names) <= FEW:
        rows = [[key, *(_written(run.settings[key]) for run in found.runs)] for key in found.settings]
        return Table("Settings that differ", ["setting", *names], rows)
    rows = [
        [name, *(_written(run.settings[key]) for key in found.settings)]
        for name, run in zip(names, found.runs, strict=True)
    ]
    return Table("Settings that differ", ["run", *found.settings], rows)


def _written(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else "true" if value is True else "false" if value is False else one_line(str(value))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def page(found: Comparison) -> str:
    """Returns the comparison as one HTML page with its figures inside."""
    with TemporaryDirectory() as folder:
        return html_page(blocks(found, draw(found, Path(folder))), Path(folder))


# ------------------------------------------------------------------------------------------ figures
def draw(found: Comparison, folder: Path) -> list[Picture]:
    """Writes the figures of a comparison into `folder`: the curves, or two of a sweep's trials."""
    made: list[tuple[str, Figure | None, str]] = [
        (CURVES, _curves(found), f"Validation of each run, {found.unit}, lower is better.")
    ]
    if found.trials:
        made = [
            (
                TRIALS,
                _trials(found),
                f"The trials in their order with the best so far, and their validations, {found.unit}.",
            ),
            (SETTINGS, _slices(found), f"{found.unit.capitalize()} of the trials by each setting that was drawn."),
        ]
    pictures = []
    for name, figure, caption in made:
        if figure is None:
            continue
        for axes in figure.axes:
            axes.grid(alpha=0.3)
        save(drawn(figure), folder / name)
        pictures.append(Picture(name, caption))
    return pictures


def _curves(found: Comparison) -> Figure:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    _draw_curves(axes, found)
    return figure


def _draw_curves(axes: Axes, found: Comparison) -> None:
    names = run_names(found.runs)
    for place, (name, run) in enumerate(zip(names, found.runs, strict=True)):
        points = [(step, value) for step, value in run.curve if math.isfinite(value)]
        if not points:
            continue
        axes.plot(
            *zip(*points, strict=True),
            "." + ("--" if run.state != "finished" else "-"),
            color=RUNS[place % len(RUNS)],
            alpha=1.0 if place < len(RUNS) else 0.5,
            label=name.replace("$", r"\$") if place < NAMED else None,
        )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(f"validation ({found.unit})")
    if any(run.curve for run in found.runs):
        axes.legend(frameon=False, fontsize="small", title="best first; dashed: not finished")


def _trials(found: Comparison) -> Figure:
    figure = Figure(figsize=(12, 5), layout="constrained")
    history, curves = figure.subplots(1, 2)
    best, course = math.inf, []
    for trial in found.trials:
        value = trial.value
        if value is None or not math.isfinite(value):
            continue
        complete = trial.state == "complete"
        history.plot(trial.number, value, "o" if complete else "x", color=RUNS[0] if complete else RUNS[5])
        best = min(best, value) if complete else best
        course.append((trial.number, best))
    course = [(number, value) for number, value in course if math.isfinite(value)]
    if course:
        history.step(*zip(*course, strict=True), where="post", color=RUNS[1], label="best so far (x: pruned)")
        history.legend(frameon=False)
    history.set_xlabel("trial")
    history.set_ylabel(found.unit)
    _draw_curves(curves, found)
    return figure


def _slices(found: Comparison) -> Figure | None:
    points = by_params(found.trials)
    if not points or found.sweep is None:
        return None
    study = Study(Path(found.sweep))
    space = study.space
    study.close()
    figure = Figure(figsize=(3.5 * min(len(points), 4), 3.5 * -(-len(points) // 4)), layout="constrained")
    grid = figure.subplots(-(-len(points) // 4), min(len(points), 4), squeeze=False)
    for axes, (name, values) in zip(grid.flat, points.items(), strict=False):
        _slice(axes, name, values, space[name], found)
    for axes in list(grid.flat)[len(points) :]:
        axes.remove()
    return figure


def _slice(axes: Axes, name: str, drawn: Sequence[tuple[Any, float, str]], one: Dimension, found: Comparison) -> None:
    places = {choice: place for place, choice in enumerate(one.choices)}
    for value, result, state in drawn:
        at = places[str(value)] if one.choices else value
        axes.plot(at, result, "o" if state == "complete" else "x", color=RUNS[0] if state == "complete" else RUNS[5])
    if one.choices:
        axes.set_xticks(range(len(one.choices)), [choice.replace("$", r"\$") for choice in one.choices])
    if one.log:
        axes.set_xscale("log")
    share = (found.importances or {}).get(name)
    axes.set_title(name if share is None else f"{name}: {share:.0%} of the variance", fontsize="medium")
    axes.set_ylabel(found.unit)


# ---------------------------------------------------------------------------------- end of a sweep
def print_search(root: Path) -> int:
    """Prints the table of a sweep's trials on standard error, and writes its two figures.

    Returns:
        The number of failed trials.
    """
    found = compare_trials(root)
    out = console(stderr=True)
    parts = blocks(found, draw(found, root))
    show([part for part in parts if not isinstance(part, Heading)], out)
    count = {state: sum(run.state == state for run in found.runs) for state in ("finished", "pruned", "failed")}
    told = ", ".join(f"{number} {state}" for state, number in count.items() if number)
    out.print(
        f"{len(found.trials)} trials of {root}: {told}; {TRIALS} and {SETTINGS} are in its folder", soft_wrap=True
    )
    return count["failed"]


def compare_trials(root: Path) -> Comparison:
    """Compares the trials of a sweep by what was drawn, without scoring; one may be alone."""
    found = compare([str(root)], score=0, fewest=0)
    drawn = sorted({name for trial in found.trials for name in trial.params})
    settings = [name for name in found.settings if name in drawn]
    for run in found.runs:
        run.settings = {name: run.settings[name] for name in settings}
    return replace(found, settings=settings)
