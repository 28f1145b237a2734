"""SentencePiece's model file, a protocol buffer (sentencepiece_model.proto): written and read.

Only what tokenizing needs: the pieces, the kind of model, the normalizer's settings. Wire format:
https://protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer.base import utf8

# Types of a piece, in SentencePiece and in GGUF.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BPE = 2  # TrainerSpec.ModelType
# Fields of ModelProto, SentencePiece, TrainerSpec and NormalizerSpec.
_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _VOCAB_SIZE, _BYTE_FALLBACK, _UNK_ID, _BOS_ID, _EOS_ID, _PAD_ID = 3, 4, 35, 40, 41, 42, 43
_UNK_PIECE, _BOS_PIECE, _EOS_PIECE = 45, 46, 47
_NAME, _CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES = 1, 2, 3, 4


@dataclass(frozen=True)
class Piece:
    """A token of a SentencePiece model; pieces of higher scores are merged first."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class Model:
    """The content of a tokenizer.model.

    Attributes:
        pieces: the tokens by id.
        kind: TrainerSpec.ModelType, BPE or another.
        space_prefix: whether a space is put in front of every text.
        plain: whether the normalizer changes nothing else.
    """

    pieces: list[Piece]
    kind: int
    space_prefix: bool
    plain: bool


def write_model(pieces: Sequence[Piece], *, eos_id: int, bos_id: int | None, space_prefix: bool) -> bytes:
    """Returns the tokenizer.model of a BPE with byte fallback whose normalizer is the identity.

    `bos_id` is None for a model without a begin-of-text token. `pieces` hold one of type UNKNOWN.
    """
    unk_id = next(i for i, piece in enumerate(pieces) if piece.type == UNKNOWN)
    trainer = [
        _number(_MODEL_TYPE, BPE),
        _number(_VOCAB_SIZE, len(pieces)),
        _number(_BYTE_FALLBACK, int(any(piece.type == BYTE for piece in pieces))),
        _number(_UNK_ID, unk_id),
        _number(_BOS_ID, -1 if bos_id is None else bos_id),
        _number(_EOS_ID, eos_id),
        _number(_PAD_ID, -1),
        _bytes(_UNK_PIECE, utf8(pieces[unk_id].text)),
        _bytes(_EOS_PIECE, utf8(pieces[eos_id].text)),
        *([] if bos_id is None else [_bytes(_BOS_PIECE, utf8(pieces[bos_id].text))]),
    ]
    normalizer = [
        _bytes(_NAME, b"identity"),
        _number(_DUMMY_PREFIX, int(space_prefix)),
        _number(_REMOVE_SPACES, 0),
    ]
    return b"".join(
        [
            *(_bytes(_PIECES, _piece(piece)) for piece in pieces),
            _bytes(_TRAINER, b"".join(trainer)),
            _bytes(_NORMALIZER, b"".join(normalizer)),
        ]
    )


def read_model(content: bytes) -> Model:
    """Reads a tokenizer.model.

    Raises:
        UserError: when it is damaged.
    """
    pieces, kind, prefix, plain = [], 1, True, True
    try:
        for field, value in _fields(content):
            if field == _PIECES:
                found = dict(_fields(_message(value)))
                score = struct.unpack("<f", _message(found.get(_SCORE, bytes(4))))[0]
                pieces.append(Piece(_message(found[_TEXT]).decode(), score, int(found.get(_TYPE, NORMAL))))
            elif field == _TRAINER:
                kind = int(dict(_fields(_message(value))).get(_MODEL_TYPE, 1))
            elif field == _NORMALIZER:
                found = dict(_fields(_message(value)))
                prefix = bool(found.get(_DUMMY_PREFIX, 1))
                plain = not found.get(_CHARSMAP) and not found.get(_REMOVE_SPACES, 1)
            elif field == _DENORMALIZER:
                plain = plain and not dict(_fields(_message(value))).get(_CHARSMAP)
    except (KeyError, ValueError, IndexError, struct.error):
        raise UserError("damaged: no model of SentencePiece") from None
    return Model(pieces, kind, prefix, plain)


def _piece(piece: Piece) -> bytes:
    return _bytes(_TEXT, utf8(piece.text)) + _float(_SCORE, piece.score) + _number(_TYPE, piece.type)


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative numbers as two's complement
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes should be")
    return value


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields the fields of a message: numbers as int, everything else as bytes."""
    at = 0
    while at < len(content):
        key, at = _read_varint(content, at)
        kind = key & 7
        if kind == 0:
            value, at = _read_varint(content, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _read_varint(content, at)
        else:
            size = {1: 8, 5: 4}[kind]
        if at + size > len(content):
            raise ValueError("cut off")
        yield key >> 3, content[at : at + size]
        at += size


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("no varint")
