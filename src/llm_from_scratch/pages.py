"""Pages: headings, paragraphs, tables, pictures and quotes -> terminal, Markdown, HTML.

    blocks -> show (a rich console) | markdown (a text) | html_page (one file, no network)

Texts and names are untrusted: every output escapes them.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

# Markdown readers make links of `//`, `@` and `www.` even without brackets; an invisible word
# joiner prevents it.
_JOINER = "&#8288;"
_LINKS = re.compile(r"(?<=/)(?=/)|(?<=@)|(?<=www)(?=\.)", re.IGNORECASE)
_NUMBER = re.compile(r"[-–+e\d.,% ]*")
STYLE = """
:root { color-scheme: light dark; --text: #222; --back: #fff; --faint: #5a5a5a; --line: #d4d4d4; --hot: 222,45,38 }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; --back: #16181c; --faint: #a2a2a2; --line: #3a3d42; --hot: 255,82,66 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
body { color: var(--text); background: var(--back) }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
p, .passage, figcaption { max-width: 60rem; overflow-wrap: anywhere }
.wide { overflow-x: auto; max-width: 100% } table { border-collapse: collapse; font-size: .875rem; margin: .5rem 0 1rem }
th, td { padding: .25rem .4rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { border-bottom: 2px solid var(--faint); vertical-align: bottom; min-width: 4.75rem; overflow-wrap: anywhere }
th span { white-space: nowrap }
td { max-width: 26rem; overflow-wrap: break-word }
td:first-child { min-width: 8rem } td:last-child:not(.number) { min-width: 10rem } .number { text-align: right }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; min-width: 0 }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px } picture img { background: none }
.passage { white-space: pre-wrap; border-left: 3px solid var(--line); padding: .25rem .75rem; margin: .5rem 0 }
.passage b { color: var(--faint); font-size: .875rem }
figure { margin: 1rem 0 } figcaption { color: var(--faint); font-size: .875rem }
details { margin: .5rem 0 } summary { cursor: pointer; padding: .25rem 0 }
@media (max-width: 40rem) { figure img { max-width: none; width: 40rem } }
"""
WHOLE_WORD = 12  # characters: no word of a table's header up to this length is broken
HOTTEST_PARTS = 5  # spans of a quote that Markdown names


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 3."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table of text cells; a column without any text is not shown."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def columns(self) -> list[tuple[str, list[str]]]:
        """Returns (header, cells) of each column that has at least one non-empty cell."""
        cells = [[row[i] for row in self.rows] for i in range(len(self.header))]
        return [(name, column) for name, column in zip(self.header, cells, strict=True) if any(column)]


@dataclass(frozen=True)
class Picture:
    """A PNG file in the page's folder, with a caption; `dark`: the same for a dark page, if any."""

    file: str
    caption: str
    dark: str | None = None


@dataclass(frozen=True)
class Part:
    """A span of a quoted text.

    HTML colours a span that has a value; Markdown names the spans with the highest values.
    """

    text: str
    value: float | None = None
    heat: float = 0.0  # strength of the colour, 0 to 1


@dataclass(frozen=True)
class Quote:
    """A quoted text with a label, split into consecutive spans."""

    label: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Quotes:
    """Quotes under one title; `columns` are the headers of label, text and highest spans."""

    title: str
    columns: tuple[str, str, str]
    unit: str  # of the values
    quotes: Sequence[Quote]


@dataclass(frozen=True)
class Folded:
    """Blocks behind a title that opens them; a terminal leaves them out."""

    title: str
    blocks: "Sequence[Block]"


Block = Heading | Paragraph | Table | Picture | Quotes | Folded


# --------------------------------------------------------------------------------------------- text
def printed(text: str) -> str:
    """Returns the text with U+FFFD for each unprintable character; line feeds stay."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def one_line(text: str, limit: int = 60) -> str:
    """Returns an untrusted text as one printable line, cut in its middle to `limit` characters."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))
    return line if len(line) <= limit else f"{line[: limit // 2]}…{line[-(limit // 2 - 1) :]}"


def as_html(text: str) -> str:
    """Escapes a text for an HTML element or a quoted attribute."""
    return escape(printed(text))


def as_markdown(text: str) -> str:
    """Escapes a text as one line of Markdown without markup, HTML, links, lists or table cells."""
    line = re.sub(r"[ ]*\n\s*", " ⏎ ", printed(text).strip("\n"))
    line = _LINKS.sub("\0", line)
    line = escape(line, quote=False)
    line = re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", line)
    # At its start, a line could begin a list; a line of dashes makes the line above it a heading.
    line = re.sub(r"^(\s*)([-+](?=\s|$)|[-=](?=[-=\s]*$))", r"\1\\\2", line)
    line = re.sub(r"^(\s*\d+)(?=[.)](\s|$))", r"\1\\", line)
    # Four leading spaces would make the line a block of code.
    line = re.sub(r"^ {4,}", lambda m: "&#32;" * len(m[0]), line)
    return line.replace("\0", _JOINER)


# ----------------------------------------------------------------------------------------- terminal
def show(blocks: Sequence[Block], console: Console, elsewhere: str = "") -> None:
    """Prints the blocks on a rich console.

    elsewhere: where all columns can be read; printed after the names of columns that do not fit.
    """
    for block in blocks:
        match block:
            case Heading(_, text):
                console.print(RichText(one_line(text, 1000), style="bold"))
            case Paragraph(text):
                console.print(RichText(one_line(text, 1000)))
            case Picture(file, caption):
                console.print(RichText(one_line(f"{caption} ({file})", 1000)))
            case Quotes(title, _, _, quotes):
                console.print(RichText(one_line(title, 120)))
                for quote in quotes:
                    text = "".join(part.text for part in quote.parts)
                    console.print(RichText(f"{one_line(quote.label, 40)}: {printed(text)}"))
            case Folded():
                pass
            case Table(title, _, _):
                table, dropped = fitted(block, console.width)
                if title:
                    table.title, table.title_justify = RichText(one_line(title, 120)), "left"
                console.print(table)
                if dropped:
                    console.print(RichText(f"too narrow here for: {', '.join(dropped)}{elsewhere}"))


def fitted(block: Table, width: int) -> tuple[RichTable, list[str]]:
    """Fits a table into `width` columns of the terminal.

    Headers and texts are folded. If that is not enough, the last columns are dropped.

    Returns:
        The table, and the headers of the dropped columns.
    """
    columns = block.columns()
    needed = [(_is_number(cells), max(map(len, [name, *cells])), _least(name, cells)) for name, cells in columns]
    kept = len(columns)
    while kept > 2 and sum(least for _, _, least in needed[:kept]) + 3 * kept + 1 > width:
        kept -= 1
    folded = sum(natural for _, natural, _ in needed[:kept]) + 3 * kept + 1 > width
    table = RichTable()
    for (name, _), (number, natural, least) in zip(columns[:kept], needed[:kept], strict=True):
        fixed = (least if folded else natural) if number else None
        table.add_column(RichText(name), justify="right" if number else "left", overflow="fold", width=fixed)
    for row in zip(*(cells for _, cells in columns[:kept]), strict=True):
        if kept < len(columns) and not any(row[1:]):
            continue  # its other cells are in the dropped columns
        table.add_row(*(RichText(one_line(cell, 200)) for cell in row))
    return table, [name for name, _ in columns[kept:]]


def _is_number(cells: Sequence[str]) -> bool:
    return all(_NUMBER.fullmatch(cell) for cell in cells)


def _least(name: str, cells: Sequence[str]) -> int:
    """Returns the smallest readable width of a column: numbers stay whole, words may be folded."""
    words = max(map(len, name.split()), default=0)
    longest = max(map(len, cells), default=0)
    return max(words, longest if _is_number(cells) else min(24, longest))


# ----------------------------------------------------------------------------------------- Markdown
def markdown(blocks: Sequence[Block]) -> str:
    """Returns the blocks as one Markdown text; pictures are references to their files."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {as_markdown(text)}"
        case Paragraph(text):
            return as_markdown(text)
        case Picture(file, caption):
            return f"![{as_markdown(caption)}]({file})\n\n*{as_markdown(caption)}*"
        case Quotes(title, columns, _, quotes):
            lines = [_markdown_quote(quote) for quote in quotes]
            return "\n".join([f"**{as_markdown(title)}**", "", f"| {' | '.join(columns)} |", "|---|---|---|", *lines])
        case Folded(title, blocks):
            return "\n\n".join([f"**{as_markdown(title)}**", *(_markdown(one) for one in blocks)])
        case Table(title, _, _):
            shown = block.columns()
            lines = [
                f"| {' | '.join(as_markdown(name) for name, _ in shown)} |",
                "|" + "|".join("---:" if _is_number(cells) else "---" for _, cells in shown) + "|",
                *(
                    f"| {' | '.join(map(as_markdown, row))} |"
                    for row in zip(*(cells for _, cells in shown), strict=True)
                ),
            ]
            return "\n".join([*([f"**{as_markdown(title)}**", ""] if title else []), *lines])


def _markdown_quote(quote: Quote) -> str:
    """Returns a quote as a table row; its last cell names the spans with the highest values."""
    highest = sorted(quote.parts, key=lambda part: -(part.value or 0.0))[:HOTTEST_PARTS]
    named = ", ".join(f"“{as_markdown(part.text)}” {part.value:.1f}" for part in highest if part.value)
    return f"| {as_markdown(quote.label)} | {as_markdown(''.join(part.text for part in quote.parts))} | {named} |"


# --------------------------------------------------------------------------------------------- HTML
def html_page(blocks: Sequence[Block], folder: Path) -> str:
    """Returns the blocks as one HTML page without scripts.

    Pictures are embedded as data, and a Content-Security-Policy forbids every request.

    Args:
        blocks: the contents; the first heading is the title of the page.
        folder: the folder of the pictures.
    """
    title = next((block.text for block in blocks if isinstance(block, Heading)), "")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{as_html(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(_html(block, folder) for block in blocks)
        + "\n</body>\n</html>\n"
    )


def _html(block: Block, folder: Path) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{as_html(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{as_html(text)}</p>"
        case Picture(file, caption, dark):
            image = f'<img alt="{as_html(caption)}" src="{_data(folder / file)}">'
            if dark:
                source = f'<source media="(prefers-color-scheme: dark)" srcset="{_data(folder / dark)}">'
                image = f"<picture>{source}{image}</picture>"
            return f"<figure>{_scrolled(caption, image)}<figcaption>{as_html(caption)}</figcaption></figure>"
        case Quotes(title, (name, _, _), unit, quotes):
            return f"<h4>{as_html(title)}</h4>\n" + "\n".join(_html_quote(quote, name, unit) for quote in quotes)
        case Table(title, _, _):
            columns = block.columns()
            aligned = [_align(*cells) for _, cells in columns]
            head = "".join(
                f"<th{align}>{_html_header(name)}</th>" for align, (name, _) in zip(aligned, columns, strict=True)
            )
            body = "\n".join(
                "<tr>"
                + "".join(f"<td{align}>{as_html(cell)}</td>" for align, cell in zip(aligned, row, strict=True))
                + "</tr>"
                for row in zip(*(cells for _, cells in columns), strict=True)
            )
            table = _scrolled(title or columns[0][0], f"<table>\n<tr>{head}</tr>\n{body}\n</table>")
            return f"<h4>{as_html(title)}</h4>\n{table}" if title else table
        case Folded(title, blocks):
            inside = "\n".join(_html(one, folder) for one in blocks)
            return f"<details><summary>{as_html(title)}</summary>\n{inside}\n</details>"


def _scrolled(name: str, content: str) -> str:
    """Returns a part of the page that scrolls by itself where it is too wide, by keyboard, too."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{as_html(name)}">{content}</div>'


def _data(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _html_quote(quote: Quote, name: str, unit: str) -> str:
    parts = "".join(
        as_html(part.text)
        if part.value is None
        else f'<span style="background:rgba(var(--hot),{part.heat:.2f})" title="{part.value:.1f} {as_html(unit)}">'
        f"{as_html(part.text)}</span>"
        for part in quote.parts
    )
    return f'<div class="passage"><b>{as_html(f"{quote.label} {name}".rstrip())}</b>\n{parts}</div>'


def _html_header(name: str) -> str:
    """Returns a header as HTML; words of up to WHOLE_WORD characters are never broken.

    A table that is then too wide for its window scrolls.
    """
    words = ((word, as_html(word)) for word in name.split(" "))
    return " ".join(f"<span>{shown}</span>" if len(word) <= WHOLE_WORD else shown for word, shown in words)


def _align(*cells: str) -> str:
    return ' class="number"' if any(cells) and _is_number(cells) else ""
