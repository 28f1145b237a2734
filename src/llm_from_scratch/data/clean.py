"""Raw bytes -> clean text.

Pure functions: a cleaner takes a text and returns it with a count of what it removed or replaced,
so nothing is silent.
"""

import codecs
import functools
import re
import unicodedata
from collections import Counter

from llm_from_scratch.errors import UserError

# raised whenever the same bytes give another text: what was prepared before is then prepared anew
CLEANING_VERSION = 1

# Project Gutenberg's boilerplate as it was written from 1991 to today: the line after which the
# book stands, …
BOOK_BEGINS = r"""
    ^[ \t\ufeff]* \*+ [ ]? (?:START|BEGINNING)[ ]OF[ ] (?:THE[ ]|THIS[ ])? (?:COPYRIGHTED[ ])? PROJECT[ ]GUTENBERG\b
        (?: (?:[^\n]+\n){0,3}? [^\n]*\*{3}[ \t]*$ | [^\n]* )  # a long title goes on for some lines, up to its ***
  | ^[ \t\ufeff]* \** END[ *]*THE[ ]SMALL[ ]PRINT! [^\n]*
"""
# … the line before which it stood, …
BOOK_ENDED = r"""
    ^[ \t\ufeff]* \*+ [ ]? END[ ]OF[ ] (?:THE[ ]|THIS[ ])? (?:COPYRIGHTED[ ])? PROJECT[ ]GUTENBERG\b
  | ^[ \t\ufeff]* \*+ [ ]? START:[ ]FULL[ ]LICENSE
"""
# … and the licence of the 1990s, which stood before the book and, in its last years, after it.
SMALL_PRINT = r"^[ \t\ufeff]* \*+ [ ]? START[ *]*THE[ ]SMALL[ ]PRINT!"
MARKER = re.compile(
    f"(?P<begins>{BOOK_BEGINS}) | (?P<ended>{BOOK_ENDED}) | (?P<small_print>{SMALL_PRINT})", re.I | re.M | re.X
)
# combining marks; no language has more on a character (Stream-Safe Text Format, Unicode Annex 15)
MARKS_IN_A_ROW = 30
LONGEST_HEADER = 20_000  # characters: more than that before a marker is text

# Without asterisks it is boilerplate in the last paragraph alone: elsewhere somebody writes about
# Project Gutenberg.
LAST_PARAGRAPH = re.compile(
    r"""(?:\A|\n[ \t]*\n) [ \t*]* (?:THE[ ])? (?:END[ ]OF|ENDE|FIN) [ ] (?:(?:THE|THIS|DIESES|DE|DU)[ ])?
        PROJE[CK]T[ ]GUTENBERG\b [^\n]* (?:\n[ \t]*\S[^\n]*){0,3}\Z""",
    re.I | re.X,
)
# Who made the file, in the paragraphs right after the header; a note in brackets can be several
# paragraphs.
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
    """The clean text of the document `name`, and the count of each cleaner's changes.

    Cleaned a second time, the text stays as it is.

    The report has one key a cleaner, in the order they run: byte_order_mark counts bytes, the
    others characters.
    UserError naming the document and the byte offset: it is not UTF-8, or no text.
    """
    text, report = decode(raw, name), dict.fromkeys(CLEANERS, 0)
    before = None
    while text != before:  # what one removes can uncover work for another
        before = text
        for key, cleaner in CLEANERS.items():
            text, count = cleaner(text)
            report[key] += count
    return text, report


def decode(raw: bytes, name: str) -> str:
    """UTF-8, strictly.

    UserError naming the document `name` and the offset of the byte that cannot be read.
    """
    for encoding, mark in (
        ("UTF-32", codecs.BOM_UTF32_LE),  # before UTF-16, whose mark it begins with
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
    """Without U+FEFF at the start; counts its bytes in UTF-8."""
    cleaned = text.lstrip("\ufeff")
    return cleaned, 3 * (len(text) - len(cleaned))


def normalize_line_ends(text: str) -> tuple[str, int]:
    """CRLF and lone CR -> LF; counts the carriage returns."""
    return text.replace("\r\n", "\n").replace("\r", "\n"), text.count("\r")


def remove_gutenberg(text: str) -> tuple[str, int]:
    """Without Project Gutenberg's headers and footers.

    Either may be missing, and several books may follow one another.

    Counts characters. Where there is no such boilerplate the text stays as it is; else blank lines
    around it go too.
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
    # An expression such as \s+\Z would try each place of a long run of blanks.
    cleaned = "\n\n".join(re.sub(r"\A(?:[ \t]*\n)+", "", book.rstrip()) for book in books if book.strip())
    cleaned += "\n" if cleaned else ""
    return cleaned, len(text) - len(cleaned)


def may_have_boilerplate(text: str) -> bool:
    """Whether one of the words stands in it that all boilerplate has."""
    capitals = text.upper()  # twenty times as fast as asking the expression
    return "GUTENBERG" in capitals or "SMALL PRINT!" in capitals


def _without_last_paragraph(book: str) -> str:
    kept = end = len(book)
    while True:
        while end and book[end - 1] in " \t\n\x1a":  # DOS ended its files with the latter
            end -= 1
        last = LAST_PARAGRAPH.search(book, max(0, end - 1000), end)
        if last is None:
            return book[:kept]
        kept = end = last.start()


def normalize_unicode(text: str) -> tuple[str, int]:
    """Normal form C (Unicode Standard Annex 15).

    Counts the characters that the text no longer holds: e + accent -> é is 2.
    """
    if text.isascii():
        return text, 0
    ordered = order_marks(text)
    if ordered is text and unicodedata.is_normalized("NFC", text):
        return text, 0
    cleaned = unicodedata.normalize("NFC", ordered)
    if cleaned == text:
        return text, 0
    # accents that only change places are one
    return cleaned, max(1, (Counter(text) - Counter(cleaned)).total())


def clean_typed(text: str) -> str:
    """A prompt or a stop string, cleaned as a corpus is: no byte order mark, LF, normal form C.

    A book's boilerplate stays: whoever types it means it.
    """
    for cleaner in (remove_byte_order_mark, normalize_line_ends, normalize_unicode):
        text, _ = cleaner(text)
    return text


def order_marks(text: str) -> str:
    """A canonically equivalent text; long runs of combining marks are in canonical order.

    `unicodedata` orders the marks of a character by insertion, which takes quadratic time; it is
    linear for marks that are in order. The order is by combining class, and marks of one class keep
    theirs: a stable sort.
    """
    # a longer run holds one of these characters
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
    """Whether the character belongs to the one before it, or begins with such a part."""
    return unicodedata.combining(unicodedata.normalize("NFD", character)[0]) > 0


CLEANERS = {
    "byte_order_mark": remove_byte_order_mark,
    "carriage_returns": normalize_line_ends,
    "gutenberg": remove_gutenberg,
    "unicode_nfc": normalize_unicode,
}
