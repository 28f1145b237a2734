"""Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) by SentencePiece (arXiv:1808.06226).

The settings make it lossless for every Unicode string. `plain.py` is its plain twin.
"""

import hashlib
import io
import itertools
import operator
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from logging import getLogger
from pathlib import Path

import sentencepiece as spm

from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.tokenizer.base import END_OF_TEXT, Tokenizer, utf8, write_description

log = getLogger(__name__)

MODEL_FILE = "tokenizer.model"
FIXED = 256 + 4  # tokens of every vocabulary: bytes; end-of-text, unknown, newline, space
# Characters removed from the training text. SentencePiece writes spaces as U+2581 and unknown
# characters as U+2585, and would skip sentences with the latter.
RESERVED = "\n\0▁▅"
SAMPLE_BYTES = 100_000_000  # most to learn from: more changes few merges and takes gigabytes
# A word in the form of SentencePiece: spaces (U+2581), then other characters
_WORD = re.compile("▁{0,99}[^▁]{1,100}|▁{1,100}")


class BPETokenizer(Tokenizer):
    """SentencePiece BPE with byte fallback; `model` is the content of a tokenizer.model."""

    kind = "bpe"

    def __init__(self, model: bytes) -> None:
        self._processor = processor = _open_model(model)
        self.model = model
        self.vocab_size = processor.get_piece_size()
        self.eot_id = processor.eos_id()
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._bytes_of = _bytes_of_pieces(processor)
        byte_pieces = sum(map(processor.is_byte, range(self.vocab_size)))
        if byte_pieces != 256 or self.eot_id < 0 or processor.id_to_piece(self.eot_id) != END_OF_TEXT:
            raise UserError(
                f"this SentencePiece model lacks {END_OF_TEXT} or the 256 bytes: train one with tokenizer=bpe"
            )
        self._special = {processor.id_to_piece(i): i for i in range(self.vocab_size) if processor.is_control(i)}
        # SentencePiece would decode a U+2581 of the text as a space, so it is encoded as bytes.
        self._mark_ids = self._bytes_as_ids("▁")

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, sample_bytes: int = SAMPLE_BYTES, special: Sequence[str] = ()
    ) -> "BPETokenizer":
        """Learns `vocab_size` tokens from at most `sample_bytes` bytes, spread evenly over `texts`.

        Texts too small for so many tokens give fewer, with a warning. Single characters get at most
        half of the tokens that are not fixed, the most frequent first; rarer ones are written as
        bytes, with a warning. `special` are special tokens beside end-of-text: no text encodes to
        them. The same texts give the same model, byte for byte.

        Raises:
            UserError: when `vocab_size` is too small, or the texts are only white space or hold a
                lone surrogate.
        """
        fixed = FIXED + len(special)
        if vocab_size < fixed + 2:
            raise UserError(
                f"tokenizer.vocab_size={vocab_size} leaves no token to learn beside {fixed} for bytes, white space and "
                f"control: use at least {fixed + 2}"
            )
        sample = _sample(texts, sample_bytes)
        breaks = re.compile(f"[{re.escape(RESERVED + _rare_characters(sample, vocab_size, fixed))}]+")
        tokenizer = cls(_learn((part for block in sample for part in breaks.split(block)), vocab_size, special))
        if tokenizer.vocab_size < vocab_size:
            log.warning(
                "the training text fills only %d tokens: tokenizer.vocab_size=%d is reduced to that",
                *(tokenizer.vocab_size, vocab_size),
            )
        return tokenizer

    @property
    def special(self) -> dict[str, int]:
        return self._special

    def encode(self, text: str) -> list[int]:
        return self._around_marks(
            text, lambda part: [i for chunk in _chunks(part, self._joined) for i in self._processor.encode(chunk)]
        )

    def last_cut(self, text: str) -> int:
        """Returns the last index at which no token can span a cut of `text`; 0 where there is none.

        The parts before and after the index, encoded separately, give the ids of the whole.
        """
        return next((i for i in range(len(text) - 1, 0, -1) if text[i - 1 : i + 1] not in self._joined), 0)

    @cached_property
    def _joined(self) -> frozenset[str]:
        """Every pair of characters that are neighbours inside a token, with real spaces."""
        processor = self._processor
        return frozenset(
            piece[i : i + 2]
            for number in range(self.vocab_size)
            if not (processor.is_byte(number) or processor.is_control(number) or processor.is_unknown(number))
            for piece in [processor.id_to_piece(number).replace("▁", " ")]
            for i in range(len(piece) - 1)
        )

    def sample(self, text: str, dropout: float, seed: int) -> list[int]:
        """Encodes `text` with BPE-dropout: each merge is skipped with probability `dropout`.

        Provilkov et al. 2020 (arXiv:1910.13267), algorithm 1. The ids are a function of the
        arguments alone; the generator of SentencePiece's own sampling starts anew in every process,
        whatever the seed. Words of more than 100 characters are cut.

        Raises:
            UserError: as `encode`, or when a token of the vocabulary spans two words.
        """
        chance = random.Random(seed).random

        def ids_of(part: str) -> list[int]:
            words = _WORD.findall(part.replace(" ", "▁"))
            pieces = [piece for word in words for piece in self._merged(word, dropout, chance)]
            return [i for piece in pieces for i in self._ids_of_piece(piece)]

        return self._around_marks(text, ids_of)

    def _around_marks(self, text: str, ids_of: Callable[[str], list[int]]) -> list[int]:
        """Encodes a text: the parts between U+2581 by `ids_of`, each U+2581 as bytes."""
        utf8(text)
        first, *parts = map(ids_of, text.split("▁"))
        return first + [i for part in parts for i in self._mark_ids + part]

    def _merged(self, word: str, dropout: float, chance: Callable[[], float]) -> list[str]:
        """Splits one word into tokens: applies the first merge that dropout leaves, repeatedly."""
        pieces, merges = list(word), self._merges
        while True:
            pairs = [
                (merges[pair][0], i)
                for i, pair in enumerate(map(operator.add, pieces, pieces[1:]))
                if pair in merges and chance() >= dropout
            ]
            if not pairs:
                return pieces
            i = min(pairs)[1]
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]

    @cached_property
    def _merges(self) -> dict[str, tuple[float, int]]:
        """Maps merged tokens and single characters to (rank, id); lower ranks merge first."""
        processor = self._processor
        found = {}
        for i in range(self.vocab_size):
            if not (processor.is_byte(i) or processor.is_control(i) or processor.is_unknown(i)):
                found[processor.id_to_piece(i)] = (-processor.get_score(i), i)
        across = next((piece for piece in found if re.search("[^▁]▁", piece)), None)
        if across:
            raise UserError(
                f"data.subword_dropout: the token {across!r} reaches from one word into the next; set it to 0"
            )
        return found

    def _ids_of_piece(self, piece: str) -> list[int]:
        return [self._merges[piece][1]] if piece in self._merges else self._bytes_as_ids(piece)

    def _bytes_as_ids(self, piece: str) -> list[int]:
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in piece.encode()]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes_of[i] for i in ids])

    def save(self, folder: Path) -> None:
        write_description(folder, self)
        (folder / MODEL_FILE).write_bytes(self.model)


class SentencePieceTokenizer(Tokenizer):
    """SentencePiece model of somebody else, such as Llama 2's, with its own normalizer.

    `encode` and `decode` give what SentencePiece gives. They are not lossless: the normalizer may
    change characters, put a space in front of the text or join spaces, and a character without a
    token becomes the unknown token where the model has no bytes. `decode_bytes` keeps the space in
    front, so that parts of a text can be decoded one by one.

    Attributes:
        bos_id: the token with which the model's texts begin; None: there is none.
        eos_id: the token at which the model stops, which is `eot_id`.
        add_bos: whether the model expects `bos_id` in front of every text, as all of this kind do.

    Raises:
        UserError: when `model` is no SentencePiece model, or has no end-of-text token.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        self._processor = processor = _open_model(model)
        self.model = model
        self.vocab_size = processor.get_piece_size()
        self.eot_id = self.eos_id = processor.eos_id()
        if self.eot_id < 0:
            raise UserError("this SentencePiece model has no end-of-text token")
        self.bos_id = processor.bos_id() if processor.bos_id() >= 0 else None
        self.add_bos = self.bos_id is not None
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._bytes_of = _bytes_of_pieces(processor)

    @property
    def special(self) -> dict[str, int]:
        processor = self._processor
        return {processor.id_to_piece(i): i for i in range(self.vocab_size) if processor.is_control(i)}

    def encode(self, text: str) -> list[int]:
        utf8(text)
        return self._processor.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes_of[i] for i in ids])

    def save(self, folder: Path) -> None:
        write_description(folder, self)
        (folder / MODEL_FILE).write_bytes(self.model)


def _open_model(model: bytes) -> spm.SentencePieceProcessor:
    """Opens the content of a tokenizer.model.

    Raises:
        UserError: when it is none.
    """
    try:
        processor = spm.SentencePieceProcessor(model_proto=model)
        processor.get_piece_size()
    except RuntimeError as error:
        raise UserError(f"this is no SentencePiece model ({message_of(error)})") from None
    return processor


def _bytes_of_pieces(processor: spm.SentencePieceProcessor) -> list[bytes]:
    """Returns the bytes of each piece; control pieces and the unknown one have none."""
    return [
        bytes([int(piece[3:5], 16)])  # "<0x41>"
        if processor.is_byte(i)
        else b""
        if processor.is_control(i) or processor.is_unknown(i)
        else piece.replace("▁", " ").encode()
        for i in range(processor.get_piece_size())
        for piece in [processor.id_to_piece(i)]
    ]


def _rare_characters(sample: list[str], vocab_size: int, fixed: int = FIXED) -> str:
    """Returns the characters too rare for a token, which are written as bytes; warns of them.

    The most frequent characters get tokens, at most half of the tokens that are not `fixed`.

    Raises:
        UserError: when the sample is only white space.
    """
    counts: Counter[str] = Counter()
    for block in sample:
        counts.update(block)
    for character in RESERVED + " ":  # the space always has a token
        del counts[character]
    if not counts:
        raise UserError("the training text holds nothing but white space: there is no token to learn")
    by_frequency = sorted(counts, key=lambda character: (-counts[character], character))
    rare = by_frequency[(vocab_size - fixed) // 2 :]
    if rare:
        log.warning(
            "%d of the %d distinct characters of the text (%.3f %% of it) are written as bytes: "
            "tokenizer.vocab_size=%d would give each its own token",
            *(len(rare), len(counts), 100 * sum(counts[c] for c in rare) / counts.total(), fixed + 2 * len(counts)),
        )
    return "".join(rare)


def _learn(parts: Iterable[str], vocab_size: int, special: Sequence[str] = ()) -> bytes:
    """Runs SentencePiece's training on `parts` and returns the content of tokenizer.model."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        # SentencePiece skips sentences above 4,192 bytes; 1,000 characters have at most 4,000.
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
        control_symbols=[*special],
        allow_whitespace_only_pieces=True,
        eos_id=0,
        eos_piece=END_OF_TEXT,
        unk_id=1,
        bos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def _sample(texts: Iterable[str], limit: int) -> list[str]:
    """Samples every k-th block of 16 Ki characters of `texts`, in one pass.

    k doubles whenever the blocks exceed `limit` bytes; at least one block is kept.
    """
    kept: list[str] = []
    sizes: list[int] = []
    stride, total = 1, 0
    blocks = (text[i : i + 2**14] for text in texts for i in range(0, len(text), 2**14))
    for i, block in enumerate(blocks):
        size = len(utf8(block))
        if i % stride == 0:
            kept.append(block)
            sizes.append(size)
            total += size
            while total > limit and len(kept) > 1:
                kept, sizes, stride = kept[::2], sizes[::2], 2 * stride
                total = sum(sizes)
    return kept


def _chunks(text: str, joined: Container[str], limit: int = 2**14) -> Iterator[str]:
    """Yields `text` in chunks of at most `limit` characters that no token spans.

    `joined` are the pairs of adjacent characters inside a token. Chunks are cut elsewhere; a part
    without such a place is one chunk, however long. SentencePiece slows down with the length of
    its input: at 1 M characters to a third of its speed at 16 K.
    """
    start = 0
    while start < len(text):
        end = start + limit
        if end < len(text):
            places = itertools.chain(range(end, start, -1), range(end + 1, len(text)))
            end = next((i for i in places if text[i - 1 : i + 1] not in joined), len(text))
        yield text[start:end]
        start = end


_PARSE = """
import sys, sentencepiece
processor = sentencepiece.SentencePieceProcessor(model_proto=sys.stdin.buffer.read())
pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
processor.encode("".join(pieces))
"""


@lru_cache(maxsize=16)
def try_parser(model: bytes) -> None:
    """Parses a model in a child process, as the native parser can crash on an untrusted one.

    The same bytes are tried once in a process. No verdict is kept on the disk: whoever could write
    there could vouch for any model.

    Raises:
        UserError: when the child fails, crashes or takes more than 60 seconds.
    """
    try:
        tried = subprocess.run(
            [sys.executable, "-P", "-c", _PARSE], input=model, capture_output=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError("SentencePiece does not get through this model") from None
    if tried.returncode:
        last = (
            tried.stderr.decode(errors="replace").strip().splitlines() or [f"it crashed, status {tried.returncode}"]
        )[-1]
        raise UserError(f"this is no SentencePiece model ({last})")
