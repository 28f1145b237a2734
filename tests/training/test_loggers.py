"""What was logged comes once and in order, whatever was killed and whatever the clocks say; what callbacks keep comes back."""

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

from llm_from_scratch.checkpoint import load_state, save_state
from llm_from_scratch.errors import UserError
from llm_from_scratch.training import loggers
from llm_from_scratch.training.callbacks import Checkpoints
from llm_from_scratch.training.loggers import Csv, TensorBoard, flush, make_loggers
from llm_from_scratch.training.states import plain_state, user_state


def points(folder: Path) -> tuple[list[tuple[int, float]], list[int], list[float]]:
    """TensorBoard's own reading of the curve `loss` (step, value), of the texts (step), and the times of the curve."""
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
    assert [row["step"] for row in rows()] == ["1", "2", "3", "4", "5", "5"]  # a kill: two rows were not written
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


def test_wandb_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(loggers, "WandbLogger", lambda **settings: made.append(settings))
    for resumed in (False, True, True):
        make_loggers(["wandb"], tmp_path, 0, resumed)
    assert len({settings["id"] for settings in made}) == 1
    assert {settings["resume"] for settings in made} == {"allow"}
    (tmp_path / "wandb_id").write_bytes(b"../\xff")
    make_loggers(["wandb"], tmp_path, 0, True)
    assert made[-1]["id"].isalnum()

    def absent(**settings: Any) -> None:
        raise ModuleNotFoundError

    monkeypatch.setattr(loggers, "WandbLogger", absent)
    (tmp_path / "wandb_id").unlink()
    with pytest.raises(UserError, match="logger=wandb needs: pip install"):
        make_loggers(["wandb"], tmp_path, 0, False)
    assert not (tmp_path / "wandb_id").exists()


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


class Loose(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"seen": {1}}


def checkpoints_with(callback: Callback, **settings: Any) -> Checkpoints:
    return Checkpoints(Path("run"), None, None, {"stop": callback}, {"stop": settings})  # type: ignore[arg-type]


def test_a_run_that_a_callback_stopped_stays_so_until_the_callback_is_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
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
    with pytest.raises(UserError, match=r"callbacks\.stop: its state holds a set \(seen\)"):
        checkpoints_with(Loose()).on_train_start(Trainer(), None)  # type: ignore[arg-type]
