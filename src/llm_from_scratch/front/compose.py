"""Composes a job's configuration with Hydra, and turns Hydra's errors into one-line messages."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llm_from_scratch.errors import UserError, message_of, missing_extra
from llm_from_scratch.front import run_name  # noqa: F401  (registers the resolver of run_dir)
from llm_from_scratch.front.words import check_choices, main_config_dir, no_choice
from llm_from_scratch.places import expanded, program
from llm_from_scratch.terminal import shell

OmegaConf.register_new_resolver("expanded", expanded, replace=True)
OmegaConf.register_new_resolver("program", lambda name: shell(*program(name)), replace=True)


def choose(key: str, values: DictConfig) -> Any:
    """Returns the value for `key`: the resolver `${choose:${data.name},{oz: 128, tales: 320}}`.

    Raises:
        UserError: when there is none for it.
    """
    if key not in values:
        raise UserError(f"this experiment has settings for {', '.join(map(str, values))} alone, not for {key}")
    return values[key]


OmegaConf.register_new_resolver("choose", choose, replace=True)


def compose(config_name: str, job: list[str]) -> DictConfig:
    """Returns the composed config of one job, without Hydra's own group.

    Raises:
        UserError: when an override names a setting or a choice that does not exist, with the
            nearest one; when a file cannot be read, a value is missing, or an interpolation finds
            none.
    """
    from llm_from_scratch.check import plain

    check_choices(job, config_name)
    try:
        config = hydra.compose(config_name, job, return_hydra_config=True)
        HydraConfig.instance().set_config(config)  # for ${hydra:…} in the values
        _ = config.hydra.mode  # may be an interpolation that finds none
    except MissingConfigException as error:
        raise _no_choice(error) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _no_setting(error, config_name, job) from None
    except (yaml.YAMLError, OSError, ValueError) as error:  # of a file of the user's
        raise UserError(f"the configuration cannot be read: {message_of(error, 300)}") from None
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    plain(config)
    return config


def _no_choice(error: MissingConfigException) -> UserError:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if group.startswith("hydra/") and error.options is not None:
        if choice.split("_")[0] in ("optuna", "joblib", "submitit"):
            return missing_extra(f"{group}={choice}: is not installed here", "sweep")
        package = f"hydra-{choice}-{group.split('/')[1]}"
        return UserError(f"{group}={choice}: is not installed here: pip install {package}")
    return no_choice(group, choice, error.options or [])


def _no_setting(error: Exception, config_name: str, job: list[str]) -> UserError:
    from llm_from_scratch.check import NEEDS, unknown
    from llm_from_scratch.config import SweeperConfig, keys

    found = re.search(r"Could not override '[+~]*([\w./@-]+)'", str(error))
    if not found:
        return UserError(message_of(error, 300))
    key = found[1]
    if key.startswith("hydra.sweeper."):
        settings = [f"hydra.sweeper.{name}" for name in keys(SweeperConfig)]
        return UserError(f"{key}: changes nothing without sweep=optuna" if key in settings else unknown(key, settings))
    known = _flat(hydra.compose(config_name))
    if key.startswith("logger."):
        chosen = [word for word in job if word.startswith("logger=")]
        return UserError(f"{key}: {_of_logger(key, _flat(hydra.compose(config_name, chosen)))}")
    if key in known:
        return UserError(f"{key}: a new name in it is written as +{key}.NAME=VALUE")
    if key.startswith("trainer.extra."):
        return UserError(f"{key}: a further argument of Lightning's Trainer is written as +{key}=VALUE")
    if key.startswith("callbacks."):
        name = key.split(".")[1]
        if (main_config_dir() / "callbacks" / f"{name}.yaml").is_file():
            if any(word.startswith("callbacks=") and name in word for word in job):
                return UserError(f"{key}: a further argument of it is written as +{key}=VALUE")
            return UserError(f"{key}: changes nothing without callbacks={name}")
        return UserError(f"{key}: a callback is given as a whole: '+callbacks.{name}={{_target_: MODULE.CLASS, …}}'")
    if key in NEEDS:
        return UserError(f"{key}: changes nothing without {NEEDS[key][1]}")
    return UserError(unknown(key, known))


def _of_logger(key: str, known: list[str]) -> str:
    """Returns the advice for a setting of a logger that does not exist."""
    from llm_from_scratch.config import LOGGERS

    name = key.split(".")[1]
    if f"logger.{name}" in known:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.9)
        if nearest:
            return f"there is no such setting; did you mean {nearest[0]}?"
        return f"a further setting of it is written as +{key}=VALUE"
    if name in LOGGERS:
        return f"changes nothing without logger={name}"
    return f"a logger of your own is written as +logger.{name}._target_=MODULE.CLASS, and its arguments likewise"


def _flat(config: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key in map(str, config):
        found.append(prefix + key)
        if OmegaConf.is_dict(config._get_node(key)):
            found += _flat(config[key], f"{prefix}{key}.")
    return found


def model_presets(config_dir: Path) -> dict[str, DictConfig]:
    """Returns name -> settings of each `model=` choice, as its own file has them."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        names = sorted(path.stem for path in (config_dir / "model").glob("*.yaml"))
        return {name: hydra.compose(f"model/{name}") for name in names}


def experiments() -> Iterator[tuple[str, DictConfig]]:
    """Yields (name, config) of each experiment that is one run. Hydra must be initialised."""
    for path in sorted((main_config_dir() / "experiment").glob("*.yaml")):
        config = hydra.compose("train", [f"experiment={path.stem}"], return_hydra_config=True)
        if config.hydra.mode != RunMode.MULTIRUN:
            OmegaConf.set_struct(config, False)
            config.pop("hydra")
            yield path.stem, config
