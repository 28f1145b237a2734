"""The sweeper of sweep=optuna: its search space, its checks, and the words of one that goes on."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from llm_from_scratch.errors import UserError
from llm_from_scratch.front.compose import compose
from llm_from_scratch.front.program import _check_jobs
from llm_from_scratch.front.search import corner_jobs, going_on, search_space, sweeper_settings, workers
from llm_from_scratch.places import config_dir
from llm_from_scratch.study import STUDY, Dimension


@pytest.mark.parametrize(
    ("values", "dimension"),
    [
        ("1e-3,3e-3", Dimension(choices=("0.001", "0.003"))),
        ("choice(tiny,'a b')", Dimension(choices=("tiny", r"a\ b"))),
        ("interval(0.0,0.5)", Dimension(0.0, 0.5)),
        ("interval(1,8)", Dimension(1.0, 8.0)),
        ("interval(0,0.5)", Dimension(0.0, 0.5)),
        ("tag(log,interval(1e-4,1e-2))", Dimension(1e-4, 1e-2, log=True)),
        ("range(2,8,2)", Dimension(2, 8, step=2)),
        ("range(0.0,1.0,0.25)", Dimension(0.0, 1.0, step=0.25)),
        ("int(interval(1.0,8.0))", Dimension(1, 8)),
    ],
)
def test_hydras_grammar(values: str, dimension: Dimension) -> None:
    fixed, space = search_space({}, ["seed=3", f"optim.lr={values}"])
    assert (fixed, space) == (["seed=3"], {"optim.lr": dimension})
    assert type(space["optim.lr"].low) is type(dimension.low)


def test_words_replace_the_values_of_the_file() -> None:
    params = {"optim.lr": "interval(1e-4,1e-2)", "model.dropout": "interval(0.0,0.3)", "seed": 4}
    fixed, space = search_space(params, ["model.dropout=0.1", "optim.lr=1,2"])
    assert fixed == ["seed=4", "model.dropout=0.1"]
    assert space == {"optim.lr": Dimension(choices=("1", "2"))}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("optim.lr=1e-3", "no setting has several values"),
        ("optim.lr=interval(1,1)", "the first number must be below"),
        ("optim.lr=tag(log,interval(0,1))", "a logarithmic scale is for an interval above 0"),
    ],
)
def test_a_space_that_is_none_is_refused(word: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        search_space({}, [word])


def test_every_choice_and_both_ends_are_checked() -> None:
    space = {"model": Dimension(choices=("tiny", "small")), "optim.lr": Dimension(1e-5, 1e-2, log=True)}
    assert list(corner_jobs(["seed=3"], space)) == [
        ["seed=3", "model=tiny", "optim.lr=1e-05"],
        ["seed=3", "model=small", "optim.lr=1e-05"],
        ["seed=3", "model=tiny", "optim.lr=0.01"],
    ]


def test_what_the_file_of_a_sweep_fixes_and_varies_is_checked_together(tmp_path: Path) -> None:
    """A width of 90 or 180 fits 3 heads; the preset has 4."""
    configs = tmp_path / "configs"
    shutil.copytree(config_dir(), configs)
    params = "model.n_head: 3\n      model.n_embd: choice(90,180)"
    head = "# @package _global_\ndefaults:\n  - override /hydra/sweeper: optuna\n"
    (configs / "sweep/mine.yaml").write_text(
        f"{head}hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      {params}\n"
    )
    checked: list[list[str]] = []
    sweeps, _ = _check_jobs(
        ["sweep=mine", "optim.lr=1e-3,1e-2"], {}, False, "train", configs, lambda config, job: checked.append([*job])
    )
    assert sweeps
    assert checked == [["model.n_head=3", "sweep=mine", "model.n_embd=90", "optim.lr=0.001"]]


def test_settings_of_the_sweeper_are_checked() -> None:
    assert sweeper_settings({"_target_": "x", "n_trials": 3, "params": {"a.b": "1,2"}}).params == {"a.b": "1,2"}
    for settings, told in (
        ({"n_trials": 0}, "hydra.sweeper.n_trials=0: must be above 0"),
        ({"pruner": "mean"}, "hydra.sweeper.pruner=mean: must be one of median, hyperband, none"),
        ({"n_trial": 3}, "hydra.sweeper.n_trial: there is no such setting; did you mean n_trials"),
    ):
        with pytest.raises(UserError) as raised:
            sweeper_settings(settings)
        assert told in str(raised.value)


def test_a_setting_of_the_sweeper_is_known_by_its_name_and_needs_it() -> None:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        for words, told in (
            (["sweep=optuna", "hydra.sweeper.n_trial=3"], "did you mean hydra.sweeper.n_trials?"),
            (["hydra.sweeper.n_trials=3"], "changes nothing without sweep=optuna"),
        ):
            with pytest.raises(UserError, match=re.escape(told)):
                compose("train", words)


def test_trials_at_a_time() -> None:
    def launched(target: str, **more: int) -> SimpleNamespace:
        return SimpleNamespace(launcher=OmegaConf.create({"_target_": target} | more))

    basic, joblib = launched("a.BasicLauncher"), launched("a.JoblibLauncher", n_jobs=3)
    assert workers(sweeper_settings({}), basic) == 1
    assert workers(sweeper_settings({}), joblib) == 3
    assert workers(sweeper_settings({"n_jobs": 2}), joblib) == 2
    with pytest.raises(UserError, match="several trials at a time need hydra/launcher=joblib"):
        workers(sweeper_settings({"n_jobs": 2}), basic)
    with pytest.raises(UserError, match="give the number of trials"):
        workers(sweeper_settings({}), launched("a.SlurmLauncher"))


GROUPS = "data=oz", "+data@watch.play=shakespeare"


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a sweep that a kill ended."""
    overrides = {
        "hydra": [
            "hydra.sweeper.n_trials=8",
            "hydra/launcher=joblib",
            "hydra.launcher.verbose=1",
            "hydra.mode=MULTIRUN",
        ],
        "task": ["sweep=optuna", *GROUPS, "data.path='story.txt'", f"run_dir='{tmp_path}'"],
    }
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": overrides}}))
    (tmp_path / STUDY).touch()
    return tmp_path


def test_a_folder_brings_the_words_that_started_it(begun: Path) -> None:
    place = f"run_dir='{begun}'"
    saved = ["hydra.sweeper.n_trials=8", "hydra/launcher=joblib", "hydra.launcher.verbose=1", "sweep=optuna"]
    saved += [*GROUPS, "data.path='story.txt'", place]
    assert going_on(["sweep=optuna", place]) == saved
    assert going_on(["sweep=optuna", place, *GROUPS, "data.path='story.txt'"]) == saved
    more = going_on(["sweep=optuna", place, "hydra.sweeper.n_trials=9", "hydra/launcher=basic"])
    assert set(more) == {
        "hydra.sweeper.n_trials=9",
        "hydra/launcher=basic",
        "sweep=optuna",
        *GROUPS,
        "data.path='story.txt'",
        place,
    }


def test_another_setting_than_the_sweeps_is_refused(begun: Path) -> None:
    for word, told in (
        ("seed=3", "not given it"),
        ("data.path='b.txt'", "data.path='story.txt'"),
        ("sweep=lr", "sweep=optuna"),
    ):
        words = [word, f"run_dir='{begun}'"] + ([] if word.startswith("sweep") else ["sweep=optuna"])
        with pytest.raises(UserError, match="leave it out, or start a new sweep") as raised:
            going_on(words)
        assert told in str(raised.value)


def test_other_words_stay_as_they_are(tmp_path: Path) -> None:
    for words in (["sweep=optuna"], [f"run_dir='{tmp_path}'"], ["sweep=optuna", f"run_dir='{tmp_path}'"]):
        assert going_on(words) == words
