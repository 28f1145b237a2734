"""Every YAML file under configs/ composes to settings that the schema accepts, and says why it is
there.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

import llm_from_scratch.front.compose  # noqa: F401  (registers the resolver of run_dir)
from llm_from_scratch.check import check
from llm_from_scratch.config import Config, GenerateConfig
from llm_from_scratch.model import GPTConfig

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent != CONFIGS / "local")
SCHEMAS = {"train": Config, "generate": GenerateConfig}


def defaults(path: Path) -> list[Any]:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", [])


def groups(main: str) -> set[str]:
    """The groups that a main file chooses from."""
    entries = [entry for entry in defaults(CONFIGS / f"{main}.yaml") if isinstance(entry, dict)]
    return {
        key.removeprefix("override ").removeprefix("optional ").removeprefix("/") for entry in entries for key in entry
    }


# A file that others of its folder build on is composed through them.
SHARED = {
    (CONFIGS / f"{entry[1:]}.yaml" if entry.startswith("/") else path.parent / f"{entry}.yaml")
    for path in FILES
    if path.parent != CONFIGS
    for entry in defaults(path)
    # Put below a key: a choice all the same
    if isinstance(entry, str) and entry != "_self_" and "@" not in entry
}
CHOICES = [
    (main, group, path.relative_to(CONFIGS / group).with_suffix("").as_posix())
    for path in FILES
    for main in SCHEMAS
    # experiment/ablation/NAME is the choice ablation/NAME of the group experiment
    for group in (path.parent.relative_to(CONFIGS).as_posix(), path.parent.parent.name)
    if path not in SHARED and group in groups(main)
]


# What a choice cannot do without.
BESIDE = {("loss", "dpo"): ["data=preferences", "init_from=base"]} | {
    ("finetune", method): ["init_from=base"] for method in ("full", "lora", "head")
}


@pytest.fixture(scope="module", autouse=True)
def configs() -> Iterator[None]:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        yield


def hold_against_schema(main: str, config: DictConfig) -> None:
    checked = check(config, SCHEMAS[main])
    if isinstance(checked, Config):
        GPTConfig(vocab_size=1024, **asdict(checked.model))  # refuses shapes that do not fit


@pytest.mark.parametrize("main", SCHEMAS)
def test_main_file(main: str) -> None:
    hold_against_schema(main, hydra.compose(main))


@pytest.mark.parametrize(("main", "group", "choice"), CHOICES)
def test_choice(main: str, group: str, choice: str) -> None:
    config = hydra.compose(main, [f"{group}={choice}", *BESIDE.get((group, choice), [])], return_hydra_config=True)
    assert config.hydra.runtime.choices[group] == choice
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    hold_against_schema(main, config)


def test_every_file_is_reached() -> None:
    reached = {CONFIGS / f"{main}.yaml" for main in SCHEMAS} | SHARED
    reached |= {CONFIGS / group / f"{choice}.yaml" for _, group, choice in CHOICES}
    reached.add(CONFIGS / "hydra/sweeper/optuna.yaml")  # sweep=optuna overrides Hydra's own with it
    reached.add(CONFIGS / "hydra/launcher/slurm.yaml")  # begins with a plugin's choice
    reached.discard(CONFIGS / "hydra/launcher/submitit_slurm.yaml")
    assert sorted(reached) == FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_comment_says_why(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    comments = [line for line in text.splitlines() if line.startswith("# ") and not line.startswith("# @package")]
    assert comments, "the first lines say what this file is for and why its values are what they are"
    if path.parent.name == "experiment":
        assert re.search(r"\d\.\d", " ".join(comments)), "an experiment names the validation loss to expect"
