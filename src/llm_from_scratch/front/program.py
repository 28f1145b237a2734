"""A task of a configuration as the program that the shell starts."""

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from llm_from_scratch import signals
from llm_from_scratch.errors import UserError, stop
from llm_from_scratch.front.compose import compose
from llm_from_scratch.front.inherit import final_config
from llm_from_scratch.front.run_name import RUN_NAME, new_name
from llm_from_scratch.front.sweep import SweepTable, check_sweep, failed, no_sweep
from llm_from_scratch.front.words import LAST, is_choice, jobs_of, literal, parse, quoted, without_last, without_none
from llm_from_scratch.machine import share_cores
from llm_from_scratch.places import expanded
from llm_from_scratch.terminal import passing, use_utf8

MULTIRUN = {"--multirun", "-m"}
# The options of a Hydra program.
HYDRA_FLAGS = {
    *("--run", "--multirun", "--cfg", "--info", "--resolve", "--package", "--config-path", "--config-name"),
    *("--config-dir", "--experimental-rerun", "-r", "-m", "-c", "-i", "-p", "-cp", "-cn", "-cd"),
}
# Settings of Hydra's that it does not take on a command line, or that a run has its own for.
HYDRAS = {
    "hydra.run.dir": "name its folder with run_dir=PATH",
    "hydra.sweeper.params": "write -m and the values of each setting, optim.lr=1e-3,3e-3; or a file configs/sweep/NAME.yaml",
    "hydra.output_subdir": "its settings are in config.yaml; leave it out",
}
# Options of which Hydra takes one.
MODES = {"--run", "-r", "--multirun", "-m", "--cfg", "-c", "--info", "-i"}
# Options that name other YAML files: those are Hydra's matter.
ELSEWHERE = {"--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd"}
Task = Callable[[DictConfig], Any]
# Raises UserError for a configuration that cannot run, given with the overrides that made it.
Check = Callable[[DictConfig, Sequence[str]], Any]


def command(
    config_dir: Path,
    config_name: str,
    check: Check,
    starting: str = "",
) -> Callable[[Task], Callable[[], None]]:
    """Makes a task of a composed configuration the program that the shell starts.

    Args:
        config_dir: the folder of the YAML files.
        config_name: the main one, without `.yaml`.
        check: raises UserError for a configuration that cannot run, given with the overrides that
            made it; called for every job before the first one starts.
        starting: a line for a terminal while the checks load what they need; it goes with the next
            line.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def job(config: DictConfig) -> Any:
            try:
                return task(config)
            except Exception as error:
                if HydraConfig.get().mode == RunMode.MULTIRUN and os.environ.get("HYDRA_FULL_ERROR") != "1":
                    return failed(error, config)
                stop(error)

        @signals.ending
        def program() -> None:
            use_utf8()
            share_cores()
            # Lightning starts the other processes with this process's arguments, which are checked
            # already.
            if any(argument.startswith(signals.LIGHTNING_CHILD) for argument in sys.argv):
                signals.end_with_parent()
            else:
                # In place of that of another command, which started this one
                os.environ[RUN_NAME] = new_name()
                try:
                    with passing(starting):
                        sys.argv[1:] = _front(sys.argv[1:], config_name, config_dir, check)
                except Exception as error:
                    stop(error)
            SweepTable.failures = 0
            try:
                hydra.main(version_base="1.3", config_path=str(config_dir), config_name=config_name)(job)()
            finally:
                os.environ.pop(RUN_NAME, None)
            if SweepTable.failures:
                raise SystemExit(1)

        return program

    return decorate


def _front(arguments: list[str], config_name: str, config_dir: Path, check: Check) -> list[str]:
    """Checks every job that the arguments ask for; returns the arguments as Hydra wants them."""
    flags = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
    if flags & {"--shell-completion", "-sc"}:
        _check_completion(arguments)
        return arguments
    if flags & {"--help", "-h", "--hydra-help", "--version"}:
        return arguments
    _check_options(arguments, flags)
    sweeps = bool(flags & MULTIRUN)
    words, others = _settings(arguments, sweeps, config_name, config_dir)
    given = {each.key_or_group: None if each.is_sweep_override() else each.value() for each in parse(words)}
    _check_given(given, sweeps)
    if given.get("resume"):
        words.append(literal(f"run_dir={given['resume']}"))
    if not flags & ELSEWHERE:
        sweeps, more = _check_jobs(words, given, sweeps, config_name, config_dir, check)
        words += more
    if not sweeps and not flags & (MODES - MULTIRUN):
        # config.yaml says all, and is written when nothing can be refused
        words.append("hydra.output_subdir=null")
    return others + words


def _check_options(arguments: Sequence[str], flags: set[str]) -> None:
    """Refuses options that Hydra does not have, and several of those that exclude each other."""
    modes = sorted(flags & MODES)
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)}: Hydra takes one of them; see --hydra-help")
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.startswith("-") and flag not in HYDRA_FLAGS:
            value = value if equals else next(iter(arguments[place + 1 :]), "VALUE")
            raise UserError(f"{flag}: settings are written as key=value, without dashes: {flag.strip('-')}={value}")


def _settings(
    arguments: Sequence[str], sweeps: bool, config_name: str, config_dir: Path
) -> tuple[list[str], list[str]]:
    """The settings among the arguments, literal values quoted and `last` replaced; and the others.

    Raises:
        UserError: a word is neither.
    """
    arguments = [argument if sweeps and is_choice(argument) else literal(argument) for argument in arguments]
    words = [word for word in arguments if ("=" in word and not word.startswith("-")) or word.startswith("~")]
    others = [word for word in arguments if word not in words]
    words = without_none(words, config_dir, config_name)
    for place, (before, word) in enumerate(zip(["", *others], others, strict=False)):
        if not word.startswith("-") and not before.startswith("-"):
            key, _, value = word.partition(":")
            value = value or next((other for other in others[place + 1 :] if other not in ("=", ":")), "VALUE")
            raise UserError(f"{word}: settings are written as key=value, without spaces: {key}={value}")
    return without_last(words), others


def _check_given(given: Mapping[str, Any], sweeps: bool) -> None:
    """Refuses settings of Hydra's that have a counterpart here, and a sweep or folder on resume."""
    for key in given:
        for name, instead in HYDRAS.items():
            if key == name or key.startswith(f"{name}."):
                raise UserError(f"{key}: cannot be given here: {instead}")
    if given.get("resume") and "run_dir" in given:
        raise UserError(
            "run_dir: a resumed run goes on in its own folder; leave it out, or start a new run with init_from=RUN"
        )
    if given.get("resume") and sweeps:
        raise no_sweep(str(given["resume"]))


def _check_jobs(
    words: Sequence[str], given: Mapping[str, Any], sweeps: bool, config_name: str, config_dir: Path, check: Check
) -> tuple[bool, list[str]]:
    """Composes every job and holds it against the schema.

    Returns:
        Whether there are several jobs, and the settings of Hydra's that they share.
    """
    more = []
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        jobs = jobs_of(words)
        first = compose(config_name, jobs[0])
        settings = HydraConfig.get()
        sweeps = sweeps or settings.mode == RunMode.MULTIRUN
        check_sweep(words, sweeps, settings.sweeper, str(given.get("resume") or ""))
        if sweeps and "run_dir" in first and "hydra.sweep.dir" not in given:
            # One folder for all jobs, in whatever process and on whatever machine a launcher starts
            # them, and also where they differ in what names the folder of a run, such as the text.
            more.append(f"hydra.sweep.dir={quoted(expanded(first.run_dir))}")
        for number, job in enumerate(jobs):
            check(final_config(compose(config_name, job) if number else first, job), job)
    return sweeps, more


def _check_completion(arguments: Sequence[str]) -> None:
    """Checks a request for shell completion; a query writes nothing on standard error.

    Raises:
        UserError: neither a script for a shell nor a query is asked for.
    """
    asked = [argument for argument in arguments if argument not in ("-sc", "--shell-completion")]
    if len(asked) != 1 or not re.fullmatch("(install|uninstall|query)=(bash|zsh|fish)", asked[0]):
        raise UserError(
            f"-sc {' '.join(asked)}: shell completion is for bash, zsh or fish:"
            f' eval "$(python {Path(sys.argv[0]).name} -sc install=bash)"'
        )
    if asked[0].startswith("query") and os.environ.get("HYDRA_FULL_ERROR") != "1":
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # until the program ends


def composed(config_dir: Path, config_name: str, words: Sequence[str], resumes: str = "config.yaml") -> DictConfig:
    """The configuration of one job, for a command that needs no more of Hydra.

    Args:
        config_dir: the folder of the YAML files.
        config_name: the main one, without `.yaml`.
        words: the overrides.
        resumes: the file that a run must hold for `resume=last`.

    Raises:
        UserError: as for the scripts, in one line.
    """
    words = [literal(word) for word in words]
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise UserError(f"{word}: settings are written as key=value; see --help")
    if any(override.is_sweep_override() for override in parse(words)):
        raise UserError("several values of a setting: this command takes one; sweeps are for train.py")
    words = without_last(words, LAST | {"resume": resumes})
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        return final_config(compose(config_name, list(words)), words)
