"""Settings of `sweep=optuna`: `hydra.sweeper.*`."""

from dataclasses import dataclass, field
from typing import Any

from llm_from_scratch.ranges import NOT_NEGATIVE, POSITIVE, SEED, Range, choice, ranged

FACTOR = Range(lambda value: value >= 2, "2 or more")


@dataclass(kw_only=True)
class SweeperConfig:
    """The settings of the sweeper, all but the search space's meaning, which is Hydra's grammar."""

    n_trials: int = ranged(20, POSITIVE)  # trials in all; a sweep that goes on may have more
    # trials at a time, by hydra/launcher=joblib or submitit_*; null: 1, of joblib as many as hydra.launcher.n_jobs
    n_jobs: int | None = ranged(None, POSITIVE)
    # tpe: from the earlier trials (Bergstra et al. 2011) | random | grid: every combination of choices in turn
    sampler: str = ranged("tpe", choice("tpe", "random", "grid"))
    seed: int = ranged(1337, SEED)  # of the values that are drawn
    startup_trials: int = ranged(10, NOT_NEGATIVE)  # tpe: trials of random values before the first drawn from others
    # median: worse than the median of the finished trials at this step | hyperband (Li et al. 2018) | none
    pruner: str = ranged("median", choice("median", "hyperband", "none"))
    pruner_startup: int = ranged(5, POSITIVE)  # median: finished trials before the first one is pruned
    pruner_warmup: int = ranged(0, NOT_NEGATIVE)  # median: optimizer steps before a trial may be pruned
    reduction_factor: int = ranged(3, FACTOR)  # hyperband: of so many trials one goes on to the next rung
    params: dict[str, Any] = field(default_factory=dict)  # setting -> its values, in Hydra's grammar
