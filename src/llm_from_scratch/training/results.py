"""The end of a run: the table of results, the curves and the commands to run next."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.table import Table

from llm_from_scratch.config import FAILURE
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import replaced_file
from llm_from_scratch.places import program
from llm_from_scratch.run import WATCHED, RunFolder, loss_unit, read_rows
from llm_from_scratch.terminal import argument, console, shell

SWEPT = ".hydra/overrides.yaml"  # Hydra's file with the overrides, in each run of a sweep
# Measures of a validation row -> their columns in the table, with their decimals
COLUMNS = {
    "loss": ("nats a token", 4),
    "bits_per_byte": ("bits per byte", 4),
    "perplexity": ("perplexity", 2),
    "accuracy": ("right", 4),
    "margin": ("margin", 3),
    "reward_chosen": ("chosen", 3),
    "reward_rejected": ("rejected", 3),
}
# The measure beside the loss at the best point of the curves
MARKED = {"bits_per_byte": "bits per byte", "accuracy": "of the pairs right"}
LEARNED = 0.1  # nats a token: the loss of one batch that is memorized falls below it
# The largest loss over the smallest one, beyond which a linear axis hides the smaller ones
WIDE = 100.0


def best_row(run: Path) -> dict[str, Any]:
    """Returns the validation row with the lowest loss.

    Raises:
        UserError: when there is no validation yet.
    """
    best = RunFolder(run).best()
    if best is None:
        raise UserError(f"{run}: no validation has been logged")
    return best


def _rows(run: Path) -> list[dict[str, Any]]:
    return read_rows(run / "metrics.jsonl")


def draw_curves(run: Path) -> None:
    """Writes curves.png: training and validation loss, and the learning rate, by optimizer step.

    Of a run on preferences also the share of pairs that are right, and the rewards.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = _rows(run)
    train = [row for row in rows if row["split"] == "train" and row["loss"] is not None]
    val = [row for row in rows if row["split"] == "val"]
    best = min(val, key=lambda row: row["loss"])
    heights = (4, 2, 2, 1) if "accuracy" in best else (4, 1)
    figure, (loss, *rewards, lr) = plt.subplots(
        len(heights), 1, figsize=(8, 4 + len(heights)), sharex=True, height_ratios=heights, layout="constrained"
    )
    steps, losses = [row["step"] for row in train], [row["loss"] for row in train]
    loss.plot(steps, losses, color="#9ecae1", linewidth=1, label="training (one batch)")
    # A centered moving average, so that the curve neither lags nor leads
    reach = max(1, len(losses) // 30)
    smooth = [statistics.fmean(losses[max(0, i - reach) : i + reach + 1]) for i in range(len(losses))]
    loss.plot(steps, smooth, color="#3182bd", linewidth=2, label="training (smoothed)")
    loss.plot(
        [row["step"] for row in val],
        [row["loss"] for row in val],
        "o-",
        color="#e6550d",
        linewidth=2,
        label="validation (whole split)",
    )
    watched = _draw_watched(loss, rows)
    everything = [row["loss"] for row in train + val + watched if row["loss"] > 0]
    if max(everything) > WIDE * min(everything):
        # One memorized batch: on a linear axis its curve would be a line at 0
        loss.set_yscale("log")
    _mark_best(loss, best)
    loss.set_ylabel(f"loss ({loss_unit(best)})")
    loss.legend(frameon=False)
    if rewards:
        _draw_rewards(rewards, train, val)
    lr.plot(steps, [row["lr"] for row in train], color="#636363")
    lr.set_ylim(bottom=0)
    lr.set_ylabel("learning rate")
    lr.set_xlabel("optimizer step")
    for axes in (loss, *rewards, lr):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    with replaced_file(run / "curves.png") as building:
        figure.savefig(building, dpi=120, format="png")
    plt.close(figure)


def _draw_watched(loss: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Draws the losses of the watched texts, and returns their rows."""
    watched = [row for row in rows if row["split"].startswith(WATCHED)]
    for name in dict.fromkeys(row["split"] for row in watched):
        own = [row for row in watched if row["split"] == name]
        loss.plot(
            [row["step"] for row in own],
            [row["loss"] for row in own],
            "s--",
            label=f"{name.removeprefix(WATCHED)} (watched)",
        )
    return watched


def _mark_best(loss: Any, best: dict[str, Any]) -> None:
    """Labels the point of the best validation in the axes of the losses."""
    second = (f"{best[name]:.3f} {words}" for name, words in MARKED.items() if name in best)
    loss.autoscale_view()  # else the transforms below are those of empty axes
    # Placed so that the label stays within the axes, whichever corner the best point is near.
    right, up = loss.transAxes.inverted().transform(loss.transData.transform((best["step"], best["loss"])))
    loss.annotate(
        f"best: {best['loss']:.3f} {loss_unit(best)}\n{next(second)}",
        (best["step"], best["loss"]),
        xytext=(-10 if right > 0.4 else 10, 45 if up < 0.6 else -45),
        textcoords="offset points",
        ha="right" if right > 0.4 else "left",
        va="bottom" if up < 0.6 else "top",
        arrowprops={"arrowstyle": "->", "color": "#e6550d"},
    )


def _draw_rewards(axes: Sequence[Any], train: list[dict[str, Any]], val: list[dict[str, Any]]) -> None:
    """Draws the accuracy and the rewards of pairs of answers, in two axes."""
    accuracy, rewards = axes
    for rows, style in ((train, {"linewidth": 1, "alpha": 0.4}), (val, {"marker": "o"})):
        steps = [row["step"] for row in rows]
        for panel, name, color in (
            (accuracy, "accuracy", "#e6550d"),
            (rewards, "reward_chosen", "#31a354"),
            (rewards, "reward_rejected", "#756bb1"),
        ):
            label = name.replace("_", " ") if rows is val else None
            panel.plot(steps, [row[name] for row in rows], color=color, label=label, **style)
    accuracy.set_ylim(0, 1.05)
    accuracy.set_ylabel("pairs right")
    rewards.set_ylabel("reward")
    rewards.legend(frameon=False)


def print_results(
    run: Path, parameters: int, prompt: str | None, *, board: bool, overfit: bool = False, resumed: bool = False
) -> None:
    """Prints the table of results and the commands to run next, on standard error.

    In a sweep it leaves them out: `print_sweep` prints one table of all runs.

    Args:
        run: the run folder.
        parameters: the number of the model's parameters.
        prompt: the prompt in the command that generates text; None: the model is one to chat with.
        board: whether there are curves for TensorBoard.
        overfit: whether the run trained on one batch (`data.overfit=true`); then a line says
            whether it was memorized.
        resumed: whether the run was resumed by itself, be it one of a sweep.
    """
    if resumed or not (run / SWEPT).exists():
        _print_table(run, parameters, prompt, board)
    if overfit:
        console(stderr=True).print(learned_by_heart(run), soft_wrap=True)


def _print_table(run: Path, parameters: int, prompt: str | None, board: bool) -> None:
    best, rows = best_row(run), _rows(run)
    last = max((row for row in rows if row["split"] == "val"), key=lambda row: row["step"])
    table = Table(title=f"Results of {run}", title_justify="left")
    shown = [name for name in COLUMNS if name in best]
    for name in ("validation", "step", *(loss_unit(best) if name == "loss" else COLUMNS[name][0] for name in shown)):
        table.add_column(name, justify="left" if name == "validation" else "right")
    for name, row in (("best (in model/)", best), ("last", last)):
        table.add_row(name, str(row["step"]), *(f"{row[measure]:.{COLUMNS[measure][1]}f}" for measure in shown))
    out = console(stderr=True)
    out.print(table)
    watched = [row for row in rows if row["split"].startswith(WATCHED)]
    if watched:
        out.print(_watched_table(watched, best["step"]))
    files = "curves.png and samples.md are" if (run / "samples.md").exists() else "curves.png is"
    out.print(f"{parameters:,} parameters; {files} in the run folder. Next:", soft_wrap=True)
    use = [*program("chat"), argument(run)]
    if prompt is not None:
        use = [*program("generate"), f"run={argument(run)}", f"prompt={prompt}"]
    commands = [shell(*use), shell(*program("evaluate"), argument(run))]
    if board:
        commands.append(shell("tensorboard", "--logdir", argument(run.parent)))
    for line in commands:
        out.print(f"  {line}", soft_wrap=True)


def _watched_table(rows: list[dict[str, Any]], best: int) -> Table:
    """Returns the table of the watched texts: before the training, at the best step, at the end."""
    table = Table(title="Watched: texts that were not trained on", title_justify="left")
    for name in ("text", "step", "nats a token", "bits per byte", "since step 0"):
        table.add_column(name, justify="left" if name == "text" else "right")
    for split in dict.fromkeys(row["split"] for row in rows):
        own = {row["step"]: row for row in rows if row["split"] == split}
        for step in sorted({0, best, max(own)} & set(own)):
            row = own[step]
            change = f"{row['bits_per_byte'] - own[0]['bits_per_byte']:+.4f}" if 0 in own else ""
            table.add_row(
                split.removeprefix(WATCHED), str(step), f"{row['loss']:.4f}", f"{row['bits_per_byte']:.4f}", change
            )
    return table


def learned_by_heart(run: Path) -> str:
    """Returns a line that says whether a run of `data.overfit=true` memorized its one batch."""
    losses = [row["loss"] for row in _rows(run) if row["split"] == "train" and row["loss"] is not None]
    if not losses:
        return "One batch was not learned by heart: no training loss was a number."
    course = f"its loss went from {losses[0]:.3g} to {losses[-1]:.3g} nats a token"
    if losses[-1] < LEARNED:
        return f"One batch was learned by heart: {course}. The model, the loss and the optimizer work together."
    return (
        f"One batch was not learned by heart: {course}, and should come below {LEARNED:g}. Try more trainer.max_steps or"
        " another optim.lr; if it stays, the model, the loss or the optimizer is wrong."
    )


def completed(root: Path) -> list[Path]:
    """Returns the runs of a sweep that ended without a failure, in the order of their numbers."""
    numbered = [path.parent for path in root.glob("*/curves.png") if path.parent.name.isdigit()]
    return sorted((run for run in numbered if not (run / FAILURE).exists()), key=lambda run: int(run.name))


def print_sweep(root: Path) -> int:
    """Prints one table of all runs of a sweep, the best first, on standard error.

    `root` is the folder that holds the runs.

    Returns:
        The number of failed runs. Their reasons are printed below the table.
    """
    runs = {file.parents[1]: set(OmegaConf.load(file)) for file in sorted(root.glob(f"*/{SWEPT}"))}
    shared = set.intersection(*runs.values()) if len(runs) > 1 else set()
    table = Table(title=f"All runs of {root}", title_justify="left")
    for name in ("run", "overrides", "best step", "nats a token", "bits per byte"):
        table.add_column(name, overflow="fold")
    made, failed = [], []
    for run in runs:
        rows = [row for row in _rows(run) if row["split"] == "val"]
        told = run / FAILURE
        if rows:
            made.append((best_row(run), run))
        if told.exists() or not rows:
            failed.append((told.read_text(encoding="utf-8").strip() if told.exists() else "no validation", run))
    for row, run in sorted(made, key=lambda item: item[0].get("bits_per_byte", item[0]["loss"])):
        own = " ".join(sorted(runs[run] - shared))
        of_text = f"{row['bits_per_byte']:.4f}" if "bits_per_byte" in row else ""
        figures = (str(row["step"]), f"{row['loss']:.4f}", of_text)
        table.add_row(run.name, own, *figures)
    finished = [run for _, run in made]
    for run in [run for _, run in failed if run not in finished]:
        table.add_row(run.name, " ".join(sorted(runs[run] - shared)), "failed", "", "")
    out = console(stderr=True)
    out.print(table)
    for reason, run in failed:
        out.print(f"{run.name} failed: {reason}", soft_wrap=True)
    return len(failed)
