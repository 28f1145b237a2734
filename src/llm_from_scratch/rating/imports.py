"""Ratings that were made elsewhere: a CSV file -> imported raters of a study, or a study of them.

    rater,prompt,system,question,value            scales: value is 1 to 5, or empty: cannot judge
    rater,prompt,first,second,winner              pairs: winner is first, second, tie, or empty

More columns are read where they are there: seconds, at, comment, repeat (true: the second time),
background.NAME, and for a new study given and continuation (scales), given, first_text and
second_text (pairs). Other columns are passed over. An export is such a file; its rows of models
(rater_kind) are passed over, too: imported raters count as people.
"""

import csv
import io
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import read_bounded, sha256
from llm_from_scratch.rating.answers import checked_kept
from llm_from_scratch.rating.exports import unquoted
from llm_from_scratch.rating.order import make_items
from llm_from_scratch.rating.records import HUMAN, Text
from llm_from_scratch.rating.rubric import QUESTIONS
from llm_from_scratch.rating.store import Imported, Study
from llm_from_scratch.rating.study import plan_of

MAX_BYTES = 500_000_000
NEEDED = {
    "scales": ("rater", "prompt", "system", "question", "value"),
    "pairs": ("rater", "prompt", "first", "second", "winner"),
}
BACKGROUND = "background."
TRUE = ("true", "1", "yes")


@dataclass
class _Answers:
    """What one rater said of one item, one time."""

    row: Mapping[str, str]
    line: int
    value: dict[str, Any] = field(default_factory=dict)


def import_ratings(path: Path, folder: Path) -> int:
    """Reads ratings into a study, all of them or none, and returns the number of answers.

    Args:
        path: the CSV file, in UTF-8.
        folder: of a study; where there is none, one is made of the ratings, and closed.

    Raises:
        UserError: when the file cannot be read or does not fit the study; it names the line. A file
            that was imported before is refused.
    """
    rows = _rows(path)
    if not folder.exists():
        return _make(path, folder, rows)
    with Study.open(folder) as study:
        return _add(study, path, rows)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Returns the rows with the numbers of their lines."""
    try:
        text = read_bounded(path, MAX_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"line {reader.line_num}: has more or fewer cells than the header")
            if row.get("rater_kind") != "model":
                rows.append((reader.line_num, {key: unquoted(cell) for key, cell in row.items()}))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name a CSV file") from None
    except (UserError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None
    design = _design(rows[0][1] if rows else {})
    if design is None:
        needs = "; or ".join(",".join(columns) for columns in NEEDED.values())
        raise UserError(f"{path}: holds no ratings: its header needs {needs}")
    return rows


def _design(row: Mapping[str, str]) -> str | None:
    return next((design for design, columns in NEEDED.items() if set(columns) <= set(row)), None)


def _add(study: Study, path: Path, rows: Sequence[tuple[int, dict[str, str]]]) -> int:
    """Adds the ratings of a file to a study."""
    design = _design(rows[0][1])
    if design != study.plan.design:
        raise UserError(f"{path}: holds {design}, and this is a study of {study.plan.design}")
    by_systems: dict[tuple[int, frozenset[str]], int] = {}
    for item in study.items.values():
        if item.kind == "rated":
            names = frozenset(study.texts[one].system for one in (item.first, item.second) if one is not None)
            by_systems[item.prompt, names] = item.id
    raters: dict[str, list[Imported]] = {}
    backgrounds: dict[str, dict[str, str]] = {}
    for answers in _gathered(path, rows, design):
        row = answers.row
        systems = [row["system"]] if design == "scales" else [row["first"], row["second"]]
        key = (int(row["prompt"]) if re.fullmatch(r"\d{1,9}", row["prompt"]) else -1, frozenset(systems))
        if key not in by_systems:
            raise _fault(
                path, answers.line, f"prompt {row['prompt']!r:.40} has no text of {' and '.join(systems)!r:.80}"
            )
        item = study.items[by_systems[key]]
        value = answers.value
        if design == "pairs" and study.texts[item.first].system != row["first"]:
            turned = {"first": "second", "second": "first"}
            value = {"preference": turned.get(value["preference"], value["preference"])}
        try:
            kept = checked_kept(study.plan, {**dict.fromkeys(study.plan.answers), **value})
        except UserError as error:
            raise _fault(path, answers.line, str(error)) from None
        shared = {"comment": row.get("comment", ""), "at": row.get("at", "")}
        repeat = row.get("repeat", "").lower() in TRUE
        one = Imported(item=item.id, value=kept, seconds=_seconds(row.get("seconds", "")), repeat=repeat, **shared)
        raters.setdefault(row["rater"], []).append(one)
        background = {
            key.removeprefix(BACKGROUND): word for key, word in row.items() if key.startswith(BACKGROUND) and word
        }
        backgrounds.setdefault(row["rater"], {}).update(background)
    for own in raters.values():
        own.sort(key=lambda one: one.repeat)
    study.add_imported(sha256(path), raters, backgrounds)
    return sum(map(len, raters.values()))


def _gathered(path: Path, rows: Sequence[tuple[int, dict[str, str]]], design: str) -> Iterator[_Answers]:
    """Yields what was said of an item: the rows of several questions together."""
    found: dict[tuple[str, ...], _Answers] = {}
    for line, row in rows:
        about = (row["system"],) if design == "scales" else tuple(sorted((row["first"], row["second"])))
        key = (row["rater"], row["prompt"], *about, row.get("repeat", "").lower())
        answers = found.setdefault(key, _Answers(row, line))
        name = row["question"] if design == "scales" else "preference"
        if name in answers.value:
            raise _fault(
                path, line, "is of the same rater about the same text as an earlier line; mark it by repeat=true"
            )
        answers.value[name] = _value(path, line, row["value"] if design == "scales" else row["winner"], design)
    yield from found.values()


def _value(path: Path, line: int, word: str, design: str) -> int | str | None:
    word = word.strip().lower()
    if word in ("", "none", "null"):
        return None
    if design == "pairs":
        return word
    if not re.fullmatch(r"[1-5](\.0+)?", word):
        raise _fault(path, line, f"value {word!r:.40} must be from 1 to 5, or empty: cannot judge")
    return int(word[0])


def _seconds(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _fault(path: Path, line: int, what: str) -> UserError:
    return UserError(f"{path}:{line}: {what}")


# -------------------------------------------------------------------------------------- a new study
def _make(path: Path, folder: Path, rows: Sequence[tuple[int, dict[str, str]]]) -> int:
    """Makes a study of the ratings of a file."""
    design = _design(rows[0][1])
    assert design is not None
    columns = (
        [("system", "continuation")] if design == "scales" else [("first", "first_text"), ("second", "second_text")]
    )
    names = list(dict.fromkeys(row["prompt"] for _, row in rows))
    if all(re.fullmatch(r"\d{1,9}", name) for name in names):
        names.sort(key=int)  # an export's numbers stay
    prompts = {name: number for number, name in enumerate(names)}
    given: dict[str, str] = {}
    written: dict[tuple[str, str], str] = {}
    for _, row in rows:
        given.setdefault(row["prompt"], row.get("given") or f"(prompt {row['prompt']})")
        for system, text in columns:
            written.setdefault((row["prompt"], row[system]), row.get(text) or f"(the text of {row[system]})")
    systems = list(dict.fromkeys(system for _, system in written))
    asked = list(dict.fromkeys(row["question"] for _, row in rows)) if design == "scales" else []
    known = {question.name: question for question in QUESTIONS}
    questions = [
        vars(known[name]) if name in known else {"name": name, "text": name, "levels": {i: str(i) for i in range(1, 6)}}
        for name in asked
    ]
    values: dict[str, Any] = {
        "title": path.stem,
        "design": design,
        "systems": {name: "" for name in systems if name != HUMAN},
    }
    values |= {"human": HUMAN in systems, "prompts": _different([given[name] for name in names])}
    values |= {"ratings_per_item": 1, "raters": 1, "repeats": 0, "checks": 0, "training": 0}
    try:
        plan = plan_of(values | ({"questions": questions} if questions else {}))
    except UserError as error:
        raise UserError(f"{path}: makes no study: {error}") from None
    texts = [
        Text(id=0, prompt=prompts[prompt], system=system, given=plan.prompts[prompts[prompt]], continuation=text)
        for (prompt, system), text in written.items()
    ]
    texts = [Text(**vars(text) | {"id": number}) for number, text in enumerate(texts, 1)]
    numbered = [(line, row | {"prompt": str(prompts[row["prompt"]])}) for line, row in rows]
    with Study.create(folder, plan, *make_items(plan, texts, []), raters=0) as study:
        try:
            count = _add(study, path, numbered)
        except UserError:
            shutil.rmtree(folder)
            raise
        study.close()
    return count


def _different(texts: Sequence[str]) -> list[str]:
    """Returns texts, those that came before with their number behind them."""
    return [text if text not in texts[:place] else f"{text} ({place})" for place, text in enumerate(texts)]
