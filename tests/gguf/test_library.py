"""The kinds of storage, held against the library, and what is told where it is not installed."""

import gguf
import numpy as np
import pytest

from llm_from_scratch.errors import UserError
from llm_from_scratch.gguf.library import KIND_OF, KINDS, dequantize, quantize


def test_the_sizes_of_every_kind() -> None:
    for number, kind in KINDS.items():
        name = gguf.GGMLQuantizationType(number)
        assert (kind.name, (kind.block, kind.size)) == (name.name, gguf.GGML_QUANT_SIZES[name])


def test_blocks_of_numbers_and_back() -> None:
    """Q8_0 by hand: the largest of 32 numbers is 127 steps, every other one a whole number of them."""
    numbers = np.arange(64, dtype=np.float32).reshape(2, 32) / 8
    kind = KIND_OF["Q8_0"]
    stored = quantize(numbers, kind)
    assert (stored.shape, stored.dtype) == ((2, 34), np.uint8)
    steps = numbers.max(axis=1, keepdims=True) / 127
    scale = steps.astype(np.float16).astype(np.float32)
    assert np.allclose(dequantize(stored.reshape(-1), kind, 32), np.round(numbers / steps) * scale)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r"GGUF files need gguf: pip install .*\[weights\]"):
        quantize(np.zeros((1, 32), np.float32), KIND_OF["Q8_0"])
