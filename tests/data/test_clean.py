import time
import unicodedata
from unicodedata import combining, normalize

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_from_scratch.data.clean import clean, decode, normalize_unicode

NOTHING = {"byte_order_mark": 0, "carriage_returns": 0, "gutenberg": 0, "unicode_nfc": 0}
BOOK = "  CHAPTER I\n\nDorothy lived in Kansas. The house was small.\n\n* * *\n\n“Oh!” she cried.\n"

MODERN_HEADER = """The Project Gutenberg eBook of The Wonderful Wizard of Oz
\x20\x20\x20\x20
This ebook is for the use of anyone anywhere in the United States.

Title: The Wonderful Wizard of Oz
Release date: February 1, 1993 [eBook #55]

*** START OF THE PROJECT GUTENBERG EBOOK THE WONDERFUL WIZARD OF OZ ***




"""
WRAPPED_HEADER = """The Project Gutenberg EBook of The Adventures of Sherlock Holmes

*** START OF THIS PROJECT GUTENBERG EBOOK THE ADVENTURES OF
SHERLOCK HOLMES, AND MORE ***


"""
CREDITED_HEADER = """Project Gutenberg's Something, by Someone

***START OF THE PROJECT GUTENBERG EBOOK SOMETHING***


E-text prepared by Juliet Sutherland, Mary Meehan,
and the Project Gutenberg Online Distributed Proofreading Team



Note: Project Gutenberg also has an HTML version of this
      file which includes the original illustrations.

[Transcriber's Note: Two misprints are mended.

The rest is as it was.]


"""
SMALL_PRINT_HEADER = """**The Project Gutenberg Etext of The Wonderful Wizard of Oz**

*These Etexts Prepared By Hundreds of Volunteers and Donations*

***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is this "Small Print!" statement here?  You know: lawyers.
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*


"""
OLDEST_HEADER = """*****The Project Gutenberg Etext of Alice in Wonderland*****

*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.03.08.92*END*
This etext was prepared by David Widger <someone@example.org>

"""
COPYRIGHTED_HEADER = "*** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK SOMETHING ***\n\nProduced by A. B.\n\n"
HEADERS = ["", MODERN_HEADER, WRAPPED_HEADER, CREDITED_HEADER, SMALL_PRINT_HEADER, OLDEST_HEADER, COPYRIGHTED_HEADER]

MODERN_FOOTER = """

*** END OF THE PROJECT GUTENBERG EBOOK THE WONDERFUL WIZARD OF OZ ***


Updated editions will replace the previous one.
"""
THIS_FOOTER = """




End of the Project Gutenberg EBook of The Wonderful Wizard of Oz, by
L. Frank Baum

*** END OF THIS PROJECT GUTENBERG EBOOK THE WONDERFUL WIZARD OF OZ ***

***** This file should be named 55.txt or 55.zip *****

*** START: FULL LICENSE ***

THE FULL PROJECT GUTENBERG LICENSE
"""
FOOTERS = [
    "",
    MODERN_FOOTER,
    THIS_FOOTER,
    "\n***END OF THE PROJECT GUTENBERG EBOOK SOMETHING***\n\n******* This file should be named\n",
    "\n\nEnd of Project Gutenberg's The Wonderful Wizard of Oz, by L. Frank Baum\n",
    "\n\nEnd of The Project Gutenberg Etext of The Wonderful Wizard of Oz\n\n\x1a",
    "\n\nEnd of this Project Gutenberg Etext of Alice's Adventures in\nWonderland\n\n\n",
    "\n\nTHE END OF THE PROJECT GUTENBERG ETEXT OF OZ\n",
    "\n\n*** START: FULL LICENSE ***\n\nTHE FULL PROJECT GUTENBERG LICENSE\n",
    # 2003: the licence stood at the end.
    "\n*** END OF THE PROJECT GUTENBERG EBOOK, OZ ***\n\nThis file should be named\n\n***START**THE SMALL PRINT!**FOR "
    "PUBLIC DOMAIN EBOOKS**START***\nlawyers\n*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n",
]


@pytest.mark.parametrize("footer", FOOTERS)
@pytest.mark.parametrize("header", HEADERS)
def test_gutenberg_boilerplate_goes_and_the_book_stays(header, footer):
    text, report = clean((header + BOOK + footer).encode(), "oz")
    assert text == BOOK
    assert report == NOTHING | {"gutenberg": len(header) + len(footer)}


def test_books_one_after_another_all_stay():
    text, _ = clean("".join(header + BOOK + MODERN_FOOTER for header in HEADERS[1:]).encode(), "all")
    assert text == "\n".join([BOOK] * len(HEADERS[1:]))


def test_text_before_a_header_that_no_header_can_be_as_long_as_stays():
    mine = "My own book.\n" * 2000
    text, _ = clean((mine + MODERN_HEADER + BOOK + MODERN_FOOTER).encode(), "both")
    assert text.startswith(mine)
    assert text.endswith(BOOK)


@pytest.mark.parametrize(
    "text",
    [
        "He read Project Gutenberg's etexts.\n\nIt was the end of Project Gutenberg, he\nthought.\n\nNo.",
        "Michael Hart began\nProject Gutenberg in 1971, and at the\nEnd of Project Gutenberg's first year had one text.\n",
        "End of the Project Gutenberg Etext of Alice: so ended each file.\n\nThen came another.\n",
        "The files say START OF THE PROJECT GUTENBERG EBOOK, he wrote, and *** END OF THE PROJECT GUTENBERG EBOOK ***.\n",
        "\n\n  Produced by nobody\n\nTranscriber's note: none\n\n\n",
        "the\nend the small print put to it\n",
        "",
        "no newline at the end",
        "\n\n\n",
    ],
)
def test_a_text_without_boilerplate_stays_byte_for_byte(text):
    assert clean(text.encode(), "mine") == (text, NOTHING)


def test_nothing_but_boilerplate_leaves_nothing():
    assert clean((MODERN_HEADER + MODERN_FOOTER).encode(), "empty")[0] == ""


def test_what_is_replaced_is_counted():
    # e + accent -> é (2), the angstrom sign -> Å (1); two accents that only change places are 1.
    assert clean(b"\xef\xbb\xbfa\r\n\rb\r", "x") == (
        "a\n\nb\n",
        NOTHING | {"byte_order_mark": 3, "carriage_returns": 3},
    )
    assert clean("caf\u0065\u0301 \u212b é".encode(), "x") == ("caf\u00e9 \u00c5 é", NOTHING | {"unicode_nfc": 3})
    assert clean("q\u0301\u0323".encode(), "x") == ("q\u0323\u0301", NOTHING | {"unicode_nfc": 1})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("Oz".encode("utf-16"), "oz.txt: byte 0: a UTF-16 byte order mark: save the file as UTF-8"),
        (b"\xfe\xff\0O", "oz.txt: byte 0: a UTF-16 byte order mark: save the file as UTF-8"),
        ("Oz".encode("utf-32"), "oz.txt: byte 0: a UTF-32 byte order mark: save the file as UTF-8"),
        (b"\0\0\xfe\xff", "oz.txt: byte 0: a UTF-32 byte order mark: save the file as UTF-8"),
        ("Oz".encode("utf-16-le"), "oz.txt: byte 1: a NUL byte"),
        ("é café".encode() + "é".encode("latin-1"), "oz.txt: byte 8: 0xE9 is not UTF-8 here"),
        (b"ab\xed\xa0\x80", "oz.txt: byte 2: 0xED"),  # a surrogate
        # Cut off in a character; the byte order mark counts
        (b"\xef\xbb\xbfab\xc3", "oz.txt: byte 5: 0xC3"),
    ],
)
def test_what_is_no_utf8_is_refused_with_its_place(raw, message):
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")) as error:
        clean(raw, "oz.txt")
    assert "\n" not in str(error.value)


def test_decode_keeps_every_character():
    assert decode("\ufeffé\r\n".encode(), "x") == "\ufeffé\r\n"


PIECES = st.sampled_from(
    [
        *HEADERS,
        *FOOTERS,
        BOOK,
        "\ufeff",
        "\r\n",
        "\n",
        "  ",
        "\x1a",
        "e\u0301",
        "End of Project Gutenberg",
        "text",
        "***",
    ]
)


@settings(deadline=None, max_examples=500)
@given(st.lists(PIECES | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))).map("".join))
@example(MODERN_HEADER + "\ufeff" + SMALL_PRINT_HEADER)
@example("A\n\nEnd of Project Gutenberg's A\n\n\nEnd of Project Gutenberg's A\r\n" + "\n" * 2000)
def test_cleaning_twice_is_cleaning_once(text):
    once, report = clean(text.encode(), "x")
    assert clean(once.encode(), "x") == (once, NOTHING)
    assert unicodedata.is_normalized("NFC", once)
    assert "\r" not in once
    assert list(report) == list(NOTHING)


# ----------------------------------------------------------------------------- kind 18: linear time
MARKS = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000 and combining(normalize("NFD", chr(i))[0])]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.one_of(st.text(st.sampled_from(MARKS), max_size=80), st.text(max_size=5), st.sampled_from("aeé각각")),
        max_size=6,
    )
)
def test_long_runs_of_marks_are_normalized_as_unicode_says(parts: list[str]) -> None:
    text = "".join(parts)
    assert normalize_unicode(text)[0] == normalize("NFC", text)


@pytest.mark.parametrize(
    "text",
    [
        "a" + "\u0301\u0323" * 100_000,  # classes 230 and 220 in turn
        "a" + "\u0f73" * 200_000,  # class 0 itself, and two marks that are out of order
        "\u1ea5" + "\u0344\u0323" * 100_000,
        "\u1100" * 100_000 + "\u1161" * 100_000,
        "\u0dd9\u0dcf" * 100_000,
    ],
)
def test_normalization_takes_linear_time(text: str) -> None:
    start = time.process_time()
    clean(text.encode(), "page")
    assert time.process_time() - start < 5  # 22 s and more by insertion


def test_blanks_within_a_book_take_linear_time() -> None:
    text = f"{MODERN_HEADER}one{' ' * 200_000}two{chr(10) * 200_000}three{MODERN_FOOTER}"
    start = time.process_time()
    assert clean(text.encode(), "book")[0].endswith("three\n")
    assert time.process_time() - start < 5
