"""How the loss falls with the size of a model and the amount of its text: the fit of a sweep.

    runs -> parameters N, tokens D, loss L -> L(N, D) = E + A / N^a + B / D^b (Hoffmann et al. 2022)

E is the loss that remains with any size and amount: the entropy. Of told stories it is known, and
the fit can be held against it. For given exponents the law is linear in E, A and B, which are
fitted by least squares of the relative error; the exponents are searched on a grid that narrows.
The intervals are by bootstrap over the runs, so they cover neither the seeds nor a law of another
form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import fsum

import numpy as np

from llm_from_scratch import tales
from llm_from_scratch.config import Config
from llm_from_scratch.data.sampler import sequences_before
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.comparison import run_folders
from llm_from_scratch.run import RunFolder
from llm_from_scratch.weights import load_model

PARAMETERS = ("E", "A", "B", "a", "b")
FEWEST = 6  # runs of a fit: one more than the law has parameters
EXPONENTS = (0.02, 2.5)  # of the search
GRID, ROUNDS = 25, 4  # points of each exponent, and how often the grid narrows


@dataclass(frozen=True, kw_only=True)
class Point:
    """A run: its parameters, the tokens that it read, its loss in bits per byte."""

    run: str
    parameters: int
    tokens: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A parameter of the law and its interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """The finished runs of a sweep, the smallest first, and the law that fits them."""

    runs: list[Point]
    law: dict[str, Estimate]
    entropy: float | None = None  # of told stories, bits per byte
    left_out: list[str]


def scaling(names: Sequence[str]) -> Scaling:
    """Fits the law to finished runs.

    The loss of a run on told stories is its excess over the process on the held-out ones, plus the
    entropy: which stories are held out then does not matter.

    Args:
        names: run folders, or the folder of a sweep.

    Raises:
        UserError: when a folder holds no run, or the runs do not differ enough.
    """
    points, levels, left_out = [], set(), []
    for folder in run_folders(names)[0]:
        run = RunFolder(folder)
        best = run.best() if (folder / "curves.png").exists() else None
        if best is None or "bits_per_byte" not in best:
            left_out.append(f"{folder}: it is not finished, or has no bits per byte")
            continue
        config, data = run.config(), run.config().data
        sequences = sequences_before(config.trainer.max_steps, data.batch_size, data.batch_schedule)
        levels.add(data.level)
        points.append(
            Point(
                run=str(folder),
                parameters=load_model(folder).model.num_parameters(),
                tokens=sequences * config.model.block_size,
                loss=best["bits_per_byte"] + _entropy_less_held_out(config),
            )
        )
    points.sort(key=lambda one: (one.parameters, one.tokens))
    (level,) = levels if len(levels) == 1 else (None,)
    entropy = None if level is None else tales.entropy(level).bits_per_byte.value
    return Scaling(runs=points, law=estimates(points), entropy=entropy, left_out=left_out)


def _entropy_less_held_out(config: Config) -> float:
    """Returns the entropy less the mean bits of the held-out stories, a byte; 0 of other texts."""
    level = config.data.level
    return 0.0 if level is None else _of_stories(level, config.data.val_stories)


@cache
def _of_stories(level: int, count: int) -> float:
    stories = list(tales.stories(0, 0, count, level, "val"))
    bits = -fsum(tales.log2_probability(story, level) for story in stories)
    return tales.entropy(level).bits_per_byte.value - bits / sum(len(story.encode()) for story in stories)


def fit(N: np.ndarray, D: np.ndarray, L: np.ndarray) -> np.ndarray:
    """Returns E, A, B, a and b of the law, (5,); E, A and B are 0 or more.

    Args:
        N: (R,) parameters. D: (R,) tokens. L: (R,) losses.
    """
    # In units of the smallest, so that the columns have like sizes
    n, d = N / N.min(), D / D.min()
    low, high = np.log(EXPONENTS[0]), np.log(EXPONENTS[1])
    centers, reach, best = np.full(2, (low + high) / 2), (high - low) / 2, np.empty(0)
    for _ in range(ROUNDS):
        steps = np.linspace(-reach, reach, GRID)
        exponents = np.exp(np.clip(centers[:, None] + steps, low, high))  # (2, GRID)
        a, b = (one.ravel() for one in np.meshgrid(*exponents, indexing="ij"))  # (G,) each
        columns = np.stack([np.ones((len(a), len(L))), n ** -a[:, None], d ** -b[:, None]], axis=-1) / L[:, None]
        weights, errors = _non_negative(columns)
        place = int(errors.argmin())
        centers, reach = np.log([a[place], b[place]]), reach * 4 / GRID
        E, A, B = weights[place]
        best = np.array([E, A * N.min() ** a[place], B * D.min() ** b[place], a[place], b[place]])
    return best


def _non_negative(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the non-negative weights with which columns come nearest to 1: (G, 3).

    The second value is the squared errors, (G,).

    Args:
        columns: (G, R, 3).
    """
    G, _, width = columns.shape
    best, errors = np.zeros((G, width)), np.full(G, np.inf)
    for size in range(1, width + 1):
        for chosen in map(list, combinations(range(width), size)):
            part = columns[:, :, chosen]
            squares = part.transpose(0, 2, 1) @ part + 1e-12 * np.eye(size)
            weights = np.linalg.solve(squares, part.sum(axis=1)[:, :, None])  # (G, size, 1)
            error = np.square((part @ weights)[:, :, 0] - 1).sum(axis=1)
            better = (weights[:, :, 0] >= 0).all(axis=1) & (error < errors)
            errors[better] = error[better]
            best[better] = 0
            best[np.ix_(better, chosen)] = weights[better, :, 0]
    return best, errors


def estimates(points: Sequence[Point], samples: int = 200, seed: int = 0) -> dict[str, Estimate]:
    """Returns the fitted parameters of the law with their intervals.

    Args:
        points: the runs.
        samples: of the bootstrap.
        seed: of these.

    Raises:
        UserError: when there are too few runs, or all have one size or one amount.
    """
    N, D, L = (np.array([getattr(one, key) for one in points], float) for key in ("parameters", "tokens", "loss"))
    if len(points) < FEWEST or len(set(N)) < 2 or len(set(D)) < 2:
        raise UserError(
            f"{len(points)} runs: a fit needs {FEWEST} or more, of several sizes and several amounts of text"
        )
    rng, found = np.random.default_rng(seed), list[np.ndarray]()
    while len(found) < samples:
        drawn = rng.integers(0, len(points), len(points))
        if len(set(drawn)) >= FEWEST and len(set(N[drawn])) > 1 and len(set(D[drawn])) > 1:
            found.append(fit(N[drawn], D[drawn], L[drawn]))
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    whole = fit(N, D, L)
    return {
        name: Estimate(value=float(whole[i]), low=float(low[i]), high=float(high[i]))
        for i, name in enumerate(PARAMETERS)
    }


def law(law_of: dict[str, Estimate], N: np.ndarray | float, D: np.ndarray | float) -> np.ndarray:
    """Returns the loss that the fitted law gives."""
    E, A, B, a, b = (law_of[name].value for name in PARAMETERS)
    return np.asarray(E + A / np.asarray(N, float) ** a + B / np.asarray(D, float) ** b)
