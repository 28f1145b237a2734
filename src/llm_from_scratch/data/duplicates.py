"""Deduplication: a signature of each document, then one decision over all signatures.

Of several duplicates the first in the corpus's order is kept. The result does not depend on the
number of workers that make the signatures, or on their order.

exact: the signature is the first 128 bits of the text's sha256.

near: the signature is a MinHash (Broder 1997) of 128 minima over shingles of five words. Documents
that share one of 16 bands of 8 minima are candidates (locality-sensitive hashing: Leskovec,
Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3: 95 % of the pairs with a similarity
of 0.8 are). Each candidate is compared with the first document of its band, and removed where at
least the share THRESHOLD of the minima is equal.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from llm_from_scratch.errors import missing_extra

BANDS, ROWS = 16, 8
MINIMA = BANDS * ROWS
THRESHOLD = 0.8  # share of equal minima, an estimate of the shingles' Jaccard similarity
SHINGLE = 5  # words
SEED = 1
PART = 2**22  # documents whose hashes are sorted at a time, on average
MIX = np.array([0x9E3779B97F4A7C15 * (2 * i + 1) % 2**64 for i in range(ROWS)], np.uint64) | np.uint64(1)


def signer(kind: str) -> Callable[..., np.ndarray]:
    """Returns the function text -> signature of a kind, exact or near.

    exact: a text or an iterable of its pieces -> (2,) uint64. near: a text -> (MINIMA,) uint32.

    Raises:
        UserError: when near's library, rensa, is not installed.
    """
    return _digest if kind == "exact" else _minima()


def width(kind: str) -> tuple[int, str]:
    """Returns the number of integers in a signature of a kind, and their dtype."""
    return (2, "<u8") if kind == "exact" else (MINIMA, "<u4")


def _digest(text: Iterable[str]) -> np.ndarray:
    digest = hashlib.sha256()
    for piece in [text] if isinstance(text, str) else text:
        digest.update(piece.encode())
    return np.frombuffer(digest.digest()[:16], "<u8")


def _minima() -> Callable[[str], np.ndarray]:
    try:
        from rensa import RMinHash
    except ImportError:
        raise missing_extra("data.dedup=near needs rensa", "openwebtext") from None

    def minima(text: str) -> np.ndarray:
        words = text.lower().split()
        runs = {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
        sketch = RMinHash(num_perm=MINIMA, seed=SEED)
        sketch.update(list(runs))
        return np.array(sketch.digest(), "<u4")

    return minima


def repeated(kind: str, files: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Finds the documents that duplicate an earlier one, in this or an earlier file.

    Memory: 24 bytes for each of PART documents for exact, 24 bytes per document for near.

    Args:
        kind: exact or near.
        files: the signatures of each file, (documents, width); they can be memory maps.

    Returns:
        For each file, the 0-based numbers of its duplicates within it, ascending, int64.
    """
    ends = np.cumsum([0, *map(len, files)])
    found = _repeated_exactly(files, ends) if kind == "exact" else _repeated_nearly(files, ends)
    return [found[slice(*np.searchsorted(found, ends[i : i + 2]))] - ends[i] for i in range(len(files))]


def _repeated_exactly(files: Sequence[np.ndarray], ends: np.ndarray) -> np.ndarray:
    parts = int(ends[-1]) // PART + 1
    found = [np.empty(0, np.int64)]
    for part in range(parts):
        picked = [np.flatnonzero(file[:, 0] % np.uint64(parts) == part) for file in files]
        numbers = np.concatenate([places + end for places, end in zip(picked, ends, strict=False)])
        hashes = np.concatenate([np.asarray(file[places]) for places, file in zip(picked, files, strict=True)])
        order = np.lexsort((numbers, hashes[:, 1], hashes[:, 0]))
        same = np.all(hashes[order[1:]] == hashes[order[:-1]], axis=1)
        found.append(numbers[order[1:][same]])
    return np.sort(np.concatenate(found))


def _repeated_nearly(files: Sequence[np.ndarray], ends: np.ndarray) -> np.ndarray:
    gone = np.zeros(int(ends[-1]), bool)
    for band in range(BANDS):
        columns = slice(band * ROWS, (band + 1) * ROWS)
        keys = np.concatenate(
            [np.empty(0, np.uint64), *((file[:, columns].astype(np.uint64) * MIX).sum(axis=1) for file in files)]
        )
        order = np.argsort(keys, kind="stable")
        begins = np.flatnonzero(np.concatenate([[True], keys[order[1:]] != keys[order[:-1]]])[: len(order)])
        sizes = np.diff(np.concatenate([begins, [len(order)]]))
        for begin, size in zip(begins[sizes > 1], sizes[sizes > 1], strict=True):
            first = _signature(files, ends, order[begin])
            for number in order[begin + 1 : begin + size]:
                if not gone[number]:
                    gone[number] = np.mean(_signature(files, ends, number) == first) >= THRESHOLD
    return np.flatnonzero(gone)


def _signature(files: Sequence[np.ndarray], ends: np.ndarray, number: int) -> np.ndarray:
    file = int(np.searchsorted(ends, number, side="right")) - 1
    return files[file][number - ends[file]]
