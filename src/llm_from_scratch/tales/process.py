"""The process that tells a story: one program, whose choices a driver makes or recognizes.

`Process` says which choice comes next and what follows from each; its subclasses say how a choice
is made: `Telling` draws it, `Reading` finds it in a text, `Exploring` takes every one in turn.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from llm_from_scratch.tales import phrases as say
from llm_from_scratch.tales import places
from llm_from_scratch.tales.choices import E, Fork, Group, Table
from llm_from_scratch.tales.people import (
    BARRIERS,
    DAYS,
    ELDERS,
    FEARS,
    FRIENDS,
    GUARDS,
    HABITS,
    KINDS,
    NAMES,
    PROMISES,
    RIDDLES,
    SIGNALS,
    TRAITS,
    TROUBLES,
    Pair,
    Person,
)
from llm_from_scratch.tales.things import BAGS, CLOTHES, COUNTS, FOODS, NUMBERS, OBSTACLES, THINGS, TIMES, TOOLS, Tool
from llm_from_scratch.tales.world import World, pronouns

# The words that follow from an entry, ready before the first story is told.
_HERO = {pronoun: pronouns(pronoun) for pronoun in ("he", "she")}
_ROLE = {
    role: {
        person: {role: person.the, role.capitalize(): person.the.capitalize(), **pronouns(person.pronoun, role[0])}
        for person in table.entries
    }
    for role, table in (("friend", FRIENDS), ("guard", GUARDS), ("elder", ELDERS))
}
_THING = {
    thing: {
        "thing": thing.the,
        "Thing": thing.the.capitalize(),
        "purpose": thing.purpose,
        "ending": thing.ending,
    }
    for thing in THINGS.entries
}
_PLACE = {
    place: {
        "place": place.text,
        "there": place.there,
        "There": place.there[0].upper() + place.there[1:],
    }
    for place in places.PLACES.entries
}


class Process(ABC):
    """A story in progress: its words so far, its world, and four kinds of choice.

    Args:
        level: 1 to 4.
    """

    def __init__(self, level: int) -> None:
        self.level = level
        self.words: dict[str, str] = {}
        self.world = World()

    @abstractmethod
    def pick(self, table: Table[E]) -> E:
        """Chooses an entry by the table's probabilities, and tells its text."""

    @abstractmethod
    def pick_unused(self, table: Table[E], used: Sequence[object]) -> E:
        """Chooses one of the entries of a uniform table that are not in `used`, and tells it."""

    @abstractmethod
    def choose(self, name: str, kind: str, options: Sequence[E]) -> E:
        """Chooses one of `options`, each equally likely, and tells its text."""

    @abstractmethod
    def branch(self, fork: Fork) -> Group:
        """Chooses an event, tells a sentence of its group, and returns the group."""

    @abstractmethod
    def tell(self, group: Group) -> None:
        """Chooses a sentence of the group, and tells it."""

    def run(self) -> None:
        """Tells the story from its first to its last sentence."""
        for beat in BEATS[self.level]:
            beat(self)


def _kind(story: Process) -> None:
    story.words.update(_HERO[story.pick(KINDS).pronoun])


def _name(story: Process) -> None:
    story.words["hero"] = story.words["Hero"] = story.pick(NAMES[story.words["he"]]).text


def _thing(story: Process) -> None:
    story.words.update(_THING[story.pick(THINGS)])


def _place(story: Process) -> None:
    story.words.update(_PLACE[story.pick(places.PLACES)])


def _way(story: Process) -> None:
    story.world.ways.append(story.pick_unused(places.WAYS, story.world.ways))


def _spot(story: Process) -> None:
    words = story.words
    words["spot"] = story.pick(places.SPOTS).text
    words["adviser"] = words.get("friend", "")


def _fear(story: Process) -> None:
    story.words["fear"] = story.pick(FEARS).text


def _bag(story: Process) -> None:
    story.words["bag"] = story.pick(BAGS).text


def _tool(story: Process) -> None:
    story.world.tools.append(story.pick_unused(TOOLS, story.world.tools))


def _take(story: Process, tool: Tool) -> None:
    story.words["tool"], story.words["Tool"] = tool.the, tool.the.capitalize()


def _obstacle(story: Process) -> None:
    tools = {tool.the: tool for tool in story.world.tools}
    obstacle = story.choose("obstacle", "action", [one for the in tools for one in OBSTACLES[the]])
    story.words["use"] = obstacle.use
    _take(story, tools[obstacle.tool])


def _gift(story: Process) -> None:
    gift = story.choose("gift", "thing", [_Gift(tool.the, tool) for tool in story.world.tools])
    _take(story, gift.tool)
    story.world.lose(gift.tool)


class _Gift:
    """A tool by its later mention."""

    def __init__(self, text: str, tool: Tool) -> None:
        self.text, self.tool = text, tool


def _count(story: Process) -> None:
    story.world.food = NUMBERS.index(story.pick(COUNTS).text) + 1


def _food(story: Process) -> None:
    food = story.pick(FOODS)
    story.words["one"], story.words["food"] = food.one, food.text


def _times(story: Process) -> None:
    story.words["times"] = story.pick(TIMES).text


def _person(role: str, table: Table[Person]) -> Callable[[Process], None]:
    def choose(story: Process) -> None:
        person = story.pick_unused(table, story.world.friends)
        story.world.friends.append(person)
        story.words.update(_ROLE[role][person])

    return choose


def _pair(table: Table[Pair], slot: str) -> Callable[[Process], None]:
    def choose(story: Process) -> None:
        story.words[slot] = story.pick(table).follows

    return choose


def _word(table: Table) -> Callable[[Process], None]:
    def choose(story: Process) -> None:
        story.pick(table)

    return choose


# Open slot -> the choice, and what follows from it.
OPENERS: dict[str, Callable[[Process], None]] = {
    "kind": _kind,
    "name": _name,
    "thing": _thing,
    "place": _place,
    "way": _way,
    "spot": _spot,
    "fear": _fear,
    "bag": _bag,
    "tool": _tool,
    "obstacle": _obstacle,
    "gift": _gift,
    "count": _count,
    "food": _food,
    "times": _times,
    "friend": _person("friend", FRIENDS),
    "guard": _person("guard", GUARDS),
    "elder": _person("elder", ELDERS),
    "trouble": _pair(TROUBLES, "relief"),
    "signal": _pair(SIGNALS, "signalled"),
    "barrier": _pair(BARRIERS, "help"),
    "riddle": _pair(RIDDLES, "answer"),
    "promise": _pair(PROMISES, "kept"),
    **{
        table.name: _word(table)
        for table in (
            TRAITS,
            DAYS,
            HABITS,
            CLOTHES,
            places.HOMES,
            places.SIGHTS,
            places.REACTIONS,
            places.TIMES_OF_DAY,
            places.WEATHER,
            places.SHELTERS,
            places.DREAMS,
            places.VERBS,
            places.SOFTLY,
            places.SIMILES,
            places.WHYS,
        )
    },
}


def simple(*groups: Group) -> Callable[[Process], None]:
    """A part of a story that is one sentence of each group, in order."""

    def beat(story: Process) -> None:
        for group in groups:
            story.tell(group)

    return beat


def wish(story: Process) -> None:
    """A habit of the hero's, sometimes, and the wish."""
    if story.branch(say.HABIT_OR_WISH) is say.HABIT:
        story.tell(say.WISH)


def fear_and_wish(story: Process) -> None:
    """A fear of the hero's, sometimes, and the wish."""
    if story.branch(say.FEAR_OR_WISH) is say.FEAR:
        story.tell(say.WISH)


def find(story: Process) -> None:
    """The way or a surprise, sometimes, and the thing, which nobody guards."""
    if story.branch(say.ROAD) is not say.FIND:
        story.tell(say.FIND)


def ending(story: Process) -> None:
    """The way home, sometimes, and the ending."""
    if story.branch(say.HOME_OR_ENDING) is say.HOMEWARD:
        story.tell(say.ENDING)


def last_words(story: Process) -> None:
    """A fear that the story has named is overcome; other stories have a closing word."""
    story.tell(say.OVERCOME if "fear" in story.words else say.CLOSING)


def obstacle(story: Process) -> None:
    """A night, sometimes, and an obstacle that one of the tools overcomes."""
    if story.branch(say.NIGHT_OR_OBSTACLE) is say.NIGHT:
        story.tell(say.OBSTACLE)
    story.tell(say.USE)


def loss_or_find(story: Process) -> None:
    """Perhaps the tool is lost; then the hero follows the advice."""
    if story.branch(say.LOST_OR_FIND) is say.LOST:
        _lose_tool(story)
        story.tell(say.FIND_TOLD)


def share(story: Process) -> None:
    """The hero gives away one piece of food; the number that is left follows."""
    _eat(story)
    story.tell(say.GIVE)


def loss_or_guest(story: Process) -> None:
    """Perhaps a tool is lost, or there is a second hungry one; then the thing is found."""
    event = story.branch(say.LOST_OR_AGAIN_OR_OWNER)
    if event is say.LOST:
        _lose_tool(story)
        owned(story)
    elif event is say.HUNGRY_AGAIN:
        share(story)
        owned(story)
    else:
        _obtain(story, event)


def owned(story: Process) -> None:
    """The thing is found, and perhaps somebody owns it."""
    _obtain(story, story.branch(say.OWNER_THERE))


def _obtain(story: Process, event: Group) -> None:
    """The hero takes the thing from a sleeper, or pays with an answer or with a tool."""
    if event is say.ASLEEP_THERE:
        story.world.asleep.add(story.words["guard"])
        story.tell(say.STEAL)
    elif event is say.AWAKE_THERE:
        if not story.world.tools:
            story.tell(say.RIDDLE)
            story.tell(say.ANSWER)
        elif story.branch(say.PRICE) is say.RIDDLE:
            story.tell(say.ANSWER)


def supper(story: Process) -> None:
    """What is left of the food is eaten, and its number is told."""
    story.tell(say.SUPPER)


def _lose_tool(story: Process) -> None:
    lost = story.words["tool"]
    story.world.lose(next(tool for tool in story.world.tools if tool.the == lost))


def _eat(story: Process) -> None:
    story.world.food -= 1
    left, words = story.world.food, story.words
    words["left"] = NUMBERS[left - 1]
    words["leftovers"] = words["one"] if left == 1 else words["food"]


# Level -> its parts in order.
BEATS: dict[int, tuple[Callable[[Process], None], ...]] = {
    1: (simple(say.OPENING), wish, simple(say.SET_OUT), find, ending, simple(say.CLOSING)),
    2: (
        simple(say.OPENING),
        fear_and_wish,
        simple(say.DEPART),
        simple(say.MEET),
        simple(say.RELIEF),
        simple(say.ADVICE),
        obstacle,
        loss_or_find,
        simple(say.ENDING),
        last_words,
    ),
    3: (
        simple(say.OPENING),
        simple(say.WISH),
        simple(say.DEPART_FOOD),
        simple(say.HUNGRY),
        share,
        simple(say.THANKS),
        simple(say.OBSTACLE),
        simple(say.USE),
        loss_or_guest,
        supper,
        simple(say.ENDING),
    ),
    4: (
        simple(say.OPENING),
        simple(say.PROMISE),
        simple(say.WISH),
        simple(say.SET_OUT),
        simple(say.MEET),
        simple(say.RELIEF),
        simple(say.VOW),
        simple(say.BARRIER),
        simple(say.CALL),
        owned,
        simple(say.ENDING),
        simple(say.KEPT),
    ),
}
LEVELS = tuple(BEATS)
