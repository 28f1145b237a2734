"""Compression baselines: general compressors and PPM, primed with the training part of a text.

Unit: bits per byte of UTF-8, as everywhere in this folder; lower is better. The compressors keep
adapting while they read the test part; the n-gram baselines and the models do not.
"""

import bz2
import lzma
import math
import zlib
from collections.abc import Callable

from llm_from_scratch.errors import UserError

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": lambda data: zlib.compress(data, 9),
    "bz2": lambda data: bz2.compress(data, 9),
    "lzma": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
}
Contexts = list[dict[bytes, dict[int, int]]]  # of each order: context -> next byte -> count


def compressor_bits(train: str, test: str, kind: str, order: int = 5) -> float:
    """Returns the bits per byte of `test`, compressed by `kind` after it has read `train`.

    zlib, bz2 and lzma: 8 (|C(train + test)| - |C(train)|) / |test|, sizes in bytes. The difference
    cancels the headers and the cost of the training part. Each sees a limited part of it: zlib
    looks back 32 KiB, and bz2 sorts blocks of 900 kB. The difference is rough where a block ends
    between the two texts.

    Args:
        kind: zlib, bz2, lzma or ppm.
        order: the longest context of PPM, in bytes; the others ignore it.

    Raises:
        UserError: when `test` is empty or `kind` is unknown.
    """
    before, after = train.encode(), test.encode()
    if not after:
        raise UserError("the text to compress is empty: give one of at least a character")
    if kind == "ppm":
        return ppm_bits(before, after, order) / len(after)
    if kind not in COMPRESSORS:
        raise UserError(f"kind={kind}: choose one of {', '.join(COMPRESSORS)}, ppm")
    compress = COMPRESSORS[kind]
    return 8 * (len(compress(before + after)) - len(compress(before))) / len(after)


def ppm_bits(train: bytes, test: bytes, order: int = 5) -> float:
    """Returns the total bits of `test` after `train` under PPM (prediction by partial matching).

    Cleary and Witten 1984, with the escape of method D (Howard 1993), full exclusion, and update
    exclusion (a byte is counted in the longest context that has seen it, and in longer ones). It
    learns from every byte of both texts, after coding it. Order -1 is uniform over the bytes not
    excluded. The bits are those of an ideal arithmetic coder: -log2 p, without rounding.
    """
    contexts: Contexts = [{} for _ in range(order + 1)]
    text, bits = train + test, 0.0
    for i, byte in enumerate(text):
        history = text[max(i - order, 0) : i]
        if i >= len(train):
            bits -= math.log2(ppm_probability(contexts, history, byte))
        for n in range(len(history), -1, -1):
            counts = contexts[n].setdefault(history[len(history) - n :], {})
            counts[byte] = counts.get(byte, 0) + 1
            if counts[byte] > 1:
                break  # update exclusion: this context has seen the byte before
    return bits


def ppm_probability(contexts: Contexts, history: bytes, byte: int) -> float:
    """Returns the probability of `byte` after `history`, with the escapes of method D.

    In a context seen n times with d distinct bytes, a byte counted c times has probability
    (2c - 1) / 2n; the escape to the context one byte shorter has d / 2n. Bytes that a longer
    context has seen are excluded from the shorter ones.
    """
    p, excluded = 1.0, set[int]()
    for n in range(len(history), -1, -1):
        counts = contexts[n].get(history[len(history) - n :], {})
        offered = {kind: count for kind, count in counts.items() if kind not in excluded} if excluded else counts
        if not offered:
            continue
        total = 2 * sum(offered.values())
        if byte in offered:
            return p * (2 * offered[byte] - 1) / total
        p *= len(offered) / total
        excluded.update(offered)
    return p / (256 - len(excluded))
