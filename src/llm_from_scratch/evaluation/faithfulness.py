"""Faithfulness of a continuation to its prompt: names, the gender of their pronouns, relations.

Rules over the surface of English text, without a model. They have not been compared with the
judgement of readers: their validity is unknown, and they run on request only. They know no
spelling variants and no nicknames. They take days, places and capitalised kinds (“Munchkins”) for
names, and each word of “Tin Woodman” for one. They follow no pronoun across sentences, and see only
relations written as “Dorothy’s uncle Henry”, “Henry, Dorothy’s uncle” or “Henry is Dorothy’s
uncle”. A new name is no fault in itself: stories introduce people. Compare models on the same
prompts, beside the figures of the true continuation. A case that the rules cannot decide is not
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
# Capitalised words that are never names.
NO_NAMES = TITLES["he"] | TITLES["she"] | {"Dr", "Chapter", "Oh", "Ah", "Yes", "No"}
# “him” is absent: it refers to another person than the subject of its sentence (Dorothy met him).
# “her” counts only as a possessive, where the next word is no function word (her dog).
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
ONE_ONLY = frozenset(("mother", "father", "wife", "husband"))  # a person has one at a time


@dataclass(frozen=True)
class Faithfulness:
    """Names and relations of one prompt and its continuation, in the order of the text."""

    kept: tuple[str, ...]  # names of both
    dropped: tuple[str, ...]  # names of the prompt alone
    introduced: tuple[str, ...]  # names of the continuation alone
    agreeing: tuple[str, ...]  # names with a gender in both, the same
    contradicted: tuple[str, ...]  # names with a gender in both, not the same
    relations_kept: tuple[str, ...]  # “Dorothy's uncle: Henry”, stated in both
    # “Dorothy's mother: Em, then Glinda”, “Henry: Dorothy's uncle, then brother”
    relations_contradicted: tuple[str, ...]
    relations_invented: tuple[str, ...]  # between names of the prompt, stated in the continuation alone


def faithfulness(prompt: str, continuation: str, background: str = "") -> Faithfulness:
    """Compares the names, genders and relations of a continuation with those of its prompt.

    background: text, such as the training part, from which `names` learns which words are names.
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
    """Returns the distinct names in `text`, in the order of their first occurrence.

    A name is a word that is capitalised inside sentences more often than it is lower-case, counted
    in `text` and `background` together. A capital at the start of a sentence or of speech, or in a
    heading (a sentence without a lower-case word), is not counted. Titles (Aunt) and words in all
    capitals are never names.
    """
    inside, small = Counter[str](), Counter[str]()
    for sentence in sentences(text + "\n\n" + background):
        found = list(WORD.finditer(sentence))
        if not any(word[0].islower() for word in found):
            continue  # a heading
        small.update(word[0] for word in found if word[0].islower())
        # Speech after an opening quote or a colon, and a line of verse, begin with a capital.
        inside.update(word[0] for word in found[1:] if sentence[: word.start()].rstrip(" ")[-1] not in '“"‘:—([\n')
    capitals = dict.fromkeys(word for word in WORD.findall(text) if word[0].isupper() and not word.isupper())
    return [name for name in capitals if inside[name] > small[name.lower()] and name not in NO_NAMES]


def gender(text: str, of: list[str]) -> dict[str, str]:
    """Returns “he” or “she” for each name of `of` whose gender the text indicates.

    Evidence is a title before the name (Aunt Em), or a sentence with no other name and pronouns of
    one gender, the first of them after the name. A name is left out unless more than two thirds of
    its evidence agree. A sentence about two people that names one (Henry said that she slept)
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
    """Returns the distinct relations in the text, in order, as (owner, role, name).

    “Dorothy’s uncle Henry” gives (“Dorothy”, “uncle”, “Henry”).
    """
    found = [(m.start(), (m["owner"], m["role"], m["name"])) for rule in RELATIONS for m in re.finditer(rule, text)]
    return list(dict.fromkeys(relation for _, relation in sorted(found)))
