"""How a text that is not a story is mended at its first fault, so that reading can go on.

Six attempts, in this order: a word in a slot where the story demands another one; a choice that the
story does not allow; words that are misspelt, missing, doubled or wrong; a word, then a sentence
too many; a sentence too few. The first one after which the text can be read further counts.
"""

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product

from llm_from_scratch.tales import lexicon
from llm_from_scratch.tales.choices import E, Fork, Group, Table
from llm_from_scratch.tales.process import OPENERS
from llm_from_scratch.tales.reading import MismatchError, Reading

SENTENCE_END = re.compile(r"""[.!?]"?(?= |$)""")
EXTRA_WORD = re.compile(r" ?[A-Za-z'-]+,? ?")
GAP = 0.8  # cost of a word too many or too few, where another word costs up to 1
WORST = 0.5  # highest cost a word at which two texts still count as the same one with a fault
MOST_SENTENCES = 3  # too many or too few at one place
MOST_EVENTS = 5  # of a fork, to be inserted
MOST_TEXTS = 8  # expected ones that are tried for a text with wrong words
MOST_ENDS = 3  # places where such a text may end


@dataclass(frozen=True)
class Deviation:
    """A difference between the text and what is expected: `slot` names a word of the story."""

    slot: str | None
    start: int
    found: str
    expected: str


@dataclass(frozen=True)
class Repair:
    """Replaces the characters `start` to `stop` by `text`; why, as deviations.

    Args:
        removed: sentences that do not belong there, and are removed.
        missing: the events whose sentences are inserted.
    """

    start: int
    stop: int
    text: str
    deviations: tuple[Deviation, ...] = ()
    removed: str = ""
    missing: tuple[str, ...] = ()

    def apply(self, text: str) -> str:
        """Returns the mended text."""
        return text[: self.start] + self.text + text[self.stop :]


def best(error: MismatchError) -> Repair | None:
    """Returns the repair of a fault, or None where nothing helps."""
    found = None
    for attempt in (slots, entries, words, extra_word, surplus, missing):
        for repair in attempt(error):
            if _reach(error.reading.level, repair.apply(error.reading.text)) > repair.start + len(repair.text):
                return repair
            found = found or repair
    return found


def slots(error: MismatchError) -> Iterator[Repair]:
    """Mends words of the story: the text fits a format, with other values in its slots."""
    ranked: list[tuple[int, int, Repair]] = []
    words = error.reading.words
    for place, text in enumerate(error.formats):
        regex, names = lexicon.pattern(text) if "%(" in text else (None, ())
        match = regex.match(error.reading.text, error.start) if regex else None
        if match is None:
            continue
        deviations = tuple(
            Deviation(slot, match.start(index), match[index], words[slot])
            for index, slot in enumerate(names, 1)
            if slot in words and match[index] != words[slot]
        )
        if deviations:
            cost = 20 * len(deviations) - len(match[0])
            ranked.append((cost, place, Repair(error.start, match.end(), text % words, deviations)))
    yield from (repair for _, _, repair in sorted(ranked, key=lambda row: row[:2]))


def entries(error: MismatchError) -> Iterator[Repair]:
    """Mends an open choice that takes what the story does not allow, such as a lost tool."""
    options = {"gift": lexicon.TOOLS, "obstacle": lexicon.OBSTACLES}.get(error.name, error.barred)
    for option in sorted(options, key=len, reverse=True):
        if error.reading.text.startswith(option, error.start):
            slot = error.name if error.name in ("gift", "obstacle") else "again"
            deviation = Deviation(slot, error.start, option, error.expected[0])
            yield Repair(error.start, error.start + len(option), error.expected[0], (deviation,))


def words(error: MismatchError) -> Iterator[Repair]:
    """Mends the text by the expected ones that differ from it in the fewest words."""
    text, start = error.reading.text, error.start
    ranked: list[tuple[float, int, int, Repair]] = []
    for place, expected in enumerate(error.expected):
        tokens = _tokens(expected)
        window = _tokens(text[start : start + len(expected) + 40])[: len(tokens) + 4]
        for cost, length, changes in _alignments(tokens, window):
            share = cost / max(sum(token != " " for token in tokens), 1)
            if not cost or share > WORST:
                continue
            stop = start + sum(map(len, window[:length]))
            worded = [change for change in changes if change[1:] not in ((" ", ""), ("", " "))] or changes
            deviations = tuple(
                Deviation(None, start + sum(map(len, window[:at])), found, other) for at, found, other in worded
            )
            ranked.append((share, place, length, Repair(start, stop, expected, deviations)))
    ranked.sort(key=lambda row: row[:3])
    yield from (repair for _, _, _, repair in ranked[:MOST_TEXTS])


def extra_word(error: MismatchError) -> Iterator[Repair]:
    """Removes one word, if reading goes on after it."""
    text, start = error.reading.text, error.start
    match = EXTRA_WORD.match(text, start)
    if match:
        repair = Repair(start, match.end(), "", (Deviation(None, start, match[0].strip(), ""),))
        if _reach(error.reading.level, repair.apply(text)) > start:
            yield repair


def surplus(error: MismatchError) -> Iterator[Repair]:
    """Removes sentences that do not belong there, if reading goes on after them."""
    text, stop = error.reading.text, error.start
    for _ in range(MOST_SENTENCES):
        end = SENTENCE_END.search(text, stop)
        if end is None:
            return
        stop = end.end()
        repair = Repair(error.start, stop, "", removed=text[error.start : stop].strip())
        if _reach(error.reading.level, repair.apply(text)) > error.start:
            yield repair


def missing(error: MismatchError) -> Iterator[Repair]:
    """Inserts sentences that are expected, if reading goes on after them."""
    text, start = error.reading.text, error.start
    for bridging in _bridges(error):
        inserted = len(bridging.text) - len(text)
        repair = Repair(start, start, bridging.text[start : start + inserted], missing=tuple(bridging.inserted))
        if _reach(error.reading.level, repair.apply(text)) > start + inserted:
            yield repair


def _reach(level: int, text: str) -> int:
    """Returns how far a text (with its space at the start) can be read."""
    reading = Reading(level, text[1:])
    try:
        reading.run()
    except MismatchError as error:
        return error.start
    return len(text) + 1


class _Bridging(Reading):
    """Reads to the place of a fault, then inserts sentences, the events by a script."""

    def __init__(self, error: MismatchError, script: tuple[int, ...]) -> None:
        super().__init__(error.reading.level, error.reading.text[1:])
        self._fault, self._script = error.start, list(script)
        self._random = random.Random(0).random
        self._inserting = False
        self.inserted: list[str] = []

    def pick(self, table: Table[E]) -> E:
        """Draws an entry of an inserted sentence."""
        if not self._inserting:
            return super().pick(table)
        return self._insert(table.entries[int(self._random() * table.size)])

    def pick_unused(self, table: Table[E], used: Sequence[object]) -> E:
        """Draws an entry of an inserted sentence."""
        if not self._inserting:
            return super().pick_unused(table, used)
        free = [entry for entry in table.entries if entry not in used]
        return self._insert(free[int(self._random() * len(free))])

    def choose(self, name: str, kind: str, options: Sequence[E]) -> E:
        """Draws an option of an inserted sentence."""
        if not self._inserting:
            return super().choose(name, kind, options)
        return self._insert(options[0])

    def branch(self, fork: Fork) -> Group:
        """Inserts a sentence of the event that the script names."""
        if self.start != self._fault or not self._script:
            return super().branch(fork)
        return self._sentence(fork.groups[min(self._script.pop(0), len(fork.groups) - 1)])

    def tell(self, group: Group) -> None:
        """Inserts a sentence."""
        if self.start != self._fault or not self._script:
            return super().tell(group)
        self._script.pop(0)
        self._sentence(group)

    def _sentence(self, group: Group) -> Group:
        template = group.templates[0]
        self._inserting = True
        self._add(template.first % self.words)
        for slot, rest in template.tail:
            OPENERS[slot](self)
            self._add(rest % self.words)
        self._inserting = False
        self._fault = self.start
        self.inserted.append(group.name)
        return group

    def _insert(self, entry: E) -> E:
        self._add(entry.text)
        return entry

    def _add(self, text: str) -> None:
        self.text = self.text[: self.start] + text + self.text[self.start :]
        self.start += len(text)


def _bridges(error: MismatchError) -> Iterator[_Bridging]:
    scripts = [script for length in (1, 2) for script in product(range(MOST_EVENTS), repeat=length)]
    for script in [*scripts, (0, 0, 0)]:
        bridging = _Bridging(error, script)
        with suppress(MismatchError):
            bridging.run()
        if bridging.inserted:
            yield bridging


def _tokens(text: str) -> list[str]:
    """Splits a text into words, spaces and marks: "".join gives it back."""
    return re.findall(r"[A-Za-z]+(?:['-][A-Za-z]+)*| |[^A-Za-z ]", text)


def _alignments(expected: list[str], found: list[str]) -> Iterator[tuple[float, int, list[tuple[int, str, str]]]]:
    """Aligns two lists of tokens, of which the second may end later, in the best ways.

    Yields the cost, the tokens of `found` that are used, and the changes: (place in `found`, what
    is there, what is expected).
    """
    width = len(found) + 1
    costs = [[0.0] * width for _ in range(len(expected) + 1)]
    for j in range(1, width):
        costs[0][j] = costs[0][j - 1] + _gap(found[j - 1])
    for i, token in enumerate(expected, 1):
        costs[i][0] = costs[i - 1][0] + _gap(token)
        above, row = costs[i - 1], costs[i]
        for j in range(1, width):
            row[j] = min(
                above[j - 1] + _difference(token, found[j - 1]),
                above[j] + _gap(token),
                row[j - 1] + _gap(found[j - 1]),
            )
    ends = sorted(range(width), key=lambda j: (costs[-1][j], abs(j - len(expected))))
    for length in ends[:MOST_ENDS]:
        yield costs[-1][length], length, _changes(expected, found, costs, length)


def _changes(
    expected: list[str], found: list[str], costs: list[list[float]], length: int
) -> list[tuple[int, str, str]]:
    """Follows the cheapest alignment back from its end."""
    changes = []
    i, j = len(expected), length
    while i or j:
        if i and j and costs[i][j] == costs[i - 1][j - 1] + _difference(expected[i - 1], found[j - 1]):
            i, j = i - 1, j - 1
            if expected[i] != found[j]:
                changes.append((j, found[j], expected[i]))
        elif i and costs[i][j] == costs[i - 1][j] + _gap(expected[i - 1]):
            i -= 1
            changes.append((j, "", expected[i]))
        else:
            j -= 1
            changes.append((j, found[j], ""))
    return changes[::-1]


def _gap(token: str) -> float:
    return 0.1 if token == " " else GAP


@cache
def _difference(one: str, other: str) -> float:
    """Returns 0 for equal words, up to 1 by the share of letters to change, for others."""
    if one == other:
        return 0.0
    longest = max(len(one), len(other))
    if not (one[0].isalpha() and other[0].isalpha()) or abs(len(one) - len(other)) > 2:
        return 1.0
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        last, before, row = before, row, [i]
        for j, letter_2 in enumerate(other, 1):
            step = min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != letter_2))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == letter_2:
                step = min(step, last[j - 2] + 1)  # two letters exchanged
            row.append(step)
    return min(row[-1] / longest, 1.0)
