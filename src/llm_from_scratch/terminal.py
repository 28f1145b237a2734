"""Escaping of untrusted text for terminals, for rich and for shells.

Texts, names and settings may be a stranger's. A terminal obeys escape sequences, rich reads square
brackets as markup, and a shell runs `$(…)`: each gets the text in a form that it takes literally.
"""

import codecs
import contextlib
import functools
import logging
import os
import shlex
import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Unicode categories: controls and lone surrogates. The characters of _REORDERING are bidirectional
# marks, which reorder a line, and line separators, which end one.
_UNSHOWN = ("Cc", "Cs")
_REORDERING = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Returns the text with controls as visible escapes, such as `\x1b`; `keep` stays."""
    if text.isprintable():
        return text
    return "".join(c if c in keep or not _is_control(c) else _escape(c) for c in text)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _UNSHOWN or character in _REORDERING


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is not UTF-8
        code -= 0xDC00
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    if character in named:
        return named[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    """Returns the text as part of one line: white space as single spaces, controls escaped."""
    return printable(" ".join(text.split()), keep="")


def for_stream(text: str, stream: TextIO) -> str:
    """Returns text for standard output: escaped for a terminal, unchanged for a pipe or a file."""
    return printable(text) if stream.isatty() else text


def quote(word: str) -> str:
    """Quotes a word for bash, on one line: `$'…'` if it has control characters or line ends."""
    if not any(map(_is_control, word)):
        return shlex.quote(word)
    return "$'" + "".join(map(_ansi_c, word)) + "'"


def _ansi_c(character: str) -> str:
    """Returns one character as bash's `$'…'` writes it."""
    if character in "\\'":
        return f"\\{character}"
    if not _is_control(character):
        return character
    # A byte is three octal digits: a hexadecimal escape would absorb a digit that follows it.
    return "".join(f"\\{byte:03o}" for byte in _utf8(character))


def _utf8(character: str) -> bytes:
    try:
        return character.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return character.encode("utf-8", errors="surrogatepass")


def shell(*words: str) -> str:
    """Returns a command line to paste into a shell; words are quoted where they need it."""
    return " ".join(map(quote, words))


def argument(path: object) -> str:
    """Returns a path as the argument of a command, with `./` before `-x`, `~` and `last`.

    They would be an option, the home folder and the newest run.
    """
    word = str(path)
    return f"./{word}" if word.startswith(("-", "~")) or word == "last" else word


def use_utf8() -> None:
    """Makes both output streams UTF-8, whatever the machine's encoding.

    A program calls it once, at its start. Standard output passes bytes of names that are not UTF-8
    unchanged; standard error escapes them.
    """
    codecs.register_error("llm_from_scratch", _as_byte)
    for stream, errors in ((sys.stdout, "llm_from_scratch"), (sys.stderr, "backslashreplace")):
        with contextlib.suppress(
            AttributeError, ValueError, OSError
        ):  # none, one that a caller replaced, or a closed one
            stream.reconfigure(encoding="utf-8", errors=errors)  # type: ignore[union-attr]


def _as_byte(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handles an encoding error: returns the byte of a surrogate, or an escape if it has none.

    The second value is the index at which encoding continues.
    """
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    code = ord(character)
    return bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else _escape(character), error.start + 1


ERASED = "\x1b[1A\x1b[2K\r"  # one line up, and that line erased
_passing: list[str] = []  # the line that `passing` shows now, if any


@functools.cache
def note(line: str) -> None:
    """Prints a line on standard error, above a line of `passing`; only once, and only on rank 0."""
    if any(os.environ.get(name, "0") != "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        return  # rank 0 prints it
    sys.stderr.write(ERASED * len(_passing) + "".join(f"{shown}\n" for shown in (printable(line, keep=""), *_passing)))
    sys.stderr.flush()


@contextlib.contextmanager
def passing(line: str) -> Iterator[None]:
    """Shows a line in a terminal while the block runs, then erases it; prints nothing elsewhere."""
    shown = bool(line) and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if shown:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
        _passing.append(line)
    try:
        yield
    finally:
        if shown:
            _passing.pop()
            sys.stderr.write(ERASED)
            sys.stderr.flush()


class Formatter(logging.Formatter):
    """A log formatter that escapes control characters; Hydra's loggers use it, too (configs/)."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the formatted line with control characters as visible escapes."""
        return printable(super().format(record))


def end_echo() -> None:
    """Ends the terminal line on which Ctrl-C was echoed as ^C.

    A progress bar of rich, which replaces the stream, clears its own line.
    """
    if sys.stderr.isatty() and type(sys.stderr).__module__ != "rich.file_proxy":
        sys.stderr.write("\n")
        sys.stderr.flush()


def log_to_stderr(level: int = logging.INFO) -> None:
    """Logs bare lines to standard error: the package from `level` on, other libraries' warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("llm_from_scratch").setLevel(level)


# On a light background rich's yellow figures are unreadable, and its dark grey remainder of a bar
# looks like a full bar.
BARS = {
    **dict.fromkeys(("progress.download", "progress.elapsed", "progress.remaining", "progress.data.speed"), "default"),
    "bar.back": "bright_black",
}


def console(*, stderr: bool = False, width: int | None = None) -> "Console":
    """Returns a rich console that prints strings literally: no markup or emoji, controls escaped.

    Args:
        stderr: whether it prints on standard error, rather than standard output.
        width: the columns of an output that is not a terminal; None: rich's default, 80.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    from rich.theme import Theme

    class PlainConsole(Console):
        def render_str(self, text: str, **settings: Any) -> Text:
            return super().render_str(printable(text), **settings)

        def print(self, *objects: Any, **settings: Any) -> None:
            """Prints objects; a table's title is a line of its own, not folded to the table's
            width.
            """
            for one in objects:
                if isinstance(one, Table) and one.title:
                    super().print(one.title, soft_wrap=True)
                    one.title = None
            super().print(*objects, **settings)

    made = PlainConsole(stderr=stderr, highlight=False, markup=False, emoji=False, theme=Theme(BARS))
    if width and not made.is_terminal:
        made.width = width
    return made
