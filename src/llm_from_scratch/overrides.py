"""The front between the shell and Hydra: literal values, one-line errors, and the configuration of a resumed run.

`hydra.main` stays what starts a job (sweeps, sweepers and launchers live in it). Before it, every job's overrides are composed once and
held against the schema, so that a mistake costs one line and no folder; around it, what a job raises becomes one line and an exit status.
"""

import difflib
import functools
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llm_from_scratch import mistakes, signals
from llm_from_scratch.errors import UserError, first_line, missing_extra
from llm_from_scratch.places import PATHS, expanded
from llm_from_scratch.terminal import for_stream, passing, printable, quote, use_utf8

# Values of these settings are the user's words or paths: taken as they stand, never read as Hydra's grammar.
LITERAL = (
    "prompt",
    "prompt_file",
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
    "tokenizer.path",
)
# What a choice of `trainer` decides as a whole: trainer=cpu after trainer=ddp_cpu is one process again.
HARDWARE = {"accelerator", "devices", "num_nodes", "strategy"}
# What a resumed run may change of its model, data and tokenizer: what changes neither shapes nor the text that is seen.
CHANGEABLE = ("model.dropout", "data.dir", "data.path", "data.micro_batch_size")
# What a resumed run has behind it, and what to do instead.
SETTLED = {
    "task": "its folder has its name already; leave it out",
    "init_from": "its weights are in its checkpoints; leave it out, or start a new run",
    "prepare.engine": "its text is prepared; where that is gone, `python -m llm_from_scratch prepare` makes it again",
    "prepare.workers": "its text is prepared; where that is gone, `python -m llm_from_scratch prepare` makes it again",
    "prepare.task": "its text is prepared; where that is gone, `python -m llm_from_scratch prepare` makes it again",
}
# Literal settings that a sweep may vary, written as choice(a,b).
SWEPT = ("init_from", "data.path", "data.dir", "data.column", "sample.prompt", "prompt_file")
# The settings that take `last`, and the file that the run must hold for them.
LAST = {"resume": "config.yaml", "init_from": "model/config.json", "run": "model/config.json"}
# What a run that starts from another's weights decides itself: the weights fit whatever these are.
OWN_MODEL = ("dropout", "init_std", "block_size", "rope_base")
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
Task = Callable[[DictConfig], Any]
# The name of the command's run, for the processes that the command starts: those of Lightning and of Hydra's launchers.
RUN_NAME = "LLM_FROM_SCRATCH_RUN_NAME"


def _run_name() -> str:
    """DATE_TIME_ID: the id keeps two runs that start in the same second apart, also when the clock goes back.

    All jobs of a sweep and all processes of a run share the name that their command chose and handed on in RUN_NAME.
    A configuration that a program composes by itself has a name of its own.
    """
    return os.environ.get(RUN_NAME) or _new_name()


def _new_name() -> str:
    name = time.strftime("%Y-%m-%d_%H-%M-%S") + "_" + secrets.token_hex(2)
    if _of_torchrun():
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torchrun keeps a store for its processes

        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        key = f"llm_from_scratch/run_name/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if os.environ["RANK"] == "0":
            store.set(key, name)
        return store.get(key).decode()
    if _of_slurm():
        started = time.localtime(int(os.environ.get("SLURM_JOB_START_TIME", "0")))
        parts = (os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_STEP_ID"), os.environ.get("SLURM_RESTART_COUNT"))
        return time.strftime("%Y-%m-%d_%H-%M-%S", started) + "_" + "_".join(part for part in parts if part)
    return name


def _of_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _of_slurm() -> bool:
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ


def shares_name() -> bool:
    """Whether processes of several machines agree on the name of their run: torchrun and srun let them."""
    return _of_torchrun() or _of_slurm()


OmegaConf.register_new_resolver("run_name", _run_name, replace=True, use_cache=True)
OmegaConf.register_new_resolver("expanded", expanded, replace=True)


def literal(argument: str) -> str:
    """`prompt=Oh, it's 5!` -> the same in Hydra's quotes; other arguments stay as they are."""
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in LITERAL or (value == "null" and key != "prompt"):
        return argument
    if key.lstrip("+") in PATHS:
        value = expanded(value)
    return f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    from llm_from_scratch.check import escape

    return QuotedString(escape(value), Quote.single).with_quotes()


def stop(error: BaseException) -> None:
    """Ends the process as the user expects: one line, status 2 for a mistake of the user's and 1 for a failure.

    Raises:
        SystemExit: always; the error itself where HYDRA_FULL_ERROR=1 asks for the traceback.
    """
    number = signals.interrupted()
    if number is not None:  # a library may make an ImportError of a KeyboardInterrupt
        raise SystemExit(128 + number)
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    line, status = explained(error)
    print(f"error: {printable(line, keep='')}", file=sys.stderr)
    raise SystemExit(status)


def explained(error: BaseException) -> tuple[str, int]:
    """The one line that tells an error, and the exit status that it stands for."""
    memory = out_of_memory(error)
    if memory or isinstance(error, UserError):
        return memory or first_line(error), 2
    return f"{type(error).__name__}: {first_line(error)} (HYDRA_FULL_ERROR=1 shows where)", 1


def out_of_memory(error: BaseException) -> str | None:
    """One line with what was needed and what to lower, where `error` is about memory."""
    text = str(error)
    if not (isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text):
        return None
    needed = re.search(r"allocate ([\d.]+ ?[KMGT]iB|\d+ bytes)", text)
    return (
        f"out of memory{f' (tried to allocate {needed[1]})' if needed else ''}: lower data.micro_batch_size (the batch stays the same),"
        " then model.block_size or the model's size; what was saved stays"
    )


def command(
    config_dir: Path,
    config_name: str,
    check: Callable[[DictConfig, Sequence[str]], Any],
    starting: str = "",
) -> Callable[[Task], Callable[[], None]]:
    """Makes a task of a composed configuration the program that the shell starts.

    Args:
        config_dir: the folder of the YAML files.
        config_name: the main one, without `.yaml`.
        check: raises UserError for a configuration that cannot run, given with the overrides that made it; called for
            every job before the first one starts.
        starting: a line for a terminal while the checks load what they need; it goes with the next line.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def job(config: DictConfig) -> Any:
            try:
                return task(config)
            except Exception as error:
                if HydraConfig.get().mode == RunMode.MULTIRUN and os.environ.get("HYDRA_FULL_ERROR") != "1":
                    return _failed(error, config)
                stop(error)

        @signals.ending
        def program() -> None:
            use_utf8()
            # Lightning starts the other processes of a DDP run with this process's arguments, which went through here already.
            if not any(argument.startswith(signals.LIGHTNING_CHILD) for argument in sys.argv):
                os.environ[RUN_NAME] = _new_name()  # in place of that of another command, which started this one
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


def _failed(error: Exception, config: DictConfig) -> float:
    """Tells why one run of a sweep failed, and keeps the line for the table; the other runs go on.

    Returns:
        Infinity: the worst validation loss, so that a sweeper that minimises it keeps away from there.
    """
    from llm_from_scratch.config import FAILURE
    from llm_from_scratch.files import write_file

    line, _ = explained(error)
    print(f"error: {printable(line, keep='')}", file=sys.stderr)
    SweepTable.failures += 1
    if "run_dir" in config:
        folder = run_folder(config)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / FAILURE, line + "\n")
    return math.inf


def _front(
    arguments: list[str], config_name: str, config_dir: Path, check: Callable[[DictConfig, Sequence[str]], Any]
) -> list[str]:
    """Checks every job that the arguments ask for; returns the arguments as Hydra wants them."""
    flags = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
    if flags & {"--shell-completion", "-sc"}:
        _check_completion(arguments)
        return arguments
    if flags & {"--help", "-h", "--hydra-help", "--version"}:
        return arguments
    modes = sorted(flags & {"--run", "-r", "--multirun", "-m", "--cfg", "-c", "--info", "-i"})
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)}: Hydra takes one of them; see --hydra-help")
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.startswith("-") and flag not in HYDRA_FLAGS:
            value = value if equals else next(iter(arguments[place + 1 :]), "VALUE")
            raise UserError(f"{flag}: settings are written as key=value, without dashes: {flag.strip('-')}={value}")
    sweeps = bool(flags & MULTIRUN)
    arguments = [argument if sweeps and _is_choice(argument) else literal(argument) for argument in arguments]
    words = [word for word in arguments if ("=" in word and not word.startswith("-")) or word.startswith("~")]
    others = [word for word in arguments if word not in words]
    words = _without_none(words, config_dir, config_name)
    for place, (before, word) in enumerate(zip(["", *others], others, strict=False)):
        if not word.startswith("-") and not before.startswith("-"):
            key, _, value = word.partition(":")
            value = value or next((other for other in others[place + 1 :] if other not in ("=", ":")), "VALUE")
            raise UserError(f"{word}: settings are written as key=value, without spaces: {key}={value}")
    words = _without_last(words)
    given = {each.key_or_group: None if each.is_sweep_override() else each.value() for each in _parse(words)}
    for key in given:
        for name, instead in HYDRAS.items():
            if key == name or key.startswith(f"{name}."):
                raise UserError(f"{key}: cannot be given here: {instead}")
    if given.get("resume"):
        if "run_dir" in given:
            raise UserError(
                "run_dir: a resumed run goes on in its own folder; leave it out, or start a new run with init_from=RUN"
            )
        words.append(literal(f"run_dir={given['resume']}"))
        if sweeps:
            raise _no_sweep(str(given["resume"]))
    if not flags & {
        "--config-name",
        "-cn",
        "--config-path",
        "-cp",
        "--config-dir",
        "-cd",
    }:  # YAML files elsewhere: Hydra's matter
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
            jobs = _jobs(words)
            first = _compose(config_name, jobs[0])
            settings = HydraConfig.get()
            sweeps = sweeps or settings.mode == RunMode.MULTIRUN
            _check_sweep(words, sweeps, settings.sweeper, str(given.get("resume") or ""))
            if sweeps and "run_dir" in first and "hydra.sweep.dir" not in given:
                # One folder for all jobs, in whatever process and on whatever machine a launcher starts them, and also
                # where they differ in what names the folder of a run, such as the text.
                words.append(f"hydra.sweep.dir={_quoted(expanded(first.run_dir))}")
            for number, job in enumerate(jobs):
                check(final_config(_compose(config_name, job) if number else first, job), job)
    if not sweeps and not set(modes) - MULTIRUN:
        words.append("hydra.output_subdir=null")  # config.yaml says all, and is written when nothing can be refused
    return others + words


def _check_completion(arguments: Sequence[str]) -> None:
    """Holds what asks for shell completion against what Hydra knows, and keeps a query quiet: its terminal is in mid-line.

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


def _without_none(words: Sequence[str], config_dir: Path, config_name: str) -> list[str]:
    """Gives `group=null` and `~group` their meaning, none of it, which Hydra's grammar does not know.

    Raises:
        UserError: a choice is needed there.
    """
    main = OmegaConf.to_container(OmegaConf.load(config_dir / f"{config_name}.yaml"))  # interpolations as they stand
    assert isinstance(main, dict)
    defaults = main.get("defaults") or []
    absent = {next(iter(entry)) for entry in defaults if isinstance(entry, dict) and None in entry.values()}
    kept = []
    for word in words:
        key, _, value = word.removeprefix("~").partition("=")
        group = config_dir / key
        if not group.is_dir() or not (word.startswith("~") or value == "null"):
            kept.append(word)
        elif (group / "none.yaml").exists():
            kept.append(f"{key}=none")
        elif key not in absent:
            options = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
            raise UserError(f"{word}: a choice is needed: {key}= one of {options}")
    return kept


def _is_choice(argument: str) -> bool:
    """Whether a sweep is asked to vary a setting that is otherwise taken literally: `data.path=choice(a.txt,b.txt)`."""
    key, _, value = argument.partition("=")
    return key.lstrip("+") in SWEPT and value.startswith("choice(") and value.endswith(")")


def _no_sweep(run: str) -> UserError:
    return UserError(
        f"resume={run}: a sweep makes new runs and resumes none: leave the sweep out, or use init_from={run}, which"
        " starts each from its weights"
    )


def _check_sweep(words: Sequence[str], sweeps: bool, sweeper: Mapping[str, Any], resume: str) -> None:
    """Refuses several values without a sweep, and values that a sweep would not vary.

    Args:
        words: the overrides of all jobs.
        sweeps: whether this is a sweep.
        sweeper: Hydra's settings of it.
        resume: the run to go on with, or nothing.

    Raises:
        UserError: in one line, with what to write.
    """
    if sweeps and resume:
        raise _no_sweep(resume)
    params = sweeper.get("params") or {}
    grid = str(sweeper.get("_target_")).endswith(".BasicSweeper")
    for override, word in zip(_parse(words), words, strict=True):
        key = override.key_or_group
        if override.is_sweep_override() and not sweeps:
            raise UserError(f"{word}: several values: add -m to make one run for each")
        if override.is_sweep_override() and not override.is_discrete_sweep() and grid:
            raise UserError(
                f"{word}: Hydra's own sweeper takes lists of values alone: add sweep=optuna, or write {key}=A,B"
            )
        if sweeps and key in params:
            raise UserError(
                f"{word}: the sweep has values for it ({params[key]}): leave it out, or sweep over it alone with -m"
            )
        value = override.value()
        if not (sweeps and key in LITERAL and isinstance(value, str) and "," in value):
            continue
        if key in SWEPT and key != "sample.prompt" and not Path(value).exists():
            raise UserError(f"{key}={value}: is taken as one value; for one run each write {key}='choice({value})'")
        if key == "run_dir":
            print(f"run_dir={value}: is one folder, in which each run has a numbered one", file=sys.stderr)
        if key not in SWEPT:
            continue
        print(f"{key}={value}: is one value; for one run each write {key}='choice(…)'", file=sys.stderr)


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
    if any(override.is_sweep_override() for override in _parse(words)):
        raise UserError("several values of a setting: this command takes one; sweeps are for train.py")
    words = _without_last(words, LAST | {"resume": resumes})
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        return final_config(_compose(config_name, list(words)), words)


def _without_last(words: Sequence[str], needs: Mapping[str, str] = LAST) -> list[str]:
    """`resume=last` -> the folder that it stands for, which is said; so every process of the command has the same one."""
    settled = []
    for override, word in zip(_parse(words), words, strict=True):
        key = override.key_or_group
        if key in needs and override.value() == "last":
            from llm_from_scratch.checkpoint import find_run

            word = literal(f"{key}={find_run('last', needs[key], key)}")
        settled.append(word)
    return settled


def _parse(words: Sequence[str]) -> list[Override]:
    parsed, seen = [], set()
    hydras = GlobalHydra.instance()
    loader = hydras.config_loader() if hydras.is_initialized() else None  # knows the choices that glob(*) stands for
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
        if group.startswith("hydra/") and error.options is not None:
            if choice.split("_")[0] in ("optuna", "joblib", "submitit"):
                raise missing_extra(f"{group}={choice}: is not installed here", "sweep") from None
            package = f"hydra-{choice}-{group.split('/')[1]}"
            raise UserError(f"{group}={choice}: is not installed here: pip install {package}") from None
        options = list(error.options or [])
        if group == "data" and (Path(choice).suffix or Path(choice).exists()):
            raise UserError(f"data={choice}: a file or folder of your own is data=text data.path={choice}") from None
        typed = mistakes.meant(group, choice)
        nearest = [typed] if typed else difflib.get_close_matches(choice, options, n=1)
        meant = f"; did you mean {nearest[0]}?" if nearest else "."
        raise UserError(f"{group}={choice}: there is no such choice{meant} There are: {', '.join(options)}") from None
    except (HydraException, OmegaConfBaseException) as error:
        from llm_from_scratch.check import NEEDS, unknown

        key = re.search(r"Could not override '[+~]*([\w./@-]+)'", str(error))
        known = _flat(hydra.compose(config_name)) if key else []
        if key and key[1].startswith("logger."):
            chosen = [word for word in job if word.startswith("logger=")]
            raise UserError(f"{key[1]}: {_of_logger(key[1], _flat(hydra.compose(config_name, chosen)))}") from None
        if key and key[1] in known:
            raise UserError(f"{key[1]}: a new name in it is written as +{key[1]}.NAME=VALUE") from None
        if key and key[1].startswith("trainer.extra."):
            raise UserError(
                f"{key[1]}: a further argument of Lightning's Trainer is written as +{key[1]}=VALUE"
            ) from None
        if key and key[1].startswith("callbacks."):
            name = key[1].split(".")[1]
            raise UserError(
                f"{key[1]}: a callback is given as a whole: '+callbacks.{name}={{_target_: MODULE.CLASS, …}}'"
            ) from None
        if key and key[1] in NEEDS:
            raise UserError(f"{key[1]}: changes nothing without {NEEDS[key[1]][1]}") from None
        if key:
            raise UserError(unknown(key[1], known)) from None
        raise UserError(first_line(error)) from None
    HydraConfig.instance().set_config(config)  # for ${hydra:…} in the values
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    return config


def _of_logger(key: str, known: list[str]) -> str:
    """What to write rather than a setting of a logger that the configuration does not have."""
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


def experiments() -> Iterator[tuple[str, DictConfig]]:
    """Each `experiment=` that is one run, as it is composed; where the front checks, for Hydra is initialised there."""
    for path in sorted((Path(_main_config_dir()) / "experiment").glob("*.yaml")):
        config = hydra.compose("train", [f"experiment={path.stem}"], return_hydra_config=True)
        if config.hydra.mode != RunMode.MULTIRUN:
            OmegaConf.set_struct(config, False)
            config.pop("hydra")
            yield path.stem, config


def final_config(config: DictConfig, job: Sequence[str]) -> DictConfig:
    """What a job runs with: the composed configuration, or for `resume=RUN` the saved one under this job's overrides.

    A group's choice, such as `trainer=gpu`, changes what its own file sets and leaves the rest as it was saved.
    With `init_from=RUN` the model's shape and the tokenizer are those of that run.

    Raises:
        UserError: in one line, where an override would change the shapes, the data or the tokenizer of the run.
    """
    if "trainer" in config and "logger" not in config:  # logger=[]: none of them
        OmegaConf.set_struct(config, False)
        config.logger = {}
    if not config.get("resume"):
        _take_shape(config, job)
        return config
    from llm_from_scratch.check import as_config
    from llm_from_scratch.config import Config
    from llm_from_scratch.saved_config import read_run, refuse_foreign_code

    saved = read_run(Path(config.resume))
    result = as_config(saved | {"resume": config.resume, "run_dir": config.resume})
    for override in _parse(job):
        key = override.key_or_group
        if key.startswith("hydra"):
            continue
        if override.is_delete():
            raise UserError(
                f"~{key}: a resumed run has all its settings: give the value that it is to have, {key}=VALUE"
            )
        if (Path(_main_config_dir()) / key).is_dir():
            value = override.value()
            choices = value if isinstance(value, list) else [value]
            names = {name for choice in choices for name in _set_by(key, choice) if name != "task"}
            names |= {f"trainer.{name}" for name in HARDWARE} if key == "trainer" else set()
            names |= {"logger"} & {key}
        else:
            names = {key}
        for name in names:
            OmegaConf.update(result, name, OmegaConf.select(config, name), merge=False, force_add=True)
    defaults = asdict(Config())  # a run may be older than a setting
    run = OmegaConf.merge(as_config(defaults), as_config(saved))
    fixed = [f"{group}.{name}" for group in ("model", "data", "tokenizer") for name in defaults[group]]
    for key in (*fixed, "optim.name", *SETTLED):
        before, now = OmegaConf.select(run, key), OmegaConf.select(result, key, default=OmegaConf.select(run, key))
        if now != before and key not in CHANGEABLE:
            advice = f"to change it, start a new run ({quote(f'init_from={config.resume}')} takes over its weights)"
            raise UserError(f"{key}={now}: the resumed run has {before}; {SETTLED.get(key, advice)}")
    refuse_foreign_code(*(OmegaConf.to_container(each, resolve=True) for each in (result, config)))  # type: ignore[arg-type]
    return result


def _take_shape(config: DictConfig, job: Sequence[str]) -> None:
    """Sets the model's shape and the tokenizer to those of the run whose weights the new one starts from.

    What the job itself asks for must agree; what weights do not decide (OWN_MODEL) is the job's where it asks, and
    the other run's where it does not. A file of torch's holds weights alone, and decides nothing.

    Raises:
        UserError: the job asks for another shape or tokenizer, or there is no such run.
    """
    if not isinstance(config.get("init_from"), str):
        return

    from llm_from_scratch.checkpoint import PICKLES, model_folder, saved_settings
    from llm_from_scratch.tokenizer import load_tokenizer

    if Path(config.init_from).suffix in PICKLES:
        return
    origin = Path(config.init_from)
    model = saved_settings(origin)["model"]
    tokenizer = load_tokenizer(model_folder(origin))
    brought = {f"model.{name}": value for name, value in model.items() if name in config.model}
    brought |= {
        "tokenizer.kind": tokenizer.kind,
        "tokenizer.vocab_size": tokenizer.vocab_size if tokenizer.kind == "bpe" else None,
    }
    asked: dict[str, str] = {}  # setting -> the override that sets it
    for override, word in zip(_parse(job), job, strict=True):
        key, value = override.key_or_group, override.value()
        if (Path(_main_config_dir()) / key).is_dir():
            choices = value if isinstance(value, list) else [value]
            asked |= {name: f"{word} sets {name}" for choice in choices for name in _set_by(key, choice)}
        else:
            asked[key] = key
    for name, value in brought.items():
        now = OmegaConf.select(config, name)
        group, _, inner = name.partition(".")
        free = inner in OWN_MODEL and not (inner == "block_size" and model["position"] == "learned")
        if group == "model" and free and (name in asked or inner in ("dropout", "init_std")):
            continue
        if name in asked and now != value:
            what = "tokenizer" if group == "tokenizer" else "model"
            raise UserError(f"{asked[name]}={now}: init_from={origin} brings its own {what}, of {value}: leave it out")
        OmegaConf.update(config, name, value)


def _set_by(group: str, choice: Any) -> Iterator[str]:
    """The settings that the file of a group's choice sets; an experiment's, with those of the files it builds on."""
    file = Path(_main_config_dir()) / group / f"{choice}.yaml"
    if not file.is_file():  # null: none
        return
    text = file.read_text(encoding="utf-8")
    content = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(content, dict)
    defaults = content.pop("defaults", [])
    if "@package _global_" not in text:
        yield from (f"{group}.{name!s}" for name in content)
        return
    for entry in defaults:
        if isinstance(entry, str):
            yield from _set_by(group, entry)
        else:
            ((other, name),) = entry.items()
            yield from _set_by(str(other).removeprefix("override").strip().lstrip("/"), name)
    yield from _names(content)


def _names(content: Mapping[Any, Any]) -> Iterator[str]:
    """The settings of a file that stands at the top of the configuration; Hydra's own are left out."""
    from llm_from_scratch.config import Config

    for key, value in content.items():
        if is_dataclass(getattr(Config(), str(key), None)) and isinstance(value, dict):
            yield from (f"{key}.{name}" for name in value)
        elif key != "hydra":
            yield str(key)


def may_fetch(config: DictConfig, composed: DictConfig, job: Sequence[str]) -> bool:
    """Whether a job may download its text: a new run, or a resumed one whose `data` the user has given again."""
    given = any(override.key_or_group in ("data", "data.url", "data.download") for override in _parse(job))
    same = all(
        OmegaConf.select(config, f"data.{name}") == OmegaConf.select(composed, f"data.{name}")
        for name in ("name", "file", "url", "layouts", "download", "downloads", "corpora", "dir")
    )
    return not composed.get("resume") or (given and same)


def _main_config_dir() -> str:
    return next(source.path for source in HydraConfig.get().runtime.config_sources if source.provider == "main")


def job_overrides() -> list[str]:
    """The overrides of the job that runs now, without Hydra's own."""
    return list(HydraConfig.get().overrides.task)


def given_settings(job: Sequence[str]) -> list[str]:
    """The names of the settings that a job's overrides set one by one: neither groups nor Hydra's own."""
    return [
        override.key_or_group
        for override in _parse(job)
        if not override.key_or_group.startswith("hydra")
        and not (Path(_main_config_dir()) / override.key_or_group).is_dir()
    ]


def run_folder(config: DictConfig) -> Path:
    """The folder of the job that runs now, as it was given: `run_dir`, or a numbered folder below it for a job of a sweep."""
    settings = HydraConfig.get()
    if settings.mode != RunMode.MULTIRUN:
        return Path(expanded(config.run_dir))
    folder = Path(settings.sweep.dir) / settings.sweep.subdir
    # Lightning starts the other processes of a DDP run with these arguments: this one job, rather than the sweep again.
    own = [word for word in job_overrides() if not word.startswith(("run_dir=", "task="))]
    sys.argv[1:] = [*own, literal(f"run_dir={folder}"), "hydra.mode=RUN"]
    return folder


def announce(folder: str) -> None:
    """`run: PATH` on standard output. A launcher's processes leave it to the process of the command (`SweepTable`)."""
    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN and not _is_basic(settings):
        return
    print(for_stream(f"run: {folder}", sys.stdout), flush=True)


def _is_basic(settings: Any) -> bool:
    """Whether the jobs of a sweep run one after another in this process."""
    return str(settings.launcher._target_).endswith(".BasicLauncher")


class SweepTable(Callback):
    """A Hydra callback: a multirun ends with one table of all its runs."""

    failures = 0  # of the sweep that this process made

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra with its whole configuration."""
        from llm_from_scratch.training.results import completed, print_sweep

        root = Path(config.hydra.sweep.dir)
        if not _is_basic(config.hydra):  # its processes may have their output elsewhere
            for run in completed(root):
                print(for_stream(f"run: {run}", sys.stdout), flush=True)
        # A launcher may have made the runs in other processes.
        SweepTable.failures = max(SweepTable.failures, print_sweep([root]))
