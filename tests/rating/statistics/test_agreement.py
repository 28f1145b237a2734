"""Krippendorff's alpha against his worked examples and against nltk."""

import math

import numpy as np
import pytest
from nltk.metrics.agreement import AnnotationTask

from llm_from_scratch.rating.statistics.agreement import Metric, alpha, alpha_interval

# Krippendorff 2011, “Computing Krippendorff's Alpha-Reliability”, sections A, B and C to D: rows are
# observers, columns units, * is missing.
BINARY = ["0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"]
NOMINAL = ["a a b b d c c c e d d a", "b a b b b c c c e d d d"]
FOUR = ["1 2 3 3 2 1 4 1 2 * * *", "1 2 3 3 2 2 4 1 2 5 * 3", "* 3 3 3 2 3 4 2 2 5 1 *", "1 2 3 3 2 4 4 1 2 5 1 *"]


def observed(rows: list[str]) -> tuple[np.ndarray, np.ndarray]:
    found = [(unit, ord(one)) for row in rows for unit, one in enumerate(row.split()) if one != "*"]
    units, values = np.array(found).T
    return units, values


@pytest.mark.parametrize(
    ("rows", "metric", "printed"),
    [
        (BINARY, "nominal", "0.095"),
        (NOMINAL, "nominal", "0.692"),
        (FOUR, "nominal", "0.743"),
        (FOUR, "ordinal", "0.815"),
        (FOUR, "interval", "0.849"),
    ],
)
def test_it_is_what_krippendorff_printed(rows: list[str], metric: Metric, printed: str) -> None:
    assert f"{alpha(*observed(rows), metric):.3f}" == printed


def nltk_alpha(rater: np.ndarray, unit: np.ndarray, value: np.ndarray, metric: Metric) -> float:
    """nltk weighs any distance of two labels; the ordinal one depends on how frequent labels are."""
    frequencies = {v: int((value == v).sum()) for v in np.unique(value)}

    def distance(a: int, b: int) -> float:
        if metric == "nominal":
            return float(a != b)
        if metric == "interval":
            return float(a - b) ** 2
        low, high = sorted((a, b))
        between = sum(count for v, count in frequencies.items() if low <= v <= high)
        return (between - (frequencies[low] + frequencies[high]) / 2) ** 2

    rows = list(zip(rater.tolist(), unit.tolist(), value.tolist(), strict=True))
    return AnnotationTask(rows, distance=distance).alpha()


@pytest.mark.parametrize("metric", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(20))
def test_it_is_nltks_on_random_tables_with_missing_values(metric: Metric, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raters, units = rng.integers(2, 7), rng.integers(3, 20)
    truth = rng.integers(1, 6, units)
    table = np.clip(truth + rng.integers(-1, 2, (raters, units)), 1, 5)
    kept = rng.random(table.shape) < 0.7
    kept &= kept.sum(axis=0) >= 2  # nltk counts lone values among the frequencies, Krippendorff does not
    rater, unit = np.nonzero(kept)
    value = table[kept]
    assert alpha(unit, value, metric) == pytest.approx(nltk_alpha(rater, unit, value, metric), abs=1e-12)


def test_a_unit_with_one_value_says_nothing() -> None:
    units, values = observed(FOUR)
    assert alpha(np.append(units, 99), np.append(values, ord("5")), "ordinal") == alpha(units, values, "ordinal")


def test_the_ends_of_the_scale() -> None:
    unit = np.repeat(np.arange(10), 3)
    assert alpha(unit, unit % 4) == 1.0
    assert math.isnan(alpha(unit, np.ones(30)))  # no variation: Krippendorff leaves it undefined
    assert math.isnan(alpha(np.arange(5), np.arange(5)))  # no unit has two values
    assert alpha(np.repeat([0, 1], 2), np.array([1, 2, 1, 2])) < 0  # systematic disagreement


def test_the_interval_holds_alpha_and_narrows_with_units() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for units in (20, 80):
        unit = np.repeat(np.arange(units), 4)
        value = np.clip(np.round(rng.normal(0, 1, units)[unit] + rng.normal(3, 0.7, len(unit))), 1, 5)
        middle, low, high = alpha_interval(unit, value, unit)
        assert low < middle < high < 1
        assert middle == alpha(unit, value)
        widths.append(high - low)
    assert 1.5 < widths[0] / widths[1] < 2.7  # about the root of 4


def test_perfect_agreement_and_a_single_prompt_have_no_width() -> None:
    unit = np.repeat(np.arange(10), 3)
    assert alpha_interval(unit, unit % 4, unit) == (1.0, 1.0, 1.0)
    _, low, high = alpha_interval(unit, np.arange(30) % 4, np.zeros(30))
    assert math.isnan(low)
    assert math.isnan(high)
