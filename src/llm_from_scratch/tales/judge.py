"""Is a story true to its world? The first fault and its kind, and those after it.

A text is read by the process itself. Where no option of a choice fits, the fault is named from what
the story knows at that place, the text is mended (repairs.py), and reading goes on. A told story
therefore never has a fault.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from llm_from_scratch.tales import lexicon, repairs
from llm_from_scratch.tales.process import LEVELS
from llm_from_scratch.tales.reading import MismatchError, Reading, read

# Kind of fault -> its meaning.
FAULTS = {
    "spelling": "a word that no story has",
    "grammar": "a word too many, too few, or another one than the sentence needs",
    "unknown name": "somebody who was never introduced",
    "unknown thing": "a thing that was never introduced",
    "two places": "somebody or something in another place than it is",
    "lost thing": "a thing that is lost or given away is used",
    "sleeper": "a sleeper speaks",
    "wrong person": "somebody does what another one must do",
    "wrong thing": "another thing of the story than the one that is meant",
    "pronoun": "a pronoun of the other gender",
    "count": "a number that does not follow",
    "promise": "a promise that is not kept, or not as it was given",
    "consequence": "something that does not follow from what came before",
    "repetition": "something new that the story has already",
    "order": "a sentence that does not belong there",
    "gap": "a sentence that is missing",
    "ending": "no ending",
    "unreadable": "no sentence of this world; the rest was not read",
}
MOST = 40  # faults of one text
_SPEECH = ("said", "asked", "cried", "whispered", "growled", "called", "sighed", "declared", '"')
_SLOTS = {
    "left": "count",
    "times": "count",
    "kept": "promise",
    "elder": "promise",
    "place": "two places",
    "there": "two places",
    "spot": "two places",
    "one": "unknown thing",
    "leftovers": "unknown thing",
    "bag": "unknown thing",
}


@dataclass(frozen=True)
class Fault:
    """One fault of a text.

    Args:
        kind: one of `FAULTS`.
        start: the character of the text.
        found: what stands there.
        expected: what would be right; empty where nothing is.
    """

    kind: str
    start: int
    found: str
    expected: str


@dataclass(frozen=True)
class Verdict:
    """What the judge found.

    Args:
        level: the level whose process reads the text best.
        faults: in the order of the text.
        whole: whether the text was read to its end.
    """

    level: int
    faults: tuple[Fault, ...]
    whole: bool

    @property
    def kinds(self) -> Counter[str]:
        """How many faults there are of each kind."""
        return Counter(fault.kind for fault in self.faults)


def check(text: str, level: int | None = None) -> Verdict:
    """Names the faults of a story; without one, the process can tell exactly this text.

    Args:
        text: the story.
        level: 1 to 4, or None: the level that reads it with the fewest faults.
    """
    levels = LEVELS if level is None else (level,)
    for one in levels:
        with suppress(MismatchError):
            read(text, one)
            return Verdict(one, (), True)
    verdicts = []
    for one in levels:
        verdict, reach = _judge(text, one)
        verdicts.append((verdict.whole, reach, -len(verdict.faults), -one, verdict))
    return max(verdicts, key=lambda row: row[:4])[4]


def _judge(text: str, level: int) -> tuple[Verdict, int]:
    """Reads and mends a text at one level: the verdict, and how many characters could be read."""
    mended, faults, furthest = " " + text, list[Fault](), -1
    moved = 0  # characters that the repairs have added
    while True:
        reading = Reading(level, mended[1:])
        try:
            reading.run()
            return Verdict(level, tuple(faults), True), len(text)
        except MismatchError as error:
            place = max(error.start - 1 - moved, 0)
            ended = _ended(error)
            if ended is not None:
                faults.append(Fault(ended, min(place, len(text)), "", error.name))
                return Verdict(level, tuple(faults), True), len(text)
            repair = None if len(faults) >= MOST or error.start <= furthest else repairs.best(error)
            furthest = error.start
            if repair is None:
                found = error.reading.text[error.start :].strip()
                faults.append(Fault("unreadable", place, found[:60], error.name))
                return Verdict(level, tuple(faults), False), place
            faults += _faults(error, repair, moved)
            mended = repair.apply(mended)
            moved += len(repair.text) - (repair.stop - repair.start)


def _ended(error: MismatchError) -> str | None:
    """Returns the kind of fault where the text ends before the story does."""
    rest = error.reading.text[error.start :]
    if rest.strip() and not any(one.startswith(rest) for one in error.expected):
        return None
    return "promise" if error.name == "promise kept" and not rest.strip() else "ending"


def _faults(error: MismatchError, repair: repairs.Repair, moved: int) -> list[Fault]:
    story, place = error.reading, max(error.start - 1 - moved, 0)
    if repair.removed:
        return [Fault(_surplus(story, repair.removed), place, repair.removed, "")]
    if repair.missing:
        kind = "promise" if "promise kept" in repair.missing else "gap"
        return [Fault(kind, place, "", repair.text.strip())]
    sentence = story.text[repair.start : repair.stop]
    return [
        Fault(_kind(story, one, sentence), max(one.start - 1 - moved, 0), one.found, one.expected)
        for one in repair.deviations
    ]


def _kind(story: Reading, deviation: repairs.Deviation, sentence: str) -> str:
    """Names the kind of a deviation."""
    slot, found = deviation.slot, deviation.found
    if slot is None:
        words = lexicon.WORD.findall(found)
        if any(word.lower() not in lexicon.words() for word in words):
            return "spelling"
        return "grammar"
    slot = slot[0].lower() + slot[1:]
    if slot in lexicon.PRONOUN_SLOTS:
        return "pronoun"
    if slot in _SLOTS:
        return _SLOTS[slot]
    the = found[0].lower() + found[1:] if found.startswith("The ") else found
    if slot in ("hero", "friend", "adviser", "guard"):
        return _person(story, the, sentence)
    if slot in ("thing", "tool", "gift"):
        return _thing(story, the)
    if slot == "obstacle" and _thing(story, lexicon.OBSTACLES[found]) == "lost thing":
        return "lost thing"
    if slot == "again":
        return "repetition"
    return "consequence"


def _person(story: Reading, the: str, sentence: str) -> str:
    known = {getattr(person, "the", "") for person in story.world.friends} | {story.words.get("hero", "")}
    if the in story.world.asleep and any(word in sentence for word in _SPEECH):
        return "sleeper"
    return "wrong person" if the in known else "unknown name"


def _thing(story: Reading, the: str) -> str:
    if any(tool.the == the for tool in story.world.lost):
        return "lost thing"
    known = {tool.the for tool in story.world.tools} | {story.words.get("thing", "")}
    return "wrong thing" if the in known else "unknown thing"


def _surplus(story: Reading, removed: str) -> str:
    """Names the kind of a sentence that does not belong there, by what it says."""
    low = removed[0].lower() + removed[1:]
    people = [one for one in sorted(lexicon.MET | lexicon.NAMES) if _mentions(removed, one) or _mentions(low, one)]
    goods = [one for one in sorted(lexicon.WISHED | lexicon.TOOLS) if _mentions(removed, one) or _mentions(low, one)]
    kinds = [_person(story, one, removed) for one in people] + [_thing(story, one) for one in goods]
    for kind in ("sleeper", "lost thing", "unknown name", "unknown thing"):
        if kind in kinds:
            return kind
    others = lexicon.PLACES - {story.words.get("there", "")}
    if any(place in removed or place in low for place in others):
        return "two places"
    if any(word.lower() not in lexicon.words() for word in lexicon.WORD.findall(removed)):
        return "spelling"
    return "order"


def _mentions(sentence: str, phrase: str) -> bool:
    start = sentence.find(phrase)
    while start >= 0:
        stop = start + len(phrase)
        if not (sentence[start - 1 : start].isalpha() or sentence[stop : stop + 1].isalpha()):
            return True
        start = sentence.find(phrase, start + 1)
    return False
