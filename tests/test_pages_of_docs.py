"""The pages of docs/ beside the course: their links, their commands, the error lines that they explain."""

import ast
import re
from pathlib import Path

import pytest
from conftest import REPO
from course.chapter import CHAPTERS, broken, read
from course.test_chapters import check_command, commands_of

import llm_from_scratch

DOCS = REPO / "docs"
PAGES = [
    *(REPO / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.glob("*.md")),
    DOCS / "course" / "index.md",
]


@pytest.mark.parametrize("path", PAGES, ids=[path.stem for path in PAGES])
def test_its_links(path: Path) -> None:
    assert broken(read(path)) == []


@pytest.mark.parametrize("name", ["start", "troubleshooting"])
def test_its_commands(name: str) -> None:
    commands = [line for block in read(DOCS / f"{name}.md").blocks for line in commands_of(block)]
    assert commands
    for line in commands:
        check_command(line)


def skeletons(source: str) -> set[str]:
    """The texts of a Python file, with `…` for each value within them."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(re.sub(r"%[sd]|%\.?\d*g|\{[^{}]*\}", "…", node.value))
    return found


def test_error_lines_are_those_of_the_sources() -> None:
    """All that stands between the `…` of a line stands in a message of the sources, in its order."""
    messages = {text for path in (REPO / "src").rglob("*.py") for text in skeletons(path.read_text(encoding="utf-8"))}
    messages.add((REPO / "Makefile").read_text(encoding="utf-8"))
    messages = {text.replace("`", "") for text in messages}
    lines = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(lines) > 25
    assert [line for line in lines if not says(messages, line)] == []
    assert says({"a=…: must be … or more"}, "a=…: must be … or more")
    assert not says({"a=…: must be … or more"}, "a=…: may be … or more")


def says(messages: set[str], line: str) -> bool:
    """Whether the fixed parts of a line follow each other in one message, or in one and its advice."""
    fixed = [part for one in line.split("…") if len(part := one.strip(" :()")) > 2]
    return any(
        all(
            any(re.search(".*".join(map(re.escape, parts)), message, flags=re.DOTALL) for message in messages)
            for parts in (fixed[:place], fixed[place:])
        )
        for place in range(len(fixed))
    )


def test_the_reference_has_the_modules_that_others_name() -> None:
    """Those of the public names, and those that the chapters point at."""
    listed = {link.text: link for link in read(DOCS / "reference.md").links if link.target.endswith(".py")}
    for name, link in listed.items():
        if name.startswith("llm_from_scratch"):
            path = Path("../src", *name.split("."))
            assert link.target in (f"{path.as_posix()}.py", f"{path.as_posix()}/__init__.py")
    for public in llm_from_scratch.__all__:
        assert getattr(llm_from_scratch, public).__module__ in listed
    for chapter in CHAPTERS:
        for link in read(chapter).links:
            if link.section == "In the source" and "/src/" in link.target and link.target.endswith(".py"):
                name = link.target.partition("/src/")[2].removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                assert name in listed, f"{chapter.name} points at {name}, which docs/reference.md lacks"
