"""Byte-level BPE of GPT-2 (Radford et al. 2019, section 2.2), encoded by tiktoken.

The files are vocab.json and merges.txt, as transformers and OpenAI publish them.
"""

import hashlib
import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.errors import UserError, message_of, missing_extra
from llm_from_scratch.places import user_path
from llm_from_scratch.tokenizer.base import END_OF_TEXT, Tokenizer, read_file, utf8, write_description

log = logging.getLogger(__name__)

VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
OPENAI_FILES = "encoder.json", "vocab.bpe"  # the same two files by OpenAI's first names
MAX_PIECE = 512  # bytes of a token; GPT-2's longest has 128; `_merges` takes quadratic time in it
# Unicode's white space: Python's \s without the separators U+001C to U+001F.
LONG_SPACE = re.compile(r"[^\S\x1c-\x1f]{1000,}")
# GPT-2's files write each byte of a token as a visible character: 188 bytes as the character of the
# same number, the others as U+0100 and on.
_SEEN = [*range(33, 127), *range(161, 173), *range(174, 256)]
_CHARACTER_OF = {byte: chr(byte) for byte in _SEEN}
_CHARACTER_OF |= {byte: chr(256 + i) for i, byte in enumerate(sorted(set(range(256)) - set(_SEEN)))}
_BYTE_OF = dict.fromkeys(range(256), 0xFFFF) | {ord(character): byte for byte, character in _CHARACTER_OF.items()}


class GPT2Tokenizer(Tokenizer):
    """GPT-2's byte-level BPE; `vocab` and `merges` are the contents of vocab.json and merges.txt.

    Tokens of lower ids are merged first, so encoding needs only the ids; `open_gpt2` checks that
    the merges agree.

    Raises:
        UserError: when `vocab` is not such a vocabulary, or tiktoken is not installed.
    """

    kind = "gpt2"

    def __init__(self, vocab: bytes, merges: bytes) -> None:
        ranks = _ranks(vocab)
        self.files = {VOCAB_FILE: vocab, MERGES_FILE: merges}
        self.vocab_size = len(ranks)
        self.fingerprint = files_fingerprint(vocab, merges)
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
        utf8(text)
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError:  # a run of white space too long for tiktoken's regular expression
            return np.concatenate([np.array(ids, np.uint32) for ids in self._around_space(text)])

    def _around_space(self, text: str) -> Iterator[list[int]]:
        """Yields ids of the parts of `text`, with runs of 1,000 or more white spaces as parts.

        The last space of a run belongs to the next word.
        """
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
        write_description(folder, self)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def open_gpt2(path: str | None, places: Iterable[Path] = (), fetch: bool = True) -> GPT2Tokenizer:
    """Opens GPT-2's BPE: from `path` if given, else from a folder of `places`, else from tiktoken.

    The first folder that has both files is taken: vocab.json and merges.txt, or encoder.json and
    vocab.bpe. tiktoken reads its cache (TIKTOKEN_CACHE_DIR), or downloads and verifies its own
    copy; with `fetch` False it is not used as a source.

    Raises:
        UserError: when there are no files, they are damaged or do not belong together, or tiktoken
            is not installed.
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
    except Exception as error:  # of requests, of ssl, of the cache
        reason = message_of(error, 150)
        raise UserError(f"tokenizer=gpt2: tiktoken cannot get GPT-2's ranks ({reason}): {by_hand}") from None
    ranks = encoding._mergeable_ranks
    return GPT2Tokenizer(*_files(ranks | {END_OF_TEXT.encode(): encoding.eot_token}, _merges(ranks)))


def _open_pair(vocab: Path, merges: Path) -> GPT2Tokenizer:
    try:
        ranks = _ranks(read_file(vocab))
    except ValueError as error:
        raise UserError(f"{vocab}: {error}") from None
    try:
        lines = read_file(merges).decode().splitlines()
        lines = lines[1:] if lines[:1] and lines[0].startswith("#version") else lines
        pairs = [tuple(_piece(part) for part in line.split(" ")) for line in lines if line]
        pieces = {piece: i for piece, i in ranks.items() if piece != END_OF_TEXT.encode()}
        if pairs != (found := _merges(pieces)):
            number = next((i for i, two in enumerate(zip(pairs, found, strict=False)) if two[0] != two[1]), len(found))
            raise UserError(
                f"its merge {number} is not the one that the ids of {vocab.name} give: the two do not belong together"
            )
    except ValueError as error:
        raise UserError(f"{merges}: {message_of(error, 300)}") from None
    return GPT2Tokenizer(*_files(ranks, found))


def _ranks(vocab: bytes) -> dict[bytes, int]:
    """Parses a vocab.json into token -> id, tokens as bytes.

    Raises:
        UserError: when it is not a vocabulary of a byte-level BPE.
    """
    try:
        found = json.loads(vocab)
    except (ValueError, RecursionError) as error:
        raise UserError(f"damaged: {str(error)[:200]}") from None
    if (
        not isinstance(found, dict)
        or {*map(type, found.values())} - {int}
        or sorted(found.values()) != [*range(len(found))]
    ):
        raise UserError("damaged: no object of tokens with the ids 0, 1, 2, …, each once")
    ends = found.pop(END_OF_TEXT, None)
    ranks = {_piece(piece): i for piece, i in found.items()}
    if ends is None or not all(bytes([byte]) in ranks for byte in range(256)):
        raise UserError(f"no vocabulary of GPT-2's kind: it lacks {END_OF_TEXT} or some of the 256 bytes")
    if END_OF_TEXT.encode() in ranks:
        raise UserError(f"no vocabulary of GPT-2's kind: {END_OF_TEXT} is a token of text in it")
    return ranks | {END_OF_TEXT.encode(): ends}


def _piece(written: str) -> bytes:
    """Converts a token of GPT-2's files, a visible character a byte, to its bytes.

    Raises:
        UserError: when it is not written so, is empty or longer than MAX_PIECE.
    """
    try:
        piece = written.translate(_BYTE_OF).encode("latin-1")
    except UnicodeEncodeError:
        piece = b""
    if not 0 < len(piece) <= MAX_PIECE:
        raise UserError(
            f"damaged: {ascii(written)[:100]} are not the bytes of a token, 1 to {MAX_PIECE}, as GPT-2 writes them"
        )
    return piece


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, ...]]:
    """Derives the list of merges from the ids: the pair of tokens behind each merged token.

    The pair is the encoding of the token's bytes by tokens of lower ids. Where each encoding has
    two tokens, merging by ids (tiktoken) and by the list of merges (other libraries) agree on every
    text: a pair that is not in the list would have been merged otherwise before.

    Raises:
        UserError: when the encoding of a token has more than two tokens.
    """
    found = []
    for piece in sorted(ranks, key=ranks.__getitem__):
        parts = [piece[i : i + 1] for i in range(len(piece))]
        while len(parts) > 2:
            best, at = min((ranks.get(a + b, len(ranks)), i) for i, (a, b) in enumerate(itertools.pairwise(parts)))
            if best >= ranks[piece]:
                raise UserError(
                    f"the token {ascii(piece.decode(errors='replace'))[:100]} is not merged from two others"
                )
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            found.append(tuple(parts))
    return found


def _files(ranks: dict[bytes, int], merges: list[tuple[bytes, ...]]) -> tuple[bytes, bytes]:
    """Writes vocab.json and merges.txt in one canonical form, so that equal mappings hash alike."""

    def written(piece: bytes) -> str:
        return "".join(map(_CHARACTER_OF.__getitem__, piece))

    vocab = {
        END_OF_TEXT if piece == END_OF_TEXT.encode() else written(piece): i
        for piece, i in sorted(ranks.items(), key=lambda item: item[1])
    }
    lines = ["#version: 0.2", *(" ".join(map(written, pair)) for pair in merges)]
    return json.dumps(vocab, ensure_ascii=False).encode(), ("\n".join(lines) + "\n").encode()


def files_fingerprint(vocab: bytes, merges: bytes) -> str:
    """Returns the sha256, in hex, of vocab.json followed by merges.txt."""
    return hashlib.sha256(vocab + merges).hexdigest()


def _tiktoken() -> tuple[Any, str]:
    """Imports tiktoken; returns it and GPT-2's regular expression that splits text into words.

    Raises:
        UserError: when tiktoken is not installed.
    """
    try:
        import tiktoken
        from tiktoken_ext.openai_public import r50k_pat_str
    except ImportError:
        raise missing_extra("tokenizer=gpt2 needs tiktoken", "openwebtext") from None
    return tiktoken, r50k_pat_str
