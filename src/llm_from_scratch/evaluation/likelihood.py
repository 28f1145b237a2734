"""The likelihood of a whole text under a run: figures, loss by position, extreme passages.

    documents -> ids -> nats of some thousand tokens -> sums a unit, a position, a passage

For a long text only the text, its ids (2 or 4 bytes a token) and these sums are in memory. A
position is a token's index in its context window. Shapes: N tokens, V vocabulary, P pieces (the
fewest tokens that together end a character), S passages.
"""

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_from_scratch.data.long_texts import PIECE, LongText, encode_pieces, in_memory
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.intervals import BlockedMean
from llm_from_scratch.evaluation.results import Extremes, Position, ScoredPassage
from llm_from_scratch.evaluation.scoring import Scorer, document_windows, score, scorer, text_nats, windows
from llm_from_scratch.evaluation.texts import Text, UnitNats, in_pieces
from llm_from_scratch.tokenizer import Tokenizer, first_id
from llm_from_scratch.weights import LoadedModel

PASSAGE = 240  # bytes of a passage
SHOWN = 3  # passages of each extreme
AT_ONCE = 2**16  # tokens whose nats are summed together


@dataclass(frozen=True)
class Likelihood:
    """The figures of a run over a text.

    `nats` (N,) float32 are those of each token, None unless requested by `keep_nats`.
    """

    figures: dict[str, Any]  # fields of `Figures`
    positions: list[Position]
    passages: Extremes
    nats: np.ndarray | None


def likelihood(
    run: LoadedModel, text: Text, *, overlap: float = 0.0, batch_size: int = 32, keep_nats: bool = False
) -> Likelihood:
    """Scores a text with a run.

    Args:
        run: its model is in evaluation mode.
        text: the text to score.
        overlap: the share of each window, below 1, that is context scored by an earlier window.
        batch_size: windows at a time at most.
        keep_nats: whether to return the nats of every token.
    """
    model = run_scorer(run)
    ids, lengths = encode(run.tokenizer, text.documents, text.whole), token_bytes(run.tokenizer)
    units, passages, kept = UnitNats(text), PassageNats(run.tokenizer), []
    apart = _documents(ids, run.tokenizer.eot_id, model) if text.apart else None
    if apart:
        overlap, sizes_of_windows = 0.0, [len(one) for one in apart]
    else:
        full, rest = divmod(len(ids), min(model.block_size, len(ids)))
        sizes_of_windows = [min(model.block_size, len(ids))] * full + [rest]
    positions = PositionNats(sizes_of_windows)
    first = 0
    for nats, places in _gathered(model, ids, overlap, batch_size, apart):
        part = ids[first : first + len(nats)]
        first += len(nats)
        sizes = lengths[part]
        units.add(nats, sizes)
        passages.add(part, nats, sizes)
        if not overlap:
            positions.add(nats, places)
        if keep_nats:
            kept.append(nats.astype(np.float32))
    # With an overlap, only the first window scores its first positions: score again without it.
    if overlap:
        for nats, places in _gathered(model, ids, 0.0, batch_size):
            positions.add(nats, places)
    together = np.concatenate(kept) if keep_nats else None
    return Likelihood(units.figures(), positions.rows(), passages.extremes(), together)


def run_scorer(run: LoadedModel) -> Scorer:
    """Returns the scorer of a run's model."""
    return scorer(run.model, first_id(run.tokenizer))


def sentence_nats(run: LoadedModel) -> Callable[[str], float]:
    """Returns a function: sentence -> its total -ln p after an end-of-text token."""
    model = run_scorer(run)
    return lambda sentence: text_nats(model, run.tokenizer.encode(sentence))


def _documents(ids: np.ndarray, eot_id: int, model: Scorer) -> list[np.ndarray] | None:
    """Returns the ids of each document; None where one of them is longer than the context."""
    found = np.split(ids, np.flatnonzero(ids == eot_id) + 1)[:-1]
    return found if max(map(len, found), default=0) <= model.block_size else None


def _gathered(
    model: Scorer, ids: np.ndarray, overlap: float, batch_size: int, apart: Sequence[np.ndarray] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields nats and positions of about `AT_ONCE` tokens: (n,) float64 and (n,) int64."""
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    of_text = document_windows(apart, model, batch_size) if apart else windows([ids], model, overlap, batch_size)
    for batch in score(model, of_text):
        waiting.append(batch)
        if sum(len(nats) for nats, _ in waiting) >= AT_ONCE:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    nats, places = zip(*batches, strict=True)
    return np.concatenate(nats).astype(np.float64), np.concatenate(places)


# ------------------------------------------------------------------------------------------- tokens
def encode(tokenizer: Tokenizer, documents: Sequence[str | LongText], whole: bool) -> np.ndarray:
    """Returns the (N,) ids of the documents, concatenated, in the smallest type that holds them.

    whole: whether an end-of-text token follows each document, as in training.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
    end = np.full(int(whole), tokenizer.eot_id, dtype=dtype)
    parts = []
    for document in documents:
        parts += [part.astype(dtype) for part in _ids(tokenizer, document)] + [end]
    return np.concatenate(parts) if parts else end


def _ids(tokenizer: Tokenizer, document: str | LongText) -> Iterator[np.ndarray]:
    if isinstance(document, str) and len(document) <= PIECE:
        yield tokenizer.encode_array(document)
        return
    try:
        yield from encode_pieces(in_pieces(document), tokenizer)
    except UserError:
        # Encoding the whole document raises the error with the character's place in the document.
        tokenizer.encode_array(in_memory(document))
        raise


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """Returns the length of each token in bytes: (V,) int64."""
    return np.array([len(tokenizer.decode_bytes([i])) for i in range(tokenizer.vocab_size)], dtype=np.int64)


# ---------------------------------------------------------------------------------------- positions
class PositionNats:
    """Mean loss at the positions 1, 2, 3-4, 5-8, … of the context, over windows without overlap."""

    def __init__(self, windows: Sequence[int]) -> None:
        sizes = np.asarray(windows)  # tokens of each window
        longest = int(sizes.max(initial=0))
        self._ranges: list[tuple[int, int, BlockedMean]] = []  # first and last position, from 0
        first = 0
        while first < longest:
            end = min(max(2 * first, 1), longest)
            count = int(np.clip(sizes - first, 0, end - first).sum())
            self._ranges.append((first, end - 1, BlockedMean(count)))
            first = end

    def add(self, nats: np.ndarray, places: np.ndarray) -> None:
        """Adds the next tokens: nats and 0-based positions, (n,) each."""
        for first, last, mean in self._ranges:
            mean.add(nats[(places >= first) & (places <= last)])

    def rows(self) -> list[Position]:
        """Returns a row for each range of positions, which count from 1."""
        rows = []
        for first, last, mean in self._ranges:
            loss, low, high = mean.interval()
            rows.append(Position(first=first + 1, last=last + 1, loss=loss, low=low, high=high))
        return rows


# ----------------------------------------------------------------------------------------- passages
@dataclass(frozen=True)
class _Passage:
    number: int
    bits_per_byte: float
    ids: np.ndarray  # (n,)
    nats: np.ndarray  # (n,)


class PassageNats:
    """The passages of about `PASSAGE` bytes with the most and the fewest bits per byte.

    A passage ends with the first token that reaches a multiple of `PASSAGE` bytes and completes a
    character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._worst: list[_Passage] = []
        self._best: list[_Passage] = []
        self._count = 0  # complete passages
        self._byte = 0  # offset of the first waiting token in the text
        # The tokens of the passage that is not complete: ids, nats, bytes.
        self._waiting = (np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int64))

    def add(self, ids: np.ndarray, nats: np.ndarray, lengths: np.ndarray) -> None:
        """Adds the next tokens: ids, nats and lengths in bytes, (n,) each."""
        news = (ids.astype(np.int64), nats, lengths)
        self._waiting = tuple(map(np.concatenate, zip(self._waiting, news, strict=True)))  # type: ignore[assignment]
        self._take(final=False)

    def extremes(self) -> Extremes:
        """Returns the extreme passages, once all tokens were added."""
        self._take(final=True)
        return Extremes(worst=[self._shown(one) for one in self._worst], best=[self._shown(one) for one in self._best])

    def _take(self, final: bool) -> None:
        """Moves complete passages from the waiting tokens to the extremes; `final`: all."""
        ids, nats, lengths = self._waiting
        begins, stops = self._bounds(final)
        if not len(begins):
            return
        sizes = np.add.reduceat(lengths[: stops[-1]], begins)
        bits = np.add.reduceat(nats[: stops[-1]], begins) / np.log(2)
        long_enough = np.flatnonzero(sizes >= PASSAGE // 2)  # drops a short rest at the end
        order = long_enough[np.argsort(-bits[long_enough] / sizes[long_enough], kind="stable")]
        for i in {*order[:SHOWN].tolist(), *order[-SHOWN:].tolist()}:
            part = slice(begins[i], stops[i])
            found = _Passage(self._count + i, float(bits[i] / sizes[i]), ids[part].copy(), nats[part].copy())
            self._worst.append(found)
            self._best.append(found)
        self._worst = sorted(self._worst, key=lambda one: (-one.bits_per_byte, one.number))[:SHOWN]
        self._best = sorted(self._best, key=lambda one: (one.bits_per_byte, -one.number))[:SHOWN]
        self._count += len(begins)
        self._byte += int(sizes.sum())
        self._waiting = (ids[stops[-1] :], nats[stops[-1] :], lengths[stops[-1] :])

    def _bounds(self, final: bool) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first waiting token of each complete passage and one past its last, (S,).

        final: the passage at the end counts as complete.
        """
        ids, _, lengths = self._waiting
        ends = np.cumsum(lengths)  # (n,) the byte at which each token ends
        text = np.frombuffer(self._tokenizer.decode_bytes(ids.tolist()), np.uint8)
        # True where the byte after a token continues a character; unknown after the last token.
        inside = np.append(text & 0xC0 == 0x80, not final)[ends]
        last = np.flatnonzero((lengths > 0) & ~inside)  # (P,) the token that each piece ends with
        if not len(last):
            return last, last
        starts = np.append(0, ends[last])[:-1] + self._byte  # (P,) the byte at which each begins
        # The pieces that begin between two multiples of PASSAGE bytes are one passage.
        first_piece = np.flatnonzero(np.diff(starts // PASSAGE, prepend=-1))
        stops = np.append(last[first_piece[1:] - 1], last[-1]) + 1
        begins = np.append(0, stops[:-1])
        return (begins, stops) if final else (begins[:-1], stops[:-1])

    def _shown(self, passage: _Passage) -> ScoredPassage:
        pieces = [(piece, round(bits, 3)) for piece, bits in token_pieces(self._tokenizer, passage.ids, passage.nats)]
        return ScoredPassage(bits_per_byte=passage.bits_per_byte, pieces=pieces)


def token_pieces(tokenizer: Tokenizer, ids: np.ndarray, nats: np.ndarray) -> Iterator[tuple[str, float]]:
    """Yields text and bits of each token; tokens that share a character come as one."""
    decoder, bits = codecs.getincrementaldecoder("utf-8")("replace"), 0.0
    for i, value in zip(ids.tolist(), (nats / np.log(2)).tolist(), strict=True):
        bits += value
        piece = decoder.decode(tokenizer.decode_bytes([i]))
        if piece:
            yield piece, bits
            bits = 0.0
