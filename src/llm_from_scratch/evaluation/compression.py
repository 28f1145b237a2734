"""Baselines that compress: general compressors and a PPM, primed with the training part of a text.

Unit: bits per byte of UTF-8, as everywhere in this folder; lower is better. All of them go on
learning through the test part, as a compressor does, which the n-gram baselines and the models do
not.
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
    """Bits per byte of `test` behind `train`.

    kind: zlib, bz2, lzma, or ppm, which alone takes an order.

    zlib, bz2, lzma: 8 (|C(train + test)| - |C(train)|) / |test|, the difference of two compressed
    sizes, so that headers and what the training part costs fall away. What they can see of the
    training part is their own: zlib looks 32 KiB back, bz2 sorts blocks of 900 kB, and a block that
    ends between the two makes the difference rough.
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
    """Bits of `test` behind `train` by prediction by partial matching, which learns byte by byte.

    Cleary and Witten 1984, with the escape of method D (Howard 1993), full exclusion, and update
    exclusion (a byte is counted in the order that predicted it and in those above). Order -1 is
    uniform over the bytes not excluded. An ideal arithmetic coder is assumed: -log2 p, no rounding.
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
                break  # predicted here: the shorter contexts stay as they are
    return bits


def ppm_probability(contexts: Contexts, history: bytes, byte: int) -> float:
    """p of one byte after `history`, by method D.

    Behind a context of n bytes in d kinds, a kind counted c times has (2c - 1) / 2n, and the escape
    to the context one shorter d / 2n. Kinds that a longer context has offered are left out below.
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
