"""What a study gives away: tables of all answers, and pairs that a model can be trained on.

    ratings.csv, ratings.jsonl     an answer a row (`records.Rating`, or `records.Preference`)
    checks.csv                     the attention checks
    texts.jsonl                    the rated texts with their systems
    pairs.jsonl                    prompt, chosen, rejected: data=preferences
    README.md                      the card (card.py)

No code of a rater is in any of them.
"""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import write_file
from llm_from_scratch.rating.card import study_card
from llm_from_scratch.rating.records import Check, Item, Preference, RaterKind, Rating, Text
from llm_from_scratch.rating.store import Study

BACKGROUND = "background."  # starts the column of a background question
MARGIN = 1.0  # of mean ratings, from which the better text of a prompt is preferred
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
PEOPLE: tuple[RaterKind, ...] = ("person", "imported")


def write_exports(
    study: Study, folder: Path, kinds: Sequence[RaterKind] = PEOPLE, margin: float = MARGIN
) -> list[Path]:
    """Writes all files of an export, and returns their paths.

    Args:
        study: the study.
        folder: is made if it is not there; files of an earlier export are replaced.
        kinds: of the raters whose pairs are written; people and models are not mixed.
        margin: as in `pairs_of_ratings`.

    Raises:
        UserError: when a file cannot be written.
    """
    rows = table(study.ratings() or study.preferences())
    pairs = preference_rows(study, kinds, margin)
    texts = [
        {"id": text.id, "prompt": text.prompt, "system": text.system, "given": text.given, "text": text.continuation}
        for text in rated_texts(study)
    ]
    contents = {
        "ratings.csv": as_csv(rows),
        "ratings.jsonl": as_jsonl(rows),
        "checks.csv": as_csv(table(study.checks())),
        "texts.jsonl": as_jsonl(texts),
        "pairs.jsonl": as_jsonl(pairs),
        "README.md": study_card(study, len(rows), len(pairs)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_file(folder / name, content)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}: name another folder") from None
    return [folder / name for name in contents]


# ------------------------------------------------------------------------------------------- tables
def table(records: Sequence[Rating] | Sequence[Preference] | Sequence[Check]) -> list[dict[str, Any]]:
    """Returns records as rows, a column for each background question; None: not known."""
    names = sorted({name for record in records for name in getattr(record, "background", {})})
    rows = []
    for record in records:
        row = asdict(record)
        background = row.pop("background", {})
        row |= {f"{BACKGROUND}{name}": background.get(name) for name in names}
        rows.append({key: None if isinstance(one, float) and math.isnan(one) else one for key, one in row.items()})
    return rows


def as_jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns rows as lines of JSON."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as CSV (RFC 4180); the header alone where there are none is empty.

    A text that a spreadsheet would take for a formula has a `'` before it.
    """
    if not rows:
        return ""
    written = io.StringIO()
    writer = csv.DictWriter(written, fieldnames=list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(one) for key, one in row.items()})
    return written.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value


def unquoted(cell: str) -> str:
    """Returns the text of a cell that `as_csv` has written."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULAS) else cell


def rated_texts(study: Study) -> list[Text]:
    """Returns the texts that are rated, without those of checks and training items."""
    used = {one for item in study.items.values() if item.kind == "rated" for one in (item.first, item.second)}
    return [text for text in study.texts.values() if text.id in used]


# -------------------------------------------------------------------------------------------- pairs
def preference_rows(study: Study, kinds: Sequence[RaterKind] = PEOPLE, margin: float = MARGIN) -> list[dict[str, str]]:
    """Returns the texts that were preferred, as rows of `data=preferences`.

    Repetitions do not count. A pair is left out where nothing is preferred, where both texts are
    the same, and where one of them is empty.
    """
    ordered = (
        pairs_of_votes([one for one in study.preferences() if one.rater_kind in kinds and not one.repeat], study.items)
        if study.plan.design == "pairs"
        else pairs_of_ratings(
            [one for one in study.ratings() if one.rater_kind in kinds and not one.repeat], study.items, margin
        )
    )
    rows = []
    for chosen, rejected in ordered:
        better, worse = study.texts[chosen], study.texts[rejected]
        if better.continuation.strip() and worse.continuation.strip() and better.continuation != worse.continuation:
            rows.append({"prompt": better.given, "chosen": better.continuation, "rejected": worse.continuation})
    return rows


def pairs_of_votes(votes: Sequence[Preference], items: Mapping[int, Item]) -> list[tuple[int, int]]:
    """Returns (chosen, rejected) texts: what most of those chose who saw a difference."""
    lead: dict[int, int] = defaultdict(int)
    for vote in votes:
        lead[vote.item] += {"first": 1, "second": -1}.get(vote.winner or "", 0)
    found = []
    for number, difference in sorted(lead.items()):
        item = items[number]
        assert item.second is not None
        if difference:
            found.append((item.first, item.second) if difference > 0 else (item.second, item.first))
    return found


def pairs_of_ratings(ratings: Sequence[Rating], items: Mapping[int, Item], margin: float) -> list[tuple[int, int]]:
    """Returns (chosen, rejected) texts of one prompt whose mean ratings differ by `margin` or more.

    The mean of a text is over its questions, of means over its raters.
    """
    values: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rating in ratings:
        if rating.value is not None:
            values[rating.item][rating.question].append(rating.value)
    means = {item: fmean(map(fmean, of.values())) for item, of in sorted(values.items())}
    found = []
    for one, other in combinations(means, 2):
        difference = means[one] - means[other]
        if items[one].prompt == items[other].prompt and abs(difference) >= margin > 0:
            better, worse = (one, other) if difference > 0 else (other, one)
            found.append((items[better].first, items[worse].first))
    return found
