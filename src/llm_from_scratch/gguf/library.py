"""The library `gguf`, imported here alone: quantised blocks of numbers, and the writer of files."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.errors import missing_extra


@dataclass(frozen=True)
class Kind:
    """Storage of a tensor: each row in blocks of `block` numbers, which take `size` bytes."""

    name: str
    block: int
    size: int

    def bytes_of(self, numbers: int) -> int:
        """Returns the bytes of whole blocks of `numbers` numbers."""
        return numbers // self.block * self.size


# The kinds that are read, by their number in a file
KINDS = {
    0: Kind("F32", 1, 4),
    1: Kind("F16", 1, 2),
    2: Kind("Q4_0", 32, 18),
    3: Kind("Q4_1", 32, 20),
    6: Kind("Q5_0", 32, 22),
    7: Kind("Q5_1", 32, 24),
    8: Kind("Q8_0", 32, 34),
    10: Kind("Q2_K", 256, 84),
    11: Kind("Q3_K", 256, 110),
    12: Kind("Q4_K", 256, 144),
    13: Kind("Q5_K", 256, 176),
    14: Kind("Q6_K", 256, 210),
    30: Kind("BF16", 1, 2),
}
KIND_OF = {kind.name: kind for kind in KINDS.values()}
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # general.file_type


def _gguf() -> Any:
    """Imports gguf.

    Raises:
        UserError: when it is not installed.
    """
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise missing_extra("GGUF files need gguf", "weights") from None
    return gguf


def dequantize(data: np.ndarray, kind: Kind, columns: int) -> np.ndarray:
    """Returns the numbers of a tensor's bytes (N,) as float32 (rows, columns)."""
    gguf = _gguf()
    rows = data.reshape(-1, kind.bytes_of(columns))
    return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind.name]).reshape(-1, columns)


def quantize(numbers: np.ndarray, kind: Kind) -> np.ndarray:
    """Returns the bytes (rows, N) of a matrix of float32 (rows, columns)."""
    gguf = _gguf()
    return gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind.name]).view(np.uint8)


def write(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    infos: Mapping[str, tuple[tuple[int, ...], Kind]],
    tensors: Iterable[np.ndarray],
) -> None:
    """Writes a GGUF file: its keys, then its tensors, of which one is in memory at a time.

    Args:
        path: the file, which is overwritten.
        architecture: llama.cpp's name of the model.
        metadata: key -> str, bool, int (as uint32), float (as float32) or a list of one of these.
        infos: name -> (shape, kind) of each tensor, rows first.
        tensors: the bytes of each tensor, in the order of `infos`.
    """
    gguf = _gguf()
    writer = gguf.GGUFWriter(path, architecture)
    try:
        for key, value in metadata.items():
            _add(writer, key, value)
        for name, (shape, kind) in infos.items():
            size = kind.bytes_of(int(np.prod(shape)))
            number = gguf.GGMLQuantizationType[kind.name]
            # With a dtype other than uint8 the shape counts numbers, not bytes.
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size, number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(np.ascontiguousarray(tensor))
    finally:
        writer.close()


def _add(writer: Any, key: str, value: Any) -> None:
    """Adds a key with the type that llama.cpp expects of it."""
    for kind, add in (
        (bool, writer.add_bool),
        (str, writer.add_string),
        (int, writer.add_uint32),
        (float, writer.add_float32),
    ):
        if isinstance(value, kind):
            add(key, value)
            return
    writer.add_array(key, value)
