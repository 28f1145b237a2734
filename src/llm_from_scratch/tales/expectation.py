"""The entropy of the stories: exact by exploring the process, and estimated from stories.

By the chain rule the entropy of a story is the expected sum, over its choices, of -log2 of their
probabilities. What comes after a choice mostly does not depend on which name or thing was chosen:
only forks, wordings and few facts (`_structure`) decide which choices follow. So each part of a
story is explored once for each of these facts, and the expectation is exact.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import fsum, log2, sqrt
from statistics import NormalDist

from llm_from_scratch.tales.choices import KINDS as CHOICE_KINDS
from llm_from_scratch.tales.choices import E, Fork, Group, Table
from llm_from_scratch.tales.people import KINDS, Person
from llm_from_scratch.tales.process import BEATS, OPENERS, Process
from llm_from_scratch.tales.reading import Reading
from llm_from_scratch.tales.telling import Telling

STORIES = 10_000  # whose bytes are counted for the entropy a byte


@dataclass(frozen=True)
class Mean:
    """A mean over stories and its interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Entropy:
    """The entropy of the stories of a level.

    Args:
        level: 1 to 4.
        bits: the entropy of a story, exact up to rounding.
        by_kind: the same for each kind of choice; they sum to `bits`.
        bytes: the mean length of a story.
        bits_per_byte: `bits` over the mean length; the interval is that of the length.
        surprisal: the mean of -log2 probability of the same stories, an estimate of `bits`.
        stories: how many there were.
    """

    level: int
    bits: float
    by_kind: dict[str, float]
    bytes: Mean
    bits_per_byte: Mean
    surprisal: Mean
    stories: int


def entropy(level: int, stories: int = STORIES, seed: int = 0) -> Entropy:
    """Computes the entropy of a level, and measures it in stories.

    Args:
        level: 1 to 4.
        stories: how many are told for the mean length and the mean surprisal; 2 or more.
        seed: of these stories.
    """
    by_kind = exact(level)
    bits = fsum(by_kind.values())
    lengths, surprisals = [], []
    for number in range(stories):
        story = Telling(level, random.Random(seed << 64 | number))
        story.run()
        reading = Reading(level, story.text)
        reading.run()
        lengths.append(len(story.text.encode()))
        surprisals.append(fsum(choice.bits for choice in reading.choices))
    length = mean(lengths)
    rate = Mean(bits / length.value, bits / length.high, bits / length.low)
    return Entropy(level, bits, by_kind, length, rate, mean(surprisals), stories)


def mean(values: Sequence[float], confidence: float = 0.95) -> Mean:
    """Returns the mean of independent values and its normal interval."""
    center = fsum(values) / len(values)
    variance = fsum((value - center) ** 2 for value in values) / (len(values) - 1)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * sqrt(variance / len(values))
    return Mean(center, center - reach, center + reach)


def exact(level: int) -> dict[str, float]:
    """Returns the entropy of a story in bits, by kind of choice."""
    total = dict.fromkeys(CHOICE_KINDS, 0.0)
    start = _Exploring(level)
    states: dict[Hashable, tuple[float, _Exploring]] = {_structure(start): (1.0, start)}
    for beat in BEATS[level]:
        after: dict[Hashable, tuple[float, _Exploring]] = {}
        for weight, state in states.values():
            for probability, path in _paths(state, beat):
                for kind, bits in path.bits.items():
                    total[kind] += weight * probability * bits
                key = _structure(path)
                after[key] = (after[key][0] if key in after else 0.0) + weight * probability, path
        states = after
    return {kind: bits for kind, bits in total.items() if bits}


def _structure(story: Process) -> Hashable:
    """All facts of a story on which the number and probabilities of later choices depend."""
    world = story.world
    return len(world.tools), len(world.ways), tuple(type(one) for one in world.friends), "fear" in story.words


class _Exploring(Process):
    """Takes the alternatives that a script names, and the first one beyond its end.

    Alternatives are sentences, events and classes of entries that differ in what follows; of a
    class, one entry stands for all. `probability` is that of the path, `bits` the expected
    -log2 probability of the choices on it, by kind.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.begin([])

    def begin(self, script: list[int]) -> None:
        """Starts a path from the present state."""
        self.script, self.sizes = script, list[int]()
        self.probability, self.bits = 1.0, defaultdict[str, float](float)

    def pick(self, table: Table[E]) -> E:
        """Takes one class of entries."""
        classes: dict[Hashable, list[int]] = {}
        for index, entry in enumerate(table.entries):
            # The hero's pronoun decides which table of names follows.
            key = entry.pronoun if isinstance(entry, Person) and table.name == KINDS.name else None
            classes.setdefault(key, []).append(index)
        shares = [fsum(table.weights[one] / table.total for one in indices) for indices in classes.values()]
        taken = list(classes.values())[self._take(shares)]
        weight = fsum(table.weights[one] for one in taken)
        self.bits[table.kind] += fsum(table.weights[one] / weight * table.bits[one] for one in taken)
        return table.entries[taken[0]]

    def pick_unused(self, table: Table[E], used: Sequence[object]) -> E:
        """Takes the first free entry."""
        free = [entry for entry in table.entries if entry not in used]
        self.bits[table.kind] += log2(len(free))
        return free[0]

    def choose(self, name: str, kind: str, options: Sequence[E]) -> E:
        """Takes the first option."""
        self.bits[kind] += log2(len(options))
        return options[0]

    def branch(self, fork: Fork) -> Group:
        """Takes one event."""
        index = self._take([weight / fork.total for weight in fork.weights])
        self.bits["plot"] += fork.bits[index]
        self.tell(fork.groups[index])
        return fork.groups[index]

    def tell(self, group: Group) -> None:
        """Takes one sentence."""
        index = self._take([1 / group.size] * group.size)
        self.bits["phrase"] += group.bits
        for slot, _ in group.templates[index].tail:
            OPENERS[slot](self)

    def _take(self, shares: list[float]) -> int:
        place = len(self.sizes)
        self.sizes.append(len(shares))
        if place == len(self.script):
            self.script.append(0)
        index = self.script[place]
        self.probability *= shares[index]
        return index


def _paths(state: _Exploring, beat: Callable[[Process], None]) -> Iterator[tuple[float, _Exploring]]:
    """Yields every path through a part of a story, with its probability, depth first."""
    script: list[int] = []
    while True:
        path = deepcopy(state)
        path.begin(script)
        beat(path)
        yield path.probability, path
        script = list(path.script)
        while script and script[-1] + 1 == path.sizes[len(script) - 1]:
            script.pop()
        if not script:
            return
        script[-1] += 1
