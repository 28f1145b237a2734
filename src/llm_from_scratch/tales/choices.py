"""Choices with known probabilities: tables of words, groups of sentences, forks of the plot.

A sentence is written as a template. `{he}` is a word that the story has already determined;
`[name]` is an open choice, whose text is drawn and then determines more words. The options of a
choice begin differently (no text is a prefix of another), so that the next characters of a story
say which one was taken. A test checks this for every choice of many stories.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import fsum, log2
from typing import Generic, Protocol, TypeVar

KINDS = ("name", "character", "thing", "place", "action", "number", "detail", "phrase", "plot")
HEAD = 6  # entries of about equal weight at the head of a Zipf table
OPEN_SLOT = re.compile(r"\[(\w+)\]")
KNOWN_SLOT = re.compile(r"\{(\w+)\}")


class Entry(Protocol):
    """One option of a table: `text` is told, further fields say what follows from it."""

    @property
    def text(self) -> str: ...


E = TypeVar("E", bound=Entry)


class Table(Generic[E]):
    """Options of one kind of choice, uniform or with the weights of Zipf's law.

    Args:
        name: of the open slot that draws from it.
        kind: one of `KINDS`.
        entries: the options, the most frequent first.
        zipf: weights 1 / (rank + HEAD), rounded to integers, rather than equal ones.
    """

    def __init__(self, name: str, kind: str, entries: Sequence[E], zipf: bool = False) -> None:
        assert kind in KINDS
        assert entries
        self.name, self.kind, self.entries, self.size = name, kind, tuple(entries), len(entries)
        self.weights = [round(1e6 / (rank + HEAD)) if zipf else 1 for rank in range(self.size)]
        self.uniform = not zipf
        self.cumulative = list(accumulate(self.weights))
        self.total = self.cumulative[-1]
        self.bits = [log2(self.total / weight) for weight in self.weights]
        self.entropy = fsum(weight / self.total * bits for weight, bits in zip(self.weights, self.bits, strict=True))
        self.by_text = {entry.text: index for index, entry in enumerate(self.entries)}
        assert len(self.by_text) == self.size, name
        self._lengths = sorted({len(entry.text) for entry in self.entries}, reverse=True)

    def find(self, text: str, start: int) -> int | None:
        """Returns the index of the entry that stands in `text` at `start`, if one does."""
        for length in self._lengths:
            index = self.by_text.get(text[start : start + length])
            if index is not None:
                return index
        return None


@dataclass(frozen=True)
class Template:
    """A sentence: text up to the first open slot, then pairs of a slot and the text after it.

    The texts are formats for the `%` operator: `{he}` is written `%(he)s`.
    """

    first: str
    tail: tuple[tuple[str, str], ...]

    @property
    def segments(self) -> tuple[str, ...]:
        """The texts between open slots, in order."""
        return (self.first, *(text for _, text in self.tail))


def template(sentence: str) -> Template:
    """Compiles a sentence such as "{He} wished for [thing]."; sentences begin with a space."""
    parts = OPEN_SLOT.split(KNOWN_SLOT.sub(r"%(\1)s", " " + sentence))
    return Template(parts[0], tuple(zip(parts[1::2], parts[2::2], strict=True)))


class Group:
    """Equally likely sentences for one event of a story."""

    def __init__(self, name: str, sentences: str) -> None:
        self.name = name
        self.templates = tuple(template(line.strip()) for line in sentences.strip().splitlines())
        self.size = len(self.templates)
        self.bits = log2(self.size)


class Fork:
    """A choice between events: a branch by its weight, then a sentence of the branch's group."""

    def __init__(self, name: str, branches: Mapping[Group, int]) -> None:
        self.name = name
        self.groups, self.weights = tuple(branches), tuple(branches.values())
        self.cumulative = list(accumulate(self.weights))
        self.total = self.cumulative[-1]
        self.bits = [log2(self.total / weight) for weight in self.weights]
        self.entropy = fsum(weight / self.total * bits for weight, bits in zip(self.weights, self.bits, strict=True))


@dataclass(frozen=True)
class Word:
    """An entry from whose text nothing else follows."""

    text: str


def rows(text: str) -> list[list[str]]:
    """Splits the lines of a table into their fields, which " | " separates."""
    return [[field.strip() for field in line.split("|")] for line in text.strip().splitlines()]


def words(name: str, kind: str, text: str, zipf: bool = False) -> Table[Word]:
    """Makes a table of the lines of `text`."""
    return Table(name, kind, [Word(line.strip()) for line in text.strip().splitlines()], zipf)
