"""Loggers that hold each point once and in order, also after kills, resumes and clock changes.

All points are on the disk before a checkpoint is saved. A resumed run first removes the points
after its checkpoint.
"""

import csv
import io
import logging
import math
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import lightning
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams

from llm_from_scratch.config import Config, leaves
from llm_from_scratch.errors import UserError, missing_extra
from llm_from_scratch.files import BUILDING, sync, write_file
from llm_from_scratch.pages import as_markdown
from llm_from_scratch.run import append_row
from llm_from_scratch.training.trackers import Mlflow, Point, Wandb, make_mlflow, make_wandb

log = logging.getLogger(__name__)
EVENTS = "events.out.tfevents."
# The file of merged events, which sorts before those of any process (named by their start time)
HISTORY = f"{EVENTS}0000000000.history"


def make_logger(
    name: str, settings: Mapping[str, Any], run_dir: Path, resumed_from: int | None, run_id: str = ""
) -> Logger:
    """Builds one of the loggers of `config.LOGGERS`.

    Args:
        name: tensorboard, csv, wandb or mlflow.
        settings: the logger's settings.
        run_dir: the run folder.
        resumed_from: the step of the checkpoint that a run resumes from; None for a new run.
        run_id: the id of the run in a tracker.

    Raises:
        UserError: when the logger does not take a setting, or is not installed.
    """
    check_settings(name, settings)
    if name == "tensorboard":
        return TensorBoard(run_dir, resumed_from, **settings)
    if name == "csv":
        return Csv(run_dir, **settings)
    return (make_wandb if name == "wandb" else make_mlflow)(run_dir, settings, run_id)


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Checks the settings of one of the loggers of `config.LOGGERS`.

    Raises:
        UserError: when the logger does not take a setting or its value; when its library is not
            installed.
    """
    known = {"tensorboard": ("flush_secs", "max_queue"), "csv": ("every_n_rows",)}.get(name)
    if known is None:
        own = [key for key in ("id", "run_id", "save_dir", "dir", "version", "resume") if key in settings]
        if own:
            raise UserError(f"logger.{name}.{own[0]}: a run sets this itself: leave it out")
        if find_spec(name) is None:
            raise missing_extra(f"logger={name} needs", name)
        return
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"logger.{name}.{key}: there is no such setting; it has {', '.join(known)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"logger.{name}.{key}={value}: must be a whole number above 0")


def flush(loggers: Sequence[Logger]) -> None:
    """Writes all points logged up to a checkpoint to the disk.

    A run that resumes from the checkpoint does not log them again.
    """
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.save()
        else:  # its `save` would write hparams.yaml, which is filled at the end of a run
            logger.experiment.flush()
            for path in Path(logger.log_dir).glob(f"{EVENTS}*"):
                sync(path)


def rewind(loggers: Sequence[Logger], step: int, points: Sequence[Point]) -> None:
    """Makes each logger hold the points up to the checkpoint of `step`, and each of them once.

    A log in the run folder removes later points; a tracker keeps them, and skips them when they
    come again. A logger of the user's may have a method `rewind(step)`, too.

    Args:
        loggers: the loggers of the run.
        step: the step of the checkpoint.
        points: all that the run has logged up to that step.
    """
    for logger in loggers:
        if isinstance(logger, Wandb | Mlflow):
            logger.replay(points)
        elif callable(getattr(logger, "rewind", None)):
            logger.rewind(step)  # type: ignore[attr-defined]


class TensorBoard(TensorBoardLogger):
    """The TensorBoard log of a run, in `tensorboard/` of the run folder.

    TensorBoard reads the event files of a folder in the order of their names, which begin with a
    timestamp. So `rewind` merges the files of earlier processes into one, which holds each point
    once and whose name sorts first.
    """

    # One chart of both losses on the page "Custom Scalars"; on other pages each name has a chart.
    LAYOUT: ClassVar = {"loss": {"training and validation (nats a token)": ["Multiline", ["train/loss", "val/loss"]]}}

    def __init__(self, run_dir: Path, resumed_from: int | None, **settings: int) -> None:
        # A running TensorBoard has already read the points after the checkpoint: an event with
        # `purge_step` makes it drop them.
        purge = None if resumed_from is None else resumed_from + 1
        options: dict[str, Any] = {"purge_step": purge, **settings}
        super().__init__(run_dir, name="", version="tensorboard", **options)
        self.earlier = sorted((run_dir / "tensorboard").glob(f"{EVENTS}*"))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a point to each curve, except Lightning's `epoch`: the sampler has no epochs."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    @rank_zero_only
    def log_layout(self) -> None:
        """Defines the chart that shows training and validation loss together."""
        self.experiment.add_custom_scalars(self.LAYOUT)

    @rank_zero_only
    def log_row(self, columns: Mapping[str, Any], step: int) -> None:
        """Writes this run's row of the hyper-parameter table (HPARAMS).

        Args:
            columns: numbers and texts by their names.
            step: a step after the last one. A resumed run drops what is after its checkpoint, so
                the table keeps one row.
        """
        self.hparams = dict(columns)
        writer = self.experiment._get_file_writer()
        shown = [name for name in MEASURES if f"best {name}" in self.hparams]
        for summary in hparams(self.hparams, {f"val/{name}": 0.0 for name in shown}):
            writer.add_summary(summary, step)

    @rank_zero_only
    def log_sample(self, text: str, step: int) -> None:
        """Logs a generated text, as Markdown with line breaks."""
        self.experiment.add_text("sample", paragraphs(text), step)

    @rank_zero_only
    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Logs an image (height, width, 3) of bytes."""
        self.experiment.add_image(name, image, step, dataformats="HWC")

    @rank_zero_only
    def save(self) -> None:
        """Calls Lightning's `save`, but only once `log_row` has set the hyper-parameters.

        Lightning writes hparams.yaml only at its first call.
        """
        if self.hparams:
            super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flushes the event file after training; any other status than "success" also closes it.

        It stays open for the row that `log_row` adds: a second file would sort before the first
        where the clock was set back.
        """
        if status == "success":
            self.experiment.flush()
            self.save()
        else:
            super().finalize(status)

    def rewind(self, step: int) -> None:
        """Merges the event files of earlier processes into one file of the points up to `step`."""
        _remove_leftovers(Path(self.log_dir))
        if not self.earlier:
            return
        points: dict[tuple[int, tuple[str, ...]], Event] = {}
        for event in (event for path in self.earlier for event in _events(path)):
            tags = tuple(value.tag for value in event.summary.value)
            # The row of the hyper-parameter table is written again when the run ends.
            if tags and event.step <= step and not tags[0].startswith("_hparams_"):
                points.setdefault((event.step, tags), event)
        content = io.BytesIO()
        writer = RecordWriter(content)
        last = time.time()
        events = sorted(points.values(), key=lambda event: event.step)
        for event in reversed(events):  # times rise with the steps, also where a clock was set back
            event.wall_time = last = min(event.wall_time, last)
        for event in (Event(wall_time=last, file_version="brain.Event:2"), *events):
            writer.write(event.SerializeToString())
        history = Path(self.log_dir) / HISTORY
        # TensorBoard would read an incomplete file, too, where its name contains tfevents
        whole = history.with_name("history")
        write_file(whole, content.getvalue())
        whole.replace(history)
        sync(history.parent)
        for path in self.earlier:
            if path != history:
                path.unlink(missing_ok=True)


def paragraphs(text: str) -> str:
    """Returns text as Markdown that the browser wraps at the page's width.

    TensorBoard keeps the line ends within a paragraph; Markdown's own line breaks would double
    them.
    """
    return "\n".join(as_markdown(line) if line.strip() else "&nbsp;" for line in text.splitlines())


def _remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of writes that a kill interrupted."""
    for path in folder.glob(f"{BUILDING}*"):
        path.unlink(missing_ok=True)


def _events(path: Path) -> Iterator[Event]:
    """Yields the events of an event file, up to a record that a kill cut off.

    A record with a wrong checksum is skipped with a warning; a damaged header ends the reading.
    """
    content, place = path.read_bytes(), 0
    while place + 12 <= len(content):
        header = content[place : place + 8]
        (length,) = struct.unpack("<Q", header)
        if content[place + 8 : place + 12] != struct.pack("<I", masked_crc32c(header)):
            log.warning("%s: damaged at byte %d: the points behind it are lost", path, place)
            return
        record = content[place + 12 : place + 12 + length]
        checksum = content[place + 12 + length : place + 16 + length]
        if len(checksum) < 4:
            return
        if checksum == struct.pack("<I", masked_crc32c(record)):
            yield Event.FromString(record)
        else:
            log.warning("%s: damaged at byte %d: one point is lost", path, place)
        place += 16 + length


class Csv(Logger):
    """A CSV log, `csv/version_0/metrics.csv`: a row per call of `log_metrics`, a column per name.

    Lightning's own CSV logger deletes its file when a run is resumed, and loses its last rows when
    the process is killed.
    """

    def __init__(self, run_dir: Path, every_n_rows: int = 100) -> None:
        super().__init__()
        self.path, self.every_n_rows = run_dir / "csv" / "version_0" / "metrics.csv", every_n_rows
        self.rows: list[dict[str, Any]] = []  # waiting to be written
        self.columns: list[str] | None = None  # of the file; None before it is read

    @property
    def name(self) -> str:
        """Returns the logger's name, always "csv": Lightning's `Logger` requires the property."""
        return "csv"

    @property
    def version(self) -> str:
        """Returns "version_0", as in the path of the file: Lightning requires the property."""
        return "version_0"

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the settings are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds one row; writes the waiting rows once they are `every_n_rows`."""
        # The sampler has no epochs
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        self.rows.append(values | {"step": step})
        if len(self.rows) >= self.every_n_rows:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Writes the waiting rows durably: it appends them.

        Where a column is new, it writes the whole file.
        """
        if not self.rows:
            return
        if self.columns is None:
            self.columns = sorted({name for row in self._read() for name in row})
        columns = sorted({*self.columns, *(name for row in self.rows for name in row)})
        if columns != self.columns:
            self._write(columns, [*self._read(), *self.rows])
        else:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, columns).writerows(self.rows)
            sync(self.path)
        self.rows, self.columns = [], columns

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the waiting rows."""
        self.save()

    def rewind(self, step: int) -> None:
        """Keeps the rows up to `step`, and removes all others from the file."""
        _remove_leftovers(self.path.parent)
        if self.path.exists():
            kept = [row for row in self._read() if re.fullmatch(r"\d+", row["step"]) and int(row["step"]) <= step]
            columns = sorted({name for row in kept for name in row} | {"step"})
            self._write(columns, kept)
            self.columns = columns

    def _read(self) -> list[dict[str, str]]:
        """Returns the intact rows of the file; a kill may have cut off the last one."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        return [row for row in csv.DictReader(whole) if "step" in row and None not in row and None not in row.values()]

    def _write(self, columns: list[str], rows: Sequence[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, text.getvalue())


class UserRows(Logger):
    """The values that `self.log` logs, written as rows of metrics.jsonl with the split "user"."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.path = run_dir / "metrics.jsonl"

    @property
    def name(self) -> str:
        """Returns the logger's name, always "user": Lightning's `Logger` requires the property."""
        return "user"

    @property
    def version(self) -> str:
        """Returns the run's version, always "": Lightning's `Logger` requires the property."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the settings are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends one row to metrics.jsonl; NaN and infinite values become null."""
        values = {name: float(value) for name, value in metrics.items() if name not in ("epoch", "step", "split")}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        append_row(self.path, {"step": step, "split": "user"} | finite)


@rank_zero_only
def open_loggers(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> None:
    """Logs the settings at the start of a run; TensorBoard gets its chart layout instead."""
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.log_layout()
        else:
            logger.log_hyperparams(dict(settings))


# The first columns of TensorBoard's hyper-parameter table; settings that differ from their defaults
# follow.
COLUMNS = (
    *("optim.lr", "optim.weight_decay", "data.batch_size", "model.n_layer", "model.n_embd", "model.n_head"),
    *("model.block_size", "model.dropout", "tokenizer.vocab_size", "trainer.max_steps", "seed"),
)

# Measures of a validation in the table; a run has those of its loss.
MEASURES = ("bits_per_byte", "accuracy", "margin", "loss")
# Settings that are paths, addresses or checksums, which are left out of the table.
PLACES = ("run_dir", "data.dir", "data.file", "data.url", "data.sha256", "data.must_contain", "data.published")


def columns(config: Config, parameters: int, best: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of the hyper-parameter table: best validation, model size, settings.

    The best validation is logged as settings: as a metric it would add a curve of one point to the
    charts.
    """
    settings, defaults = plain_settings(config), dict(leaves(Config()))
    first = {f"best {name}": best[name] for name in (*MEASURES, "step") if name in best} | {"parameters": parameters}
    first |= {name: settings[name] for name in COLUMNS if name in settings}
    others = {name: value for name, value in settings.items() if name not in first and value != defaults[name]}
    return first | {name: value for name, value in others.items() if name not in PLACES}


def plain_settings(config: Config) -> dict[str, Any]:
    """Returns every setting that is one number or text, by its dotted name."""
    return {key: value for key, value in leaves(config) if isinstance(value, int | float | str)}


def log_hyperparameters(trainer: lightning.Trainer, config: Config, parameters: int, best: dict[str, Any]) -> None:
    """Logs the best validation to TensorBoard (with the settings) and trackers; closes all."""
    found = {f"best/{name}": best[name] for name in (*MEASURES, "perplexity") if name in best}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            logger.log_row(columns(config, parameters, best), trainer.global_step + 1)
        elif isinstance(logger, Wandb):
            logger.log_hyperparams(found)
        elif isinstance(logger, Mlflow):
            logger.log_metrics(found, step=trainer.global_step)
        logger.finalize("success")
        if isinstance(logger, TensorBoard):
            logger.finalize("closed")
