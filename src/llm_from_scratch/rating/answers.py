"""Answers to an item: checked, turned between what is shown and what is kept, compared.

Shown is {"preference": "left" | "right" | "tie" | None}, kept "first" or "second" in the item's own
order. Answers on scales, question -> 1 to 5 or None (cannot judge), are the same in both forms.
"""

from collections.abc import Mapping
from typing import Any

from llm_from_scratch.errors import UserError
from llm_from_scratch.rating.records import SCALE, Item, Winner
from llm_from_scratch.rating.study import StudyPlan

SHOWN = {"first": "left", "second": "right"}
KEPT = {"left": "first", "right": "second"}


def checked(plan: StudyPlan, value: Any, item: Item | None = None) -> dict[str, Any]:
    """Returns an answer as shown, checked.

    A training item about some of the questions needs no answer to the other ones.

    Raises:
        UserError: when it does not fit the study.
    """
    keys = set(plan.answers)
    optional = keys - set(item.expected or keys) if item is not None and item.kind == "training" else set()
    if not isinstance(value, Mapping) or not keys - optional <= set(value) <= keys:
        raise UserError(f"value: needs an answer to each of {', '.join(plan.answers)}, and to nothing else")
    for name, one in value.items():
        if plan.design == "pairs":
            sides = ("left", "right", *(("tie",) if plan.ties else ()))
            fits, need = isinstance(one, str) and one in sides, ", ".join(sides)
        else:
            fits, need = isinstance(one, int) and not isinstance(one, bool) and one in SCALE, "1 to 5"
        if one is not None and not fits:
            raise UserError(f"{name}: {one!r:.40}: must be {need}, or null: cannot judge")
    return dict(value)


def checked_kept(plan: StudyPlan, value: dict[str, Any]) -> dict[str, Any]:
    """Returns an answer in the item's own order, checked as `checked` does.

    Raises:
        UserError: when it does not fit the study.
    """
    if plan.design == "pairs" and value.get("preference") in KEPT:
        raise UserError("winner: must be first, second or tie, or empty: cannot judge")
    return as_kept(checked(plan, as_shown(value, swapped=False)), swapped=False)


def as_kept(shown: Mapping[str, Any], swapped: bool) -> dict[str, Any]:
    """Returns an answer in the item's own order."""
    return {name: _other(KEPT.get(one, one), swapped) if name == "preference" else one for name, one in shown.items()}


def as_shown(kept: Mapping[str, Any], swapped: bool) -> dict[str, Any]:
    """Returns an answer with the sides that a rater saw."""
    found = {name: _other(one, swapped) if name == "preference" else one for name, one in kept.items()}
    return {name: SHOWN.get(one, one) if name == "preference" else one for name, one in found.items()}


def _other(one: Any, swapped: bool) -> Any:
    return {"first": "second", "second": "first"}.get(one, one) if swapped else one


def agrees(kept: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Returns whether an answer is the expected one, or within the expected range."""
    return all(
        kept.get(name) == right
        if isinstance(right, str)
        else kept.get(name) is not None and right[0] <= kept[name] <= right[1]
        for name, right in expected.items()
    )


def mean_winner(one: Winner | None, other: Winner | None) -> Winner | None:
    """Returns the mean of two answers to a pair that was shown both ways.

    It is the winner of both; a tie where they differ; None where one of them is.
    """
    if one is None or other is None:
        return None
    return one if one == other else "tie"
