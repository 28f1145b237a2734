"""The SQLite database of a study: its tables, and transactions of threads and processes.

Answers are appended, never changed; the newest of a task counts. A commit is on the disk (WAL,
synchronous=FULL) when it returns.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

from llm_from_scratch.errors import MachineError, UserError, message_of
from llm_from_scratch.rating.records import Item, Rater, Text

VERSION = 1
WAIT_SECONDS = 20.0  # for another process that writes
SCHEMA = """
CREATE TABLE facts(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE texts(
    id INTEGER PRIMARY KEY, prompt INTEGER NOT NULL, system TEXT NOT NULL, given TEXT NOT NULL,
    continuation TEXT NOT NULL, seed INTEGER NOT NULL
);
CREATE TABLE items(
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, prompt INTEGER NOT NULL,
    first INTEGER NOT NULL REFERENCES texts(id), second INTEGER REFERENCES texts(id),
    expected TEXT, feedback TEXT NOT NULL
);
CREATE TABLE raters(
    id INTEGER PRIMARY KEY, code TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, name TEXT NOT NULL,
    consented TEXT, background TEXT NOT NULL, finished TEXT
);
CREATE TABLE tasks(
    id INTEGER PRIMARY KEY, rater INTEGER NOT NULL REFERENCES raters(id), position INTEGER NOT NULL,
    item INTEGER NOT NULL REFERENCES items(id), swapped INTEGER NOT NULL,
    repeat_of INTEGER REFERENCES tasks(id), UNIQUE(rater, position)
);
CREATE TABLE answers(
    id INTEGER PRIMARY KEY, task INTEGER NOT NULL REFERENCES tasks(id), key TEXT NOT NULL, at TEXT NOT NULL,
    seconds REAL, value TEXT NOT NULL, comment TEXT NOT NULL, UNIQUE(task, key)
);
CREATE TRIGGER answers_are_not_changed BEFORE UPDATE ON answers BEGIN SELECT RAISE(ABORT, 'answers are kept'); END;
CREATE TRIGGER answers_are_not_removed BEFORE DELETE ON answers BEGIN SELECT RAISE(ABORT, 'answers are kept'); END;
"""
# Every task, with its newest answer where it has one.
TASKS = (
    "SELECT tasks.*, answers.at, answers.seconds, answers.value, answers.comment FROM tasks LEFT JOIN answers"
    " ON answers.id = (SELECT max(id) FROM answers WHERE answers.task = tasks.id)"
)


class Database:
    """A connection that several threads use in turn, beside other processes."""

    def __init__(self, path: Path) -> None:
        """Opens the database of a study.

        Raises:
            UserError: when it is none, or another version's.
        """
        self.path, self.lock = path, threading.RLock()
        try:
            self.connection = _connect(path)
            version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise UserError(f"{path}: is no database of a study: {message_of(error, 200)}") from None
        if version != VERSION:
            self.connection.close()
            raise UserError(f"{path}: has version {version} of a study's database; this program reads {VERSION}")

    def all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Returns all rows of a query."""
        with self.lock, self._told():
            return self.connection.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Runs the body as one transaction; where it fails, nothing of it is kept."""
        with self.lock, self._told():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tells a full disk, a lock that does not end and a damaged file in one line."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise MachineError(f"{self.path}: {message_of(error, 200)}; what was confirmed is kept") from None
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: is damaged: {message_of(error, 200)}: put a copy in its place") from None

    def close(self) -> None:
        """Closes the connection."""
        with self.lock:
            self.connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def create(path: Path, texts: Sequence[Text], items: Sequence[Item], facts: Mapping[str, str]) -> None:
    """Makes the database of a new study, without raters."""
    with closing(_connect(path)) as connection:
        connection.executescript(SCHEMA)
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
        connection.executemany("INSERT INTO texts VALUES (?, ?, ?, ?, ?, ?)", map(astuple, texts))
        for item in items:
            expected = None if item.expected is None else json.dumps(item.expected)
            row = (item.id, item.kind, item.prompt, item.first, item.second, expected, item.feedback)
            connection.execute("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute("COMMIT")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def item_of(row: sqlite3.Row) -> Item:
    """Returns the item of a row."""
    return Item(**{**dict(row), "expected": json.loads(row["expected"]) if row["expected"] else None})


def rater_of(row: sqlite3.Row) -> Rater:
    """Returns the rater of a row."""
    return Rater(**{**dict(row), "background": json.loads(row["background"])})
