"""The plan of a study: study.yaml -> a checked `StudyPlan` -> study.yaml, with every default.

A plan holds all that a study is made from. It has the systems (runs), the prompts or held-out
passages, the sampling, the questions and how many ratings are wanted of whom.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.files import read_bounded
from llm_from_scratch.rating.records import HUMAN, SCALE
from llm_from_scratch.rating.rubric import CONSENT, PAIRS, QUESTIONS, SCALES, Question

MAX_PLAN = 1_000_000  # bytes
MAX_DEPTH = 12
RESERVED = (HUMAN, "check", "training")  # of texts that no run has written
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,59}", re.ASCII)
WORD = re.compile(r"[a-z][a-z0-9_]{0,39}")
DESIGNS = ("scales", "pairs")
TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict}


@dataclass(frozen=True, kw_only=True)
class Passages:
    """Held-out passages of a run's validation text. Lengths are in characters.

    Attributes:
        of: the system whose run's text it is.
        count: the number of passages, which do not overlap.
    """

    of: str
    count: int = 20
    prompt_characters: int = 200
    continuation_characters: int = 400


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the systems write. `max_new_tokens` is for prompts: passages have their own length."""

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = 0.95
    max_new_tokens: int = 120


@dataclass(frozen=True, kw_only=True)
class Background:
    """A question about the rater, which need not be answered."""

    name: str
    text: str
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """A study as study.yaml describes it; `read_plan` and `plan_of` check it.

    Attributes:
        title: what raters read first.
        design: scales (each text by itself) or pairs (two texts of one prompt).
        systems: name -> RUN, as every command takes it. A study of imported ratings has "" for it.
        human: whether the true continuation is one more system; needs passages.
        prompts: the prompts; or `passages`.
        questions: of scales.
        pair_question, ties: of pairs; `ties` is whether a tie is an answer.
        ratings_per_item: by different people.
        repeats: items that a rater sees twice.
        checks: attention checks that a rater sees.
        training: items with feedback, which come first.
        background: questions about the rater.
        consent: what a rater agrees to.
        raters: codes made at the start.
    """

    title: str = "Which text is better?"
    design: str = "scales"
    systems: dict[str, str] = field(default_factory=dict)
    human: bool = True
    prompts: tuple[str, ...] = ()
    passages: Passages | None = None
    sampling: Sampling = Sampling()
    seed: int = 1
    questions: tuple[Question, ...] = QUESTIONS
    pair_question: str = "Which continuation would you rather go on reading?"
    ties: bool = True
    ratings_per_item: int = 3
    repeats: int = 4
    checks: int = 2
    training: int = 2
    background: tuple[Background, ...] = ()
    consent: str = CONSENT
    raters: int = 6

    @property
    def names(self) -> list[str]:
        """Returns the names of all systems, the human one included."""
        return [*self.systems, *([HUMAN] if self.human else [])]

    @property
    def answers(self) -> list[str]:
        """Returns the keys of an answer: the questions of scales, or `preference`."""
        return [question.name for question in self.questions] if self.design == "scales" else ["preference"]

    def as_yaml(self) -> str:
        """Returns the whole plan as YAML, which `plan_of` reads back."""
        values = _plain(asdict(self))
        values.pop("questions" if self.design == "pairs" else "pair_question")
        values.pop("prompts" if self.passages else "passages")
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)

    def checksum(self) -> str:
        """Returns a sha256 of the plan."""
        return hashlib.sha256(self.as_yaml().encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Returns a value with lists for tuples, as YAML has them."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads `yes`, `no`, `on` and `off` as words, and dates as text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":bool", ":timestamp"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|false|False)$"), list("tTfF"))


def read_plan(path: Path, systems: Mapping[str, str] | None = None) -> StudyPlan:
    """Reads a study.yaml.

    Args:
        path: the file.
        systems: name -> RUN in place of the file's; None: the file's.

    Raises:
        UserError: when it is missing or unreadable, or a value is refused; one line.
    """
    try:
        values = yaml_values(read_bounded(path, MAX_PLAN).decode())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name a study.yaml") from None
    except (UserError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {message_of(error, 300)}") from None
    try:
        return plan_of(values | ({"systems": dict(systems)} if systems else {}))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def yaml_values(text: str) -> dict[str, Any]:
    """Returns the values of a YAML text: an object, without aliases.

    Raises:
        UserError: when it is none.
    """
    try:
        depth = 0
        for event in yaml.parse(text, _Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # A few lines of aliases can stand for terabytes; deep nesting takes quadratic time.
            if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
                raise UserError("it holds an alias, or is nested too deep")
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(message_of(error, 300)) from None
    if not isinstance(values, dict):
        raise UserError("it holds no settings: write `key: value` lines")
    return values


def plan_of(values: Mapping[str, Any]) -> StudyPlan:
    """Returns the plan of plain values, what is left out by its default.

    Raises:
        UserError: for an unknown key, a wrong type or a value that does not fit; it names the key.
    """
    try:
        json.dumps(_plain(dict(values)), ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise UserError("a text holds half a character (a lone surrogate): write it as UTF-8") from None
    found = dict(values)
    design = found.get("design", "scales")
    if design not in DESIGNS:
        raise UserError(f"design: {design!r:.40}: is scales or pairs")
    for key, schema in (("passages", Passages), ("sampling", Sampling)):
        if found.get(key) is not None:
            found[key] = _record(found[key], schema, key)
    if "questions" in found:
        rows = _list(found["questions"], "questions")
        found["questions"] = tuple(_question(row, f"questions[{i}]") for i, row in enumerate(rows))
    if "background" in found:
        rows = _list(found["background"] or [], "background")
        found["background"] = tuple(_background(row, f"background[{i}]") for i, row in enumerate(rows))
    found["prompts"] = tuple(_list(found.get("prompts") or [], "prompts"))
    plan = _record(found, StudyPlan, "")
    if "human" not in values and not plan.passages:
        plan = replace(plan, human=False)
    if "training" not in values:
        plan = replace(plan, training=min(plan.training, training_examples(plan)))
    _check(plan)
    return plan


def _record(values: Any, schema: type[Any], where: str) -> Any:
    """Returns an instance of a dataclass, its keys and the types of its plain values checked."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: must be `key: value` lines")
    known = {item.name: item for item in fields(schema)}
    dot = f"{where}." if where else ""
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{dot}{key!s:.60}: there is no such setting; there are: {', '.join(known)}")
        kind = known[key].type
        name = kind.__name__ if isinstance(kind, type) else str(kind).split("[")[0].removesuffix(" | None")
        expected = TYPES.get(name)
        empty = value is None and "None" in str(kind)
        wrong_bool = isinstance(value, bool) and name != "bool"
        if expected and not empty and (wrong_bool or not isinstance(value, expected)):
            raise UserError(f"{dot}{key}: {value!r:.60}: must be of type {name}")
    try:
        return schema(**values)
    except TypeError:
        needed = [name for name in ("of", "name", "text", "levels", "options") if name in known and name not in values]
        raise UserError(f"{where}: needs {', '.join(needed)}") from None


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: must be a list")
    return list(value)


def _question(row: Any, where: str) -> Question:
    found = _record(row, Question, where)
    for key in ("levels", "anchors"):
        texts = getattr(found, key)
        wrong = not isinstance(texts, Mapping) or any(
            level not in SCALE or isinstance(level, bool) or not isinstance(text, str) for level, text in texts.items()
        )
        if wrong or (key == "levels" and len(texts) != len(SCALE)):
            each = "each of 1, 2, 3, 4 and 5" if key == "levels" else "some of 1 to 5"
            raise UserError(f"{where}.{key}: needs a text for {each}")
    return replace(found, levels=dict(sorted(found.levels.items())), anchors=dict(sorted(found.anchors.items())))


def _background(row: Any, where: str) -> Background:
    found = _record(row, Background, where)
    options = [str(one) for one in _list(found.options, f"{where}.options")]
    if len(options) < 2 or len(set(options)) < len(options):
        raise UserError(f"{where}.options: needs two different answers or more")
    return replace(found, options=tuple(options))


def _check(plan: StudyPlan) -> None:
    """Checks what the types do not say, key by key.

    Raises:
        UserError: for the first value that does not fit.
    """
    _check_systems(plan)
    if bool(plan.prompts) == bool(plan.passages):
        raise UserError("prompts, passages: give one of the two: `prompts: [...]`, or `passages: {of: SYSTEM}`")
    if not all(isinstance(prompt, str) and prompt.strip() for prompt in plan.prompts):
        raise UserError("prompts: each must be a text that is not empty")
    if len(set(plan.prompts)) < len(plan.prompts):
        raise UserError("prompts: one of them stands there twice")
    imported = not any(plan.systems.values())
    if plan.human and not plan.passages and not imported:
        raise UserError("human: only passages have a true continuation: leave it out, or give passages")
    names = [question.name for question in plan.questions]
    for key, words in (("questions", names), ("background", [one.name for one in plan.background])):
        for word in words:
            if not WORD.fullmatch(word) or words.count(word) > 1:
                raise UserError(f"{key}: the name {word!r:.60} must be a word of small letters, and there once")
    if plan.design == "scales" and not names:
        raise UserError("questions: a study of scales needs one or more")
    for key, least, most in (
        ("seed", 0, 2**63 - 1),
        ("ratings_per_item", 1, 1000),
        ("repeats", 0, 1000),
        ("checks", 0, 50),
        ("training", 0, 50),
        ("raters", 1, 10_000),
    ):
        if not least <= getattr(plan, key) <= most:
            raise UserError(f"{key}: {getattr(plan, key)}: must be from {least} to {most}")
    if plan.ratings_per_item > plan.raters:
        raise UserError(
            f"ratings_per_item: {plan.ratings_per_item}: nobody rates an item for two: raters must be that many or more"
        )
    for number, smallest, key in _lengths(plan):
        if number < smallest:
            raise UserError(f"{key}: {number}: must be {smallest} or more")
    if plan.training > training_examples(plan):
        raise UserError(
            f"training: {plan.training}: there are {training_examples(plan)} training items for these questions"
            " (one for each of their anchors): lower it, or give more anchors"
        )


def _check_systems(plan: StudyPlan) -> None:
    for name, run in plan.systems.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name.lower() in RESERVED:
            raise UserError(
                f"systems: the name {name!r:.60} must be of letters, digits, `.`, `_` and `-`, and not one of"
                f" {', '.join(RESERVED)}"
            )
        if not isinstance(run, str):
            raise UserError(f"systems.{name}: must be a RUN: a folder, last, a .gguf file, smollm2")
    if len({name.lower() for name in plan.systems}) < len(plan.systems):
        raise UserError("systems: two names differ in capitals alone")
    if not plan.systems:
        raise UserError("systems: name one or more: `systems: {small: outputs/x/run}`")
    if plan.design == "pairs" and len(plan.names) < 2:
        raise UserError("systems: pairs need two systems or more, or `human: true`")
    if plan.passages and plan.passages.of not in plan.systems:
        raise UserError(f"passages.of: {plan.passages.of!r:.60} is none of the systems: {', '.join(plan.systems)}")


def _lengths(plan: StudyPlan) -> list[tuple[int, int, str]]:
    found = [(plan.sampling.max_new_tokens, 1, "sampling.max_new_tokens")]
    if plan.passages:
        found += [
            (plan.passages.count, 1, "passages.count"),
            (plan.passages.prompt_characters, 20, "passages.prompt_characters"),
            (plan.passages.continuation_characters, 20, "passages.continuation_characters"),
        ]
    return found


def training_examples(plan: StudyPlan) -> int:
    """Returns the number of training items that there are for a plan's questions."""
    if plan.design == "pairs":
        return len(PAIRS)
    if plan.questions == QUESTIONS:
        return len(SCALES)
    return sum(len(question.anchors) for question in plan.questions)
