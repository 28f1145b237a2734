"""Baselines that count: uniform, unigram and interpolated Kneser-Ney over any token ids.

Shapes: T tokens, V vocabulary, U distinct n-grams of one order. An n-gram is one integer, (index of
its context among the n-grams one shorter) * V + (its last symbol), so that the sorted integers of
all orders make a trie, no key is above T * V, and training and scoring are sorting and searching in
numpy.

The vocabulary is closed: probabilities sum to 1 over its V symbols in every context, seen or not.
Sources: Kneser and Ney 1995, "Improved backing-off for m-gram language modeling"; Chen and Goodman
1999, "An empirical study of smoothing techniques for language modeling", section 3 (modified,
interpolated).
"""

from dataclasses import dataclass

import numpy as np

from llm_from_scratch.errors import UserError

FALLBACK = (0.5, 1.0, 1.5)  # where the counts of counts are too few to estimate the three discounts


@dataclass(frozen=True)
class Level:
    """The n-grams of one order, and the counts that it keeps and leaves to the order below."""

    keys: np.ndarray  # (U,) int64, sorted
    kept: np.ndarray  # (U,) float64: count less its discount
    # (contexts,) float64: the sum of the counts behind a context; 0 where there is none
    totals: np.ndarray
    left: np.ndarray  # (contexts,) float64: the sum of the discounts


@dataclass(frozen=True)
class KneserNey:
    """An n-gram model: a level for each order 1 to n; without a level it is uniform."""

    vocab_size: int
    levels: tuple[Level, ...]


def character_ids(train: str, test: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Both texts as int64 ids of their characters, and V, the distinct characters of the two.

    The closed vocabulary holds the test's characters too: that they exist is told, how often is
    not.
    """
    both = np.frombuffer((train + test).encode("utf-32-le"), dtype="<u4")
    symbols, ids = np.unique(both, return_inverse=True)
    ids = ids.astype(np.int64)
    return ids[: len(train)], ids[len(train) :], len(symbols)


def modified_discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """D1, D2, D3+ of Chen and Goodman's equation 17.

    n1 to n4 are the numbers of n-grams with a count of 1 to 4.

    Y = n1 / (n1 + 2 n2); D1 = 1 - 2 Y n2/n1; D2 = 2 - 3 Y n3/n2; D3+ = 3 - 4 Y n4/n3. `FALLBACK`
    where one of n1 to n4 is 0 or a discount comes out negative, as among the unigrams of
    characters, which have few or no rare types.
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    d1, d2, d3 = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return (d1, d2, d3) if min(d1, d2, d3) >= 0 else FALLBACK


def kneser_ney(ids: np.ndarray, order: int, vocab_size: int, discount: float | None = None) -> KneserNey:
    """Interpolated Kneser-Ney: modified, with three discounts an order, or plain with `discount`.

    The highest order counts n-grams, the lower ones the distinct symbols seen before an n-gram.
    Order 1 is the unigram, order 0 the uniform distribution. Documents are joined by the caller,
    with an end-of-text id where there is one.

    Modified: the lowest order is discounted too and interpolated with 1/V, so that a symbol that
    never occurred has the uniform share of that discount. Plain: the lowest order is the share of
    continuations alone, undiscounted, as in nltk's `KneserNeyInterpolated`; an unseen symbol has
    probability 0 there. It equals nltk's everywhere but behind contexts that are or end in the
    first 1 to order - 2 symbols of the text: the n-gram at the very start follows nothing, and nltk
    counts it among the types that pay a discount although its continuation count is 0, so that
    nltk's probabilities sum to more than 1 there, or divide by 0. Here they sum to 1.

    Args:
        ids: (T,) whole numbers from 0 to V - 1.
        order: n, 0 or more.
        vocab_size: V.
        discount: from 0 to 1; None for modified.
    """
    ids = _checked(ids, vocab_size)
    if order < 0 or (discount is not None and not 0 <= discount <= 1):
        raise UserError(f"order={order}, discount={discount}: the order is 0 or more, the discount from 0 to 1")
    if len(ids) < order:
        raise UserError(f"{len(ids)} tokens of training text are too few for order {order}: give more text")
    grams = []
    # Index of the n-gram that starts there; of order 0 there is one
    at = np.zeros(len(ids) + 1, dtype=np.int64)
    for n in range(1, order + 1):
        size = len(ids) - n + 1
        keys, first, at = np.unique(at[:size] * vocab_size + ids[n - 1 :], return_index=True, return_inverse=True)
        grams.append((keys, first, at))
    levels: list[Level] = []
    for n, (keys, _, at) in enumerate(grams, 1):
        if n == order:
            counts = np.bincount(at)
        else:  # each distinct n-gram one longer is one continuation of what it ends with
            counts = np.bincount(at[grams[n][1] + 1], minlength=len(keys))
        if discount is None:
            discounts = np.array([0.0, *modified_discounts(counts)])[np.minimum(counts, 3)]
        else:
            discounts = np.full(len(counts), discount if n > 1 else 0.0)
        kept = np.maximum(counts - discounts, 0.0)
        contexts, width = keys // vocab_size, len(levels[-1].keys) if levels else 1
        levels.append(
            Level(
                keys,
                kept,
                totals=np.bincount(contexts, weights=counts, minlength=width),
                left=np.bincount(contexts, weights=counts - kept, minlength=width),
            )
        )
    return KneserNey(vocab_size, tuple(levels))


def nats(model: KneserNey, ids: np.ndarray) -> np.ndarray:
    """(T,) float64: -ln p of each id after the n - 1 before it; the first ids have fewer."""
    ids = _checked(ids, model.vocab_size)
    p = np.full(len(ids), 1 / model.vocab_size)
    # Index of the n-gram that starts there, -1: never seen
    found = np.zeros(len(ids) + 1, dtype=np.int64)
    for n, level in enumerate(model.levels, 1):
        context = found[: max(len(ids) - n + 1, 0)]
        key = context * model.vocab_size + ids[n - 1 :]
        place = np.minimum(np.searchsorted(level.keys, key), len(level.keys) - 1)
        seen = level.keys[place] == key  # an unseen context makes a negative key, which none is
        total = np.where(context >= 0, level.totals[context], 0.0)
        told = total > 0
        lower = p[n - 1 :]
        kept = np.where(seen, level.kept[place], 0.0)
        lower[told] = (kept[told] + level.left[context[told]] * lower[told]) / total[told]
        found = np.where(seen, place, -1)
    with np.errstate(divide="ignore"):  # plain Kneser-Ney gives some symbols none: infinite nats
        return -np.log(p)


def distribution(model: KneserNey, context: np.ndarray) -> np.ndarray:
    """(V,) float64: p of every symbol after `context`, (C,) ids; the plain twin of `nats`."""
    V = model.vocab_size
    p = np.full(V, 1 / V)
    for n, level in enumerate(model.levels[: len(context) + 1], 1):
        index = 0
        for shorter, symbol in zip(model.levels, context[len(context) - n + 1 :], strict=False):
            key = index * V + int(symbol)
            index = int(np.searchsorted(shorter.keys, key))
            if index == len(shorter.keys) or shorter.keys[index] != key:
                return p  # nor is a longer context seen
        if level.totals[index] > 0:
            start, stop = np.searchsorted(level.keys, (index * V, (index + 1) * V))
            p *= level.left[index] / level.totals[index]
            p[level.keys[start:stop] - index * V] += level.kept[start:stop] / level.totals[index]
    return p


def _checked(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    ids = np.asarray(ids, dtype=np.int64)
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise UserError(f"ids from {ids.min()} to {ids.max()} do not fit a vocabulary of {vocab_size}: give its size")
    return ids
