"""The law that fits runs of several sizes and amounts of text."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, Process

from llm_from_scratch import cli, tales
from llm_from_scratch.config import SweeperConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.scaling import PARAMETERS, Estimate, Point, Scaling, estimates, fit, law
from llm_from_scratch.evaluation.scaling_report import blocks, write_page
from llm_from_scratch.pages import Paragraph
from llm_from_scratch.study import Dimension, combination, combinations_of

TRUE = (0.1, 40.0, 300.0, 0.5, 0.45)
SIZES, AMOUNTS = (1e5, 3e5, 1e6, 3e6), (2e5, 5e5, 1e6, 2e6, 5e6)


def points(noise: float, seed: int = 0) -> list[Point]:
    rng = np.random.default_rng(seed)
    E, A, B, a, b = TRUE
    return [
        Point(
            run=f"{size:g}-{amount:g}",
            parameters=int(size),
            tokens=int(amount),
            loss=(E + A / size**a + B / amount**b) * (1 + noise * float(rng.normal())),
        )
        for size in SIZES
        for amount in AMOUNTS
    ]


def arrays(rows: list[Point]) -> tuple[np.ndarray, ...]:
    return tuple(np.array([getattr(one, key) for one in rows], float) for key in ("parameters", "tokens", "loss"))


def test_the_fit_finds_the_law_of_exact_losses() -> None:
    E, A, B, a, b = fit(*arrays(points(0)))
    assert pytest.approx(TRUE[0], abs=0.003) == E
    assert (a, b) == pytest.approx(TRUE[3:], abs=0.03)
    assert A / 3e5**a == pytest.approx(TRUE[1] / 3e5 ** TRUE[3], rel=0.03)
    assert B / 1e6**b == pytest.approx(TRUE[2] / 1e6 ** TRUE[4], rel=0.03)


def test_weights_are_not_negative() -> None:
    """Losses that rise with the size: no size helps."""
    rows = [(n, d, 0.2 + 1e-7 * n + 100 / d**0.5) for n in SIZES for d in AMOUNTS]
    E, A, B, *_ = fit(*np.array(rows).T)
    assert pytest.approx(0, abs=1e-6) == A
    assert min(E, B) >= 0


def test_the_intervals_hold_the_truth() -> None:
    inside = 0
    for seed in range(8):
        found = estimates(points(0.01, seed), samples=30)
        assert list(found) == list(PARAMETERS)
        assert all(one.low <= one.high for one in found.values())
        inside += found["E"].low <= TRUE[0] <= found["E"].high
    assert inside >= 6
    assert estimates(points(0.01), samples=5) == estimates(points(0.01), samples=5)


@pytest.mark.parametrize("rows", [points(0)[:5], points(0)[:5] * 2, points(0)[::5] * 2])
def test_too_few_runs_are_refused(rows: list[Point]) -> None:
    with pytest.raises(UserError, match="a fit needs 6 or more, of several sizes and several amounts of text"):
        estimates(rows)


def test_the_page(tmp_path: Path) -> None:
    rows = points(0.01)
    found = Scaling(runs=rows, law=estimates(rows, samples=10), entropy=0.1, left_out=["run 7: it is not finished"])
    write_page(found, tmp_path / "scaling.md")
    page = (tmp_path / "scaling.md").read_text(encoding="utf-8")
    assert "| 100,000 | 200,000 |" in page
    assert "left out: run 7" in page
    assert "![" in page
    assert (tmp_path / "scaling" / "scaling.png").read_bytes()[:4] == b"\x89PNG"
    E = Estimate(value=0.2, low=0.15, high=0.25)
    others = blocks(Scaling(runs=rows, law=found.law | {"E": E}, entropy=0.1, left_out=[]))
    assert any(isinstance(one, Paragraph) and "outside the interval of E" in one.text for one in others)
    assert law(found.law, 1e5, 2e5) == pytest.approx(rows[0].loss, rel=0.05)


def test_a_grid_has_every_combination_once() -> None:
    space = {"a": Dimension(choices=("1", "2")), "b": Dimension(choices=("x", "y", "z"))}
    assert combinations_of(space) == 6
    assert [tuple(combination(space, number).values())[::-1] for number in range(6)] == [
        ("1", "x"), ("1", "y"), ("1", "z"), ("2", "x"), ("2", "y"), ("2", "z"),
    ]  # fmt: skip
    assert combinations_of(space | {"c": Dimension(low=0, high=1)}) == 0
    assert SweeperConfig(sampler="grid").sampler == "grid"


SMALL = (
    *("experiment=tales_scaling", "data.stories=60", "data.val_stories=25", "data.batch_size=2"),
    *("model.n_layer=1", "model.n_head=2", "model.n_embd=16,32", "trainer.max_steps=2,4,6", "trainer=cpu"),
    *("logger=none", "optim.warmup_steps=1", "tokenizer.vocab_size=1024", "hydra.sweeper.n_trials=6", "run_dir=sweep"),
)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs the extra `sweep`")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_the_sweep_goes_on_after_a_kill(train: Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, str(REPO / "train.py"), *SMALL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPO / "src")},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while not (tmp_path / "sweep" / "1" / "curves.png").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    first = (tmp_path / "sweep/0/metrics.jsonl").stat()
    done = train("experiment=tales_scaling", "run_dir=sweep")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sweep/0/metrics.jsonl").stat().st_mtime_ns == first.st_mtime_ns
    cli.main(["scaling", str(tmp_path / "sweep"), "--json", "--report", str(tmp_path / "page.md")])
    found = json.loads(capsys.readouterr().out)
    assert [one["tokens"] for one in found["runs"]] == [2 * 240 * steps for _ in range(2) for steps in (2, 4, 6)]
    assert len({one["parameters"] for one in found["runs"]}) == 2
    assert found["entropy"] == pytest.approx(tales.entropy(1).bits_per_byte.value)
    assert (tmp_path / "page.md").exists()
    done = train(*SMALL[:-2], "hydra.sweeper.n_trials=7", "run_dir=other")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "sampler=grid has 6 combinations of choices" in done.stderr
