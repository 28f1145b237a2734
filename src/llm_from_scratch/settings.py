"""The reference of every setting: name, type, default, range and meaning, read from the schema.

A setting's meaning is the comment at its field, behind it or above it. This module also makes
`docs/settings.md`.
"""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from itertools import groupby
from typing import Any

from llm_from_scratch.config import Config, GenerateConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.ranges import range_of

PROGRAMS: dict[str, type] = {"train.py": Config, "generate.py": GenerateConfig}
# Program -> its default values, nested as in its YAML file, interpolations unresolved.
Defaults = Mapping[str, Mapping[str, Any]]
HEAD = """# Settings

Every setting of `train.py` and `generate.py`, made from the schema by
`python -m llm_from_scratch settings --markdown`. A setting is given as `key=value`; a group's file
(`model=tiny`, `data=oz`, `optim=muon`, …) sets several at once. The defaults are those of the command
without any setting; `null` means none."""
# Words of a range that name none of its values.
JOINING = {"a", "list", "of", "one", "or", "true", "false"}


@dataclass(frozen=True)
class Setting:
    """A setting of the schema; `range` is "" where the meaning already lists the choices."""

    program: str
    key: str
    type: str
    default: str
    range: str
    meaning: str

    @property
    def group(self) -> str:
        """Returns the group's heading, such as `train.py: data`; without a group, the program."""
        group, dot, _ = self.key.partition(".")
        return f"{self.program}: {group}" if dot else self.program

    @property
    def explanation(self) -> str:
        """Returns the meaning, followed by the range in parentheses."""
        return self.meaning + (f" ({self.range})" if self.range else "")


def reference(defaults: Defaults, word: str = "") -> list[Setting]:
    """Returns the settings whose name or meaning contains `word`, in the order of the schema.

    Case is ignored. The settings of no group come first.

    Raises:
        UserError: when no setting matches.
    """
    found = [
        setting
        for program, schema in PROGRAMS.items()
        # Settings of no group first: the schema has some of them behind the groups.
        for setting in sorted(_settings(program, schema, defaults[program]), key=lambda one: "." in one.key)
        if word.lower() in f"{setting.key} {setting.meaning}".lower()
    ]
    if not found:
        raise UserError(f"{word}: no setting is named or described so; leave the word out to see all of them")
    return found


def groups(settings: list[Setting]) -> Iterator[tuple[str, list[Setting]]]:
    """Yields (group, settings) for each run of consecutive settings of one group."""
    for group, own in groupby(settings, key=lambda setting: setting.group):
        yield group, list(own)


def markdown(settings: list[Setting]) -> str:
    """Returns the Markdown page of the settings, with a table for each group."""
    lines = [HEAD]
    for group, own in groups(settings):
        lines += [f"\n## {group}\n", "| setting | default | meaning |", "|---|---|---|"]
        for setting in own:
            name = f"`{setting.key}` ({_cell(setting.type)})"
            lines.append(f"| {name} | `{_cell(setting.default)}` | {_cell(setting.explanation)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _settings(program: str, schema: type, defaults: Mapping[str, Any], prefix: str = "") -> Iterator[Setting]:
    meanings = _comments(schema)
    for item in fields(schema):
        if isinstance(item.type, type) and is_dataclass(item.type):
            yield from _settings(program, item.type, defaults.get(item.name, {}), f"{prefix}{item.name}.")
            continue
        key = prefix + item.name
        name = item.type.__name__ if isinstance(item.type, type) else str(item.type)
        meaning = meanings.get(item.name, "")
        allowed = range_of(item)
        words = allowed.words if allowed else ""
        if not set(re.findall(r"[\w-]+", words)) - JOINING - set(re.findall(r"[\w-]+", meaning)):
            words = ""
        default = item.default if item.default_factory is MISSING else item.default_factory()
        default = written(defaults.get(item.name, default))
        # Class names without their modules
        name = re.sub(r"(\w+\.)+", "", name.replace("None", "null"))
        yield Setting(program, key, name, default, words, meaning)


def written(value: Any) -> str:
    """Returns a value as it is written on the command line: `null`, `true`, `[1,2]`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else '""'


def _comments(schema: type) -> dict[str, str]:
    """Returns field -> its comment: the one on its lines, else the comment lines above it.

    Fields of base classes are included.
    """
    found: dict[str, str] = {}
    for cls in reversed(schema.__mro__):
        if not is_dataclass(cls):
            continue
        source = inspect.cleandoc("\n" + inspect.getsource(cls))
        comments, alone = {}, set()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                number, _ = token.start
                comments[number] = token.string.lstrip("# ")
                if token.line.lstrip().startswith("#"):
                    alone.add(number)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                within = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                lines = [line for line in within if line in comments]
                first = node.lineno
                while not any(line in comments for line in within) and first - 1 in alone:
                    first -= 1
                    lines = list(range(first, node.lineno))
                found[node.target.id] = " ".join(comments[line] for line in lines)
    return found
