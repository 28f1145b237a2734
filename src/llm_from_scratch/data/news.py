"""Made news with a summary of one sentence: who did what, where and when.

The news tells one event of this week, whose place and day may stand in another sentence, among
sentences that a summary leaves out: earlier and later events, other places, opinions, the weather.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llm_from_scratch.data.choices import Choices
from llm_from_scratch.data.passages import TOWNS

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Story:
    """Actors, what they do in the past tense, and to what: each combination makes sense."""

    actors: Sequence[str]
    actions: Sequence[str]
    objects: Sequence[str]


# The last quarter of TOWNS and of a story's lists is in held-out news alone (`Choices.words`).
STORIES = (
    Story(
        ("the town council", "the mayor", "the bishop", "the school board"),
        ("opened", "closed", "visited", "praised"),
        (
            "the new library", "the old swimming pool", "the museum of clocks", "the town hall", "the railway station",
            "the children's hospital", "the fish market", "the puppet theater",
        ),
    ),
    Story(
        ("a farmer", "a fisherman", "two students", "an old teacher", "three children", "a postman", "a nurse", "a sailor"),
        ("found", "lost", "sold", "bought"),
        (
            "a box of silver coins", "a map of the harbor", "a white horse", "a golden watch", "a letter from a king",
            "a painting of a storm", "a wooden boat", "a stone with old signs",
        ),
    ),
    Story(
        ("the fire brigade", "a young doctor", "two policemen", "a bus driver"),
        ("saved", "freed", "caught", "rescued"),
        (
            "a family of swans", "a frightened horse", "an escaped parrot", "two lost hikers", "a cat on a roof",
            "a runaway bull", "a deer in the canal", "a boy on a raft",
        ),
    ),
    Story(
        ("the pupils of the school", "the gardeners", "the members of the choir", "forty volunteers"),
        ("planted", "sold", "watered", "counted"),
        (
            "forty apple trees", "the roses in the park", "two hundred tulips", "the oaks along the river",
            "a hedge of lavender", "the old pear trees", "a field of sunflowers", "the palms at the station",
        ),
    ),
)  # fmt: skip
TOGETHER = ("On {day} {who} {did} {it} in {place}.", "In {place} {who} {did} {it} on {day}.")
# The event in two sentences: the first one places it.
SETTING = (
    "Many people were out in the streets of {place} on {day}.",
    "{day} was a special day for {place}.",
    "People in {place} will talk of this {day} for a long time.",
)
EVENT = ("Before noon {who} {did} {it}.", "To the surprise of many, {who} {did} {it}.", "In the end {who} {did} {it}.")
OTHERS = (
    "Last year {who} {did} {it} in {place}.",
    "In {place}, where {who} {did} {it} in spring, nothing of the kind is known.",
    "Long ago {who} {did} {it}, as a book about {place} tells.",
)
ASIDES = (
    "The weather was mild, with a little wind from the west.",
    "\"We are very happy,\" said a woman who watched.",
    "Not everyone is content with that.",
    "More is to be told at a meeting next month.",
    "The newspaper printed two photographs.",
    "A brass band played until late in the evening.",
    "It is not known how much money was spent.",
    "\"I have never seen such a thing,\" said an old man.",
)  # fmt: skip


def news(choices: Choices) -> dict[str, str]:
    """Makes one piece of news: {"prompt", "completion"}; the completion is a space, the summary."""
    story, other = choices.some(STORIES, 2)
    place, elsewhere = choices.some(choices.words(TOWNS), 2)
    event = _event(choices, story) | {"place": place, "day": choices.one(DAYS)}
    if choices.chance(0.4):
        told = [choices.one(TOGETHER).format(**event)]
    else:
        told = [choices.one(SETTING).format(**event), choices.one(EVENT).format(**event)]
    around = [choices.one(OTHERS).format(**_event(choices, other), place=elsewhere)]
    around += choices.some(ASIDES, 1 + choices.chance(0.5))
    # The event keeps the order of its sentences; the others stand before, between and behind them.
    for sentence in choices.some(around, len(around)):
        told.insert(choices.one(range(len(told) + 1)), sentence)
    summary = "{who} {did} {it} in {place} on {day}.".format(**event)
    return {"prompt": f"News: {' '.join(map(_capital, told))}\nSummary:", "completion": f" {_capital(summary)}"}


def _event(choices: Choices, story: Story) -> dict[str, str]:
    return {
        "who": choices.word(story.actors),
        "did": choices.word(story.actions),
        "it": choices.word(story.objects),
    }


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
