"""The average of the weights against a mean worked out by hand, and as a run keeps it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import SMALL, InProcess, Process, story

from llm_from_scratch.checkpoint import checkpoints, load_state
from llm_from_scratch.run import read_rows
from llm_from_scratch.training.averaging import WeightAverage
from llm_from_scratch.weights import load_model


def test_the_average_is_a_weighted_mean_from_the_first_step_on() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    average, module = WeightAverage(0.5), cast(Any, layer)
    trainer: Any = SimpleNamespace(accumulate_grad_batches=2)
    average.on_train_start(trainer, module)
    means = []
    for number, value in enumerate((8.0, 99.0, 4.0, 99.0, 16.0)):
        with torch.no_grad():
            layer.weight.fill_(value)
        average.on_train_batch_end(trainer, module, None, None, number + 1)
        means.append(average.tensors[0].item())
    # The odd ones are micro-batches within a step. (8), (8 + 2*4) / 3, (8 + 2*4 + 4*16) / 7
    assert means == pytest.approx([8, 8, 16 / 3, 16 / 3, 80 / 7])
    with average.applied():
        assert layer.weight.item() == pytest.approx(80 / 7)
        assert average.tensors[0].item() == 16
    assert (layer.weight.item(), average.tensors[0].item()) == (16, pytest.approx(80 / 7))


@pytest.mark.slow
def test_a_run_validates_and_keeps_the_average(train: Process, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    shared = (*SMALL, "model.dropout=0.1", "trainer.val_check_interval=10", "optim.schedule=constant", "optim.lr=1e-2")
    shared = (*shared, "optim.warmup_steps=2", "data.micro_batch_size=4")
    for run_dir, steps, decay in (("whole", 20, 0.9), ("part", 10, 0.9), ("without", 20, "null")):
        done = train(*shared, f"optim.ema_decay={decay}", f"trainer.max_steps={steps}", f"run_dir={run_dir}")
        assert done.returncode == 0, done.stderr
    rows = {name: read_rows(tmp_path / name / "metrics.jsonl") for name in ("whole", "without")}
    # The training does not notice the average, and what is validated beside it is a run without
    # one.
    raw = [row | {"split": "val"} for row in rows["whole"] if row["split"] == "val_raw"]
    assert raw == [row for row in rows["without"] if row["split"] == "val"]
    assert [row for row in rows["whole"] if row["split"] == "train"] == [
        row for row in rows["without"] if row["split"] == "train"
    ]
    kept = [row for row in rows["whole"] if row["split"] == "val"]
    assert [row["step"] for row in kept] == [10, 20]
    assert kept[-1]["loss"] != raw[-1]["loss"]
    # What is kept is the average of the checkpoint beside it, not the weights.
    state = load_state(checkpoints(tmp_path / "whole")[0])
    model = load_model(tmp_path / "whole")
    assert (model.step, model.loss) == (20, kept[-1]["loss"])
    (average,) = (value for name, value in state["callbacks"].items() if name.startswith("WeightAverage"))
    assert average["steps"] == 20
    for (name, parameter), tensor in zip(model.model.named_parameters(), average["tensors"], strict=True):
        assert torch.equal(parameter, tensor), name
        assert not torch.equal(parameter, state["state_dict"][f"model.{name}"]), name
    resumed = train("resume=part", "trainer.max_steps=20")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("metrics.jsonl", "model/model.safetensors", "samples.md"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_run_ends_when_its_patience_does(
    train_here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(30_000), encoding="utf-8")
    settings = ("optim.schedule=plateau", "optim.patience=1", "optim.plateau_factor=0.1", "optim.lr=1e-30")
    shared = (*SMALL, *settings, "trainer.val_check_interval=2", "optim.warmup_steps=1", "optim.min_lr_ratio=0.05")
    words = ("optim.ema_decay=0.0", "trainer.max_steps=200", "trainer.log_every_n_steps=1", "run_dir=run")
    status, said = train_here(*shared, *words)
    assert status == 0, said
    rows = read_rows(tmp_path / "run/metrics.jsonl")
    # Nothing is learned: the second validation lowers the learning rate, the third ends the run.
    assert [row["step"] for row in rows if row["split"] == "val"] == [2, 4, 6]
    assert [row["lr"] for row in rows if row["split"] == "train"] == pytest.approx(
        [1e-30] * 4 + [1e-31] * 2, rel=1e-6, abs=0
    )
    assert (tmp_path / "run/curves.png").exists()
    status, said = train_here("resume=run")  # it had come to its end
    assert status == 0, said
    assert read_rows(tmp_path / "run/metrics.jsonl") == rows
    status, said = train_here(*SMALL, "optim.schedule=plateau")
    assert (status, said.count("\n")) == (2, 1), said
    assert "needs optim.patience=N" in said
