"""Uncertainty where raters and prompts are both samples: variance, intervals, the bootstrap.

A rater rates many prompts, and a prompt is rated by many raters: the ratings are dependent along
both, and neither nests in the other. Intervals speak of other raters and other prompts of the same
kind, so their number counts for more than the number of ratings.

N ratings, Q estimates, R raters, P prompts, B resamples.
"""

import math
from statistics import NormalDist

import numpy as np

BOOTSTRAP = 2000  # resamples
CELL_SHARE = 0.5  # of the cells' variance: the least that an estimate's variance is taken for
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


def variance(influence: np.ndarray, rater: np.ndarray, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns variances and degrees of freedom of estimates that are sums over crossed ratings.

    The two-way cluster estimate (Cameron, Gelbach and Miller 2011): A, the variance between the
    sums over raters, plus B, between those over prompts, minus C, between those over cells of both,
    as A and B have C in them. Degrees of freedom are Satterthwaite's (1946).

    Chosen by the coverage of 95 % intervals in simulated studies of 3 to 20 raters and 20 or 40
    prompts in which noise, raters or tastes dominate. This one: 94 to 97 % from six raters on, 91
    to 96 % with three. Percentiles of the pigeonhole bootstrap (`pigeonhole`): from 78 % (three
    raters who differ) to 99.5 % (noise, which it counts three times). A + B - C with normal
    quantiles: 80 to 95 %. With the larger of A and B as the least: 94 to 99 %. With one rater or
    one prompt that side is taken as given, and the interval does not speak of others.

    Args:
        influence: (N, Q) what each rating adds to each estimate; the columns sum to 0.
        rater: (N,) ids. prompt: (N,) ids.

    Returns:
        Variances (Q,), NaN for one rater with one prompt, and degrees of freedom (Q,).
    """
    A, B, C, R, P, cells = parts(influence, rater, prompt)
    if R < 2 and P < 2:
        unknown = np.full(C.shape, np.nan)
        return unknown, unknown
    if R < 2:
        return B, np.full_like(B, P - 1)
    if P < 2:
        return A, np.full_like(A, R - 1)
    return combined(A, B, C, R, P, cells)


def combined(
    A: np.ndarray, B: np.ndarray, C: np.ndarray, R: float, P: float, cells: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns variance and degrees of freedom from the parts of `parts`."""
    total = np.maximum(A + B - C, CELL_SHARE * C)
    noise = A**2 * (A > C) / max(R - 1, 1e-9) + B**2 * (B > C) / (P - 1) + C**2 / cells
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.where(noise > 0, total**2 / noise, 1.0)
    return total, np.maximum(freedom, 1.0)


def parts(
    influence: np.ndarray, rater: np.ndarray, prompt: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int, int]:
    """Returns A, B, C of `variance`, each (Q,), and the numbers of raters, prompts and cells."""
    influence = np.asarray(influence, dtype=np.float64)
    R, raters = _numbered(rater)
    P, prompts = _numbered(prompt)
    cells, cell = _numbered(raters * P + prompts)
    by_rater = _squares(influence, raters, R) * R / max(R - 1, 1)
    by_prompt = _squares(influence, prompts, P) * P / max(P - 1, 1)
    return by_rater, by_prompt, _squares(influence, cell, cells), R, P, cells


def interval(
    estimate: np.ndarray, variances: np.ndarray, freedom: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of Student's intervals, each (Q,); NaN where the variance is not known."""
    wide = np.array([t_quantile((1 + level) / 2, nu) if math.isfinite(nu) else math.nan for nu in freedom])
    half = wide * np.sqrt(variances)
    return estimate - half, estimate + half


def p_values(estimate: np.ndarray, variances: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Returns two-sided p-values of estimates against 0, by Student's distribution: (Q,)."""
    found = []
    for value, spread, nu in zip(estimate, variances, freedom, strict=True):
        if not math.isfinite(spread):
            found.append(math.nan)
        elif spread <= 0:  # every rating agrees to the last digit
            found.append(1.0 if value == 0 else 0.0)
        else:
            found.append(2 * t_upper(abs(value) / math.sqrt(spread), nu))
    return np.array(found)


def pigeonhole(rater: np.ndarray, prompt: np.ndarray, resamples: int = BOOTSTRAP, seed: int = 0) -> np.ndarray:
    """Returns bootstrap weights of crossed ratings: (B, N), counts.

    Raters and prompts are drawn with replacement, each by itself; a rating counts as often as its
    rater was drawn, times as often as its prompt was (Owen 2007, “The pigeonhole bootstrap”).
    """
    rng = np.random.default_rng(seed)
    return drawn(rater, resamples, rng) * drawn(prompt, resamples, rng)


def drawn(ids: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draws distinct ids with replacement; returns how often each one came: (N,) -> (B, N)."""
    count, numbered = _numbered(ids)
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)[:, numbered].astype(np.float64)


def quantiles(replicates: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of percentile intervals over the first axis; NaN replicates are left out."""
    if not np.isfinite(replicates).any():
        empty = np.full(replicates.shape[1:], np.nan)
        return empty, empty
    low, high = np.nanquantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def t_upper(t: float, freedom: float) -> float:
    """Returns P(T > t), t >= 0, of Student's distribution with `freedom` degrees (any number >= 1).

    T = sqrt(nu) tan(a), where a has the density cos(a)^(nu - 1) up to a factor.
    """
    nu, end = _students(freedom)
    return _tail(t, nu, end) / (2 * _cosines(0.0, end, nu))


def t_quantile(share: float, freedom: float) -> float:
    """Returns the t below which `share`, from 0.5 to below 1, of Student's distribution lies."""
    nu, end = _students(freedom)
    wanted = (1 - share) * 2 * _cosines(0.0, end, nu)
    low, high = 0.0, NormalDist().inv_cdf(share) + 1.0
    while _tail(high, nu, end) > wanted:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(middle, nu, end) > wanted else (low, middle)
    return (low + high) / 2


def _students(freedom: float) -> tuple[float, float]:
    """Returns the degrees of freedom, and the angle beyond which nothing is left."""
    nu = min(freedom, 1e4)
    return nu, math.pi / 2 if nu < 30 else math.atan(40 / math.sqrt(nu))


def _tail(t: float, nu: float, end: float) -> float:
    start = math.atan(t / math.sqrt(nu))
    return _cosines(start, end, nu) if start < end else 0.0


def _cosines(start: float, end: float, nu: float) -> float:
    """Integrates cos(a)^(nu - 1) by Gauss's rule."""
    half = (end - start) / 2
    return float(half * (_WEIGHTS @ np.cos(start + half * (_NODES + 1)) ** (nu - 1)))


def _numbered(ids: np.ndarray) -> tuple[int, np.ndarray]:
    """Returns the number of distinct ids, and each id's number from 0: (N,)."""
    distinct, numbers = np.unique(ids, return_inverse=True)
    return len(distinct), numbers


def _squares(influence: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Sums (N, Q) within groups, and the squares of the sums over them: (Q,)."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(count))
    return (np.add.reduceat(influence[order], starts, axis=0) ** 2).sum(axis=0)
