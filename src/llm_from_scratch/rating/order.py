"""The items of a study, and the order in which each rater sees them.

    texts -> items -> for each rater: training | blocks with checks and repetitions among them

A *condition* is a system (scales) or a pair of systems. A block has each condition once, in the
order of a row of a Williams square (Williams 1949): over its rows every condition stands equally
often at each place and before each other one. So a rater who stops in the middle has seen the
conditions equally often, but for one. Within a block the least rated items come first, and of those
a prompt that the rater has seen least: that is a Latin square where each prompt is seen once.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, cycle
from typing import Any

from llm_from_scratch.rating.records import Item, Text
from llm_from_scratch.rating.rubric import CHECK_PAIRS, CHECK_SCALES, PAIRS, QUESTIONS, SCALES, Example
from llm_from_scratch.rating.study import StudyPlan

NEAR = 3  # places within which a prompt is not to come again, where that can be had
FEWEST_FOR_REPEATS = 4  # items


@dataclass(frozen=True)
class Slot:
    """A place in a rater's order.

    Attributes:
        item: the item's id.
        swapped: whether the second text stands on the left.
        repeat_of: the place of the first time; None for no repetition.
    """

    item: int
    swapped: bool = False
    repeat_of: int | None = None


@dataclass(frozen=True)
class Load:
    """What an item has had so far, of people who count.

    Attributes:
        ratings: answered, or still expected.
        swapped: how many more of these were swapped than not.
    """

    ratings: int = 0
    swapped: int = 0


# -------------------------------------------------------------------------------------------- items
def make_items(plan: StudyPlan, texts: Sequence[Text], carriers: Sequence[Text]) -> tuple[list[Text], list[Item]]:
    """Returns all texts and all items of a study.

    Args:
        plan: the plan.
        texts: of the systems, one for each prompt and system.
        carriers: more texts of the systems' for checks, with `system="check"`: one a check, or two
            of one prompt side by side for pairs.
    """
    rng = random.Random(f"{plan.seed} items")
    by_prompt: dict[int, list[Text]] = {}
    for text in texts:
        by_prompt.setdefault(text.prompt, []).append(text)
    items: list[Item] = []
    for prompt, own in by_prompt.items():
        own.sort(key=lambda text: plan.names.index(text.system))
        for group in combinations(own, 1 if plan.design == "scales" else 2):
            second = group[1].id if len(group) > 1 else None
            items.append(Item(id=len(items) + 1, kind="rated", prompt=prompt, first=group[0].id, second=second))
    found = [*texts]
    for checked, expected in _checks(plan, carriers, rng):
        items.append(_item(len(items) + 1, "check", checked, found, expected))
    for example in _examples(plan):
        own = [
            Text(id=0, prompt=-1, system="training", given=example.given, continuation=text) for text in example.texts
        ]
        items.append(_item(len(items) + 1, "training", own, found, example.expected, example.feedback))
    return found, items


def _item(
    number: int, kind: Any, own: Sequence[Text], found: list[Text], expected: dict[str, Any], feedback: str = ""
) -> Item:
    """Adds the texts of an item to `found`, with the next numbers, and returns the item."""
    ids = []
    for text in own:
        ids.append(max((one.id for one in found), default=0) + 1)
        found.append(replace(text, id=ids[-1]))
    second = ids[1] if len(ids) > 1 else None
    return Item(
        id=number, kind=kind, prompt=own[0].prompt, first=ids[0], second=second, expected=expected, feedback=feedback
    )


def _checks(
    plan: StudyPlan, carriers: Sequence[Text], rng: random.Random
) -> Iterator[tuple[list[Text], dict[str, Any]]]:
    size = 1 if plan.design == "scales" else 2
    for start in range(0, size * plan.checks, size):
        own = list(carriers[start : start + size])
        if plan.design == "scales":
            answer = rng.choice((1, 2, 4, 5))
            sentence, place = CHECK_SCALES.format(answer=answer), 0
            expected: dict[str, Any] = {name: [answer, answer] for name in plan.answers}
        else:
            sentence, place = CHECK_PAIRS, rng.randrange(2)
            expected = {"preference": ("first", "second")[place]}
        own[place] = replace(own[place], continuation=inserted(own[place].continuation, sentence))
        yield own, expected


def inserted(text: str, sentence: str) -> str:
    """Returns a text of about the same length, with a sentence in its middle in place of others."""
    middle, half = len(text) // 2, len(sentence) // 2
    start = text.find(" ", max(middle - half, 0)) if len(text) > 2 * len(sentence) else text.rfind(" ")
    start = start if start >= 0 else len(text)
    end = text.find(" ", start + len(sentence))
    return f"{text[:start]} {sentence}{text[end:] if end >= 0 else ''}"


def _examples(plan: StudyPlan) -> list[Example]:
    """Returns the training items: the project's own, or the anchors of the plan's questions."""
    if plan.design == "pairs":
        return list(PAIRS[: plan.training])
    if plan.questions == QUESTIONS:
        return list(SCALES[: plan.training])
    found = [
        Example(
            given=question.given,
            texts=(text,),
            expected={question.name: [max(level - 1, 1), min(level + 1, 5)]},
            feedback=f"{question.name}: this is an example of {level}: {question.levels[level]}",
        )
        for question in plan.questions
        for level, text in question.anchors.items()
    ]
    random.Random(f"{plan.seed} training").shuffle(found)
    return found[: plan.training]


# -------------------------------------------------------------------------------------------- order
def williams(size: int) -> list[list[int]]:
    """Returns a Williams square of the conditions 0 to size - 1, a row for each order.

    It has `size` rows, twice as many where the size is odd. Every condition stands equally often at
    each place, and directly before each other one (Williams 1949).
    """
    first = [(place + 1) // 2 if place % 2 else (size - place // 2) % size for place in range(size)]
    rows = [[(place + shift) % size for place in first] for shift in range(size)]
    return rows + [row[::-1] for row in rows] if size % 2 and size > 1 else rows


def quota(plan: StudyPlan, items: int, conditions: int) -> int:
    """Returns the rated items of one person, repetitions not counted: whole blocks."""
    needed = -(-items * plan.ratings_per_item // plan.raters)
    return min(-(-needed // conditions) * conditions, items)


def order(
    plan: StudyPlan,
    items: Sequence[Item],
    conditions: Mapping[int, Any],
    rater: int,
    loads: Mapping[int, Load],
) -> list[Slot]:
    """Returns the order of one rater: training items, then what is rated, checked and repeated.

    Args:
        plan: the plan.
        items: all items of the study.
        conditions: of each rated item: its system, or its pair of systems.
        rater: its number, from 1: the row of the square that it begins with.
        loads: of each rated item. One that has its ratings is left out; where all have theirs, the
            order is empty.
    """
    rng = random.Random(f"{plan.seed} rater {rater}")
    rated = _rated(plan, [item for item in items if item.kind == "rated"], conditions, rater, loads, rng)
    if not rated:
        return []
    places = _repeated(plan, rated, conditions, rng)
    # Every slot has a place on the line from 0 to n; a repetition is at least half a list behind.
    line: list[tuple[float, Slot]] = [(float(place), slot) for place, slot in enumerate(rated)]
    distance = len(rated) // 2
    for place in places:
        swapped = plan.design == "pairs" and not rated[place].swapped
        again = Slot(rated[place].item, swapped, repeat_of=place)
        line.append((rng.uniform(place + distance + 0.1, len(rated)), again))
    checks = [item for item in items if item.kind == "check"]
    rng.shuffle(checks)
    for number, item in enumerate(checks):
        among = (number + rng.uniform(0.2, 0.8)) * len(rated) / len(checks)
        line.append((among, Slot(item.id, _tossed(item, rng))))
    before = [Slot(item.id, _tossed(item, rng)) for item in items if item.kind == "training"]
    line.sort(key=lambda one: one[0])
    found = before + [slot for _, slot in line]
    where = {slot.item: place for place, slot in enumerate(found) if slot.repeat_of is None}
    return [slot if slot.repeat_of is None else replace(slot, repeat_of=where[slot.item]) for slot in found]


def model_order(plan: StudyPlan, items: Sequence[Item], rater: int) -> list[Slot]:
    """Returns the order of a model: each item and check once, each pair again, swapped."""
    rng = random.Random(f"{plan.seed} rater {rater}")
    found = [Slot(item.id) for item in items if item.kind != "training"]
    rng.shuffle(found)
    pairs = {item.id for item in items if item.kind == "rated" and item.second is not None}
    again = [replace(slot, swapped=True, repeat_of=place) for place, slot in enumerate(found) if slot.item in pairs]
    return found + again


def _tossed(item: Item, rng: random.Random) -> bool:
    return item.second is not None and rng.random() < 0.5


def _rated(
    plan: StudyPlan,
    items: Sequence[Item],
    conditions: Mapping[int, Any],
    rater: int,
    loads: Mapping[int, Load],
    rng: random.Random,
) -> list[Slot]:
    """Returns what a person rates, in blocks."""
    names = sorted(set(conditions.values()))
    random.Random(f"{plan.seed} conditions").shuffle(names)
    lacking: dict[Any, list[Item]] = {name: [] for name in names}
    for item in items:
        if loads.get(item.id, Load()).ratings < plan.ratings_per_item:
            lacking[conditions[item.id]].append(item)
    rows = williams(len(names))
    wanted = quota(plan, len(items), len(names))
    seen: Counter[int] = Counter()  # of a prompt
    sides = _Sides(plan, conditions, loads, rng)
    prompts: list[int] = []
    chosen: list[Slot] = []
    start = (rater - 1) % len(rows)
    for row in cycle(rows[start:] + rows[:start]):
        for condition in row:
            candidates = lacking[names[condition]]
            if not candidates or len(chosen) == wanted:
                continue
            near = prompts[-NEAR:]
            keys = {
                item.id: (
                    loads.get(item.id, Load()).ratings,
                    seen[item.prompt],
                    sides.disturbs(item.id),
                    item.prompt in near,
                    rng.random(),
                )
                for item in candidates
            }
            item = min(candidates, key=lambda one: keys[one.id])
            candidates.remove(item)
            prompts.append(item.prompt)
            seen[item.prompt] += 1
            chosen.append(Slot(item.id, sides.draw(item.id)))
        if len(chosen) == wanted or not any(lacking.values()):
            return chosen
    raise AssertionError("the rows come again and again")


class _Sides:
    """Draws which text of a pair stands on the left: balanced by item, condition and rater."""

    def __init__(
        self, plan: StudyPlan, conditions: Mapping[int, Any], loads: Mapping[int, Load], rng: random.Random
    ) -> None:
        self.pairs, self.conditions, self.loads, self.rng = plan.design == "pairs", conditions, loads, rng
        self.own: Counter[Any] = Counter()  # swapped minus not swapped, of this rater

    def disturbs(self, item: int) -> bool:
        """Returns whether an item's own balance asks for a side that this rater has seen more."""
        balance = self.loads.get(item, Load()).swapped
        return balance * (self.own[self.conditions[item]] or self.own[None]) < 0

    def draw(self, item: int) -> bool:
        """Returns whether an item is swapped, and counts it."""
        if not self.pairs:
            return False
        condition = self.conditions[item]
        for balance in (self.loads.get(item, Load()).swapped, self.own[condition], self.own[None]):
            if balance:
                swapped = balance < 0
                break
        else:
            swapped = self.rng.random() < 0.5
        for key in (condition, None):
            self.own[key] += 1 if swapped else -1
        return swapped


def _repeated(plan: StudyPlan, rated: Sequence[Slot], conditions: Mapping[int, Any], rng: random.Random) -> list[int]:
    """Returns the places that come again: of the first half, of different conditions first."""
    if len(rated) < FEWEST_FOR_REPEATS:
        return []
    places = list(range(len(rated) - len(rated) // 2))
    rng.shuffle(places)
    seen: Counter[Any] = Counter()
    rounds = {}
    for place in places:
        condition = conditions[rated[place].item]
        rounds[place] = seen[condition]
        seen[condition] += 1
    return sorted(places, key=lambda place: rounds[place])[: min(plan.repeats, len(rated) // 2)]
