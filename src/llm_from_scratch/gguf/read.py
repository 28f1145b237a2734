"""GGUF file -> model and tokenizer. The file may be a stranger's: all is verified before its use.

    header    magic, version, count of tensors, count of keys
    keys      name, type, value: the architecture, its sizes, the tokenizer
    tensors   name, shape, kind, offset of each
    data      the tensors' bytes, each at a multiple of the alignment

(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)
"""

import itertools
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.files import open_regular
from llm_from_scratch.gguf.library import KINDS, Kind, dequantize
from llm_from_scratch.gguf.names import ROPE_FACTORS, Architecture, Part, config_of, deinterleave, parts
from llm_from_scratch.model import GPT, GPTConfig, uninitialised
from llm_from_scratch.tokenizer import Tokenizer
from llm_from_scratch.tokenizer.gguf import from_gguf

MAGIC = b"GGUF"
MAX_METADATA = 2**27  # bytes; 256,000 tokens with their merges take about 12 MB
MAX_ELEMENTS = 2**22  # of all arrays together, which Python holds as objects
MAX_TENSORS = MAX_KEYS = 2**16
MAX_NAME = 2**10  # bytes of the name of a key or of a tensor
MAX_ALIGNMENT = 2**16
# Type of a value -> format of `struct`; 8 is a string, 9 an array
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PREFIX = "tokenizer.ggml."
_FACTORS = ROPE_FACTORS + ".weight"


@dataclass(frozen=True)
class Info:
    """A tensor of the file: its shape, rows first, and the place of its bytes."""

    shape: tuple[int, ...]
    kind: Kind
    start: int
    stop: int


@dataclass(frozen=True)
class File:
    """An open GGUF file, verified: its keys, and its tensors by memory map."""

    metadata: dict[str, Any]
    infos: dict[str, Info]
    data: np.ndarray  # (N,) uint8: the whole file

    def tensor(self, name: str) -> np.ndarray:
        """Returns a tensor as float32, in its shape."""
        info = self.infos[name]
        return dequantize(self.data[info.start : info.stop], info.kind, info.shape[-1]).reshape(info.shape)


@contextmanager
def opened(path: Path) -> Iterator[File]:
    """Opens a GGUF file and verifies its header, its keys and the table of its tensors.

    Raises:
        UserError: when there is no such file, or it is damaged or of a kind that is not read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24:
                raise UserError("no GGUF file: too short for a header")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            metadata, infos = _parse(_Cursor(mapped))
            yield File(metadata, infos, np.frombuffer(mapped, np.uint8))  # which unmaps it with its last view
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): name a .gguf file") from None
    except UserError as error:
        raise UserError(message_of(error) if str(path) in str(error) else f"{path}: {message_of(error)}") from None


class _Cursor:
    """Position in the file's bytes; a read beyond the end, or past the bound, is refused."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.place, self.bound = data, 0, min(len(data), MAX_METADATA)
        self.elements = 0

    def take(self, count: int) -> bytes:
        end = self.place + count
        if end > self.bound:
            limit = "the file ends" if self.bound == len(self.data) else f"its keys exceed {MAX_METADATA} bytes"
            raise UserError(f"damaged: {limit} within its header (byte {self.place})")
        part = self.data[self.place : end]
        self.place = end
        return part

    def number(self, form: str) -> Any:
        if form == "?":
            value = self.take(1)[0]
            if value > 1:
                raise UserError(f"damaged: {value} is no truth value (byte {self.place - 1})")
            return bool(value)
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def string(self, most: int = MAX_METADATA) -> str:
        size = self.number("Q")
        if size > most:
            raise UserError(f"damaged: a text of {size} bytes (byte {self.place})")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise UserError(f"damaged: a text is no UTF-8 (byte {self.place - size})") from None

    def value(self) -> Any:
        kind = self.number("I")
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise UserError(f"damaged: a value of the unknown type {kind} (byte {self.place - 4})")
        return self.number(_SCALARS[kind])

    def array(self) -> list[Any]:
        kind, count = self.number("I"), self.number("Q")
        form = _SCALARS.get(kind)
        least = 8 if kind == _STRING else struct.calcsize("<" + form) if form else 0
        if not least:
            raise UserError(f"an array of arrays, or of the unknown type {kind}, is not read (byte {self.place})")
        self.elements += count
        if self.elements > MAX_ELEMENTS or count * least > self.bound - self.place:
            raise UserError(f"damaged: an array of {count} values (byte {self.place})")
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        if form == "?":
            return [self.number("?") for _ in range(count)]
        return np.frombuffer(self.take(count * least), f"<{_numpy_form(kind)}").tolist()


def _numpy_form(kind: int) -> str:
    return {0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 10: "u8", 11: "i8", 12: "f8"}[kind]


def _parse(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, Info]]:
    if cursor.take(4) != MAGIC:
        raise UserError("no GGUF file: it does not begin with GGUF")
    version = cursor.number("I")
    if version not in (2, 3):
        raise UserError(f"GGUF of version {version:#x} is not read: versions 2 and 3 are, little-endian")
    tensors, keys = cursor.number("Q"), cursor.number("Q")
    if tensors > MAX_TENSORS or keys > MAX_KEYS:
        raise UserError(f"damaged: {tensors} tensors and {keys} keys")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.string(MAX_NAME)
        if key in metadata:
            raise UserError(f"damaged: the key {key!r:.80} comes twice")
        metadata[key] = cursor.value()
    if metadata.get("split.count", 1) not in (0, 1):
        raise UserError("one file of a model in several: join them with `llama-gguf-split --merge`")
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise UserError(f"damaged: general.alignment={alignment!r:.40} is no power of 2 from 8 to {MAX_ALIGNMENT}")
    table = [(cursor.string(MAX_NAME), *_shape_and_kind(cursor)) for _ in range(tensors)]
    start = -(-cursor.place // alignment) * alignment
    return metadata, _placed(table, start, alignment, len(cursor.data))


def _shape_and_kind(cursor: _Cursor) -> tuple[tuple[int, ...], Kind, int]:
    """Reads the shape, rows first, the kind and the offset of a tensor."""
    dimensions = cursor.number("I")
    if not 1 <= dimensions <= 4:
        raise UserError(f"damaged: a tensor of {dimensions} dimensions (byte {cursor.place})")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
    number, offset = cursor.number("I"), cursor.number("Q")
    kind = KINDS.get(number)
    if kind is None:
        known = ", ".join(kind.name for kind in KINDS.values())
        raise UserError(f"a tensor of the kind {number} is not read: use a file of {known}")
    if shape[-1] % kind.block or 0 in shape:
        raise UserError(f"damaged: a tensor of shape {shape} in blocks of {kind.block} (byte {cursor.place})")
    return shape, kind, offset


def _placed(
    table: list[tuple[str, tuple[int, ...], Kind, int]], start: int, alignment: int, size: int
) -> dict[str, Info]:
    """Returns the tensors by name, each of which lies in the file and overlaps no other."""
    infos: dict[str, Info] = {}
    for name, shape, kind, offset in table:
        length = kind.bytes_of(shape[-1])
        for rows in shape[:-1]:  # Python's whole numbers do not overflow
            length *= rows
        if name in infos:
            raise UserError(f"damaged: the tensor {name!r:.80} comes twice")
        if offset % alignment or start + offset + length > size:
            raise UserError(f"damaged, or cut off: the tensor {name!r:.80} does not lie in the file")
        infos[name] = Info(shape, kind, start + offset, start + offset + length)
    ordered = sorted(infos.values(), key=lambda info: info.start)
    if any(one.stop > other.start for one, other in itertools.pairwise(ordered)):
        raise UserError("damaged: tensors overlap")
    return infos


# -------------------------------------------------------------------------------------------- model
def load(path: Path, *, block_size: int | None = None) -> tuple[GPT, Tokenizer, tuple[int, ...], str | None]:
    """Loads the model and the tokenizer of a GGUF file; weights are float32, on the CPU.

    Args:
        path: the file.
        block_size: the context, tokens, at most the file's; None: the file's.

    Returns:
        the model, the tokenizer, the ids that end a text, and the template of a chat in Jinja.

    Raises:
        UserError: when the file is damaged, or of a model or tokenizer that this package lacks.
    """
    with opened(path) as file:
        model = load_weights(file, block_size)
        tokenizer = _tokenizer_of(file, model.config)
        return model, tokenizer, _end_ids(file.metadata, tokenizer.vocab_size), _template(file)


def _template(file: File) -> str | None:
    template = file.metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise UserError("damaged: tokenizer.chat_template is no text")
    return template


def read_template(path: Path) -> str | None:
    """Reads the chat template of a file; None where it has none.

    Raises:
        UserError: when the file is damaged.
    """
    with opened(path) as file:
        return _template(file)


def read_settings(path: Path) -> tuple[GPTConfig, Tokenizer]:
    """Reads the settings of a file's model and its tokenizer, without the weights.

    Raises:
        UserError: when the file is damaged, or of a model or tokenizer that this package lacks.
    """
    with opened(path) as file:
        config = _config(file)[0]
        _refuse_larger(replace(config, block_size=1), file)  # a context takes no memory here
        return config, _tokenizer_of(file, config)


def _tokenizer_of(file: File, config: GPTConfig) -> Tokenizer:
    tokenizer = _tokenizer(file.metadata)
    if tokenizer.vocab_size != config.vocab_size:
        raise UserError(f"damaged: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
    return tokenizer


def _tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """Builds the tokenizer of the keys `tokenizer.ggml.*`, after a check of their types."""
    found = {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}

    def listed(name: str, *types: type) -> list[Any]:
        values = found.get(name, [])
        if not isinstance(values, list) or not {*map(type, values)} <= {*types}:
            raise UserError(f"damaged: {_PREFIX}{name} is no list of {types[0].__name__}")
        return values

    def text(name: str, default: str) -> str:
        value = found.get(name, default)
        if not isinstance(value, str):
            raise UserError(f"damaged: {_PREFIX}{name}={value!r:.40} is no text")
        return value

    if "model" not in found:
        raise UserError(f"it holds no tokenizer ({_PREFIX}model): such a file is part of a model alone")
    ids = {key.removesuffix("_token_id"): value for key, value in found.items() if key.endswith("_token_id")}
    flags = {key: value for key, value in found.items() if key.startswith("add_")}
    for kind, values in ((int, ids), (bool, flags)):
        for key, value in values.items():
            if type(value) is not kind:
                raise UserError(f"damaged: {_PREFIX}{key}={value!r:.40} is no {kind.__name__}")
    return from_gguf(
        listed("tokens", str),
        listed("token_type", int),
        listed("scores", float),
        listed("merges", str),
        text("model", ""),
        text("pre", ""),
        ids,
        flags,
    )


def _end_ids(metadata: dict[str, Any], vocab_size: int) -> tuple[int, ...]:
    """Returns the ids that end a text, a turn of a chat or a message."""
    found = []
    for name in ("eos", "eot", "eom"):
        value = metadata.get(f"{_PREFIX}{name}_token_id")
        if value is None:
            continue
        if not 0 <= value < vocab_size:
            raise UserError(f"damaged: {_PREFIX}{name}_token_id={value} is the id of no token")
        found.append(value)
    return tuple(dict.fromkeys(found))


def _config(file: File, block_size: int | None = None) -> tuple[GPTConfig, Architecture]:
    held = _FACTORS in file.infos and len(file.infos[_FACTORS].shape) == 1
    factors = file.tensor(_FACTORS).reshape(-1) if held else None
    shapes = {name: info.shape for name, info in file.infos.items()}
    return config_of(file.metadata, shapes, factors, block_size)


def load_weights(file: File, block_size: int | None = None) -> GPT:
    """Builds the model of a file and fills it, one tensor at a time.

    Raises:
        UserError: when the file's tensors are not those of its architecture and sizes.
    """
    config, architecture = _config(file, block_size)
    _refuse_larger(config, file)
    model = uninitialised(config)  # takes no memory before it is filled
    table, wanted = parts(model, architecture), dict(model.named_parameters())
    expected = {part.name: (name, part) for name, several in table.items() for part in several}
    wrong = sorted(set(expected) ^ (set(file.infos) - {_FACTORS}))
    if wrong:
        what = "is missing" if wrong[0] in expected else "has no place in this architecture"
        raise UserError(f"the tensor {wrong[0]!r:.80} {what} (and {len(wrong) - 1} more)")
    for part_name, (name, part) in expected.items():
        shape = (part.stop - part.start, *wanted[name].shape[1:])
        held = file.infos[part_name].shape
        longer = name == "position_embedding.weight" and held[0] >= shape[0] and held[1:] == shape[1:]
        if held != shape and not longer:
            raise UserError(f"damaged: the tensor {part_name!r:.80} has the shape {held} rather than {shape}")
    for name, parameter in wanted.items():
        for part in table[name]:
            parameter.detach()[part.start : part.stop].numpy()[:] = _rows(file, part)
    return model


def _rows(file: File, part: Part) -> np.ndarray:
    rows = file.tensor(part.name)
    rows = deinterleave(rows, part.heads) if part.heads else rows
    return rows[: part.stop - part.start]  # of learned positions those of the context alone


def _refuse_larger(config: GPTConfig, file: File) -> None:
    """Refuses sizes that the file's tensors do not account for, before they take any memory."""
    total = sum(info.stop - info.start for info in file.infos.values()) * 8  # no kind has less than 1 bit
    matrices = 2 * (config.n_head + config.kv_heads) * config.head_dim + 2 * config.inner_size
    if config.n_layer > len(file.infos) or config.n_embd * (config.vocab_size + config.n_layer * matrices) > total:
        raise UserError("damaged: its keys describe a larger model than its tensors are")
    if config.block_size * config.head_dim > 2**24:
        raise UserError(f"a context of {config.block_size} positions needs too much memory: give a block_size")
