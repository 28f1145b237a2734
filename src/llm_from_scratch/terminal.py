"""Text on its way to a terminal, and words on their way into a shell.

Texts, names and settings may be a stranger's. A terminal obeys the escape sequences in what it is
shown, rich reads square brackets as markup, and a shell runs what stands in `$(…)`: each gets the
text in a form that it shows or takes as it is.
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

# Controls and lone surrogates by their category; the others reorder a line (bidirectional marks) or
# end one.
_UNSHOWN = ("Cc", "Cs")
_REORDERING = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, keep: str = "\n\t") -> str:
    r"""The text with everything that a terminal would obey as a visible escape, such as `\x1b`;
    `keep` stays as it is.
    """
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
    """The text as a part of one line: white space of any length is one space, controls are
    visible.
    """
    return printable(" ".join(text.split()), keep="")


def for_stream(text: str, stream: TextIO) -> str:
    """Data for standard output: visible escapes in a terminal, the text itself in a pipe or
    a file.
    """
    return printable(text) if stream.isatty() else text


def quote(word: str) -> str:
    """A word as bash reads it back; one with controls or line ends in `$'…'`, so that it stays on
    its line.
    """
    if not any(map(_is_control, word)):
        return shlex.quote(word)
    return "$'" + "".join(map(_ansi_c, word)) + "'"


def _ansi_c(character: str) -> str:
    """One character inside bash's `$'…'`."""
    if character in "\\'":
        return f"\\{character}"
    if not _is_control(character):
        return character
    # A byte is three octal digits: hexadecimal ones would take in a digit that follows.
    return "".join(f"\\{byte:03o}" for byte in _utf8(character))


def _utf8(character: str) -> bytes:
    try:
        return character.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return character.encode("utf-8", errors="surrogatepass")


def shell(*words: str) -> str:
    """A command to be pasted into a shell: its words, each quoted where it needs quotes."""
    return " ".join(map(quote, words))


def argument(path: object) -> str:
    """A path as the argument of a command, where `-x` would be an option, `~` the home and `last`
    the newest run.
    """
    word = str(path)
    return f"./{word}" if word.startswith(("-", "~")) or word == "last" else word


def use_utf8() -> None:
    """Makes both output streams UTF-8, whatever the machine's encoding: called once, where a
    program begins.

    Bytes of names that are not UTF-8 leave standard output as they came; standard error shows them
    as escapes.
    """
    codecs.register_error("llm_from_scratch", _as_byte)
    for stream, errors in ((sys.stdout, "llm_from_scratch"), (sys.stderr, "backslashreplace")):
        with contextlib.suppress(
            AttributeError, ValueError, OSError
        ):  # none, one that a caller replaced, or a closed one
            stream.reconfigure(encoding="utf-8", errors=errors)  # type: ignore[union-attr]


def _as_byte(error: UnicodeError) -> tuple[str | bytes, int]:
    """One surrogate at a time: the byte that it stands for, or its escape where it stands
    for none.
    """
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    code = ord(character)
    return bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else _escape(character), error.start + 1


ERASED = "\x1b[1A\x1b[2K\r"  # up, and erased: an interruption leaves a whole line behind
_passing: list[str] = []  # the line that a terminal shows for a while, if there is one


@functools.cache
def note(line: str) -> None:
    """One line on standard error, above a passing one; once, also where a launcher started several
    processes.
    """
    if any(os.environ.get(name, "0") != "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        return  # the first one says it
    sys.stderr.write(ERASED * len(_passing) + "".join(f"{shown}\n" for shown in (printable(line, keep=""), *_passing)))
    sys.stderr.flush()


@contextlib.contextmanager
def passing(line: str) -> Iterator[None]:
    """Shows a line in a terminal while something takes its time, and takes it away; elsewhere
    nothing is shown.
    """
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
    """Log lines as a terminal may have them; also the formatter of Hydra's loggers (configs/)."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, controls visible."""
        return printable(super().format(record))


def end_echo() -> None:
    """Ends the line of a terminal on which Ctrl-C was echoed as ^C; a progress bar, which has the
    stream, clears its own.
    """
    if sys.stderr.isatty() and type(sys.stderr).__module__ != "rich.file_proxy":
        sys.stderr.write("\n")
        sys.stderr.flush()


def log_to_stderr(level: int = logging.INFO) -> None:
    """The package's messages on standard error, each as its bare line; other libraries' from a
    warning on.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("llm_from_scratch").setLevel(level)


# Rich's yellow figures cannot be read on a light background, and its dark grey rest of a bar looks
# like a full one there.
BARS = {
    **dict.fromkeys(("progress.download", "progress.elapsed", "progress.remaining", "progress.data.speed"), "default"),
    "bar.back": "bright_black",
}


def console(*, stderr: bool = False, width: int | None = None) -> "Console":
    """A console of rich that takes every string as text: no markup, no emoji codes, controls
    visible.

    Args:
        stderr: on standard error, rather than standard output.
        width: of what is not a terminal, where rich would take 80 columns.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    from rich.theme import Theme

    class PlainConsole(Console):
        def render_str(self, text: str, **settings: Any) -> Text:
            return super().render_str(printable(text), **settings)

        def print(self, *objects: Any, **settings: Any) -> None:
            """The title of a table is a line of its own: rich folds it at the width of the
            table.
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
