"""Krippendorff's alpha: agreement of raters beyond chance, 1 for always and 0 for as by chance.

Krippendorff 2011, “Computing Krippendorff's Alpha-Reliability”. L levels (distinct values), U units
(items), B resamples.
"""

import math
from typing import Literal

import numpy as np

from llm_from_scratch.rating.statistics.crossed import BOOTSTRAP, t_quantile

Metric = Literal["nominal", "ordinal", "interval"]


def alpha(unit: np.ndarray, value: np.ndarray, metric: Metric = "ordinal") -> float:
    """Returns Krippendorff's alpha; NaN where no unit has two values, or all values are equal.

    A unit with one value alone says nothing, and is left out.

    Args:
        unit: (N,) the item of each rating. value: (N,) numbers.
        metric: whether values are names, ranks or numbers.
    """
    levels, coincidences = _coincidences(unit, value)
    return float(_alphas(coincidences.sum(axis=0)[None], levels, metric)[0])


def alpha_interval(
    unit: np.ndarray,
    value: np.ndarray,
    cluster: np.ndarray,
    metric: Metric = "ordinal",
    level: float = 0.95,
    resamples: int = BOOTSTRAP,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Returns (alpha, low, high): the bootstrap draws clusters of units with replacement.

    The interval is Student's, on log(1 - alpha), with the bootstrap's standard error: it speaks of
    other prompts and of these raters. It covers 93 to 96 % in simulated studies of 20 and 40
    prompts, percentiles of the same bootstrap 91 to 95 %; Krippendorff's own draws pairs of values,
    as if they were independent of one another.

    Args:
        unit: (N,) the item of each rating. value: (N,) numbers.
        cluster: (N,) the prompt of each rating, as texts of one prompt are alike.
    """
    levels, coincidences = _coincidences(unit, value)
    estimate = float(_alphas(coincidences.sum(axis=0)[None], levels, metric)[0])
    first = np.unique(unit, return_index=True)[1]
    clusters, of_unit = np.unique(np.asarray(cluster)[first], return_inverse=True)
    count = len(clusters)
    sums = np.zeros((count, *coincidences.shape[1:]))
    np.add.at(sums, of_unit, coincidences)
    if count < 2 or not math.isfinite(estimate):
        return estimate, math.nan, math.nan
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)  # (B, count)
    replicates = _alphas(np.tensordot(drawn, sums, axes=1), levels, metric)
    chance = replicates[np.isfinite(replicates)]
    if 1 - estimate < 1e-12 or not len(chance):
        return estimate, float(chance.min(initial=estimate)), float(chance.max(initial=estimate))
    logs = np.log(np.maximum(1 - chance, 1e-12))
    half = t_quantile((1 + level) / 2, count - 1) * float(logs.std(ddof=1)) * math.sqrt(count / (count - 1))
    return estimate, 1 - (1 - estimate) * math.exp(half), 1 - (1 - estimate) * math.exp(-half)


def _coincidences(unit: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct values (L,), and the coincidences within each unit: (U, L, L).

    In a unit of m values every pair of two raters counts 1 / (m - 1).
    """
    levels, of_value = np.unique(value, return_inverse=True)
    units, of_unit = np.unique(unit, return_inverse=True)
    counts = np.zeros((len(units), len(levels)))
    np.add.at(counts, (of_unit, of_value), 1)
    sizes = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(levels))
    return levels.astype(np.float64), pairs / np.maximum(sizes - 1, 1)[:, None, None]


def _alphas(coincidences: np.ndarray, levels: np.ndarray, metric: Metric) -> np.ndarray:
    """Returns alpha of each table of coincidences: (B, L, L) -> (B,)."""
    frequencies = coincidences.sum(axis=2)  # (B, L)
    total = frequencies.sum(axis=1)
    if metric == "nominal":
        distance = np.broadcast_to(1.0 - np.eye(len(levels)), coincidences.shape)
    elif metric == "interval":
        distance = np.broadcast_to((levels[:, None] - levels[None, :]) ** 2, coincidences.shape)
    else:
        # Ranks: the frequencies between two values, half of those at the ends
        middle = frequencies.cumsum(axis=1) - frequencies / 2
        distance = (middle[:, :, None] - middle[:, None, :]) ** 2
    observed = (coincidences * distance).sum(axis=(1, 2))
    expected = np.einsum("bi,bj,bij->b", frequencies, frequencies, distance)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (total - 1) * observed / expected, np.nan)
