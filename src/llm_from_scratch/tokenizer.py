"""Text <-> ids: the third step of the data's way (source, clean, tokenize, shards, sample), the last of generation.

Three tokenizers share one protocol: single characters, with bytes for unknown ones where a text needs them; byte-pair
encoding (Sennrich et al. 2016, arXiv:1508.07909) by SentencePiece (Kudo & Richardson 2018, arXiv:1808.06226), set up so that it
is lossless for every Unicode string; and GPT-2's own byte-level BPE (Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners", section 2.2) by tiktoken.
"""

import hashlib
import io
import itertools
import json
import logging
import operator
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentencepiece as spm

from llm_from_scratch.errors import UserError, missing_extra
from llm_from_scratch.files import open_regular
from llm_from_scratch.places import user_path

log = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
SAMPLE_BYTES = 100_000_000  # what BPE learns from at most: more changes few merges and costs gigabytes of memory
MAX_FILE_BYTES = 64_000_000  # ten times the largest tokenizer file there can be: a damaged one must not fill the memory
JSON_FILE, MODEL_FILE = "tokenizer.json", "tokenizer.model"
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"  # of GPT-2's BPE, as everybody's programs read them
OPENAI_FILES = "encoder.json", "vocab.bpe"  # the same, as they were first published
_WORD = re.compile("▁{0,99}[^▁]{1,100}|▁{1,100}")  # as SentencePiece writes it: spaces and what follows them
MAX_PIECE = 512  # bytes; GPT-2's longest has 128, and checking a piece takes the square of its length


class Tokenizer(Protocol):
    """What every tokenizer is: ids run from 0 to vocab_size - 1, and `eot_id` ends (and begins) a document."""

    kind: str
    vocab_size: int
    eot_id: int
    fingerprint: str  # sha256, in hex, of what defines the mapping

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without an end-of-text. UserError: a lone surrogate, or a character that has no id."""
        ...

    def encode_array(self, text: str) -> np.ndarray:
        """The same ids, (ids,) of an integer type: for millions of documents, without a Python object an id."""
        return np.array(self.encode(text), np.int64)

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
    """One id a character: 0 is end-of-text, and `characters` (sorted, each once) follow it.

    With `byte_fallback` 256 ids of bytes stand behind them, which write every other character in UTF-8. The encoding is then
    lossless for every text, so that bits per byte count an unknown character in full.
    """

    kind = "char"
    eot_id = 0

    def __init__(self, characters: str, byte_fallback: bool = False) -> None:
        if not characters or list(characters) != sorted(set(characters)):
            raise UserError("a character tokenizer needs at least one character, sorted and each once")
        self.characters, self.byte_fallback = characters, byte_fallback
        definition = _utf8(characters)
        self._id_of = {character: i for i, character in enumerate(characters, start=1)}
        self._bytes_of = [b"", *(character.encode() for character in characters)]
        self._first_byte = len(self._bytes_of)
        if byte_fallback:
            definition += b"\0bytes"  # no sorted string ends like this, so no two mappings share a checksum
            self._bytes_of += [bytes([byte]) for byte in range(256)]
        self.vocab_size = len(self._bytes_of)
        self.fingerprint = hashlib.sha256(definition).hexdigest()

    @classmethod
    def train(cls, texts: Iterable[str], held_out: Iterable[str] = ()) -> "CharTokenizer":
        """Learns the characters of `texts`; the bytes come with them where `held_out` has a character that `texts` lack.

        Of `held_out` no character is learned: whether a model has seen one is decided by the training text alone.
        UserError: no text, or a lone surrogate.
        """
        known: set[str] = set()
        for text in texts:  # one at a time: `union(*texts)` would hold them all
            known.update(text)
        if not known:
            raise UserError("the training text is empty: there is no character to learn")
        return cls("".join(sorted(known)), any(not known.issuperset(text) for text in held_out))

    def encode(self, text: str) -> list[int]:
        try:
            return [self._id_of[character] for character in text]
        except KeyError as error:
            unknown = error.args[0]
            _utf8(text)
        if not self.byte_fallback:
            raise UserError(
                f"the character {unknown!r} (U+{ord(unknown):04X}) at index {text.index(unknown)} of the text is none "
                f"of the training text's {len(self.characters)}: leave it out, or train with tokenizer=bpe, which can "
                "write every character"
            )
        ids: list[int] = []
        for character in text:
            if (known := self._id_of.get(character)) is not None:
                ids.append(known)
            else:
                ids += [self._first_byte + byte for byte in character.encode()]
        return ids

    def unknown_characters(self, ids: np.ndarray) -> int:
        """How many characters of an encoded text (N,) are written as bytes: UTF-8 continues one with bytes 10xxxxxx."""
        data = ids[ids >= self._first_byte] - self._first_byte
        return int((data & 0xC0 != 0x80).sum())

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes_of[i] for i in ids])

    def save(self, folder: Path) -> None:
        more: dict[str, str | bool] = {"characters": self.characters}
        if self.byte_fallback:  # a file without bytes stays what it always was
            more["byte_fallback"] = True
        _write_json(folder, self, **more)


class BPETokenizer(Tokenizer):
    """SentencePiece BPE that falls back to bytes; `model` is the content of a tokenizer.model that `train` made."""

    kind = "bpe"

    def __init__(self, model: bytes) -> None:
        try:
            self._processor = processor = spm.SentencePieceProcessor(model_proto=model)
            pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        except RuntimeError as error:
            raise UserError(f"this is no SentencePiece model ({' '.join(str(error).split())})") from None
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
            raise UserError(
                f"this SentencePiece model lacks {END_OF_TEXT} or the 256 bytes: train one with tokenizer=bpe"
            )
        # SentencePiece writes a space as U+2581, so that a U+2581 of the text would come back as a space.
        self._mark_ids = self._bytes_as_ids("▁")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, sample_bytes: int = SAMPLE_BYTES) -> "BPETokenizer":
        """Learn `vocab_size` pieces from at most `sample_bytes` bytes, spread evenly over `texts`.

        A text too small for so many pieces gets fewer, with a warning. The most frequent characters take at most half
        of the room beside the bytes, so that merges find room too; rarer ones are written as bytes, with a warning.
        The same texts give the same model, byte for byte.
        UserError: no room for a single character, nothing to learn, a lone surrogate.
        """
        fixed = 256 + 4  # bytes; end-of-text, SentencePiece's unknown, newline, space
        if vocab_size < fixed + 2:
            raise UserError(
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
            raise UserError("the training text holds nothing but white space: there is no piece to learn")

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
        return self._around_marks(
            text, lambda part: [i for chunk in _chunks(part) for i in self._processor.encode(chunk)]
        )

    def sample(self, text: str, dropout: float, seed: int) -> list[int]:
        """Ids of `text` in pieces that another chance would cut elsewhere: of all merges a part, `dropout`, is left out each time.

        BPE-dropout (Provilkov et al. 2020, arXiv:1910.13267, algorithm 1). A function of the arguments alone, which SentencePiece's own
        sampling is not: its generator begins elsewhere in every process, whatever the seed. A word of more than 100 characters is cut
        there. UserError: as `encode`, or a vocabulary whose pieces reach from one word into the next.
        """
        chance = random.Random(seed).random

        def ids_of(part: str) -> list[int]:
            words = _WORD.findall(part.replace(" ", "▁"))
            pieces = [piece for word in words for piece in self._merged(word, dropout, chance)]
            return [i for piece in pieces for i in self._ids_of_piece(piece)]

        return self._around_marks(text, ids_of)

    def _around_marks(self, text: str, ids_of: Callable[[str], list[int]]) -> list[int]:
        """The ids of a text, of which `ids_of` encodes what lies between U+2581."""
        _utf8(text)
        first, *parts = map(ids_of, text.split("▁"))
        return first + [i for part in parts for i in self._mark_ids + part]

    def _merged(self, word: str, dropout: float, chance: Callable[[], float]) -> list[str]:
        """The pieces of one word: the best merge that chance has left, again and again."""
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
        """What can be merged, and single characters: piece -> (rank, id), the lowest rank first."""
        processor = self._processor
        found = {}
        for i in range(self.vocab_size):
            if not (processor.is_byte(i) or processor.is_control(i) or processor.is_unknown(i)):
                found[processor.id_to_piece(i)] = (-processor.get_score(i), i)
        across = next((piece for piece in found if re.search("[^▁]▁", piece)), None)
        if across:
            raise UserError(
                f"data.subword_dropout: the piece {across!r} reaches from one word into the next; set it to 0"
            )
        return found

    def _ids_of_piece(self, piece: str) -> list[int]:
        return [self._merges[piece][1]] if piece in self._merges else self._bytes_as_ids(piece)

    def _bytes_as_ids(self, piece: str) -> list[int]:
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in piece.encode()]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes_of[i] for i in ids])

    def save(self, folder: Path) -> None:
        _write_json(folder, self)
        (folder / MODEL_FILE).write_bytes(self.model)


class GPT2Tokenizer(Tokenizer):
    """GPT-2's byte-level BPE: `vocab` is the content of a vocab.json, `merges` that of the merges.txt that belongs to it.

    A piece of a lower id is merged first, so the ids alone say how a text is cut; `open_gpt2` has held the merges against them.
    UserError: no such vocabulary, or tiktoken is not installed.
    """

    kind = "gpt2"

    def __init__(self, vocab: bytes, merges: bytes) -> None:
        ranks = _ranks(vocab)
        self.files = {VOCAB_FILE: vocab, MERGES_FILE: merges}
        self.vocab_size = len(ranks)
        self.fingerprint = _fingerprint(vocab, merges)
        self._bytes_of = sorted(ranks, key=ranks.__getitem__)
        self.eot_id = ranks.pop(END_OF_TEXT.encode())
        self._bytes_of[self.eot_id] = b""
        tiktoken, pattern = _tiktoken()
        self._encoding = tiktoken.Encoding(
            "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: self.eot_id}
        )

    def encode(self, text: str) -> list[int]:
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        _utf8(text)
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError:  # a run of white space too long for tiktoken's regular expression
            return np.concatenate([np.array(ids, np.uint32) for ids in self._around_space(text)])

    def _around_space(self, text: str) -> Iterator[list[int]]:
        """Ids of `text`, long runs of white space by themselves. GPT-2's rule leaves the last space of one to what follows it."""
        start = 0
        for run in LONG_SPACE.finditer(text):
            end = run.end() - (run.end() < len(text))
            yield self._encoding.encode_ordinary(text[start : run.start()])
            yield self._encoding._encode_single_piece(text[run.start() : end])
            start = end
        yield self._encoding.encode_ordinary(text[start:])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes_of[i] for i in ids])

    def save(self, folder: Path) -> None:
        _write_json(folder, self)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


# What Unicode calls white space; Python counts four separators more.
LONG_SPACE = re.compile(r"[^\S\x1c-\x1f]{1000,}")
# GPT-2 writes the bytes of a piece as characters that can be seen: 188 as themselves, the others as U+0100 and up.
_SEEN = [*range(33, 127), *range(161, 173), *range(174, 256)]
_CHARACTER_OF = {byte: chr(byte) for byte in _SEEN}
_CHARACTER_OF |= {byte: chr(256 + i) for i, byte in enumerate(sorted(set(range(256)) - set(_SEEN)))}
_BYTE_OF = dict.fromkeys(range(256), 0xFFFF) | {ord(character): byte for byte, character in _CHARACTER_OF.items()}


def open_gpt2(path: str | None, places: Iterable[Path] = (), fetch: bool = True) -> GPT2Tokenizer:
    """GPT-2's BPE from vocab.json and merges.txt (or encoder.json and vocab.bpe) in `path`, else in the first of `places` that has them.

    Where none has them, tiktoken's own copy is taken: from its cache (TIKTOKEN_CACHE_DIR), or downloaded by it and checked. Without
    `fetch` it is not asked.
    UserError: nothing to be had, files that are damaged or do not belong together, no tiktoken.
    """
    places = [user_path(path)] if path is not None else list(places)
    for folder in places:
        for names in ((VOCAB_FILE, MERGES_FILE), OPENAI_FILES):
            vocab, merges = (folder / name for name in names)
            if vocab.is_file() and merges.is_file():
                return _open_pair(vocab, merges)
    by_hand = f"put {VOCAB_FILE} and {MERGES_FILE} into {places[0] if places else 'a folder'}, or name their folder with tokenizer.path"
    if path is not None:
        raise UserError(
            f"tokenizer.path={path}: there is no {VOCAB_FILE} with {MERGES_FILE}: {by_hand.partition(', or')[0]}"
        )
    if not fetch:
        raise UserError(f"tokenizer=gpt2: its files are not at hand: {by_hand}")
    tiktoken, _ = _tiktoken()
    log.info("GPT-2's BPE is in no folder here: taking what tiktoken has cached or downloads")
    try:
        encoding = tiktoken.get_encoding("gpt2")
    except Exception as error:  # requests', ssl's, the cache's
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"tokenizer=gpt2: tiktoken cannot get GPT-2's ranks ({reason}): {by_hand}") from None
    ranks = encoding._mergeable_ranks
    return GPT2Tokenizer(*_files(ranks | {END_OF_TEXT.encode(): encoding.eot_token}, _merges(ranks)))


def _open_pair(vocab: Path, merges: Path) -> GPT2Tokenizer:
    try:
        ranks = _ranks(_read(vocab))
    except ValueError as error:
        raise UserError(f"{vocab}: {error}") from None
    try:
        lines = _read(merges).decode().splitlines()
        lines = lines[1:] if lines[:1] and lines[0].startswith("#version") else lines
        pairs = [tuple(_piece(part) for part in line.split(" ")) for line in lines if line]
        pieces = {piece: i for piece, i in ranks.items() if piece != END_OF_TEXT.encode()}
        if pairs != (found := _merges(pieces)):
            number = next((i for i, two in enumerate(zip(pairs, found, strict=False)) if two[0] != two[1]), len(found))
            raise UserError(
                f"its merge {number} is not the one that the ids of {vocab.name} give: the two do not belong together"
            )
    except ValueError as error:
        raise UserError(f"{merges}: {' '.join(str(error).split())[:300]}") from None
    return GPT2Tokenizer(*_files(ranks, found))


def _ranks(vocab: bytes) -> dict[bytes, int]:
    """The pieces of a vocab.json and their ids. UserError: it is none of a byte-level BPE."""
    try:
        found = json.loads(vocab)
    except (ValueError, RecursionError) as error:
        raise UserError(f"damaged: {str(error)[:200]}") from None
    if (
        not isinstance(found, dict)
        or {*map(type, found.values())} - {int}
        or sorted(found.values()) != [*range(len(found))]
    ):
        raise UserError("damaged: no object of pieces with the ids 0, 1, 2, …, each once")
    ends = found.pop(END_OF_TEXT, None)
    ranks = {_piece(piece): i for piece, i in found.items()}
    if ends is None or not all(bytes([byte]) in ranks for byte in range(256)):
        raise UserError(f"no vocabulary of GPT-2's kind: it lacks {END_OF_TEXT} or some of the 256 bytes")
    if END_OF_TEXT.encode() in ranks:
        raise UserError(f"no vocabulary of GPT-2's kind: {END_OF_TEXT} is a piece of text in it")
    return ranks | {END_OF_TEXT.encode(): ends}


def _piece(written: str) -> bytes:
    """The bytes of a piece as GPT-2's files write them."""
    try:
        piece = written.translate(_BYTE_OF).encode("latin-1")
    except UnicodeEncodeError:
        piece = b""
    if not 0 < len(piece) <= MAX_PIECE:
        raise UserError(
            f"damaged: {ascii(written)[:100]} are not the bytes of a piece, 1 to {MAX_PIECE}, as GPT-2 writes them"
        )
    return piece


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, ...]]:
    """The two parts of which each piece is merged, in the order of the ids.

    They are what the pieces of lower ids make of its bytes. Where these are two, for every piece, merging by the ids (as tiktoken
    does) and by the list of merges (as others do) give the same on every text: before a pair that is not in the list could be
    merged, its own bytes would have been merged otherwise. UserError: they are more.
    """
    found = []
    for piece in sorted(ranks, key=ranks.__getitem__):
        parts = [piece[i : i + 1] for i in range(len(piece))]
        while len(parts) > 2:
            best, at = min((ranks.get(a + b, len(ranks)), i) for i, (a, b) in enumerate(itertools.pairwise(parts)))
            if best >= ranks[piece]:
                raise UserError(
                    f"the piece {ascii(piece.decode(errors='replace'))[:100]} is not merged from two others"
                )
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            found.append(tuple(parts))
    return found


def _files(ranks: dict[bytes, int], merges: list[tuple[bytes, ...]]) -> tuple[bytes, bytes]:
    """vocab.json and merges.txt, always written the same way: their checksum tells mappings apart."""

    def written(piece: bytes) -> str:
        return "".join(map(_CHARACTER_OF.__getitem__, piece))

    vocab = {
        END_OF_TEXT if piece == END_OF_TEXT.encode() else written(piece): i
        for piece, i in sorted(ranks.items(), key=lambda item: item[1])
    }
    lines = ["#version: 0.2", *(" ".join(map(written, pair)) for pair in merges)]
    return json.dumps(vocab, ensure_ascii=False).encode(), ("\n".join(lines) + "\n").encode()


def _fingerprint(vocab: bytes, merges: bytes) -> str:
    return hashlib.sha256(vocab + merges).hexdigest()


def _tiktoken() -> tuple[Any, str]:
    """The library, and GPT-2's rule of where no piece may reach across."""
    try:
        import tiktoken
        from tiktoken_ext.openai_public import r50k_pat_str
    except ImportError:
        raise missing_extra("tokenizer=gpt2 needs tiktoken", "openwebtext") from None
    return tiktoken, r50k_pat_str


def train_tokenizer(kind: str, texts: Iterable[str], vocab_size: int | None, held_out: Iterable[str] = ()) -> Tokenizer:
    """Learns a tokenizer of `kind` ("char" or "bpe") from the documents `texts`, read once.

    Characters need to know whether those of `held_out`, which is read after `texts`, are all among them; BPE writes every one.

    UserError: as the tokenizers' own `train`; an unknown kind; a size that is missing (bpe) or has no use (char).
    """
    assert not isinstance(texts, str), "texts are documents, not the characters of one"
    if kind == "char":
        if vocab_size is not None:
            raise UserError(
                f"tokenizer.vocab_size={vocab_size}: with tokenizer=char the text decides it, leave it null"
            )
        return CharTokenizer.train(texts, held_out)
    if kind == "bpe":
        if vocab_size is None:
            raise UserError("tokenizer.vocab_size=null: tokenizer=bpe needs a number of pieces, such as 1024")
        return BPETokenizer.train(texts, vocab_size)
    raise UserError(f"tokenizer.kind={kind!r}: use char, bpe or gpt2")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote into `folder`. UserError naming the file: missing, damaged, not what it says."""
    path, model_path = folder / JSON_FILE, folder / MODEL_FILE
    content = _read(path)
    try:
        saved = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if not isinstance(saved, dict):
        raise UserError(f"{path}: damaged: no JSON object")
    tokenizer: Tokenizer
    byte_fallback = saved.get("byte_fallback", False)  # absent from a file without bytes
    if saved.get("kind") == "char" and isinstance(saved.get("characters"), str) and isinstance(byte_fallback, bool):
        try:
            tokenizer = CharTokenizer(saved["characters"], byte_fallback)
        except ValueError as error:
            raise UserError(f"{path}: damaged: {error}") from None
    elif saved.get("kind") == "bpe":
        model = _read(model_path)
        if hashlib.sha256(model).hexdigest() != saved.get("fingerprint"):
            raise UserError(f"{model_path}: damaged: its sha256 is not the fingerprint in {JSON_FILE}")
        try:
            _try_parser(model)
            tokenizer = BPETokenizer(model)
        except ValueError as error:
            raise UserError(f"{model_path}: damaged: {error}") from None
    elif saved.get("kind") == "gpt2":
        vocab, merges = _read(folder / VOCAB_FILE), _read(folder / MERGES_FILE)
        if _fingerprint(vocab, merges) != saved.get("fingerprint"):
            raise UserError(
                f"{folder / VOCAB_FILE}: damaged: its sha256, with {MERGES_FILE}, is not the fingerprint in {JSON_FILE}"
            )
        try:
            tokenizer = GPT2Tokenizer(vocab, merges)
        except ValueError as error:
            raise UserError(f"{folder / VOCAB_FILE}: {error}") from None
    else:
        raise UserError(f"{path}: damaged: no tokenizer of kind char, bpe or gpt2")
    for key, value in _description(tokenizer).items():
        if saved.get(key) != value:
            raise UserError(f"{path}: damaged: {key} is not {value}, which the rest of it gives")
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
        UserError: where that process fails, crashes or takes too long.
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


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
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


def _write_json(folder: Path, tokenizer: Tokenizer, **more: str | bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(_description(tokenizer) | more, ensure_ascii=False, indent=2) + "\n"
    (folder / JSON_FILE).write_bytes(content.encode())


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"{path}: damaged: larger than {MAX_FILE_BYTES} bytes")
    return content
