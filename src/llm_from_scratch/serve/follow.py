"""A run folder that a training writes: its rows, its samples and its state, as they come.

    metrics.jsonl, samples.md                           rows, samples
    timing.jsonl, config.yaml, .lock, curves.png        state: step, speed, time left, running

A resumed run cuts its rows and samples back to its checkpoint, and writes the later ones again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from llm_from_scratch.config import Config
from llm_from_scratch.data.sampler import sequences_before
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import open_regular, refuse_links
from llm_from_scratch.pace import Pace
from llm_from_scratch.run import RunFolder, is_training, line_checksum, line_checksums, parse_row, parse_samples

TAIL = 64  # bytes before the place that was read last: other ones there are another file
RECENT = 50  # rows of timing.jsonl that the time left follows from
T = TypeVar("T")


class Row(NamedTuple):
    """A row of a .jsonl file: its step, and the row as JSON, which has no NaN."""

    step: int
    json: str


class Sample(NamedTuple):
    """A text of samples.md."""

    step: int
    text: str


@dataclass(frozen=True)
class Change:
    """A difference between two looks at a run folder.

    Attributes:
        cut: rows and samples of later steps are gone, and come again in this change where they are
            there still; None: none are gone.
        rows: new rows of metrics.jsonl.
        samples: new samples; one of a step that had a sample replaces it.
        state: see `FollowedRun.state`.
    """

    cut: int | None
    rows: list[Row]
    samples: list[Sample]
    state: dict[str, Any]


class _GrowingFile:
    """A file that grows, and that may be replaced, cut or deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity: tuple[int, int] | None = None
        self.place, self.tail = 0, b""

    def read(self) -> tuple[bool, bytes]:
        """Returns whether the file is another one than before, and its whole lines since then."""
        try:
            refuse_links(self.path, self.path.parent)
            with open_regular(self.path) as file:
                status = os.fstat(file.fileno())
                identity, before = (status.st_dev, status.st_ino), self.identity
                file.seek(self.place - len(self.tail))
                # A new file may have the number of one that was deleted.
                another = identity != before or file.read(len(self.tail)) != self.tail
                if another:
                    self.place, self.tail = 0, b""
                    file.seek(0)
                content = file.read()
        except (OSError, UserError):
            another, self.identity = self.identity is not None, None
            self.place, self.tail = 0, b""
            return another, b""
        lines = content[: content.rfind(b"\n") + 1]
        self.identity, self.place = identity, self.place + len(lines)
        self.tail = (self.tail + lines)[-TAIL:]
        return another, lines


class _Rows:
    """The intact rows of a .jsonl file, each compared with its checksum in the file beside it."""

    def __init__(self, path: Path) -> None:
        self.file, self.sums = _GrowingFile(path), _GrowingFile(line_checksums(path))
        self.checksums: set[bytes] = set()
        self.rows: list[Row] = []

    def read(self) -> tuple[list[Row], list[Row]]:
        """Returns the rows that are gone, and those that have come."""
        another, lines = self.file.read()
        if lines:  # a checksum is written before its row
            self.checksums.update(self.sums.read()[1].split())
        new = [row for line in lines.splitlines() for row in self._intact(line)]
        if not another:
            self.rows += new
            return [], new
        old, self.rows = self.rows, new
        same = _same_start(old, new)
        return old[same:], new[same:]

    def _intact(self, line: bytes) -> Sequence[Row]:
        row = parse_row(line)
        if row is None or (self.checksums and line_checksum(line).encode() not in self.checksums):
            return ()
        try:
            return (Row(row["step"], json.dumps(row, allow_nan=False, separators=(",", ":"))),)
        except ValueError:  # NaN: no row that a training writes
            return ()


class _Samples:
    """The samples of a samples.md."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: tuple[int, ...] | None = None
        self.samples: list[Sample] = []

    def read(self) -> tuple[list[Sample], list[Sample]]:
        """Returns the samples that are gone, and those that have come or have changed."""
        try:
            refuse_links(self.path, self.path.parent)
            with open_regular(self.path) as file:
                seen = _version(os.fstat(file.fileno()))
                if seen == self.seen:
                    return [], []
                found, _ = parse_samples(file.read())
        except (OSError, UserError):
            seen, found = None, []
        old, self.seen = self.samples, seen
        self.samples = [Sample(step, shown(text)) for step, text in found]
        same = _same_start(old, self.samples)
        steps = {sample.step for sample in self.samples}
        return [sample for sample in old if sample.step not in steps], self.samples[same:]


def shown(quoted: str) -> str:
    """Returns the text of a sample, which samples.md indents by four blanks."""
    return "\n".join(line.removeprefix("    ") for line in quoted.strip("\n").split("\n"))


class FollowedRun:
    """A run folder, which need not exist yet, at each look.

    Attributes:
        rows: the rows of metrics.jsonl at the last look.
        samples: the samples at the last look.
        state: `there` (the folder exists), `step` (of the last row), `max_steps` (None: unknown),
            `running` (a training runs there now), `ended` (its results are written),
            `tokens_per_second` and `tokens_seen` (None: unknown), `seconds_left` (None: unknown or
            not running).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics, self._timing = _Rows(path / "metrics.jsonl"), _Rows(path / "timing.jsonl")
        self._samples = _Samples(path / "samples.md")
        self._config: tuple[tuple[int, ...], Config | None] | None = None
        self.state: dict[str, Any] = {}

    @property
    def rows(self) -> list[Row]:
        """The rows of metrics.jsonl at the last look."""
        return self._metrics.rows

    @property
    def samples(self) -> list[Sample]:
        """The samples at the last look."""
        return self._samples.samples

    def look(self) -> Change | None:
        """Returns what has changed since the last look; None: nothing."""
        gone, rows = self._metrics.read()
        gone_samples, samples = self._samples.read()
        self._timing.read()
        steps = [*(row.step for row in gone), *(sample.step for sample in gone_samples)]
        cut = min(steps) - 1 if steps else None
        if cut is not None:
            rows = [row for row in self.rows if row.step > cut]
            samples = [sample for sample in self.samples if sample.step > cut]
        before, self.state = self.state, self._state()
        if cut is None and not rows and not samples and self.state == before:
            return None
        return Change(cut, rows, samples, self.state)

    def _state(self) -> dict[str, Any]:
        step, config, running = self.rows[-1].step if self.rows else 0, self._settings(), is_training(self.path)
        timing = [json.loads(row.json) for row in self._timing.rows[-2 * RECENT :]]
        latest: dict[str, Any] = next((row for row in reversed(timing) if "tokens_per_second" in row), {})
        return {
            "there": self.path.is_dir(),
            "step": step,
            "max_steps": config.trainer.max_steps if config else None,
            "running": running,
            "ended": not running and (self.path / "curves.png").exists(),
            "tokens_per_second": latest.get("tokens_per_second"),
            "tokens_seen": latest.get("tokens_seen"),
            "seconds_left": _seconds_left(config, step, timing) if config and running else None,
        }

    def _settings(self) -> Config | None:
        """Returns the settings of config.yaml; None where it is missing or damaged."""
        try:
            version = _version((self.path / "config.yaml").stat())
        except OSError:
            return None
        if self._config is None or self._config[0] != version:
            try:
                self._config = version, RunFolder(self.path).config()
            except (OSError, UserError):
                self._config = version, None
        return self._config[1]


def _seconds_left(config: Config, step: int, timing: Sequence[dict[str, Any]]) -> float | None:
    """Returns the estimated seconds to the last step, from recent rows; None: too few of them."""
    data, trainer = config.data, config.trainer
    pace = Pace(
        lambda at: sequences_before(at, data.batch_size, data.batch_schedule),
        trainer.max_steps,
        trainer.val_check_interval,
    )
    try:
        for before, row in pairwise(row for row in timing if "seconds" in row):
            pace.trained(before["step"], row["step"], float(row["seconds"]))
        for row in timing:
            if "validation_seconds" in row:
                pace.validated(float(row["validation_seconds"]))
    except (TypeError, ValueError):  # not this project's rows
        return None
    return round(pace.left(step), 1) if pace.rows else None


def _version(status: os.stat_result) -> tuple[int, ...]:
    """Returns numbers that change with the content of a file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _same_start(old: Sequence[T], new: Sequence[T]) -> int:
    """Returns how many items from the first one are equal."""
    for place, (a, b) in enumerate(zip(old, new, strict=False)):
        if a != b:
            return place
    return min(len(old), len(new))
