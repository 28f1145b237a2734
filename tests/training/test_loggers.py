"""What was logged comes once and in order, whatever was killed and whatever the clocks say; what
callbacks keep comes back.
"""

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from llm_from_scratch.checkpoint import load_state, save_state
from llm_from_scratch.config import Config, DataConfig, OptimConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.run import read_rows
from llm_from_scratch.training.callbacks import Checkpoints
from llm_from_scratch.training.loggers import (
    Csv,
    TensorBoard,
    UserRows,
    check_settings,
    columns,
    flush,
    paragraphs,
)
from llm_from_scratch.training.states import plain_state, user_state


def points(folder: Path) -> tuple[list[tuple[int, float]], list[int], list[float]]:
    """TensorBoard's own reading of the curve `loss` (step, value), of the texts (step), and the
    times of the curve.
    """
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    curve = events.Scalars("loss")
    texts = [point.step for point in events.Tensors("sample/text_summary")]
    return [(point.step, round(point.value, 3)) for point in curve], texts, [point.wall_time for point in curve]


def log_steps(logger: TensorBoard, steps: range) -> None:
    for step in steps:
        logger.log_metrics({"loss": step / 10}, step=step)
        if step % 5 == 0:
            logger.experiment.add_text("sample", f"text {step}", step)


@pytest.mark.parametrize("offsets", [(0, -120, -500), (0, 3600, -3600), (0, 0, 0)])
def test_tensorboard_has_each_point_once_whatever_the_clocks(
    offsets: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time
    # Killed at steps 17 and 28, the last checkpoints being those of steps 15 and 25.
    for offset, resumed_from, steps in zip(
        offsets, (None, 15, 25), (range(1, 18), range(16, 29), range(26, 41)), strict=True
    ):
        monkeypatch.setattr(time, "time", lambda offset=offset: clock() + offset)
        logger = TensorBoard(tmp_path, resumed_from)
        if resumed_from is not None:
            logger.rewind(resumed_from)
        log_steps(logger, steps)
        flush([logger])  # and then it is killed: nothing is closed
    curve, texts, times = points(tmp_path)
    assert curve == [(step, step / 10) for step in range(1, 41)]
    assert texts == list(range(5, 41, 5))
    assert times == sorted(times)


def test_tensorboards_file_may_be_cut_off_or_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = TensorBoard(tmp_path, None)
    log_steps(logger, range(1, 11))
    logger.finalize("failed")
    (path,) = (tmp_path / "tensorboard").glob("events*")
    content = path.read_bytes()
    place = content.index(struct.pack("<f", 0.3))
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 : -20])
    TensorBoard(tmp_path, 8).rewind(8)
    curve, _, _ = points(tmp_path)
    assert len(curve) == 7
    assert "one point is lost" in caplog.text
    # What a kill leaves half written is not read as events, and goes.
    assert all("tfevents" not in name or name.startswith("events") for name in written_names(tmp_path))
    # The same again changes nothing.
    TensorBoard(tmp_path, 8).rewind(8)
    assert points(tmp_path)[0] == curve


def written_names(folder: Path) -> set[str]:
    """The names that a rewinding writes under, the ones in between included."""
    names = set()
    with pytest.MonkeyPatch.context() as patch:
        opened = os.open

        def noted(path: Any, *arguments: Any, **options: Any) -> int:
            names.add(Path(path).name)
            return opened(path, *arguments, **options)

        patch.setattr(os, "open", noted)
        (folder / "tensorboard/.building-history-0").touch()
        TensorBoard(folder, 8).rewind(8)
    assert not list((folder / "tensorboard").glob(".building*"))
    return names


def test_csv_is_one_whole_file(tmp_path: Path) -> None:
    def rows() -> list[dict[str, str]]:
        return Csv(tmp_path)._read()

    logger = Csv(tmp_path)
    for step in range(1, 8):
        logger.log_metrics({"train/loss": float(step)}, step=step)
        if step == 5:
            logger.log_metrics({"val/loss": 0.5}, step=step)
            flush([logger])
    # A kill: two rows were not written
    assert [row["step"] for row in rows()] == ["1", "2", "3", "4", "5", "5"]
    with logger.path.open("a") as file:
        file.write("6,6.0,\n7,")
    logger = Csv(tmp_path)
    logger.rewind(5)
    for step in range(6, 9):
        logger.log_metrics({"train/loss": float(step), "extra": 1.0}, step=step)
    logger.finalize("success")
    assert [(row["step"], row["train/loss"], row["val/loss"]) for row in rows()] == [
        *((str(step), f"{step}.0", "") for step in range(1, 6)),
        ("5", "", "0.5"),
        *((str(step), f"{step}.0", "") for step in range(6, 9)),
    ]
    logger = Csv(tmp_path)
    logger.rewind(8)
    logger.log_metrics({"train/loss": 9.0}, step=9)
    logger.save()
    assert [row["step"] for row in rows()] == ["1", "2", "3", "4", "5", "5", "6", "7", "8", "9"]
    Csv(tmp_path).rewind(0)  # killed before its first checkpoint
    assert rows() == []


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("csv", {"every_n_rows": 0}, "logger.csv.every_n_rows=0: must be a whole number above 0"),
        ("csv", {"rows": 3}, "logger.csv.rows: there is no such setting; it has every_n_rows"),
        ("tensorboard", {"flush_secs": "often"}, "logger.tensorboard.flush_secs=often: must be"),
        ("tensorboard", {"filename_suffix": "/../x"}, "logger.tensorboard.filename_suffix: there is no such setting"),
        ("wandb", {"id": "x"}, "logger.wandb.id: a run sets this itself"),
        ("mlflow", {"run_id": "x"}, "logger.mlflow.run_id: a run sets this itself"),
    ],
)
def test_a_loggers_wrong_setting_is_refused(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        check_settings(name, settings)
    assert str(error.value).startswith(said)


def test_a_sample_is_lines_that_a_page_can_break() -> None:
    shown = paragraphs("    # “Oh!” <b>*said*</b>\n\nthe Lion")
    assert shown.splitlines() == ["&#32;" * 4 + r"\# “Oh!” &lt;b&gt;\*said\*&lt;/b&gt;", "&nbsp;", "the Lion"]


def test_tensorboards_table_has_what_matters_first_and_no_curve_of_one_point(tmp_path: Path) -> None:
    logger = TensorBoard(tmp_path, None)
    logger.log_layout()
    for step in (1, 2):
        logger.log_metrics({"val/loss": 3.0 - step, "val/bits_per_byte": 2.0, "epoch": 0}, step=step)
    best = {"loss": 1.0, "bits_per_byte": 2.0, "step": 2}
    data = DataConfig(file="oz/wizard_of_oz.txt", must_contain="Oz")
    config = Config(task="other", optim=OptimConfig(beta1=0.8), data=data, run_dir=str(tmp_path))
    logger.log_row(columns(config, 1234, best), 3)
    logger.finalize("closed")
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["val/bits_per_byte", "val/loss"]
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    plugin = events.summary_metadata
    experiment = HParamsPluginData.FromString(plugin["_hparams_/experiment"].plugin_data.content).experiment
    names = [info.name for info in experiment.hparam_infos]
    assert names[:5] == ["best bits_per_byte", "best loss", "best step", "parameters", "optim.lr"]
    assert names[-2:] == ["task", "optim.beta1"]  # and no place of the text
    assert {info.name.tag for info in experiment.metric_infos} == {"val/bits_per_byte", "val/loss"}


def test_what_a_user_logs_is_a_row_of_metrics(tmp_path: Path) -> None:
    rows = UserRows(tmp_path)
    rows.log_metrics({"mine/norm": 2.5, "mine/bad": float("nan"), "epoch": 0, "split": 1.0}, step=7)
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 7, "split": "user", "mine/norm": 2.5, "mine/bad": None}]


def test_a_callbacks_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "callbacks": {
            "Mine": {
                "scalar": np.float32(0.5),
                "count": np.int64(3),
                "array": np.arange(6.0).reshape(2, 3),
                "best": tmp_path / "best.ckpt",
                "list": [torch.ones(2), {"x": None}],
                "pair": (1, "two"),
            }
        }
    }
    save_state(plain_state(state), tmp_path / "step_1")
    back = user_state(load_state(tmp_path / "step_1"))["callbacks"]["Mine"]
    assert (back["scalar"], back["count"], back["pair"]) == (0.5, 3, (1, "two"))
    assert isinstance(back["array"], np.ndarray)
    assert np.array_equal(back["array"], state["callbacks"]["Mine"]["array"])
    assert back["best"] == tmp_path / "best.ckpt"
    with pytest.raises(UserError, match=r"Mine: its state holds a set \(seen/0\)"):
        plain_state({"callbacks": {"Mine": {"seen": [{1, 2}]}}})


def checkpoints_with(callback: Callback, **settings: Any) -> Checkpoints:
    return Checkpoints(Path("run"), None, None, "", {"stop": callback}, {"stop": settings})  # type: ignore[arg-type]


def test_a_run_that_a_callback_stopped_stays_so_until_the_callback_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llm_from_scratch.training.callbacks.model_metadata", lambda run: {"loss": 2.5})

    class Trainer:
        should_stop, global_step, is_global_zero = False, 40, True

    stop = EarlyStopping("val/loss", patience=3)
    first = checkpoints_with(stop, patience=3)
    first.best, first.stopped = 2.5, True
    saved = {"callbacks": {first.state_key: first.state_dict(), stop.state_key: stop.state_dict() | {"wait_count": 3}}}
    saved = json.loads(json.dumps(user_state(plain_state(saved)), default=float))
    for patience, stays in ((3, True), (5, False)):
        again, trainer = checkpoints_with(EarlyStopping("val/loss", patience=patience), patience=patience), Trainer()
        checkpoint = json.loads(json.dumps(saved))
        again.on_load_checkpoint(trainer, None, checkpoint)  # type: ignore[arg-type]
        again.load_state_dict(checkpoint["callbacks"][again.state_key])
        again.on_train_start(trainer, None)  # type: ignore[arg-type]
        assert (again.best, trainer.should_stop, stop.state_key in checkpoint["callbacks"]) == (2.5, stays, stays)
