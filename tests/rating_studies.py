"""Small studies for the tests of the rating room: made texts, no model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_from_scratch.rating.order import make_items
from llm_from_scratch.rating.records import Item, Rater, Task, Text
from llm_from_scratch.rating.store import Study
from llm_from_scratch.rating.study import StudyPlan, plan_of


def small_plan(design: str = "scales", systems: int = 3, prompts: int = 6, **changes: Any) -> StudyPlan:
    """A plan of systems a, b, c, … on made prompts."""
    values: dict[str, Any] = {
        "title": "Which run tells the better tale?",
        "design": design,
        "systems": {"abcdefgh"[i]: f"runs/{i}" for i in range(systems)},
        "prompts": [f"Prompt number {i}: once upon a time" for i in range(prompts)],
    }
    return plan_of(values | changes)


def small_texts(plan: StudyPlan) -> tuple[list[Text], list[Item]]:
    """A text of each system for each prompt, checks and training items."""
    texts = [
        Text(
            id=0,
            prompt=number,
            system=system,
            given=given,
            continuation=f" Text {number * 31 + place * 7} goes on with words, and more words, and then it ends." * 2,
        )
        for number, given in enumerate(plan.prompts)
        for place, system in enumerate(plan.names)
    ]
    texts = [Text(**{**vars(text), "id": i}) for i, text in enumerate(texts, 1)]
    size = 1 if plan.design == "scales" else 2
    carriers = [
        Text(**{**vars(texts[(i // size * len(plan.names)) % len(texts)]), "id": 0, "system": "check"})
        for i in range(plan.checks * size)
    ]
    return make_items(plan, texts, carriers)


def small_study(folder: Path, design: str = "scales", **changes: Any) -> Study:
    """A study in a new folder, open."""
    plan = small_plan(design, **changes)
    return Study.create(folder, plan, *small_texts(plan))


def people(study: Study) -> list[Rater]:
    """The people who were invited, in order."""
    return [rater for rater in study.raters() if rater.kind == "person"]


def kept(study: Study, task: Task) -> Any:
    """The row of a task in the database, with its item."""
    (row,) = study._database.all("SELECT * FROM tasks WHERE id = ?", int(task.id))
    return row


def rate_all(study: Study, rater: Rater, value: Any = None, tasks: Sequence[Task] | None = None) -> None:
    """Answers all tasks of a rater, or some of them, with one value."""
    if value is None:
        scales = study.plan.design == "scales"
        value = dict.fromkeys(study.plan.answers, 3) if scales else {"preference": "left"}
    for task in study.tasks(rater) if tasks is None else tasks:
        study.answer(rater, task.id, value)
