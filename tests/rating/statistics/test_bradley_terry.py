"""Bradley-Terry against worked examples of the literature and against a general optimizer."""

import numpy as np
import pytest
from scipy.optimize import minimize

from llm_from_scratch.rating.statistics.bradley_terry import connected, fit, linear_differences, strengths, tables

TEAMS = ["Baltimore", "Boston", "Cleveland", "Detroit", "Milwaukee", "New York", "Toronto"]
# Agresti 2002, “Categorical Data Analysis”, table 10.10: American League, 1987; row beats column.
BASEBALL = """ 0  1  7  4  2  3  1
              12  0  7  2  6  7  6
               6  6  0  4  4  6  5
               9 11  9  0  6  5  7
              11  7  9  7  0  7  9
              10  6  7  8  6  0  6
              12  7  8  6  4  7  0"""
# Davidson 1970, table 2: six brands of pudding. Brand i, brand j, i preferred, j preferred, neither
PUDDING = """1 2 19 22 16;1 3 16 19 12;2 3 19 19 10;1 4 18 23 13;2 4 23 19  9;3 4 19 20 15;1 5 13 19 18;2 5 16 20 12
             3 5 16 15 17;4 5 17 14 16;1 6 18 21 12;2 6 22 20 12;3 6 13 18 10;4 6 14 19 18;5 6 11 21 12"""


def matrix(text: str) -> np.ndarray:
    return np.array([[float(word) for word in line.split()] for line in text.splitlines()])


def pudding() -> tuple[np.ndarray, np.ndarray]:
    wins, ties = np.zeros((6, 6)), np.zeros((6, 6))
    for row in PUDDING.replace("\n", ";").split(";"):
        i, j, won, lost, tied = map(int, row.split())
        wins[i - 1, j - 1], wins[j - 1, i - 1] = won, lost
        ties[i - 1, j - 1] = ties[j - 1, i - 1] = tied
    return wins, ties


def test_agrestis_baseball() -> None:
    wins = matrix(BASEBALL)
    scores, _ = fit(wins[None], np.zeros((1, 7, 7)))
    against = dict(zip(TEAMS, scores[0] - scores[0][0], strict=True))
    # Table 10.11, without the advantage of playing at home
    printed = {"Milwaukee": 1.58, "Detroit": 1.44, "Toronto": 1.29, "New York": 1.25, "Boston": 1.11, "Cleveland": 0.68}
    assert {team: round(against[team], 2) for team in printed} == printed


def test_davidsons_pudding_with_its_ties() -> None:
    wins, ties = pudding()
    scores, log_nu = fit(wins[None], ties[None])
    worth = np.exp(scores[0]) / np.exp(scores[0]).sum()
    assert worth.round(3).tolist() == [0.139, 0.173, 0.162, 0.165, 0.159, 0.202]
    assert round(float(np.exp(log_nu[0])), 3) == 0.747


def drawn(rng: np.random.Generator, systems: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first = rng.integers(0, systems, count)
    second = (first + rng.integers(1, systems, count)) % systems
    return first, second, rng.choice([1, 0, -1], count, p=[0.4, 0.25, 0.35])


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_maximum_that_a_general_optimizer_finds(seed: int) -> None:
    first, second, outcome = drawn(np.random.default_rng(seed), 5, 200)

    def nats(parameters: np.ndarray) -> float:
        difference, log_nu = parameters[first] - parameters[second], parameters[-1]
        total = np.exp(difference / 2) + np.exp(-difference / 2) + np.exp(log_nu)
        own = np.where(outcome == 0, log_nu, outcome * difference / 2)
        return float((np.log(total) - own).sum())

    found = minimize(nats, np.zeros(6), tol=1e-12).x
    fitted = strengths(first, second, outcome, 5)
    assert fitted.scores == pytest.approx(found[:5] - found[:5].mean(), abs=1e-4)
    assert fitted.ties == pytest.approx(found[-1], abs=1e-4)
    assert fitted.bounded


def test_what_a_comparison_adds_is_what_its_weight_moves() -> None:
    first, second, outcome = drawn(np.random.default_rng(1), 4, 120)
    fitted = strengths(first, second, outcome, 4)
    weights = np.ones((1, 120))
    for one in (0, 50, 119):
        more = weights.copy()
        more[0, one] += 1e-4
        scores, _ = fit(*tables(first, second, outcome, more, 4))
        assert (scores[0] - fitted.scores) / 1e-4 == pytest.approx(fitted.influence[one], abs=1e-3)
    assert fitted.influence.sum(axis=0) == pytest.approx(np.zeros(4), abs=1e-8)


def test_a_system_that_never_loses_gets_a_finite_score_and_says_so() -> None:
    first, second = np.array([0, 0, 1, 2, 1]), np.array([1, 2, 2, 1, 2])
    fitted = strengths(first, second, np.array([1, 1, 1, 1, 0]), 3)
    assert not fitted.bounded
    assert np.isfinite(fitted.scores).all()
    assert fitted.scores.argmax() == 0
    assert fitted.scores.sum() == pytest.approx(0)
    assert np.isfinite(fitted.influence).all()


def test_the_linear_model_has_the_order_of_the_strengths_and_is_least_squares() -> None:
    first, second, outcome = drawn(np.random.default_rng(4), 4, 300)
    scores, influence = linear_differences(first, second, outcome, 4)
    design = np.eye(4)[first] - np.eye(4)[second]
    expected = np.linalg.lstsq(design, outcome, rcond=None)[0]
    assert scores == pytest.approx(expected)
    assert influence.sum(axis=0) == pytest.approx(np.zeros(4))
    assert (scores.argsort() == strengths(first, second, outcome, 4).scores.argsort()).all()


def test_all_ties_and_no_ties() -> None:
    first, second = np.array([0, 1, 2, 0]), np.array([1, 2, 0, 1])
    assert strengths(first, second, np.zeros(4), 3).scores == pytest.approx(np.zeros(3), abs=1e-6)
    untied = strengths(first, second, np.array([1, 1, 1, -1]), 3)
    assert untied.ties == -np.inf
    wins, ties = tables(first, second, np.array([1, 1, 1, -1]), np.ones((1, 4)), 3)
    assert connected(wins[0])
    assert not ties.any()


def test_islands_of_systems_are_not_connected() -> None:
    beats = np.zeros((4, 4))
    beats[0, 1] = beats[1, 0] = beats[2, 3] = beats[3, 2] = 1
    assert not connected(beats)
    beats[1, 2] = 1
    assert not connected(beats)  # 2 is reached from 1, and 1 from none of 2 and 3
    beats[3, 0] = 1
    assert connected(beats)
