"""Pairs of answers: their rows by hand, each pair once an epoch, the same for any division."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_from_scratch.data.packing import Learned
from llm_from_scratch.data.preferences import Pairs, PreferenceSampler
from llm_from_scratch.data.sampler import IGNORE
from llm_from_scratch.errors import UserError


def pairs_of(*documents: tuple[list[int], list[int]], block_size: int = 8, too_long: str = "cut") -> Pairs:
    """Pairs of documents, each a prompt and an answer."""
    tokens = [token for prompt, answer in documents for token in (*prompt, *answer)]
    learned = [flag for prompt, answer in documents for flag in [False] * len(prompt) + [True] * len(answer)]
    ends = np.cumsum([len(prompt) + len(answer) for prompt, answer in documents])
    split = Learned(np.array(tokens, dtype="<u2"), ends.astype(np.uint64), np.array(learned))
    return Pairs(split, block_size=block_size, too_long=too_long, eot_id=0, split="train")


def made(pairs: int) -> Pairs:
    """Pair i has the prompt [9], a chosen answer of tokens i + 1, and a rejected one that is longer."""
    return pairs_of(*(([9], [i + 1] * (1 + i % 3 + longer)) for i in range(pairs) for longer in (0, 2)))


def sampler(pairs: Pairs, batch_size: int, seed: int = 3, **place: int) -> PreferenceSampler:
    place = {"rank": 0, "world_size": 1} | place
    return PreferenceSampler(pairs, block_size=8, batch_size=batch_size, seed=seed, **place)


def test_rows_by_hand() -> None:
    pairs = pairs_of(([7, 8], [1, 0]), ([7, 8], [2, 3, 4, 0]), ([5], [6, 0]), ([5], [0]), block_size=4)
    assert (len(pairs), pairs.width(np.array([0])), pairs.width(np.array([1])), pairs.skipped) == (2, 4, 2, 0)
    pairs.reference = np.array([-1, -2, -3, -4], dtype=np.float32)
    x, y, documents, reference = pairs.batch(np.array([1, 0]), pairs.width(np.array([1, 0])))
    # The end of the last answer of pair 0 is cut: block_size + 1 tokens
    assert x.tolist() == [[5, 6, 0, 0], [5, 0, 0, 0], [7, 8, 1, 0], [7, 8, 2, 3]]
    assert y.tolist() == [[6, 0, -1, -1], [0, -1, -1, -1], [-1, 1, 0, -1], [-1, 2, 3, 4]]
    assert (documents, reference.tolist()) == (None, [-3, -4, -1, -2])


def test_a_pair_that_does_not_fit_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    whole, cut, full = ([5], [6, 0]), ([5], [1, 2, 3, 4, 0]), ([7] * 5, [1, 0])
    pairs = pairs_of(full, whole, whole, whole, whole, cut, block_size=4)
    assert (pairs.numbers.tolist(), pairs.skipped) == ([1, 2], 1)
    assert "1 of 3 pairs of the train split are left out" in caplog.text
    assert pairs.batch(np.array([1]), 4)[1].tolist() == [[6, 0, -1, -1], [1, 2, 3, 4]]
    assert pairs_of(full, whole, whole, whole, whole, cut, block_size=4, too_long="skip").numbers.tolist() == [1]
    with pytest.raises(UserError, match="no pair of answers within 5 tokens"):
        pairs_of(whole, full, block_size=4)


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_an_epoch_has_every_pair_once(pairs: int, batch_size: int, seed: int) -> None:
    one = sampler(made(pairs), batch_size, seed)
    steps = 3 * pairs // batch_size + 1
    seen = np.concatenate([one.places(step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(seen[epoch * pairs : (epoch + 1) * pairs]) == list(range(pairs))
    again = sampler(made(pairs), batch_size, seed)  # a resumed run, which begins at the last step
    assert again.places(steps - 1).tolist() == one.places(steps - 1).tolist()


def test_the_order_changes_from_epoch_to_epoch_and_with_the_seed() -> None:
    orders = [sampler(made(40), 4, seed).order(epoch).tolist() for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_step_has_the_same_rows_however_it_is_divided() -> None:
    whole = sampler(made(11), 12)
    whole.pairs.reference = np.arange(22, dtype=np.float32)
    for step in range(3):
        expected = whole.batch(step)
        assert len(expected[0]) == 24
        assert expected[3].tolist() == [2 * pair + answer for pair in whole.places(step).tolist() for answer in (0, 1)]
        parts = []
        for rank in range(2):
            part = sampler(whole.pairs, 12, rank=rank, world_size=2)
            parts += [part.batch(step, micro, 3) for micro in range(3)]
        for index in (0, 1, 3):
            assert np.array_equal(np.concatenate([part[index] for part in parts]), expected[index])  # type: ignore[arg-type]


def test_a_smaller_batch_of_the_schedule_reads_on_where_the_last_one_ended() -> None:
    settings = {"block_size": 8, "batch_size": 4, "seed": 1, "rank": 0, "world_size": 1}
    one = PreferenceSampler(made(10), batch_schedule=[[2, 1], [4, 2]], **settings)
    assert [len(one.places(step)) for step in range(6)] == [1, 1, 2, 2, 4, 4]
    assert sorted(np.concatenate([one.places(step) for step in range(5)])) == list(range(10))


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 3))
def test_validation_has_every_pair_once_over_all_ranks(pairs: int, batch_size: int, world: int) -> None:
    held_out = made(pairs)
    held_out.reference = np.arange(2 * pairs, dtype=np.float32)
    batches = [list(held_out.batches(batch_size, rank, world)) for rank in range(world)]
    assert len({len(each) for each in batches}) == 1
    found: list[float] = []
    for x, y, _, reference in (batch for each in batches for batch in each):
        assert x.shape == y.shape == (2 * batch_size, x.shape[1])
        there = (y != IGNORE).any(axis=1)
        assert (there[::2] == there[1::2]).all()
        assert (reference[~there] == 0).all()
        found += reference[there].tolist()
    assert sorted(found) == list(range(2 * pairs))
