"""Records of a study -> arrays; repetitions and “cannot judge” are left out of them.

N ratings, S systems.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from llm_from_scratch.rating.records import Preference, Rating

OUTCOMES = {"first": 1, "second": -1, "tie": 0}


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """The ratings of one question: arrays of N, and the names that `system` numbers.

    `rater`, `item` and `prompt` are the study's numbers.
    """

    systems: list[str]
    system: np.ndarray
    rater: np.ndarray
    item: np.ndarray
    prompt: np.ndarray
    value: np.ndarray

    def without(self, raters: Iterable[int]) -> "Ratings":
        """Returns the ratings of all raters but these."""
        return self.where(~np.isin(self.rater, list(raters)))

    def where(self, kept: np.ndarray) -> "Ratings":
        """Returns the ratings that a mask (N,) keeps; the systems stay numbered as they are."""
        arrays = {name: getattr(self, name)[kept] for name in ("system", "rater", "item", "prompt", "value")}
        return Ratings(systems=self.systems, **arrays)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The comparisons of a study of pairs: arrays of N.

    `outcome` is 1 where `first` was preferred, -1 where `second` was, and 0 for a tie.
    """

    systems: list[str]
    first: np.ndarray
    second: np.ndarray
    rater: np.ndarray
    item: np.ndarray
    prompt: np.ndarray
    outcome: np.ndarray

    def without(self, raters: Iterable[int]) -> "Pairs":
        """Returns the comparisons of all raters but these."""
        return self.where(~np.isin(self.rater, list(raters)))

    def where(self, kept: np.ndarray) -> "Pairs":
        """Returns the comparisons that a mask (N,) keeps."""
        arrays = {name: getattr(self, name)[kept] for name in ("first", "second", "rater", "item", "prompt", "outcome")}
        return Pairs(systems=self.systems, **arrays)


def ratings_table(records: Iterable[Rating], question: str, systems: Sequence[str]) -> Ratings:
    """Returns the ratings of a question; the records may hold others."""
    rows = [
        (systems.index(one.system), one.rater, one.item, one.prompt, one.value)
        for one in records
        if one.question == question and one.value is not None and not one.repeat
    ]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    return Ratings(
        systems=list(systems),
        **dict(zip(("system", "rater", "item", "prompt"), columns[:4], strict=True)),
        value=columns[4].astype(np.float64),
    )


def pairs_table(records: Iterable[Preference], systems: Sequence[str]) -> Pairs:
    """Returns the comparisons that were judged, each item once a rater."""
    rows = [
        (
            *(systems.index(name) for name in (one.first, one.second)),
            *(one.rater, one.item, one.prompt, OUTCOMES[one.winner]),
        )
        for one in records
        if one.winner is not None and not one.repeat
    ]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 6).T
    names = ("first", "second", "rater", "item", "prompt", "outcome")
    return Pairs(systems=list(systems), **dict(zip(names, columns, strict=True)))
