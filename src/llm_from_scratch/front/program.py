"""Command-line programs on Hydra: every job is checked, then `hydra.main` runs the task."""

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from llm_from_scratch import signals
from llm_from_scratch.errors import UserError, stop
from llm_from_scratch.front.compose import compose
from llm_from_scratch.front.inherit import final_config
from llm_from_scratch.front.run_name import RUN_NAME, new_name
from llm_from_scratch.front.search import check_search, corner_jobs, going_on, is_search, register
from llm_from_scratch.front.sweep import SweepTable, check_sweep, failed, no_sweep
from llm_from_scratch.front.words import (
    LAST,
    given_settings,
    jobs_of,
    literal,
    parse,
    quoted,
    without_last,
    without_none,
    without_tuned,
)
from llm_from_scratch.places import expanded
from llm_from_scratch.terminal import passing, use_utf8

if TYPE_CHECKING:
    from llm_from_scratch.config import Config

MULTIRUN = {"--multirun", "-m"}
# The options of a Hydra program.
HYDRA_FLAGS = {
    *("--run", "--multirun", "--cfg", "--info", "--resolve", "--package", "--config-path", "--config-name"),
    *("--config-dir", "--experimental-rerun", "-r", "-m", "-c", "-i", "-p", "-cp", "-cn", "-cd"),
}
# Settings of Hydra's that are refused -> what to write instead.
HYDRAS = {
    "hydra.run.dir": "name its folder with run_dir=PATH",
    "hydra.sweeper.params": "write -m and the values of each setting, optim.lr=1e-3,3e-3; or a file configs/sweep/NAME.yaml",
    "hydra.output_subdir": "its settings are in config.yaml; leave it out",
}
# Options of Hydra's that exclude each other.
MODES = {"--run", "-r", "--multirun", "-m", "--cfg", "-c", "--info", "-i"}
# Options that name other YAML files: with them, the jobs are not checked before Hydra.
ELSEWHERE = {"--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd"}
Task = Callable[[DictConfig], Any]
# Called with a job's config and overrides; raises UserError for one that cannot run.
Check = Callable[[DictConfig, Sequence[str]], Any]


def command(
    config_dir: Path,
    config_name: str,
    check: Check,
    starting: str = "",
) -> Callable[[Task], Callable[[], None]]:
    """Decorates a task, a function of a composed config, as the program that the shell starts.

    Args:
        config_dir: the folder of the YAML files.
        config_name: the name of the main YAML file, without `.yaml`.
        check: called with the config and the overrides of every job, before the first job starts;
            raises UserError for a config that cannot run.
        starting: a line that a terminal shows while the checks run; "" for none.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def job(config: DictConfig) -> Any:
            try:
                return task(config)
            except Exception as error:
                if HydraConfig.get().mode == RunMode.MULTIRUN and os.environ.get("HYDRA_FULL_ERROR") != "1":
                    return failed(error, config_name, config)
                stop(error, config_name)

        @signals.ending
        def program() -> None:
            use_utf8()
            # Lightning starts the other ranks with the arguments of rank 0, which it has checked.
            starts = not any(argument.startswith(signals.LIGHTNING_CHILD) for argument in sys.argv)
            if starts:
                # Replaces the name of another command that has started this one
                os.environ[RUN_NAME] = new_name()
            else:
                signals.end_with_parent()
            SweepTable.failures = 0
            register()
            try:
                if starts:
                    with passing(starting):
                        sys.argv[1:] = _front(sys.argv[1:], config_name, config_dir, check)
                hydra.main(version_base="1.3", config_path=str(config_dir), config_name=config_name)(job)()
            except Exception as error:
                stop(error, config_name)
            finally:
                os.environ.pop(RUN_NAME, None)
            if SweepTable.failures:
                raise SystemExit(1)

        return program

    return decorate


def _front(arguments: list[str], config_name: str, config_dir: Path, check: Check) -> list[str]:
    """Checks every job that the arguments ask for, and returns the arguments for Hydra."""
    flags = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
    if flags & {"--shell-completion", "-sc"}:
        _check_completion(arguments)
        return arguments
    if flags & {"--help", "-h", "--hydra-help", "--version"}:
        return arguments
    _check_options(arguments, flags)
    sweeps = bool(flags & MULTIRUN)
    words, others = _settings(arguments, config_name, config_dir)
    words = going_on(words)
    given = {each.key_or_group: None if each.is_sweep_override() else each.value() for each in parse(words)}
    _check_given(given, sweeps)
    if given.get("resume"):
        words.append(literal(f"run_dir={given['resume']}"))
    if not flags & ELSEWHERE:
        sweeps, more = _check_jobs(words, given, sweeps, config_name, config_dir, check)
        words += more
    if not sweeps and not flags & (MODES - MULTIRUN):
        # No .hydra folder: the run's config.yaml holds all settings, written after the checks
        words.append("hydra.output_subdir=null")
    return others + words


def _check_options(arguments: Sequence[str], flags: set[str]) -> None:
    """Raises UserError for an option that Hydra lacks, or for several that exclude each other."""
    modes = sorted(flags & MODES)
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)}: Hydra takes one of them; see --hydra-help")
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.startswith("-") and flag not in HYDRA_FLAGS:
            value = value if equals else next(iter(arguments[place + 1 :]), "VALUE")
            raise UserError(f"{flag}: settings are written as key=value, without dashes: {flag.strip('-')}={value}")


def _settings(arguments: Sequence[str], config_name: str, config_dir: Path) -> tuple[list[str], list[str]]:
    """Returns the settings among the arguments, and the other arguments.

    Literal values are quoted, and `last` is replaced by the newest run.

    Raises:
        UserError: when an argument is neither a setting, an option nor the value of an option.
    """
    arguments = [literal(argument) for argument in arguments]
    words = [word for word in arguments if ("=" in word and not word.startswith("-")) or word.startswith("~")]
    others = [word for word in arguments if word not in words]
    words = without_none(words, config_dir, config_name)
    for place, (before, word) in enumerate(zip(["", *others], others, strict=False)):
        if not word.startswith("-") and not before.startswith("-"):
            key, _, value = word.partition(":")
            value = value or next((other for other in others[place + 1 :] if other not in ("=", ":")), "VALUE")
            raise UserError(f"{word}: settings are written as key=value, without spaces: {key}={value}")
    return without_tuned(without_last(words)), others


def _check_given(given: Mapping[str, Any], sweeps: bool) -> None:
    """Raises UserError for a setting of HYDRAS, and for a sweep or a `run_dir` beside `resume`."""
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
    """Composes every job and checks it against the schema.

    Returns:
        Whether this is a sweep, and the settings of Hydra's that all of its jobs share.
    """
    from llm_from_scratch.check import check as check_values
    from llm_from_scratch.config import Config

    more = []
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        jobs = jobs_of(words)
        first = compose(config_name, jobs[0])
        settings = HydraConfig.get()
        sweeps = sweeps or settings.mode == RunMode.MULTIRUN
        if "hydra/launcher" in given and not sweeps:
            raise UserError(
                f"hydra/launcher={given['hydra/launcher']}: starts the runs of a sweep: add -m, also for one run"
            )
        check_sweep(words, sweeps, settings.sweeper, str(given.get("resume") or ""))
        ends: list[list[str]] = []
        if sweeps and is_search(settings.sweeper):
            job, *ends = corner_jobs(*check_search(settings, words))
            jobs, first = [job], compose(config_name, job)
        if sweeps and "run_dir" in first and "hydra.sweep.dir" not in given:
            # One folder for all jobs, in any process and on any machine of a launcher, even where
            # they differ in a setting that names the folder, such as the text.
            more.append(f"hydra.sweep.dir={quoted(expanded(first.run_dir))}")
        for number, job in enumerate(jobs):
            check(final_config(compose(config_name, job) if number else first, job), job)
        for job in ends:
            check_values(final_config(compose(config_name, job), job), Config)
    return sweeps, more


def _check_completion(arguments: Sequence[str]) -> None:
    """Checks a request for shell completion; discards the standard error of a query.

    Raises:
        UserError: when it is no install, uninstall or query for bash, zsh or fish.
    """
    asked = [argument for argument in arguments if argument not in ("-sc", "--shell-completion")]
    if len(asked) != 1 or not re.fullmatch("(install|uninstall|query)=(bash|zsh|fish)", asked[0]):
        start = Path(sys.argv[0]).name
        start = f"python {start}" if start.endswith(".py") else start
        raise UserError(
            f'-sc {" ".join(asked)}: shell completion is for bash, zsh or fish: eval "$({start} -sc install=bash)"'
        )
    if asked[0].startswith("query") and os.environ.get("HYDRA_FULL_ERROR") != "1":
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # until the program ends


def checked(
    config_dir: Path, words: Sequence[str], *, resumes: str = "config.yaml", own: Sequence[str] = ()
) -> "Config":
    """Returns the settings of train.py for another command, checked as train.py checks them.

    Args:
        config_dir: the folder of the YAML files.
        words: the overrides.
        resumes: a file; `resume=last` is the newest run that holds it.
        own: settings that have an effect in this command alone.

    Raises:
        UserError: as `composed`; when a value is wrong, or a setting has no effect.
    """
    from llm_from_scratch.check import check, check_given
    from llm_from_scratch.config import Config

    values, given = _composed(config_dir, "train", words, resumes)
    config = check(values, Config)
    check_given(config, [key for key in given if key not in own])
    return config


def composed(config_dir: Path, config_name: str, words: Sequence[str]) -> DictConfig:
    """Returns the config of one job, for a command that needs nothing else of Hydra.

    Args:
        config_dir: the folder of the YAML files.
        config_name: the name of the main YAML file, without `.yaml`.
        words: the overrides.

    Raises:
        UserError: when a word is no setting, has several values, or cannot be composed.
    """
    return _composed(config_dir, config_name, words, "config.yaml")[0]


def _composed(config_dir: Path, config_name: str, words: Sequence[str], resumes: str) -> tuple[DictConfig, list[str]]:
    """Returns the config of one job, and the names of the settings that its words give."""
    words = [literal(word) for word in words]
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise UserError(f"{word}: settings are written as key=value; see --help")
    words = without_none(words, config_dir, config_name)
    if any(override.is_sweep_override() for override in parse(words)):
        raise UserError("several values of a setting: this command takes one; sweeps are for train.py")
    words = without_tuned(without_last(words, LAST | {"resume": resumes}))
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        return final_config(compose(config_name, list(words)), words), given_settings(words)
