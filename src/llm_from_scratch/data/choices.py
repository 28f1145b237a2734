"""Reproducible random choices for made texts.

Python guarantees the stream of `random.Random.random` for an integer seed across its versions,
and of no other method: all choices here are made of it.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
HELD_OUT_SHARE = 4  # one word in so many of a list occurs in held-out examples alone


class Choices:
    """Random choices from one seed; held-out examples draw from longer lists of words.

    Args:
        seed: of the stream.
        held_out: whether words that no training example has may be drawn as well.
    """

    def __init__(self, seed: int, held_out: bool) -> None:
        self._random = random.Random(seed).random
        self._held_out = held_out

    def chance(self, probability: float) -> bool:
        """Returns True with the given probability."""
        return self._random() < probability

    def one(self, items: Sequence[T]) -> T:
        """Returns one of the items, each equally likely."""
        return items[int(self._random() * len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """Returns `count` different items in random order."""
        assert count <= len(items)
        return sorted(items, key=lambda _: self._random())[:count]

    def words(self, items: Sequence[T]) -> Sequence[T]:
        """Returns the part of a list that these examples may use.

        The last quarter of a list, rounded down, is for held-out examples alone.
        """
        return items if self._held_out else items[: len(items) - len(items) // HELD_OUT_SHARE]

    def word(self, items: Sequence[T]) -> T:
        """Returns one item of `words(items)`."""
        return self.one(self.words(items))
