import os
import pickle
import re
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_from_scratch.data.sampler import (
    IGNORE,
    RandomChunkSampler,
    RandomTextSampler,
    ValidationWindows,
    batch_size_at,
    get_random_chunk,
    sequences_before,
)
from llm_from_scratch.data.shards import open_shard, write_shard


def pieces(*lengths, dtype="<u2"):
    """Shards whose ids are their own places in the whole stream."""
    return [np.arange(end - n, end, dtype=dtype) for n, end in zip(lengths, np.cumsum(lengths), strict=True)]


class FixedStart:
    """In the place of numpy's generator: hands out one start and remembers the bound it was asked
    for.
    """

    def __init__(self, start):
        self.start = start

    def integers(self, high):
        self.high = high
        return self.start


# --- random chunks of shards ---


def test_get_random_chunk_reaches_both_ends():
    tokens = np.arange(10, 15, dtype="<u2")
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(100):
        x, y = get_random_chunk(tokens, 3, rng)
        assert x.dtype == y.dtype == np.int64
        assert y.tolist() == [x[0] + 1, x[0] + 2, x[0] + 3]
        starts.add(int(x[0]))
    assert starts == {10, 11}


def test_batch_agrees_with_get_random_chunk():
    tokens = np.random.default_rng(0).permutation(60_000).astype("<u2")
    where = np.argsort(tokens)
    x, y = RandomChunkSampler([tokens], block_size=50, batch_size=32, seed=3).batch(17)
    assert x.dtype == y.dtype == np.int64
    assert x.flags.c_contiguous
    assert y.flags.c_contiguous
    for row_x, row_y in zip(x, y, strict=True):
        rng = FixedStart(where[row_x[0]])
        twin_x, twin_y = get_random_chunk(tokens, 50, rng)
        assert rng.high == 60_000 - 50
        np.testing.assert_array_equal(row_x, twin_x)
        np.testing.assert_array_equal(row_y, twin_y)


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(lambda lengths: max(lengths) > 4),
    block_size=st.integers(1, 4),
    seed=st.integers(0, 2**64),
    step=st.integers(0, 2**63),
    dtype=st.sampled_from(["<u2", "<u4"]),
)
@settings(deadline=None)
def test_chunks_are_slices_of_one_shard(lengths, block_size, seed, step, dtype):
    shards = pieces(*lengths, dtype=dtype)
    x, y = RandomChunkSampler(shards, block_size=block_size, batch_size=8, seed=seed).batch(step)
    assert x.shape == y.shape == (8, block_size)
    ends = np.cumsum(lengths)
    for row_x, row_y in zip(x, y, strict=True):
        shard = shards[np.searchsorted(ends, row_x[0], side="right")]
        start = int(row_x[0] - shard[0])
        np.testing.assert_array_equal(row_x, shard[start : start + block_size])
        # Short across an end
        np.testing.assert_array_equal(row_y, shard[start + 1 : start + 1 + block_size])


@given(st.sampled_from([1, 2, 8]), st.sampled_from([1, 2, 3]), st.integers(0, 2**32), st.integers(0, 10**6))
@settings(deadline=None)
def test_ranks_and_micro_batches_divide_one_global_batch(world_size, n_micro, seed, step):
    shards, common = pieces(500, 7, 300), {"block_size": 10, "batch_size": 48, "seed": seed}
    whole = RandomChunkSampler(shards, **common).batch(step)
    parts = [
        RandomChunkSampler(shards, **common, rank=rank, world_size=world_size).batch(step, micro, n_micro)
        for rank in range(world_size)
        for micro in range(n_micro)
    ]
    for side in (0, 1):
        assert parts[0][side].shape == (48 // world_size // n_micro, 10)
        np.testing.assert_array_equal(np.concatenate([part[side] for part in parts]), whole[side])


def test_a_schedule_of_batches_by_hand():
    # As a command line may give it: 1 up to step 2, 4 up to step 5, then 8
    schedule = [[5, 4], [2, 1]]
    assert [batch_size_at(step, 8, schedule) for step in range(7)] == [1, 1, 4, 4, 4, 8, 8]
    assert [sequences_before(step, 8, schedule) for step in (0, 1, 2, 4, 5, 7)] == [0, 1, 2, 10, 14, 30]
    assert (batch_size_at(0, 8, None), sequences_before(3, 8, [])) == (8, 24)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from([8, 16, 24])), min_size=1, unique_by=lambda pair: pair[0]),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 40),
)
@settings(deadline=None)
def test_a_smaller_batch_is_the_first_sequences_of_a_larger_one(schedule, world_size, step):
    shards, common = pieces(500, 7, 300), {"block_size": 10, "batch_size": 48, "seed": 3}
    size = batch_size_at(step, 48, schedule)
    parts = [
        RandomChunkSampler(shards, **common, batch_schedule=schedule, rank=rank, world_size=world_size).batch(
            step, micro, 2
        )
        for rank in range(world_size)
        for micro in range(2)
    ]
    whole = RandomChunkSampler(shards, **common).batch(step)
    for side in (0, 1):
        np.testing.assert_array_equal(np.concatenate([part[side] for part in parts]), whole[side][:size])
    assert sequences_before(step, 48, schedule) == sum(batch_size_at(i, 48, schedule) for i in range(step))


def test_steps_and_seeds_differ():
    def starts(seed, step):
        return RandomChunkSampler(pieces(60_000), block_size=8, batch_size=16, seed=seed).batch(step)[0][:, 0].tolist()

    drawn = [starts(seed, step) for seed in range(3) for step in range(20)]
    assert len({start for batch in drawn for start in batch}) > 0.97 * 3 * 20 * 16


def test_starts_are_uniform_over_all_shards():
    """210 places, 100 draws a place: chi-square has mean 209 and standard deviation 20.4."""
    sampler = RandomChunkSampler(pieces(104, 4, 5, 113), block_size=4, batch_size=1000, seed=1)
    places = [*range(0, 100), 108, *range(113, 222)]
    assert sampler.n_places == len(places) == 210
    counts = np.bincount(np.concatenate([sampler.batch(step)[0][:, 0] for step in range(21)]), minlength=226)
    assert counts.sum() == counts[places].sum() == 21_000
    assert counts[places].min() > 0  # the first and the last place of each shard, too
    chi_square = ((counts[places] - 100) ** 2 / 100).sum()
    assert 209 - 4 * 20.4 < chi_square < 209 + 4 * 20.4


def test_known_batch_in_a_fresh_process():
    """Philox's raw numbers of this key and counter, modulo 49,984: a change here is a change of
    every run's data.
    """
    code = (
        "import numpy as np; from llm_from_scratch.data.sampler import RandomChunkSampler as S\n"
        "s = S([np.arange(50_000, dtype='<u2')], block_size=16, batch_size=4, seed=1337)\n"
        "print(*s.batch(1000)[0][:, 0])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    fresh = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    sampler = RandomChunkSampler(pieces(50_000), block_size=16, batch_size=4, seed=1337)
    for step in range(5):
        sampler.batch(step)
    assert (
        sampler.batch(1000)[0][:, 0].tolist() == [int(start) for start in fresh.split()] == [26285, 43383, 1106, 49136]
    )


def test_ids_above_65535_survive():
    shards = [np.array([1, 2, 3], "<u4"), np.array([70_000, 70_001, 70_002], "<u4")]
    x, y = RandomChunkSampler(shards, block_size=2, batch_size=32, seed=0).batch(0)
    assert {tuple(row) for row in np.hstack([x, y[:, -1:]]).tolist()} == {(1, 2, 3), (70_000, 70_001, 70_002)}


def test_unaligned_and_strided_arrays():
    raw = np.concatenate([np.zeros(1, np.uint8), np.arange(300, dtype="<u2").view(np.uint8)])
    odd = np.frombuffer(raw.tobytes(), "<u2", offset=1)
    x, _ = RandomChunkSampler([odd], block_size=7, batch_size=64, seed=0).batch(0)
    np.testing.assert_array_equal(x, x[:, :1] + np.arange(7))
    x, y = RandomChunkSampler([odd[::3]], block_size=7, batch_size=64, seed=0).batch(0)
    np.testing.assert_array_equal(y, x[:, :1] + 3 * np.arange(1, 8))


@pytest.mark.parametrize("lengths", [[0], [4, 3], []])
def test_text_too_short(lengths):
    with pytest.raises(
        ValueError, match=r"has \d tokens in one piece and a chunk needs 5: .*model\.block_size"
    ) as caught:
        RandomChunkSampler(pieces(*lengths), block_size=4, batch_size=2, seed=0)
    assert "\n" not in str(caught.value)
    x, _ = RandomChunkSampler(pieces(5), block_size=4, batch_size=2, seed=0).batch(0)
    assert x.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(("batch_size", "world_size", "n_micro"), [(6, 4, 1), (6, 2, 2), (0, 1, 1), (-4, 1, 1)])
def test_batch_that_cannot_be_divided(batch_size, world_size, n_micro):
    with pytest.raises(ValueError, match=rf"^data\.batch_size={batch_size} .* multiple of {world_size * n_micro}$"):
        RandomChunkSampler(pieces(99), block_size=4, batch_size=batch_size, seed=0, world_size=world_size).batch(
            0, n_micro=n_micro
        )


def test_a_schedule_that_cannot_be_divided():
    with pytest.raises(ValueError, match=r"^data\.batch_schedule=6 sequences cannot be divided among 4 devices"):
        RandomChunkSampler(
            pieces(99), block_size=4, batch_size=8, seed=0, world_size=4, batch_schedule=[[3, 4], [9, 6]]
        )


def test_pickles_by_reopening(tmp_path):
    infos = [
        write_shard(tmp_path / f"{k}", [(np.arange(k, 60_000), 1)], vocab_size=60_000, tokenizer="t") for k in (0, 3)
    ]
    tokens = [open_shard(info.path).tokens for info in infos]
    sampler = RandomChunkSampler(tokens, block_size=9, batch_size=8, seed=5, rank=1, world_size=2)
    windows = ValidationWindows(tokens, block_size=9, eot_id=0)
    for original in (sampler, windows):
        assert len(pickle.dumps(original)) < 2000
        again = pickle.loads(pickle.dumps(original))
        assert all(isinstance(shard, np.memmap) for shard in again.shards)
    again = pickle.loads(pickle.dumps(sampler))
    np.testing.assert_array_equal(again.batch(7, 1, 2), sampler.batch(7, 1, 2))
    # an array without a file travels with its contents
    plain = pickle.loads(pickle.dumps(RandomChunkSampler(pieces(50), block_size=9, batch_size=8, seed=5)))
    assert plain.batch(0)[0].shape == (8, 9)


def test_memory_is_flat(tmp_path):
    path = tmp_path / "big.bin"
    with path.open("wb") as file:
        file.truncate(2**28)  # 134 M tokens that take no room
    sampler = RandomChunkSampler([np.memmap(path, "<u2", "r")], block_size=64, batch_size=16, seed=0)
    sampler.batch(0)
    tracemalloc.start()
    for step in range(20):
        sampler.batch(step)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now < 50_000
    assert peak < 200_000


# --- random chunks of raw text ---


class ByteTokenizer:
    """Bytes as ids, 256 as the end of a text."""

    kind, vocab_size, eot_id, fingerprint = "byte", 257, 256, "bytes"

    def encode(self, text):
        return list(text.encode())


class CharTokenizer(ByteTokenizer):
    def encode(self, text):
        return [1000 + ord(character) for character in text]


class WordTokenizer(ByteTokenizer):
    def encode(self, text):
        return [1000 + zlib.crc32(word.encode()) for word in re.findall(r"\S+\s*|\s+", text)]


TEXTS = ["Tôtô – 猫が好き 🐈‍⬛!\nÆsop – 犬も好き 🐕‍🦺?", "é", "", "plain text", "🌪"]


@pytest.fixture
def text(tmp_path):
    def write(texts=TEXTS):
        path = tmp_path / "text.txt"
        path.write_bytes("".join(texts).encode())
        return path, np.cumsum([len(text.encode()) for text in texts])

    return write


def ring(texts, tokenizer):
    return [i for text in texts for i in [*tokenizer.encode(text), tokenizer.eot_id]]


def test_text_chunks_are_slices_of_the_ring(text):
    """Chunks start with a document or, where the id after a cut is dropped, one byte into each
    other character.
    """
    whole = ring(TEXTS, ByteTokenizer())
    starts, document_start = set(), 0
    for document in TEXTS:
        starts |= {document_start + len(document[:i].encode()) + (i > 0) for i in range(len(document))}
        document_start += len(document.encode()) + 1
    for block_size in (12, 30, len(whole) - 1):
        start_of = {tuple((whole * 2)[i : i + block_size + 1]): i for i in range(len(whole))}
        sampler = RandomTextSampler(*text(), ByteTokenizer(), block_size=block_size, batch_size=1000, seed=0)
        x, y = sampler.batch(3)
        assert x.dtype == y.dtype == np.int64
        assert x.shape == y.shape == (1000, block_size)
        np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
        assert {start_of[*row] for row in np.hstack([x, y[:, -1:]]).tolist()} == starts


def test_text_pieces_that_a_cut_spoilt_are_dropped(text):
    """Ranges begin and end in the middle of a word, chunks hold whole words alone."""
    # Makes the sampler read few bytes at first
    short = "I do so if he is at it or in on as we go up by me. "
    texts = [
        short + "It's true, said Dorothy, the Lion\nasked for cøurage. ",
        "Oz the Great gave each of them what he had. ",
    ]
    whole = ring(texts, WordTokenizer())
    for block_size in range(2, 9):
        sampler = RandomTextSampler(*text(texts), WordTokenizer(), block_size=block_size, batch_size=600, seed=0)
        x, y = sampler.batch(0)
        slices = {tuple((whole * 2)[i : i + block_size + 1]) for i in range(len(whole))}
        assert {tuple(row) for row in np.hstack([x, y[:, -1:]]).tolist()} == slices


def test_text_of_long_words(text):
    sampler = RandomTextSampler(
        *text(["incomprehensibilities " * 9]), WordTokenizer(), block_size=9, batch_size=2, seed=0
    )
    assert sampler.batch(0)[0].shape == (2, 9)


@pytest.mark.parametrize("texts", [["a" * 50 + "🌪" * 400], ["🌪" * 400 + "a" * 50], ["ab"] * 100])
def test_text_reads_more_where_pieces_are_long(text, texts):
    """The first chunk does not tell how many bytes a piece has elsewhere."""
    path, ends = text(texts)
    sampler = RandomTextSampler(path, ends, CharTokenizer(), block_size=30, batch_size=200, seed=2)
    whole = ring(texts, CharTokenizer())
    slices = {tuple((whole * 2)[i : i + 31]) for i in range(len(whole))}
    x, y = sampler.batch(0)
    assert {tuple(row) for row in np.hstack([x, y[:, -1:]]).tolist()} <= slices


def test_a_schedule_of_batches_from_a_text(text):
    path, ends = text()
    common = {"block_size": 9, "batch_size": 24, "seed": 8}
    sampler = RandomTextSampler(path, ends, ByteTokenizer(), **common, batch_schedule=[[10, 6]])
    sampler = pickle.loads(pickle.dumps(sampler))
    whole = RandomTextSampler(path, ends, ByteTokenizer(), **common)
    assert (len(sampler.places(9)), len(sampler.places(10))) == (6, 24)
    np.testing.assert_array_equal(sampler.batch(9)[0], whole.batch(9)[0][:6])
    np.testing.assert_array_equal(sampler.batch(10)[0], whole.batch(10)[0])


def test_text_ranks_micro_batches_and_pickles(text):
    path, ends = text()
    common = {"block_size": 9, "batch_size": 24, "seed": 8}
    whole = RandomTextSampler(path, ends, ByteTokenizer(), **common).batch(1000)[0]
    for world_size, n_micro in ((1, 3), (2, 2), (8, 1)):
        parts = []
        for rank in range(world_size):
            sampler = RandomTextSampler(path, ends, ByteTokenizer(), **common, rank=rank, world_size=world_size)
            sampler.batch(1)
            sampler = pickle.loads(pickle.dumps(sampler))
            parts += [sampler.batch(1000, micro, n_micro)[0] for micro in range(n_micro)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


class SampledTokenizer(WordTokenizer):
    """A dropout that shows the seed."""

    def sample(self, text, dropout, seed):
        return [int(1000 * dropout), seed] * len(text)


def test_text_in_other_pieces_every_time(text):
    """Where the chunks begin does not depend on the dropout; each sequence of each step has a seed
    of its own.
    """
    path, ends = text(["many words of a text " * 20])
    common = {"block_size": 9, "batch_size": 24, "seed": 8}
    sampler = RandomTextSampler(path, ends, SampledTokenizer(), **common, subword_dropout=0.25)
    plain = RandomTextSampler(path, ends, SampledTokenizer(), **common)
    np.testing.assert_array_equal(sampler.places(3), plain.places(3))
    assert 250 not in plain.batch(3)[0]
    seeds = {int(ids[ids != 250][0]) for step in (3, 4) for ids in sampler.batch(step)[0]}
    assert len(seeds) == 48
    whole, parts = sampler.batch(3)[0], []
    for rank in range(2):
        part = RandomTextSampler(
            path, ends, SampledTokenizer(), **common, subword_dropout=0.25, rank=rank, world_size=2
        )
        parts += [pickle.loads(pickle.dumps(part)).batch(3, micro, 3)[0] for micro in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_text_pickle_carries_no_text(text, tmp_path):
    path, _ = text(["x" * 100_000])
    ends = np.memmap(tmp_path / "ends", "<u8", "w+", shape=(20_000,))
    ends[:] = np.linspace(5, 100_000, 20_000).astype(int)
    ends.flush()
    sampler = RandomTextSampler(path, ends, ByteTokenizer(), block_size=9, batch_size=4, seed=0)
    data = pickle.dumps(sampler)
    assert len(data) < 2000
    np.testing.assert_array_equal(pickle.loads(data).batch(4), sampler.batch(4))


def test_text_too_short_or_not_the_one_that_was_prepared(text):
    path, ends = text(["abc", "d"])  # with two end-of-text pieces: 6 tokens
    x, y = RandomTextSampler(path, ends, ByteTokenizer(), block_size=5, batch_size=50, seed=0).batch(0)
    assert sorted(set(np.hstack([x, y[:, -1:]])[0].tolist())) == [97, 98, 99, 100, 256]
    with pytest.raises(ValueError, match=r"text\.txt has 6 tokens in one piece and a chunk needs 7: "):
        RandomTextSampler(path, ends, ByteTokenizer(), block_size=6, batch_size=1, seed=0)
    with pytest.raises(ValueError, match=r"text\.txt has 4 bytes and its documents end at 5: prepare"):
        RandomTextSampler(path, ends + 1, ByteTokenizer(), block_size=2, batch_size=1, seed=0)
    for ends in (np.array([0]), np.array([], dtype=int)):
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=r"has [01] tokens in one piece and a chunk needs 3"):
            RandomTextSampler(path, ends, ByteTokenizer(), block_size=2, batch_size=1, seed=0)


# --- validation windows ---


def joined(windows, batch_size, world_size=1):
    """All ranks' batches, in the order of their windows."""
    ranks = [list(windows.batches(batch_size, rank, world_size)) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for together in zip(*ranks, strict=True) for batch in together]
    for batch in batches:
        for side in batch:
            assert side.shape == (batch_size, windows.block_size)
            assert side.dtype == np.int64
            assert side.flags.c_contiguous
    return tuple(np.concatenate([batch[side] for batch in batches]) for side in (0, 1))


def test_windows_by_hand():
    windows = ValidationWindows([np.array([11, 12, 13]), np.array([14, 15])], block_size=3, eot_id=0)
    assert (len(windows), windows.tokens) == (2, 5)
    [(x, y)] = windows.batches(3)
    assert x.tolist() == [[0, 11, 12], [13, 14, 0], [0, 0, 0]]
    assert y.tolist() == [[11, 12, 13], [14, 15, IGNORE], [IGNORE] * 3]


def test_overlapping_windows_by_hand():
    windows = ValidationWindows([np.arange(11, 18)], block_size=4, eot_id=0, overlap=0.5)
    assert (len(windows), windows.stride) == (3, 2)
    [(x, y)] = windows.batches(3)
    assert x.tolist() == [[0, 11, 12, 13], [12, 13, 14, 15], [14, 15, 16, 0]]
    assert y.tolist() == [[11, 12, 13, 14], [IGNORE, IGNORE, 15, 16], [IGNORE, IGNORE, 17, IGNORE]]


@given(
    lengths=st.lists(st.integers(0, 25), min_size=1, max_size=5),
    block_size=st.integers(1, 12),
    overlap=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1 - 2**-53]),
    batch_size=st.integers(1, 5),
    world_size=st.sampled_from([1, 2, 3, 8]),
)
@settings(max_examples=300, deadline=None)
def test_every_token_is_predicted_once(lengths, block_size, overlap, batch_size, world_size):
    total = sum(lengths)
    if total < block_size:
        return
    eot = 999
    windows = ValidationWindows(pieces(*lengths), block_size=block_size, eot_id=eot, overlap=overlap)
    x, y = joined(windows, batch_size, world_size)
    counted = y != IGNORE
    assert counted.sum() == windows.tokens == total
    assert y[counted].tolist() == list(range(total))  # in order, which a window's place depends on
    before = np.where(y == 0, eot, y - 1)
    np.testing.assert_array_equal(x[counted], before[counted])
    assert counted.any(axis=1).sum() == len(windows)
    assert not counted[len(windows) :].any()
    # Context: every input is the token before the next one, or the end-of-text piece in front and
    # behind.
    steps = x[: len(windows)]
    inside = (steps[:, 1:] != eot) & (steps[:, :-1] != eot)
    assert (np.diff(steps, axis=1)[inside] == 1).all()
    if overlap == 0.0:
        assert len(windows) == -(-total // block_size)
        assert counted[: total // block_size].all()


def test_windows_do_not_depend_on_how_the_split_is_sharded():
    one, many = (
        ValidationWindows(pieces(*lengths), block_size=7, eot_id=0, overlap=0.3) for lengths in ((100,), (1, 0, 60, 39))
    )
    np.testing.assert_array_equal(joined(one, 4), joined(many, 4))


@pytest.mark.parametrize("lengths", [[], [0], [3, 4]])
def test_validation_split_too_short(lengths):
    with pytest.raises(ValueError, match=rf"has {sum(lengths)} tokens and needs 8: .*model\.block_size"):
        ValidationWindows(pieces(*lengths), block_size=8, eot_id=0)
    assert len(ValidationWindows(pieces(3, 5), block_size=8, eot_id=0)) == 1


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_overlap_outside_its_range(overlap):
    with pytest.raises(ValueError, match=f"overlap={overlap} "):
        ValidationWindows(pieces(20), block_size=8, eot_id=0, overlap=overlap)
