"""Power: the smallest difference that a study settles, and the ratings that settle a given one."""

import math

import numpy as np

from llm_from_scratch.rating.statistics.crossed import combined, t_quantile
from llm_from_scratch.rating.statistics.results import Power

POWER, LEVEL = 0.8, 0.05
MOST = 1e4  # times the raters: more is as good as never
STEPS = 25  # of a bisection from 2 raters to MOST: one in 10,000

Parts = tuple[np.ndarray, np.ndarray, np.ndarray, int, int, int]


def power(difference: float, parts: Parts, ratings: int, tests: int = 1) -> Power | None:
    """Returns what settles a difference of this size; None for one rater or one prompt.

    The variance of a difference has a part that raters average away, one that prompts do, and one
    that ratings do. With k times the raters, who rate as many items each and the same prompts, the
    first and the last shrink to 1/k. The test is Student's at level 0.05 / tests, two-sided; its
    power is to be 80 %.

    An observed difference is uncertain itself, and so is the number of ratings: it is right if the
    true difference is the observed one.

    Args:
        difference: that is to be settled. parts: of one estimate, by `crossed.parts`.
        ratings: of the study. tests: comparisons that are corrected for.
    """
    A, B, C, raters, prompts, cells = parts
    if raters < 2 or prompts < 2:
        return None
    of_prompts = np.maximum(B - C, 0)

    def reach(k: float, both: bool) -> float:
        """Returns the difference that k times the raters (and prompts, where `both`) settle."""
        by_prompt = of_prompts / k if both else of_prompts
        total, freedom = combined(
            A / k, by_prompt + C / k, C / k, raters * k, prompts * k if both else prompts, cells * k
        )
        nu = float(freedom[0])
        return (t_quantile(1 - LEVEL / tests / 2, nu) + t_quantile(POWER, nu)) * math.sqrt(float(total[0]))

    def needed(both: bool) -> float | None:
        least = 2 / min(raters, prompts) if both else 2 / raters  # two raters and two prompts
        if not difference or reach(MOST, both) > abs(difference):
            return None
        low, high = least, MOST
        for _ in range(STEPS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if reach(middle, both) > abs(difference) else (low, middle)
        return high

    factor = needed(both=False)
    return Power(
        detectable=reach(1.0, both=False),
        factor=factor,
        raters=None if factor is None else math.ceil(raters * factor - 1e-9),
        ratings=None if factor is None else math.ceil(ratings * factor - 1e-9),
        both_factor=needed(both=True),
    )
