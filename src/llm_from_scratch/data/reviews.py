"""Made reviews with a label: positive or negative.

A review judges a thing by one or two sentences. Words of praise and blame occur alike under both
labels: they are negated ("not at all dull"), expected in vain ("I had expected a dull plot, and I
was wrong"), or outweighed ("even the dull plot could not spoil the superb acting").
"""

from collections.abc import Mapping, Sequence

from llm_from_scratch.data.choices import Choices

LABELS = ("positive", "negative")
# The last quarter of each list is in held-out reviews alone (`Choices.words`).
PRAISE = (
    "wonderful", "excellent", "delightful", "superb", "charming", "splendid", "impressive", "lovely", "great",
    "fantastic", "brilliant", "pleasant", "marvelous", "terrific", "outstanding", "admirable",
)  # fmt: skip
BLAME = (
    "terrible", "awful", "dreadful", "disappointing", "dull", "poor", "horrible", "weak", "tedious", "boring",
    "unpleasant", "mediocre", "dismal", "lousy", "atrocious", "miserable",
)  # fmt: skip
# thing: its aspects
THINGS: Mapping[str, Sequence[str]] = {
    "film": ("plot", "acting", "ending", "music", "dialogue"),
    "novel": ("story", "opening chapter", "ending", "style", "translation"),
    "restaurant": ("food", "service", "dessert", "wine", "soup"),
    "hotel": ("room", "breakfast", "view", "pool", "service"),
    "concert": ("sound", "singer", "first half", "orchestra", "hall"),
    "phone": ("screen", "camera", "battery", "design", "keyboard"),
    "museum": ("collection", "guided tour", "building", "café", "exhibition"),
    "train journey": ("seat", "food", "view", "service", "compartment"),
    "game": ("story", "music", "sound", "design", "ending"),
    "play": ("acting", "stage design", "dialogue", "last act", "music"),
    "garden café": ("cake", "coffee", "service", "terrace", "soup"),
    "radio show": ("host", "music", "sound", "humor", "opening"),
}
# {0}, {1}: aspects; {same}: a word of the review's side; {other}: a word of the opposite side
PLAIN = (
    "The {0} was {same}.",
    "What a {same} {0}!",
    "I found the {0} {same}.",
    "The {0} was {same}, and so was the {1}.",
    "Everyone had told me that the {0} would be {same}, and they were right.",
)
NEGATED = (
    "The {0} was not {other} at all.",
    "I would not call the {0} {other}.",
    "There was nothing {other} about the {0}.",
    "The {0} was anything but {other}.",
    "Nobody could say that the {0} was {other}.",
    "Everyone had told me that the {0} would be {other}, and they were wrong.",
    "I had expected the {0} to be {other}, but I was mistaken.",
)
WEIGHED = (
    "Although the {0} was {other}, the {1} was {same}, and that is what counts.",
    "The {0} was {other}, but what I shall remember is the {same} {1}.",
    "The {same} {0} mattered far more to me than the {other} {1}.",
    "The {same} {0} made me forget the {other} {1}.",
    "In the end the {other} {0} counted for little beside the {same} {1}.",
)
OUTWEIGHED = {
    "positive": "Even the {other} {0} could not spoil the {same} {1}.",
    "negative": "Even the {other} {0} could not save us from the {same} {1}.",
}
OPENINGS = (
    "We tried this {thing} on Friday.",
    "My sister chose this {thing}.",
    "This was my first {thing} in a long time.",
    "I had read about this {thing} in the newspaper.",
    "A few words about the {thing}.",
)
CLOSINGS = (
    "That is all I have to say.",
    "We stayed for two hours.",
    "My friends agree with me.",
    "It was a rainy day.",
)


def review(choices: Choices, label: str) -> dict[str, str]:
    """Makes one review: {"prompt", "completion"}; the completion is a space and the label."""
    thing = choices.one(list(THINGS))
    sentences = []
    aspects = choices.some(THINGS[thing], 4)
    kinds = (PLAIN, NEGATED, (*WEIGHED, OUTWEIGHED[label]))
    for pair in (aspects[:2], aspects[2:])[: 1 + choices.chance(0.4)]:
        same, other = (PRAISE, BLAME) if label == LABELS[0] else (BLAME, PRAISE)
        frame = choices.one(choices.one(kinds))
        sentences.append(frame.format(*pair, same=choices.word(same), other=choices.word(other)))
    if choices.chance(0.5):
        sentences.insert(0, choices.one(OPENINGS).format(thing=thing))
    if choices.chance(0.3):
        sentences.append(choices.one(CLOSINGS))
    return {"prompt": f"Review: {' '.join(sentences)}\nSentiment:", "completion": f" {label}"}
