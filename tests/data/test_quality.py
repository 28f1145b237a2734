"""Each rule, at its border: counted by hand."""

from dataclasses import fields

import pytest

from llm_from_scratch.config import DataConfig
from llm_from_scratch.data import quality
from llm_from_scratch.data.quality import RULES, chosen, failed
from llm_from_scratch.ranges import range_of

CASES = {
    "gopher_words": ("word " * 50, "word " * 49),
    "gopher_word_length": ("abc de fghi", "a b c"),
    "gopher_symbols": ("word " * 9 + "#", "word " * 8 + "#"),
    "gopher_bullets": ("- a\n" * 9 + "b", "- a\n" * 10),
    "gopher_ellipses": ("a...\n" * 3 + "b\n" * 7, "a…\n" * 4 + "b\n" * 6),
    "gopher_alphabetic": ("a b c d 5", "a b c 4 5"),
    "gopher_stop_words": ("The cat of", "The cat the"),
    "gopher_repeated_lines": ("ab\ncd\nef\ngh\nab\n" + "x" * 50, "ab\nab\nab\ncd"),
    "gopher_repeated_paragraphs": ("a\n\nb\n\nc\n\nlong enough to count", "ab\n\nab\n\nab"),
    "gopher_top_ngrams": ("one two three four five six seven eight nine ten", "one two one two three"),
    "gopher_repeated_ngrams": ("a b c d e f g h i j", "a b c d e a b c d e"),
    "c4_sentences": ("One. Two! Three?", "One. Two"),
    "c4_lorem_ipsum": ("a text", "Lorem Ipsum dolor"),
    "c4_curly_brackets": ("f(x)", "f { }"),
}


@pytest.mark.parametrize("name", RULES)
def test_rule(name: str) -> None:
    passes, fails = CASES[name]
    assert RULES[name](passes)
    assert not RULES[name](fails)
    assert failed(fails, [name]) == name


def test_a_paper_stands_for_its_rules_and_a_misspelt_one_is_named() -> None:
    assert chosen(["c4"]) == ("c4_sentences", "c4_lorem_ipsum", "c4_curly_brackets")
    assert chosen(["c4", "gopher"]) == tuple(RULES)
    assert chosen([]) == ()
    with pytest.raises(ValueError, match="there is no rule 'gophr'"):
        chosen(["gophr"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("en", "It was a dark night, and the wind that came from the sea was cold. He went to the house with his dog."),
        ("de", "Es war eine dunkle Nacht, und der Wind von der See war kalt. Er ging mit dem Hund auf das Haus zu."),
        (
            "fr",
            "La nuit était sombre et le vent qui venait de la mer était froid. Il est dans les bois pour une heure.",
        ),
        (
            "es",
            "La noche era oscura y el viento que venía del mar era frío. No es una casa para los hombres con su perro.",
        ),
        (
            "it",
            "La notte era buia e il vento che veniva dal mare non era caldo. Sono andato con gli amici per una strada.",
        ),
        (
            "nl",
            "Het was een donkere nacht en de wind van de zee was koud. Hij ging met zijn hond op weg, niet aan het huis.",
        ),
        (
            "pt",
            "A noite era escura e o vento que vinha do mar não era quente. Os homens com uma luz em casa, para se ver.",
        ),
        (None, "Ночь была темной, и ветер с моря был холодным."),
        (None, "x = 3\ny = f(x)\nprint(x, y)"),
        (None, ""),
    ],
)
def test_the_language_is_that_of_its_short_words(name: str | None, text: str) -> None:
    assert quality.language(text) == name


def test_the_setting_names_the_languages_there_are() -> None:
    allowed = next(range_of(item) for item in fields(DataConfig) if item.name == "language")
    assert allowed is not None
    assert all(map(allowed.holds, quality.SHORT_WORDS))
    assert allowed.words == "one of " + ", ".join(quality.SHORT_WORDS)
