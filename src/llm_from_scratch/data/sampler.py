"""Samplers of training batches and validation windows from prepared texts.

Training reads chunks at random positions, a function of (seed, step) alone: no state to save, and
the same data after a resume and for any number of devices. Validation reads every token exactly
once, in windows of fixed shape.

Symbols: B sequences of one optimizer step over all devices, T tokens of one sequence
(`model.block_size`).
"""

import hashlib
import logging
import mmap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from llm_from_scratch.errors import UserError

if TYPE_CHECKING:
    from llm_from_scratch.tokenizer import Tokenizer

IGNORE = -1  # a target that the loss leaves out
Schedule = Sequence[Sequence[int]]  # pairs [step, batch size], as `batch_size_at` reads them

logger = logging.getLogger(__name__)


def batch_size_at(step: int, batch_size: int, schedule: Schedule | None) -> int:
    """Returns the number of sequences of optimizer step `step`, 0-based.

    A schedule entry [N, size] sets `size` for the steps before N; after the last entry it is
    `batch_size`.

    Early gradients agree with each other: small batches then learn as much from fewer tokens
    (McCandlish et al. 2018).
    """
    return next((size for end, size in sorted(schedule or [], key=tuple) if step < end), batch_size)


def sequences_before(step: int, batch_size: int, schedule: Schedule | None) -> int:
    """Returns the total number of sequences of all optimizer steps before `step`."""
    total, start = 0, 0
    for end, size in sorted(schedule or [], key=tuple):
        total, start = total + size * max(0, min(end, step) - start), min(end, step)
    return total + batch_size * (step - start)


def get_random_chunk(tokens: np.ndarray, block_size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns a chunk (T,) from a random position and its targets (T,), one token later.

    It is the plain twin of `RandomChunkSampler`.
    """
    start = rng.integers(len(tokens) - block_size)
    chunk = tokens[start : start + block_size + 1].astype(np.int64)
    return chunk[:-1], chunk[1:]


class RandomBatches:
    """Interface of the samplers: batches as a function of (seed, step, rank, micro-batch).

    A subclass sets the number of places at which a chunk can begin (`n_places`) and implements
    `_read`, which reads the chunks.
    """

    def __init__(
        self,
        n_places: int,
        block_size: int,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        batch_schedule: Schedule | None = None,
    ) -> None:
        assert 0 <= rank < world_size
        self.n_places, self.block_size, self.batch_size, self.seed = n_places, block_size, batch_size, seed
        self.rank, self.world_size, self.batch_schedule = rank, world_size, batch_schedule
        for step in (0, *(end for end, _ in batch_schedule or [])):
            self.rows(step, 0, 1)

    def batch(self, step: int, micro: int = 0, n_micro: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Returns this rank's inputs and targets of one micro-batch of a step.

        Both are int64, (B // world_size // n_micro, T). Concatenated in the order of (rank, micro),
        they are the same B sequences for every `world_size` and `n_micro`.

        Raises:
            UserError: when B is not a multiple of world_size * n_micro.
        """
        chunks = self._read(step, self.rows(step, micro, n_micro))
        return chunks[:, :-1].astype(np.int64), chunks[:, 1:].astype(np.int64)

    def places(self, step: int) -> np.ndarray:
        """Returns the places at which the B sequences of a step begin, (B,) int64 < `n_places`.

        A place in a text is a byte position. In token shards only tokens that can begin a chunk are
        counted.
        """
        # Philox (Salmon et al. 2011) turns (seed, step) into numbers without drawing those of
        # earlier steps. Its raw numbers, unlike Generator.integers, are promised to be the same in
        # every version of numpy; the remainder favours low places by less than n_places / 2**64.
        return (self._draw(step, 0) % self.n_places).astype(np.int64)

    def targets(self, step: int) -> int | None:
        """Returns the targets of a step, of all ranks together; None: every token is one."""
        return None

    def _draw(self, step: int, purpose: int) -> np.ndarray:
        """Returns a random number for each sequence of a step, (B,) uint64.

        Each `purpose` has an independent stream.
        """
        return np.random.Philox(key=self.seed, counter=[0, 0, purpose, step]).random_raw(self.size(step))

    def size(self, step: int) -> int:
        """Returns B of a step. A smaller batch is the first sequences of a larger one."""
        return batch_size_at(step, self.batch_size, self.batch_schedule) if self.batch_schedule else self.batch_size

    def rows(self, step: int, micro: int, n_micro: int) -> slice:
        """Returns the slice of a step's B sequences that is this rank's in a micro-batch.

        Raises UserError when B cannot be divided so.
        """
        assert 0 <= micro < n_micro
        batch_size, parts = self.size(step), self.world_size * n_micro
        if batch_size < 1 or batch_size % parts:
            name = "batch_size" if batch_size == self.batch_size else "batch_schedule"
            raise UserError(
                f"data.{name}={batch_size} sequences cannot be divided among {self.world_size} devices with "
                f"{n_micro} micro-batches each: use a multiple of {parts}"
            )
        size = batch_size // parts
        first = (self.rank * n_micro + micro) * size
        return slice(first, first + size)

    def _read(self, step: int, rows: slice | np.ndarray) -> np.ndarray:
        """Returns the ids of the given sequences (`rows`) of a step, (n, T+1)."""
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        return {
            name: getattr(self, name)
            for name in ("block_size", "batch_size", "seed", "rank", "world_size", "batch_schedule")
        }


Sampler = RandomBatches


class RandomChunkSampler(RandomBatches):
    """Random chunks of token shards.

    Every position with T+1 tokens left in its shard is equally likely.

    Memory holds one array header a shard, whatever the size of the corpus. Raises UserError when no
    shard has T+1 tokens.
    """

    def __init__(
        self,
        shards: Sequence[np.ndarray],
        *,
        block_size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        batch_schedule: Schedule | None = None,
    ) -> None:
        self.shards = _Arrays(shard for shard in shards if len(shard) > block_size)
        if not self.shards:
            raise _too_short("the training text", max(map(len, shards), default=0), block_size)
        if len(self.shards) < len(shards):
            short = len(shards) - len(self.shards)
            logger.info("%d of %d shards are shorter than a chunk of %d tokens", short, len(shards), block_size + 1)
        # the place at which each shard begins, and last the number of places
        ends = np.cumsum([0] + [len(shard) - block_size for shard in self.shards])
        self._windows, rows = _windows_of_all(self.shards, block_size + 1)
        self._firsts = self._windows[:, 0]
        # the row of a chunk in `_windows` is its place + `_rows[shard]`
        self._ends, self._rows = ends[1:], rows - ends[:-1]
        super().__init__(int(ends[-1]), block_size, batch_size, seed, rank, world_size, batch_schedule)

    @property
    def n_bytes(self) -> int:
        """Returns the total size of the token ids in bytes."""
        return sum(shard.nbytes for shard in self.shards)

    def starts(self, step: int, micro: int = 0, n_micro: int = 1) -> np.ndarray:
        """Returns the positions of the chunks of `batch`, (B // world_size // n_micro,) int64.

        They are counted in tokens, 0-based, over the concatenated `shards`.
        """
        places = self.places(step)[self.rows(step, micro, n_micro)]
        # A shard's last T tokens begin no chunk and have no place: T is added for each earlier
        # shard.
        return places + self.block_size * np.searchsorted(self._ends, places, side="right")

    def _read(self, step: int, rows: slice | np.ndarray) -> np.ndarray:
        places = self.places(step)[rows]
        chunks = places + self._rows[np.searchsorted(self._ends, places, side="right")]
        # loads the first token of all chunks in one call: in a huge corpus each is a cache miss
        self._firsts.take(chunks)
        return self._windows[chunks]

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(RandomChunkSampler, **self._settings()), (self.shards,)


class MixedSampler(RandomBatches):
    """Sequences of several corpora, mixed by weight; each corpus's own sampler reads its sequences.

    For each sequence every corpus draws an exponential time (rate = weight) from a stream keyed by
    its name; the smallest wins. A corpus is thus chosen in proportion to its weight, as a function
    of (seed, step). An added corpus takes sequences from the others and leaves the rest unchanged.
    `places` are those of each sequence's own corpus.
    """

    def __init__(
        self, samplers: "dict[str, RandomChunkSampler | RandomTextSampler]", weights: Mapping[str, float]
    ) -> None:
        first = next(iter(samplers.values()))
        super().__init__(sum(one.n_places for one in samplers.values()), **first._settings())
        self.samplers, self.weights = samplers, weights

    def corpora(self, step: int) -> np.ndarray:
        """Returns the corpus of each of the B sequences of a step, (B,) int64.

        It is a 0-based index in the order of `samplers`.
        """
        waits = []
        for name in self.samplers:
            # stream 0 draws the places
            stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") + 1
            raw = self._draw(step, stream)
            waits.append(-np.log(((raw >> np.uint64(11)) + 0.5) * 2.0**-53) / self.weights[name])
        return np.argmin(waits, axis=0)

    def places(self, step: int) -> np.ndarray:
        which = self.corpora(step)
        return np.choose(which, [sampler.places(step) for sampler in self.samplers.values()])

    def _read(self, step: int, rows: slice | np.ndarray) -> np.ndarray:
        numbers, which = np.arange(self.size(step))[rows], self.corpora(step)[rows]
        chunks = np.empty((len(which), self.block_size + 1), dtype=np.int64)
        for index, sampler in enumerate(self.samplers.values()):
            if (mine := which == index).any():
                chunks[mine] = sampler._read(step, numbers[mine])
        return chunks


class RandomTextSampler(RandomBatches):
    """Random chunks of a cleaned UTF-8 text, tokenized as they are read.

    `document_ends` are the byte positions after each document, joined without separators. An
    end-of-text token follows each document and the first document follows the last, so that a chunk
    fits wherever it starts. A place is a byte position, moved on to the next character.

    A cut can make tokens that the whole text does not have: the last token read is always dropped,
    the first unless a document starts with it. (On Oz with a BPE of 1,024 tokens, 85 % of the
    chunks then equal those of the whole text; in the rest one or two tokens of the first word
    differ.)

    Ids depend on (text, tokenizer, T, place) alone; with a `subword_dropout`, the probability with
    which `BPETokenizer.sample` leaves out a merge, also on the seed, the step and the sequence's
    index in the step. Raises UserError when the text has fewer than T+1 tokens, or does not end
    where its last document does.
    """

    def __init__(
        self,
        path: str | Path,
        document_ends: np.ndarray,
        tokenizer: "Tokenizer",
        *,
        block_size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        batch_schedule: Schedule | None = None,
        subword_dropout: float = 0.0,
    ) -> None:
        self.subword_dropout = subword_dropout
        self._path, self._document_ends, self._tokenizer = Path(path), document_ends, tokenizer
        size = self._path.stat().st_size
        if size != (covered := int(document_ends[-1]) if len(document_ends) else 0):
            raise UserError(f"{path} has {size} bytes and its documents end at {covered}: prepare the data again")
        self._text = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)

        wanted = block_size + 3  # two more: the cuts can spoil the first and the last token
        n_bytes = min(4 * wanted, size)
        while len(ids := self._encode(0, n_bytes)) < wanted and n_bytes < size:
            n_bytes = min(2 * n_bytes, size)
        if len(ids) <= block_size:
            raise _too_short(str(path), len(ids), block_size)
        # bytes that most chunks need, estimated from the first
        self._n_bytes = int(1.1 * n_bytes * wanted / len(ids)) + 1
        super().__init__(size, block_size, batch_size, seed, rank, world_size, batch_schedule)

    def _read(self, step: int, rows: slice | np.ndarray) -> np.ndarray:
        seeds = (self._draw(step, 1) % 2**32)[rows].tolist()
        return np.array(list(map(self._chunk, self.places(step)[rows].tolist(), seeds)))

    def _chunk(self, place: int, seed: int) -> list[int]:
        start = self._boundary(place) % len(self._text)
        first = int(start != 0 and start != self._document_ends[self._document(start) - 1])
        n_bytes = self._n_bytes
        while len(ids := self._encode(start, n_bytes, seed)) < first + self.block_size + 2:
            n_bytes *= 2
        return ids[first : first + self.block_size + 1]

    def _encode(self, start: int, n_bytes: int, seed: int | None = None) -> list[int]:
        """Returns the ids of about `n_bytes` bytes from `start` on, documents encoded separately.

        With a `seed` and a subword dropout they are sampled; None means encoding without dropout.
        """
        ids: list[int] = []
        document = self._document(start)
        while n_bytes > 0:
            document_end = int(self._document_ends[document])
            end = self._boundary(min(start + n_bytes, document_end))
            text = self._text[start:end].tobytes().decode("utf-8")
            if self.subword_dropout and seed is not None:
                ids += self._tokenizer.sample(text, self.subword_dropout, seed)  # type: ignore[attr-defined]
            else:
                ids += self._tokenizer.encode(text)
            n_bytes -= end - start
            start = end
            if end == document_end:
                ids.append(self._tokenizer.eot_id)
                document += 1
                if document == len(self._document_ends):
                    start = document = 0
        return ids

    def _document(self, place: int) -> int:
        ends = self._document_ends
        # With another dtype than that of the ends, numpy would convert a copy of all ends.
        return int(np.searchsorted(ends, ends.dtype.type(place), side="right"))

    def _boundary(self, place: int) -> int:
        """Returns the first position from `place` on at which a character starts.

        UTF-8's continuation bytes are 10xxxxxx.
        """
        while place < len(self._text) and self._text[place] & 0xC0 == 0x80:
            place += 1
        return place

    def __reduce__(self) -> tuple[Any, ...]:
        ends = _Arrays([self._document_ends])
        return partial(_text_sampler, **self._settings(), subword_dropout=self.subword_dropout), (
            self._path,
            ends,
            self._tokenizer,
        )


class ValidationWindows:
    """A split read in order, every token predicted exactly once, always in windows of T tokens.

    The shards are one stream. Window i predicts the tokens iS … iS+T-1, each from the token before
    it, the very first from `eot_id`. The stride S is T less the `overlap` (a fraction of T, 0 <=
    overlap < 1), which serves as context: targets that an earlier window has scored are IGNORE.
    After the last token, inputs are `eot_id` and targets IGNORE.

    `tokens` is the number of scored targets, `len()` the number of windows. Raises UserError when
    the split is shorter than T tokens or `overlap` is out of range.
    """

    def __init__(self, shards: Sequence[np.ndarray], *, block_size: int, eot_id: int, overlap: float = 0.0) -> None:
        if not 0 <= overlap < 1:
            raise UserError(f"overlap={overlap} is not a part of the window: use 0 for none, or a number below 1")
        self.block_size, self.eot_id = block_size, eot_id
        self.stride = block_size - int(overlap * block_size)
        self.tokens = sum(map(len, shards))
        if self.tokens < block_size:
            raise UserError(
                f"the validation split has {self.tokens} tokens and needs {block_size}: "
                f"use a longer text, more data.val_fraction, or a model.block_size of at most {self.tokens}"
            )
        self.shards = _Arrays(shards)
        self._ends = np.cumsum([len(shard) for shard in shards])

    def __len__(self) -> int:
        return 1 + -(-(self.tokens - self.block_size) // self.stride)

    def batches(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields inputs and targets, int64 (batch_size, T).

        They are every `world_size`-th batch, from number `rank` on. Every rank gets the same number
        of batches of the same shape; positions without a token to predict have the target IGNORE.
        """
        rounds = -(-len(self) // (batch_size * world_size))
        for number in range(rank, rounds * world_size, world_size):
            yield self._batch(number * batch_size, batch_size)

    def _batch(self, first: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        T, S = self.block_size, self.stride
        window, column = first + np.arange(batch_size)[:, None], np.arange(T)
        predicted = window * S + column  # (batch_size, T) positions in the stream
        # the position of the first input; -1 is the end-of-text token before the text
        begin = first * S - 1
        stream = np.full((batch_size - 1) * S + T + 1, self.eot_id, dtype=np.int64)
        tokens = self._slice(max(begin, 0), begin + len(stream))
        stream[max(-begin, 0) :][: len(tokens)] = tokens
        windows = sliding_window_view(stream, T + 1)[::S]
        x, y = windows[:, :-1].copy(), windows[:, 1:].copy()
        x[predicted >= self.tokens] = self.eot_id
        y[(predicted >= self.tokens) | ((window > 0) & (column < T - S))] = IGNORE
        return x, y

    def _slice(self, begin: int, end: int) -> np.ndarray:
        """Returns the tokens begin … end-1 of the stream, fewer where the stream ends before."""
        parts = [np.empty(0, dtype=np.int64)]
        shard = int(np.searchsorted(self._ends, begin, side="right"))
        while begin < end and shard < len(self.shards):
            from_end = begin - int(self._ends[shard])
            parts.append(self.shards[shard][from_end:][: end - begin])
            begin += len(parts[-1])
            shard += 1
        return np.concatenate(parts)


def _windows_of_all(shards: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a view (rows, size) that slides over all shards without copies, and their first rows.

    The second value is the row at which each shard begins, (shards,) int64.

    All shards are mapped into one address space, so one strided array spans them all and the memory
    between them, which is not theirs: only rows within a shard may be read. A chunk then costs the
    same from many shards as from one; reading from each shard in turn took five times as long with
    forty.
    """
    assert len({(shard.dtype, shard.strides) for shard in shards}) == 1, "shards of one corpus are alike"
    (stride,) = shards[0].strides
    addresses = np.array([shard.__array_interface__["data"][0] for shard in shards])
    first = int(addresses.argmin())
    begins, rest = np.divmod(addresses - addresses[first], stride)
    assert not rest.any(), "ids lie where their own size says"
    rows = max(int(begin) + len(shard) for begin, shard in zip(begins, shards, strict=True)) - size + 1
    # A plain array: each index into a np.memmap would make a new memmap object.
    return as_strided(np.asarray(shards[first]), (rows, size), (stride, stride), writeable=False), begins


class _Arrays(tuple[np.ndarray, ...]):
    """Arrays that are memory-mapped again when they are unpickled.

    A pickled memmap is a copy of its contents. Only a whole memmap knows its place in the file; a
    slice of one is copied.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _map_again, tuple(
            partial(np.memmap, array.filename, array.dtype, "r", array.offset, array.shape)
            if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)
            else array
            for array in self
        )


def _map_again(*arrays: Any) -> _Arrays:
    return _Arrays(array() if isinstance(array, partial) else array for array in arrays)


def _text_sampler(path: Path, ends: _Arrays, tokenizer: "Tokenizer", **settings: Any) -> RandomTextSampler:
    return RandomTextSampler(path, ends[0], tokenizer, **settings)


def _too_short(what: str, tokens: int, block_size: int) -> UserError:
    return UserError(
        f"{what} has {tokens} tokens in one piece and a chunk needs {block_size + 1}: "
        f"use a longer text, or a model.block_size below {tokens}"
    )
