"""95 % intervals hold the truth in 95 % (± 1.5) of 2,000 simulated studies."""

import math

import numpy as np
import pytest
from rating_panels import Spread, assignment, expected_tables, pairs_study, scales_study, true_means

from llm_from_scratch.rating.statistics import bradley_terry
from llm_from_scratch.rating.statistics.agreement import alpha, alpha_interval
from llm_from_scratch.rating.statistics.crossed import interval, variance
from llm_from_scratch.rating.statistics.scales import differences

pytestmark = pytest.mark.slow
STUDIES = 2000
QUALITY = np.array([2.2, 3.0, 3.0, 3.8])
SPREADS = {"mixed": Spread(), "taste": Spread(0.5, 0.3, 0.4, 0.4, 0.6)}


def assert_covers(hits: list[list[bool]]) -> None:
    """All intervals of a kind together, and each of them with the error of 2,000 draws."""
    shares = np.mean(hits, axis=0)
    assert shares.mean() == pytest.approx(0.95, abs=0.015), shares
    assert shares == pytest.approx(np.full(len(shares), 0.95), abs=0.015 + 2 * math.sqrt(0.95 * 0.05 / STUDIES)), shares


@pytest.mark.parametrize(("raters", "spread"), [(6, "mixed"), (12, "taste")])
def test_means_and_differences(raters: int, spread: str) -> None:
    rng, truth = np.random.default_rng(7), true_means(QUALITY, SPREADS[spread])
    of_means, of_differences = [], []
    for _ in range(STUDIES):
        table = scales_study(rng, QUALITY, SPREADS[spread], raters, 20, 3)
        row = []
        for system in (0, 1, 3):
            own = table.where(table.system == system)
            mean = own.value.mean()
            influence = ((own.value - mean) / len(own.value))[:, None]
            (low,), (high,) = interval(np.array([mean]), *variance(influence, own.rater, own.prompt))
            row.append(low <= truth[system] <= high)
        of_means.append(row)
        of_differences.append(
            [
                one.low <= truth[int(one.first[1])] - truth[int(one.second[1])] <= one.high
                for one in differences(table)[0]
            ]
        )
    assert_covers(of_means)
    assert_covers(of_differences)


@pytest.mark.parametrize(("raters", "spread"), [(6, "mixed"), (12, "taste")])
def test_strengths(raters: int, spread: str) -> None:
    wins, ties = expected_tables(QUALITY, SPREADS[spread])
    (truth,), _ = bradley_terry.fit(wins[None], ties[None])
    rng, hits = np.random.default_rng(8), []
    for _ in range(STUDIES):
        table = pairs_study(rng, QUALITY, SPREADS[spread], raters, 20, 3)
        fitted = bradley_terry.strengths(table.first, table.second, table.outcome, 4)
        low, high = interval(fitted.scores, *variance(fitted.influence, table.rater, table.prompt))
        hits.append(list((low <= truth) & (truth <= high)))
    assert_covers(hits)


def test_alpha() -> None:
    """Of the same raters, who rate 1,000 other prompts: the interval speaks of prompts."""
    spread, raters, rng, hits = Spread(), 6, np.random.default_rng(9), []

    def rated(prompts: int, of_rater: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rater, item = assigned[prompts]
        prompt, system = np.divmod(item, 4)
        of_prompt = spread.prompt * rng.normal(size=(prompts, 1)) + spread.prompt_system * rng.normal(size=(prompts, 4))
        latent = of_rater[rater, system] + of_prompt[prompt, system] + spread.noise * rng.normal(size=len(item))
        return item, prompt, np.clip(np.round(latent), 1, 5)

    assigned = {prompts: assignment(rng, raters, prompts * 4, 4, 3).T for prompts in (20, 1000)}
    for _ in range(STUDIES):
        of_rater = QUALITY + spread.rater * rng.normal(size=(raters, 1))
        of_rater = of_rater + spread.rater_system * rng.normal(size=(raters, 4))
        item, _, value = rated(1000, of_rater)
        truth = alpha(item, value)
        item, prompt, value = rated(20, of_rater)
        _, low, high = alpha_interval(item, value, prompt, resamples=300)
        hits.append([low <= truth <= high])
    assert_covers(hits)
