"""Means, medians and differences: by hand, against statsmodels' least squares, on odd tables."""

from dataclasses import replace

import numpy as np
import pytest
from rating_panels import Spread, scales_study

from llm_from_scratch.rating.statistics.results import Difference
from llm_from_scratch.rating.statistics.scales import decide, differences, means, medians
from llm_from_scratch.rating.statistics.table import Ratings


def table(values: np.ndarray) -> Ratings:
    """(raters, prompts, systems) -> ratings; NaN is missing."""
    rater, prompt, system = np.nonzero(np.isfinite(values))
    names = [f"s{number}" for number in range(values.shape[2])]
    item = prompt * values.shape[2] + system
    return Ratings(
        systems=names, system=system, rater=rater, item=item, prompt=prompt, value=values[rater, prompt, system]
    )


def test_mean_median_and_counts_by_hand() -> None:
    values = np.array([[[1, 5], [2, 5]], [[3, 4], [4, 4]], [[5, 4], [5, np.nan]]], dtype=float)
    first, second = means(table(values), cannot_judge=[0, 1])
    assert (first.mean, first.median, first.counts, first.ratings) == (pytest.approx(20 / 6), 3.5, [1, 1, 1, 1, 2], 6)
    assert (second.mean, second.median, second.counts, second.cannot_judge) == (4.4, 4, [0, 0, 0, 3, 2], 1)
    for row in (first, second):
        assert None not in (row.low, row.high, row.bootstrap_low, row.bootstrap_high)
        assert 1 <= row.low <= row.mean <= row.high <= 5  # type: ignore[operator]
        assert row.bootstrap_low <= row.mean <= row.bootstrap_high  # type: ignore[operator]
        assert row.median_low <= row.median <= row.median_high  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(5))
def test_medians_are_numpys(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 4, (20, 5))
    counts[counts.sum(axis=1) == 0, 0] = 1
    expected = [np.median(np.repeat([1, 2, 3, 4, 5], row)) for row in counts]
    assert medians(counts.astype(float), np.arange(1.0, 6)).tolist() == expected
    assert np.isnan(medians(np.zeros((1, 5)), np.arange(1.0, 6))[0])


def test_where_all_rated_all_differences_are_those_of_the_means() -> None:
    values = np.random.default_rng(0).integers(1, 6, (5, 8, 3)).astype(float)
    found, _ = differences(table(values))
    rows = {(row.first, row.second): row.value for row in found}
    mean = values.mean(axis=(0, 1))
    assert rows["s0", "s1"] == pytest.approx(mean[0] - mean[1])
    assert rows["s1", "s2"] == pytest.approx(mean[1] - mean[2])


def test_they_are_least_squares_with_raters_and_prompts() -> None:
    ols = pytest.importorskip("statsmodels.api").OLS
    rng = np.random.default_rng(2)
    own = scales_study(rng, np.array([2.5, 3, 3.5]), Spread(), 6, 10, 2)
    design = np.concatenate([np.eye(3)[own.system], np.eye(6)[own.rater][:, 1:], np.eye(10)[own.prompt][:, 1:]], axis=1)
    coefficients = ols(own.value, design).fit().params
    found, _ = differences(own)
    assert [row.value for row in found] == pytest.approx(
        [coefficients[0] - coefficients[1], coefficients[0] - coefficients[2], coefficients[1] - coefficients[2]]
    )


def test_a_strict_rater_who_saw_more_of_a_system_does_not_count_against_it() -> None:
    # Both systems are equally good; rater 1 gives two points less, and rated mostly system 1
    values = np.full((2, 20, 2), np.nan)
    values[0, :, 0], values[0, :5, 1] = 4, 4
    values[1, :5, 0], values[1, :, 1] = 2, 2
    found, _ = differences(table(values))
    raw = means(table(values))
    assert found[0].value == pytest.approx(0)
    assert raw[0].mean - raw[1].mean > 1  # type: ignore[operator]


def test_systems_that_nobody_rated_or_that_no_rater_links_have_no_difference() -> None:
    values = np.full((4, 4, 3), np.nan)
    values[:2, :2, 0], values[2:, 2:, 1] = 3, 4
    own = table(values)
    assert differences(own)[0] == []
    assert means(own)[2].mean is None


def test_one_rater_has_intervals_of_prompts_and_one_rating_none() -> None:
    values = np.random.default_rng(0).integers(1, 6, (1, 9, 2)).astype(float)
    assert all(row.low is not None for row in means(table(values)))
    (row,) = means(table(values[:, :1, :1]))
    assert (row.low, row.bootstrap_low) == (None, None)
    assert row.mean is not None


def test_the_same_answer_always() -> None:
    own = table(np.full((4, 5, 2), 3.0))
    assert [(row.mean, row.low, row.high) for row in means(own)] == [(3, 3, 3), (3, 3, 3)]
    (found,), _ = differences(own)
    assert found.value == pytest.approx(0)
    assert found.verdict == "tie"


def test_verdicts() -> None:
    open_ = Difference(first="a", second="b", value=-0.5)
    decide(open_, 0.051)
    assert open_.verdict == "open"
    decide(open_, 0.05)
    assert open_.verdict == "worse"
    tie = Difference(first="a", second="b", value=0.1, verdict="tie")
    decide(tie, float("nan"))
    assert (tie.verdict, tie.p_holm) == ("tie", None)
    decide(tie, 0.01)
    assert tie.verdict == "better"  # shown to exist, however small


def test_tables_keep_the_numbers_of_systems() -> None:
    own = table(np.full((2, 3, 2), 4.0))
    assert own.without([0]).systems == own.systems
    assert len(own.without([0]).value) == 6
    assert len(replace(own, value=own.value).where(own.system == 1).value) == 6
