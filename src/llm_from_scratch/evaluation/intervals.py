"""Confidence intervals: bootstrap for ratios of sums and for means, Wilson's for shares."""

import math
from statistics import NormalDist

import numpy as np

from llm_from_scratch.errors import UserError

CHUNK = 4_000_000  # indices drawn at a time
MANY = 5_000  # blocks of a mean, at most


def bootstrap_ratio(
    numerators: np.ndarray, denominators: np.ndarray, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Returns the ratio of two sums and its bootstrap percentile interval: (ratio, low, high).

    Each of `samples` resamples draws N units (documents, or blocks of one document) with
    replacement, numerator and denominator together. low and high are the quantiles (1 - level) / 2
    and (1 + level) / 2 of their ratios (Efron and Tibshirani 1993, chapter 13). The interval covers
    the choice of the text, not the seed of the training. Blocks must be long enough to be about
    independent.

    Args:
        numerators: (N,) such as the bits of each unit.
        denominators: (N,) such as its bytes, positive.
        level: between 0 and 1.

    Raises:
        UserError: when there are no units, the shapes differ, or a denominator is not positive.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if above.ndim != 1 or above.shape != below.shape or not len(above):
        raise UserError(f"numerators {above.shape} and denominators {below.shape}: give one of each for every unit")
    if not (below > 0).all() or not 0 < level < 1:
        raise UserError(f"level={level}: it is between 0 and 1, and every denominator is positive")
    N = len(above)
    rng = np.random.default_rng(seed)
    ratios = []
    rows = max(CHUNK // N, 1)
    for start in range(0, samples, rows):
        drawn = rng.integers(0, N, (min(rows, samples - start), N))  # (rows, N)
        ratios.append(above[drawn].sum(axis=1) / below[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [(1 - level) / 2, (1 + level) / 2])
    return float(above.sum() / below.sum()), float(low), float(high)


class BlockedMean:
    """The mean of `total` values that arrive in order, and its interval, from sums over blocks.

    At most `MANY` sums are kept, and the bootstrap draws them: memory and work do not grow with
    the number of values.
    """

    def __init__(self, total: int) -> None:
        self._block, self._seen = -(-total // MANY), 0
        starts = np.arange(0, total, self._block)
        self._counts = np.minimum(self._block, total - starts)
        self._sums = np.zeros(len(starts))

    def add(self, values: np.ndarray) -> None:
        """Adds the next values, (n,)."""
        block = (self._seen + np.arange(len(values))) // self._block
        self._sums += np.bincount(block, weights=values, minlength=len(self._sums))
        self._seen += len(values)

    def interval(self, samples: int = 500) -> tuple[float, float, float]:
        """Returns (mean, low, high), as `bootstrap_ratio` does, once all values were added."""
        assert self._seen == self._counts.sum()
        return bootstrap_ratio(self._sums, self._counts, samples=samples)


def wilson(successes: float, total: int, level: float = 0.95) -> tuple[float, float]:
    """Returns Wilson's score interval of a share (Wilson 1927): (low, high), within [0, 1].

    A tie may count as half a success.

    Raises:
        UserError: when `total` is below 1, or `successes` is not from 0 to `total`.
    """
    if not 0 <= successes <= total or total < 1:
        raise UserError(f"{successes} of {total} is no share: count at least one, and no more than all")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, z2 = successes / total, z * z / total
    middle = (share + z2 / 2) / (1 + z2)
    half = z * math.sqrt(share * (1 - share) / total + z2 / total / 4) / (1 + z2)
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    return low if successes > 0 else 0.0, high if successes < total else 1.0
