"""The front between the shell and Hydra: literal values, one-line errors, and the configuration of a resumed run.

`hydra.main` stays what starts a job (sweeps, sweepers and launchers live in it). Before it, every job's overrides are composed once and
held against the schema, so that a mistake costs one line and no folder; around it, what a job raises becomes one line and an exit status.
"""

import difflib
import functools
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llm_from_scratch.errors import UserError, first_line

# Values of these settings are the user's words or paths: taken as they stand, never read as Hydra's grammar.
LITERAL = (
    "prompt",
    "stop",
    "run",
    "run_dir",
    "resume",
    "init_from",
    "data.path",
    "data.dir",
    "data.column",
    "data.encoding",
    "data.separator",
    "sample.prompt",
)
# What a choice of `trainer` decides as a whole: trainer=cpu after trainer=ddp_cpu is one process again.
HARDWARE = {"accelerator", "devices", "num_nodes", "strategy"}
# What a resumed run may change of its model, data and tokenizer: what changes neither shapes nor the text that is seen.
CHANGEABLE = ("model.dropout", "data.dir", "data.path", "data.micro_batch_size")
Task = Callable[[DictConfig], Any]


@functools.cache
def _run_name() -> str:
    """DATE_TIME_ID: the id keeps two runs that start in the same second apart, also when the clock goes back.

    One for all jobs of a sweep, and one for all processes of a run, whoever started them.
    """
    name = time.strftime("%Y-%m-%d_%H-%M-%S") + "_" + secrets.token_hex(2)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torchrun keeps a store for its processes

        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        key = f"llm_from_scratch/run_name/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if os.environ["RANK"] == "0":
            store.set(key, name)
        return store.get(key).decode()
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        started = time.localtime(int(os.environ.get("SLURM_JOB_START_TIME", "0")))
        parts = (os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_STEP_ID"), os.environ.get("SLURM_RESTART_COUNT"))
        return time.strftime("%Y-%m-%d_%H-%M-%S", started) + "_" + "_".join(part for part in parts if part)
    return name


OmegaConf.register_new_resolver("run_name", _run_name, replace=True)


def literal(argument: str) -> str:
    """`prompt=Oh, it's 5!` -> the same in Hydra's quotes; other arguments stay as they are."""
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in LITERAL or (value == "null" and key != "prompt"):
        return argument
    from llm_from_scratch.config import escape

    return f"{key}={QuotedString(escape(value), Quote.single).with_quotes()}"


def stop(error: BaseException) -> None:
    """Ends the process as the user expects: one line, status 2 for a mistake of the user's and 1 for a failure.

    Raises:
        SystemExit: always; the error itself where HYDRA_FULL_ERROR=1 asks for the traceback.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    memory = out_of_memory(error)
    users = memory is not None or isinstance(error, UserError)
    line = memory or (
        first_line(error) if users else f"{type(error).__name__}: {first_line(error)} (HYDRA_FULL_ERROR=1 shows where)"
    )
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2 if users else 1)


def out_of_memory(error: BaseException) -> str | None:
    """One line with what was needed and what to lower, where `error` is about memory."""
    text = str(error)
    if not (isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text):
        return None
    needed = re.search(r"allocate ([\d.]+ ?[KMGT]iB|\d+ bytes)", text)
    return (
        f"out of memory{f' (tried to allocate {needed[1]})' if needed else ''}: lower data.micro_batch_size (the result stays the same),"
        " then model.block_size or the model's size; what was saved stays"
    )


def command(
    config_dir: Path, config_name: str, check: Callable[[DictConfig], Any]
) -> Callable[[Task], Callable[[], None]]:
    """Makes a task of a composed configuration the program that the shell starts.

    Args:
        config_dir: the folder of the YAML files.
        config_name: the main one, without `.yaml`.
        check: raises UserError for a configuration that cannot run; called for every job before the first one starts.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def job(config: DictConfig) -> Any:
            try:
                return task(config)
            except Exception as error:
                stop(error)

        def program() -> None:
            # Lightning starts the other processes of a DDP run with this process's arguments, which went through here already.
            if not any(argument.startswith("hydra.job.name=train_ddp_process_") for argument in sys.argv):
                try:
                    sys.argv[1:] = _front(sys.argv[1:], config_name, config_dir, check)
                except Exception as error:
                    stop(error)
            hydra.main(version_base="1.3", config_path=str(config_dir), config_name=config_name)(job)()

        return program

    return decorate


def _front(arguments: list[str], config_name: str, config_dir: Path, check: Callable[[DictConfig], Any]) -> list[str]:
    """Checks every job that the arguments ask for; returns the arguments as Hydra wants them."""
    flags = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
    if flags & {"--help", "-h", "--hydra-help", "--version"}:
        return arguments
    modes = sorted(
        flags & {"--run", "-r", "--multirun", "-m", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
    )
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)}: Hydra takes one of them; see --hydra-help")
    arguments = [literal(argument) for argument in arguments]
    words = [word for word in arguments if ("=" in word and not word.startswith("-")) or word.startswith("~")]
    others = [word for word in arguments if word not in words]
    for before, word in zip(["", *others], others, strict=False):
        if not word.startswith("-") and not before.startswith("-"):
            raise UserError(f"{word}: settings are written as key=value; see --help")
    given = {override.key_or_group: override.value() for override in _parse(words)}
    if given.get("resume"):
        if "run_dir" in given:
            raise UserError(
                "run_dir: a resumed run goes on in its own folder; leave it out, or start a new run with init_from=RUN"
            )
        if given["resume"] == "last":
            given["resume"] = str(_last_run())
            words = [word for word in words if not word.startswith("resume=")] + [literal(f"resume={given['resume']}")]
        words.append(literal(f"run_dir={given['resume']}"))
    if not flags & {
        "--config-name",
        "-cn",
        "--config-path",
        "-cp",
        "--config-dir",
        "-cd",
    }:  # YAML files elsewhere: Hydra's matter
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
            for job in _jobs(words):
                check(final_config(_compose(config_name, job), job))
    return others + words


def composed(config_dir: Path, config_name: str, words: Sequence[str]) -> DictConfig:
    """The configuration of one job, for a command that needs no more of Hydra. UserError: as for the scripts, in one line."""
    words = [literal(word) for word in words]
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise UserError(f"{word}: settings are written as key=value; see --help")
    if any(override.is_sweep_override() for override in _parse(words)):
        raise UserError("several values of a setting: this command takes one; sweeps are for train.py")
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        return final_config(_compose(config_name, list(words)), words)


def _last_run() -> Path:
    from llm_from_scratch.checkpoint import last_run

    return last_run()


def _parse(words: Sequence[str]) -> list[Override]:
    parsed, seen = [], set()
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
            parsed.append(OverridesParser.create().parse_override(word))
        except HydraException:
            raise UserError(f"{word}: not a value that Hydra can read; put it into quotes: \"{key}='…'\"") from None
    return parsed


def _jobs(words: Sequence[str]) -> list[list[str]]:
    """The overrides of every job: one list for a single run, the product for a sweep (without what only its sweeper can draw)."""
    jobs: list[list[str]] = [[]]
    for override, word in zip(_parse(words), words, strict=True):
        if not override.is_sweep_override():
            choices = [word]
        elif override.is_discrete_sweep():
            choices = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        else:
            continue
        jobs = [[*job, choice] for job in jobs for choice in choices][:1000]  # a larger sweep is checked in part
    return jobs


def _compose(config_name: str, job: list[str]) -> DictConfig:
    try:
        config = hydra.compose(config_name, job, return_hydra_config=True)
    except MissingConfigException as error:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        options = list(error.options or [])
        nearest = difflib.get_close_matches(choice, options, n=1)
        meant = f"; did you mean {nearest[0]}?" if nearest else "."
        raise UserError(f"{group}={choice}: there is no such choice{meant} There are: {', '.join(options)}") from None
    except (HydraException, OmegaConfBaseException) as error:
        from llm_from_scratch.config import unknown

        key = re.search(r"Could not override '[+~]*([\w./@-]+)'", str(error))
        if key:
            raise UserError(unknown(key[1], _flat(hydra.compose(config_name)))) from None
        raise UserError(first_line(error)) from None
    HydraConfig.instance().set_config(config)  # for ${hydra:…} in the values
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    return config


def _flat(config: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key in map(str, config):
        found.append(prefix + key)
        if OmegaConf.is_dict(config._get_node(key)):
            found += _flat(config[key], f"{prefix}{key}.")
    return found


def final_config(config: DictConfig, job: Sequence[str]) -> DictConfig:
    """What a job runs with: the composed configuration, or for `resume=RUN` the saved one under this job's overrides.

    A group's choice, such as `trainer=gpu`, changes what its own file sets and leaves the rest as it was saved.

    Raises:
        UserError: in one line, where an override would change the shapes, the data or the tokenizer of the run.
    """
    if not config.get("resume"):
        return config
    from llm_from_scratch.config import Config, as_config, read_config

    saved = read_config(Path(config.resume) / "config.yaml")
    result = as_config(saved | {"resume": config.resume, "run_dir": config.resume})
    for override in _parse(job):
        key = override.key_or_group
        own = Path(_main_config_dir()) / key / f"{override.value()}.yaml"
        if own.is_file():
            names = {str(name) for name in OmegaConf.load(own)} - {"defaults"} | (
                HARDWARE if key == "trainer" else set()
            )
            if OmegaConf.is_dict(config[key]) and names <= set(config[key]):
                for name in names:
                    OmegaConf.update(result, f"{key}.{name}", config[key][name], force_add=True)
                continue
        if not key.startswith("hydra"):
            OmegaConf.update(result, key, OmegaConf.select(config, key), force_add=True)
    defaults = asdict(Config())  # a run may be older than a setting
    run = OmegaConf.merge(as_config(defaults), as_config(saved))
    fixed = [f"{group}.{name}" for group in ("model", "data", "tokenizer") for name in defaults[group]]
    for key in (*fixed, "optim.name"):
        before, now = OmegaConf.select(run, key), OmegaConf.select(result, key, default=OmegaConf.select(run, key))
        if now != before and key not in CHANGEABLE:
            advice = f"to change it, start a new run (init_from={config.resume} takes over its weights)"
            raise UserError(f"{key}={now}: the resumed run has {before}; {advice}")
    return result


def _main_config_dir() -> str:
    return next(source.path for source in HydraConfig.get().runtime.config_sources if source.provider == "main")


def job_overrides() -> list[str]:
    """The overrides of the job that runs now, without Hydra's own."""
    return list(HydraConfig.get().overrides.task)


def run_folder(config: DictConfig) -> Path:
    """The folder of the job that runs now, as it was given: `run_dir`, or a numbered folder below it for a job of a sweep."""
    settings = HydraConfig.get()
    if settings.mode != RunMode.MULTIRUN:
        return Path(config.run_dir)
    folder = Path(settings.sweep.dir) / settings.sweep.subdir
    # Lightning starts the other processes of a DDP run with these arguments: this one job, rather than the sweep again.
    own = [word for word in job_overrides() if not word.startswith("run_dir=")]
    sys.argv[1:] = [*own, literal(f"run_dir={folder}"), "hydra.mode=RUN"]
    return folder


class SweepTable(Callback):
    """A Hydra callback: a multirun ends with one table of all its runs."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra with its whole configuration."""
        from llm_from_scratch.training.results import print_sweep

        print_sweep(Path(config.hydra.sweep.dir))
