"""All words of the stories, and the values that a slot of a sentence can have, for the judge."""

import re
from collections.abc import Iterable
from functools import cache

from llm_from_scratch.tales import people, phrases, places, things
from llm_from_scratch.tales.choices import Group, Table

WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_FORMAT_SLOT = re.compile(r"%\((\w+)\)s")


def _of(values: Iterable[str]) -> tuple[str, ...]:
    # A longer value first, since a regular expression takes the first alternative that matches
    return tuple(sorted(set(values), key=lambda value: (-len(value), value)))


NAMES = frozenset(entry.text for table in people.NAMES.values() for entry in table.entries)
MET = frozenset(person.the for table in (people.FRIENDS, people.GUARDS) for person in table.entries)
WISHED = frozenset(thing.the for thing in things.THINGS.entries)
TOOLS = frozenset(tool.the for tool in things.TOOLS.entries)
PLACES = frozenset(place.there for place in places.PLACES.entries)
# Obstacle -> the tool that helps.
OBSTACLES = {one.text: one.tool for own in things.OBSTACLES.values() for one in own}
FOODS = frozenset(text for food in things.FOODS.entries for text in (food.text, food.one))

_PAIRS = {
    "relief": people.TROUBLES,
    "signalled": people.SIGNALS,
    "help": people.BARRIERS,
    "answer": people.RIDDLES,
    "kept": people.PROMISES,
}
_VALUES = {
    "hero": NAMES | MET,
    "friend": NAMES | MET,
    "adviser": NAMES | MET,
    "guard": NAMES | MET,
    "elder": {person.the for person in people.ELDERS.entries},
    "thing": WISHED | TOOLS,
    "tool": WISHED | TOOLS,
    "place": {place.text for place in places.PLACES.entries},
    "there": PLACES,
    "spot": {entry.text for entry in places.SPOTS.entries},
    "left": set(things.NUMBERS),
    "times": set(things.NUMBERS),
    "leftovers": FOODS,
    "one": FOODS,
    "purpose": {thing.purpose for thing in things.THINGS.entries},
    "ending": {thing.ending for thing in things.THINGS.entries},
    "use": {one.use for own in things.OBSTACLES.values() for one in own},
    "fear": {entry.text for entry in people.FEARS.entries},
    "bag": {entry.text for entry in things.BAGS.entries},
    **{slot: {pair.follows for pair in table.entries} for slot, table in _PAIRS.items()},
}
_PRONOUNS = {
    "he": ("he", "she"),
    "him": ("him", "her"),
    "his": ("his", "her"),
    "himself": ("himself", "herself"),
}
PRONOUN_SLOTS = frozenset(prefix + slot for slot in _PRONOUNS for prefix in ("", "f", "g", "e"))
# Slot -> the values that it can have; pronouns of every character, and capitals, among them.
VALUES: dict[str, tuple[str, ...]] = {slot: _of(values) for slot, values in _VALUES.items()}
VALUES |= {slot: _of(_PRONOUNS[slot if slot in _PRONOUNS else slot[1:]]) for slot in PRONOUN_SLOTS}
VALUES |= {
    slot.capitalize(): _of(value[0].upper() + value[1:] for value in values) for slot, values in tuple(VALUES.items())
}


@cache
def pattern(text: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """A format as a regular expression that allows every value in a slot; its slots in order."""
    parts = _FORMAT_SLOT.split(text)
    slots = tuple(parts[1::2])
    found = re.escape(parts[0])
    for slot, rest in zip(slots, parts[2::2], strict=True):
        found += f"({'|'.join(map(re.escape, VALUES[slot]))}){re.escape(rest)}"
    return re.compile(found), slots


def _texts() -> Iterable[str]:
    for module in (people, places, things):
        for table in (value for value in vars(module).values() if isinstance(value, Table)):
            yield from (str(value) for entry in table.entries for value in vars(entry).values())
    yield from NAMES
    for own in things.OBSTACLES.values():
        yield from (value for one in own for value in vars(one).values())
    for group in (value for value in vars(phrases).values() if isinstance(value, Group)):
        for template in group.templates:
            yield from (_FORMAT_SLOT.sub(" ", segment) for segment in template.segments)
    yield from ("he she him her his himself herself", *things.NUMBERS)


@cache
def words() -> frozenset[str]:
    """All words of the stories, in lower case."""
    return frozenset(word.lower() for text in _texts() for word in WORD.findall(text))
