"""Baselines on the same bytes: n-gram models, compressors, and the project article's figures."""

import numpy as np

from llm_from_scratch.evaluation.compression import COMPRESSORS, compressor_bits
from llm_from_scratch.evaluation.ngram import character_ids, kneser_neys, nats
from llm_from_scratch.evaluation.results import ArticleFigures, Baseline
from llm_from_scratch.evaluation.texts import Text, UnitNats, character_bytes

ORDER = 6  # of the longest n-grams
# PPM reads at most so many of each text: it is plain Python, about a second for 100,000 characters.
PPM_CHARACTERS = 1_000_000
ARTICLE_NOTE = "the article's own, not comparable"
ARTICLE = (
    ArticleFigures(
        name="article: its model",
        perplexity=42.7,
        loss=3.2,
        bleu=0.25,
        note=f"{ARTICLE_NOTE}; e^3.2 is 24.5, not 42.7",
    ),
    ArticleFigures(name="article: n-gram", perplexity=300.0, note=ARTICLE_NOTE),
    ArticleFigures(name="article: GPT-2, fine-tuned", perplexity=16.3, note=ARTICLE_NOTE),
)


def counting(
    text: Text, train: np.ndarray, test: np.ndarray, lengths: np.ndarray, vocab_size: int, of: str
) -> list[Baseline]:
    """Scores uniform, unigram and modified Kneser-Ney models of orders 2 to 6, trained on `train`.

    Args:
        train: (N,) training ids. test: ids of `text`. lengths: bytes of each test id.
        of: the name of the symbols, “characters” or “tokens”.
    """
    rows = []
    for order, model in enumerate(kneser_neys(train, ORDER, vocab_size)):
        kind = ("uniform", "unigram")[order] if order < 2 else f"Kneser-Ney {order}"
        units = UnitNats(text)
        units.add(nats(model, test), lengths)
        name, note = f"{kind}, {of}", f"{vocab_size:,} symbols"
        rows.append(Baseline(name=name, kind=of.split(" ")[0], note=note, **units.figures()))
    return rows


def characters(text: Text, train: str) -> list[Baseline]:
    """Scores the n-gram baselines over the V distinct characters of `train` and the text."""
    before, after, V = character_ids(train, text.joined)
    return counting(text, before, after, character_bytes(text.joined), V, "characters")


def compressors(text: Text, train: str) -> list[Baseline]:
    """Scores zlib, bz2, lzma and PPM 5, primed with `train` and adapting as they read."""
    rows = []
    for kind in (*COMPRESSORS, "ppm"):
        before, after, note = train, text.joined, "learns on as it reads"
        if kind == "ppm" and len(train) + len(after) > 2 * PPM_CHARACTERS:
            before, after = train[-PPM_CHARACTERS:], after[:PPM_CHARACTERS]
            note += f"; of either part {PPM_CHARACTERS:,} characters"
        bits = compressor_bits(before, after, kind)
        name = "PPM 5" if kind == "ppm" else kind
        size = len(after.encode())
        words = max(text.words * len(after) / text.characters, 1)
        rows.append(
            Baseline(
                name=name,
                kind="compressor",
                note=note,
                bits_per_byte=bits,
                bits_per_character=bits * size / len(after),
                perplexity_word=float(2 ** min(bits * size / words, 1000.0)),
            )
        )
    return rows
