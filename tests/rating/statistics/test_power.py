"""The power estimate: its limits by hand, and in simulation."""

import numpy as np
import pytest
from rating_panels import Spread, scales_study, true_means

from llm_from_scratch.rating.statistics.power import power
from llm_from_scratch.rating.statistics.scales import differences


def parts(a: float, b: float, c: float, raters: int = 20, prompts: int = 40):  # type: ignore[no-untyped-def]
    return np.array([a]), np.array([b]), np.array([c]), raters, prompts, raters * prompts // 4


def test_where_only_raters_matter_the_variance_falls_with_their_number() -> None:
    # (z(0.975) + z(0.8))² = 7.85: of an estimate with a standard error of 0.1, the detectable difference is near 0.28
    found = power(0.14, parts(0.01, 0.0, 0.0, raters=200), ratings=1000)
    assert found is not None
    assert found.detectable == pytest.approx(0.28, abs=0.01)
    assert found.factor == pytest.approx(4, rel=0.1)
    assert found.raters == pytest.approx(800, rel=0.1)
    assert found.ratings == pytest.approx(4000, rel=0.1)


def test_where_prompts_differ_no_number_of_raters_is_enough() -> None:
    found = power(0.1, parts(0.005, 0.01, 0.002), ratings=1000)
    assert found is not None
    assert found.factor is None
    assert found.raters is None
    assert found.both_factor is not None
    assert found.both_factor > 1


def test_the_smaller_the_difference_and_the_more_tests_the_more_raters() -> None:
    factors = [power(d, parts(0.01, 0.003, 0.002), 1000, t).factor for d, t in ((0.5, 1), (0.3, 1), (0.3, 10))]  # type: ignore[union-attr]
    assert factors == sorted(factors)  # type: ignore[type-var]
    assert len(set(factors)) == 3


def test_no_difference_and_one_rater_have_no_number() -> None:
    nothing = power(0.0, parts(0.01, 0.003, 0.002), 100)
    assert nothing is not None
    assert nothing.factor is None
    assert power(0.5, parts(0.01, 0.003, 0.002, raters=1), 100) is None


@pytest.mark.slow
def test_it_is_right_within_a_factor_of_1_3() -> None:
    """Pilots of 20 raters say how many a true difference needs; so many find it at about 80 %.

    The median pilot is right within 1.3. A single one is less sure: its variance has few degrees
    of freedom.
    """
    quality, spread, prompts = np.array([3.0, 3.35, 3.6]), Spread(prompt_system=0.2), 30
    means = true_means(quality, spread)
    rng = np.random.default_rng(3)
    said = []
    for _ in range(200):
        pilot = scales_study(rng, quality, spread, 20, prompts, 4)
        _, variances = differences(pilot)
        found = power(means[1] - means[0], variances["s0", "s1"], len(pilot.value))
        said.append(np.inf if found is None or found.raters is None else found.raters)
    sizes, shares = [15, 20, 25, 30, 35, 40], []
    for raters in sizes:
        studies = (differences(scales_study(rng, quality, spread, raters, prompts, raters // 5))[0] for _ in range(400))
        shares.append(np.mean([rows[0].p <= 0.05 and rows[0].value < 0 for rows in studies]))
    slope = np.polynomial.Polynomial.fit(shares, np.log(sizes), 1)  # smooths the noise of each share
    needed = float(np.exp(slope(0.8)))
    assert 1 / 1.3 < np.median(said) / needed < 1.3
