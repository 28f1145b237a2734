"""A study on disk: its folder and its database, which all raters write to at once.

    study.yaml      the plan with every default
    texts.jsonl     the frozen texts, one a line
    study.db        the same texts, the items, raters, their orders, their answers
    owner_token     of the owner's page
    exports/        what `rate export` writes

The folder and its files are the owner's alone: they hold the codes of the raters.
"""

import hmac
import json
import math
import secrets
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import building_folder, publish, sha256
from llm_from_scratch.rating import database
from llm_from_scratch.rating.answers import agrees, as_kept, as_shown, checked, mean_winner
from llm_from_scratch.rating.database import TASKS, Database, item_of, rater_of
from llm_from_scratch.rating.order import Load, Slot, model_order, order
from llm_from_scratch.rating.records import (
    Check,
    Feedback,
    Item,
    Preference,
    Progress,
    Rater,
    RaterKind,
    Rating,
    Side,
    Task,
    Text,
)
from llm_from_scratch.rating.study import StudyPlan, plan_of, yaml_values

PLAN, TEXTS, DATABASE, TOKEN, EXPORTS = "study.yaml", "texts.jsonl", "study.db", "owner_token", "exports"
IDLE = timedelta(minutes=30)  # after which what a rater has not answered is given to others, too
MAX_COMMENT = 2_000  # characters
MAX_KEY = 100  # characters
MAX_SECONDS = 86_400.0
CODE_BYTES = 18  # 24 URL-safe characters


def now() -> str:
    """Returns the present time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """An answer that was given elsewhere, in the item's own order; `seconds` None: not known."""

    item: int
    value: dict[str, Any]
    seconds: float | None = None
    at: str = ""
    comment: str = ""
    repeat: bool = False


class Study:
    """A study that is open. Safe to use from several threads, and beside other processes.

    Use it as a context manager, or call `disconnect`.

    Attributes:
        folder: of the study.
        plan: its plan.
        texts: all texts, by id.
        items: all items, by id.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the study of a folder.

        Raises:
            UserError: when the folder holds none, or its plan or its texts were changed.
        """
        self.folder = folder
        if not (folder / DATABASE).is_file():
            raise UserError(f"{folder}: is no study: it has no {DATABASE}; make one with `rate new RUN… --out FOLDER`")
        self._database = Database(folder / DATABASE)
        try:
            self.plan = plan_of(yaml_values(self.fact("plan") or ""))
            rows = self._database.all("SELECT * FROM texts ORDER BY id")
            self.texts = {row["id"]: Text(**dict(row)) for row in rows}
            self.items = {row["id"]: item_of(row) for row in self._database.all("SELECT * FROM items ORDER BY id")}
            for name in (PLAN, TEXTS):
                if not (folder / name).is_file() or sha256(folder / name) != self.fact(name):
                    raise UserError(
                        f"{folder / name}: is not what the study was made with: put it back as it was, or make a new study"
                    )
        except BaseException:
            self.disconnect()
            raise

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens a study, as the constructor does."""
        return cls(folder)

    @classmethod
    def create(
        cls,
        folder: Path,
        plan: StudyPlan,
        texts: Sequence[Text],
        items: Sequence[Item],
        raters: int | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> Self:
        """Makes a study, and returns it open. A kill leaves the whole folder or none.

        Args:
            folder: a new one.
            plan: the plan.
            texts: all texts, with those of checks and training items.
            items: all items.
            raters: codes made at the start; None: as many as the plan says.
            facts: more to be kept about the study, such as the checksums of the models.

        Raises:
            UserError: when the folder is there already, or cannot be made.
        """
        if folder.exists():
            raise UserError(f"{folder}: is there already: name a new folder (--out FOLDER)")
        try:
            building = building_folder(folder)
            building.chmod(0o700)  # `publish` gives the files the same mode, without x
            (building / EXPORTS).mkdir(mode=0o700)
            (building / PLAN).write_text(plan.as_yaml(), encoding="utf-8", newline="\n")
            lines = [json.dumps(asdict(text), ensure_ascii=False) + "\n" for text in texts]
            (building / TEXTS).write_text("".join(lines), encoding="utf-8", newline="\n")
            (building / TOKEN).write_text(secrets.token_urlsafe(32) + "\n", encoding="utf-8")
            known = {name: sha256(building / name) for name in (PLAN, TEXTS)}
            about = {"created": now(), "plan": plan.as_yaml(), **known, **(facts or {})}
            database.create(building / DATABASE, texts, items, about)
            publish(building, folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made: {error.strerror or error}") from None
        study = cls(folder)
        study.invite(plan.raters if raters is None else raters)
        return study

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Closes the database; every answer is on the disk already."""
        self._database.close()

    @property
    def owner_token(self) -> str:
        """Returns the token of the owner's page."""
        return (self.folder / TOKEN).read_text(encoding="utf-8").strip()

    def fact(self, key: str) -> str | None:
        """Returns what is kept about the study under a key; None: nothing."""
        found = self._database.all("SELECT value FROM facts WHERE key = ?", key)
        return found[0]["value"] if found else None

    @property
    def closed(self) -> str | None:
        """Returns the time at which the study was closed; None: it is open."""
        return self.fact("closed")

    def close(self) -> None:
        """Ends the study: it takes no more answers, and its systems may be told."""
        with self._database.writing() as connection:
            connection.execute("INSERT OR IGNORE INTO facts VALUES ('closed', ?)", (now(),))

    # ------------------------------------------------------------------------------------- raters
    def rater(self, code: str) -> Rater | None:
        """Returns the person with a code, in a time that does not tell how much of it is right."""
        found, given = None, code.encode("utf-8", errors="surrogatepass")
        for rater in self.raters():
            if hmac.compare_digest(rater.code.encode(), given) and rater.kind == "person":
                found = rater
        return found

    def raters(self) -> list[Rater]:
        """Returns all raters, in the order in which they were made."""
        return [rater_of(row) for row in self._database.all("SELECT * FROM raters ORDER BY id")]

    def invite(self, count: int = 1) -> list[str]:
        """Makes codes for more people, and returns them.

        Raises:
            UserError: when the study is closed.
        """
        with self._database.writing():
            self._require_open()
            return [self._new_rater("person").code for _ in range(count)]

    def model_rater(self, name: str) -> Rater:
        """Makes a rater that is a model, with its whole order.

        Raises:
            UserError: when the study is closed.
        """
        with self._database.writing():
            self._require_open()
            rater = self._new_rater("model", name)
            self._write_order(rater, model_order(self.plan, list(self.items.values()), rater.id))
            return rater

    def add_imported(
        self, source: str, raters: Mapping[str, Sequence[Imported]], backgrounds: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Adds raters with their answers, all of them or none.

        Args:
            source: a checksum of the file: the same one is not added twice.
            raters: name -> answers, a repetition behind the first time.
            backgrounds: name -> question -> answer.

        Raises:
            UserError: when the study is closed, or has these ratings already.
        """
        with self._database.writing() as connection:
            self._require_open()
            if self.fact(f"imported {source}"):
                raise UserError("these ratings were imported before: nothing was added")
            connection.execute("INSERT INTO facts VALUES (?, ?)", (f"imported {source}", now()))
            for name, answers in raters.items():
                rater = self._new_rater("imported", _storable(name))
                background = json.dumps(backgrounds.get(name, {}), ensure_ascii=False)
                connection.execute("UPDATE raters SET background = ? WHERE id = ?", (background, rater.id))
                first = {one.item: place for place, one in enumerate(answers) if not one.repeat}
                slots = [Slot(one.item, repeat_of=first.get(one.item) if one.repeat else None) for one in answers]
                ids = self._write_order(rater, slots)
                for task, one in zip(ids, answers, strict=True):
                    row = (task, source, one.at or now(), one.seconds, json.dumps(one.value), _storable(one.comment))
                    connection.execute(
                        "INSERT INTO answers(task, key, at, seconds, value, comment) VALUES (?, ?, ?, ?, ?, ?)", row
                    )

    def _new_rater(self, kind: RaterKind, name: str = "") -> Rater:
        code, time = secrets.token_urlsafe(CODE_BYTES), None if kind == "person" else now()
        while code.startswith("-"):  # `rate cli --code` would take it for an option
            code = secrets.token_urlsafe(CODE_BYTES)
        row = self._database.connection.execute(
            "INSERT INTO raters(code, kind, name, consented, background) VALUES (?, ?, ?, ?, '{}') RETURNING *",
            (code, kind, name, time),
        ).fetchone()
        return rater_of(row)

    def consent(self, rater: Rater, background: Mapping[str, str] | None = None) -> Rater:
        """Keeps a rater's consent, at the first time with the order of the tasks.

        Args:
            rater: the rater.
            background: question -> answer; a question that is left out is not answered.

        Raises:
            UserError: when the study is closed, or an answer is none of the options.
        """
        options = {one.name: one.options for one in self.plan.background}
        kept = {name: answer for name, answer in (background or {}).items() if answer}
        for name, answer in kept.items():
            if answer not in options.get(name, ()):
                raise UserError(f"{name!r:.60}: {answer!r:.60}: is no answer to a question of this study")
        with self._database.writing() as connection:
            self._require_open()
            row = connection.execute(
                "UPDATE raters SET consented = coalesce(consented, ?), background = ? WHERE id = ? RETURNING *",
                (now(), json.dumps(kept, ensure_ascii=False), rater.id),
            ).fetchone()
            self._give_order(rater)
        return rater_of(row)

    def _give_order(self, rater: Rater) -> None:
        """Gives a person an order, unless there is one.

        What raters who seem to have stopped have not answered is given to this one, too. Where
        every item is with somebody, those that are not answered yet are given once more.
        """
        if self._database.all("SELECT 1 FROM tasks WHERE rater = ? LIMIT 1", rater.id):
            return
        for idle in (IDLE, timedelta(minutes=-1)):
            slots = order(self.plan, list(self.items.values()), self._conditions(), rater.id, self._loads(idle))
            if slots:
                self._write_order(rater, slots)
                return

    def _write_order(self, rater: Rater, slots: Sequence[Slot]) -> list[int]:
        """Writes a rater's order, and returns the ids of the tasks."""
        ids: list[int] = []
        for position, slot in enumerate(slots):
            # Drawn at random, so that the number of a task tells nothing of its place among all
            ids.append(secrets.randbits(52))
            again = None if slot.repeat_of is None else ids[slot.repeat_of]
            row = (ids[-1], rater.id, position, slot.item, int(slot.swapped), again)
            self._database.connection.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?)", row)
        return ids

    def _conditions(self) -> dict[int, Any]:
        return {item.id: self._systems(item) for item in self.items.values() if item.kind == "rated"}

    def _systems(self, item: Item) -> tuple[str, ...]:
        return tuple(self.texts[text].system for text in (item.first, item.second) if text is not None)

    def _loads(self, idle: timedelta) -> dict[int, Load]:
        """Returns what each item has had of people, or is to have of those who were here lately."""
        since = (datetime.now(UTC) - idle).isoformat(timespec="seconds")
        rows = self._database.all(
            """
            WITH seen(rater, at) AS (
                SELECT raters.id, max(raters.consented, coalesce(max(answers.at), '')) FROM raters
                LEFT JOIN tasks ON tasks.rater = raters.id LEFT JOIN answers ON answers.task = tasks.id
                WHERE raters.kind = 'person' GROUP BY raters.id
            )
            SELECT tasks.item, tasks.swapped FROM tasks JOIN seen ON seen.rater = tasks.rater
            WHERE tasks.repeat_of IS NULL
            AND (seen.at >= ? OR EXISTS (SELECT 1 FROM answers WHERE answers.task = tasks.id))
            """,
            since,
        )
        counts = Counter(row["item"] for row in rows)
        swapped = Counter(row["item"] for row in rows if row["swapped"])
        return {item: Load(count, 2 * swapped[item] - count) for item, count in counts.items()}

    # ------------------------------------------------------------------------------------ answers
    def tasks(self, rater: Rater) -> list[Task]:
        """Returns a rater's tasks in order, with the newest answers; [] before consent."""
        found = []
        for row in self._database.all(f"{TASKS} WHERE tasks.rater = ? ORDER BY tasks.position", rater.id):
            item = self.items[row["item"]]
            texts = [self.texts[text] for text in (item.first, item.second) if text is not None]
            if row["swapped"]:
                texts.reverse()
            found.append(
                Task(
                    id=str(row["id"]),
                    position=row["position"],
                    kind="training" if item.kind == "training" else "rated",
                    given=texts[0].given,
                    texts=[text.continuation for text in texts],
                    answer=None if row["value"] is None else as_shown(json.loads(row["value"]), row["swapped"]),
                    comment=row["comment"] or "",
                )
            )
        return found

    def answer(
        self, rater: Rater, task: str, value: Any, comment: str = "", seconds: float | None = None, key: str = ""
    ) -> Feedback | None:
        """Keeps an answer, which is on the disk when this returns.

        Args:
            rater: whose task it is.
            task: its id.
            value: as shown (`records.Task.answer`).
            comment: a text.
            seconds: that the rater took; None: not known.
            key: of the request: the same key again changes nothing. "": a new one.

        Returns:
            the feedback of a training item, else None.

        Raises:
            UserError: when the study is closed, the task is not this rater's, or the value does not
                fit; nothing is kept then.
        """
        for name, text, most in (("comment", comment, MAX_COMMENT), ("key", key, MAX_KEY)):
            if not isinstance(text, str) or len(text) > most:
                raise UserError(f"{name}: must be a text of at most {most:,} characters")
        with self._database.writing() as connection:
            self._require_open()
            tasks = self._database.all("SELECT * FROM tasks WHERE rater = ?", rater.id)
            row = next((row for row in tasks if str(row["id"]) == task), None)
            if row is None:
                raise UserError("task: this rater has no such task")
            item = self.items[row["item"]]
            kept = as_kept(checked(self.plan, value, item), row["swapped"])
            connection.execute(
                "INSERT OR IGNORE INTO answers(task, key, at, seconds, value, comment) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    row["id"],
                    _storable(key) or secrets.token_urlsafe(9),
                    now(),
                    _duration(seconds),
                    json.dumps(kept),
                    _storable(comment),
                ),
            )
            connection.execute(
                """
                UPDATE raters SET finished = ? WHERE id = ? AND finished IS NULL AND NOT EXISTS (
                    SELECT 1 FROM tasks WHERE rater = raters.id
                    AND NOT EXISTS (SELECT 1 FROM answers WHERE answers.task = tasks.id)
                )
                """,
                (now(), rater.id),
            )
        if item.kind != "training":
            return None
        expected = item.expected or {}
        return Feedback(agrees=agrees(kept, expected), text=item.feedback, expected=as_shown(expected, row["swapped"]))

    # ------------------------------------------------------------------------------------ results
    def progress(self) -> list[Progress]:
        """Returns how far every rater is."""
        rows = self._database.all(
            """
            SELECT raters.*, count(DISTINCT tasks.id) AS total, count(DISTINCT answers.task) AS answered,
            max(answers.at) AS last FROM raters LEFT JOIN tasks ON tasks.rater = raters.id
            LEFT JOIN answers ON answers.task = tasks.id GROUP BY raters.id ORDER BY raters.id
            """
        )
        same = ("kind", "name", "answered", "total", "last", "finished")
        return [Progress(code=row["code"][-4:], **{key: row[key] for key in same}) for row in rows]

    def ratings(self) -> list[Rating]:
        """Returns the newest answers to all questions of a study of scales, by rater and place."""
        if self.plan.design != "scales":
            return []
        return [
            Rating(**about, system=self._systems(self.items[row["item"]])[0], question=question, value=value)
            for row, about in self._answered("rated")
            for question, value in json.loads(row["value"]).items()
        ]

    def preferences(self) -> list[Preference]:
        """Returns the newest answers to all pairs, by rater and place.

        A model sees every pair twice, swapped. Its first row has the mean of the two: the winner of
        both, else a tie. Its second row, marked as a repetition, has the second answer alone.
        """
        if self.plan.design != "pairs":
            return []
        found = []
        for row, about in self._answered("rated"):
            first, second = self._systems(self.items[row["item"]])
            shown_left: Side = "second" if row["swapped"] else "first"
            winner = json.loads(row["value"])["preference"]
            found.append(Preference(**about, first=first, second=second, winner=winner, shown_left=shown_left))
        again = {(row.rater, row.item): row.winner for row in found if row.rater_kind == "model" and row.repeat}
        return [
            replace(row, winner=mean_winner(row.winner, again.get((row.rater, row.item))))
            if row.rater_kind == "model" and not row.repeat
            else row
            for row in found
        ]

    def checks(self) -> list[Check]:
        """Returns whether raters answered the attention checks as these asked them to."""
        same = ("rater", "rater_kind", "item", "seconds")
        return [
            Check(
                **{key: about[key] for key in same},
                passed=agrees(json.loads(row["value"]), self.items[row["item"]].expected or {}),
            )
            for row, about in self._answered("check")
        ]

    def _answered(self, kind: str) -> Iterator[tuple[sqlite3.Row, dict[str, Any]]]:
        """Yields the newest answers to items of a kind, and what all records have of them."""
        raters = {rater.id: rater for rater in self.raters()}
        rows = self._database.all(f"{TASKS} WHERE answers.id IS NOT NULL ORDER BY tasks.rater, tasks.position")
        for row in rows:
            item, rater = self.items[row["item"]], raters[row["rater"]]
            if item.kind == kind:
                about: dict[str, Any] = {
                    "rater": rater.id,
                    "rater_kind": rater.kind,
                    "item": item.id,
                    "prompt": item.prompt,
                }
                about |= {"repeat": row["repeat_of"] is not None, "background": rater.background}
                about |= {key: row[key] for key in ("position", "at", "comment")}
                yield row, about | {"seconds": math.nan if row["seconds"] is None else row["seconds"]}

    def _require_open(self) -> None:
        if self.closed:
            raise UserError("this study is closed: it takes no more answers")


def _duration(seconds: Any) -> float | None:
    """Returns a duration that a client told, within reason; None where it is no number."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds != seconds:  # NaN
        return None
    return float(min(max(seconds, 0), MAX_SECONDS))


def _storable(text: str) -> str:
    """Returns a text without lone surrogates, which no database takes."""
    return text.encode("utf-8", errors="replace").decode()
