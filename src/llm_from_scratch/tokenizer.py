"""Text <-> ids: the third step of the data's way (source, clean, tokenize, shards, sample), the last of generation.

Two tokenizers share one protocol: single characters, and byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) by
SentencePiece (Kudo & Richardson 2018, arXiv:1808.06226), set up so that it is lossless for every Unicode string.
"""

import hashlib
import io
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import sentencepiece as spm

log = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
SAMPLE_BYTES = 100_000_000  # what BPE learns from at most: more changes few merges and costs gigabytes of memory
MAX_FILE_BYTES = 64_000_000  # ten times the largest tokenizer file there can be: a damaged one must not fill the memory
JSON_FILE, MODEL_FILE = "tokenizer.json", "tokenizer.model"


class Tokenizer(Protocol):
    """What every tokenizer is: ids run from 0 to vocab_size - 1, and `eot_id` ends (and begins) a document."""

    kind: str
    vocab_size: int
    eot_id: int
    fingerprint: str  # sha256, in hex, of what defines the mapping

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without an end-of-text. ValueError: a lone surrogate, or a character that has no id."""
        ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact UTF-8 bytes that `ids` stand for; one id may be a part of a character. End-of-text is nothing."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no UTF-8, which a model can generate, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Write what `load_tokenizer` reads into `folder`."""
        ...


class CharTokenizer(Tokenizer):
    """One id a character: 0 is end-of-text, and `characters` (sorted, each once) follow it."""

    kind = "char"
    eot_id = 0

    def __init__(self, characters: str) -> None:
        if not characters or list(characters) != sorted(set(characters)):
            raise ValueError("a character tokenizer needs at least one character, sorted and each once")
        self.characters = characters
        self.vocab_size = 1 + len(characters)
        self.fingerprint = hashlib.sha256(_utf8(characters)).hexdigest()
        self._id_of = {character: i for i, character in enumerate(characters, start=1)}
        self._bytes_of = [b"", *(character.encode() for character in characters)]

    @classmethod
    def train(cls, texts: Iterable[str]) -> "CharTokenizer":
        """Learn the characters of `texts`. ValueError: no text, or a lone surrogate."""
        characters = "".join(sorted(set().union(*texts)))
        if not characters:
            raise ValueError("the training text is empty: there is no character to learn")
        return cls(characters)

    def encode(self, text: str) -> list[int]:
        try:
            return [self._id_of[character] for character in text]
        except KeyError as error:
            unknown = error.args[0]
            _utf8(text)
            raise ValueError(
                f"the character {unknown!r} (U+{ord(unknown):04X}) at index {text.index(unknown)} of the text is none "
                f"of the training text's {len(self.characters)}: leave it out, or train with tokenizer=bpe, which can "
                "write every character"
            ) from None

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes_of[i] for i in ids])

    def save(self, folder: Path) -> None:
        _write_json(folder, self, characters=self.characters)


class BPETokenizer(Tokenizer):
    """SentencePiece BPE that falls back to bytes; `model` is the content of a tokenizer.model that `train` made."""

    kind = "bpe"

    def __init__(self, model: bytes) -> None:
        try:
            self._processor = processor = spm.SentencePieceProcessor(model_proto=model)
            pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        except RuntimeError as error:
            raise ValueError(f"this is no SentencePiece model ({' '.join(str(error).split())})") from None
        self.model = model
        self.vocab_size = len(pieces)
        self.eot_id = processor.eos_id()
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._bytes_of = [
            bytes([int(piece[3:5], 16)])  # "<0x41>"
            if processor.is_byte(i)
            else b""
            if processor.is_control(i) or processor.is_unknown(i)
            else piece.replace("▁", " ").encode()
            for i, piece in enumerate(pieces)
        ]
        byte_pieces = sum(map(processor.is_byte, range(self.vocab_size)))
        if byte_pieces != 256 or self.eot_id < 0 or pieces[self.eot_id] != END_OF_TEXT:
            raise ValueError(
                f"this SentencePiece model lacks {END_OF_TEXT} or the 256 bytes: train one with tokenizer=bpe"
            )
        # SentencePiece writes a space as U+2581, so that a U+2581 of the text would come back as a space.
        self._mark_ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in "▁".encode()]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, sample_bytes: int = SAMPLE_BYTES) -> "BPETokenizer":
        """Learn `vocab_size` pieces from at most `sample_bytes` bytes, spread evenly over `texts`.

        A text too small for so many pieces gets fewer, with a warning. The most frequent characters take at most half
        of the room beside the bytes, so that merges find room too; rarer ones are written as bytes, with a warning.
        The same texts give the same model, byte for byte.
        ValueError: no room for a single character, nothing to learn, a lone surrogate.
        """
        fixed = 256 + 4  # bytes; end-of-text, SentencePiece's unknown, newline, space
        if vocab_size < fixed + 2:
            raise ValueError(
                f"tokenizer.vocab_size={vocab_size} leaves no piece to learn beside {fixed} for bytes, white space and "
                f"control: use at least {fixed + 2}"
            )
        sample = _sample(texts, sample_bytes)
        counts: Counter[str] = Counter()
        for block in sample:
            counts.update(block)
        # The space has its piece in any case. U+2581 and U+2585, by which SentencePiece marks spaces and unknowns, can be
        # no pieces, nor can NUL: a whole sentence that holds the second would be left out.
        reserved = "\n\0▁▅"
        for character in reserved + " ":
            del counts[character]
        if not counts:
            raise ValueError("the training text holds nothing but white space: there is no piece to learn")

        by_frequency = sorted(counts, key=lambda character: (-counts[character], character))
        rare = by_frequency[(vocab_size - fixed) // 2 :]
        if rare:
            log.warning(
                "%d of the %d distinct characters of the text (%.3f %% of it) are written as bytes: "
                "tokenizer.vocab_size=%d would give each its own piece",
                *(len(rare), len(counts), 100 * sum(counts[c] for c in rare) / counts.total(), fixed + 2 * len(counts)),
            )
        breaks = re.compile(f"[{re.escape(reserved + ''.join(rare))}]+")
        parts = (part for block in sample for part in breaks.split(block))
        model = io.BytesIO()
        spm.SentencePieceTrainer.train(
            # It skips sentences above 4,192 bytes, too: 1,000 characters are 4,000 at most.
            sentence_iterator=(part[i : i + 1000] for part in parts for i in range(0, len(part), 1000)),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            num_threads=1,
            character_coverage=1.0,
            required_chars="▁",
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            byte_fallback=True,
            user_defined_symbols=["\n"],
            allow_whitespace_only_pieces=True,
            eos_id=0,
            eos_piece=END_OF_TEXT,
            unk_id=1,
            bos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
        tokenizer = cls(model.getvalue())
        if tokenizer.vocab_size < vocab_size:
            log.warning(
                "the training text fills only %d pieces: tokenizer.vocab_size=%d is reduced to that",
                *(tokenizer.vocab_size, vocab_size),
            )
        return tokenizer

    def encode(self, text: str) -> list[int]:
        return self._encode(text)

    def sample(self, text: str, dropout: float, seed: int) -> list[int]:
        """Ids of `text` in pieces that another chance would cut elsewhere: each merge is left out with the probability `dropout`.

        BPE-dropout (Provilkov et al. 2020, arXiv:1910.13267). A function of the arguments alone; ValueError: as `encode`.
        """
        spm.set_random_generator_seed(seed)  # a generator of the whole process, which nothing else here reads
        return self._encode(text, enable_sampling=True, alpha=dropout)

    def _encode(self, text: str, **sampling: Any) -> list[int]:
        _utf8(text)
        ids: list[int] = []
        for i, part in enumerate(text.split("▁")):
            if i:
                ids += self._mark_ids
            for chunk in _chunks(part):
                ids += self._processor.encode(chunk, **sampling)
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes_of[i] for i in ids])

    def save(self, folder: Path) -> None:
        _write_json(folder, self)
        (folder / MODEL_FILE).write_bytes(self.model)


def train_tokenizer(kind: str, texts: Iterable[str], vocab_size: int | None) -> Tokenizer:
    """Learn a tokenizer of `kind` ("char" or "bpe") from the documents `texts`, read once.

    ValueError: as the tokenizers' own `train`; an unknown kind; a size that is missing (bpe) or has no use (char).
    """
    assert not isinstance(texts, str), "texts are documents, not the characters of one"
    if kind == "char":
        if vocab_size is not None:
            raise ValueError(
                f"tokenizer.vocab_size={vocab_size}: with tokenizer=char the text decides it, leave it null"
            )
        return CharTokenizer.train(texts)
    if kind == "bpe":
        if vocab_size is None:
            raise ValueError("tokenizer.vocab_size=null: tokenizer=bpe needs a number of pieces, such as 1024")
        return BPETokenizer.train(texts, vocab_size)
    raise ValueError(f"tokenizer.kind={kind!r}: use char or bpe")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote into `folder`. ValueError naming the file: missing, damaged, not what it says."""
    path, model_path = folder / JSON_FILE, folder / MODEL_FILE
    content = _read(path)
    try:
        saved = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged: {error}") from None
    if not isinstance(saved, dict):
        raise ValueError(f"{path}: damaged: no JSON object")
    tokenizer: Tokenizer
    if saved.get("kind") == "char" and isinstance(saved.get("characters"), str):
        try:
            tokenizer = CharTokenizer(saved["characters"])
        except ValueError as error:
            raise ValueError(f"{path}: damaged: {error}") from None
    elif saved.get("kind") == "bpe":
        model = _read(model_path)
        if hashlib.sha256(model).hexdigest() != saved.get("fingerprint"):
            raise ValueError(f"{model_path}: damaged: its sha256 is not the fingerprint in {JSON_FILE}")
        try:
            _try_parser(model)
            tokenizer = BPETokenizer(model)
        except ValueError as error:
            raise ValueError(f"{model_path}: damaged: {error}") from None
    else:
        raise ValueError(f"{path}: damaged: no tokenizer of kind char or bpe")
    for key, value in _description(tokenizer).items():
        if saved.get(key) != value:
            raise ValueError(f"{path}: damaged: {key} is not {value}, which the rest of it gives")
    return tokenizer


_PARSE = """
import sys, sentencepiece
processor = sentencepiece.SentencePieceProcessor(model_proto=sys.stdin.buffer.read())
pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
processor.encode("".join(pieces))
"""


def _try_parser(model: bytes) -> None:
    """Lets a process of its own read a model first: a stranger can have made one, checksum and all, on which the native parser crashes.

    Raises:
        ValueError: where that process fails, crashes or takes too long.
    """
    try:
        tried = subprocess.run(
            [sys.executable, "-P", "-c", _PARSE], input=model, capture_output=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError("SentencePiece does not get through this model") from None
    if tried.returncode:
        last = (
            tried.stderr.decode(errors="replace").strip().splitlines() or [f"it crashed, status {tried.returncode}"]
        )[-1]
        raise ValueError(f"this is no SentencePiece model ({last})")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds a lone surrogate, U+{ord(text[error.start]):04X} at index {error.start}, which is no "
            "character and has no UTF-8: leave it out"
        ) from None


def _sample(texts: Iterable[str], limit: int) -> list[str]:
    """Evenly spread blocks of `texts`, `limit` bytes at most, in one pass: every k-th, k doubles when they are many.

    A single block, of 16 K characters, is kept in any case.
    """
    kept: list[str] = []
    sizes: list[int] = []
    stride, total = 1, 0
    blocks = (text[i : i + 2**14] for text in texts for i in range(0, len(text), 2**14))
    for i, block in enumerate(blocks):
        size = len(_utf8(block))
        if i % stride == 0:
            kept.append(block)
            sizes.append(size)
            total += size
            while total > limit and len(kept) > 1:
                kept, sizes, stride = kept[::2], sizes[::2], 2 * stride
                total = sum(sizes)
    return kept


def _chunks(text: str, limit: int = 2**14) -> Iterator[str]:
    """`text` in chunks of `limit` characters at most, cut after a newline where there is one: no piece reaches over it.

    SentencePiece slows down with the length of what it encodes, to a third from 16 K characters to 1 M.
    """
    start = 0
    while start < len(text):
        end = start + limit
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end


def _description(tokenizer: Tokenizer) -> dict[str, Any]:
    return {key: getattr(tokenizer, key) for key in ("kind", "vocab_size", "eot_id", "fingerprint")}


def _write_json(folder: Path, tokenizer: Tokenizer, **more: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(_description(tokenizer) | more, ensure_ascii=False, indent=2) + "\n"
    (folder / JSON_FILE).write_bytes(content.encode())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{path}: damaged: larger than {MAX_FILE_BYTES} bytes")
    return content
