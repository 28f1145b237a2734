"""A run is one run of its trackers, and each of its points comes once, wherever kills came."""

import json
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Process, story
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger, Logger

from llm_from_scratch.errors import UserError
from llm_from_scratch.run import append_row, read_rows
from llm_from_scratch.training import loggers, trackers
from llm_from_scratch.training.loggers import make_logger, rewind
from llm_from_scratch.training.trackers import (
    Point,
    curve_point,
    id_argument,
    known_ids,
    quiet_stdout,
    record,
    save_ids,
)

Curves = Mapping[str, list[tuple[int, float]]]


def curves(points: list[Point]) -> Curves:
    """The curves of a record: name -> (step, value)."""
    found = defaultdict(list)
    for point in points:
        for name, value in point.values.items():
            found[name].append((point.step, value))
    return found


# --------------------------------------------------------------------------------------- the record
def test_the_record_is_what_the_loggers_got(tmp_path: Path) -> None:
    rows = [
        {"step": 5, "split": "train", "loss": 3.0, "lr": 0.5, "grad_norm": None},
        {"step": 5, "split": "user", "mine": 1.5},
        {"step": 10, "split": "train", "loss": 2.0, "lr": 0.5, "grad_norm": 1.0},
        {"step": 10, "split": "val", "loss": 2.5},
        {"step": 15, "split": "train", "loss": 1.0, "lr": 0.5, "grad_norm": 1.0},
    ]
    times = [
        {"step": 5, "tokens_per_second": 700, "seconds": 1.0, "mfu": 0.25, "tokens_seen": 1280},
        {"step": 10, "tokens_per_second": 800, "seconds": 0.9},
        {"step": 10, "validation_seconds": 0.1},
    ]
    for row in rows:
        append_row(tmp_path / "metrics.jsonl", row)
    for time in times:
        append_row(tmp_path / "timing.jsonl", time)
    (tmp_path / "samples.md").write_text("# Samples\n\n## Step 10\n\n    One,\n\n      two\n\n## Step 20\n\n    Late\n")
    assert record(tmp_path, 12) == [
        Point(5, {"train/loss": 3.0, "train/lr": 0.5, "time/tokens_per_second": 700, "time/mfu": 0.25,
                  "time/tokens_seen": 1280}),
        Point(5, {"mine": 1.5}),
        Point(10, {"train/loss": 2.0, "train/lr": 0.5, "train/grad_norm": 1.0, "time/tokens_per_second": 800}),
        Point(10, {"val/loss": 2.5}),
        Point(10, {}, "One,\n\n  two"),
    ]  # fmt: skip
    assert curve_point(rows[0], times[0]) == record(tmp_path, 5)[0]


def test_tokens_and_utilisation_of_a_run(finished: Path) -> None:
    rows = [row for row in read_rows(finished / "run" / "timing.jsonl") if "mfu" in row]
    assert [(row["step"], row["tokens_seen"]) for row in rows] == [(step, step * 8 * 32) for step in range(10, 61, 10)]
    assert all(0 < row["mfu"] < 2 for row in rows)
    assert not {"mfu", "tokens_seen"} & {name for row in read_rows(finished / "run/metrics.jsonl") for name in row}


# ------------------------------------------------------------------------------------------ the ids
def test_ids_are_in_the_run_folder_and_in_its_checkpoints(tmp_path: Path) -> None:
    assert known_ids(tmp_path, None) == {}
    (tmp_path / "wandb_id").write_text("0123abcd\n")  # of version 0.1
    assert known_ids(tmp_path, None) == {"wandb": "0123abcd"}
    state = tmp_path / "checkpoints" / "step_00000005"
    state.mkdir(parents=True)
    (state / "state.json").write_text(json.dumps({"callbacks": {"Metrics": {"trackers": {"mlflow": "aa"}}}}))
    assert known_ids(tmp_path, state) == {"wandb": "0123abcd", "mlflow": "aa"}
    save_ids(tmp_path, {"mlflow": "bb"})
    assert known_ids(tmp_path, state) == {"wandb": "0123abcd", "mlflow": "bb"}
    # A stranger's file: no id that is part of a query or of a path
    save_ids(tmp_path, {"mlflow": "x' OR '1'='1", "wandb": "../up", "other": "a b"})
    assert known_ids(tmp_path, None) == {"wandb": "0123abcd"}
    (tmp_path / "trackers.json").write_bytes(b"\xff{")
    assert known_ids(tmp_path, state) == {"wandb": "0123abcd", "mlflow": "aa"}


def test_a_users_tracker_is_given_the_id_that_its_class_takes() -> None:
    class Comet(Logger):
        def __init__(self, experiment_key: str | None = None) -> None: ...

    assert id_argument(trackers.MLFlowLogger, {}) == "run_id"
    assert id_argument(trackers.WandbLogger, {"project": "oz"}) == "id"
    assert id_argument(Comet, {}) == "experiment_key"
    assert id_argument(trackers.MLFlowLogger, {"run_id": "mine"}) is None
    assert id_argument(trackers.WandbLogger, {"version": "mine"}) is None
    assert id_argument(CSVLogger, {}) is None  # its version is a number, and its file begins anew


def test_a_logger_of_the_users_that_can_go_back_does() -> None:
    class Mine(Logger):
        name, version, back = "mine", "", None

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

        def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

        def rewind(self, step: int) -> None:
            self.back = step

    mine = Mine()
    rewind([mine], 40, [])
    assert mine.back == 40


# -------------------------------------------------------------------------------------------- wandb
class Server:
    """wandb's run as its reference describes it: rows by rising steps; a lower step is dropped."""

    id, offline = "0123abcd", False

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.step = 0

    def log(self, values: Mapping[str, float], step: int) -> None:
        assert step >= self.step, "wandb drops this with a warning"
        self.step = step
        row = self.rows.setdefault(step, {})
        assert not set(values) - {"trainer/global_step"} & set(row), "a point twice"
        row.update(values)

    def killed(self, last: int) -> None:
        """Only the rows up to a step had been sent; the next process begins behind them."""
        self.rows = {step: row for step, row in self.rows.items() if step <= last}
        self.step = max(self.rows, default=-1) + 1


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6), st.integers(0, 6)), max_size=5))
def test_wandb_has_each_point_once(kills: list[tuple[int, int, int]]) -> None:
    """Kills at a step; the last checkpoint, and the last step that the server has, lie before."""
    pytest.importorskip("wandb")
    points = [
        Point(step, {"train/loss": step / 10} | ({"val/loss": 0.5} if step % 4 == 0 else {})) for step in range(1, 21)
    ]
    server, checkpoint = Server(), 0
    for number, (at, back, unsent) in enumerate([*kills, (20, 0, 0)]):
        logger = trackers.Wandb(experiment=server)
        rewind([logger], checkpoint, [point for point in points if point.step <= checkpoint])
        for point in points[checkpoint : max(at, checkpoint)]:
            logger.log_metrics(point.values, step=point.step)
        at = max(at, checkpoint)
        if number < len(kills):
            checkpoint = max(checkpoint, at - back)
            server.killed(at - unsent)
    assert {step: row.pop("trainer/global_step") for step, row in server.rows.items()} == {n: n for n in range(1, 21)}
    assert server.rows == {point.step: dict(point.values) for point in points}


def test_wandbs_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(trackers, "Wandb", lambda **settings: made.append(settings))
    monkeypatch.setattr(loggers, "find_spec", lambda name: name)
    make_logger("wandb", {"project": "oz", "entity": None}, tmp_path, None, "0123abcd")
    assert made == [{"project": "oz", "name": tmp_path.name, "save_dir": tmp_path, "id": "0123abcd", "resume": "allow"}]

    def absent(**settings: Any) -> None:
        raise ModuleNotFoundError

    monkeypatch.setattr(trackers, "Wandb", absent)
    with pytest.raises(UserError, match="logger=wandb needs: pip install"):
        make_logger("wandb", {}, tmp_path, None, "0123abcd")


def test_a_tracker_that_is_not_installed_is_named_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    for name in ("wandb", "mlflow"):
        with pytest.raises(UserError, match=f"logger={name} needs: pip install -e '.\\[{name}\\]'"):
            loggers.check_settings(name, {})


# ------------------------------------------------------------------------------------ real processes
KILLS = '''
import os
import signal
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class Kills(Callback):
    """Kills this process the first time that it has logged each of some steps."""

    def __init__(self, steps):
        self.steps = list(steps)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        mark = Path(f"killed_{trainer.global_step}")
        if trainer.global_step in self.steps and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
'''
# Before the first checkpoint (of step 8), twice; behind it; at a step that a run has come to before
AT = (3, 6, 13, 14, 22)


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run's file: blocks of LevelDB's log format, each with protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, part, place = path.read_bytes(), b"", 7  # behind wandb's own seven bytes
    while place + 7 <= len(content):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if kind == 0:
            break
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last part
            record = Record()
            record.ParseFromString(part)
            part = b""
            yield record


@pytest.mark.slow
def test_a_run_that_was_killed_is_one_run_of_wandb_and_mlflow(train: Process, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    tracking = pytest.importorskip("mlflow.tracking")
    pytest.importorskip("sqlalchemy")
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    (tmp_path / "kills_of_a_test.py").write_text(KILLS, encoding="utf-8")
    words = [*SMALL, "trainer.max_steps=24", "trainer.val_check_interval=8", "trainer.log_every_n_steps=1"]
    words += ["logger=[tensorboard,csv,mlflow,wandb]", "logger.wandb.offline=true", "run_dir=run"]
    words += [f"+callbacks.kills={{_target_: kills_of_a_test.Kills, steps: [{', '.join(map(str, AT))}]}}"]
    words += [
        "+logger.other._target_=lightning.pytorch.loggers.MLFlowLogger",
        "+logger.other.tracking_uri=sqlite:///other.db",
    ]
    again = ["resume=run", *(word for word in words if "logger.other" in word)]
    done = [train(*(again if number else words)) for number in range(len(AT) + 1)]
    assert [one.returncode for one in done] == [-9] * len(AT) + [0], [one.stderr[-300:] for one in done]
    run = tmp_path / "run"
    wanted = curves(record(run, 24))
    assert [step for step, _ in wanted["train/loss"]] == list(range(1, 25))

    client = tracking.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    (found,) = client.search_runs(experiments)
    assert (found.info.status, found.data.tags[trackers.RUN_TAG]) == ("FINISHED", known_ids(run, None)["mlflow"])
    assert found.data.params["trainer.max_steps"] == "24"
    there = {
        name: sorted((one.step, one.value) for one in client.get_metric_history(found.info.run_id, name))
        for name in found.data.metrics
        if not name.startswith("best/")
    }
    assert_same(there, wanted)
    # The user's own: one run there, too
    client = tracking.MlflowClient(f"sqlite:///{tmp_path}/other.db")
    (own,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert own.info.run_id == known_ids(run, None)["other"]

    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    records = list(wandb_records(file))
    assert {one.run.run_id for one in records if one.HasField("run")} == {known_ids(run, None)["wandb"]}
    rows = defaultdict(list)
    for one in records:
        if one.HasField("history"):
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
            for name, value in items.items():
                rows[name].append((items["trainer/global_step"], value))
    assert [step for step, _ in rows["sample"]] == [8, 16, 24]
    assert_same({name: values for name, values in rows.items() if name in wanted}, wanted)


def assert_same(there: Curves, wanted: Curves) -> None:
    """The same points; those of the clock may be of another process."""
    assert set(there) == set(wanted)
    for name, points in wanted.items():
        if name.startswith("time/"):
            assert [step for step, _ in there[name]] == [step for step, _ in points], name
        else:
            assert there[name] == points, name


def test_what_a_process_writes_that_a_logger_starts_is_no_output(capfd: pytest.CaptureFixture[str]) -> None:
    """As wandb's does, when the program ends."""
    with quiet_stdout():
        process = subprocess.Popen([sys.executable, "-c", "input(); print('sync this run')"], stdin=subprocess.PIPE)
    print("run: one", flush=True)
    process.communicate(b"\n")
    assert capfd.readouterr() == ("run: one\n", "sync this run\n")
