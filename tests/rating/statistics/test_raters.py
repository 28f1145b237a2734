"""Summaries of raters by hand, and what sets a flag."""

import numpy as np
import pytest

from llm_from_scratch.rating.records import Check, Preference, Rating
from llm_from_scratch.rating.statistics.raters import summaries


def rating(rater: int, item: int, value: int | None, seconds: float = 10.0, repeat: bool = False) -> Rating:
    return Rating(
        rater=rater,
        rater_kind="person",
        item=item,
        prompt=item,
        system="a",
        question="fluency",
        value=value,
        seconds=seconds,
        repeat=repeat,
    )


def preference(rater: int, item: int, winner: str | None, left: str = "first") -> Preference:
    return Preference(
        rater=rater,
        rater_kind="person",
        item=item,
        prompt=item,
        first="a",
        second="b",
        winner=winner,  # type: ignore[arg-type]
        shown_left=left,  # type: ignore[arg-type]
        seconds=10.0,
    )


def test_a_summary_by_hand() -> None:
    records = [rating(1, item, value, seconds) for item, value, seconds in ((0, 2, 4.0), (1, 3, 6.0), (2, 5, 9.0))]
    records += [rating(1, 0, 4, 99.0, repeat=True), rating(1, 1, 3, 99.0, repeat=True), rating(1, 3, None, 1.0)]
    records += [rating(2, item, value) for item, value in ((0, 3), (1, 4), (2, 5))]
    checks = [Check(rater=1, rater_kind="person", item=9, passed=passed) for passed in (True, False)]
    first, second = summaries(records, checks)
    assert (first.ratings, first.cannot_judge, first.checks, first.checks_passed) == (3, 1, 2, 1)
    assert (first.repeats, first.repeats_same, first.repeats_apart) == (2, 1, 1.0)
    assert first.seconds == 5.0  # median of 4, 6, 9 and 1: the time of an item that was not judged counts
    assert first.bias == pytest.approx(-2 / 3)
    assert second.bias == pytest.approx(2 / 3)
    assert first.agreement == pytest.approx(1.0)
    assert first.same_answer == pytest.approx(1 / 3)
    assert first.flags == []


def panel(raters: int = 8, items: int = 40, seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(3, 1, items)
    return {rater: np.clip(np.round(truth + rng.normal(0, 0.6, items)), 1, 5).astype(int) for rater in range(raters)}


def flags(values: dict[int, np.ndarray], seconds: dict[int, float] | None = None) -> dict[int, list[str]]:
    times = seconds or {}
    records = [
        rating(r, item, int(value), times.get(r, 10.0)) for r, own in values.items() for item, value in enumerate(own)
    ]
    return {row.rater: row.flags for row in summaries(records, [])}


def test_an_honest_panel_has_no_flag() -> None:
    for seed in range(10):
        assert not any(flags(panel(seed=seed)).values())


def test_random_answers_are_flagged() -> None:
    for seed in range(10):
        values = panel(seed=seed)
        values[5] = np.random.default_rng(seed).integers(1, 6, 40)
        found = flags(values)
        assert "does not agree with the others" in found.pop(5)
        assert not any(found.values())


def test_one_answer_always_is_flagged() -> None:
    values = panel()
    values[2] = np.full(40, 3)
    assert flags(values)[2] == ["one answer in 100% of all"]


def test_a_severe_rater_is_flagged_and_a_strict_one_is_not() -> None:
    values = panel()
    values[3] = np.clip(values[3] - 2, 1, 5)
    assert flags(values)[3] == ["much stricter than the others"]
    values = panel()
    values[3] = np.where(np.arange(40) % 4 == 0, np.clip(values[3] - 1, 1, 5), values[3])
    assert flags(values)[3] == []


def test_haste_is_flagged_and_an_unknown_time_is_not() -> None:
    assert flags(panel(), {6: 2.0})[6] == ["fast: 2.0 s an item"]
    assert flags(panel(), {6: float("nan")})[6] == []


def test_checks_are_flagged_when_most_failed() -> None:
    records = [rating(r, item, item % 5 + 1) for r in range(3) for item in range(10)]
    for failed, expected in ((0, []), (1, []), (2, ["failed 2 of 2 checks"])):
        checks = [Check(rater=1, rater_kind="person", item=90 + i, passed=i >= failed) for i in range(2)]
        assert summaries(records, checks)[1].flags == expected


def test_pairs_agree_whichever_text_is_the_first() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(-1, 2, 60)
    names = {1: "first", -1: "second", 0: "tie"}
    records = [
        preference(r, item, names[int(t if rng.random() < 0.8 else rng.integers(-1, 2))])
        for r in range(5)
        for item, t in enumerate(truth)
    ]
    turned = [
        preference(one.rater, one.item, {"first": "second", "second": "first", "tie": "tie"}[str(one.winner)])
        if one.item % 2
        else one
        for one in records
    ]
    for one, other in zip(summaries(records, []), summaries(turned, []), strict=True):
        assert one.agreement == pytest.approx(other.agreement)
        assert one.agreement is not None
        assert one.agreement > 0.5


def test_always_the_left_text_is_one_answer() -> None:
    rng = np.random.default_rng(0)
    sides = ["first" if one else "second" for one in rng.integers(0, 2, 30)]
    records = [
        preference(r, item, side if r == 0 else "first", side) for r in range(3) for item, side in enumerate(sides)
    ]
    assert summaries(records, [])[0].flags[-1] == "one answer in 100% of all"


def test_a_lone_rater_has_nobody_to_agree_with() -> None:
    (row,) = summaries([rating(1, item, 3) for item in range(4)], [])
    assert (row.agreement, row.bias, row.flags) == (None, None, [])
    (row,) = summaries([rating(1, 0, None)], [])
    assert (row.ratings, row.same_answer) == (0, None)
