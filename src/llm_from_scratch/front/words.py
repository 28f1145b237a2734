"""Parses a command line: literal values, `last`, `null` for groups, and Hydra's grammar."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from llm_from_scratch import mistakes
from llm_from_scratch.errors import UserError
from llm_from_scratch.places import MODEL, PATHS, expanded

# Settings whose values are texts or paths: they are quoted, so that Hydra does not parse them.
LITERAL = (*PATHS, "prompt", "stop", "data.column", "data.encoding", "data.separator", "sample.prompt")
# Literal settings that a sweep may vary, written as choice(a,b).
SWEPT = (
    "init_from",
    "data.path",
    "data.val_path",
    "data.template",
    "data.dir",
    "data.column",
    "sample.prompt",
    "prompt_file",
)
# Settings that take `last` -> the file that the newest run must hold.
LAST = {"resume": "config.yaml", "init_from": MODEL, "run": MODEL}


def literal(argument: str) -> str:
    """Returns a setting of LITERAL, such as `prompt=Oh, it's 5!`, with its value in Hydra's quotes.

    Other arguments stay as they are, and so do the values of a sweep, `data.path=choice(a,b)`.
    """
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in LITERAL or (value == "null" and key != "prompt"):
        return argument
    if key.lstrip("+") in SWEPT and value.startswith("choice(") and value.endswith(")"):
        return argument
    if key.lstrip("+") in PATHS:
        value = expanded(value)
    return f"{key}={quoted(value)}"


def quoted(value: str) -> str:
    """Returns a text in Hydra's quotes, with each `${` escaped."""
    from llm_from_scratch.check import escape

    return QuotedString(escape(value), Quote.single).with_quotes()


def without_none(words: Sequence[str], config_dir: Path, config_name: str) -> list[str]:
    """Translates `group=null`, `group=[]` and `~group`: no choice of that group.

    They become `group=none` where that choice exists; else they are dropped.

    Raises:
        UserError: when the group needs a choice.
    """
    groups = default_choices(config_dir, config_name)
    kept = []
    for word in words:
        key, _, value = word.removeprefix("~").partition("=")
        group = config_dir / key
        if not group.is_dir() or not (word.startswith("~") or value in ("null", "[]")):
            kept.append(word)
        elif (group / "none.yaml").exists():
            kept.append(f"{key}=none")
        elif groups.get(key, "none") is not None:
            options = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
            raise UserError(f"{word}: a choice is needed: {key}= one of {options}")
    return kept


def default_choices(config_dir: Path, config_name: str) -> dict[str, Any]:
    """Returns group -> choice (None for none) of the defaults list in the main YAML file."""
    # Interpolations stay unresolved
    main = OmegaConf.to_container(OmegaConf.load(config_dir / f"{config_name}.yaml"))
    assert isinstance(main, dict)
    entries = [next(iter(entry.items())) for entry in main["defaults"] if isinstance(entry, dict)]
    return {group.split()[-1]: choice for group, choice in entries}  # "optional tuned", "override hydra/help"


def without_last(words: Sequence[str], needs: Mapping[str, str] = LAST) -> list[str]:
    """Replaces `last` by the folder of the newest run that holds the needed file.

    `needs` maps a setting to that file. Every process of the command gets the same run.
    """
    settled = []
    for override, word in zip(parse(words), words, strict=True):
        key = override.key_or_group
        if key in needs and override.value() == "last":
            from llm_from_scratch.run import find_run

            word = literal(f"{key}={find_run('last', needs[key], key)}")
        settled.append(word)
    return settled


def without_tuned(words: Sequence[str]) -> list[str]:
    """Adds `tuned=none` where a run starts from a model, unless a choice of `tuned` is given.

    Settings found for a small new model, such as strong dropout, spoil a trained one.
    """
    given = {override.key_or_group: override for override in parse(words)}
    start = given.get("init_from")
    starts = start is not None and (start.is_sweep_override() or start.value() is not None)
    return [*words, "tuned=none"] if starts and "tuned" not in given else list(words)


def parse(words: Sequence[str]) -> list[Override]:
    """Parses overrides by Hydra's grammar.

    Raises:
        UserError: when one cannot be read, has no value, or gives a setting twice.
    """
    parsed, seen = [], set()
    hydras = GlobalHydra.instance()
    # Expands glob(*) to the choices of a group
    loader = hydras.config_loader() if hydras.is_initialized() else None
    parser = OverridesParser.create(loader)
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        if not key:
            raise UserError(f"{word}: the name of the setting is missing before '='")
        if key in seen:
            raise UserError(f"{key}: given twice; keep one of them")
        seen.add(key)
        if word.endswith("="):
            raise UserError(
                f"{key}: the value is empty; leave the setting out to keep its default, or write {key}=null for none"
            )
        try:
            override = parser.parse_override(word)
            override.config_loader = loader
            parsed.append(override)
        except HydraException:
            raise UserError(f"{word}: not a value that Hydra can read; put it into quotes: \"{key}='…'\"") from None
    return parsed


def jobs_of(words: Sequence[str]) -> list[list[str]]:
    """Returns the overrides of every job: one list for a run, all combinations for a sweep.

    Values that only a sweeper draws are left out. A larger sweep is cut to 1,000 jobs.
    """
    jobs: list[list[str]] = [[]]
    for override, word in zip(parse(words), words, strict=True):
        if not override.is_sweep_override():
            choices = [word]
        elif override.is_discrete_sweep():
            choices = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        else:
            continue
        # A larger sweep is checked in part
        jobs = [[*job, choice] for job in jobs for choice in choices][:1000]
    return jobs


def main_config_dir() -> Path:
    """Returns the folder of the YAML files that Hydra, which is initialised, composes from."""
    sources = GlobalHydra.instance().config_loader().get_sources()
    return next(Path(source.path) for source in sources if source.provider == "main")


def check_choices(job: Sequence[str], config_name: str) -> None:
    """Raises UserError for a group's choice that has no file, such as `optim=1e-3`."""
    groups = default_choices(main_config_dir(), config_name)
    for override, word in zip(parse(job), job, strict=True):
        group, value = override.key_or_group, override.value()
        if group not in groups or group.startswith("hydra/") or override.is_delete() or isinstance(value, dict):
            continue
        folder = main_config_dir() / group
        typed = value if isinstance(value, str) else word.partition("=")[2]  # 1e-3, not 0.001
        for choice in map(str, value) if isinstance(value, list) else [typed]:
            if not (folder / f"{choice}.yaml").is_file():
                raise no_choice(group, choice, sorted(path.stem for path in folder.glob("*.yaml")))


def no_choice(group: str, choice: str, options: Sequence[str]) -> UserError:
    """Returns the error for a choice that `group` lacks, with its equivalent or the nearest one."""
    if group == "data" and (Path(choice).suffix or Path(choice).exists()):
        return UserError(f"data={choice}: a file or folder of your own is data=text data.path={choice}")
    typed = mistakes.meant(group, choice)
    nearest = [typed] if typed else difflib.get_close_matches(choice, options, n=1)
    meant = f"; did you mean {nearest[0]}?" if nearest else "."
    return UserError(f"{group}={choice}: there is no such choice{meant} There are: {', '.join(options)}")


def job_overrides() -> list[str]:
    """Returns the overrides of the current job, without Hydra's own."""
    return list(HydraConfig.get().overrides.task)


def given_settings(job: Sequence[str]) -> list[str]:
    """Returns the names of the settings in a job's overrides, without groups and Hydra's own."""
    return [
        override.key_or_group
        for override in parse(job)
        if not override.key_or_group.startswith("hydra") and not (main_config_dir() / override.key_or_group).is_dir()
    ]
