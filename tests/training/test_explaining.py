"""callbacks=explain: images of one text in TensorBoard, and nothing else of the run is another."""

import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, InProcess, story
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llm_from_scratch.errors import UserError
from llm_from_scratch.explain.figures import DRAWINGS
from llm_from_scratch.training.explaining import Explain

STEPS = ("trainer.max_steps=8", "trainer.val_check_interval=2")
DRAWN = ("callbacks=explain", "callbacks.explain.times=2", "callbacks.explain.tokens=12")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "story.txt").write_text(story(20_000), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(run: Path) -> dict[str, dict[int, np.ndarray]]:
    """The images of a run's TensorBoard by name and step."""
    found: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for path in sorted((run / "tensorboard").glob("events*")):
        events = EventAccumulator(str(path), size_guidance={"images": 0}).Reload()
        for name in events.Tags()["images"]:
            for event in events.Images(name):
                assert event.step not in found[name], "an image stands there twice"
                found[name][event.step] = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    return dict(found)


def points(run: Path) -> Iterator[bytes]:
    yield (run / "metrics.jsonl").read_bytes()
    yield (run / "model" / "model.safetensors").read_bytes()
    yield (run / "checkpoints" / "step_00000008" / "tensors.safetensors").read_bytes()


def test_images_come_at_some_validations_and_change_nothing(here: Path, train_here: InProcess) -> None:
    more = ("optim.ema_decay=0.5", "model.dropout=0.1")
    assert train_here(*SMALL, *STEPS, *more, "run_dir=without")[0] == 0
    status, said = train_here(*SMALL, *STEPS, *more, *DRAWN, "run_dir=drawn")
    assert (status, "nothing is drawn" in said) == (0, False), said
    assert [*points(here / "without")] == [*points(here / "drawn")]
    found = images(here / "drawn")
    assert set(found) == {f"explain/{name}" for name in DRAWINGS}
    assert {tuple(steps) for steps in found.values()} == {(4, 8)}
    for name, steps in found.items():
        assert steps[8].shape[2] == 3
        assert steps[8].std() > 5, name  # not an empty page
    for name in ("explain/surprise", "explain/layers"):  # they follow the weights
        assert not np.array_equal(found[name][4], found[name][8]), name
    assert images(here / "without") == {}
    # A stopped run goes on to the same images
    assert train_here(*SMALL, "trainer.max_steps=6", STEPS[1], *more, *DRAWN, "run_dir=twice")[0] == 0
    assert train_here("resume=twice", "trainer.max_steps=8")[0] == 0
    again = images(here / "twice")
    for name in found:
        assert np.array_equal(again[name][8], found[name][8]), name


def test_it_is_drawn_at_most_so_many_times_and_at_the_end() -> None:
    one = Explain(times=3)
    due = [step for step in range(10, 101, 10) if one.is_due(step, 10, 100)]
    assert due == [40, 70, 100]
    assert [step for step in range(10, 31, 10) if one.is_due(step, 10, 30)] == [10, 20, 30]
    assert [step for step in (50, 100, 120) if one.is_due(step, 50, 120)] == [50, 100, 120]
    assert [step for step in range(1, 1001) if Explain(times=1).is_due(step, 1, 1000)] == [1000]
    for interval in (1, 7, 33):
        assert len([step for step in range(interval, 1000, interval) if one.is_due(step, interval, 1000)]) <= 3


@pytest.mark.parametrize(
    "given", [{"text": ""}, {"text": 3}, {"times": 0}, {"times": True}, {"times": 1001}, {"tokens": 1}, {"tokens": 257}]
)
def test_values_out_of_range(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(given))}.*must be"):
        Explain(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["callbacks=explain", "logger=none"], "callbacks.explain: draws for TensorBoard, and logger=none"),
        (["callbacks=explain", "logger=csv"], "draws for TensorBoard, and logger=csv: add tensorboard to it"),
        (
            ["callbacks=explain", "callbacks.explain.times=0"],
            "callbacks.explain.times=0: must be a whole number from 1",
        ),
        (["callbacks=explain", "+callbacks.explain.size=1"], "callbacks.explain.size: there is no such setting"),
        (["callbacks=explain", "callbacks.explain.text=Ж", "tokenizer=char"], "Ж"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    here: Path, train_here: InProcess, words: list[str], message: str
) -> None:
    status, said = train_here(*[word for word in SMALL if "vocab" not in word], "run_dir=run", *words)
    assert (status, message in said) == (2, True), said
    assert not (here / "run").exists()


def test_a_text_of_nothing_costs_a_line(here: Path, train_here: InProcess) -> None:
    small = [word for word in SMALL if "block_size" not in word]
    status, said = train_here(*small, *STEPS, *DRAWN, "run_dir=run", "model.block_size=1")
    assert status == 0
    assert "callbacks.explain: nothing is drawn at step 4: the model reads 1 token at a time" in said
