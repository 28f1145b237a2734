"""Byte-pair encoding from its definition (Sennrich et al. 2016, arXiv:1508.07909): twin of
`bpe.py`.

Learning begins with single characters and merges the most frequent pair of neighbours, again and
again. Encoding applies the same merges, the first learned first. No merge crosses a word's border,
so each distinct word is counted once.
"""

import re
from collections import Counter
from itertools import pairwise

Pair = tuple[str, str]
SPACE = "▁"  # as SentencePiece writes and sorts it
# Letters or other characters, with one space before them: "the end." -> "the", " end", ".".
WORD = re.compile(r" ?[^\W\d_]+| ?(?:[\d_]|[^\w\s])+|\s")


def learn(text: str, count: int) -> list[Pair]:
    """The first `count` merges of a text in order, or fewer where every word is one token.

    Of equally frequent pairs the shorter one wins, then the alphabetically first, as in
    SentencePiece.
    """
    words = {tuple(word): times for word, times in Counter(WORD.findall(text)).items()}
    merges: list[Pair] = []
    while len(merges) < count:
        pairs: Counter[Pair] = Counter()
        for word, times in words.items():
            for pair in non_overlapping(word):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], len(pair[0] + pair[1]), "".join(pair).replace(" ", SPACE)))
        merges.append(best)
        words = {merge(word, best): times for word, times in words.items()}
    return merges


def non_overlapping(word: tuple[str, ...]) -> list[Pair]:
    """The pairs of neighbours in a word; of the two (a, a) in "aaa" the first alone can be
    merged.
    """
    pairs: list[Pair] = []
    for pair in pairwise(word):
        if pairs and pairs[-1] == pair and pair[0] == pair[1]:
            pairs.append(("", ""))
        else:
            pairs.append(pair)
    return [pair for pair in pairs if pair != ("", "")]


def merge(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """The word with every occurrence of a pair of neighbours made one token, from left to right."""
    merged: list[str] = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return tuple(merged)


def encode(text: str, merges: list[Pair]) -> list[str]:
    """The tokens of a text; joined they are the text."""
    tokens: list[str] = []
    for found in WORD.findall(text):
        word = tuple(found)
        for pair in merges:
            word = merge(word, pair)
        tokens += word
    return tokens
