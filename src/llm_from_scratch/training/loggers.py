"""Loggers whose points come once and in order, for any kills of a run and clocks of machines.

Before a checkpoint all points go to the disk; a resumed run drops the points behind its checkpoint.
"""

import csv
import io
import logging
import math
import os
import re
import secrets
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import lightning
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams

from llm_from_scratch.config import Config, leaves
from llm_from_scratch.errors import UserError, first_line, missing_extra
from llm_from_scratch.files import BUILDING, sync, write_file
from llm_from_scratch.pages import as_markdown
from llm_from_scratch.run import append_row
from llm_from_scratch.training.internals import is_open

log = logging.getLogger(__name__)
EVENTS = "events.out.tfevents."
# Sorts before the file of any process, whose names begin with the time
HISTORY = f"{EVENTS}0000000000.history"


def make_logger(name: str, settings: Mapping[str, Any], run_dir: Path, resumed_from: int | None) -> Logger:
    """One of the loggers of `config.LOGGERS`.

    Raises:
        UserError: it does not take its settings, or is not installed.
    """
    check_settings(name, settings)
    if name == "tensorboard":
        return TensorBoard(run_dir, resumed_from, **settings)
    if name == "csv":
        return Csv(run_dir, **settings)
    return _wandb(run_dir, settings)


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Refuses settings that one of the loggers of `config.LOGGERS` does not take.

    Raises:
        UserError: in one line.
    """
    known = {"tensorboard": ("flush_secs", "max_queue"), "csv": ("every_n_rows",)}.get(name)
    if known is None:
        own = [key for key in ("id", "save_dir", "dir", "version", "resume") if key in settings]
        if own:
            raise UserError(f"logger.{name}.{own[0]}: a run sets this itself: leave it out")
        if find_spec("wandb") is None:
            raise missing_extra("logger=wandb needs", "wandb")
        return
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"logger.{name}.{key}: there is no such setting; it has {', '.join(known)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"logger.{name}.{key}={value}: must be a whole number above 0")


def flush(loggers: Sequence[Logger]) -> None:
    """Writes all points up to a checkpoint to the disk: they do not come again."""
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.save()
        else:  # its `save` would write hparams.yaml, which the end of a run fills
            logger.experiment.flush()
            for path in Path(logger.log_dir).glob(f"{EVENTS}*"):
                sync(path)


def rewind(loggers: Sequence[Logger], step: int) -> None:
    """Drops the points behind the checkpoint of this step: they come again."""
    for logger in loggers:
        if isinstance(logger, TensorBoard | Csv):
            logger.rewind(step)


class TensorBoard(TensorBoardLogger):
    """TensorBoard's curves and texts, in `tensorboard/` of the run folder.

    TensorBoard reads the files of a folder in the order of their names, which begin with the time.
    So the files of earlier processes become one, which has every point once and whose name comes
    before all others.
    """

    # One chart of both losses, on the page "Custom Scalars"; elsewhere each name has its own.
    LAYOUT: ClassVar = {"loss": {"training and validation (nats a token)": ["Multiline", ["train/loss", "val/loss"]]}}

    def __init__(self, run_dir: Path, resumed_from: int | None, **settings: int) -> None:
        # A running TensorBoard has read the points behind the checkpoint: the start event drops
        # them.
        purge = None if resumed_from is None else resumed_from + 1
        options: dict[str, Any] = {"purge_step": purge, **settings}
        super().__init__(run_dir, name="", version="tensorboard", **options)
        self.earlier = sorted((run_dir / "tensorboard").glob(f"{EVENTS}*"))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a point to each curve; Lightning's `epoch` is none, as the sampler has no epochs."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    @rank_zero_only
    def log_layout(self) -> None:
        """Puts curves that belong together into one chart."""
        self.experiment.add_custom_scalars(self.LAYOUT)

    @rank_zero_only
    def log_row(self, columns: Mapping[str, Any], step: int) -> None:
        """Writes this run's row of the table of runs.

        Args:
            columns: numbers and texts by their names.
            step: behind the last one, so that a resumed run, which drops what comes behind its
                checkpoint, has one row.
        """
        self.hparams = dict(columns)
        writer = self.experiment._get_file_writer()
        for summary in hparams(self.hparams, {"val/bits_per_byte": 0.0, "val/loss": 0.0}):
            writer.add_summary(summary, step)

    @rank_zero_only
    def log_sample(self, text: str, step: int) -> None:
        """A text in lines that fit the page."""
        self.experiment.add_text("sample", paragraphs(text), step)

    @rank_zero_only
    def save(self) -> None:
        """Lightning's, which writes hparams.yaml once: not before the run's end fills it."""
        if self.hparams:
            super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Keeps the file open after training for the table of runs.

        A second file would come first where a clock was set back.
        """
        if status == "success":
            self.experiment.flush()
            self.save()
        else:
            super().finalize(status)

    def rewind(self, step: int) -> None:
        """Makes one file of those of earlier processes, with the points up to `step`."""
        _remove_leftovers(Path(self.log_dir))
        if not self.earlier:
            return
        points: dict[tuple[int, tuple[str, ...]], Event] = {}
        for event in (event for path in self.earlier for event in _events(path)):
            tags = tuple(value.tag for value in event.summary.value)
            # The table of runs is written when a run ends, and then again.
            if tags and event.step <= step and not tags[0].startswith("_hparams_"):
                points.setdefault((event.step, tags), event)
        content = io.BytesIO()
        writer = RecordWriter(content)
        last = time.time()
        events = sorted(points.values(), key=lambda event: event.step)
        for event in reversed(events):  # whatever the clocks said, a later step is not earlier
            event.wall_time = last = min(event.wall_time, last)
        for event in (Event(wall_time=last, file_version="brain.Event:2"), *events):
            writer.write(event.SerializeToString())
        history = Path(self.log_dir) / HISTORY
        # TensorBoard reads each file with tfevents in its name, half ones, too
        whole = history.with_name("history")
        write_file(whole, content.getvalue())
        whole.replace(history)
        sync(history.parent)
        for path in self.earlier:
            if path != history:
                path.unlink(missing_ok=True)


def paragraphs(text: str) -> str:
    """Text as Markdown that a page breaks at its width.

    TensorBoard shows the line ends of a paragraph, so Markdown's own break would double them.
    """
    return "\n".join(as_markdown(line) if line.strip() else "&nbsp;" for line in text.splitlines())


def _remove_leftovers(folder: Path) -> None:
    """Removes the files that a kill has left half written."""
    for path in folder.glob(f"{BUILDING}*"):
        path.unlink(missing_ok=True)


def _events(path: Path) -> Iterator[Event]:
    """The events of a file up to a cut; a damaged event is skipped with a warning."""
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
    """Writes `csv/version_0/metrics.csv`: a row a call of `log_metrics`, a column a name.

    Lightning's own logger deletes its file when a run is resumed, and loses its last rows in a
    kill.
    """

    def __init__(self, run_dir: Path, every_n_rows: int = 100) -> None:
        super().__init__()
        self.path, self.every_n_rows = run_dir / "csv" / "version_0" / "metrics.csv", every_n_rows
        self.rows: list[dict[str, Any]] = []  # not yet written
        self.columns: list[str] | None = None  # of the file

    @property
    def name(self) -> str:
        """Required of a logger by Lightning."""
        return "csv"

    @property
    def version(self) -> str:
        """Required of a logger by Lightning."""
        return "version_0"

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the settings are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Notes one row."""
        # The sampler has none
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        self.rows.append(values | {"step": step})
        if len(self.rows) >= self.every_n_rows:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Writes the new rows durably: appended, or with the whole file where a column is new."""
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
        """Writes what is left."""
        self.save()

    def rewind(self, step: int) -> None:
        """Keeps the rows up to `step`."""
        _remove_leftovers(self.path.parent)
        if self.path.exists():
            kept = [row for row in self._read() if re.fullmatch(r"\d+", row["step"]) and int(row["step"]) <= step]
            columns = sorted({name for row in kept for name in row} | {"step"})
            self._write(columns, kept)
            self.columns = columns

    def _read(self) -> list[dict[str, str]]:
        """The whole rows of the file: a kill may have cut off the last one."""
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
    """Writes values of `self.log` as rows of metrics.jsonl with the split "user"."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.path = run_dir / "metrics.jsonl"

    @property
    def name(self) -> str:
        """Required of a logger by Lightning."""
        return "user"

    @property
    def version(self) -> str:
        """Required of a logger by Lightning."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the settings are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes one row; a value that is NaN or infinite is null."""
        values = {name: float(value) for name, value in metrics.items() if name not in ("epoch", "step", "split")}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        append_row(self.path, {"step": step, "split": "user"} | finite)


class Wandb(WandbLogger):
    """Lightning's logger, with standard output kept from the process that wandb starts."""

    @property
    def experiment(self) -> Any:
        """The run in wandb; Lightning asks for it first when it sets up a training."""
        if is_open(self):
            return super().experiment
        with quiet_stdout():
            return super().experiment


def _wandb(run_dir: Path, settings: Mapping[str, Any]) -> WandbLogger:
    """The logger of one run in wandb, whose id the file wandb_id keeps for a resume."""
    path = run_dir / "wandb_id"
    known = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    name = known if re.fullmatch(r"[0-9a-f]{8}", known) else secrets.token_hex(4)
    options: dict[str, Any] = {"project": "llm-from-scratch", "name": run_dir.name}
    options |= {key: value for key, value in settings.items() if value is not None}
    try:
        logger = Wandb(save_dir=run_dir, id=name, resume="allow", **options)
    except ModuleNotFoundError:
        raise missing_extra("logger=wandb needs", "wandb") from None
    except TypeError as error:
        raise UserError(f"logger.wandb: {first_line(error)}") from None
    if name != known:
        rank_zero_only(write_file)(path, name + "\n")
    return logger


@rank_zero_only
def open_loggers(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> None:
    """Logs the settings at the start of a run; TensorBoard logs them at its end."""
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.log_layout()
        else:
            logger.log_hyperparams(dict(settings))


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Redirects standard output to standard error, also for processes started within the block."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # the program was started without one
        yield
        return
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


# The first columns of TensorBoard's table of runs; settings that are not at their defaults follow.
COLUMNS = (
    *("optim.lr", "optim.weight_decay", "data.batch_size", "model.n_layer", "model.n_embd", "model.n_head"),
    *("model.block_size", "model.dropout", "tokenizer.vocab_size", "trainer.max_steps", "seed"),
)

# Settings that tell where something lies; `task` and the other columns tell runs apart.
PLACES = ("run_dir", "data.dir", "data.file", "data.url", "data.sha256", "data.must_contain", "data.published")


def columns(config: Config, parameters: int, best: dict[str, Any]) -> dict[str, Any]:
    """A row of the table of runs: the best validation, the model's size, the settings.

    The best validation stands among the settings: as a metric it would be a curve of one point
    beside the real ones.
    """
    settings, defaults = plain_settings(config), dict(leaves(Config()))
    first = {f"best {name}": best[name] for name in ("bits_per_byte", "loss", "step")} | {"parameters": parameters}
    first |= {name: settings[name] for name in COLUMNS if name in settings}
    others = {name: value for name, value in settings.items() if name not in first and value != defaults[name]}
    return first | {name: value for name, value in others.items() if name not in PLACES}


def plain_settings(config: Config) -> dict[str, Any]:
    """Every setting that is one number or text, by its dotted name."""
    return {key: value for key, value in leaves(config) if isinstance(value, int | float | str)}


def log_hyperparameters(trainer: lightning.Trainer, config: Config, parameters: int, best: dict[str, Any]) -> None:
    """The best validation beside the settings, for the loggers' tables of runs."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            logger.log_row(columns(config, parameters, best), trainer.global_step + 1)
        elif isinstance(logger, WandbLogger):
            logger.log_hyperparams({f"best/{name}": best[name] for name in ("loss", "bits_per_byte", "perplexity")})
        logger.finalize("success")
        if isinstance(logger, TensorBoard):
            logger.finalize("closed")
