"""Stories read back: the driver that recognizes every choice in a text, with its probability."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, log2

from llm_from_scratch.errors import UserError
from llm_from_scratch.tales.choices import E, Fork, Group, Table, Template
from llm_from_scratch.tales.process import LEVELS, OPENERS, Process


@dataclass(frozen=True)
class Choice:
    """One choice of a story.

    Args:
        kind: one of `choices.KINDS`.
        name: of the table, group or fork.
        start: the character at which its text begins.
        taken: the text of the option; the name of the event for a fork.
        bits: -log2 of its probability, given the story up to here.
        entropy: of the choice, in bits, given the story up to here.
    """

    kind: str
    name: str
    start: int
    taken: str
    bits: float
    entropy: float


class MismatchError(ValueError):
    """No option of a choice, or not the text that must follow, stands at a place of the text.

    Args:
        reading: the driver, as it is at this place.
        name: of the choice.
        expected: the texts that could stand there.
        formats: of these texts, where they hold words of the story; else as `expected`.
        barred: the texts that the story does not allow any more.
    """

    def __init__(
        self, reading: "Reading", name: str, expected: Sequence[str], formats: Sequence[str], barred: Sequence[str]
    ) -> None:
        super().__init__(f"{name} at character {reading.start}")
        self.reading, self.name, self.start = reading, name, reading.start
        self.expected, self.formats, self.barred = list(expected), list(formats), list(barred)


class Reading(Process):
    """Recognizes every choice in a text.

    Args:
        level: 1 to 4.
        text: the story.
        start: the character after what has been read.
        choices: those recognized so far.
    """

    def __init__(self, level: int, text: str) -> None:
        super().__init__(level)
        self.text = " " + text
        self.start = 0
        self.choices: list[Choice] = []

    def pick(self, table: Table[E]) -> E:
        """Finds an entry of the table."""
        index = table.find(self.text, self.start)
        if index is None:
            raise self._mismatch(table.name, list(table.by_text))
        entry = table.entries[index]
        self._take(table.kind, table.name, entry.text, table.bits[index], table.entropy)
        return entry

    def pick_unused(self, table: Table[E], used: Sequence[object]) -> E:
        """Finds an entry of a uniform table that is not in `used`."""
        free = [entry for entry in table.entries if entry not in used]
        index = table.find(self.text, self.start)
        if index is None or table.entries[index] in used:
            barred = [entry.text for entry in table.entries if entry in used]
            raise self._mismatch(table.name, [entry.text for entry in free], barred=barred)
        entry = table.entries[index]
        self._take(table.kind, table.name, entry.text, log2(len(free)), log2(len(free)))
        return entry

    def choose(self, name: str, kind: str, options: Sequence[E]) -> E:
        """Finds one of the options."""
        for option in options:
            if self.text.startswith(option.text, self.start):
                self._take(kind, name, option.text, log2(len(options)), log2(len(options)))
                return option
        raise self._mismatch(name, [option.text for option in options])

    def branch(self, fork: Fork) -> Group:
        """Finds the event whose group has a sentence that stands here."""
        for group, bits in zip(fork.groups, fork.bits, strict=True):
            found = self._find(group)
            if found is not None:
                self.choices.append(Choice("plot", fork.name, self.start, group.name, bits, fork.entropy))
                self._fill(group, found)
                return group
        raise self._mismatch_groups(fork.name, fork.groups)

    def tell(self, group: Group) -> None:
        """Finds a sentence of the group."""
        found = self._find(group)
        if found is None:
            raise self._mismatch_groups(group.name, [group])
        self._fill(group, found)

    def run(self) -> None:
        """Reads the whole text.

        Raises:
            MismatchError: where it is not a story of this level.
        """
        super().run()
        if self.start < len(self.text):
            raise self._mismatch("end", [])

    def _find(self, group: Group) -> Template | None:
        for template in group.templates:
            if self.text.startswith(template.first % self.words, self.start):
                return template
        return None

    def _fill(self, group: Group, template: Template) -> None:
        self._take("phrase", group.name, template.first % self.words, group.bits, group.bits)
        for slot, text in template.tail:
            OPENERS[slot](self)
            rest = text % self.words
            if not self.text.startswith(rest, self.start):
                raise self._mismatch(group.name, [rest], [text])
            self.start += len(rest)

    def _take(self, kind: str, name: str, text: str, bits: float, entropy: float) -> None:
        self.choices.append(Choice(kind, name, self.start, text, bits, entropy))
        self.start += len(text)

    def _mismatch_groups(self, name: str, groups: Sequence[Group]) -> MismatchError:
        formats = [template.first for group in groups for template in group.templates]
        return self._mismatch(name, [text % self.words for text in formats], formats)

    def _mismatch(
        self, name: str, expected: list[str], formats: Sequence[str] | None = None, barred: Sequence[str] = ()
    ) -> MismatchError:
        return MismatchError(self, name, expected, expected if formats is None else formats, barred)


@dataclass(frozen=True)
class Options:
    """All options of a choice of a story.

    Args:
        choice: what was taken.
        probabilities: of each option, by its text, of a fork by the event's name; they sum to 1.
        texts: those by which an option can be told: of an event its sentences.
    """

    choice: Choice
    probabilities: dict[str, float]
    texts: dict[str, tuple[str, ...]]


class _Listing(Reading):
    """Reads a story, and lists the options of each choice with their probabilities."""

    def __init__(self, level: int, text: str) -> None:
        super().__init__(level, text)
        self.options: list[tuple[dict[str, float], dict[str, tuple[str, ...]]]] = []

    def pick(self, table: Table[E]) -> E:
        """Lists the entries of the table."""
        weights = zip(table.entries, table.weights, strict=True)
        self._list({entry.text: weight / table.total for entry, weight in weights})
        return super().pick(table)

    def pick_unused(self, table: Table[E], used: Sequence[object]) -> E:
        """Lists the entries that are not used."""
        free = [entry.text for entry in table.entries if entry not in used]
        self._list(dict.fromkeys(free, 1 / len(free)))
        return super().pick_unused(table, used)

    def choose(self, name: str, kind: str, options: Sequence[E]) -> E:
        """Lists the options."""
        self._list(dict.fromkeys((option.text for option in options), 1 / len(options)))
        return super().choose(name, kind, options)

    def branch(self, fork: Fork) -> Group:
        """Lists the events."""
        weights = zip(fork.groups, fork.weights, strict=True)
        probabilities = {group.name: weight / fork.total for group, weight in weights}
        self.options.append((probabilities, {group.name: self._sentences(group) for group in fork.groups}))
        return super().branch(fork)

    def _fill(self, group: Group, template: Template) -> None:
        self._list(dict.fromkeys(self._sentences(group), 1 / group.size))
        super()._fill(group, template)

    def _sentences(self, group: Group) -> tuple[str, ...]:
        return tuple(one.first % self.words for one in group.templates)

    def _list(self, probabilities: dict[str, float]) -> None:
        self.options.append((probabilities, {text: (text,) for text in probabilities}))


def read(text: str, level: int | None = None) -> Reading:
    """Reads a story back, without a fault.

    Args:
        text: the story.
        level: 1 to 4, or None: the level that the text determines.

    Raises:
        MismatchError: where the text is not a story; of several levels, the furthest place.
    """
    furthest: MismatchError | None = None
    for one in LEVELS if level is None else [level]:
        reading = Reading(one, text)
        try:
            reading.run()
            return reading
        except MismatchError as error:
            if furthest is None or error.start > furthest.start:
                furthest = error
    assert furthest is not None
    raise furthest


def choices(text: str, level: int | None = None) -> list[Choice]:
    """Returns every choice of a story, in order.

    Raises:
        UserError: if the text is not a story.
    """
    return _checked(text, level).choices


def _checked(text: str, level: int | None) -> Reading:
    """Reads a story; see `read`.

    Raises:
        UserError: if the text is not a story.
    """
    try:
        return read(text, level)
    except MismatchError as error:
        found = error.reading.text[error.start : error.start + 30].strip()
        where = f"at character {max(error.start - 1, 0)}, {found!r}: {error.name} is expected there"
        raise UserError(f"this is not a story: {where}; `check` names the faults") from None


def options(text: str, level: int | None = None) -> list[Options]:
    """Returns every choice of a story, in order, with all its options and their texts.

    Raises:
        UserError: if the text is not a story.
    """
    listing = _Listing(_checked(text, level).level, text)
    listing.run()
    return [Options(choice, *own) for choice, own in zip(listing.choices, listing.options, strict=True)]


def alternatives(text: str, level: int | None = None) -> list[tuple[Choice, dict[str, float]]]:
    """Returns every choice of a story with the probabilities of all its options.

    Options are named by their texts, those of a fork by their events.

    Raises:
        UserError: if the text is not a story.
    """
    return [(one.choice, one.probabilities) for one in options(text, level)]


def log2_probability(text: str, level: int | None = None) -> float:
    """Returns log2 of the probability that the process tells this story at its level.

    Raises:
        UserError: if the text is not a story.
    """
    return -fsum(choice.bits for choice in choices(text, level))
