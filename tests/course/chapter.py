"""A chapter of the course, read: its blocks, links and pictures. Run as a program, it runs the
Python blocks of a chapter and prints what each of them prints, as JSON.
"""

import contextlib
import io
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

REPO = Path(__file__).resolve().parents[2]
COURSE = REPO / "docs" / "course"
CHAPTERS = sorted(COURSE.glob("[0-9][0-9]_*.md"))
READER = MarkdownIt("commonmark").enable("table")


@dataclass
class Block:
    """A fenced block: its language, its text, the number of its first line in the file, its section,
    and the text block directly below it (None without one).
    """

    language: str
    text: str
    line: int
    section: str
    output: str | None = None


@dataclass
class Link:
    """A link or a picture: its text (or alternative text), its target, its section, its line."""

    text: str
    target: str
    section: str
    line: int
    is_picture: bool = False


@dataclass
class Page:
    """A page of Markdown, read."""

    path: Path
    source: str
    blocks: list[Block] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    headings: list[tuple[int, str, int]] = field(default_factory=list)  # level, text, line
    prose: dict[str, str] = field(default_factory=dict)  # section -> its words, without blocks

    @property
    def python(self) -> list[Block]:
        return [block for block in self.blocks if block.language == "python"]

    @property
    def sections(self) -> list[str]:
        return [text for level, text, _ in self.headings if level == 2]

    @property
    def anchors(self) -> set[str]:
        """What `#…` may name: headings, as GitHub turns them into anchors."""
        found: list[str] = []
        for _, text, _ in self.headings:
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
        return set(found)


def plain(token: Token) -> str:
    """The text of an inline token, as a reader sees it."""
    return "".join(" " if child.type.endswith("break") else child.content for child in token.children or [])


def read(path: Path) -> Page:
    """Reads a page of Markdown."""
    source = path.read_text(encoding="utf-8")
    page = Page(path, source)
    section, before, level = "", None, 0
    for token in READER.parse(source):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "heading_open":
            level = int(token.tag[1])
        elif token.type == "inline":
            if level:
                page.headings.append((level, plain(token), line))
                section, level = (plain(token), 0) if level == 2 else (section, 0)
            else:
                page.prose[section] = page.prose.get(section, "") + " " + plain(token)
            page.links += links(token, section, line)
        elif token.type == "fence":
            block = Block(token.info.strip(), token.content, line + 1, section)
            ends = before.line + before.text.count("\n") if before else 0  # the line of its closing fence
            if block.language == "text" and before and line <= ends + 2:
                before.output = block.text
            before = block if block.language == "python" else None
            page.blocks.append(block)
    return page


def links(token: Token, section: str, line: int) -> list[Link]:
    """The links and pictures of an inline token."""
    found: list[Link] = []
    inside: Link | None = None
    for child in token.children or []:
        if child.type == "link_open":
            inside = Link("", unquote(str(child.attrGet("href"))), section, line)
            found.append(inside)
        elif child.type == "link_close":
            inside = None
        elif child.type == "image":
            found.append(Link(child.content, unquote(str(child.attrGet("src"))), section, line, is_picture=True))
        elif inside:
            inside.text += child.content
    return found


def broken(page: Page) -> list[str]:
    """The links to files and headings that are not there, one line each."""
    faults = []
    for link in page.links:
        if re.match(r"[a-z]+:", link.target):
            continue
        name, _, anchor = link.target.partition("#")
        target = (page.path.parent / name).resolve() if name else page.path
        if not target.exists():
            faults.append(f"{page.path.name}:{link.line}: {link.target}: there is no such file")
        elif anchor and target.suffix == ".md" and anchor not in read(target).anchors:
            faults.append(f"{page.path.name}:{link.line}: {link.target}: there is no such heading")
    return faults


def run(path: Path) -> list[str]:
    """Runs the Python blocks of a page in order in one namespace; returns what each prints."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = []
    for block in read(path).python:
        # Empty lines before it: a traceback names the line of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(code, namespace)
        printed.append(output.getvalue())
    return printed


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]))))
