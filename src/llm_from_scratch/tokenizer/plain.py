"""Byte-pair encoding from its definition (Sennrich et al. 2016, arXiv:1508.07909).

The plain twin of `bpe.py`. Learning starts from single characters and repeatedly merges the most
frequent adjacent pair. Encoding applies the merges in the order in which they were learned. No
merge crosses a word boundary, so learning works on distinct words and their counts.
"""

import re
from collections import Counter
from itertools import pairwise

Pair = tuple[str, str]
SPACE = "▁"  # in the form in which SentencePiece writes and sorts it
# A run of letters or of other characters, with a space before it: "the end." -> "the", " end", ".".
WORD = re.compile(r" ?[^\W\d_]+| ?(?:[\d_]|[^\w\s])+|\s")


def learn(text: str, count: int) -> list[Pair]:
    """Learns the first `count` merges of a text, or fewer where every word becomes one token.

    Among equally frequent pairs the shorter comes first, then the alphabetically first, as in
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
    """Lists the adjacent pairs of a word that can be merged at once: "aaa" has one (a, a)."""
    pairs: list[Pair] = []
    for pair in pairwise(word):
        if pairs and pairs[-1] == pair and pair[0] == pair[1]:
            pairs.append(("", ""))
        else:
            pairs.append(pair)
    return [pair for pair in pairs if pair != ("", "")]


def merge(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Merges every occurrence of an adjacent pair in a word, from left to right."""
    merged: list[str] = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return tuple(merged)


def encode(text: str, merges: list[Pair]) -> list[str]:
    """Splits a text into tokens, which joined give the text."""
    tokens: list[str] = []
    for found in WORD.findall(text):
        word = tuple(found)
        for pair in merges:
            word = merge(word, pair)
        tokens += word
    return tokens
