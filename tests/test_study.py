"""A sweep's study: what is drawn, what is pruned, and what a kill at any place leaves."""

import importlib.util
import json
import sqlite3
import statistics
from pathlib import Path
from typing import Any

import pytest

from llm_from_scratch.config import SweeperConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.study import STUDY, Dimension, Study, importances_of, objective, require_optuna

pytestmark = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs the extra `sweep`")
SPACE = {
    "optim.lr": Dimension(1e-4, 1e-2, log=True),
    "model.n_layer": Dimension(1, 4),
    "optim.warmup_steps": Dimension(0, 10, step=5),
    "model": Dimension(choices=("tiny", "'small'")),
}


def study(
    folder: Path, space: dict[str, Dimension] = SPACE, resources: tuple[int, int] = (5, 100), **settings: Any
) -> Study:
    return Study.create(folder, SweeperConfig(**settings), space, resources)


def course(made: Study, number: int, losses: dict[int, float]) -> int | None:
    """Reports losses until the trial is pruned: the step of that, else None."""
    for step, loss in losses.items():
        if made.report(number, step, loss, last=step == max(losses)):
            return step
    return None


def test_drawn_values_lie_in_their_space_and_follow_from_seed_and_number(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = study(tmp_path / "a", seed=3), study(tmp_path / "b", seed=3)
    rows = [one.draw() for _ in range(3)]
    for row in rows:
        assert 1e-4 <= row.params["optim.lr"] <= 1e-2
        assert row.params["model.n_layer"] in (1, 2, 3, 4)
        assert row.params["optim.warmup_steps"] in (0, 5, 10)
        assert row.params["model"] in ("tiny", "'small'")
    assert [row.number for row in rows] == list(range(3))
    assert len({row.params["optim.lr"] for row in rows}) == 3
    assert [other.draw().params for _ in range(3)] == [row.params for row in rows]


@pytest.mark.filterwarnings("error")
def test_a_grid_is_drawn_without_a_warning(tmp_path: Path) -> None:
    space = {"a": Dimension(choices=("1", "2")), "b": Dimension(choices=("3", "4"))}
    made = study(tmp_path, space, sampler="grid")
    assert [made.draw().params for _ in range(4)] == [{"a": a, "b": b} for a in "12" for b in "34"]


def test_a_trial_that_a_kill_cut_off_while_it_was_drawn_gets_the_values_it_would_have_had(tmp_path: Path) -> None:
    made = study(tmp_path)
    whole = made.draw().params
    made.close()
    with sqlite3.connect(tmp_path / STUDY) as connection:  # as a kill between two values leaves it
        connection.execute("DELETE FROM trial_params WHERE param_name != 'optim.lr'")
    connection.close()
    again = Study(tmp_path)
    assert list(again.trial(0).params) == ["optim.lr"]
    assert again.draw(0).params == whole
    assert len(again.trials()) == 1


def test_a_finished_trial_keeps_its_first_value(tmp_path: Path) -> None:
    made = study(tmp_path)
    made.draw()
    made.finish(0, 2.5)
    made.finish(0, 1.0)
    assert (made.trial(0).state, made.trial(0).value) == ("complete", 2.5)


def test_the_median_pruner_by_hand_and_its_answer_is_kept(tmp_path: Path) -> None:
    made = study(tmp_path, pruner="median", pruner_startup=3)
    for number, at_5 in enumerate((3.0, 2.0, 2.4)):
        made.draw()
        assert course(made, number, {5: at_5, 10: at_5 - 0.5}) is None
        made.finish(number, at_5 - 0.5)
    assert statistics.median([3.0, 2.0, 2.4]) == 2.4
    made.draw()
    assert course(made, 3, {5: 2.39, 10: 1.91, 15: 1.0}) == 10  # the median is 1.9 there
    made.draw()
    assert course(made, 4, {5: 2.39, 10: 1.89, 15: 1.0}) is None
    made.draw()
    assert course(made, 5, {5: 2.41, 10: 1.0}) == 5
    # The trial was killed before its checkpoint: it comes by the earlier steps again
    assert not made.report(5, 3, 1.0, last=False)
    assert made.report(5, 5, 2.41, last=False)
    made.finish(5, 2.41)
    row = made.trial(5)
    assert (row.state, row.value, row.pruned_at, row.reports) == ("pruned", 2.41, 5, {5: 2.41})


def test_a_run_is_not_pruned_at_its_end_and_a_repeated_validation_changes_nothing(tmp_path: Path) -> None:
    made = study(tmp_path, pruner_startup=1)
    made.draw()
    made.report(0, 10, 1.0, last=True)
    made.finish(0, 1.0)
    made.draw()
    assert not made.report(1, 10, 9.0, last=True)
    made.draw()
    assert not made.report(2, 5, 9.0, last=False)  # no finished trial has a value at step 5
    assert made.report(2, 10, 9.0, last=False)
    made.draw()
    assert not made.report(3, 5, 9.0, last=False)
    assert not made.report(3, 6, 0.5, last=False)
    assert not made.report(3, 5, 9.0, last=False)  # resumed from before step 5
    assert made.trial(3).reports == {5: 9.0, 6: 0.5}


def test_hyperband_stops_at_its_rungs(tmp_path: Path) -> None:
    """One bracket, eta 2, rungs at 5, 10, …: of the trials at a rung the better half goes on."""
    made = study(tmp_path, resources=(5, 9), pruner="hyperband", reduction_factor=2)
    made.draw()
    assert not made.report(0, 4, 9.0, last=False)  # below the first rung
    stopped = []
    for number in range(1, 5):
        made.draw()
        stopped.append(made.report(number, 5, float(number), last=False))
    assert stopped == [False, True, True, True]


def test_none_prunes_nothing(tmp_path: Path) -> None:
    made = study(tmp_path, pruner="none", pruner_startup=1)
    made.draw()
    course(made, 0, {5: 1.0})
    made.finish(0, 1.0)
    made.draw()
    assert not made.report(1, 5, 100.0, last=False)


def test_importances_find_the_setting_that_matters(tmp_path: Path) -> None:
    space = {"a": Dimension(0.0, 1.0), "b": Dimension(0.0, 1.0)}
    made = study(tmp_path, space, sampler="random")
    with pytest.raises(UserError, match="needs 4 finished runs"):
        made.importances()
    for number in range(12):
        params = made.draw().params
        made.finish(number, 10 * params["a"] + 0.01 * params["b"])
    found = made.importances()
    assert list(found) == ["a", "b"]
    assert found["a"] > 0.9
    assert sum(found.values()) == pytest.approx(1)
    grid = [{"a": a, "b": b} for a in (1, 2, 3) for b in (None, "x", True)]
    by_grid = importances_of(grid, [float(one["a"]) for one in grid])  # type: ignore[arg-type]
    assert by_grid["a"] > 0.95
    with pytest.raises(UserError, match="needs 4 finished runs of different results, and there are 0"):
        importances_of([], [])  # of a grid whose runs all failed


def test_a_damaged_study_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no sweep of sweep=optuna"):
        Study(tmp_path)
    (tmp_path / STUDY).write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="cannot be read") as raised:
        Study(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_study_opens_where_its_path_holds_braces(tmp_path: Path) -> None:
    folder = tmp_path / "a {b} 100% ü"
    folder.mkdir()
    study(folder).draw()
    assert len(Study(folder).trials()) == 1


def test_the_objective_is_bits_per_byte_where_there_are_any() -> None:
    assert objective({"loss": 2.0, "bits_per_byte": 1.5}) == 1.5
    assert objective(json.loads('{"loss": 0.6, "accuracy": 0.9}')) == 0.6


def test_without_optuna_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"sweep=optuna needs Optuna: pip install .*\[sweep\]"):
        require_optuna("sweep=optuna")
