"""config.yaml of a run folder: what is written comes back, and what was changed, cut off or is a
stranger's is refused.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import as_version_0_1

from llm_from_scratch.check import check
from llm_from_scratch.config import Config
from llm_from_scratch.saved_config import read_run, refuse_foreign_code, save_config


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_config(Config(), tmp_path / "config.yaml")
    return tmp_path / "config.yaml"


def test_the_settings_come_back(saved: Path) -> None:
    assert check(read_run(saved.parent), Config) == Config()
    as_version_0_1(saved)
    assert check(read_run(saved.parent), Config) == Config()


@pytest.mark.parametrize(
    ("old", "new"),
    [("seed: 1337", "seed: 1336"), ("dropout: 0.0", "dropout: 0.1"), ("size: 32", "size: 33"), ("# T", "  T")],
)
def test_a_change_is_refused_with_what_to_do(saved: Path, old: str, new: str) -> None:
    text = saved.read_text(encoding="utf-8")
    assert old in text
    saved.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"config.yaml: cannot be read: its bytes have changed .*resume=RUN") as error:
        read_run(saved.parent)
    assert "\n" not in str(error.value)


def test_the_ends_of_lines_do_not_count(saved: Path) -> None:
    content, values = saved.read_bytes(), read_run(saved.parent)
    for other in (content.replace(b"\n", b"\r\n"), content.removesuffix(b"\n")):
        saved.write_bytes(other)
        assert read_run(saved.parent) == values


def test_a_file_cut_off_anywhere_is_refused(saved: Path) -> None:
    """An empty one was resumed as a run on another text."""
    whole = saved.read_text(encoding="utf-8")
    plain = as_version_0_1(saved)
    for text in (whole, plain):
        for end in [*range(0, len(text) - len("allbacks: {}\n"), 97), text.index("callbacks:")]:
            saved.write_text(text[:end], encoding="utf-8")
            with pytest.raises(ValueError, match="config.yaml: "):
                read_run(saved.parent)


def callback(target: str, **more: Any) -> dict[str, Any]:
    return asdict(Config()) | {"callbacks": {"x": {"_target_": target} | more}}


@pytest.mark.parametrize(
    "settings",
    [
        callback("os.system", command="true"),
        callback("lightning.pytorch.callbacks.early_stopping.os.system", command="true"),
        callback("lightning.pytorch.callbacks.ModelCheckpoint", dirpath="/"),
        callback("llm_from_scratch.training.callbacks.Samples", run_dir="/"),
        callback("evil.Evil"),
        callback("lightning.pytorch.callbacks.LambdaCallback"),
        callback("lightning.pytorch.callbacks.EarlyStopping", monitor={"_target_": "os.system"}),
        callback("lightning.pytorch.callbacks.EarlyStopping", monitor=[{"one": {"_target_": "os.system"}}]),
        asdict(Config()) | {"callbacks": {"x": "os.system"}},
    ],
)
def test_code_of_a_strangers_is_not_run(settings: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match="callbacks.x: a run folder may be a stranger's, and this would run"):
        refuse_foreign_code(settings, asdict(Config()))
    refuse_foreign_code(settings, settings)  # given again, it is the user's


def test_a_module_of_the_users_own_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("mine", "run"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"of_{place}.py").write_text("raise AssertionError('imported')\n", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path / place)
    run_dir = {"run_dir": str(tmp_path / "run")}
    refuse_foreign_code(callback("of_mine.Stopper", patience=3) | run_dir, asdict(Config()))
    # What the run folder brings is not the user's
    with pytest.raises(ValueError, match=r"would run of_run\.Evil"):
        refuse_foreign_code(callback("of_run.Evil") | run_dir, asdict(Config()))


def test_what_writes_nothing_goes_on_by_itself() -> None:
    refuse_foreign_code(callback("lightning.pytorch.callbacks.EarlyStopping", monitor="val/loss"), asdict(Config()))
    extra = asdict(Config())
    extra["trainer"]["extra"] = {"detect_anomaly": True, "limit_val_batches": 0.5}
    refuse_foreign_code(extra, asdict(Config()))
    extra["trainer"]["extra"]["default_root_dir"] = "/"
    with pytest.raises(ValueError, match="trainer.extra.default_root_dir: a run folder may be a stranger's"):
        refuse_foreign_code(extra, asdict(Config()))


def logger(**loggers: Any) -> dict[str, Any]:
    return asdict(Config()) | {"logger": loggers}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (logger(x={"_target_": "os.system", "command": "true"}), "would run os.system"),
        (logger(x={"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "/"}), "would run lightning"),
        (logger(wandb={"config": {"_target_": "os.system"}}), "would run os.system"),
        (logger(wandb={"settings": {"base_url": "http://evil"}}), "logger.wandb.settings: a run folder may be"),
    ],
)
def test_a_logger_of_a_strangers_is_not_run(settings: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refuse_foreign_code(settings, asdict(Config()))
    refuse_foreign_code(settings, settings)  # given again, it is the user's


def test_an_optimizer_of_a_strangers_is_not_run() -> None:
    settings = asdict(Config())
    settings["optim"] |= {"name": "custom", "custom": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(
        ValueError, match=r"optim\.custom: a run folder may be a stranger's, and this would run os\.system"
    ):
        refuse_foreign_code(settings, asdict(Config()))
    refuse_foreign_code(settings, settings)  # given again, it is the user's


def test_loggers_that_are_made_here_go_on() -> None:
    ours = logger(tensorboard={"flush_secs": 9}, csv={}, wandb={"project": "oz", "tags": ["a"]})
    refuse_foreign_code(ours, asdict(Config()))


def test_a_list_of_loggers_of_an_older_run_is_read(saved: Path) -> None:
    text = as_version_0_1(saved).replace("logger: {}", "logger:\n- tensorboard\n- csv")
    saved.write_text(text, encoding="utf-8")
    assert check(read_run(saved.parent), Config).logger == {"tensorboard": {}, "csv": {}}
