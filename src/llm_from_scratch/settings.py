"""The reference of every setting: name, type, default, range and meaning, read from the schema itself.

The meaning of a setting is the comment at its field, so that it is written once. `docs/settings.md` is made from here.
"""

import ast
import inspect
import io
import tokenize
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any

from llm_from_scratch.config import RANGES, Config, GenerateConfig
from llm_from_scratch.errors import UserError

PROGRAMS: dict[str, type] = {"train.py": Config, "generate.py": GenerateConfig}
HEAD = """# Settings

Every setting of `train.py` and `generate.py`, made from the schema by
`python -m llm_from_scratch settings --markdown`. A setting is given as `key=value`; a group's file
(`model=tiny`, `data=oz`, `optim=muon`, …) sets several at once. `null` means none.
"""


@dataclass(frozen=True)
class Setting:
    """One leaf of the schema; `default` is the schema's, which a group's YAML file may replace."""

    program: str
    key: str
    type: str
    default: str
    range: str
    meaning: str


def reference(word: str = "") -> list[Setting]:
    """The settings whose name or meaning holds `word`, in the order of the schema.

    Raises:
        UserError: none does.
    """
    found = [
        setting
        for program, schema in PROGRAMS.items()
        for setting in _settings(program, schema)
        if word.lower() in f"{setting.key} {setting.meaning}".lower()
    ]
    if not found:
        raise UserError(f"{word}: no setting is named or described so; leave the word out to see all of them")
    return found


def markdown() -> str:
    """The page of all settings, a table for each group."""
    lines = [HEAD]
    group = None
    for setting in reference():
        parts = setting.key.split(".")
        own = f"{setting.program}: {parts[0] if len(parts) > 1 else 'top level'}"
        if own != group:
            group = own
            lines += [f"\n## {group}\n", "| setting | default | what |", "|---|---|---|"]
        what = _cell(setting.meaning + (f" ({setting.range})" if setting.range else ""))
        lines.append(f"| `{setting.key}` ({_cell(setting.type)}) | `{_cell(setting.default)}` | {what} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _settings(program: str, schema: type, prefix: str = "") -> Iterator[Setting]:
    meanings = _comments(schema)
    for item in fields(schema):
        if isinstance(item.type, type) and is_dataclass(item.type):
            yield from _settings(program, item.type, f"{prefix}{item.name}.")
            continue
        key = prefix + item.name
        name = item.type.__name__ if isinstance(item.type, type) else str(item.type)
        words = RANGES[key][1] if key in RANGES else ""
        yield Setting(program, key, name.replace("None", "null"), _default(item), words, meanings.get(item.name, ""))


def _default(item: Field) -> str:
    """The default as it is written on the command line."""
    value: Any = item.default if item.default_factory is MISSING else item.default_factory()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else '""'


def _comments(schema: type) -> dict[str, str]:
    """field -> the comment within or right behind its definition, of the class and those that it inherits from."""
    found: dict[str, str] = {}
    for cls in reversed(schema.__mro__):
        if not is_dataclass(cls):
            continue
        source = inspect.cleandoc("\n" + inspect.getsource(cls))
        comments = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                found[node.target.id] = " ".join(comments[line] for line in lines if line in comments)
    return found
