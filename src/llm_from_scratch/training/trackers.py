"""Experiment trackers: wandb and mlflow, each with one run for a run folder, killed or resumed.

The record of a run is its folder: metrics.jsonl, timing.jsonl and samples.md hold every point. A
resumed run looks up which points its tracker has, logs those of the record that it lacks, and later
skips those that it has already. So a tracker's curves have no gap and no point twice, wherever a
kill came: between a point and its checkpoint, or before the tracker had written what it was given.
"""

import json
import logging
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from llm_from_scratch.checkpoint import MALFORMED, read_json
from llm_from_scratch.errors import UserError, first_line, missing_extra
from llm_from_scratch.files import refuse_links, write_file
from llm_from_scratch.run import read_rows, read_samples
from llm_from_scratch.training.internals import is_open

log = logging.getLogger(__name__)
IDS = "trackers.json"  # of a run folder: the name of a logger -> the id of the run there
WANDB_ID = "wandb_id"  # the same for wandb alone, up to version 0.1
ID = re.compile(r"\w[\w-]{0,99}", re.ASCII)
CHOSEN = ("wandb", "mlflow")  # loggers of `config.LOGGERS` whose id is chosen here
# Arguments by which loggers of Lightning's kind go on with a run, whose id is their `version`:
# those of mlflow, wandb and comet.
ID_ARGUMENTS = ("run_id", "id", "experiment_key")
RUN_TAG = "llm_from_scratch.run"  # in mlflow, the tag that holds the id
LOCAL_STORE = "sqlite:///mlflow.db"  # in the working directory, where `mlflow ui` looks for it
MAX_PARAMETER = 250  # characters of a setting in mlflow
MANY = 100  # settings of one call of mlflow


@dataclass(frozen=True)
class Point:
    """What is logged together: numbers by their names, and a generated text, at one step."""

    step: int
    values: Mapping[str, float]
    sample: str | None = None


def curve_point(row: Mapping[str, Any], timing: Mapping[str, Any]) -> Point:
    """Returns what the loggers get of a row of metrics.jsonl and its row of timing.jsonl.

    A row of `self.log` (split "user") keeps its names; numbers that are NaN or infinite are left
    out.
    """
    start = "" if row["split"] == "user" else f"{row['split']}/"
    values = {f"{start}{name}": value for name, value in row.items() if isinstance(value, float)}
    times = {f"time/{name}": timing[name] for name in CURVES if name in timing}
    return Point(row["step"], values | times)


# The columns of timing.jsonl that are curves.
CURVES = ("tokens_per_second", "mfu", "tokens_seen", "gpu_memory_gb")


def record(run_dir: Path, step: int) -> list[Point]:
    """Returns all that a run has logged up to a step, in order, from its folder."""
    timing = {row["step"]: row for row in read_rows(run_dir / "timing.jsonl") if "tokens_per_second" in row}
    rows = [row for row in read_rows(run_dir / "metrics.jsonl") if row["step"] <= step]
    points = [curve_point(row, timing.get(row["step"], {}) if row["split"] == "train" else {}) for row in rows]
    texts = [Point(at, {}, _unquoted(text)) for at, text in read_samples(run_dir / "samples.md") if at <= step]
    return sorted([*points, *texts], key=lambda point: point.step)  # stable: a text after its numbers


def _unquoted(block: str) -> str:
    """Returns the text of an indented block of samples.md."""
    return "\n".join(line.removeprefix("    ") for line in block.strip("\n").splitlines())


# ---------------------------------------------------------------------------------------- the ids
def known_ids(run_dir: Path, state: Path | None) -> dict[str, str]:
    """Returns the ids of a run in its trackers, by the names of the loggers.

    They are kept in the run folder from the start, and in every checkpoint.

    Args:
        run_dir: the run folder.
        state: the checkpoint that the run resumes from; None: there is none yet.
    """
    found: dict[str, str] = {}
    if state:
        with suppress(*MALFORMED):  # a checkpoint of an earlier version has none
            found |= _valid(read_json(state / "state.json")["callbacks"]["Metrics"]["trackers"])
    for name in (WANDB_ID, IDS):
        path = run_dir / name
        if path.is_file():
            refuse_links(path, run_dir)
            try:
                ids = read_json(path) if name == IDS else {"wandb": path.read_text(encoding="utf-8").strip()}
                found |= _valid(ids)
            except MALFORMED:
                log.warning("%s: damaged; the checkpoint's copy is read, where there is one", path)
    return found


def _valid(ids: Any) -> dict[str, str]:
    """Returns the ids that may be part of a query or of a file's name: the file may be anyone's."""
    return {str(name): value for name, value in ids.items() if isinstance(value, str) and ID.fullmatch(value)}


@rank_zero_only
def save_ids(run_dir: Path, ids: Mapping[str, str]) -> None:
    """Adds ids of a run in its trackers to those in the run folder."""
    ids = known_ids(run_dir, None) | dict(ids)
    if ids:
        write_file(run_dir / IDS, json.dumps(dict(ids), indent=1, sort_keys=True) + "\n")


def new_id() -> str:
    """Returns the id of a run in a tracker that lets its client choose one."""
    return secrets.token_hex(4)


def id_argument(kind: type, settings: Mapping[str, Any]) -> str | None:
    """Returns the argument by which a logger of the user's goes on with a run; None: it has none.

    None, too, where the user's settings name a run.
    """
    found = [name for name in ID_ARGUMENTS if name in signature(kind).parameters]
    return found[0] if found and not any(name in settings for name in ("version", *found)) else None


def ids_of(loggers: Mapping[str, Logger]) -> dict[str, str]:
    """Returns the ids of the runs of started loggers, by the loggers' names."""
    found = {}
    for name, logger in loggers.items():
        if isinstance(logger, Mlflow):
            found[name] = logger.id
        elif isinstance(logger, Wandb) or id_argument(type(logger), {}):
            found[name] = str(logger.version)
    return found


# ------------------------------------------------------------------------------------------- wandb
class Wandb(WandbLogger):
    """Lightning's wandb logger, whose steps are optimizer steps and whose points come once.

    The process that wandb starts does not get standard output.

    Args:
        prefix: of the names of all curves.
        settings: further arguments of Lightning's logger and of `wandb.init`.
    """

    def __init__(self, prefix: str = "", **settings: Any) -> None:
        super().__init__(prefix=prefix, **settings)
        self.start = f"{prefix}{self.LOGGER_JOIN_CHAR}" if prefix else ""
        self.has = -1  # the last step that the tracker had when the run was resumed

    @property
    def experiment(self) -> Any:
        """Returns the wandb run, and starts it at the first call."""
        if is_open(self):
            return super().experiment
        with quiet_stdout():
            return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Adds values to the row of a step, unless the tracker had that step already."""
        values = {f"{self.start}{name}": value for name, value in metrics.items() if name != "epoch"}
        if step is None:
            self.experiment.log(values)
        elif step > self.has:
            self.experiment.log(values | {"trainer/global_step": step}, step=step)

    @rank_zero_only
    def log_sample(self, text: str, step: int) -> None:
        """Logs a generated text as a table of one cell."""
        self.log_text("sample", ["text"], [[text]], step=step)

    @rank_zero_only
    def replay(self, points: Sequence[Point]) -> None:
        """Goes on with a run: logs the points of its record that the tracker lacks.

        A server has those that it was sent. An offline run is one file of each process: the new
        one gets all points and replaces the earlier ones, so that `wandb sync` sends each once.
        """
        step = self.experiment.step
        self.has = step - 1 if isinstance(step, int) else -1
        for point in points:
            if point.values:
                self.log_metrics(point.values, point.step)
            if point.sample is not None:
                self.log_sample(point.sample, point.step)
        if self.experiment.offline is True:
            own = Path(self.experiment.dir).parent
            for folder in own.parent.glob(f"offline-run-*-{self.experiment.id}"):
                if folder != own:
                    shutil.rmtree(folder, ignore_errors=True)


def make_wandb(run_dir: Path, settings: Mapping[str, Any], run_id: str) -> Wandb:
    """Builds the wandb logger of one run.

    Raises:
        UserError: when wandb is not installed or does not take a setting.
    """
    options: dict[str, Any] = {"project": "llm-from-scratch", "name": run_dir.name}
    options |= {key: value for key, value in settings.items() if value is not None}
    try:
        return Wandb(save_dir=run_dir, id=run_id, resume="allow", **options)
    except ModuleNotFoundError:
        raise missing_extra("logger=wandb needs", "wandb") from None
    except TypeError as error:
        raise UserError(f"logger.wandb: {first_line(error)}") from None


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Redirects standard output to standard error, also of processes started within the block."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # the program was started without standard output
        yield
        return
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


# ------------------------------------------------------------------------------------------ mlflow
class Mlflow(MLFlowLogger):
    """Lightning's mlflow logger, with one run of mlflow for a run folder, and each point once.

    The run is found by a tag that holds the id: mlflow chooses its own id of a run, and a kill may
    come before that could be written down.

    Args:
        run_id: the id, in the tag RUN_TAG.
        settings: further arguments of Lightning's logger, `experiment_name` and `tracking_uri`
            among them.
    """

    def __init__(self, run_id: str, **settings: Any) -> None:
        self.id = run_id
        self.has: dict[str, int] = {}  # the last step of each curve when the run was resumed
        tags = {**(settings.pop("tags", None) or {}), RUN_TAG: run_id}
        found = _mlflow_run(settings["tracking_uri"], settings["experiment_name"], run_id)
        super().__init__(run_id=found, tags=tags, **settings)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs the settings; one that has changed since gets a name of its own with the step.

        mlflow keeps the first value of each for ever.
        """
        from mlflow.entities import Param

        given = {name: str(value)[:MAX_PARAMETER] for name, value in dict(params).items()}
        before = self.experiment.get_run(self.run_id).data.params
        step = max(self.has.values(), default=0)
        new = {name: value for name, value in given.items() if name not in before}
        changed = {name: value for name, value in given.items() if before.get(name, value) != value}
        new |= {f"{name} after step {step}": value for name, value in changed.items()}
        entries = [Param(name, value) for name, value in new.items() if name not in before]
        for start in range(0, len(entries), MANY):
            self.experiment.log_batch(self.run_id, params=entries[start : start + MANY])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a point to each curve that had none of this step, or a later one, already."""
        values = {
            name: value
            for name, value in metrics.items()
            if name != "epoch" and (step is None or step > self.has.get(name, -1))
        }
        if values:
            super().log_metrics(values, step)

    @rank_zero_only
    def replay(self, points: Sequence[Point]) -> None:
        """Goes on with a run: logs the points of its record that the tracker lacks."""
        client, run_id = self.experiment, self.run_id
        client.update_run(run_id, status="RUNNING")
        for name in client.get_run(run_id).data.metrics:
            self.has[name] = max(metric.step for metric in client.get_metric_history(run_id, name))
        for point in points:
            self.log_metrics(point.values, point.step)


def _mlflow_run(tracking_uri: str, experiment: str, run_id: str) -> str | None:
    """Finds mlflow's own id of a run by RUN_TAG, None where it has none; makes the experiment."""
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):  # tell of every table of a new store
        logging.getLogger(name).setLevel(logging.WARNING)
    client = MlflowClient(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            client.create_experiment(experiment)
        return None
    runs = client.search_runs([found.experiment_id], f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1)
    return runs[0].info.run_id if runs else None


def make_mlflow(run_dir: Path, settings: Mapping[str, Any], run_id: str) -> Mlflow:
    """Builds the mlflow logger of one run.

    Raises:
        UserError: when mlflow is not installed, does not take a setting or is not reached.
    """
    uri = settings.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI") or LOCAL_STORE
    options: dict[str, Any] = {"experiment_name": "llm-from-scratch", "run_name": run_dir.name}
    options |= {key: value for key, value in settings.items() if value is not None} | {"tracking_uri": uri}
    try:
        return Mlflow(run_id, **options)
    except ModuleNotFoundError as error:
        raise missing_extra("logger=mlflow needs", "mlflow", first_line(error)) from None
    except TypeError as error:
        raise UserError(f"logger.mlflow: {first_line(error)}") from None
    except Exception as error:  # mlflow raises errors of many types for a store that it cannot open
        if type(error).__module__.partition(".")[0] not in ("mlflow", "requests"):
            raise
        raise UserError(f"logger.mlflow: {uri} cannot be opened: {first_line(error)}") from None
