"""The records of a study: what is shown to a rater, and the ratings that a report is made of.

Nothing here reads a file, so that the statistics are tested on simulated records.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

RaterKind = Literal["person", "model", "imported"]
Side = Literal["first", "second"]
Winner = Literal["first", "second", "tie"]
HUMAN = "human"  # the system of the true continuations
SCALE = (1, 2, 3, 4, 5)  # the answers to a question of a study of scales, beside None: cannot judge


@dataclass(frozen=True, kw_only=True)
class Text:
    """A frozen text: the continuation of `given` by a system.

    Attributes:
        id: from 1.
        prompt: the number of the prompt or passage, from 0; -1 for a training item.
        system: its name in the study; HUMAN is the true continuation, "check" and "training" are
            of those items.
        given: what is continued.
        continuation: the text to be judged.
        seed: of its sampling; 0 where nothing was sampled.
    """

    id: int
    prompt: int
    system: str
    given: str
    continuation: str
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something to be rated: a text (scales), or two texts of one prompt (pairs).

    Attributes:
        id: from 1.
        kind: rated, check (of attention) or training.
        prompt: the number of the prompt; -1 for a training item.
        first: the id of the text, or of the first of two.
        second: the id of the second text; None on scales.
        expected: of a check or training item. Scales: question -> (lowest, highest) of the right
            answers. Pairs: {"preference": "first" | "second"}.
        feedback: what a rater reads after a training item.
    """

    id: int
    kind: Literal["rated", "check", "training"]
    prompt: int
    first: int
    second: int | None = None
    expected: dict[str, Any] | None = None
    feedback: str = ""


@dataclass(frozen=True, kw_only=True)
class Rater:
    """A rater: a person with a code, a model, or one whose ratings were imported.

    `consented` and `finished` are times in ISO 8601 (UTC), None for not yet. `name` is that of a
    model or of an imported rater; people have none.
    """

    id: int
    code: str
    kind: RaterKind
    name: str = ""
    consented: str | None = None
    background: dict[str, str] = field(default_factory=dict)
    finished: str | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """An item as one rater sees it; nothing here tells a system, a check or a repetition.

    Attributes:
        id: random, of this rater alone.
        position: from 0, in the rater's order.
        kind: training, or rated for everything else.
        given: what the texts continue.
        texts: the text, or the left and the right one.
        answer: the newest answer as shown: question -> 1 to 5 or None, or {"preference": "left",
            "right", "tie" or None}; None: not answered yet.
        comment: of the newest answer.
    """

    id: str
    position: int
    kind: Literal["rated", "training"]
    given: str
    texts: list[str]
    answer: dict[str, Any] | None = None
    comment: str = ""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What a rater learns after a training item.

    `expected` is as shown: question -> [lowest, highest], or {"preference": "left" or "right"}.
    """

    agrees: bool
    text: str
    expected: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of one rater; `code` is the last four characters of the code."""

    code: str
    kind: RaterKind
    name: str
    answered: int
    total: int
    last: str | None
    finished: str | None


@dataclass(frozen=True, kw_only=True)
class Rating:
    """The newest answer of a rater to one question about one text.

    Attributes:
        rater: its number; rater_kind: person, model or imported.
        item: the item's number; of a repetition that of the first time.
        prompt: the prompt's number.
        system: the system that wrote the text.
        question: the question's name.
        value: 1 to 5; None: cannot judge.
        repeat: whether the rater saw the item a second time.
        position: in the rater's order, from 0.
        seconds: that the rater took; NaN where it is not known.
        at: the time, ISO 8601.
        background: the rater's answers to the background questions.
    """

    rater: int
    rater_kind: RaterKind
    item: int
    prompt: int
    system: str
    question: str
    value: int | None
    repeat: bool = False
    position: int = 0
    seconds: float = 0.0
    at: str = ""
    background: dict[str, str] = field(default_factory=dict)
    comment: str = ""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """The newest answer of a rater to a pair of texts.

    Attributes:
        first, second: the systems, in the item's own order.
        winner: the preferred one, a tie, or None: cannot judge.
        shown_left: which of the two stood on the left, or above.

    The others are those of `Rating`.
    """

    rater: int
    rater_kind: RaterKind
    item: int
    prompt: int
    first: str
    second: str
    winner: Winner | None
    shown_left: Side = "first"
    repeat: bool = False
    position: int = 0
    seconds: float = 0.0
    at: str = ""
    background: dict[str, str] = field(default_factory=dict)
    comment: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The newest answer of a rater to an attention check."""

    rater: int
    rater_kind: RaterKind
    item: int
    passed: bool
    seconds: float = 0.0
