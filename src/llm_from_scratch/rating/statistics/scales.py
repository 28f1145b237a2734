"""Means, medians and differences of systems that were rated on a scale.

S systems, N ratings, L levels of the scale, B resamples, M pairs of systems.
"""

from itertools import combinations

import numpy as np

from llm_from_scratch.rating.records import SCALE
from llm_from_scratch.rating.statistics.crossed import interval, p_values, parts, pigeonhole, quantiles, variance
from llm_from_scratch.rating.statistics.power import Parts
from llm_from_scratch.rating.statistics.results import Difference, SystemMean, Verdict
from llm_from_scratch.rating.statistics.table import Ratings

MARGIN = 0.3  # points: systems whose difference is surely smaller are called a tie
TIE_LEVEL = 0.9  # two one-sided tests at 5 % (Schuirmann 1987)
LEVEL = 0.05


def means(table: Ratings, cannot_judge: list[int] | None = None) -> list[SystemMean]:
    """Returns mean and median of each system with intervals over raters and prompts.

    The interval of the mean is `crossed.variance`'s; percentiles of the pigeonhole bootstrap stand
    beside it, and are all that a median has. A mean's interval ends at the ends of the scale.

    Args:
        cannot_judge: answers without a value, for each system.
    """
    levels = np.array(SCALE, dtype=np.float64)
    found = []
    for number, system in enumerate(table.systems):
        own = table.where(table.system == number)
        row = SystemMean(
            system=system, ratings=len(own.value), cannot_judge=cannot_judge[number] if cannot_judge else 0
        )
        found.append(row)
        if not len(own.value):
            continue
        row.counts = [int((own.value == level).sum()) for level in SCALE]
        row.mean = float(own.value.mean())
        spread = variance(((own.value - row.mean) / len(own.value))[:, None], own.rater, own.prompt)
        low, high = interval(np.array([row.mean]), *spread)
        row.low, row.high = _known(low[0], SCALE[0], SCALE[-1]), _known(high[0], SCALE[0], SCALE[-1])
        weights = pigeonhole(own.rater, own.prompt)
        counts = weights @ (own.value[:, None] == levels)  # (B, L)
        row.median = float(medians(np.array([row.counts], dtype=np.float64), levels)[0])
        if row.low is None:
            continue
        with np.errstate(invalid="ignore"):
            ends = quantiles(counts @ levels / counts.sum(axis=1))
        row.bootstrap_low, row.bootstrap_high = map(float, ends)
        row.median_low, row.median_high = map(float, quantiles(medians(counts, levels)))
    return found


def medians(counts: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Returns the medians of counted values: (B, L) -> (B,); NaN where nothing was counted."""
    total = counts.sum(axis=1, keepdims=True)
    below = counts.cumsum(axis=1)
    lower = levels[(below < total / 2).sum(axis=1).clip(max=len(levels) - 1)]
    upper = levels[(below <= total / 2).sum(axis=1).clip(max=len(levels) - 1)]
    return np.where(total[:, 0] > 0, (lower + upper) / 2, np.nan)


def differences(table: Ratings) -> tuple[list[Difference], dict[tuple[str, str], Parts]]:
    """Returns the differences of all pairs of systems, and the parts of their variances.

    They are those of a linear model with a mean for every system, rater and prompt, by least
    squares, so that a strict rater who saw more of one system does not count against it. Where all
    rated all, they are the differences of the means. Variances are `crossed.variance`'s, so that
    raters may differ in what they prefer, and prompts in what they suit; residuals are enlarged by
    N / (N - parameters).
    """
    names = list(combinations(range(len(table.systems)), 2))
    _, rater = np.unique(table.rater, return_inverse=True)
    _, prompt = np.unique(table.prompt, return_inverse=True)
    N = len(table.value)
    design = np.concatenate([_indicators(table.system, len(table.systems)), _indicators(rater), _indicators(prompt)], 1)
    contrasts = np.zeros((len(names), design.shape[1]))
    for row, (one, other) in enumerate(names):
        contrasts[row, one], contrasts[row, other] = 1, -1
    gram = design.T @ design
    inverse = np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
    estimable = np.abs(contrasts @ inverse @ gram - contrasts).max(axis=1, initial=0) < 1e-6
    coefficients = inverse @ (design.T @ table.value)
    rank = int(np.linalg.matrix_rank(gram, hermitian=True))
    enlarged = N / (N - rank) if rank < N else np.nan
    residuals = table.value - design @ coefficients
    influence = (design @ (inverse @ contrasts.T)) * residuals[:, None] * np.sqrt(enlarged)  # (N, M)
    values = contrasts @ coefficients
    found: list[Difference] = []
    variances: dict[tuple[str, str], Parts] = {}
    for row, (one, other) in enumerate(names):
        if not estimable[row]:
            continue
        first, second = table.systems[one], table.systems[other]
        column = influence[:, [row]]
        found.append(difference(first, second, float(values[row]), column, table.rater, table.prompt, MARGIN))
        variances[first, second] = parts(column, table.rater, table.prompt)
    return found, variances


def difference(
    first: str, second: str, value: float, influence: np.ndarray, rater: np.ndarray, prompt: np.ndarray, margin: float
) -> Difference:
    """Returns a difference with its interval and p-value; a tie where it is surely below `margin`.

    `decide` then gives the verdict, once all p-values are corrected.
    """
    spread = variance(influence, rater, prompt)
    estimate = np.array([value])
    (low,), (high,) = interval(estimate, *spread)
    (inner_low,), (inner_high,) = interval(estimate, *spread, level=TIE_LEVEL)
    return Difference(
        first=first,
        second=second,
        value=value,
        low=_known(low),
        high=_known(high),
        p=_known(p_values(estimate, *spread)[0]),
        verdict="tie" if max(-inner_low, inner_high) < margin else "open",
    )


def decide(found: Difference, adjusted: float) -> None:
    """Sets the corrected p-value and the verdict.

    A difference that is shown to exist counts, however small; a tie is one that is shown to be
    small. All else is open.
    """
    found.p_holm = _known(adjusted)
    shown: Verdict = "better" if found.value > 0 else "worse"
    if found.p_holm is not None and found.p_holm <= LEVEL:
        found.verdict = shown


def _indicators(numbers: np.ndarray, count: int | None = None) -> np.ndarray:
    """Returns one-hot rows: (N,) -> (N, count)."""
    return np.eye(count if count is not None else int(numbers.max(initial=-1)) + 1)[numbers]


def _known(value: float, least: float = -np.inf, most: float = np.inf) -> float | None:
    return float(min(max(value, least), most)) if np.isfinite(value) else None
