"""config.yaml of a run folder: written with its checksum, read as untrusted input."""

import hashlib
import importlib.util
import io
import re
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from llm_from_scratch.config import LOGGERS, Config
from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.files import open_regular, refuse_links, write_file

MAX_CONFIG = 100_000  # bytes; a run's file has about 2,000
# The first and the last line of a run's config.yaml: a file with one must have both, and a
# checksum that holds.
HEADER = "# The settings of this run. The last line is the sha256 of the lines above it.\n"
FOOTER = "# sha256: "
# The keys that every version has written; a file that lacks one has been cut off.
GROUPS = {
    *("task", "seed", "run_dir", "model", "tokenizer", "data", "prepare", "optim", "trainer", "sample", "logger"),
    "callbacks",
}


def save_config(config: Config, path: Path) -> None:
    """Writes the config as YAML between HEADER and a line with the checksum."""
    content = HEADER + OmegaConf.to_yaml(OmegaConf.structured(config))
    write_file(path, f"{content}{FOOTER}{hashlib.sha256(content.encode()).hexdigest()}\n")


def read_config(path: Path) -> dict[str, Any]:
    """Reads a YAML file as plain values.

    Raises:
        UserError: when the file is missing, unreadable, too large or nested too deep, or its
            checksum is wrong.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MAX_CONFIG + 1)
        if len(content) > MAX_CONFIG:
            raise UserError(f"longer than {MAX_CONFIG} bytes")
        _verify(content)
        text = content.decode()
        # `save_config` writes no aliases; twelve lines of them can expand to terabytes. Deep
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
    """Raises UserError where the checksum in a file's last line does not match the lines above it.

    Version 0.1 wrote no checksum: its files pass. Line ends do not count: git, an archive or an
    editor may have made them CRLF, or removed the last one.
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
    """Returns the settings of a run folder, read from its config.yaml.

    Raises:
        UserError: when the file is missing, damaged or cut off, or a link out of the folder.
    """
    path = run / "config.yaml"
    refuse_links(path, run)
    values = read_config(path)
    missing = sorted(GROUPS - set(values))
    if missing:
        raise UserError(f"{path}: cut off, it has no {', '.join(missing)}: restore it from a copy")
    for name in GROUPS:
        if is_dataclass(getattr(Config(), name)) and not isinstance(values[name], dict):
            raise UserError(f"{path}: {name} has no settings: restore it from a copy")
    if isinstance(values["logger"], list):  # up to version 0.1: names alone
        values["logger"] = {str(name): {} for name in values["logger"]}
    return values


# Callbacks that write no files of their own and call no functions that a setting names. A page of
# `Live` can be reached from this machine alone.
HARMLESS = {
    "llm_from_scratch.training.explaining.Explain",
    "llm_from_scratch.training.live.Live",
    *(
        f"lightning.pytorch.callbacks.{name}"
        for name in ("DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelSummary", "Timer")
    ),
}


def refuse_foreign_code(config: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuses settings of an untrusted run folder that would run its code or write elsewhere.

    A callback, a logger or a custom optimizer is accepted if it is HARMLESS, or a class of the
    user's own module: neither of a library nor of the run folder.

    Args:
        config: the settings of the resumed run.
        given: the settings of the user's own configuration and command line; a setting that is
            equal in both is accepted.

    Raises:
        UserError: for the first refused setting, with what to give again.
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
        elif len(targets) != 1 or not (
            str(targets[0]) in HARMLESS or _users_own(targets[0], Path(str(config["run_dir"])))
        ):
            raise UserError(
                f"{group}.{name}: a run folder may be a stranger's, and this would run {', '.join(map(str, targets))}:"
                f" if that is yours, give the whole of it again: +{group}.{name}={{_target_: …}}"
            )
    for name, value in config["trainer"]["extra"].items():
        # A number, a switch, a time limit or deterministic=warn
        plain = isinstance(value, bool | int | float | None) or re.fullmatch(r"[\d:]+|warn", str(value))
        if value != given["trainer"]["extra"].get(name) and not plain:
            raise UserError(
                f"trainer.extra.{name}: a run folder may be a stranger's: if {value!r:.100} is yours, give it again"
            )


def _refuse_settings(logger: str, settings: Any, given: Any) -> None:
    """Raises UserError for a logger's setting that may write elsewhere or send data.

    A setting that the user has `given` with the same value is accepted. `logger` is one of LOGGERS.
    """
    harmless = LOGGERS[logger]
    for key, value in (settings or {}).items():
        if harmless is not None and key not in harmless and (key not in given or given[key] != value):
            raise UserError(
                f"logger.{logger}.{key}: a run folder may be a stranger's: if {value!r:.100} is yours, give it again:"
                f" logger={logger} +logger.{logger}.{key}=…"
            )


def _users_own(target: Any, run: Path) -> bool:
    """Returns whether a class is in a user's own module, not in a library or the run folder."""
    top = str(target).partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)  # does not import it
    except (ImportError, ValueError):
        return False
    if spec is None or not spec.has_location or spec.origin is None or top == "llm_from_scratch":
        return False
    places = [*map(Path, sysconfig.get_paths().values()), run]
    return not any(Path(spec.origin).resolve().is_relative_to(place.resolve()) for place in places)


def _targets(values: Any) -> Iterator[Any]:
    """Yields the `_target_` of every object that Hydra would instantiate from nested settings."""
    if isinstance(values, Mapping):
        if "_target_" in values:
            yield values["_target_"]
        values = list(values.values())
    for value in values if isinstance(values, list) else []:
        yield from _targets(value)
