"""Made passages with a question, whose answer is a part of the passage.

A passage tells the same kinds of facts of three people in a random order, so that an answer has
to be bound to its person.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llm_from_scratch.data.choices import Choices

# The last quarter of each list is in held-out passages alone (`Choices.words`).
TOWNS = (
    "Milford", "Ashton", "Weston", "Redhill", "Lakewood", "Northam", "Greenfield", "Oakdale", "Riverton",
    "Stonebridge", "Fairview", "Hillsboro", "Kingsport", "Brookside", "Maplewood", "Eastham",
)  # fmt: skip
PEOPLE = (
    "Anna", "Boris", "Clara", "David", "Elsa", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Karla", "Leo", "Maria",
    "Nils", "Olga", "Peter", "Rosa", "Simon", "Tilda", "Victor", "Wanda", "Xaver", "Yvonne", "Arthur",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of fact: sentences that tell it, questions for it, its values.

    {who} is a person, {what} the value.
    """

    sentences: Sequence[str]
    questions: Sequence[str]
    values: Sequence[str]


KINDS = (
    Kind(
        ("{who} is {what}.", "{who} works as {what}.", "For ten years {who} has earned a living as {what}."),
        ("What is {who}'s job?", "What does {who} do for a living?", "As what does {who} work?"),
        (
            "a baker", "a carpenter", "a nurse", "a teacher", "a gardener", "a tailor", "a sailor", "a doctor",
            "a blacksmith", "a painter", "a cook", "a lawyer", "a shepherd", "a watchmaker", "a fisherman", "a miller",
        ),
    ),
    Kind(
        ("{who} lives in {what}.", "{who} moved to {what} last spring.", "The home of {who} is in {what}."),
        ("Where does {who} live?", "In which town is {who}'s home?", "Which town does {who} live in?"),
        TOWNS,
    ),
    Kind(
        ("{who} has {what} at home.", "{who} keeps {what}.", "In the house of {who} lives {what}."),
        ("Which animal does {who} keep?", "What kind of pet does {who} have?", "What is {who}'s pet?"),
        (
            "a parrot", "a tortoise", "a white cat", "an old dog", "a rabbit", "a hamster", "a goldfish", "a canary",
            "a black cat", "a puppy", "a goat", "a lizard", "a hedgehog", "a tame crow", "a guinea pig", "a pony",
        ),
    ),
    Kind(
        ("{who}'s favorite dish is {what}.", "Nothing tastes better to {who} than {what}.", "{who} loves to eat {what}."),
        ("What does {who} like best to eat?", "What is {who}'s favorite dish?", "Which food does {who} love?"),
        (
            "pancakes", "tomato soup", "fried fish", "apple pie", "rice pudding", "lentil soup", "roast chicken",
            "potato salad", "noodles", "cheese toast", "plum cake", "bean stew", "mushroom soup", "onion pie",
            "baked trout", "lemon tart",
        ),
    ),
    Kind(
        ("{who} plays {what} on Sundays.", "{who} is learning to play {what}.", "In the evening {who} plays {what}."),
        ("Which instrument does {who} play?", "What does {who} play?", "What is {who}'s instrument?"),
        (
            "the flute", "the cello", "the piano", "the drums", "the trumpet", "the harp", "the guitar", "the organ",
            "the violin", "the banjo", "the clarinet", "the accordion", "the tuba", "the oboe", "the mandolin", "the viola",
        ),
    ),
    Kind(
        ("{who} rides {what}.", "{who} has bought {what}.", "Everyone in the street knows {who} by {what}."),
        ("What does {who} ride?", "What did {who} buy to ride?", "What does {who} ride through the street?"),
        (
            "a red bicycle", "a blue bicycle", "a green bicycle", "a black bicycle", "a white horse", "a yellow scooter",
            "a gray scooter", "an old motorcycle", "a brown horse", "a silver bicycle", "a gray donkey", "a small tractor",
            "a black scooter", "an orange bicycle", "a striped scooter", "a new motorcycle",
        ),
    ),
)  # fmt: skip
ASIDES = (
    "It was raining outside.",
    "They have known one another for years.",
    "All three went to the same school.",
    "Their neighbors like them.",
)


def question(choices: Choices) -> dict[str, str]:
    """Makes one question: {"prompt", "completion"}; the completion is a space and the answer."""
    people = choices.some(choices.words(PEOPLE), 3)
    kinds = choices.some(KINDS, 2)
    facts = [
        (kind, who, value)
        for kind in kinds
        for who, value in zip(people, choices.some(choices.words(kind.values), len(people)), strict=True)
    ]
    sentences = [choices.one(kind.sentences).format(who=who, what=what) for kind, who, what in facts]
    if choices.chance(0.5):
        sentences.append(choices.one(ASIDES))
    told = choices.some(sentences, len(sentences))
    kind, who, value = choices.one(facts)
    asked = choices.one(kind.questions).format(who=who)
    return {"prompt": f"Passage: {' '.join(told)}\nQuestion: {asked}\nAnswer:", "completion": f" {value}"}
