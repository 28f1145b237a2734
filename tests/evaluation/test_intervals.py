"""The bootstrap and Wilson's interval against numbers worked out by hand and against a
plain loop.
"""

import math

import numpy as np
import pytest

from llm_from_scratch.evaluation.intervals import MANY, BlockedMean, bootstrap_ratio, wilson


def test_the_bootstrap_of_two_units_by_hand() -> None:
    # (6 bits, 2 bytes) and (1, 1). Drawn twice: first alone 6/2 = 3 in 1/4 of the cases, both 7/3
    # in 1/2, second alone 1 in 1/4.
    ratio, low, high = bootstrap_ratio(np.array([6, 1]), np.array([2, 1]), level=0.95)
    # 2.5 % and 97.5 % lie inside the outer quarters
    assert (ratio, low, high) == pytest.approx((7 / 3, 1, 3))
    assert bootstrap_ratio(np.array([6, 1]), np.array([2, 1]), level=0.4)[1:] == pytest.approx((7 / 3, 7 / 3))


def test_it_equals_a_plain_loop_and_the_seed_decides() -> None:
    rng = np.random.default_rng(3)
    bytes_ = rng.integers(50, 200, 40).astype(float)
    bits = bytes_ * rng.normal(2, 0.3, 40)
    ratio, low, high = bootstrap_ratio(bits, bytes_, samples=500, seed=5)
    draw = np.random.default_rng(5)
    drawn = [draw.integers(0, 40, 40) for _ in range(500)]
    ratios = [sum(bits[rows]) / sum(bytes_[rows]) for rows in drawn]
    assert (ratio, low, high) == pytest.approx((bits.sum() / bytes_.sum(), *np.quantile(ratios, [0.025, 0.975])))
    assert bootstrap_ratio(bits, bytes_, samples=500, seed=6)[1:] != (low, high)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        bytes_ = rng.integers(80, 120, 60).astype(float)
        _, low, high = bootstrap_ratio(bytes_ * rng.normal(2, 0.5, 60), bytes_, samples=400, seed=trial)
        hits += low <= 2 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_many_units_are_drawn_in_pieces() -> None:
    ones = np.ones(3_000_000)
    assert bootstrap_ratio(2 * ones, ones, samples=3) == (2, 2, 2)


def blocked(values: np.ndarray) -> tuple[float, float, float]:
    mean = BlockedMean(len(values))
    for part in np.array_split(values, 7):
        mean.add(part)
    return mean.interval()


def test_an_interval_of_many_values_draws_no_more_than_of_some() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.exponential(size=MANY), rng.exponential(size=40 * MANY + 7)
    assert blocked(few) == bootstrap_ratio(few, np.ones(len(few)), samples=500)
    mean, low, high = blocked(many)
    assert mean == pytest.approx(many.mean())
    half = 1.96 * many.std() / len(many) ** 0.5
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.2 * half)


def test_wilson_by_hand() -> None:
    # 0 of 10 at z = 1.96: low 0, high z²/(n + z²) = 3.8415/13.8415. 5 of 10: 1/2 ± z sqrt(1/4/10 +
    # z²/400) / (1 + z²/10).
    z = 1.959964
    assert wilson(0, 10) == pytest.approx((0, z**2 / (10 + z**2)), abs=1e-6)
    half = z * math.sqrt(0.025 + z**2 / 400) / (1 + z**2 / 10)
    assert wilson(5, 10) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(10, 10)[1] == 1


@pytest.mark.parametrize(
    ("above", "below", "level"), [([], [], 0.95), ([1], [1, 2], 0.95), ([1, 2], [1, 0], 0.95), ([1], [1], 1.0)]
)
def test_mistakes_are_told(above: list[float], below: list[float], level: float) -> None:
    with pytest.raises(ValueError, match=r"numerators|level="):
        bootstrap_ratio(np.array(above), np.array(below), level)
    with pytest.raises(ValueError, match="3 of 2 is no share"):
        wilson(3, 2)
