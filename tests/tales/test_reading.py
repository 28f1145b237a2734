"""Told, read back: the same choices, with the probabilities by which they are drawn."""

import random
from collections import Counter
from collections.abc import Sequence
from math import log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_from_scratch import tales
from llm_from_scratch.errors import UserError
from llm_from_scratch.tales.choices import E, Fork, Group, Table, Template
from llm_from_scratch.tales.people import KINDS
from llm_from_scratch.tales.reading import MismatchError, read
from llm_from_scratch.tales.telling import Telling


class Recording(Telling):
    """Tells a story, and records every choice as it is drawn."""

    def __init__(self, level: int, uniform: random.Random) -> None:
        super().__init__(level, uniform)
        self.drawn: list[tuple[str, str, int]] = []
        self.group = ""

    def record(self, name: str, text: str) -> None:
        self.drawn.append((name, text, sum(map(len, self._parts)) - len(text)))

    def pick(self, table: Table[E]) -> E:
        entry = super().pick(table)
        self.record(table.name, entry.text)
        return entry

    def pick_unused(self, table: Table[E], used: Sequence[object]) -> E:
        entry = super().pick_unused(table, used)
        self.record(table.name, entry.text)
        return entry

    def choose(self, name: str, kind: str, options: Sequence[E]) -> E:
        option = super().choose(name, kind, options)
        self.record(name, option.text)
        return option

    def branch(self, fork: Fork) -> Group:
        place = len(self.drawn)
        start = sum(map(len, self._parts))
        group = super().branch(fork)
        self.drawn.insert(place, (fork.name, group.name, start))
        return group

    def tell(self, group: Group) -> None:
        self.group = group.name
        super().tell(group)

    def _fill(self, template: Template) -> None:
        self.drawn.append((self.group, template.first % self.words, sum(map(len, self._parts))))
        super()._fill(template)


def told_and_read(level: int, numbers: range) -> None:
    for number in numbers:
        story = Recording(level, random.Random(number))
        story.run()
        reading = read(story.text)
        assert reading.level == level
        assert [(one.name, one.taken, one.start) for one in reading.choices] == story.drawn


@pytest.mark.parametrize("level", tales.LEVELS)
def test_told_and_read_back_the_same_choices(level: int) -> None:
    told_and_read(level, range(400))


@pytest.mark.tales
@pytest.mark.parametrize("level", tales.LEVELS)
def test_a_hundred_thousand_stories_read_back(level: int) -> None:
    told_and_read(level, range(100_000))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.sampled_from(tales.LEVELS))
@settings(max_examples=60, deadline=None)
def test_any_story_is_read_by_its_level_alone(seed: int, number: int, level: int) -> None:
    text = tales.tell(seed, number, level)
    for one in tales.LEVELS:
        if one == level:
            assert tales.log2_probability(text, one) == tales.log2_probability(text) < -20
        else:
            with pytest.raises(MismatchError):
                read(text, one)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32), st.sampled_from(tales.LEVELS))
@settings(max_examples=60, deadline=None)
def test_the_probabilities_at_each_choice_sum_to_one(seed: int, number: int, level: int) -> None:
    text = tales.tell(seed, number, level)
    listed = tales.alternatives(text)
    assert [choice for choice, _ in listed] == tales.choices(text)
    for choice, options in listed:
        assert sum(options.values()) == pytest.approx(1, abs=1e-12)
        assert -log2(options[choice.taken]) == pytest.approx(choice.bits, abs=1e-12)
        entropy = -sum(share * log2(share) for share in options.values())
        assert entropy == pytest.approx(choice.entropy, abs=1e-9)


def test_the_probability_of_a_story_by_hand() -> None:
    text = (
        "There was once a poor girl named Anna, and she lived in a cottage at the edge of the forest."
        " What she wanted most of all was a silver bell to call the goats home."
        " So she put on her green hat and set out for the old well."
        " The bell lay at the old well, under a flat stone, and nobody was guarding it."
        " From that day on every goat came home at dusk without being called twice."
        " And they all slept soundly that night."
    )

    def first(size: int) -> float:
        """The probability of the first entry of a Zipf table with so many entries."""
        weights = [round(1e6 / (rank + 6)) for rank in range(size)]
        return weights[0] / sum(weights)

    sizes = {"trait": 40, "kind": 48, "name": 80, "home": 32, "thing": 48, "place": 40}
    expected = (
        1 / 8 * first(sizes["trait"]) * first(sizes["kind"]) * first(sizes["name"]) * first(sizes["home"])  # opening
        * 2 / 3 * 1 / 7 * first(sizes["thing"])  # no habit; the wish
        * 1 / 8 * 1 / 16 * first(sizes["place"])  # setting out, one of 16 clothes
        * 1 / 5 * 1 / 6 * 1 / 24  # no sight and no way; finding, one of 24 spots
        * 1 / 2 * 1 / 5  # no way home; ending
        * 1 / 8  # closing
    )  # fmt: skip
    assert tales.log2_probability(text) == pytest.approx(log2(expected), abs=1e-9)


def test_the_drawn_frequencies_are_the_probabilities() -> None:
    kinds: Counter[str] = Counter()
    roads: Counter[str] = Counter()
    for number in range(6000):
        story = Recording(1, random.Random(number))
        story.run()
        kinds.update(text for name, text, _ in story.drawn if name == "kind")
        roads.update(text for name, text, _ in story.drawn if name == "road")
    expected = [6000 * 2**-bits for bits in KINDS.bits]
    chi_squared = sum((kinds[one.text] - mean) ** 2 / mean for one, mean in zip(KINDS.entries, expected, strict=True))
    assert chi_squared < 47 + 4 * (2 * 47) ** 0.5  # 47 degrees of freedom
    for group, share in (("way", 0.4), ("sight", 0.4), ("finding", 0.2)):
        assert abs(roads[group] / 6000 - share) < 4 * (share * (1 - share) / 6000) ** 0.5


def test_a_choice_knows_its_place_kind_and_entropy() -> None:
    text = tales.tell(0, 0, 3)
    choices = tales.choices(text)
    for one in choices:
        assert one.kind == "plot" or (" " + text).startswith(one.taken, one.start)
        assert one.bits > 0
        assert one.entropy > 0
    tools = [one for one in choices if one.name == "tool"]
    assert [one.bits for one in tools] == [log2(24), log2(23), log2(22)]


def test_another_text_is_refused_in_one_line() -> None:
    text = tales.tell(0, 0, 1)
    with pytest.raises(UserError, match=r"^this is not a story: at character \d+, .*`check` names the faults$"):
        tales.log2_probability(text.replace("wish", "wush").replace("want", "wont").replace(" the ", " teh ", 1))
    with pytest.raises(UserError, match="not a story"):
        tales.log2_probability("")
    with pytest.raises(UserError, match="end is expected"):
        tales.log2_probability(text + " And that was all.")
