"""The cumulative-link model: it recovers the effects that ratings were drawn with."""

import sys

import numpy as np
import pytest

from llm_from_scratch.errors import UserError
from llm_from_scratch.rating.statistics.ordered import cumulative_link
from llm_from_scratch.rating.statistics.table import Ratings

EFFECTS, STRICTNESS = np.array([0.0, 1.0, 2.0]), np.array([-0.8, -0.2, 0.0, 0.3, 0.7, 0.0])


def drawn(count: int = 900, seed: int = 0) -> Ratings:
    pytest.importorskip("statsmodels")
    rng = np.random.default_rng(seed)
    rater, system, prompt = rng.integers(0, 6, count), rng.integers(0, 3, count), rng.integers(0, 30, count)
    latent = EFFECTS[system] + STRICTNESS[rater] + rng.logistic(size=count)
    value = 1.0 + (latent[:, None] > [-1.0, 0.5, 1.5, 3.0]).sum(axis=1)
    return Ratings(
        systems=["a", "b", "c"], system=system, rater=rater, item=prompt * 3 + system, prompt=prompt, value=value
    )


def test_it_recovers_the_effects() -> None:
    found, note = cumulative_link(drawn())
    assert [(row.system, row.against) for row in found] == [("b", "a"), ("c", "a")]
    assert not note
    for row, truth in zip(found, EFFECTS[1:], strict=True):
        assert row.value == pytest.approx(truth, abs=0.4)
        assert row.low < row.value < row.high < row.low + 1
        assert row.p < 0.01


def test_a_rater_with_one_answer_is_left_out_and_told() -> None:
    own = drawn()
    own.value[own.rater == 2] = 4
    found, note = cumulative_link(own)
    assert note == "1 raters who gave one answer alone are not in the model."
    assert all(np.isfinite(row.value) for row in found)


@pytest.mark.parametrize("kept", [10, 3])
def test_too_few_ratings_are_refused(kept: int) -> None:
    own = drawn()
    with pytest.raises(UserError, match="are too few"):
        cumulative_link(own.where(np.arange(len(own.value)) < kept))


def test_a_system_with_one_level_has_no_finite_effect() -> None:
    own = drawn()
    own.value[own.system == 1] = 5
    own.value[own.system != 1] = np.minimum(own.value[own.system != 1], 4)
    with pytest.raises(UserError, match="no finite solution"):
        cumulative_link(own)


def test_without_statsmodels_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    own = drawn()
    monkeypatch.setitem(sys.modules, "statsmodels.miscmodels.ordinal_model", None)
    with pytest.raises(UserError, match="ratings"):
        cumulative_link(own)
