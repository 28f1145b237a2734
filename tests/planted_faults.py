"""Plants one fault of a known kind into a true story, by rules on its text alone.

Nothing here comes from the package: the names, things and places are read from other stories by
regular expressions, or stand in the lists below.
"""

import random
import re
from collections.abc import Callable

HER = r"(?:he|she)"
SENTENCE = re.compile(r'.+?[.!?]"?(?= |$)')
# Places as stories say that something is there; nouns of things that a hero can wish for.
THERE = [
    "at the old well",
    "on the glass hill",
    "in the whispering wood",
    "in the ruined abbey",
    "by the frozen lake",
    "on the island of gulls",
    "inside the hollow mountain",
    "in the king's orchard",
    "beside the dark pond",
    "at the burnt mill",
    "in the robbers' cave",
    "down in the silver mine",
]
NOUNS = ["bell", "apple", "book", "lamp", "cloak", "kettle", "feather", "fiddle", "ball", "carpet", "purse", "mirror"]
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LOSSES = [
    r"lost (the [a-z ]+) for ever\.",
    r"After that (the [a-z ]+) was gone and could not be found again\.",
    r"left (the [a-z ]+) behind\.",
    r"Only (the [a-z ]+) was lost, and \w+ was a little sorry\.",
]
NAMED = [
    r"(?:called|named) ([A-Z]\w+)",
    r"name of ([A-Z]\w+)",
    r"name was ([A-Z]\w+)",
    r"([A-Z]\w+) by name",
]
CAPITAL = re.compile(r"\b[A-Z][a-z]+\b")
WORD = re.compile(r"[A-Za-z']+")


def name_of(text: str) -> str:
    found = [match[1] for pattern in NAMED for match in re.finditer(pattern, text)]
    return found[0]


def _replace(text: str, match: re.Match[str], group: int, new: str) -> tuple[str, int]:
    return text[: match.start(group)] + new + text[match.end(group) :], match.start(group)


class Planter:
    """Plants faults; `stories` are true ones, from which words and names are read."""

    def __init__(self, stories: list[str], seed: int) -> None:
        self.vocabulary = {word.lower() for text in stories for word in WORD.findall(text)}
        self.names: dict[str, set[str]] = {"he": set(), "she": set()}
        for text in stories:
            pronoun = re.search(r"\b([Hh]e|[Ss]he)\b", text)
            if pronoun:
                self.names[pronoun[1].lower()].add(name_of(text))
        for name in self.names["he"] & self.names["she"]:
            self.names["he"].discard(name)
            self.names["she"].discard(name)
        self.stories = stories
        self.random = random.Random(seed)
        self.kinds: dict[str, Callable[[str], tuple[str, int] | None]] = {
            "spelling": self.spelling,
            "grammar": self.grammar,
            "unknown name": self.unknown_name,
            "unknown thing": self.unknown_thing,
            "two places": self.two_places,
            "lost thing": self.lost_thing,
            "sleeper": self.sleeper,
            "pronoun": self.pronoun,
            "count": self.count,
            "promise": self.promise,
            "ending": self.ending,
        }

    def one(self, found: list[re.Match[str]]) -> re.Match[str] | None:
        return self.random.choice(found) if found else None

    def spelling(self, text: str) -> tuple[str, int] | None:
        match = self.one([match for match in WORD.finditer(text) if len(match[0]) > 4 and match[0].isalpha()])
        assert match
        word, at = match[0], self.random.randrange(1, len(match[0]) - 1)
        new = self.random.choice(
            [
                word[:at] + word[at + 1 :],
                word[:at] + word[at] + word[at:],
                word[:at] + word[at + 1] + word[at] + word[at + 2 :],
                word[:at] + "x" + word[at + 1 :],
            ]
        )
        return None if new.lower() in self.vocabulary else _replace(text, match, 0, new)

    def grammar(self, text: str) -> tuple[str, int] | None:
        which = self.random.randrange(3)
        if which == 0:
            match = self.one(list(re.finditer(r"\b(the|of|was|and|to) ", text)))
            return match and _replace(text, match, 1, f"{match[1]} {match[1]}")
        if which == 1:
            match = self.one(list(re.finditer(r" (of the|to the|in the|that was|had a) ", text)))
            return match and _replace(text, match, 1, " ".join(match[1].split()[::-1]))
        match = self.one(list(re.finditer(r"(?<=[a-z]) (the|of|was|and|to)(?= [a-z])", text)))
        return match and _replace(text, match, 0, "")

    def unknown_name(self, text: str) -> tuple[str, int] | None:
        name = name_of(text)
        own = "she" if name in self.names["she"] else "he"
        others = sorted(self.names[own] - set(CAPITAL.findall(text)))
        later = list(re.finditer(rf"\b{name}\b", text))[1:]
        match = self.one(later)
        return match and _replace(text, match, 0, self.random.choice(others))

    def unknown_thing(self, text: str) -> tuple[str, int] | None:
        own = [noun for noun in NOUNS if re.search(rf"\b[Tt]he {noun}\b", text)]
        others = [noun for noun in NOUNS if not re.search(rf"\b{noun}\b", text)]
        if not own or not others:
            return None
        match = self.one(list(re.finditer(rf"\b([Tt]he) {own[0]}\b", text)))
        assert match
        return _replace(text, match, 0, f"{match[1]} {self.random.choice(others)}")

    def two_places(self, text: str) -> tuple[str, int] | None:
        pattern = "|".join(re.escape(place) for place in THERE)
        match = self.one(list(re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE)))
        if match is None:
            return None
        new = self.random.choice([place for place in THERE if place != match[0].lower()])
        return _replace(text, match, 0, new.capitalize() if match[0][0].isupper() else new)

    def lost_thing(self, text: str) -> tuple[str, int] | None:
        loss = next((match for pattern in LOSSES if (match := re.search(pattern, text))), None)
        if loss is None:
            return None
        rest = text[loss.end() :]
        nouns = "|".join(NOUNS)
        match = self.one(list(re.finditer(rf"\b[Tt]he (?:{nouns})\b", rest)))
        if match is not None and self.random.random() < 0.5:
            new = loss[1].capitalize() if match[0][0] == "T" else loss[1]
            changed, start = _replace(rest, match, 0, new)
            return text[: loss.end()] + changed, loss.end() + start
        pronoun = "He" if name_of(text) in self.names["he"] else "She"
        inserted = f" {pronoun} took {loss[1]} once more and was glad of it."
        return text[: loss.end()] + inserted + rest, loss.end()

    def sleeper(self, text: str) -> tuple[str, int] | None:
        sleeps = re.search(r"[^.!?]*\b(?:slept an? |snored an? |asleep beside )[^.!?]*\.", text)
        thief = re.search(r" (?:past (the [a-z ]+?) and took|up to (the [a-z ]+?), lifted) ", text)
        if sleeps is None or thief is None or thief.start() < sleeps.end() - 1:
            return None
        said = self.random.choice(['"Who is there?" asked {}.', '"Good evening," said {}.', '{} said: "Do come in."'])
        sentence = said.format(thief[1] or thief[2])
        sentence = sentence[0].upper() + sentence[1:]
        return text[: sleeps.end()] + " " + sentence + text[sleeps.end() :], sleeps.end()

    def pronoun(self, text: str) -> tuple[str, int] | None:
        verbs = "saw|met|took|set|had|used|found|heard|came|put|thought|stopped|reached|went|lay|cried|said|asked|gave"
        found = list(re.finditer(rf"\b([Hh]e|[Ss]he)(?= (?:{verbs}) )", text))
        match = self.one([match for match in found if not text[: match.start()].endswith("while ")])
        if match is None:
            return None
        new = {"he": "she", "she": "he", "He": "She", "She": "He"}[match[1]]
        return _replace(text, match, 1, new)

    def count(self, text: str) -> tuple[str, int] | None:
        number = "|".join(NUMBERS)
        patterns = (
            rf"and kept ({number})\.",
            rf"and ({number}) for the road",
            rf"had ({number}) left",
            rf"that left ({number})\.",
            rf"evening {HER} had ({number}) ",
            rf"night was ({number}) ",
            rf"out came ({number}) ",
            rf" put ({number}) [a-z ]+ on the table",
            rf"(?:ed|ce|nd|ned|oked|ck|od|grass|said please|owl|stone|leaf) ({number}) times, and (?:before|there was)",
        )
        match = self.one([match for pattern in patterns for match in re.finditer(pattern, text)])
        if match is None:
            return None
        return _replace(text, match, 1, self.random.choice([one for one in NUMBERS[1:] if one != match[1]]))

    def promise(self, text: str) -> tuple[str, int] | None:
        sentences = SENTENCE.findall(text)
        if "promise" not in text and "word to" not in text and "your word" not in text:
            return None
        if sentences[-1].strip().startswith(("Last of all", "But first of all")):
            if self.random.random() < 0.5:
                return text[: len(text) - len(sentences[-1])].strip(), len(text) - len(sentences[-1]) - 1
            other = self.random.choice(self.stories)
            last = re.compile(r"\b(?:uncle|aunt|mother|father|brother|sister|godmother|godfather|nurse) and (.*)$")
            own, strange = last.search(sentences[-1]), last.search(SENTENCE.findall(other)[-1])
            if own and strange and own[1] != strange[1]:
                start = len(text) - len(sentences[-1]) + own.start(1)
                return text[:start] + strange[1], start
        return None

    def ending(self, text: str) -> tuple[str, int] | None:
        sentences = SENTENCE.findall(text)
        keep = self.random.randrange(2, len(sentences) - 1)
        cut = sum(map(len, sentences[:keep]))
        if self.random.random() < 0.3:
            cut += self.random.randrange(5, max(len(sentences[keep]) - 1, 6))
        return text[:cut].rstrip(), len(text[:cut].rstrip())

    def plant(self, kind: str, text: str) -> tuple[str, int] | None:
        """Returns the text with one fault of the kind and its place; None where it has no place for it."""
        planted = self.kinds[kind](text)
        return planted if planted and planted[0] != text else None
