"""Tables, sentences and forks: probabilities sum to 1, and the next characters say which was taken."""

import random
from collections.abc import Sequence
from itertools import pairwise
from math import log2

import pytest

from llm_from_scratch.tales import people, phrases, places, process, things
from llm_from_scratch.tales.choices import E, Fork, Group, Table, Word, template, words
from llm_from_scratch.tales.process import LEVELS
from llm_from_scratch.tales.telling import Telling

MODULES = (people, phrases, places, things)
TABLES = [value for module in MODULES for value in vars(module).values() if isinstance(value, Table)]
TABLES += people.NAMES.values()
FORKS = [value for value in vars(phrases).values() if isinstance(value, Fork)]
GROUPS = [value for value in vars(phrases).values() if isinstance(value, Group)]


def test_a_table_by_hand() -> None:
    table = words("x", "detail", "a\nb\nc", zipf=True)
    # 1e6 / 6, / 7, / 8
    assert table.weights == [166667, 142857, 125000]
    assert table.bits[2] == log2(434524 / 125000)
    assert table.entropy == pytest.approx(
        sum(-weight / 434524 * log2(weight / 434524) for weight in (166667, 142857, 125000))
    )
    assert table.find("xxb", 2) == 1
    assert table.find("xxb", 0) is None
    assert Table("y", "name", [Word("a"), Word("b")]).entropy == 1


def test_a_template_by_hand() -> None:
    made = template("{He} saw [sight], but {he} [went] on.")
    assert made.first == " %(He)s saw "
    assert made.tail == (("sight", ", but %(he)s "), ("went", " on."))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_probabilities_of_a_table_sum_to_one(table: Table) -> None:
    assert sum(2**-bits for bits in table.bits) == pytest.approx(1, abs=1e-12)
    assert table.weights == sorted(table.weights, reverse=True)


def test_the_probabilities_of_forks_and_groups_sum_to_one() -> None:
    assert len(FORKS) > 5
    for fork in FORKS:
        assert sum(2**-bits for bits in fork.bits) == pytest.approx(1, abs=1e-12)
    for group in GROUPS:
        assert group.size * 2**-group.bits == pytest.approx(1, abs=1e-12)


def test_every_sentence_uses_slots_that_exist_and_every_event_is_told() -> None:
    slots = {slot for group in GROUPS for one in group.templates for slot, _ in one.tail}
    assert slots == set(process.OPENERS)


class Auditing(Telling):
    """Tells a story, and holds every choice against its options."""

    seen: set[str]

    def audit(self, name: str, texts: Sequence[str]) -> None:
        assert all(texts), name
        ordered = sorted(texts)
        for one, other in pairwise(ordered):
            assert not other.startswith(one), (name, one, other)
        self.seen.add(name)

    def pick(self, table: Table[E]) -> E:
        self.audit(table.name, [entry.text for entry in table.entries])
        return super().pick(table)

    def pick_unused(self, table: Table[E], used: Sequence[object]) -> E:
        self.audit(table.name, [entry.text for entry in table.entries])
        return super().pick_unused(table, used)

    def choose(self, name: str, kind: str, options: Sequence[E]) -> E:
        self.audit(name, [option.text for option in options])
        return super().choose(name, kind, options)

    def branch(self, fork: Fork) -> Group:
        self.audit(fork.name, [one.first % self.words for group in fork.groups for one in group.templates])
        return super().branch(fork)

    def tell(self, group: Group) -> None:
        self.audit(group.name, [one.first % self.words for one in group.templates])
        super().tell(group)


def test_no_option_of_a_choice_is_the_beginning_of_another() -> None:
    seen: set[str] = set()
    for level in LEVELS:
        for number in range(150):
            story = Auditing(level, random.Random(number))
            story.seen = seen
            story.run()
    assert {fork.name for fork in FORKS} | {group.name for group in GROUPS} | set(process.OPENERS) == seen
