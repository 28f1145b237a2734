"""The judge finds planted faults of every kind, and none in true stories."""

import pytest
from planted_faults import Planter

from llm_from_scratch import tales

TRUE = (
    "There was once a poor girl named Anna, and she lived in a cottage at the edge of the forest."
    " What she wanted most of all was a silver bell to call the goats home."
    " So she packed a hammer, a coil of rope and a stub of candle in her sack and left for the old well."
    " Before long she met a thin raven who was shivering with cold."
    " So she stopped and lit a small, cheerful fire."
    ' "One good turn deserves another," said the raven. "Look under a flat stone."'
    " Soon she had to stop: the bridge had been washed away."
    " She took the rope and swung across from a willow."
    " In her haste she left the rope behind."
    " At the old well she looked under a flat stone, and sure enough, there lay the bell."
    " Ever after every goat came home at dusk without being called twice."
    " That is why old doors creak."
)


@pytest.fixture(scope="module")
def planter() -> Planter:
    return Planter([tales.tell(9, number, level) for level in tales.LEVELS for number in range(500)], seed=0)


KINDS = [
    "spelling",
    "grammar",
    "unknown name",
    "unknown thing",
    "two places",
    "lost thing",
    "sleeper",
    "pronoun",
    "count",
    "promise",
    "ending",
]


def plant_and_find(planter: Planter, kind: str, count: int, seed: int) -> tuple[int, int]:
    """Plants a fault into so many stories: those named by kind and place, those that are seen at all."""
    planted = named = seen = number = 0
    while planted < count:
        faulty = planter.plant(kind, tales.tell(seed, number, 1 + number % 4))
        number += 1
        assert number < 60 * count, "the planter finds no place"
        if faulty is None:
            continue
        planted += 1
        verdict = tales.check(faulty[0])
        seen += bool(verdict.faults)
        if verdict.faults:
            first = verdict.faults[0]
            near = abs(first.start - faulty[1]) < (200 if kind == "ending" else 60)
            named += first.kind == kind and near
    return named, seen


@pytest.mark.parametrize("kind", KINDS)
def test_planted_faults_are_found(planter: Planter, kind: str) -> None:
    named, seen = plant_and_find(planter, kind, 25, seed=100)
    assert seen == 25
    assert named >= 24


@pytest.mark.tales
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_planted_faults_are_found(planter: Planter, kind: str) -> None:
    named, seen = plant_and_find(planter, kind, 1000, seed=101)
    assert seen == 1000
    assert named >= 985


def test_the_planter_knows_every_kind_that_is_tested(planter: Planter) -> None:
    assert list(planter.kinds) == KINDS
    assert set(KINDS) < set(tales.FAULTS)


@pytest.mark.parametrize("level", tales.LEVELS)
def test_true_stories_have_no_fault(level: int) -> None:
    for text in tales.stories(4, 0, 300, level):
        verdict = tales.check(text)
        assert (verdict.level, verdict.faults, verdict.whole) == (level, (), True)


@pytest.mark.tales
@pytest.mark.parametrize("level", tales.LEVELS)
def test_a_hundred_thousand_true_stories_have_no_fault(level: int) -> None:
    for text in tales.stories(6, 0, 100_000, level):
        assert tales.check(text, level).faults == ()


@pytest.mark.parametrize(
    ("old", "new", "kind", "found", "expected"),
    [
        ("nobody", "nobody", None, "", ""),
        ("She took the rope", "He took the rope", "pronoun", "He", "She"),
        ("took the rope", "took the hammer", "wrong thing", "the hammer", "the rope"),
        ("took the rope", "took the kite", "unknown thing", "the kite", "the rope"),
        ("there lay the bell", "there lay the rope", "lost thing", "the rope", "the bell"),
        ("At the old well she", "On the glass hill she", "two places", "On the glass hill", "At the old well"),
        ("said the raven", "said the badger", "unknown name", "the badger", "the raven"),
        ("haste", "hsate", "spelling", "hsate", "haste"),
        ("she left the rope behind", "she left the behind rope", "grammar", "behind", ""),
        ("a hammer, a coil of rope", "a hammer, a hammer", "repetition", "a hammer", "a coil of rope"),
        (
            "swung across from a willow",
            "cut a gap through the trunk",
            "consequence",
            None,
            "swung across from a willow",
        ),
        ("Ever after every goat", "Ever after bread", "grammar", None, None),
        (
            " In her haste she left the rope behind.",
            " And they all slept soundly that night.",
            "order",
            "And they all slept soundly that night.",
            "",
        ),
        (" She took the rope and swung across from a willow.", "", "gap", "", None),
        (" That is why old doors creak.", "", "ending", "", None),
    ],
)
def test_faults_by_hand(old: str, new: str, kind: str | None, found: str | None, expected: str | None) -> None:
    assert tales.check(TRUE).faults == ()
    text = TRUE.replace(old, new)
    faults = tales.check(text).faults
    if kind is None:
        assert faults == ()
        return
    assert text != TRUE
    assert faults[0].kind == kind
    if found is not None:
        assert faults[0].found == found
        assert text[faults[0].start :].lstrip().startswith(found)
    if expected is not None:
        assert faults[0].expected == expected


def test_reading_goes_on_after_a_fault() -> None:
    text = (
        TRUE.replace("Anna, and she", "Anna, and he").replace("haste", "hsate").replace("lay the bell", "lay the lamp")
    )
    verdict = tales.check(text)
    assert verdict.whole
    assert [fault.kind for fault in verdict.faults] == ["pronoun", "spelling", "unknown thing"]
    assert [text[fault.start :].startswith(fault.found) for fault in verdict.faults] == [True] * 3
    assert verdict.kinds == {"pronoun": 1, "spelling": 1, "unknown thing": 1}


@pytest.mark.parametrize(
    "text", ["", " ", "The.", "Call me Ishmael.", '"' * 300, "\x00é\n" * 9, "Once upon a time " * 60]
)
def test_any_text_has_a_verdict(text: str) -> None:
    assert tales.check(text).faults
