"""Holm's correction against statsmodels and by hand."""

import numpy as np
import pytest

from llm_from_scratch.rating.statistics.multiple import holm


def test_by_hand() -> None:
    # Sorted: 0.01 x 4, 0.02 x 3, then 0.03 x 2 and 0.04 x 1, which must not fall below 0.06
    assert holm(np.array([0.03, 0.01, 0.04, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])
    assert len(holm(np.array([]))) == 0


def test_what_could_not_be_tested_counts_as_no_test() -> None:
    adjusted = holm(np.array([0.03, np.nan, 0.01]))
    assert adjusted[[0, 2]] == pytest.approx([0.03, 0.02])
    assert np.isnan(adjusted[1])


@pytest.mark.parametrize("seed", range(10))
def test_it_is_statsmodels(seed: int) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(seed).beta(0.3, 1, 15)
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
