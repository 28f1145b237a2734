"""Runs side by side: settings that differ, results, the paired bootstrap, and what mattered."""

import importlib.util
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Process

from llm_from_scratch.config import FAILURE, Config, FinetuneConfig, ModelConfig, OptimConfig, SweeperConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.comparison import compare
from llm_from_scratch.evaluation.comparison_report import SETTINGS, TRIALS, blocks, page, print_search
from llm_from_scratch.evaluation.results import as_json
from llm_from_scratch.pages import Paragraph, Table
from llm_from_scratch.run import write_rows
from llm_from_scratch.saved_config import save_config
from llm_from_scratch.study import Dimension, Study
from llm_from_scratch.weights import load_model, save_model


def made_run(folder: Path, curve: dict[int, float], **settings: object) -> Path:
    """A run folder with its settings and validations, of which it has no model."""
    folder.mkdir(parents=True)
    save_config(replace(Config(), run_dir=str(folder), **settings), folder / "config.yaml")  # type: ignore[arg-type]
    rows = [{"step": step, "split": "val", "loss": 2 * value, "bits_per_byte": value} for step, value in curve.items()]
    write_rows(folder / "metrics.jsonl", rows)
    write_rows(folder / "timing.jsonl", [{"step": step, "seconds": 60.0} for step in curve])
    (folder / "curves.png").touch()
    return folder


def table(parts: list, title: str) -> Table:
    return next(part for part in parts if isinstance(part, Table) and part.title.startswith(title))


def test_a_setting_without_effect_is_none_of_a_runs(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", {5: 3.0}, init_from="x", finetune=FinetuneConfig(method="lora", rank=4))
    b = made_run(tmp_path / "b", {5: 2.0}, init_from="x", finetune=FinetuneConfig(method="full", rank=4))
    found = compare([str(a), str(b)])
    differs = {key: [run.settings[key] for run in found.runs] for key in found.settings}
    assert differs["finetune.method"] == ["full", "lora"]
    assert differs["finetune.rank"] == [None, 4]


def test_settings_that_differ_stand_beside_the_results_the_best_first(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", {5: 3.0, 10: 2.0, 15: 2.5}, optim=OptimConfig(lr=1e-3), seed=1)
    b = made_run(tmp_path / "b", {5: 2.5, 10: 1.5}, optim=OptimConfig(lr=3e-3), seed=1, model=ModelConfig(n_layer=3))
    found = compare([str(a), str(b)])
    assert [run.run for run in found.runs] == [str(b), str(a)]
    assert found.settings == ["model.n_layer", "optim.lr"]
    best = found.runs[0]
    assert best.settings == {"model.n_layer": 3, "optim.lr": 3e-3}
    assert (best.best_step, best.last_step, best.loss, best.bits_per_byte, best.seconds) == (10, 10, 3.0, 1.5, 120.0)
    assert (found.runs[1].best_step, found.runs[1].last_step) == (10, 15)
    assert found.runs[1].curve == [(5, 3.0), (10, 2.0), (15, 2.5)]
    assert found.left_out == ["paired bootstrap: needs two runs with a model"]
    parts = blocks(found)
    assert table(parts, "Settings that differ").rows == [["model.n_layer", "3", "4"], ["optim.lr", "0.003", "0.001"]]
    assert [row[:4] for row in table(parts, "Results").rows] == [
        ["b", "finished", "10", "1.5000"],
        ["a", "finished", "10", "2.0000"],
    ]


def test_runs_of_a_loss_without_bytes_are_compared_by_it(tmp_path: Path) -> None:
    a, b = made_run(tmp_path / "a", {5: 1.0}), made_run(tmp_path / "b", {5: 2.0})
    write_rows(a / "metrics.jsonl", [{"step": 5, "split": "val", "loss": 9.0}])
    found = compare([str(a), str(b)], score=0)
    assert (found.unit, [run.value for run in found.runs]) == ("nats a token", [4.0, 9.0])
    assert found.runs[0].run == str(b)


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", {5: 1.0})
    (tmp_path / "empty").mkdir()
    for names, told in (
        ([a], "needs two runs"),
        ([tmp_path / "none"], "no such folder"),
        ([a, tmp_path / "empty"], "neither a run"),
    ):
        with pytest.raises(UserError, match=told):
            compare([str(name) for name in names])
    b = made_run(tmp_path / "b", {5: 2.0})
    damaged = made_run(tmp_path / "c", {5: 2.0})
    (damaged / "config.yaml").write_text("optim: {lr: 1}\n# sha256: 0\n")
    found = compare([str(a), str(b), str(damaged)], score=0)
    assert len(found.runs) == 2
    assert str(damaged) in found.left_out[0]


def sweep(folder: Path) -> Path:
    """A sweep of five trials: the result is that of the learning rate alone; one was pruned, one failed."""
    space = {"optim.lr": Dimension(1e-4, 1e-2, log=True), "model.n_layer": Dimension(choices=("1", "2"))}
    folder.mkdir()
    study = Study.create(folder, SweeperConfig(sampler="random", pruner_startup=1), space, (5, 10))
    for number in range(7):
        params = study.draw().params
        value = 1 + abs(math.log10(params["optim.lr"]) + 3)
        settings = {
            "optim": OptimConfig(lr=params["optim.lr"]),
            "model": ModelConfig(n_layer=int(params["model.n_layer"])),
        }
        if number == 5:
            assert not study.report(number, 5, 0.0, last=False)
            study.report(number, 6, 0.0, last=True)
            study.finish(number, value)
        elif number == 6:
            study.report(number, 5, 99.0, last=False)
            assert study.trial(number).pruned_at == 5
            study.finish(number, 99.0)
        else:
            study.finish(number, value)
        made_run(folder / str(number), {5: value}, **settings)
    (folder / "4" / FAILURE).write_text("a reason\n")
    study.close()
    return folder


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs the extra `sweep`")
def test_a_sweep_has_its_trials_two_figures_and_what_mattered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path / "s")
    assert print_search(folder) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "7 trials of" in told
    assert "5 finished, 1 pruned, 1 failed" in told
    assert "4 failed: a reason" in told
    assert "pruned at 5" in told
    assert [(folder / name).read_bytes()[:4] for name in (TRIALS, SETTINGS)] == [b"\x89PNG"] * 2
    found = compare([str(folder)], score=0)
    assert found.sweep == str(folder)
    assert found.importances is not None
    assert list(found.importances) == ["optim.lr", "model.n_layer"]
    assert found.importances["optim.lr"] > 0.6
    assert "7 runs compared" in page(found)


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs the extra `sweep`")
def test_trials_that_failed_before_they_began_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep(tmp_path / "s")
    differing = compare([str(folder)], score=0).settings
    (folder / "7").mkdir()
    (folder / "7" / FAILURE).write_text("no such file\n")
    assert print_search(folder) == 2
    assert "7 failed: no such file" in " ".join(capsys.readouterr().err.split())
    # It has no settings, and makes none of the others' differ.
    assert compare([str(folder)], score=0).settings == differing
    for number in range(7):
        shutil.rmtree(folder / str(number))
    assert print_search(folder) == 1
    shutil.rmtree(folder / "7")
    assert print_search(folder) == 0


def test_the_interval_names_the_best_run_that_was_scored(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, {5: value}) for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    found = compare([str(run) for run in runs], score=0)
    found.best_scored, found.scored = str(runs[1]), "a text"  # the best run has no model
    found.runs[2].more, found.runs[2].more_low, found.runs[2].more_high = 1.0, 0.9, 1.1
    results = table(blocks(found), "Results")
    assert results.header[4] == "more than b, 95 %"
    assert [row[4] for row in results.rows] == ["", "", "+1.0000 (+0.9000 – +1.1000)"]


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs the extra `sweep`")
def test_a_sweep_is_compared_without_optuna_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sweep(tmp_path / "s")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = compare([str(folder)], score=0)
    assert len(found.runs) == 7
    assert [line.partition(": pip")[0] for line in found.left_out] == [
        "trials: the study of a sweep needs Optuna",
        "importance of settings: the study of a sweep needs Optuna",
    ]


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs the extra `sweep`")
def test_a_grid_of_hydras_own_sweeper_has_importances_too(tmp_path: Path) -> None:
    for number, (lr, layers) in enumerate((lr, layers) for lr in (1e-3, 2e-3, 3e-3) for layers in (1, 2)):
        made_run(
            tmp_path / "s" / str(number), {5: 1e3 * lr}, optim=OptimConfig(lr=lr), model=ModelConfig(n_layer=layers)
        )
    found = compare([str(tmp_path / "s")], score=0)
    assert found.importances is not None
    assert found.importances["optim.lr"] > 0.95


def test_the_paired_bootstrap_tells_a_worse_model_and_no_equal_one(
    finished: Path, tmp_path: Path, command: Process
) -> None:
    for name in ("equal", "worse"):
        shutil.copytree(finished / "run", tmp_path / name)
    shutil.copytree(finished / "data", tmp_path / "data")
    shutil.copy(finished / "story.txt", tmp_path)
    loaded = load_model(tmp_path / "worse")
    torch.manual_seed(0)
    noisy = {
        name: one + 0.2 * one.std() * torch.randn_like(one) if one.ndim > 1 else one
        for name, one in loaded.model.named_parameters()
    }
    assert loaded.step is not None
    assert loaded.loss is not None
    more = {"step": loaded.step, "loss": loaded.loss, "data": loaded.data}
    save_model(noisy, loaded.model.config, loaded.tokenizer, tmp_path / "worse", **more)  # type: ignore[arg-type]
    done = command("compare", "equal", str(finished / "run"), "worse", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    more = {
        Path(run["run"]).name: (run.get("more"), run.get("more_low"), run.get("more_high")) for run in found["runs"]
    }
    assert found["left_out"] == []
    assert found["best_scored"] == found["runs"][0]["run"]
    assert more["run"] == (0.0, 0.0, 0.0) or more["equal"] == (0.0, 0.0, 0.0)
    assert more["worse"][1] > 0
    html = command("compare", "equal", "worse", "--score", "0", "--html", "page.html")
    assert html.returncode == 0, html.stderr
    assert html.stdout.endswith("page: page.html\n")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 1
    assert not re.search(r"https?://", text)
    assert "All settings are equal." in text


def test_json_has_no_clock_and_no_missing_key(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, {5: value}, seed=seed) for name, value, seed in (("a", 1.0, 1), ("b", 2.0, 2))]
    found = json.loads(json.dumps(as_json(compare([str(run) for run in runs], score=0))))
    assert found["settings"] == ["seed"]
    assert found["runs"][0]["curve"] == [[5, 1.0]]
    assert "every" not in found["runs"][0]


def test_a_page_escapes_names(tmp_path: Path) -> None:
    a, b = made_run(tmp_path / "<b>a", {5: 1.0}), made_run(tmp_path / "b$x$", {5: 2.0})
    text = page(compare([str(a), str(b)], score=0))
    assert "<b>a" not in text
    assert "&lt;b&gt;a" in text
    assert any(isinstance(part, Paragraph) for part in blocks(compare([str(a), str(b)], score=0)))
