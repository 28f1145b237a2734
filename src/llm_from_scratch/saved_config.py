"""config.yaml of a run folder: written with its checksum, read as a stranger's file."""

import hashlib
import importlib.util
import io
import re
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from llm_from_scratch.config import LOGGERS, Config
from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.files import open_regular, refuse_links, write_file

MAX_CONFIG = 100_000  # bytes; ours have two thousand
# The first and the last line of a run's config.yaml: a file with one must have both, and a
# checksum that holds.
HEADER = "# The settings of this run. The last line is the sha256 of the lines above it.\n"
FOOTER = "# sha256: "
# What every version has written; a file without some of it has been cut off.
GROUPS = {
    *("task", "seed", "run_dir", "model", "tokenizer", "data", "prepare", "optim", "trainer", "sample", "logger"),
    "callbacks",
}


def save_config(config: Config, path: Path) -> None:
    """Writes plain values as YAML between HEADER and the checksum."""
    content = HEADER + OmegaConf.to_yaml(OmegaConf.structured(config))
    write_file(path, f"{content}{FOOTER}{hashlib.sha256(content.encode()).hexdigest()}\n")


def read_config(path: Path) -> dict[str, Any]:
    """The plain values of a YAML file.

    Raises:
        UserError: in one line, where it cannot be read or its checksum does not hold.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MAX_CONFIG + 1)
        if len(content) > MAX_CONFIG:
            raise UserError(f"longer than {MAX_CONFIG} bytes")
        _verify(content)
        text = content.decode()
        # `save_config` writes no aliases; twelve lines of them can stand for terabytes. Deep
        # nesting takes quadratic time.
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise UserError("it holds an alias")
            if depth > 20 or (isinstance(event, yaml.ScalarEvent) and event.value.count("${") > 100):
                raise UserError("nested too deep")
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} is no run folder: it has no {path.name}; name one of outputs/*/*, or last"
        ) from None
    except Exception as error:  # YAML parsers raise a whole family of errors
        raise UserError(f"{path}: cannot be read: {message_of(error, 300)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings")
    return values  # type: ignore[return-value]


def _verify(content: bytes) -> None:
    """Holds a file that `save_config` wrote against its last line; version 0.1 wrote no such line.

    The ends of lines do not count: git, an archive or an editor may have made them CRLF, or left
    the last one out.
    """
    content = content.replace(b"\r\n", b"\n")
    head, mark, last = content.rpartition(FOOTER.encode())
    if not mark and not content.startswith(HEADER.encode()):
        return
    if last.decode("ascii", "replace").removesuffix("\n") != hashlib.sha256(head).hexdigest() or not mark:
        raise UserError(
            "its bytes have changed since they were written: restore it from a copy, and give changes as settings behind"
            " resume=RUN; or, if the change is meant, delete its first and its last line"
        )


def read_run(run: Path) -> dict[str, Any]:
    """The settings of a run folder, from its config.yaml.

    Raises:
        UserError: in one line, where it is missing, damaged or cut off, or leads out of the folder.
    """
    path = run / "config.yaml"
    refuse_links(path, run)
    values = read_config(path)
    missing = sorted(GROUPS - set(values))
    if missing:
        raise UserError(f"{path}: cut off, it has no {', '.join(missing)}: restore it from a copy")
    if isinstance(values["logger"], list):  # up to version 0.1: names alone
        values["logger"] = {str(name): {} for name in values["logger"]}
    return values


# Lightning's callbacks that write no files of their own and call no functions that a setting names.
HARMLESS = {
    f"lightning.pytorch.callbacks.{name}"
    for name in ("DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelSummary", "Timer")
}


def refuse_foreign_code(config: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuses settings of a run folder that would run a stranger's code or write elsewhere.

    Callbacks, loggers and an optimizer go on where they are HARMLESS, or of a module of the user's
    own: no library's, and none of the run folder.

    Args:
        config: the settings of the resumed run.
        given: those that the user's own configuration and command line give; what is the same there
            is the user's.

    Raises:
        UserError: in one line, with what to give again.
    """
    objects = [
        *(("callbacks", name, settings) for name, settings in config["callbacks"].items()),
        *(("logger", name, settings) for name, settings in config["logger"].items()),
        *(("optim", name, settings) for name, settings in config["optim"].items() if name == "custom" and settings),
    ]
    for group, name, settings in objects:
        if settings == given[group].get(name):
            continue
        targets = list(_targets(settings))
        if group == "logger" and name in LOGGERS and not targets:
            _refuse_settings(name, settings, (given.get("logger") or {}).get(name) or {})
        elif len(targets) != 1 or not (targets[0] in HARMLESS or _users_own(targets[0], Path(str(config["run_dir"])))):
            raise UserError(
                f"{group}.{name}: a run folder may be a stranger's, and this would run {', '.join(map(str, targets))}:"
                f" if that is yours, give the whole of it again: +{group}.{name}={{_target_: …}}"
            )
    for name, value in config["trainer"]["extra"].items():
        # A time limit
        plain = isinstance(value, bool | int | float | None) or re.fullmatch(r"[\d:]+|warn", str(value))
        if value != given["trainer"]["extra"].get(name) and not plain:
            raise UserError(
                f"trainer.extra.{name}: a run folder may be a stranger's: if {value!r:.100} is yours, give it again"
            )


def _refuse_settings(logger: str, settings: Any, given: Any) -> None:
    """Refuses settings of one of LOGGERS that write elsewhere or send data, unless given again."""
    harmless = LOGGERS[logger]
    for key, value in (settings or {}).items():
        if harmless is not None and key not in harmless and (key not in given or given[key] != value):
            raise UserError(
                f"logger.{logger}.{key}: a run folder may be a stranger's: if {value!r:.100} is yours, give it again:"
                f" logger={logger} +logger.{logger}.{key}=…"
            )


def _users_own(target: Any, run: Path) -> bool:
    """Whether a class is of a module of the user's: no library, no file of the run folder."""
    top = str(target).partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)  # which runs nothing
    except (ImportError, ValueError):
        return False
    if spec is None or not spec.has_location or spec.origin is None or top == "llm_from_scratch":
        return False
    places = [*map(Path, sysconfig.get_paths().values()), run]
    return not any(Path(spec.origin).resolve().is_relative_to(place.resolve()) for place in places)


def _targets(values: Any) -> Iterator[Any]:
    """The `_target_` of every object that Hydra would make of nested settings."""
    if isinstance(values, Mapping):
        if "_target_" in values:
            yield values["_target_"]
        values = list(values.values())
    for value in values if isinstance(values, list) else []:
        yield from _targets(value)
