"""The world of a story: who has appeared and who sleeps, what is carried and what is lost."""

from dataclasses import dataclass, field

from llm_from_scratch.tales.people import Pair, Person
from llm_from_scratch.tales.things import Tool

_FORMS = {"he": ("him", "his", "himself"), "she": ("her", "her", "herself")}


def pronouns(pronoun: str, prefix: str = "") -> dict[str, str]:
    """Returns the pronouns of a character by the slots that they fill: he, him, his, himself, He.

    `prefix` stands before the names of the slots of all characters but the hero.
    """
    forms = dict(zip(("he", "him", "his", "himself"), (pronoun, *_FORMS[pronoun]), strict=True))
    capitals = {name.capitalize(): form.capitalize() for name, form in forms.items()}
    return {prefix + name: form for name, form in (forms | capitals).items()}


@dataclass(slots=True)
class World:
    """What is true at a moment of a story.

    Args:
        tools: what the hero still carries, in the order of packing.
        lost: tools that were lost or given away.
        friends: the characters met on the way, in order.
        ways: the ways described so far.
        food: how many pieces of food are left.
        asleep: later mentions ("the giant") of the characters who sleep.
    """

    tools: list[Tool] = field(default_factory=list)
    lost: list[Tool] = field(default_factory=list)
    friends: list[Person] = field(default_factory=list)
    ways: list[object] = field(default_factory=list)
    food: int = 0
    asleep: set[str] = field(default_factory=set)
    riddle: Pair | None = None

    def lose(self, tool: Tool) -> None:
        """Moves a tool from what is carried to what is lost."""
        self.tools.remove(tool)
        self.lost.append(tool)
