"""Variances of crossed ratings against sums written out, Student's distribution against scipy."""

import numpy as np
import pytest
from scipy import stats

from llm_from_scratch.rating.statistics.crossed import (
    interval,
    p_values,
    parts,
    pigeonhole,
    t_quantile,
    t_upper,
    variance,
)


@pytest.mark.parametrize("freedom", [1.0, 1.7, 2.0, 5.3, 29.9, 30.0, 200.0, 9_000.0])
def test_students_distribution_is_scipys(freedom: float) -> None:
    for t in (0.0, 0.3, 1.0, 2.5, 6.0, 30.0):
        assert t_upper(t, freedom) == pytest.approx(stats.t.sf(t, freedom), abs=1e-9)
    for share in (0.5, 0.9, 0.975, 0.995):
        assert t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), abs=1e-6, rel=1e-6)


def crossed(rng: np.random.Generator, raters: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    rater, prompt = np.divmod(rng.choice(raters * prompts, raters * prompts * 2 // 3, replace=False), prompts)
    return rater, prompt


def test_the_parts_by_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    rater, prompt = crossed(rng, 5, 8)
    influence = rng.normal(size=len(rater))
    influence -= influence.mean()
    by_rater = sum(influence[rater == r].sum() ** 2 for r in range(5)) * 5 / 4
    by_prompt = sum(influence[prompt == p].sum() ** 2 for p in range(8)) * 8 / 7
    cells = dict.fromkeys(zip(rater, prompt, strict=True), 0.0)
    for r, p, one in zip(rater, prompt, influence, strict=True):
        cells[r, p] += one
    by_cell = sum(one**2 for one in cells.values())
    A, B, C, *sizes = parts(influence[:, None], rater, prompt)
    assert (A[0], B[0], C[0]) == pytest.approx((by_rater, by_prompt, by_cell))
    assert sizes == [5, 8, len(rater)]
    found, _ = variance(influence[:, None], rater, prompt)
    assert found == pytest.approx([max(by_rater + by_prompt - by_cell, by_cell / 2)])


def test_one_rater_or_one_prompt_is_taken_as_given() -> None:
    values = np.array([1.0, 2, 4, 5])
    influence = ((values - 3) / 4)[:, None]
    each = np.arange(4)
    same = np.zeros(4)
    # As of a mean of four independent values
    expected = values.var(ddof=1) / 4
    for rater, prompt in ((same, each), (each, same)):
        found, freedom = variance(influence, rater, prompt)
        assert found == pytest.approx([expected])
        assert freedom == pytest.approx([3])
    assert np.isnan(variance(influence, same, same)[0]).all()


def test_intervals_and_p_values_agree_about_zero() -> None:
    estimate, spread, freedom = np.array([1.0, 1.0, 0.0, 2.0]), np.array([0.2, 0.3, 0.0, np.nan]), np.full(4, 6.0)
    low, _ = interval(estimate, spread, freedom)
    p = p_values(estimate, spread, freedom)
    assert p[0] == pytest.approx(2 * stats.t.sf(1 / 0.2**0.5, 6), abs=1e-9)
    assert ((low > 0) == (p < 0.05))[:2].all()
    assert p[2] == 1.0
    assert np.isnan(p[3])


def test_the_bootstrap_draws_raters_and_prompts_each_by_themselves() -> None:
    rater, prompt = np.divmod(np.arange(12), 4)
    weights = pigeonhole(rater, prompt, 3000, seed=3).reshape(3000, 3, 4)
    by_rater, by_prompt = weights.sum(axis=2) / 4, weights.sum(axis=1) / 3
    assert weights == pytest.approx(by_rater[:, :, None] * by_prompt[:, None, :])  # products of counts
    assert by_rater.sum(axis=1) == pytest.approx(np.full(3000, 3))
    assert by_prompt.sum(axis=1) == pytest.approx(np.full(3000, 4))
    assert weights.mean(axis=0) == pytest.approx(np.ones((3, 4)), abs=0.1)
    # A multinomial count of n in n has the variance 1 - 1/n
    assert by_rater.var(axis=0) == pytest.approx(np.full(3, 2 / 3), abs=0.07)
