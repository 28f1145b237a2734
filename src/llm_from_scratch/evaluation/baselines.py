"""What a model has to beat, on the same bytes: counting, compressing, and the figures that the article gives.

A row is a dictionary: name, kind (a key of `figures.KINDS`), the figures of `Text.figures` as far as there are any, note.
"""

from typing import Any

import numpy as np

from llm_from_scratch.evaluation.compression import COMPRESSORS, compressor_bits
from llm_from_scratch.evaluation.ngram import character_ids, kneser_ney, nats
from llm_from_scratch.evaluation.texts import Text, token_starts

ORDERS = range(7)
PPM_CHARACTERS = 1_000_000  # plain Python: about a second for 100,000 characters
ARTICLE_NOTE = "the article's own, not comparable"
ARTICLE: tuple[dict[str, Any], ...] = (
    {
        "name": "article: its model",
        "perplexity": 42.7,
        "loss": 3.2,
        "bleu": 0.25,
        "note": f"{ARTICLE_NOTE}; e^3.2 is 24.5, not 42.7",
    },
    {"name": "article: n-gram", "perplexity": 300.0, "note": ARTICLE_NOTE},
    {"name": "article: GPT-2, fine-tuned", "perplexity": 16.3, "note": ARTICLE_NOTE},
)


def counting(
    text: Text, train: np.ndarray, test: np.ndarray, lengths: np.ndarray, vocab_size: int, of: str
) -> list[dict[str, Any]]:
    """Uniform, unigram and modified Kneser-Ney of orders 2 to 6 over ids; `lengths` are the bytes of each test id."""
    rows = []
    for order in ORDERS:
        kind = ("uniform", "unigram")[order] if order < 2 else f"Kneser-Ney {order}"
        figures = text.figures(nats(kneser_ney(train, order, vocab_size), test), token_starts(lengths))
        rows.append({"name": f"{kind}, {of}", "kind": of.split(" ")[0]} | figures | {"note": f"{vocab_size:,} symbols"})
    return rows


def characters(text: Text, train: str) -> list[dict[str, Any]]:
    """The counting baselines over characters; the vocabulary is what the two texts hold."""
    before, after, V = character_ids(train, text.joined)
    codes = np.frombuffer(text.joined.encode("utf-32-le"), dtype="<u4")
    lengths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return counting(text, before, after, lengths, V, "characters")


def compressors(text: Text, train: str) -> list[dict[str, Any]]:
    """zlib, bz2, lzma and PPM of order 5, behind the training part; they go on learning as they read."""
    rows = []
    for kind in (*COMPRESSORS, "ppm"):
        before, after, note = train, text.joined, "learns on as it reads"
        if kind == "ppm" and len(train) + len(after) > 2 * PPM_CHARACTERS:
            before, after = train[-PPM_CHARACTERS:], after[:PPM_CHARACTERS]
            note += f"; of either part {PPM_CHARACTERS:,} characters"
        bits = compressor_bits(before, after, kind)
        name = "PPM 5" if kind == "ppm" else kind
        figures = {
            "bits_per_byte": bits,
            "bits_per_character": bits * len(after.encode()) / len(after),
            "perplexity_word": float(
                2 ** min(bits * len(after.encode()) / max(text.words * len(after) / len(text.joined), 1), 1000.0)
            ),
        }
        rows.append({"name": name, "kind": "compressor"} | figures | {"note": note})
    return rows
