"""A simulated panel of 20 raters with known bias and noise, two of them careless, and four systems of
known quality, two of which are equal.
"""

import numpy as np
import pytest
from rating_panels import Spread, attention_checks, pairs_study, preference_records, rating_records, scales_study

from llm_from_scratch.rating.statistics import analysis
from llm_from_scratch.rating.statistics.analysis import Records, analyse
from llm_from_scratch.rating.statistics.results import Difference, Results

QUALITY = np.array([2.2, 3.0, 3.0, 3.8])  # s1 and s2 are equal
SPREAD = Spread(prompt_system=0.2, rater_system=0.15, noise=0.7)
CARELESS = (3, 11)
RATERS, PROMPTS = 20, 40


@pytest.fixture(autouse=True)
def without_the_cumulative_link_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes most of the time, and has its own tests."""
    monkeypatch.setattr(analysis, "cumulative_link", lambda _: ([], ""))


def scales(seed: int) -> Results:
    rng = np.random.default_rng(seed)
    tables = [scales_study(rng, QUALITY + more, SPREAD, RATERS, PROMPTS, 10) for more in (0.0, 0.2)]
    ratings = [
        one
        for name, table in zip(("fluency", "coherence"), tables, strict=True)
        for one in rating_records(table, name, CARELESS, seed)
    ]
    return analyse(
        Records(
            title="panel",
            design="scales",
            systems=tables[0].systems,
            questions=["fluency", "coherence"],
            ratings=ratings,
            checks=attention_checks(RATERS, CARELESS, seed=seed + 100),
        )
    )


def pairs(seed: int) -> Results:
    table = pairs_study(np.random.default_rng(seed), QUALITY, SPREAD, RATERS, PROMPTS, 10)
    return analyse(
        Records(
            title="panel",
            design="pairs",
            systems=table.systems,
            preferences=preference_records(table, CARELESS, seed),
            checks=attention_checks(RATERS, CARELESS, seed=seed + 100),
        )
    )


def verdicts(rows: list[Difference]) -> dict[tuple[str, str], str]:
    return {(row.first, row.second): row.verdict for row in rows}


def assert_right(rows: list[Difference]) -> None:
    found = verdicts(rows)
    assert found.pop(("s1", "s2")) == "tie"
    assert set(found.values()) == {"worse"}  # the first of each other pair is the lesser one
    assert len(found) == 5


def test_scales() -> None:
    results = scales(0)
    assert [row.rater for row in results.people.raters if row.flags] == list(CARELESS)
    for question in results.people.questions:
        assert_right(question.differences)
        assert question.differences_without_flagged is not None
        assert_right(question.differences_without_flagged)
        order = sorted(question.means, key=lambda row: row.mean or 0)
        assert [row.system for row in order][::3] == ["s0", "s3"]
        # Without the careless people agree better, and both figures are there
        assert question.alpha is not None
        assert question.alpha_without_flagged is not None
        assert question.alpha.value < question.alpha_without_flagged.value  # type: ignore[operator]


def test_pairs() -> None:
    results = pairs(0)
    found = results.people.pairs
    assert found is not None
    assert [row.rater for row in results.people.raters if row.flags] == list(CARELESS)
    assert_right(found.differences)
    assert found.strengths_without_flagged is not None
    spread = [
        max(row.score for row in rows) - min(row.score for row in rows)
        for rows in (found.strengths, found.strengths_without_flagged)
    ]
    assert spread[0] < spread[1]  # chance answers draw the scale together
    assert found.bounded
    assert found.left_low is not None
    assert found.left_high is not None
    assert found.left_low < 0.5 < found.left_high


@pytest.mark.slow
def test_most_panels_are_read_right() -> None:
    """40 panels of each design: the order, the tie and the careless, as shares."""
    for panel in (scales, pairs):
        ordered, tied, apart, caught, honest = [], [], [], [], []
        for seed in range(40):
            results = panel(seed)
            own = results.people
            rows = own.pairs.differences if own.pairs else own.questions[0].differences
            found = verdicts(rows)
            tie = found.pop(("s1", "s2"))
            ordered.append(set(found.values()) == {"worse"})
            tied.append(tie == "tie")
            apart.append(tie in ("better", "worse"))
            flagged = {row.rater for row in own.raters if row.flags}
            caught.append(len(flagged & set(CARELESS)) / 2)
            honest.append(len(flagged - set(CARELESS)))
        assert np.mean(ordered) >= 0.95
        assert np.mean(tied) >= 0.6  # the others are not settled
        assert np.mean(apart) <= 0.125  # 5 % of 40 are two; more than five come once in 70
        assert np.mean(caught) >= 0.9
        assert np.mean(honest) <= 0.5  # of 18
