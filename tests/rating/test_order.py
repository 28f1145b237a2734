"""The order of a rater: balanced at every moment, whoever comes and whoever stops."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rating_studies import small_plan, small_texts

from llm_from_scratch.rating.order import Load, Slot, inserted, model_order, order, quota, williams
from llm_from_scratch.rating.records import Item
from llm_from_scratch.rating.study import StudyPlan


def conditions_of(plan: StudyPlan) -> tuple[list[Item], dict[int, Any]]:
    texts, items = small_texts(plan)
    system = {text.id: text.system for text in texts}
    return items, {
        item.id: tuple(system[one] for one in (item.first, item.second) if one)
        for item in items
        if item.kind == "rated"
    }


def rated(slots: list[Slot], conditions: dict[int, Any]) -> list[Slot]:
    return [slot for slot in slots if slot.item in conditions and slot.repeat_of is None]


@pytest.mark.parametrize("size", range(1, 10))
def test_a_williams_square_is_balanced_for_places_and_for_what_comes_before(size: int) -> None:
    rows = williams(size)
    each = len(rows) // size
    assert all(sorted(row) == list(range(size)) for row in rows)
    for place in range(size):
        assert Counter(row[place] for row in rows) == dict.fromkeys(range(size), each)
    before = Counter(pair for row in rows for pair in pairwise(row))
    assert set(before.values()) <= {each}
    assert len(before) == size * (size - 1)


def test_the_square_of_four_is_the_published_one() -> None:
    assert williams(4)[0] == [0, 1, 3, 2]


@pytest.mark.parametrize("design", ["scales", "pairs"])
@pytest.mark.parametrize(("systems", "prompts", "raters", "ratings"), [(2, 5, 3, 3), (3, 8, 6, 3), (4, 5, 7, 2)])
def test_every_item_has_its_ratings_and_every_rater_sees_the_systems_equally_often(
    design: str, systems: int, prompts: int, raters: int, ratings: int
) -> None:
    plan = small_plan(design, systems, prompts, raters=raters, ratings_per_item=ratings)
    items, conditions = conditions_of(plan)
    given_to: Counter[int] = Counter()
    swapped: Counter[int] = Counter()
    kinds = len(set(conditions.values()))
    for rater in range(1, raters + 1):
        loads = {item: Load(given_to[item], 2 * swapped[item] - given_to[item]) for item in conditions}
        own = rated(order(plan, items, conditions, rater, loads), conditions)
        assert len({slot.item for slot in own}) == len(own)
        seen: Counter[Any] = Counter()
        left: Counter[bool] = Counter()
        for slot in own[: quota(plan, len(conditions), kinds)]:
            seen[conditions[slot.item]] += 1
            left[slot.swapped] += 1
            lowest = min(seen[name] for name in set(conditions.values()))
            if rater < raters:  # the last ones take what is left
                assert max(seen.values()) - lowest <= 1
        if design == "pairs":
            assert abs(left[True] - left[False]) <= kinds + 1
        given_to.update(slot.item for slot in own)
        swapped.update(slot.item for slot in own if slot.swapped)
    assert given_to == dict.fromkeys(conditions, ratings)
    if design == "pairs":
        assert all(abs(2 * swapped[item] - given_to[item]) <= 1 for item in conditions)


def test_a_prompt_comes_once_before_any_comes_twice() -> None:
    plan = small_plan("scales", 3, 12, raters=6, ratings_per_item=2, repeats=0)  # 12 items a rater, 12 prompts
    items, conditions = conditions_of(plan)
    prompt = {item.id: item.prompt for item in items}
    own = rated(order(plan, items, conditions, 1, {}), conditions)
    assert sorted(prompt[slot.item] for slot in own) == list(range(12))


@given(
    st.sampled_from(["scales", "pairs"]),
    st.integers(2, 4),
    st.integers(1, 7),
    st.integers(0, 5),
    st.integers(0, 3),
    st.integers(1, 9),
)
def test_repetitions_come_at_a_distance_and_checks_among_the_items(
    design: str, systems: int, prompts: int, repeats: int, checks: int, rater: int
) -> None:
    plan = small_plan(design, systems, prompts, repeats=repeats, checks=checks, raters=3, ratings_per_item=3)
    items, conditions = conditions_of(plan)
    slots = order(plan, items, conditions, rater, {})
    count = len(rated(slots, conditions))
    assert count == len(conditions)  # three raters, three ratings: each rates all
    kinds = {item.id: item.kind for item in items}
    assert [kinds[slot.item] for slot in slots[:2]] == ["training"] * 2
    assert "training" not in [kinds[slot.item] for slot in slots[2:]]
    assert kinds[slots[2].item] == "rated"
    assert sum(kinds[slot.item] == "check" for slot in slots) == checks
    again = [(place, slot) for place, slot in enumerate(slots) if slot.repeat_of is not None]
    assert len(again) == (min(repeats, count // 2) if count >= 4 else 0)
    for place, slot in again:
        assert slot.repeat_of is not None
        first = slots[slot.repeat_of]
        assert first.item == slot.item
        assert first.repeat_of is None
        assert place - slot.repeat_of >= max(count // 2, 1)
        if design == "pairs":
            assert first.swapped != slot.swapped


def test_an_order_is_a_function_of_the_seed_the_rater_and_the_loads() -> None:
    plan = small_plan("pairs")
    items, conditions = conditions_of(plan)
    assert order(plan, items, conditions, 1, {}) == order(plan, items, conditions, 1, {})
    assert order(plan, items, conditions, 1, {}) != order(plan, items, conditions, 2, {})
    other = small_plan("pairs", seed=2)
    assert order(plan, items, conditions, 1, {}) != order(other, items, conditions, 1, {})


def test_where_all_have_their_ratings_nothing_is_left() -> None:
    plan = small_plan()
    items, conditions = conditions_of(plan)
    assert order(plan, items, conditions, 1, dict.fromkeys(conditions, Load(3, 0))) == []


def test_systems_are_seen_equally_often_early_and_late_over_a_panel() -> None:
    plan = small_plan("scales", 4, 16, raters=16, ratings_per_item=4, repeats=0, checks=0)
    items, conditions = conditions_of(plan)
    early: Counter[Any] = Counter()
    loads: Counter[int] = Counter()
    for rater in range(1, 17):
        counted = {item: Load(loads[item], 0) for item in conditions}
        own = rated(order(plan, items, conditions, rater, counted), conditions)
        loads.update(slot.item for slot in own)
        early[conditions[own[0].item]] += 1
    assert set(early.values()) == {4}


def test_a_model_sees_every_pair_both_ways_and_no_training() -> None:
    plan = small_plan("pairs", checks=1)
    items, conditions = conditions_of(plan)
    slots = model_order(plan, items, 1)
    sides = Counter((slot.item, slot.swapped) for slot in slots if slot.item in conditions)
    assert sides == {(item, side): 1 for item in conditions for side in (False, True)}
    assert len(slots) == 2 * len(conditions) + 1
    for slot in slots:
        if slot.repeat_of is not None:
            assert slots[slot.repeat_of] == Slot(slot.item)


@given(st.text(max_size=400))
def test_a_check_is_about_as_long_as_its_text(text: str) -> None:
    sentence = "Please answer every question with 2."
    found = inserted(text, sentence)
    assert sentence in found
    longest = max(map(len, text.split(" ")))
    assert len(found) <= max(len(text) + longest, len(text) + len(sentence)) + 2


def test_the_checks_and_sides_of_a_study_differ() -> None:
    plan = small_plan("scales", checks=20)
    texts, items = small_texts(plan)
    answers = [item.expected["fluency"][0] for item in items if item.kind == "check" and item.expected]
    assert set(answers) == {1, 2, 4, 5}
    by_id = {text.id: text for text in texts}
    checks = [item for item in items if item.kind == "check"]
    for item, answer in zip(checks, answers, strict=True):
        assert f"with {answer}." in by_id[item.first].continuation
    pairs = small_plan("pairs", checks=20)
    texts, items = small_texts(pairs)
    sides = [item.expected["preference"] for item in items if item.kind == "check" and item.expected]
    assert set(sides) == {"first", "second"}
