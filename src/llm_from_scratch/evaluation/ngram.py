"""N-gram baselines: uniform, unigram and interpolated Kneser-Ney over any token ids.

Shapes: T tokens, V vocabulary, U distinct n-grams of one order. An n-gram is one integer, (index of
its context among the n-grams one shorter) * V + (its last symbol). The sorted integers of all
orders make a trie, no key is above T * V, and training and scoring are sorting and searching in
numpy.

The vocabulary is closed: probabilities sum to 1 over its V symbols in every context, seen or not.
Sources: Kneser and Ney 1995, "Improved backing-off for m-gram language modeling"; Chen and Goodman
1999, "An empirical study of smoothing techniques for language modeling", section 3 (modified,
interpolated).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llm_from_scratch.errors import UserError

# The three discounts, where the counts of counts are too few to estimate them.
FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Level:
    """The n-grams of one order: discounted counts, and the mass left to the order below."""

    keys: np.ndarray  # (U,) int64, sorted
    kept: np.ndarray  # (U,) float64: count less its discount
    # (contexts,) float64: the sum of the counts after a context; 0 where nothing follows it
    totals: np.ndarray
    left: np.ndarray  # (contexts,) float64: the sum of the discounts


@dataclass(frozen=True)
class KneserNey:
    """An n-gram model: a level for each order 1 to n; without levels it is uniform."""

    vocab_size: int
    levels: tuple[Level, ...]


def character_ids(train: str, test: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the character ids of both texts, int64, and V, their number of distinct characters.

    The closed vocabulary includes the test text's characters: the model knows which occur there,
    not how often.
    """
    both = np.frombuffer((train + test).encode("utf-32-le"), dtype="<u4")
    symbols, ids = np.unique(both, return_inverse=True)
    ids = ids.astype(np.int64)
    return ids[: len(train)], ids[len(train) :], len(symbols)


def modified_discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """Returns the discounts D1, D2, D3+ of modified Kneser-Ney (Chen and Goodman, equation 17).

    n1 to n4 are the numbers of n-grams with a count of 1 to 4.

    Y = n1 / (n1 + 2 n2); D1 = 1 - 2 Y n2/n1; D2 = 2 - 3 Y n3/n2; D3+ = 3 - 4 Y n4/n3. `FALLBACK`
    where one of n1 to n4 is 0 or a discount is negative, as for the unigrams of characters, which
    have few or no rare types.
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    d1, d2, d3 = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return (d1, d2, d3) if min(d1, d2, d3) >= 0 else FALLBACK


def kneser_ney(ids: np.ndarray, order: int, vocab_size: int, discount: float | None = None) -> KneserNey:
    """Builds an interpolated Kneser-Ney model: modified, or plain where `discount` is given.

    The highest order counts n-grams, the lower ones the distinct symbols seen before an n-gram.
    Order 1 is the unigram, order 0 the uniform distribution. The caller joins the documents, with
    an end-of-text id where there is one.

    Modified: each order has three discounts. The lowest order is discounted too and interpolated
    with 1/V, so that a symbol that never occurred has the uniform share of that discount.

    Plain: the orders above 1 share `discount`. Order 1 is the share of continuations alone,
    undiscounted, as in nltk's `KneserNeyInterpolated`; an unseen symbol has probability 0 there.
    The two agree except after contexts that are, or end in, the first 1 to order - 2 symbols of the
    text. The n-gram at the very start follows nothing: nltk counts it among the types that pay a
    discount although its continuation count is 0, so that nltk's probabilities sum to more than 1
    there, or divide by 0. Here they sum to 1.

    Args:
        ids: (T,) whole numbers from 0 to V - 1.
        order: n, 0 or more.
        vocab_size: V.
        discount: from 0 to 1; None for modified.

    Raises:
        UserError: when an argument is out of range, or T is below `order`.
    """
    return deque(kneser_neys(ids, order, vocab_size, discount), maxlen=1).pop()


def kneser_neys(ids: np.ndarray, order: int, vocab_size: int, discount: float | None = None) -> Iterator[KneserNey]:
    """Yields the models of the orders 0 to `order`, for each of which n-grams are counted once.

    They share the levels below their highest order. Arguments and errors are those of `kneser_ney`.
    """
    ids = _checked(ids, vocab_size)
    if order < 0 or (discount is not None and not 0 <= discount <= 1):
        raise UserError(f"order={order}, discount={discount}: the order is 0 or more, the discount from 0 to 1")
    if len(ids) < order:
        raise UserError(f"{len(ids)} tokens of training text are too few for order {order}: give more text")

    def of_order(n: int) -> float | None:
        return 0.0 if discount is not None and n == 1 else discount

    yield KneserNey(vocab_size, ())
    lower: list[Level] = []
    shorter = np.zeros(1, dtype=np.int64)  # keys of the n-grams one shorter; order 0 has the empty one
    at = np.zeros(len(ids) + 1, dtype=np.int64)  # index of the one that starts at each token
    contexts = 1  # n-grams two shorter
    for n in range(1, order + 1):
        size = len(ids) - n + 1
        keys, first, found = np.unique(at[:size] * vocab_size + ids[n - 1 :], return_index=True, return_inverse=True)
        if n > 1:  # each distinct n-gram is one continuation of the shorter one that it ends with
            continuations = np.bincount(at[first + 1], minlength=len(shorter))
            lower.append(_level(shorter, continuations, contexts, vocab_size, of_order(n - 1)))
            contexts = len(shorter)
        own = _level(keys, np.bincount(found), contexts, vocab_size, of_order(n))
        yield KneserNey(vocab_size, (*lower, own))
        shorter, at = keys, found


def _level(keys: np.ndarray, counts: np.ndarray, contexts: int, vocab_size: int, discount: float | None) -> Level:
    """Builds a level of the n-grams `keys`; `contexts` is the number of the n-grams one shorter."""
    if discount is None:
        discounts = np.array([0.0, *modified_discounts(counts)])[np.minimum(counts, 3)]
    else:
        discounts = np.full(len(counts), discount)
    kept = np.maximum(counts - discounts, 0.0)
    context = keys // vocab_size
    return Level(
        keys,
        kept,
        totals=np.bincount(context, weights=counts, minlength=contexts),
        left=np.bincount(context, weights=counts - kept, minlength=contexts),
    )


def nats(model: KneserNey, ids: np.ndarray) -> np.ndarray:
    """Returns -ln p of each id given the n - 1 ids before it, fewer at the start: (T,) float64."""
    ids = _checked(ids, model.vocab_size)
    p = np.full(len(ids), 1 / model.vocab_size)
    # Index of the n-gram that starts at each token; -1: not seen in training
    found = np.zeros(len(ids) + 1, dtype=np.int64)
    for n, level in enumerate(model.levels, 1):
        context = found[: max(len(ids) - n + 1, 0)]
        key = context * model.vocab_size + ids[n - 1 :]
        place = np.minimum(np.searchsorted(level.keys, key), len(level.keys) - 1)
        seen = level.keys[place] == key  # an unseen context has a negative key: no match
        total = np.where(context >= 0, level.totals[context], 0.0)
        told = total > 0
        lower = p[n - 1 :]
        kept = np.where(seen, level.kept[place], 0.0)
        lower[told] = (kept[told] + level.left[context[told]] * lower[told]) / total[told]
        found = np.where(seen, place, -1)
    with np.errstate(divide="ignore"):  # in plain Kneser-Ney p may be 0: infinite nats
        return -np.log(p)


def distribution(model: KneserNey, context: np.ndarray) -> np.ndarray:
    """Returns p of every symbol after `context`, (C,) ids: (V,); the plain twin of `nats`."""
    V = model.vocab_size
    p = np.full(V, 1 / V)
    for n, level in enumerate(model.levels[: len(context) + 1], 1):
        index = 0
        for shorter, symbol in zip(model.levels, context[len(context) - n + 1 :], strict=False):
            key = index * V + int(symbol)
            index = int(np.searchsorted(shorter.keys, key))
            if index == len(shorter.keys) or shorter.keys[index] != key:
                return p  # longer contexts are unseen, too
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
