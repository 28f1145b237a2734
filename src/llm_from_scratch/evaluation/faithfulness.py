"""Faithfulness of a continuation to its prompt: names, the gender of their pronouns, relations.

Rules over the surface of English text, no model. Nobody has held them against the judgement of
readers: their validity is not known, and they are measured on request alone. They know no spelling
variants and no nicknames, take days, places and capitalised kinds (“Munchkins”) for names and each
word of “Tin Woodman” for one, follow no pronoun across sentences, and see only relations written as
“Dorothy’s uncle Henry”, “Henry, Dorothy’s uncle” or “Henry is Dorothy’s uncle”. A new name is no
fault in itself: stories bring people in. The figures are for comparing models on the same prompts,
and the true continuation's figures belong beside them. Where nothing can be told, nothing is
counted.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

from llm_from_scratch.evaluation.style import FUNCTION_WORDS, sentences

WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
TITLES = {
    "he": frozenset(("Mr", "Sir", "Lord", "King", "Prince", "Uncle", "Father", "Brother")),
    "she": frozenset(("Mrs", "Ms", "Miss", "Lady", "Queen", "Princess", "Aunt", "Mother", "Sister")),
}
# In capitals by custom.
NO_NAMES = TITLES["he"] | TITLES["she"] | {"Dr", "Chapter", "Oh", "Ah", "Yes", "No"}
# Not “him”, which is another than the subject of its sentence (Dorothy met him).
# “her” counts in front of a word that can be hers.
HE, SHE = frozenset(("he", "his", "himself")), frozenset(("she", "her", "hers", "herself"))
ROLES = (
    "mother|father|sister|brother|daughter|son|wife|husband|aunt|uncle|cousin|niece|nephew|grandmother|grandfather|"
    "friend|dog|cat|horse|servant|master|king|queen"
)
NAME = r"[A-Z][a-z]+"
RELATIONS = (
    rf"\b(?P<owner>{NAME})['’]s (?P<role>{ROLES}),? (?:was |is |named |called )*(?P<name>{NAME})\b",
    rf"\b(?P<name>{NAME}),? (?:who )?(?:was |is )?(?P<owner>{NAME})['’]s (?P<role>{ROLES})\b",
)
ONE_ONLY = frozenset(("mother", "father", "wife", "husband"))  # of which a person has one at a time


@dataclass(frozen=True)
class Faithfulness:
    """Of one prompt and its continuation; names and relations in the order they come."""

    kept: tuple[str, ...]  # names of the prompt that come again
    dropped: tuple[str, ...]  # names of the prompt that do not
    introduced: tuple[str, ...]  # names that the prompt does not have
    agreeing: tuple[str, ...]  # names whose gender both texts tell, the same
    contradicted: tuple[str, ...]  # names whose gender both texts tell, another
    relations_kept: tuple[str, ...]  # “Dorothy's uncle: Henry” of both
    relations_contradicted: tuple[
        str, ...
    ]  # “Dorothy's mother: Em, then Glinda”, “Henry: Dorothy's uncle, then brother”
    relations_invented: tuple[str, ...]  # between names of the prompt, which does not tell them


def faithfulness(prompt: str, continuation: str, background: str = "") -> Faithfulness:
    """Names, genders and relations that the continuation keeps, drops, contradicts and adds.

    background: text, such as the training part, that helps `names`.
    """
    before = names(prompt, background + "\n\n" + continuation)
    after = names(continuation, background + "\n\n" + prompt)
    genders, later = gender(prompt, before), gender(continuation, [*before, *after])
    both = [name for name in before if name in genders and name in later]
    stated, restated = relations(prompt), relations(continuation)
    contradictions, invented = [], []
    for owner, role, name in restated:
        if (owner, role, name) in stated:
            continue
        others = [n for o, r, n in stated if role in ONE_ONLY and (o, r) == (owner, role)]
        roles = [r for o, r, n in stated if (o, n) == (owner, name)]
        if others:
            contradictions.append(f"{owner}'s {role}: {others[0]}, then {name}")
        elif roles:
            contradictions.append(f"{name}: {owner}'s {roles[0]}, then {role}")
        elif {owner, name} <= set(before):
            invented.append(f"{owner}'s {role}: {name}")
    return Faithfulness(
        kept=tuple(name for name in before if name in after),
        dropped=tuple(name for name in before if name not in after),
        introduced=tuple(name for name in after if name not in before),
        agreeing=tuple(name for name in both if genders[name] == later[name]),
        contradicted=tuple(name for name in both if genders[name] != later[name]),
        relations_kept=tuple(f"{o}'s {r}: {n}" for o, r, n in restated if (o, r, n) in stated),
        relations_contradicted=tuple(contradictions),
        relations_invented=tuple(invented),
    )


def names(text: str, background: str = "") -> list[str]:
    """The names of a text: capitalised words that it or `background` has inside a sentence.

    A capital that begins a sentence tells nothing, nor do those of a heading: such a word is a name
    only if the two texts together have it inside a sentence too. A word that they have as often in
    small letters is none.
    """
    inside, small = Counter[str](), Counter[str]()
    for sentence in sentences(text + "\n\n" + background):
        found = list(WORD.finditer(sentence))
        if not any(word[0].islower() for word in found):
            continue  # a heading
        small.update(word[0] for word in found if word[0].islower())
        # Speech behind an opening quote or a colon, and a line of verse, begin with a capital.
        inside.update(word[0] for word in found[1:] if sentence[: word.start()].rstrip(" ")[-1] not in '“"‘:—([\n')
    capitals = dict.fromkeys(word for word in WORD.findall(text) if word[0].isupper() and not word.isupper())
    return [name for name in capitals if inside[name] > small[name.lower()] and name not in NO_NAMES]


def gender(text: str, of: list[str]) -> dict[str, str]:
    """“he” or “she” for each name of `of` that the text tells it of.

    By a title before it (Aunt Em), or by sentences with that one name and pronouns of one gender,
    the first behind the name. A name of which not more than two thirds of the places say the same
    is left out. A sentence about two people of whom one is named (Henry said that she slept)
    misleads.
    """
    told: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sentence in sentences(text):
        parts = WORD.findall(sentence)
        present = [part for part in parts if part in of]
        for title, name in pairwise(parts):
            told[name].update(kind for kind, titles in TITLES.items() if title in titles and name in of)
        lower = [part.lower() for part in parts]
        pronouns = [
            (i, "he" if word in HE else "she")
            for i, (word, following) in enumerate(zip(lower, [*lower[1:], "the"], strict=True))
            if (word in HE or word in SHE) and not (word == "her" and following in FUNCTION_WORDS)
        ]
        kinds = {kind for _, kind in pronouns} | {"he" for word in lower if word == "him"}
        if pronouns and len(set(present)) == len(kinds) == 1 and parts.index(present[0]) < pronouns[0][0]:
            told[present[0]].update(kinds)
    most = {name: max(kinds, key=lambda kind: kinds[kind]) for name, kinds in told.items() if kinds}
    return {name: kind for name, kind in most.items() if 3 * told[name][kind] > 2 * told[name].total()}


def relations(text: str) -> list[tuple[str, str, str]]:
    """(owner, role, name) of each relation in the text, in order: (“Dorothy”, “uncle”, “Henry”)."""
    found = [(m.start(), (m["owner"], m["role"], m["name"])) for rule in RELATIONS for m in re.finditer(rule, text)]
    return list(dict.fromkeys(relation for _, relation in sorted(found)))
