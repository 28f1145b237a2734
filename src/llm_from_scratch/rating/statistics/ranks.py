"""Rank correlations with weights: Spearman's rho and Kendall's tau-b.

A weight is how often a row counts, so that a bootstrap need not copy rows. n rows.
"""

import math

import numpy as np

FIELLER = 1.03  # standard error of Spearman's rho on Fisher's scale, times sqrt(n - 3): Fieller et al. 1957


def spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Returns Spearman's rank correlation, ties by mean ranks; NaN where one side is constant."""
    w = np.ones(len(x)) if weights is None else weights
    a, b = _ranks(x, w), _ranks(y, w)
    total = w.sum()
    if total == 0:
        return math.nan
    a, b = a - (w @ a) / total, b - (w @ b) / total
    scale = math.sqrt(float((w @ a**2) * (w @ b**2)))
    return float((w * a) @ b) / scale if scale > 1e-12 else math.nan


def kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Returns Kendall's tau-b; NaN where one side is constant."""
    w = np.ones(len(x)) if weights is None else weights
    a, b = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    scale = math.sqrt(float((w @ a**2 @ w) * (w @ b**2 @ w)))
    return float(w @ (a * b) @ w) / scale if scale > 1e-12 else math.nan


def fisher_interval(rho: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Returns the interval of a rank correlation of `count` independent rows; NaN below four."""
    if count <= 3 or not math.isfinite(rho):
        return math.nan, math.nan
    middle, half = math.atanh(min(max(rho, -0.999999), 0.999999)), z * FIELLER / math.sqrt(count - 3)
    return math.tanh(middle - half), math.tanh(middle + half)


def bootstrap_interval(rho: float, replicates: np.ndarray, z: float = 1.959964) -> tuple[float, float]:
    """Returns an interval about `rho` with the replicates' spread on Fisher's scale.

    Percentiles would be too low: drawn again, the means have more noise, which weakens a
    correlation.
    """
    known = replicates[np.isfinite(replicates)]
    if len(known) < 2 or not math.isfinite(rho):
        return math.nan, math.nan
    middle = math.atanh(min(max(rho, -0.999999), 0.999999))
    half = z * float(np.arctanh(np.clip(known, -0.999999, 0.999999)).std(ddof=1))
    return math.tanh(middle - half), math.tanh(middle + half)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns mean ranks, each row counted as often as its weight: (n,) -> (n,)."""
    _, number = np.unique(values, return_inverse=True)
    counts = np.bincount(number, weights=weights)
    return (counts.cumsum() - counts / 2)[number]
