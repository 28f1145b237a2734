"""Text as pages show it: in Markdown and in HTML, where a text of a stranger's is text and nothing else."""

import re
from html import escape

# GitHub and other readers make links of these even without brackets; a word joiner inside is not seen and parts them.
_JOINER = "&#8288;"
_LINKS = re.compile(r"(?<=/)(?=/)|(?<=@)|(?<=www)(?=\.)", re.IGNORECASE)


def printed(text: str) -> str:
    """Characters that have no picture as U+FFFD; line ends stay."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def as_html(text: str) -> str:
    """Text for an element or a quoted attribute."""
    return escape(printed(text))


def as_markdown(text: str) -> str:
    """Text on one line of Markdown: no markup, HTML, links, pictures, mathematics, lists or cells of a table come of it."""
    line = re.sub(r"[ ]*\n\s*", " ⏎ ", printed(text).strip("\n"))
    line = _LINKS.sub("\0", line)
    line = escape(line, quote=False)
    line = re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", line)
    # At its start, a line could begin a list, or be one of dashes below a heading.
    line = re.sub(r"^(\s*)([-+](?=\s|$)|[-=](?=[-=\s]*$))", r"\1\\\2", line)
    line = re.sub(r"^(\s*\d+)(?=[.)](\s|$))", r"\1\\", line)
    line = re.sub(r"^ {4,}", lambda m: "&#32;" * len(m[0]), line)  # which would make it a block of code
    return line.replace("\0", _JOINER)
