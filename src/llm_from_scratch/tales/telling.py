"""Stories by number: the driver that draws every choice from a stream of (seed, number, level).

Training and validation never share a story: a hash of the text says to which of them it belongs,
and a number's story is drawn again until it belongs to the one that was asked for.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import blake2b
from multiprocessing import get_context

from llm_from_scratch.errors import UserError
from llm_from_scratch.tales.choices import E, Fork, Group, Table, Template
from llm_from_scratch.tales.process import LEVELS, OPENERS, Process

SPLITS = ("train", "val")
HELD_OUT = 1 / 16  # share of the stories that belong to validation
BLOCK = 500  # stories that a worker tells at a time


class Telling(Process):
    """Draws every choice.

    Args:
        level: 1 to 4.
        uniform: returns numbers in [0, 1), such as `random.Random(seed).random`, the one method
            whose stream Python guarantees across its versions.
    """

    def __init__(self, level: int, uniform: random.Random) -> None:
        super().__init__(level)
        self._random = uniform.random
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """The story so far."""
        return "".join(self._parts)[1:]

    def pick(self, table: Table[E]) -> E:
        """Draws an entry of the table."""
        if table.uniform:
            entry = table.entries[int(self._random() * table.size)]
        else:
            entry = table.entries[bisect_right(table.cumulative, self._random() * table.total)]
        self._parts.append(entry.text)
        return entry

    def pick_unused(self, table: Table[E], used: Sequence[object]) -> E:
        """Draws an entry of a uniform table until it is not in `used`."""
        entries, size = table.entries, table.size
        entry = entries[int(self._random() * size)]
        while entry in used:
            entry = entries[int(self._random() * size)]
        self._parts.append(entry.text)
        return entry

    def choose(self, name: str, kind: str, options: Sequence[E]) -> E:
        """Draws one of the options."""
        option = options[int(self._random() * len(options))]
        self._parts.append(option.text)
        return option

    def branch(self, fork: Fork) -> Group:
        """Draws an event by its weight, then a sentence for it."""
        group = fork.groups[bisect_right(fork.cumulative, self._random() * fork.total)]
        self.tell(group)
        return group

    def tell(self, group: Group) -> None:
        """Draws a sentence of the group."""
        self._fill(group.templates[int(self._random() * group.size)])

    def _fill(self, template: Template) -> None:
        words, append = self.words, self._parts.append
        append(template.first % words)
        for slot, text in template.tail:
            OPENERS[slot](self)
            append(text % words)


def tell(seed: int, number: int, level: int, split: str | None = None) -> str:
    """Tells one story: the same text for the same arguments, on every machine.

    Args:
        seed: 0 to 2 ** 64 - 1.
        number: 0 to 2 ** 64 - 1; other numbers are independent stories.
        level: 1, a fixed pattern, to 4, where a promise of the second sentence is kept in the last.
        split: "train" or "val" draws again until the story belongs to that split; None takes the
            first story.

    Raises:
        UserError: for a level or split that does not exist, or numbers out of range.
    """
    _check(seed, number, level, split)
    attempt = 0
    while True:
        key = attempt << 160 | level << 128 | seed << 64 | number
        story = Telling(level, random.Random(key))
        story.run()
        text = story.text
        if split is None or split_of(text) == split:
            return text
        attempt += 1


def split_of(text: str) -> str:
    """Says whether a story belongs to "train" or "val", by a hash of its text."""
    share = int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") / 2**32
    return SPLITS[share < HELD_OUT]


def stories(seed: int, start: int, count: int, level: int, split: str | None = None, workers: int = 1) -> Iterator[str]:
    """Yields the stories number `start` to `start + count - 1` in order; see `tell`.

    The texts do not depend on `workers`, the number of processes.

    Raises:
        UserError: for arguments out of range.
    """
    _check(seed, start, level, split)
    if count < 0 or workers < 1:
        raise UserError(f"{count} stories by {workers} workers: give 0 or more stories, 1 or more workers")
    _check(seed, start + max(count - 1, 0), level, split)
    blocks = [range(first, min(first + BLOCK, start + count)) for first in range(start, start + count, BLOCK)]
    block = partial(_block, seed, level, split)
    if workers == 1 or len(blocks) < 2:
        for numbers in blocks:
            yield from block(numbers)
        return
    with get_context("spawn").Pool(min(workers, len(blocks))) as pool:
        for told in pool.imap(block, blocks):
            yield from told


def _block(seed: int, level: int, split: str | None, numbers: range) -> list[str]:
    return [tell(seed, number, level, split) for number in numbers]


def _check(seed: int, number: int, level: int, split: str | None) -> None:
    if level not in LEVELS:
        raise UserError(f"level {level}: there are the levels {LEVELS[0]} to {LEVELS[-1]}")
    if split is not None and split not in SPLITS:
        raise UserError(f"split {split!r}: give train or val, or none")
    if not (0 <= seed < 2**64 and 0 <= number < 2**64):
        raise UserError(f"seed {seed}, number {number}: give numbers from 0 to 2**64 - 1")
