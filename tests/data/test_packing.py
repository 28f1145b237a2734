"""Rows of conversations: every learned token once in an epoch, in an order by (seed, epoch)."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_from_scratch.data.packing import ConversationSampler, Learned, PackedRows, first_fit_decreasing
from llm_from_scratch.data.sampler import IGNORE
from llm_from_scratch.errors import UserError

EOT = 7
T = 8


def learned(*documents: tuple[list[int], list[int]]) -> Learned:
    ids = [token for tokens, _ in documents for token in tokens]
    mask = [one for _, marks in documents for one in marks]
    ends = np.cumsum([len(tokens) for tokens, _ in documents])
    return Learned(np.array(ids, "<u2"), ends.astype("<u8"), np.array(mask, bool))


def packed(documents: Learned, too_long: str = "cut") -> PackedRows:
    return PackedRows(documents, block_size=T, too_long=too_long, eot_id=EOT)


def many(count: int = 40) -> Learned:
    """Documents of 2 to 12 ids; those of document i are 100 i, 100 i + 1, …; the second half of each is learned."""
    sizes = np.random.default_rng(3).integers(2, 13, count).tolist()
    return learned(
        *(
            ([100 * i + j for j in range(size)], [int(2 * j >= size) for j in range(size)])
            for i, size in enumerate(sizes)
        )
    )


def plain_first_fit(sizes: list[int], capacity: int) -> list[list[int]]:
    """First-fit decreasing from its definition."""
    bins: list[list[int]] = []
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fitting = next((one for one in bins if sum(sizes[i] for i in one) + sizes[item] <= capacity), None)
        if fitting is None:
            bins.append(fitting := [])
        fitting.append(item)
    return [sorted(one) for one in bins]


@given(st.lists(st.integers(1, 30), max_size=60))
@settings(deadline=None)
def test_the_tree_finds_the_first_bin_with_room(sizes: list[int]) -> None:
    assert first_fit_decreasing(sizes, 30) == plain_first_fit(sizes, 30)


def test_a_row_by_hand() -> None:
    rows = packed(learned(([1, 2, 3], [0, 0, 1]), ([4, 5, 6, 1], [0, 1, 0, 1])))
    x, y, documents = rows.read([0])
    assert x.tolist() == [[1, 2, 4, 5, 6, EOT, EOT, EOT]]
    assert y.tolist() == [[IGNORE, 3, 5, IGNORE, 1, IGNORE, IGNORE, IGNORE]]
    assert documents.tolist() == [[0, 0, 1, 1, 1, 2, 2, 2]]
    assert rows.targets.tolist() == [3]
    assert rows.learned_ids.tolist() == [3, 5, 1]


def test_long_ones_are_cut_or_skipped_and_counted() -> None:
    documents = learned(
        (list(range(20)), [0] * 5 + [1] * 15),  # cut to 9 ids, of which 4 are learned
        (list(range(20, 40)), [0] * 15 + [1] * 5),  # nothing to learn before the cut
        ([50, 51], [0, 1]),
        ([60, 61], [1, 0]),  # the first id is never a target
    )
    cut, skipped = packed(documents), packed(documents, "skip")
    assert (cut.cut, cut.skipped, int(cut.targets.sum())) == (1, 2, 5)
    assert (skipped.cut, skipped.skipped, skipped.rows) == (0, 3, [[2]])
    assert cut.learned_ids.tolist() == [5, 6, 7, 8, 51]


@pytest.mark.parametrize("too_long", ["cut", "skip"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_validation_has_every_learned_token_once(too_long: str, world_size: int) -> None:
    rows, found = packed(many(), too_long), []
    for rank in range(world_size):
        batches = list(rows.batches(4, rank, world_size))
        assert {one.shape for batch in batches for one in batch} == {(4, T)}
        found += [y[y != IGNORE] for _, y, _ in batches]
    assert len({len(list(rows.batches(4, rank, world_size))) for rank in range(world_size)}) == 1
    assert sorted(np.concatenate(found).tolist()) == sorted(rows.learned_ids.tolist())
    assert len(set(rows.learned_ids.tolist())) == rows.targets.sum()


def test_an_epoch_has_every_row_once() -> None:
    rows = packed(many())
    for batch_size in (1, 3, 5, len(rows), len(rows) + 4):
        sampler = ConversationSampler(rows, batch_size=batch_size, seed=5)
        seen = np.concatenate([sampler.places(step) for step in range(3 * len(rows))])
        epochs = [seen[i : i + len(rows)].tolist() for i in range(0, 3 * len(rows), len(rows))]
        assert all(sorted(epoch) == list(range(len(rows))) for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2]
    other = ConversationSampler(rows, batch_size=5, seed=6)
    assert other.places(0).tolist() != ConversationSampler(rows, batch_size=5, seed=5).places(0).tolist()


@pytest.mark.parametrize("schedule", [None, [[3, 6]]])
def test_a_step_is_the_same_however_it_is_divided(schedule: list[list[int]] | None) -> None:
    rows = packed(many())
    whole = ConversationSampler(rows, batch_size=12, seed=5, batch_schedule=schedule)
    before = 0
    for step in range(6):
        x, y, documents = whole.batch(step)
        assert len(x) == (6 if schedule and step < 3 else 12)
        assert whole.targets(step) == (y != IGNORE).sum()
        for world_size, n_micro in ((2, 1), (1, 3), (2, 3)):
            made = [
                ConversationSampler(
                    rows, batch_size=12, seed=5, batch_schedule=schedule, rank=rank, world_size=world_size
                ).batch(step, micro, n_micro)
                for rank in range(world_size)
                for micro in range(n_micro)
            ]
            for one, expected in zip(zip(*made, strict=True), (x, y, documents), strict=True):
                np.testing.assert_array_equal(np.concatenate(one), expected)
        again = pickle.loads(pickle.dumps(whole))
        np.testing.assert_array_equal(again.batch(step)[0], x)
        before += len(x)
    # The place in the epochs follows from the sequences before, also behind a schedule's end.
    plain = ConversationSampler(rows, batch_size=1, seed=5)
    assert whole.places(6)[0] == plain.places(before)[0]


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(UserError, match="data.batch_size=5 sequences cannot be divided among 2"):
        ConversationSampler(packed(many()), batch_size=5, seed=5, world_size=2)
