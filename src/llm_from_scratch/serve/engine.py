"""Continuous batching: texts join and leave at any step of one model (Yu et al. 2022, Orca).

A step reads at most PIECE tokens of prompts, then writes one token of every text that has been
read. `Batch` is the texts of one model, `Engine` the thread that steps all batches in turn.

A text's ids are those of `generate` with its seed. Where a processor rounds products of one row
and of several rows differently, two logits that are equal but for the last bit may change places.

Shapes: B texts that are decoded, V vocabulary.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_from_scratch.cores import sharing_cores
from llm_from_scratch.errors import MachineError, UserError
from llm_from_scratch.generation import draw_noise, sample, window_start
from llm_from_scratch.model import KVCache
from llm_from_scratch.serve.prefixes import PIECE, Prefixes, piece_key
from llm_from_scratch.serve.requests import Part, Request, Text
from llm_from_scratch.serve.slots import Slots
from llm_from_scratch.static_step import attention_kernels, bucket
from llm_from_scratch.weights import LoadedModel

log = logging.getLogger(__name__)
NO_NUMBERS = "the model answers with NaN: its training diverged, or its weights are damaged"


class QueueFullError(RuntimeError):
    """The queue has no room for a request: it is to be sent again later."""


@dataclass
class _Reading:
    """A text whose context is being read, into a cache of its own."""

    text: Text
    cache: KVCache
    key: bytes = b""


class Batch:
    """The texts of one model: waiting, being read, being written.

    Args:
        loaded: the model, in evaluation mode.
        slots: texts that are read and written at a time, at most.
        queue: texts that wait, at most.
        context: positions of a text, at most the model's; None: the model's.
        prefixes: where prompts that were read are kept.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        slots: int = 16,
        queue: int = 64,
        context: int | None = None,
        prefixes: Prefixes | None = None,
    ) -> None:
        self.loaded, self.model, self.tokenizer = loaded, loaded.model, loaded.tokenizer
        self.rows, self.queue = slots, queue
        self.context = min(context or self.model.config.block_size, self.model.config.block_size)
        self.prefixes = Prefixes() if prefixes is None else prefixes
        self.ends = frozenset({self.tokenizer.eot_id, *loaded.end_ids})
        weight = self.model.token_embedding.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.slots = Slots(self.model.config, slots, self.context, self.device, self.dtype)
        self.waiting: deque[Text] = deque()
        self.reading: deque[_Reading] = deque()
        self.writing: list[Text] = []  # the text in slot i is entry i
        self.admitted: list[Text] = []  # and not ended: an error ends also one that is between two places
        self.lock = threading.Lock()  # of `waiting`, to which other threads add

    @property
    def active(self) -> int:
        """The number of texts that are read or written."""
        return len(self.reading) + len(self.writing)

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""
        return bool(self.waiting or self.reading or self.writing)

    def add(self, requests: Sequence[Request], on_part: Callable[[int, Part], None]) -> list[Text]:
        """Puts requests into the queue, all or none; `on_part` gets the place and the part.

        Raises:
            QueueFullError: when the queue has no room for them.
        """
        texts = [
            Text(request, self.tokenizer, self.ends, functools.partial(on_part, place))
            for place, request in enumerate(requests)
        ]
        with self.lock:
            if len(self.waiting) + len(requests) > self.queue:
                raise QueueFullError(f"the queue of {self.queue} texts is full")
            self.waiting.extend(texts)
        return texts

    @torch.inference_mode()
    def step(self) -> None:
        """Drops what was cancelled, admits, reads a piece, writes a token of each text."""
        self._drop()
        with self.lock:
            admitted = [self.waiting.popleft() for _ in range(min(len(self.waiting), self.rows - self.active))]
        self.admitted = [one for one in self.admitted if not (one.finished or one.cancelled)] + admitted
        for text in admitted:
            text.admitted = time.monotonic()
            self._open(text)
        self._read()
        self._write()
        if not self.writing and self.slots.capacity > bucket(1, self.context):
            self.slots.release()

    def fail(self, error: Exception) -> None:
        """Ends all texts that are read or written with an error."""
        texts = [one for one in self.admitted if not (one.finished or one.cancelled)]
        self.reading.clear()
        self.writing, self.admitted = [], []
        self.prefixes.clear()
        self.slots.release()
        for text in texts:
            text.fail(error)

    def _drop(self) -> None:
        with self.lock:
            for text in [one for one in self.waiting if one.cancelled]:
                self.waiting.remove(text)
        self.reading = deque(one for one in self.reading if not one.text.cancelled)
        for slot in reversed(range(len(self.writing))):
            if self.writing[slot].cancelled:
                self._leave(slot)

    def _leave(self, slot: int) -> None:
        """Frees a slot; the text of the last one moves there."""
        last = self.writing.pop()
        if slot < len(self.writing):
            self.slots.put(slot, self.slots, len(self.writing), last.length)
            self.writing[slot] = last

    def _open(self, text: Text) -> None:
        """Begins to read a text, whose context of a prompt that is too long is its last part."""
        if text.generator is None:
            text.generator = torch.Generator(self.device).manual_seed(text.request.sampling.seed)
            text.start = max(0, len(text.ids) - self.context)
        size = len(text.ids) - text.start
        self.reading.append(_Reading(text, KVCache(self.model.config, 1, size, self.device, self.dtype)))

    # ------------------------------------------------------------------------------------- reading
    def _read(self) -> None:
        """Reads at most PIECE tokens, a piece of each text in turn."""
        left = PIECE
        while self.reading:
            one = self.reading[0]
            ids = one.text.ids[one.text.start :]
            place = one.cache.length
            piece = ids[place : place + PIECE]
            if self._found(one, piece, last=place + len(piece) == len(ids)):
                continue
            if len(piece) > left:
                return
            left -= len(piece)
            self.reading.popleft()
            logits = self._read_piece(one, piece)
            if one.cache.length < len(ids):
                self.reading.append(one)
            else:
                self._begin(one, logits)

    def _key(self, one: _Reading, piece: list[int]) -> bytes | None:
        """Returns a piece's key; None where the text is no prompt any more."""
        return piece_key(one.key, piece) if not one.text.written and one.text.start == 0 else None

    def _found(self, one: _Reading, piece: list[int], *, last: bool) -> bool:
        """Takes a piece from those that were read before; returns whether it is there."""
        key = self._key(one, piece)
        if key is None or one.text.request.prompt_logprobs:
            return False
        found, logits = self.prefixes.load(key, one.cache, len(piece), last=last)
        if found:
            one.text.reused += len(piece)
            one.key = key
        if found and last:
            assert logits is not None
            self.reading.popleft()
            self._begin(one, logits)
        return found

    def _read_piece(self, one: _Reading, piece: list[int]) -> Tensor:
        """Reads a piece and returns the logits (1, V) behind it."""
        ids = torch.tensor([piece], device=self.device)
        place, key = one.cache.length, self._key(one, piece)
        last = place + len(piece) == len(one.text.ids) - one.text.start
        with attention_kernels(self.device):
            hidden = self.model.hidden_states(ids, one.cache)
            if one.text.request.prompt_logprobs and not one.text.written:
                one.text.read(one.text.start + place, self.model.logits(hidden)[0])
            logits = self.model.logits(hidden[:, -1])
        if key is not None:
            self.prefixes.save(key, one.cache, len(piece), logits.clone() if last else None)
            one.key = key
        return logits

    def _begin(self, one: _Reading, logits: Tensor) -> None:
        """Moves a text that has been read into a slot, and writes its next token."""
        text = one.text
        if not text.request.writes and logits.amax().isfinite():
            text.skip(logits[0])
        else:
            self._choose([text], logits)
        if not text.finished:
            text.length = one.cache.length
            self.slots.put(len(self.writing), one.cache, 0, text.length)
            self.writing.append(text)

    # ------------------------------------------------------------------------------------- writing
    def _write(self) -> None:
        """Writes one token of every text in a slot; texts with a full context are read anew."""
        for slot in reversed(range(len(self.writing))):
            text = self.writing[slot]
            if text.length == self.context:
                self._leave(slot)
                text.start = window_start(text.start, len(text.ids), self.context)
                self._open(text)
        texts = [*self.writing]
        if not texts:
            return
        logits = self.slots.decode(self.model, [text.ids[-1] for text in texts], [text.length for text in texts])
        for text in texts:
            text.length += 1
        self._choose(texts, logits)
        for slot in reversed(range(len(texts))):
            if texts[slot].finished:
                self._leave(slot)

    def _choose(self, texts: Sequence[Text], logits: Tensor) -> None:
        """Chooses a token for each of B texts from logits (B, V), equal settings at once.

        A text whose logits are no numbers ends with an error.
        """
        groups: dict[tuple, list[int]] = {}
        finite = logits.amax(dim=-1).isfinite().tolist()  # NaN is the largest of numbers
        for row, text in enumerate(texts):
            if not finite[row]:
                text.fail(MachineError(NO_NUMBERS))
                continue
            asked = text.request.sampling
            settings = (asked.temperature, asked.top_k, asked.top_p, asked.min_p)
            # A penalty reads the text, whose length is its own.
            groups.setdefault((settings, row if asked.repetition_penalty != 1 else None), []).append(row)
        chosen: dict[int, int] = {}
        for rows in groups.values():
            members = [texts[row] for row in rows]
            config = members[0].request.sampling
            adjusted = torch.cat([text.adjust(logits[row : row + 1]) for row, text in zip(rows, members, strict=True)])
            noise = [draw_noise(adjusted[:1], config, text.generator) for text in members if text.generator]
            ids = torch.tensor([members[0].ids if config.repetition_penalty != 1 else []], device=self.device)
            together = torch.cat([one for one in noise if one is not None]) if config.temperature else None
            chosen |= zip(rows, sample(adjusted, ids, config, together).tolist(), strict=True)
        for row, token in sorted(chosen.items()):
            texts[row].write(token, logits[row])


class Engine:
    """The thread that owns the models and steps their batches in turn."""

    def __init__(self, batches: Mapping[str, Batch]) -> None:
        self.batches = dict(batches)
        self.leaving: list[Batch] = []  # of models that were replaced, until their texts have ended
        self.steps = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes requests."""
        return self._thread.is_alive() and not self._closing

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after its step; texts that are not finished end with an error."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        for batch in self._all():
            while batch.waiting:
                batch.waiting.popleft().fail(MachineError("the server stops"))
            batch.fail(MachineError("the server stops"))

    def submit(self, name: str, requests: Sequence[Request], on_part: Callable[[int, Part], None]) -> list[Text]:
        """Puts requests into the queue of a model, all or none.

        `on_part` gets the place of a request and the next part of its text, in the engine's thread.

        Raises:
            QueueFullError: when the queue has no room for them.
            UserError: when the engine has ended.
        """
        with self._changed:
            if self._closing:
                raise UserError("the server stops: send the request to another one")
            texts = self.batches[name].add(requests, on_part)
            self._changed.notify()
        return texts

    def replace(self, name: str, batch: Batch) -> None:
        """Gives a model's requests to a batch from now on; texts of the batch before end in it."""
        with self._changed:
            before = self.batches.get(name)
            self.batches = {**self.batches, name: batch}
            if before is not None:
                self.leaving.append(before)

    def _all(self) -> list[Batch]:
        return [*self.batches.values(), *self.leaving]

    def _run(self) -> None:
        with sharing_cores():
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or any(one.busy for one in self._all()))
                    if self._closing:
                        return
                    self.leaving = [one for one in self.leaving if one.busy]
                    batches = self._all()
                for batch in batches:
                    if batch.busy:
                        self._step(batch)

    def _step(self, batch: Batch) -> None:
        try:
            batch.step()
            self.steps += 1
        except Exception as error:  # a request fails, the server goes on
            log.exception("a step of the engine failed")
            batch.fail(error)
