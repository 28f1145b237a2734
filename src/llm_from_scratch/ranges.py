"""Ranges of settings, beside the fields of the schema: `lr: float = ranged(1e-3, POSITIVE)`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
KEY = "range"  # of a field's metadata
MAX_THREADS = 1024  # torch ends without a message where the system refuses more


class Range(NamedTuple):
    """A condition on a value beyond its type, and its words behind "must be" in the message."""

    holds: Callable[[Any], bool]
    words: str


def ranged(default: T, allowed: Range) -> T:
    """Returns a dataclass field with a default and a range; None (null) passes every range."""
    return field(default=default, metadata={KEY: allowed})


def range_of(item: "Field[Any]") -> Range | None:
    """Returns the range of a dataclass field, or None if it has none."""
    found: Range | None = item.metadata.get(KEY)
    return found


def choice(*names: str) -> Range:
    """Returns the range of the values `names`."""
    return Range(lambda value: value in names, "one of " + ", ".join(names))


def _is_encoding(name: str) -> bool:
    try:
        return bool("a".encode(name).decode(name))
    except (LookupError, ValueError):
        return False


def _is_below(path: str) -> bool:
    """Returns whether a path stays below its starting folder: it is relative and has no `..`."""
    return ".." not in Path(path).parts and not Path(path).is_absolute()


POSITIVE = Range(lambda value: value > 0, "above 0")
NOT_NEGATIVE = Range(lambda value: value >= 0, "0 or more")
SHARE = Range(lambda value: 0 <= value < 1, "at least 0 and below 1")
BELOW_HALF = Range(lambda value: 0 <= value < 0.5, "at least 0 and below 0.5")
PART = Range(lambda value: 0 < value < 1, "above 0 and below 1")
PART_OR_ALL = Range(lambda value: 0 < value <= 1, "above 0, at most 1")
NONE_TO_ALL = Range(lambda value: 0 <= value <= 1, "from 0 to 1")
LEVELS = Range(lambda value: value in (1, 2, 3, 4), "1, 2, 3 or 4")
SEED = Range(lambda value: 0 <= value < 2**32, "from 0 to 4294967295")
SWITCH = Range(lambda value: value in (True, False, "auto"), "true, false or auto")
NAME = Range(
    lambda value: bool(re.fullmatch(r"[\w-][\w.-]*", value)),
    "letters, digits, '_', '-' and '.', which is not the first",
)
# A configuration may be untrusted: its download must stay below data.dir or the folder of corpora.
BELOW_DATA = Range(_is_below, "a path below data.dir")
GLOBS_BELOW_DATA = Range(lambda value: all(map(_is_below, value)), "globs below data.dir")
ENCODING = Range(_is_encoding, "one of Python's text encodings: utf-8, cp1252, latin-1, utf-16")
BATCH_SCHEDULE = Range(
    lambda value: all(len(pair) == 2 and min(pair) > 0 for pair in value), "[[step, sequences], …], all above 0"
)
WEIGHTS = Range(lambda value: all(weight >= 0 for weight in value.values()), "names with weights of 0 or more")
CORPORA = Range(
    lambda value: all(isinstance(settings, dict) for settings in value.values()), "names, each with its settings"
)
DEVICES = Range(lambda value: value == "auto" or (isinstance(value, int) and value > 0), "a count above 0, or auto")
THREADS = Range(lambda value: 0 < value <= MAX_THREADS, f"above 0, at most {MAX_THREADS}")


def loggers(known: Mapping[str, Any]) -> Range:
    """Returns the range of `logger`: settings by name, each name `known` or with a `_target_`."""
    return Range(
        lambda value: all(
            isinstance(settings, dict) and (name in known or "_target_" in settings) for name, settings in value.items()
        ),
        "tensorboard, csv, wandb or mlflow, each with its settings, or NAME with a _target_: a logger of Lightning's",
    )
