"""A text of a stranger's on a page is text: read back by a Markdown reader, it is what it was."""

import io
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from llm_from_scratch.pages import (
    Heading,
    Paragraph,
    Part,
    Picture,
    Quote,
    Quotes,
    Table,
    as_html,
    as_markdown,
    html_page,
    markdown,
    show,
)

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


BLOCKS = [
    Heading(1, "A <title>"),
    Paragraph("one\ntwo"),
    Table("T", ["name", "empty", "number"], [["a|b", "", "1.50"], ["3", "", "-2"]]),
    Quotes("Q", ("bits", "text", "highest (bits)"), "bits", [Quote("0.5", [Part("a<", 6.0, 0.4), Part("\n* b")])]),
]


def test_the_blocks_in_markdown() -> None:
    assert markdown(BLOCKS) == (
        "# A &lt;title&gt;\n\none ⏎ two\n\n"
        "**T**\n\n| name | number |\n|---|---:|\n| a\\|b | 1.50 |\n| 3 | -2 |\n\n"
        "**Q**\n\n| bits | text | highest (bits) |\n|---|---|---|\n| 0.5 | a&lt; ⏎ \\* b | “a&lt;” 6.0 |\n"
    )


def test_the_blocks_in_html(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"png")
    page = html_page([*BLOCKS, Picture("p.png", "a <caption>")], tmp_path)
    assert "<title>A &lt;title&gt;</title>" in page
    assert '<tr><th><span>name</span></th><th class="number"><span>number</span></th></tr>' in page
    assert '<tr><td>a|b</td><td class="number">1.50</td></tr>' in page
    # A run of a sweep, named by its number
    assert '<tr><td>3</td><td class="number">-2</td></tr>' in page
    assert (
        '<div class="passage"><b>0.5 bits</b>\n'
        '<span style="background:rgba(var(--hot),0.40)" title="6.0 bits">a&lt;</span>\n* b</div>'
    ) in page
    assert '<img alt="a &lt;caption&gt;" src="data:image/png;base64,cG5n">' in page


@pytest.mark.parametrize("width", [16, 80])
def test_the_blocks_in_a_terminal(width: int) -> None:
    written = io.StringIO()
    show(BLOCKS, Console(width=width, file=written), elsewhere="; --json has all")
    shown = written.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert ("1.50" in shown) == (width == 80 or "too narrow" not in shown)
    for text in ("A <title>", "one two", "a|b", "0.5: a<"):
        assert text in shown


def test_a_table_drops_its_last_columns_where_a_terminal_is_narrow() -> None:
    written = io.StringIO()
    table = Table("", ["name", "first", "second", "third"], [["a", "1", "2", "3"], ["other", "", "", "4"]])
    show([table], Console(width=24, file=written), elsewhere="; --json has all")
    assert "first" in written.getvalue()
    assert "other" not in written.getvalue()  # its row would be empty
    assert "too narrow here for: second, third; --json" in " ".join(written.getvalue().split())


def test_a_picture_for_a_dark_page_is_embedded_beside_the_light_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"light")
    (tmp_path / "b.png").write_bytes(b"dark")
    page = html_page([Picture("a.png", "A caption", dark="b.png")], tmp_path)
    assert '<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,ZGFyaw==">' in page
    assert 'src="data:image/png;base64,bGlnaHQ="' in page
    assert "<picture>" not in html_page([Picture("a.png", "A caption")], tmp_path).replace("picture img", "")
