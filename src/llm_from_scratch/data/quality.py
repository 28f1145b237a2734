"""Rules that a page of good prose passes: heuristics of Gopher and C4.

Each is a pure function from a text to keep or not.

`data.quality=[gopher]` asks for all of one paper's rules, `data.quality=[gopher_words,
c4_lorem_ipsum]` for some of them. They were made for English web pages: other languages fail
`gopher_stop_words`, and programs `c4_curly_brackets`.

Gopher: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training
Gopher", section A.1.

C4: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a
Unified Text-to-Text Transformer", section 2.2. Of C4's rules those are here that judge a page;
those that cut lines out of it would change the text.

`data.language=en` asks which language's most frequent short words a page has most of: Grefenstette
1995, "Comparing two language identification schemes" (JADT), which found them as good as letter
trigrams from a sentence on.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from llm_from_scratch.errors import UserError

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}  # n -> largest share of the characters
REPEATED_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
BULLETS = ("•", "‣", "-", "*", "●", "○", "▪")
ELLIPSES = ("...", "…")


# Short words that are frequent in one of these languages and rare, or other words, in the others.
SHORT_WORDS = {
    "de": {"der", "die", "und", "das", "den", "nicht", "ist", "ein", "eine", "mit", "von", "zu", "auf", "für", "sich"},
    "en": {"the", "of", "and", "to", "that", "is", "was", "for", "it", "with", "he", "his", "you", "this", "are"},
    "es": {"el", "los", "las", "se", "del", "que", "una", "por", "con", "su", "para", "es", "no", "lo", "al"},
    "fr": {"le", "les", "et", "des", "du", "que", "une", "est", "dans", "il", "qui", "pour", "pas", "sur", "au"},
    "it": {"il", "di", "che", "nel", "gli", "una", "non", "per", "del", "della", "con", "si", "sono", "da", "le"},
    "nl": {"de", "het", "een", "en", "van", "ik", "te", "dat", "niet", "zijn", "op", "met", "voor", "aan", "hij"},
    "pt": {"mais", "os", "as", "dos", "do", "da", "que", "um", "uma", "não", "para", "com", "em", "no", "se"},
}
SHORT_SHARE = 0.1  # of all words, at least: prose of these languages has 0.2 to 0.4


def language(text: str) -> str | None:
    """The language of SHORT_WORDS whose words are most of the text's.

    None: fewer than SHORT_SHARE are.
    """
    words = re.findall(r"\w+", text.lower())
    counts = Counter(words)
    found = {name: sum(counts[word] for word in short) for name, short in SHORT_WORDS.items()}
    best = max(found, key=found.__getitem__)
    return best if words and found[best] >= SHORT_SHARE * len(words) else None


def gopher_words(text: str) -> bool:
    """50 to 100,000 words."""
    return 50 <= len(text.split()) <= 100_000


def gopher_word_length(text: str) -> bool:
    """A mean of 3 to 10 characters a word."""
    words = text.split()
    return bool(words) and 3 <= sum(map(len, words)) / len(words) <= 10


def gopher_symbols(text: str) -> bool:
    """At most one # in ten words, and one ellipsis in ten words."""
    words = len(text.split())
    return text.count("#") <= 0.1 * words and sum(map(text.count, ELLIPSES)) <= 0.1 * words


def gopher_bullets(text: str) -> bool:
    """At most 90 % of the lines begin with a bullet."""
    lines = _lines(text)
    return sum(line.startswith(BULLETS) for line in lines) <= 0.9 * len(lines)


def gopher_ellipses(text: str) -> bool:
    """At most 30 % of the lines end with an ellipsis."""
    lines = _lines(text)
    return sum(line.endswith(ELLIPSES) for line in lines) <= 0.3 * len(lines)


def gopher_alphabetic(text: str) -> bool:
    """80 % of the words or more hold a letter."""
    words = text.split()
    return sum(any(map(str.isalpha, word)) for word in words) >= 0.8 * len(words)


def gopher_stop_words(text: str) -> bool:
    """Two or more different ones of: the, be, to, of, and, that, have, with."""
    return len(STOP_WORDS.intersection(re.findall(r"[a-z]+", text.lower()))) >= 2


def gopher_repeated_lines(text: str) -> bool:
    """Lines that stood before are at most 30 % of the lines and 20 % of the characters."""
    return _few_repeated(_lines(text), len(text))


def gopher_repeated_paragraphs(text: str) -> bool:
    """Paragraphs that stood before are at most 30 % of the paragraphs and 20 % of the characters."""
    return _few_repeated([part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()], len(text))


def gopher_top_ngrams(text: str) -> bool:
    """The most frequent 2, 3 or 4 words in a row take at most 20, 18 or 16 % of the characters of all words."""
    words = text.split()
    characters = sum(map(len, words))
    for n, share in TOP_NGRAMS.items():
        counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
        ngram, count = counts.most_common(1)[0] if counts else ((), 0)
        if count > 1 and count * sum(map(len, ngram)) > share * characters:
            return False
    return True


def gopher_repeated_ngrams(text: str) -> bool:
    """Words that stand in a repeated run of 5, 6, … 10 words hold at most 15, 14, … 10 % of the characters of all words."""
    words = text.split()
    characters = sum(map(len, words))
    for n, share in REPEATED_NGRAMS.items():
        seen: set[tuple[str, ...]] = set()
        repeated, covered = 0, 0  # characters; the words before `covered` are counted already
        for i, ngram in enumerate(zip(*(words[k:] for k in range(n)), strict=False)):
            if ngram in seen:
                repeated += sum(map(len, words[max(i, covered) : i + n]))
                covered = i + n
            seen.add(ngram)
        if repeated > share * characters:
            return False
    return True


def c4_sentences(text: str) -> bool:
    """Three sentences or more: ends of them by . ! or ?"""
    return len(re.findall(r"[.!?][\"”’)]*(?:\s|\Z)", text)) >= 3


def c4_lorem_ipsum(text: str) -> bool:
    """No place-holder text."""
    return "lorem ipsum" not in text.lower()


def c4_curly_brackets(text: str) -> bool:
    """No {, which programs have and prose does not."""
    return "{" not in text


# A document is judged by the rules in this order, and counted under the first that it fails.
RULES: dict[str, Callable[[str], bool]] = {
    rule.__name__: rule
    for rule in (
        gopher_words,
        gopher_word_length,
        gopher_symbols,
        gopher_bullets,
        gopher_ellipses,
        gopher_alphabetic,
        gopher_stop_words,
        gopher_repeated_lines,
        gopher_repeated_paragraphs,
        gopher_top_ngrams,
        gopher_repeated_ngrams,
        c4_sentences,
        c4_lorem_ipsum,
        c4_curly_brackets,
    )
}


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """The rules that a list of rules and of papers (gopher, c4) asks for, in the order of RULES.

    UserError: no such rule.
    """
    wanted = set(names)
    for name in wanted:
        if name not in RULES and name not in ("gopher", "c4"):
            raise UserError(f"data.quality: there is no rule {name!r}; there are: gopher, c4, {', '.join(RULES)}")
    return tuple(rule for rule in RULES if rule in wanted or rule.partition("_")[0] in wanted)


def failed(text: str, rules: Iterable[str]) -> str | None:
    """The first of `rules` that the text does not pass."""
    return next((rule for rule in rules if not RULES[rule](text)), None)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _few_repeated(parts: Sequence[str], characters: int) -> bool:
    repeats = [part for part, count in Counter(parts).items() for _ in range(count - 1)]
    return len(repeats) <= 0.3 * len(parts) and sum(map(len, repeats)) <= 0.2 * characters
