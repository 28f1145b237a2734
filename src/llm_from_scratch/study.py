"""The trials of a sweep, in Optuna's study: one SQLite file in the folder of the sweep.

A trial is in one of three states. *Running*: drawn and not finished, be it that it trains, that it
was killed or that the machine failed; a sweep that goes on takes it up. *Complete*: it has a value,
infinite where its settings cannot be trained. *Pruned*: it was stopped, unpromising, at a
validation.

The process of the sweep draws and finishes trials; a lock on the folder lets no second one in. The
process of a trial only adds the values of its validations.
"""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_from_scratch.config import SweeperConfig
from llm_from_scratch.errors import UserError, first_line, missing_extra
from llm_from_scratch.files import replaced_file

if TYPE_CHECKING:
    import optuna

STUDY = "study.db"  # in the folder of a sweep
NAME = "sweep"  # of the study; Hyperband's brackets depend on it
PRUNED = "pruned_at"  # attribute of a trial: the optimizer step at which it was stopped
BUSY = 120  # seconds that a process waits while another one writes to the file
TREES = 64  # of fANOVA's random forest
FEWEST = 4  # finished trials, for importances


@dataclass(frozen=True)
class Dimension:
    """The values of one setting: `choices`, or the numbers from `low` to `high`, both included."""

    low: float = 0
    high: float = 0
    step: float | None = None  # None: all numbers between
    log: bool = False  # drawn evenly over the logarithm
    choices: tuple[str, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """Returns the values that a check has to try: all choices, or the smallest and largest."""
        return self.choices or (self.low, self.high)


@dataclass(frozen=True)
class TrialRow:
    """A trial as the study holds it."""

    number: int
    state: str  # running | complete | pruned
    params: dict[str, Any]
    value: float | None  # of a finished trial
    reports: dict[int, float]  # optimizer step -> the value of its validation
    pruned_at: int | None  # the optimizer step at which its own process stopped it


def objective(row: Mapping[str, Any]) -> float:
    """Returns what a sweep minimises: bits per byte of a validation row, else its loss.

    Bits per byte are comparable between tokenizers.
    """
    return float(row.get("bits_per_byte", row["loss"]))


def require_optuna(what: str) -> None:
    """Raises UserError where Optuna is not installed; `what` needs it."""
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise missing_extra(f"{what} needs Optuna", "sweep")


class Study:
    """The study of a sweep's folder."""

    def __init__(self, folder: Path) -> None:
        """Opens the study.

        Raises:
            UserError: when there is none, or its file is damaged.
        """
        self.path = folder / STUDY
        if not self.path.is_file():
            raise UserError(f"{folder} is no sweep of sweep=optuna: it has no {STUDY}")
        try:
            self._storage, self._study = _open(self.path)
            saved = self._study.user_attrs
            self.settings = SweeperConfig(**saved["settings"])
            self.space = {name: _dimension(one) for name, one in saved["space"].items()}
            self.resources: tuple[int, int] = (saved["resources"][0], saved["resources"][1])
        except UserError:
            raise
        except Exception as error:  # SQLAlchemy's, SQLite's, Optuna's: of a damaged file
            raise UserError(f"{self.path} cannot be read ({first_line(error, 100)}): restore it from a copy") from None
        self._study.pruner = _pruner(self.settings, *self.resources)

    @staticmethod
    def create(
        folder: Path, settings: SweeperConfig, space: Mapping[str, Dimension], resources: tuple[int, int]
    ) -> "Study":
        """Makes the study of a new sweep, at once or not at all.

        Args:
            folder: the folder of the sweep.
            settings: of the sweeper.
            space: setting -> its values.
            resources: the optimizer steps of the first validation and of a whole run, for
                Hyperband.
        """
        with replaced_file(folder / STUDY) as building:
            storage, study = _open(building, create=True)
            study.set_user_attr("settings", asdict(settings))
            study.set_user_attr("space", {name: asdict(one) for name, one in space.items()})
            study.set_user_attr("resources", list(resources))
            _close(storage)
        return Study(folder)

    def follow(self, settings: SweeperConfig) -> None:
        """Takes over the settings of a sweep that goes on, for the trials that start now."""
        self.settings = settings
        self._study.set_user_attr("settings", asdict(settings))
        self._study.pruner = _pruner(settings, *self.resources)

    def close(self) -> None:
        """Closes the file."""
        _close(self._storage)

    def trials(self) -> list[TrialRow]:
        """Returns all trials in the order of their numbers."""
        return [_row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def trial(self, number: int) -> TrialRow:
        """Returns one trial.

        Raises:
            UserError: when the study has none of this number.
        """
        for row in self.trials():
            if row.number == number:
                return row
        raise UserError(f"{self.path} has no trial {number}: the sweep's folder holds files of another sweep")

    def draw(self, number: int | None = None) -> TrialRow:
        """Draws the values of a new trial, or those that a kill kept trial `number` from getting.

        They are a function of the seed, the number of the trial, and the trials before it.
        """
        new = number is None
        number = len(self._study.get_trials(deepcopy=False)) if number is None else number
        self._study.sampler = _sampler(self.settings, number, self.space)
        trial = self._study.ask() if new else self._live(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a range whose end is no whole number of steps away
            _ = trial.relative_params  # those that are drawn together, now: each has one seed
            for place, (name, one) in enumerate(self.space.items(), 1):
                self._study.sampler = _sampler(self.settings, number, self.space, place)
                _suggest(trial, name, one)
        return self.trial(number)

    def report(self, number: int, step: int, value: float, *, last: bool) -> bool:
        """Adds the value of a validation; returns whether the trial is to stop there.

        A resumed trial repeats validations. It gets the answer that it got before.

        Args:
            number: of the trial.
            step: the optimizer step.
            value: of the validation, see `objective`.
            last: whether the run ends here anyway.
        """
        row = self.trial(number)
        if row.pruned_at is not None:
            return step >= row.pruned_at
        if row.state != "running" or any(other > step for other in row.reports):
            return False
        trial = self._live(number)
        if step not in row.reports:
            trial.report(value, step)
        if last or not trial.should_prune():
            return False
        trial.set_user_attr(PRUNED, step)
        return True

    def _live(self, number: int) -> "optuna.Trial":
        """Returns a running trial, to draw its values or to report on it."""
        from optuna.trial import Trial

        frozen = next(one for one in self._study.get_trials(deepcopy=False) if one.number == number)
        return Trial(self._study, frozen._trial_id)

    def finish(self, number: int, value: float) -> None:
        """Records the value of a finished trial, or that it was pruned."""
        from optuna.trial import TrialState

        row = self.trial(number)
        if row.state != "running":
            return
        if row.pruned_at is not None:
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, value)

    def importances(self) -> dict[str, float]:
        """Returns setting -> its share of the variance of the trials' values, by fANOVA.

        A random forest predicts the values of the complete trials from their settings; the shares
        are those of its variance that each setting alone accounts for, scaled to a sum of 1 (Hutter
        et al. 2014).

        Raises:
            UserError: when too few trials are complete, or scikit-learn is not installed.
        """
        return _importances(self._study)


def importances_of(params: Sequence[Mapping[str, Any]], values: Sequence[float]) -> dict[str, float]:
    """Returns the importances of settings, as `Study.importances`, for runs of no study.

    Args:
        params: the settings of each run, with the same names.
        values: of each run, see `objective`.

    Raises:
        UserError: when there are too few runs, or a library is not installed.
    """
    require_optuna("the importance of settings")
    import optuna

    _quiet()
    study = optuna.create_study()
    choices = {name: sorted({str(one[name]) for one in params}) for name in (params[0] if params else ())}
    distributions: dict[str, Any] = {
        name: optuna.distributions.CategoricalDistribution(of) for name, of in choices.items()
    }
    for one, value in zip(params, values, strict=True):
        texts = {name: str(own) for name, own in one.items()}
        study.add_trial(optuna.trial.create_trial(params=texts, distributions=distributions, value=value))
    return _importances(study)


def _importances(study: "optuna.Study") -> dict[str, float]:
    from importlib.util import find_spec

    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    if find_spec("sklearn") is None:
        raise missing_extra("fANOVA needs scikit-learn", "sweep")
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = [one.value for one in complete if one.value is not None and math.isfinite(one.value)]
    if len(values) < FEWEST or len(set(values)) < 2:
        raise UserError(f"fANOVA needs {FEWEST} finished runs of different results, and there are {len(values)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=TREES, seed=0))
    return {name: float(share) for name, share in found.items()}


def _quiet() -> None:
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)


def _open(path: Path, *, create: bool = False) -> "tuple[optuna.storages.RDBStorage, optuna.Study]":
    require_optuna("the study of a sweep")
    import optuna

    _quiet()
    if "?" in str(path):
        raise UserError(f"{path}: SQLAlchemy cannot open a file with '?' in its path: name another run_dir")
    url = "sqlite:///" + str(path.absolute()).replace("{", "{{").replace("}", "}}")
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY}})
    if create:
        return storage, optuna.create_study(storage=storage, study_name=NAME, direction="minimize")
    return storage, optuna.load_study(storage=storage, study_name=NAME)


def _close(storage: "optuna.storages.RDBStorage") -> None:
    storage.remove_session()
    storage.engine.dispose()


def combinations_of(space: Mapping[str, Dimension]) -> int:
    """Returns the number of combinations of choices; a dimension without choices counts as none."""
    return math.prod(len(one.choices) for one in space.values())


def combination(space: Mapping[str, Dimension], number: int) -> dict[str, Any]:
    """Returns the values of a combination of choices, counted from 0.

    The last setting varies first.
    """
    values: dict[str, Any] = {}
    for name in reversed(list(space)):
        number, place = divmod(number, len(space[name].choices))
        values[name] = space[name].choices[place]
    return values


def _sampler(settings: SweeperConfig, number: int, space: Mapping[str, Dimension], place: int = 0) -> Any:
    import numpy as np
    import optuna

    seed = int(np.random.SeedSequence((settings.seed, number, place)).generate_state(1)[0])
    if settings.sampler == "grid":
        others = optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():  # "experimental": the version is pinned
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.PartialFixedSampler(combination(space, number), others)
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # By default the trials that run now count as bad ones, so that two workers draw other values
    return optuna.samplers.TPESampler(n_startup_trials=settings.startup_trials, seed=seed)


def _pruner(settings: SweeperConfig, first: int, steps: int) -> Any:
    import optuna

    if settings.pruner == "none":
        return optuna.pruners.NopPruner()
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(settings.pruner_startup, settings.pruner_warmup)
    # No rung below the first validation, which would decide nothing
    return optuna.pruners.HyperbandPruner(min(first, steps), steps, settings.reduction_factor)


def _suggest(trial: "optuna.Trial", name: str, one: Dimension) -> None:
    """Draws a value, unless the trial has one."""
    if one.choices:
        trial.suggest_categorical(name, one.choices)
    elif isinstance(one.low, int) and isinstance(one.high, int):
        trial.suggest_int(name, one.low, one.high, step=int(one.step or 1), log=one.log)
    else:
        trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)


def _dimension(saved: Mapping[str, Any]) -> Dimension:
    return Dimension(**dict(saved) | {"choices": tuple(saved["choices"])})


def _row(trial: Any) -> TrialRow:
    from optuna.trial import TrialState

    state = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(trial.state, "running")
    value = trial.value if state != "running" else None
    pruned_at = trial.user_attrs.get(PRUNED)
    return TrialRow(trial.number, state, dict(trial.params), value, dict(trial.intermediate_values), pruned_at)
