"""Pairs of answers to one prompt: batches of the optimizer steps, and the held-out pairs.

Document 2i of a prepared text is the prompt of pair i with the chosen answer, document 2i + 1 the
same prompt with the rejected one; the mask names the tokens of the answers.

Shapes: P pairs, B = 2P sequences, T tokens of the longest one.
"""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from llm_from_scratch.data.packing import EpochBatches, Learned
from llm_from_scratch.data.sampler import IGNORE
from llm_from_scratch.errors import UserError

log = logging.getLogger(__name__)
# Inputs and targets of n pairs, (2n, T) int64 each; None, as each sequence is one document; the
# log-probabilities of the 2n answers under the reference model, float32, None while unknown.
Arrays = tuple[np.ndarray, np.ndarray, None, np.ndarray | None]


class Pairs:
    """The pairs of a split in sequences of at most T + 1 tokens.

    A pair of which one document is longer is cut or skipped (`data.too_long`). A pair is skipped,
    too, where a prompt leaves no room for an answer.

    Attributes:
        numbers: the pairs that are kept, (P,) of all.
        skipped: the number of those that are not.
        reference: log-probabilities of the answers under the reference model, (2P,) float32; None
            while they are unknown.

    Raises:
        UserError: when no pair is left.
    """

    def __init__(self, documents: Learned, *, block_size: int, too_long: str, eot_id: int, split: str) -> None:
        assert len(documents.ends) % 2 == 0, "the answers of a pair stand side by side"
        self.documents, self.limit, self.eot_id = documents, block_size + 1, eot_id
        self.reference: np.ndarray | None = None
        sizes = np.diff(documents.ends.astype(np.int64), prepend=0)
        kept = np.array([documents.document(n, self.limit)[1][1:].any() for n in range(len(sizes))], dtype=bool)
        if too_long == "skip":
            kept &= sizes <= self.limit
        self.sizes = np.minimum(sizes, self.limit)
        self.numbers = np.flatnonzero(kept.reshape(-1, 2).all(axis=1))
        self.skipped = len(sizes) // 2 - len(self.numbers)
        if not len(self.numbers):
            raise UserError(
                f"data.too_long={too_long}: the {split} split has no pair of answers within {self.limit} tokens: use more"
                " pairs, or a larger model.block_size"
            )
        if self.skipped:
            log.warning(
                "%d of %d pairs of the %s split are left out: they do not fit into %d tokens (model.block_size)",
                *(self.skipped, len(sizes) // 2, split, block_size),
            )

    def __len__(self) -> int:
        return len(self.numbers)

    def documents_of(self, pairs: np.ndarray) -> np.ndarray:
        """Returns the documents of some pairs (n,), chosen and rejected in turn, (2n,)."""
        return (2 * self.numbers[pairs][:, None] + [0, 1]).ravel()

    def width(self, pairs: np.ndarray) -> int:
        """Returns T of some pairs (n,): the inputs of their longest sequence."""
        return int(self.sizes[self.documents_of(pairs)].max()) - 1

    def batch(self, pairs: np.ndarray, width: int, size: int | None = None) -> Arrays:
        """Returns some pairs as rows of `width` tokens, chosen and rejected in turn.

        Targets of prompts, and behind the end of a sequence, are IGNORE.

        Args:
            pairs: (n,) indices below `len`.
            width: T.
            size: the number of pairs that rows are returned for; None: n. Rows without a pair have
                no target.
        """
        x = np.full((2 * (len(pairs) if size is None else size), width), self.eot_id, dtype=np.int64)
        y = np.full_like(x, IGNORE)
        reference = None
        if self.reference is not None:
            reference = np.zeros(len(x), dtype=np.float32)
            reference[: 2 * len(pairs)] = self.reference.reshape(-1, 2)[pairs].ravel()
        for row, number in enumerate(self.documents_of(pairs).tolist()):
            ids, mask = self.documents.document(number, self.limit)
            x[row, : len(ids) - 1] = ids[:-1]
            # Unsigned ids would make another number of IGNORE
            y[row, : len(ids) - 1] = np.where(mask[1:], ids[1:].astype(np.int64), IGNORE)
        return x, y, None, reference

    def batches(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Arrays]:
        """Yields all pairs in order, each once, in batches of `batch_size` pairs.

        They are every `world_size`-th batch from number `rank` on. Every rank gets the same number
        of batches, of the same number of rows.
        """
        rounds = -(-len(self) // (batch_size * world_size))
        for number in range(rank, rounds * world_size, world_size):
            pairs = np.arange(number * batch_size, min((number + 1) * batch_size, len(self)))
            yield self.batch(pairs, self.width(pairs) if len(pairs) else 1, batch_size)


class PreferenceSampler(EpochBatches):
    """Training batches of `batch_size` pairs: every epoch takes all pairs. Places are pairs."""

    stream = 3

    def __init__(self, pairs: Pairs, **settings: Any) -> None:
        self.pairs = pairs
        super().__init__(len(pairs), **settings)

    def batch(self, step: int, micro: int = 0, n_micro: int = 1) -> Arrays:  # type: ignore[override]
        """Returns this rank's micro-batch of a step; T is the longest of the step."""
        pairs = self.places(step)
        return self.pairs.batch(pairs[self.rows(step, micro, n_micro)], self.pairs.width(pairs))
