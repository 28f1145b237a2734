"""Style of a text: lengths, function words, punctuation, vocabulary, Burrows's Delta.

A word is a run of letters with inner apostrophes or hyphens (“farmer’s”, “forty-two”), lower-cased,
its apostrophes straightened. A sentence ends at . ! or ? with its closing quotes, before white
space that no small letter follows (“Oh!” said she), or at a blank line. The list of function words
is English; the other figures take any script.
"""

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from llm_from_scratch.errors import UserError

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
SENTENCE_END = re.compile(r"(?<=[.!?])[”’\"')\]]*(?!\S|\s+[a-z])|\n\s*\n")
PUNCTUATION = {
    "comma": ",",
    "full stop": ".",
    "semicolon": ";",
    "colon": ":",
    "question mark": "?",
    "exclamation mark": "!",
    "dash": "—–",
    "quotation mark": '“”"„«»',
}
# Closed classes of English: articles, pronouns, prepositions, conjunctions, auxiliaries, adverbs.
FUNCTION_WORDS = tuple(
    WORD.findall(
        """a an the this that these those i me my we us our you your he him his she her it its they them their who whom whose
    which what myself himself herself itself themselves and or but nor for so yet if because although though while when
    where until unless than as whether of in to from with by at on into upon over under about after before between through
    during against without within along among toward towards up down out off be am is are was were been being have has had
    do does did will would shall should can could may might must not no never very too also then there here now again only
    just even all any some each every both other such how why"""
    )
)


def words(text: str) -> list[str]:
    """Returns the words of a text, in order, lower-cased."""
    return [word.replace("’", "'").lower() for word in WORD.findall(text)]


def sentences(text: str) -> list[str]:
    """Returns a text's sentences that hold a word, in order; “Mr.” ends a sentence, too."""
    return [part.strip() for part in SENTENCE_END.split(text) if part and WORD.search(part)]


def style(text: str, mattr_window: int = 100) -> dict[str, float]:
    """Returns the style figures of one text.

    word_length (characters), sentence_length (words), type_token_ratio (distinct words / words:
    falls with the text's length), mattr (`mattr`: does not), function_words (share of the words),
    and the `punctuation_rates`.

    Raises:
        UserError: when the text has no words.
    """
    tokens = words(text)
    if not tokens:
        raise UserError("a text without words has no style: give a longer one")
    figures = {
        "word_length": sum(map(len, tokens)) / len(tokens),
        "sentence_length": len(tokens) / len(sentences(text)),
        "type_token_ratio": len(set(tokens)) / len(tokens),
        "mattr": mattr(tokens, mattr_window),
        "function_words": sum(function_word_rates(tokens).values()) / 1000,
    }
    return figures | punctuation_rates(text)


def function_word_rates(tokens: list[str]) -> dict[str, float]:
    """Returns the occurrences of each of `FUNCTION_WORDS` a thousand words."""
    counts = Counter(tokens)
    return {word: 1000 * counts[word] / len(tokens) for word in FUNCTION_WORDS}


def punctuation_rates(text: str) -> dict[str, float]:
    """Returns the occurrences of each kind of `PUNCTUATION` a thousand words."""
    counts, total = Counter(text), len(WORD.findall(text))
    return {name: 1000 * sum(counts[mark] for mark in marks) / total for name, marks in PUNCTUATION.items()}


def mattr(tokens: list[str], window: int = 100) -> float:
    """Returns the moving-average type-token ratio (Covington and McFall 2010).

    It is the mean of distinct words / words over every window of `window` words in a row; for a
    shorter text, the plain ratio.
    """
    T, W = len(tokens), min(window, len(tokens))
    last: dict[str, int] = {}
    distinct = 0.0
    for i, word in enumerate(tokens):
        # Of the windows that hold i, the word is new in those that begin after its last occurrence.
        starts = range(max(i - W + 1, last.get(word, -1) + 1, 0), min(i, T - W) + 1)
        distinct += len(starts)
        last[word] = i
    return distinct / (T - W + 1) / W


def burrows_delta(text: str, corpora: Mapping[str, str], features: int = 150, block: int = 1000) -> dict[str, float]:
    """Returns Burrows's Delta of a text to each of the corpora: lower is nearer.

    Burrows 2002, “Delta: a measure of stylistic difference”.

    The features are the words most frequent in the corpora, each corpus weighing the same. Each
    corpus is cut into blocks of `block` words (a shorter rest is dropped; a corpus shorter than a
    block is one block). The mean and the population standard deviation of a feature's relative
    frequency over all blocks define its z-score. Delta is the mean over the features of
    |z(text) - z(corpus)|, in standard deviations; features that never vary are dropped. Below about
    1,000 words of text it is mostly noise.

    Raises:
        UserError: when there are fewer than two corpora, a text has no words, or no feature varies.
    """
    tokens = {name: words(corpus) for name, corpus in corpora.items()}
    own = words(text)
    if len(corpora) < 2 or not own or not all(tokens.values()):
        raise UserError("Burrows's Delta needs a text and at least two corpora, each with words")
    shares: Counter[str] = Counter()
    for corpus in tokens.values():
        shares.update({word: count / len(corpus) for word, count in Counter(corpus).items()})
    chosen = sorted(shares, key=lambda word: (-shares[word], word))[:features]

    def frequencies(part: list[str]) -> np.ndarray:  # (features,)
        counts = Counter(part)
        return np.array([counts[word] / len(part) for word in chosen])

    blocks = [
        frequencies(corpus[start : start + block])
        for corpus in tokens.values()
        for start in range(0, max(len(corpus) - block, 0) + 1, block)
    ]
    mean, deviation = np.mean(blocks, axis=0), np.std(blocks, axis=0)
    varies = deviation > 0
    if not varies.any():
        raise UserError("no word's frequency differs between the blocks: give longer texts, or smaller blocks")

    def z(part: list[str]) -> np.ndarray:  # (features that vary,)
        return (frequencies(part) - mean)[varies] / deviation[varies]

    return {name: float(np.abs(z(own) - z(corpus)).mean()) for name, corpus in tokens.items()}
