"""Batches of conversations: documents packed into rows of T tokens, in an order by (seed, epoch).

A document of L ids gives L - 1 predictions: inputs and targets are one token apart, within the
document. Documents are packed once, whatever the seed: first-fit decreasing (Johnson 1973). A row
never parts a document, and attention stays within each (Krell et al. 2021), so that a conversation
has the loss that it has alone. Every epoch takes all rows once, in an order that is a function of
(seed, epoch) alone.

Symbols: T tokens of a row (`model.block_size`), R rows of a split, B rows of an optimizer step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_from_scratch.data.sampler import IGNORE, RandomBatches, sequences_before

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # x, y and the documents' numbers, (n, T) int64


def first_fit_decreasing(sizes: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Packs items into bins, each into the first one with room, the largest items first.

    A tournament tree over the bins' room finds the first in O(log n).

    Args:
        sizes: size of each item, at most `capacity`.
        capacity: size of a bin.

    Returns:
        The items (0-based, in ascending order) of each bin.
    """
    sizes = np.asarray(sizes)
    leaves = 1 << max(0, int(len(sizes) - 1).bit_length())
    room = [capacity] * (2 * leaves)  # node i has the larger room of its children 2 i and 2 i + 1
    bins: list[list[int]] = []
    for item in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[item])
        node = 1
        while node < leaves:
            node = 2 * node if room[2 * node] >= size else 2 * node + 1
        number = node - leaves
        if number == len(bins):
            bins.append([])
        bins[number].append(item)
        room[node] -= size
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return [sorted(items) for items in bins]


@dataclass(frozen=True)
class Learned:
    """The documents of a split: all ids one behind the other, ends, and which ids are learned."""

    tokens: np.ndarray  # (N,)
    ends: np.ndarray  # (D,): the position after each document
    mask: np.ndarray  # (N,) bool

    def document(self, number: int, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids and the mask of a document (0-based), at most `limit` of its first."""
        start = int(self.ends[number - 1]) if number else 0
        end = int(self.ends[number])
        end = end if limit is None else min(end, start + limit)
        return self.tokens[start:end], self.mask[start:end]


class PackedRows:
    """The documents of a split in rows of T tokens.

    A document of more than T + 1 ids is cut or skipped; so is left out what has nothing to learn
    within its first T + 1 ids.

    Attributes:
        rows: the documents of each row.
        targets: (R,) int64, learned tokens of each row.
        cut: documents whose end is cut off.
        skipped: documents left out as they are too long, or have nothing to learn before the cut.
        learned_ids: the learned ids of all rows, in the order of the documents.
    """

    def __init__(self, documents: Learned, *, block_size: int, too_long: str, eot_id: int) -> None:
        self.documents, self.block_size, self.eot_id = documents, block_size, eot_id
        lengths = np.diff(documents.ends.astype(np.int64), prepend=0)
        long = lengths > block_size + 1
        self.limit = block_size + 1
        learned = np.array([self._learned(number) for number in range(len(lengths))], dtype=np.int64)
        kept = learned > 0 if too_long == "cut" else (learned > 0) & ~long
        self.cut, self.skipped = int((long & kept).sum()), int((~kept).sum())
        chosen = np.flatnonzero(kept)
        sizes = np.minimum(lengths[chosen], self.limit) - 1
        self.rows = [chosen[items].tolist() for items in first_fit_decreasing(sizes, block_size)]
        self.targets = np.array([sum(learned[number] for number in row) for row in self.rows], dtype=np.int64)

    def _learned(self, number: int) -> int:
        """Returns the targets of a document: its first id is none."""
        return int(self.documents.document(number, self.limit)[1][1:].sum())

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def learned_ids(self) -> np.ndarray:
        """Returns the learned ids of all rows, in the order of the documents."""
        found = [np.empty(0, np.int64)]
        for number in sorted(number for row in self.rows for number in row):
            ids, mask = self.documents.document(number, self.limit)
            found.append(ids[1:][mask[1:]])
        return np.concatenate(found)

    def read(self, numbers: Sequence[int] | np.ndarray) -> Rows:
        """Returns rows by their numbers: inputs, targets and documents, (n, T) int64 each.

        Targets that are not learned are IGNORE. What follows the last document is padding, a
        document of its own; so is all of a row whose number is beyond the last.
        """
        shape = (len(numbers), self.block_size)
        x, y = np.full(shape, self.eot_id, dtype=np.int64), np.full(shape, IGNORE, dtype=np.int64)
        documents = np.zeros(shape, dtype=np.int64)
        for place, number in enumerate(numbers):
            begin = count = 0
            for count, document in enumerate(self.rows[number] if number < len(self) else (), 1):
                ids, mask = self.documents.document(document, self.limit)
                end = begin + len(ids) - 1
                x[place, begin:end] = ids[:-1]
                y[place, begin:end][mask[1:]] = ids[1:][mask[1:]]
                documents[place, begin:end] = count - 1
                begin = end
            documents[place, begin:] = count
        return x, y, documents

    def batches(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Rows]:
        """Yields all rows once, as `ValidationWindows.batches` does: this rank's share, padded."""
        rounds = -(-len(self) // (batch_size * world_size))
        for number in range(rank, rounds * world_size, world_size):
            yield self.read(range(number * batch_size, (number + 1) * batch_size))


class EpochBatches(RandomBatches):
    """Batches that take every place once an epoch, in an order by (seed, epoch).

    Step after step takes the next B places; the last batch of an epoch goes on with the first
    places of the next.
    """

    stream: int  # of the random numbers that order an epoch; no other purpose of a subclass has it

    def __init__(self, n_places: int, *, rank: int = 0, world_size: int = 1, **settings: Any) -> None:
        super().__init__(n_places, rank=rank, world_size=world_size, **settings)
        self._orders: dict[int, np.ndarray] = {}  # of the latest two epochs that were read

    def order(self, epoch: int) -> np.ndarray:
        """Returns all places in the order of an epoch (0-based), (n_places,) int64."""
        found = self._orders.get(epoch)
        if found is None:
            raw = np.random.Philox(key=self.seed, counter=[0, 0, self.stream, epoch]).random_raw(self.n_places)
            found = np.argsort(raw, kind="stable")
            self._orders = dict([*list(self._orders.items())[-1:], (epoch, found)])
        return found

    def places(self, step: int) -> np.ndarray:
        """Returns the places of a step, (B,) int64."""
        first = sequences_before(step, self.batch_size, self.batch_schedule)
        epochs, within = np.divmod(np.arange(first, first + self.size(step)), self.n_places)
        return np.array([self.order(epoch)[place] for epoch, place in zip(epochs.tolist(), within, strict=True)])


class ConversationSampler(EpochBatches):
    """Training batches of packed rows: every epoch takes all rows once. Places are rows."""

    stream = 2

    def __init__(self, packed: PackedRows, **settings: Any) -> None:
        self.packed = packed
        super().__init__(len(packed), block_size=packed.block_size, **settings)

    def targets(self, step: int) -> int:
        """Returns the learned tokens of a step, of all ranks together."""
        return int(self.packed.targets[self.places(step)].sum())

    def batch(self, step: int, micro: int = 0, n_micro: int = 1) -> Rows:  # type: ignore[override]
        """Returns this rank's rows of one micro-batch of a step, as `RandomBatches.batch`.

        Beside inputs and targets it has the number of each token's document in its row.
        """
        return self.packed.read(self.places(step)[self.rows(step, micro, n_micro)])
