"""Correction of p-values for many comparisons."""

import numpy as np


def holm(p_values: np.ndarray) -> np.ndarray:
    """Returns Holm's adjusted p-values (1979): (M,) -> (M,), in the same order.

    Rejecting all that are at most a level keeps the probability of any false rejection below that
    level, however the tests depend on one another. NaN stays NaN, and counts as no test.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)  # NaN comes last
    tests = int(np.isfinite(p).sum())
    steps = p[order[:tests]] * np.arange(tests, 0, -1)
    adjusted = np.full(len(p), np.nan)
    adjusted[order[:tests]] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
