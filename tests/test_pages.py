"""A text of a stranger's on a page is text: read back by a Markdown reader, it is what it was."""

import pytest
from markdown_it import MarkdownIt

from llm_from_scratch.pages import as_html, as_markdown

HOSTILE = [
    "[click](http://evil.example)",
    "![p](//evil.example/p.png)",
    "<img src=x onerror=alert(1)>",
    "<http://evil.example>",
    "[a]: http://evil.example",
    "`code` **bold** _em_ ~~gone~~ $x^2$",
    "a | b | c",
    "# heading",
    "- item",
    "+ item",
    "12. item",
    "7) item",
    "- - -",
    "---",
    "=== under",
    "    indented",
    "&lt; &#91;x&#93;(y)",
    "back\\slash \\",
    "first\n\n# second\n- third",
]


def shown(source: str) -> tuple[str, set[str]]:
    """What a reader sees of some Markdown, and the kinds of its parts."""
    tokens = [
        part
        for token in MarkdownIt("commonmark").enable("table").parse(source)
        for part in (token, *(token.children or []))
    ]
    seen = "".join(token.content for token in tokens if token.type in ("text", "text_special", "code_inline"))
    return seen.replace("\u2060", ""), {token.type for token in tokens}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("where", ["{}", "# {}", "**{}**", "| x |\n|---|\n| {} |", "- {}"])
def test_markdown_shows_text_as_text(text: str, where: str) -> None:
    seen, kinds = shown(where.format(as_markdown(text)))
    plain, plain_kinds = shown(where.format("word"))
    line = " ".join(text.replace("\n\n", "\n").replace("\n", " ⏎ ").split())
    assert seen.replace("    ", "") == plain.replace("word", line)
    assert kinds - {"text_special"} == plain_kinds


@pytest.mark.parametrize(
    "text", ["see http://evil.example", "www.evil.example", "WWW.evil.example", "a@evil.example", "ftp://x"]
)
def test_what_readers_make_links_of_without_brackets_is_parted(text: str) -> None:
    source = as_markdown(text)
    assert "://" not in source
    assert "www." not in source.lower()
    assert "@e" not in source


def test_numbers_stay_as_they_are() -> None:
    for number in ("42.70", "-0.5", "+0.031 – +0.042", "1,234", "12"):
        assert as_markdown(number) == number


def test_controls_have_no_picture() -> None:
    assert as_html('\x1b[31m<b title="x">\u202e') == "\ufffd[31m&lt;b title=&quot;x&quot;&gt;\ufffd"
    assert as_markdown("\x1b]0;x\x07") == "\ufffd\\]0;x\ufffd"
