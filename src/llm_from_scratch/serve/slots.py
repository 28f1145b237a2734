"""Keys and values of texts of different lengths, side by side: one decoding step for all of them.

Shapes: B texts that are decoded, G key/value heads, S positions attended to, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llm_from_scratch.model import GPT, GPTConfig, KVCache
from llm_from_scratch.static_step import attention_kernels, bucket


class Slots(KVCache):
    """Cache whose row i holds the text in slot i; the texts are in the first slots.

    The capacity in positions grows with the longest text, and `release` gives it back, so that
    memory follows use.
    """

    def __init__(self, config: GPTConfig, rows: int, context: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(config, rows, min(context, 1), device, dtype)
        self.context = context
        self.index = torch.arange(rows, device=device)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes k, v (B, G, 1, D) at `position` (B,); returns those attended to, (B, G, S, D)."""
        assert self.position is not None
        rows = len(self.position)
        keys, values = self.keys[layer], self.values[layer]
        keys[self.index[:rows], :, self.position] = k[:, :, 0]
        values[self.index[:rows], :, self.position] = v[:, :, 0]
        return keys[:rows, :, : self.attended], values[:rows, :, : self.attended]

    def put(self, slot: int, source: KVCache, row: int, length: int) -> None:
        """Copies the first `length` positions of a row of another cache, or of this one."""
        self.grow(length)
        buffers = self.keys + self.values
        for target, origin in zip(buffers, source.keys + source.values, strict=True):
            target[slot, :, :length] = origin[row, :, :length]

    def grow(self, length: int) -> None:
        """Makes room for `length` positions in every slot."""
        if length <= self.capacity:
            return
        self.capacity = bucket(length, self.context)
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                rows, heads, filled, size = old.shape
                # Zeros: attention gives a masked position the weight 0, and 0 times NaN is NaN.
                buffers[layer] = old.new_zeros(rows, heads, self.capacity, size)
                buffers[layer][:, :, :filled] = old

    def release(self) -> None:
        """Gives the memory of all slots back; their content is lost."""
        self.capacity = min(self.context, 1)
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                rows, heads, _, size = old.shape
                buffers[layer] = old.new_zeros(rows, heads, self.capacity, size)

    def bytes_a_text(self) -> int:
        """Returns the bytes of a text as long as the context."""
        _, heads, _, size = self.keys[0].shape
        return 2 * len(self.keys) * heads * size * self.context * self.keys[0].element_size()

    def decode(self, model: GPT, ids: list[int], lengths: list[int]) -> Tensor:
        """Reads one token of each text, of B ids, behind its first positions -> logits (B, V)."""
        self.grow(max(lengths) + 1)
        device = self.index.device
        self.position = torch.tensor(lengths, device=device)
        self.attended = max(lengths) + 1
        try:
            with attention_kernels(device):
                return model(torch.tensor(ids, device=device)[:, None], self)[:, 0]
        finally:
            self.position = None
