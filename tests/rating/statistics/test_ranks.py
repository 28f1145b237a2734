"""Rank correlations against scipy, and their weights against rows that are repeated."""

import math

import numpy as np
import pytest
from scipy import stats

from llm_from_scratch.rating.statistics.ranks import bootstrap_interval, fisher_interval, kendall, spearman


@pytest.mark.parametrize("seed", range(8))
def test_they_are_scipys_with_ties_and_without(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=30) if seed % 2 else rng.integers(0, 5, 30).astype(float)
    y = x + rng.integers(-2, 3, 30)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)


def test_a_weight_is_how_often_a_row_counts() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, 20).astype(float), rng.integers(0, 6, 20).astype(float)
    weights = rng.integers(0, 4, 20)
    again = np.repeat(np.arange(20), weights)
    for correlation in (spearman, kendall):
        assert correlation(x, y, weights.astype(float)) == pytest.approx(correlation(x[again], y[again]))


def test_a_constant_side_has_no_correlation() -> None:
    x = np.arange(5.0)
    for correlation in (spearman, kendall):
        assert math.isnan(correlation(x, np.ones(5)))
        assert math.isnan(correlation(x, x, np.zeros(5)))


def test_intervals_hold_the_value_and_stay_within_one() -> None:
    low, high = fisher_interval(0.9, 10)
    assert -1 < low < 0.9 < high < 1
    assert all(math.isnan(end) for end in fisher_interval(0.9, 3))
    low, high = bootstrap_interval(0.5, np.array([0.3, 0.4, 0.5, np.nan]))
    assert low < 0.5 < high
    assert all(math.isnan(end) for end in bootstrap_interval(0.5, np.array([np.nan])))


def test_fishers_interval_covers() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 40))
    y = 0.6 * x + 0.8 * rng.normal(size=x.shape)
    truth = 6 / math.pi * math.asin(0.3)  # Spearman's of a normal pair with correlation 0.6
    ends = [fisher_interval(spearman(a, b), 40) for a, b in zip(x, y, strict=True)]
    assert 0.93 < sum(low <= truth <= high for low, high in ends) / 1000 < 0.97
