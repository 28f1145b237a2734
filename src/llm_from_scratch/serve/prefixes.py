"""Keys and values of prompts that were read before, in pieces of PIECE tokens.

A prompt is always read in the same pieces, so that what a piece holds depends on the tokens up to
its end alone: a text is the same to the last bit whether its prompt was read or found here.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llm_from_scratch.model import KVCache

PIECE = 32  # tokens that are read at once, between two decoding steps
MEBIBYTES = 256  # of keys and values that are kept


@dataclass
class _Piece:
    """Keys and values (2, layers, G, T, D); `logits` (1, V) where a prompt has ended here."""

    values: Tensor
    logits: Tensor | None

    @property
    def size(self) -> int:
        return self.values.nbytes + (0 if self.logits is None else self.logits.nbytes)


def piece_key(before: bytes, ids: Sequence[int]) -> bytes:
    """Returns the key of a piece, which stands for it and for all pieces before it."""
    return hashlib.sha256(before + np.array(ids, np.int64).tobytes()).digest()


class Prefixes:
    """The pieces that were read last, up to `size` bytes."""

    def __init__(self, size: int = MEBIBYTES * 2**20) -> None:
        self.size, self.used = size, 0
        self.pieces: OrderedDict[bytes, _Piece] = OrderedDict()

    def load(self, key: bytes, cache: KVCache, count: int, *, last: bool) -> tuple[bool, Tensor | None]:
        """Copies a piece of `count` tokens behind the positions of a cache (1 row).

        Returns whether it was found, and the logits behind the `last` piece of a prompt.
        """
        found = self.pieces.get(key)
        if found is None or (last and found.logits is None):
            return False, None
        self.pieces.move_to_end(key)
        start, end = cache.length, cache.length + count
        for buffers, values in zip((cache.keys, cache.values), found.values, strict=True):
            for target, origin in zip(buffers, values, strict=True):
                target[0, :, start:end] = origin
        cache.length = end
        return True, found.logits

    def save(self, key: bytes, cache: KVCache, count: int, logits: Tensor | None) -> None:
        """Keeps the last `count` positions of a cache (1 row), with the logits behind them."""
        start = cache.length - count
        parts = [torch.stack([one[0, :, start : cache.length] for one in each]) for each in (cache.keys, cache.values)]
        piece = _Piece(torch.stack(parts), logits)
        old = self.pieces.pop(key, None)
        self.used += piece.size - (old.size if old else 0)
        self.pieces[key] = piece
        while self.used > self.size:
            _, dropped = self.pieces.popitem(last=False)
            self.used -= dropped.size

    def clear(self) -> None:
        """Forgets all pieces."""
        self.pieces.clear()
        self.used = 0
