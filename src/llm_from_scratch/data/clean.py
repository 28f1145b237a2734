"""Text cleaning: raw bytes -> clean text.

Every cleaner is a pure function: text -> (clean text, count of what it removed or replaced). The
counts are reported, so no change is silent.
"""

import codecs
import functools
import re
import unicodedata
from collections import Counter

from llm_from_scratch.errors import UserError

# Increased when a change of this module gives other text for the same bytes: every corpus is then
# prepared anew.
CLEANING_VERSION = 1

# Project Gutenberg's boilerplate, in all wordings from 1991 to today: the last line of a header …
BOOK_BEGINS = r"""
    ^[ \t\ufeff]* \*+ [ ]? (?:START|BEGINNING)[ ]OF[ ] (?:THE[ ]|THIS[ ])? (?:COPYRIGHTED[ ])? PROJECT[ ]GUTENBERG\b
        (?: (?:[^\n]+\n){0,3}? [^\n]*\*{3}[ \t]*$ | [^\n]* )  # a long title goes on for some lines, up to its ***
  | ^[ \t\ufeff]* \** END[ *]*THE[ ]SMALL[ ]PRINT! [^\n]*
"""
# … the first line of a footer, …
BOOK_ENDED = r"""
    ^[ \t\ufeff]* \*+ [ ]? END[ ]OF[ ] (?:THE[ ]|THIS[ ])? (?:COPYRIGHTED[ ])? PROJECT[ ]GUTENBERG\b
  | ^[ \t\ufeff]* \*+ [ ]? START:[ ]FULL[ ]LICENSE
"""
# … and the first line of the licence of the 1990s, which stands before the book or, in its last
# years, after it.
SMALL_PRINT = r"^[ \t\ufeff]* \*+ [ ]? START[ *]*THE[ ]SMALL[ ]PRINT!"
MARKER = re.compile(
    f"(?P<begins>{BOOK_BEGINS}) | (?P<ended>{BOOK_ENDED}) | (?P<small_print>{SMALL_PRINT})", re.I | re.M | re.X
)
# combining marks on one character: the limit of the Stream-Safe Text Format (Unicode Annex 15),
# which the text of no language exceeds
MARKS_IN_A_ROW = 30
LONGEST_HEADER = 20_000  # characters; a longer stretch before a header's last line is text

# "End of Project Gutenberg's …" without asterisks is boilerplate only as the last paragraph:
# elsewhere it may be a text about Project Gutenberg.
LAST_PARAGRAPH = re.compile(
    r"""(?:\A|\n[ \t]*\n) [ \t*]* (?:THE[ ])? (?:END[ ]OF|ENDE|FIN) [ ] (?:(?:THE|THIS|DIESES|DE|DU)[ ])?
        PROJE[CK]T[ ]GUTENBERG\b [^\n]* (?:\n[ \t]*\S[^\n]*){0,3}\Z""",
    re.I | re.X,
)
# The credits of a file's producers, in the paragraphs right after the header; a transcriber's note
# in brackets can span several paragraphs.
CREDITS = re.compile(
    r"""\s* (?:
        \[[ ]*transcriber['’]?s?['’]?[ ]notes?\b [^\]]{0,3000} \] [ \t]*(?=\n|\Z)
      | (?: [\[(_*]*
            (?:(?:this|the|an?|html|plain|text|e-?texts?|e-?books?|files?|version|project|gutenberg|edition|was|were|is
                 |first|originally) [ ,\n]+){0,8}
            (?:(?:and|produced|prepared|transcribed|scanned|digiti[sz]ed|created|typed|keyed|proofed|proofread|converted
                 |provided|edited|formatted|corrected) [ ,\n]+){1,8}
            (?:by|from|for[ \n]project)\b
          | [\[(_*]* transcriber['’]?s?['’]?[ ]notes?\b
          | note:[ ](?:project[ ]gutenberg|images[ ]of[ ]the[ ]original)\b
        ) [^\n]* (?:\n[ \t]*\S[^\n]*)*
    )""",
    re.I | re.X,
)


def clean(raw: bytes, name: str) -> tuple[str, dict[str, int]]:
    """Cleans a document; returns its clean text and the count of each cleaner's changes.

    Cleaning is idempotent. The counts have one key per cleaner, in the order in which they run:
    byte_order_mark counts bytes, the others characters.

    Args:
        raw: the document's bytes.
        name: the document's name, for messages.

    Raises:
        UserError: when the bytes are no UTF-8 text (see `decode`).
    """
    text, report = decode(raw, name), dict.fromkeys(CLEANERS, 0)
    before = None
    while text != before:  # one cleaner's removal can expose text that another one changes
        before = text
        for key, cleaner in CLEANERS.items():
            text, count = cleaner(text)
            report[key] += count
    return text, report


def decode(raw: bytes, name: str) -> str:
    """Decodes UTF-8 strictly.

    Raises:
        UserError: when the bytes are not UTF-8, begin with a UTF-16 or UTF-32 byte order mark, or
            hold a NUL; names the document and the byte's 0-based offset.
    """
    for encoding, mark in (
        ("UTF-32", codecs.BOM_UTF32_LE),  # tested before UTF-16, whose mark is a prefix of it
        ("UTF-32", codecs.BOM_UTF32_BE),
        ("UTF-16", codecs.BOM_UTF16_LE),
        ("UTF-16", codecs.BOM_UTF16_BE),
    ):
        if raw.startswith(mark):
            raise UserError(
                f"{name}: byte 0: a {encoding} byte order mark: save the file as UTF-8, or say data.encoding={encoding.lower()}"
            )
    if (offset := raw.find(b"\0")) >= 0:
        raise UserError(
            f"{name}: byte {offset}: a NUL byte, which no text holds: save the file as UTF-8 or leave it out"
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: byte {error.start}: 0x{raw[error.start]:02X} is not UTF-8 here: save the file as UTF-8, "
            "name its encoding (data.encoding=cp1252, latin-1, …), or leave it out"
        ) from None


def remove_byte_order_mark(text: str) -> tuple[str, int]:
    """Removes every U+FEFF at the start; counts their bytes in UTF-8, 3 each."""
    cleaned = text.lstrip("\ufeff")
    return cleaned, 3 * (len(text) - len(cleaned))


def normalize_line_ends(text: str) -> tuple[str, int]:
    """Replaces CRLF and lone CR by LF; counts the carriage returns."""
    return text.replace("\r\n", "\n").replace("\r", "\n"), text.count("\r")


def remove_gutenberg(text: str) -> tuple[str, int]:
    """Removes Project Gutenberg's headers and footers; counts the removed characters.

    Either may be missing, and a text may hold several books. Blank lines around a book are removed,
    too. A text without boilerplate is returned unchanged.
    """
    if not may_have_boilerplate(text):
        return text, 0
    books: list[str] = []
    start: int | None = 0
    for i, marker in enumerate(MARKER.finditer(text)):
        heads_a_book = marker["begins"] or (marker["small_print"] and i == 0)
        if start is not None and not (heads_a_book and marker.start() - start <= LONGEST_HEADER):
            books.append(text[start : marker.start()])
        start = None
        if marker["begins"]:
            start = marker.end()
            while credit := CREDITS.match(text, start):
                start = credit.end()
    if start is not None:
        books.append(text[start:])
    books = [_without_last_paragraph(book) for book in books]
    if books == [text]:
        return text, 0
    # `rstrip`, not the expression \s+\Z, which takes quadratic time on a long run of blanks.
    cleaned = "\n\n".join(re.sub(r"\A(?:[ \t]*\n)+", "", book.rstrip()) for book in books if book.strip())
    cleaned += "\n" if cleaned else ""
    return cleaned, len(text) - len(cleaned)


def may_have_boilerplate(text: str) -> bool:
    """Returns whether a text holds "Gutenberg" or "small print!", as all boilerplate does."""
    capitals = text.upper()  # twenty times as fast as searching for MARKER
    return "GUTENBERG" in capitals or "SMALL PRINT!" in capitals


def _without_last_paragraph(book: str) -> str:
    kept = end = len(book)
    while True:
        while end and book[end - 1] in " \t\n\x1a":  # DOS ended text files with \x1a
            end -= 1
        last = LAST_PARAGRAPH.search(book, max(0, end - 1000), end)
        if last is None:
            return book[:kept]
        kept = end = last.start()


def normalize_unicode(text: str) -> tuple[str, int]:
    """Normalizes to NFC (Unicode Standard Annex 15).

    Counts the characters that the text no longer holds: 2 for e + accent -> é. A changed text
    counts at least 1.
    """
    if text.isascii():
        return text, 0
    ordered = order_marks(text)
    if ordered is text and unicodedata.is_normalized("NFC", text):
        return text, 0
    cleaned = unicodedata.normalize("NFC", ordered)
    if cleaned == text:
        return text, 0
    # accents that only change places count 1
    return cleaned, max(1, (Counter(text) - Counter(cleaned)).total())


def clean_typed(text: str) -> str:
    """Cleans a prompt or a stop string as a corpus is cleaned: no byte order mark, LF, NFC.

    Project Gutenberg's boilerplate stays: a user who types it wants it.
    """
    for cleaner in (remove_byte_order_mark, normalize_line_ends, normalize_unicode):
        text, _ = cleaner(text)
    return text


def order_marks(text: str) -> str:
    """Sorts runs of more than MARKS_IN_A_ROW combining marks into canonical order.

    The result is canonically equivalent. `unicodedata` orders the marks of a character by insertion
    sort: quadratic time, but linear for marks in order. The sort is stable, by combining class.
    """
    # a run of more than MARKS_IN_A_ROW marks holds one of every MARKS_IN_A_ROW-th characters
    if not any(map(_is_mark, set(text[::MARKS_IN_A_ROW]))):
        return text
    marks = filter(_is_mark, set(text))
    long_run = re.compile(f"[{re.escape(''.join(sorted(marks)))}]{{{MARKS_IN_A_ROW + 1},}}")

    def in_order(run: re.Match[str]) -> str:
        parts = "".join(unicodedata.normalize("NFD", mark) for mark in run[0])
        return "".join(sorted(parts, key=unicodedata.combining))

    ordered = long_run.sub(in_order, text)
    return text if ordered == text else ordered


@functools.lru_cache(maxsize=2**14)
def _is_mark(character: str) -> bool:
    """Returns whether a character's canonical decomposition begins with a combining mark."""
    return unicodedata.combining(unicodedata.normalize("NFD", character)[0]) > 0


CLEANERS = {
    "byte_order_mark": remove_byte_order_mark,
    "carriage_returns": normalize_line_ends,
    "gutenberg": remove_gutenberg,
    "unicode_nfc": normalize_unicode,
}
