"""Several runs side by side: how their settings differ beside their results, and which mattered.

    run folders, folders of sweeps -> a `Comparison`, which `comparison_report` presents

The best runs are scored again on the text that they hold out, for a paired bootstrap; everything
else is read from the run folders.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_from_scratch.check import in_effect
from llm_from_scratch.config import FAILURE, leaves
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.measure import Settings, measure
from llm_from_scratch.evaluation.results import UNWRITTEN
from llm_from_scratch.places import MODEL, user_path
from llm_from_scratch.run import RunFolder, find_run
from llm_from_scratch.study import STUDY, Study, TrialRow, importances_of, objective

log = logging.getLogger(__name__)
# Settings that name a run rather than shape its result
NAMES = ("run_dir", "resume", "task", "print_config")


@dataclass(kw_only=True)
class ComparedRun:
    """A run and its results; None where it has none."""

    run: str  # its folder
    state: str  # finished | unfinished | pruned | failed
    reason: str | None = None  # of a failure
    settings: dict[str, Any] = field(default_factory=dict)  # those that differ among the runs
    best_step: int | None = None
    last_step: int | None = None
    loss: float | None = None  # of the best validation, nats a token
    bits_per_byte: float | None = None
    value: float | None = None  # what is compared: bits per byte, else the loss
    seconds: float | None = None  # of training, without validations
    more: float | None = None  # bits per byte above the best scored run's, by a paired bootstrap
    more_low: float | None = None
    more_high: float | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)  # (optimizer step, value)
    # all settings with an effect; none of a run that failed before it began
    every: dict[str, Any] = field(default_factory=dict, metadata=UNWRITTEN)


@dataclass(kw_only=True)
class Comparison:
    """The runs, the best one first; `settings` are those that differ among them."""

    runs: list[ComparedRun]
    settings: list[str]
    unit: str  # of `value`: bits per byte, or nats a token
    scored: str | None = None  # the text of the paired bootstrap
    best_scored: str | None = None  # the run that the others' `more` is above
    importances: dict[str, float] | None = None  # setting -> share of the variance (fANOVA)
    sweep: str | None = None  # the folder of the sweep that all runs are of
    trials: list[TrialRow] = field(default_factory=list, metadata=UNWRITTEN)
    left_out: list[str] = field(default_factory=list)


def compare(names: Sequence[str], *, score: int = 5, device: str = "auto", fewest: int = 2) -> Comparison:
    """Compares runs, and the runs of sweeps.

    Args:
        names: run folders, folders of sweeps, or `last`.
        score: how many of the best runs are scored for the paired bootstrap; below 2: none.
        device: of their models.
        fewest: how many runs there have to be.

    Raises:
        UserError: when a folder holds no run, or there are fewer runs.
    """
    folders, sweep = run_folders(names)
    found = Comparison(runs=[], settings=[], unit="bits per byte", sweep=str(sweep) if sweep else None)
    for folder in folders:
        try:
            found.runs.append(_read(folder))
        except UserError as error:
            found.left_out.append(str(error))
    if len(found.runs) < fewest:
        raise UserError(
            " ".join(["compare needs two runs or more: name them, or the folder of a sweep.", *found.left_out])
        )
    if sweep and (sweep / STUDY).exists():
        _attempt(found, "trials", lambda: _add_trials(found, sweep))
    if any(run.bits_per_byte is None and run.value is not None for run in found.runs):
        found.unit = "nats a token"
        for run in found.runs:
            run.value = run.loss
    found.runs.sort(key=lambda run: math.inf if run.value is None else run.value)
    _set_differing(found)
    if sweep:
        _attempt(found, "importance of settings", lambda: _importances(sweep, found))
    if score >= 2:
        _attempt(found, "paired bootstrap", lambda: _score(found, score, device))
    return found


def _attempt(found: Comparison, what: str, part: Callable[[], None]) -> None:
    try:
        part()
    except UserError as error:
        found.left_out.append(f"{what}: {error}")


def run_folders(names: Sequence[str]) -> tuple[list[Path], Path | None]:
    """Returns the run folders, and the sweep's where the only name is one."""
    folders: list[Path] = []
    for name in names:
        folder = find_run(name)
        if (folder / "config.yaml").exists():
            folders.append(folder)
            continue
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder: name a run, or the folder of a sweep")
        # A run that failed before it began has its reason alone.
        files = [path for name in ("config.yaml", FAILURE) for path in folder.glob(f"*/{name}")]
        jobs = {path.parent for path in files if path.parent.name.isdigit()}
        if not jobs and not (folder / STUDY).exists():
            raise UserError(
                f"{folder}: holds neither a run nor a sweep: name a folder with config.yaml, or one above it"
            )
        folders += sorted(jobs, key=lambda job: int(job.name))
    alone = user_path(names[0])
    sweep = alone if len(names) == 1 and names[0] != "last" and alone not in folders else None
    return list(dict.fromkeys(folders)), sweep


def _read(folder: Path) -> ComparedRun:
    run = RunFolder(folder)
    rows = [row for row in run.rows() if row.get("split") == "val"]
    best = min(rows, key=objective, default=None)
    seconds = [row["seconds"] for row in run.rows("timing.jsonl") if "seconds" in row]
    failure = folder / FAILURE
    state = "failed" if failure.exists() else "finished" if (folder / "curves.png").exists() else "unfinished"
    began = state != "failed" or (folder / "config.yaml").exists()
    config = run.config() if began else None
    return ComparedRun(
        run=str(folder),
        state=state,
        reason=failure.read_text(encoding="utf-8").strip() if state == "failed" else None,
        best_step=best["step"] if best else None,
        last_step=rows[-1]["step"] if rows else None,
        loss=float(best["loss"]) if best else None,
        bits_per_byte=best.get("bits_per_byte") if best else None,
        value=objective(best) if best else None,
        seconds=sum(seconds) if seconds else None,
        curve=[(row["step"], objective(row)) for row in rows],
        every={key: value for key, value in leaves(config) if key not in NAMES and in_effect(config, key)}
        if config
        else {},
    )


def _add_trials(found: Comparison, sweep: Path) -> None:
    study = Study(sweep)
    found.trials = study.trials()
    study.close()
    pruned = {str(row.number) for row in found.trials if row.pruned_at is not None}
    for run in found.runs:
        if Path(run.run).name in pruned and run.state == "finished":
            run.state = "pruned"


def _set_differing(found: Comparison) -> None:
    """Sets the settings that differ among the runs; a setting that a run lacks is null there."""
    every = list(dict.fromkeys(key for run in found.runs for key in run.every))
    found.settings = [key for key in every if len({repr(run.every.get(key)) for run in found.runs if run.every}) > 1]
    for run in found.runs:
        run.settings = {key: run.every.get(key) for key in found.settings}


def _importances(sweep: Path, found: Comparison) -> None:
    """Sets which settings of a sweep mattered; of a grid, those that differ."""
    if (sweep / STUDY).exists():
        study = Study(sweep)
        try:
            found.importances = study.importances()
        finally:
            study.close()
        return
    done = [run for run in found.runs if run.state == "finished" and run.value is not None]
    values = [run.value for run in done if run.value is not None]
    found.importances = importances_of([run.settings for run in done], values)


def _score(found: Comparison, score: int, device: str) -> None:
    """Scores the best runs on what they hold out; sets how much more each needs than the best."""
    able = [run for run in found.runs if run.value is not None and (Path(run.run) / MODEL).exists()][:score]
    if len(able) < 2:
        raise UserError("needs two runs with a model")
    log.info("scoring %d of %d runs", len(able), len(found.runs))
    scored = measure([run.run for run in able], Settings(device=device))
    found.scored, found.best_scored = scored.text.name, able[0].run
    for run, result in zip(able, scored.runs, strict=True):
        run.more, run.more_low, run.more_high = result.more, result.more_low, result.more_high


def by_params(trials: Sequence[TrialRow]) -> Mapping[str, list[tuple[Any, float, str]]]:
    """Returns setting -> (value, objective, state) of each trial that has a finite objective."""
    points: dict[str, list[tuple[Any, float, str]]] = {}
    for trial in trials:
        value = trial.value if trial.state != "running" else None
        if value is None or not math.isfinite(value):
            continue
        for name, drawn in trial.params.items():
            points.setdefault(name, []).append((drawn, value, trial.state))
    return points
