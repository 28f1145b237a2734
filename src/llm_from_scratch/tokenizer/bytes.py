"""Byte-level BPE (Radford et al. 2019, section 2.2), encoded by tiktoken: GPT-2's and others'.

GPT-2's files are vocab.json and merges.txt, as transformers and OpenAI publish them. Other models
differ in their special tokens, in the rule that splits words, and in bytes that they lack.
"""

import hashlib
import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.errors import UserError, message_of, missing_extra
from llm_from_scratch.places import user_path
from llm_from_scratch.tokenizer.base import END_OF_TEXT, Tokenizer, read_file, utf8, write_description
from llm_from_scratch.tokenizer.merges import MAX_PIECE, MAX_WORK, derived, in_reach, pair_of, piece_of, ranked, written
from llm_from_scratch.tokenizer.patterns import PATTERNS

log = logging.getLogger(__name__)

VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
OPENAI_FILES = "encoder.json", "vocab.bpe"  # the same two files by OpenAI's first names
# The arguments of BytesTokenizer, which are its entries in tokenizer.json
PARTS = "tokens", "merges", "special", "visible", "pattern", "eot_id", "eos_id", "bos_id", "add_bos"
ENDS_OF_TEXT = END_OF_TEXT, "<|end_of_text|>", "</s>"
# A special token of other models that its file does not call special: "<think>", "[INST]"
_MARK = re.compile(r"<.+>|\[.+\]", re.DOTALL)
# tiktoken's regular expressions overflow their stack at 1,000,000 white spaces.
ENDLESS_SPACE = re.compile(r"(?<!\s)\s{100000}")
# Unicode's white space: Python's \s without the separators U+001C to U+001F.
LONG_SPACE = re.compile(r"[^\S\x1c-\x1f]{1000,}")


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

    def tokens(self) -> list[str]:
        """Returns the token of each id, as vocab.json writes it."""
        found: dict[str, int] = json.loads(self.files[VOCAB_FILE])
        return sorted(found, key=found.__getitem__)

    def save(self, folder: Path) -> None:
        write_description(folder, self)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


class BytesTokenizer(Tokenizer):
    """Byte-level BPE of somebody's model; `bytes_tokenizer` makes one from a stranger's lists.

    A text never encodes to a special token: `<|im_end|>` in it becomes ordinary tokens. Special
    tokens have no bytes, except `visible` ones, which decode as their names. A Unicode
    normalization that a model's file asks for is left to data.clean, so that every text is given
    back: ids are the model's for texts in NFC.

    Attributes:
        bos_id: the token with which the model's texts begin; None: there is none.
        eos_id: the token at which the model stops: in a chat, the end of its turn.
        add_bos: whether the model expects `bos_id` in front of every text.

    Raises:
        UserError: when the parts do not fit together, or tiktoken is not installed.
    """

    kind = "bytes"

    def __init__(
        self,
        tokens: Sequence[str | None],
        merges: Sequence[str],
        special: Mapping[str, int],
        visible: Sequence[str],
        pattern: str,
        eot_id: int,
        eos_id: int,
        bos_id: int | None = None,
        add_bos: bool = False,
    ) -> None:
        """Takes the parts of a vocabulary.

        Args:
            tokens: the token of each id in the visible characters of GPT-2's files, or the name of
                a special token; None: no token has this id.
            merges: the pairs that are merged, "left right", the first ones first.
            special: the ids of the special tokens by name.
            visible: names of the special tokens that decode as themselves.
            pattern: a key of `patterns.PATTERNS`.
            eot_id: the end-of-text token.
            eos_id: the token at which the model stops.
            bos_id: the token with which texts begin; None: none.
            add_bos: whether the model expects `bos_id` in front of every text.
        """
        _check_parts(tokens, merges, special, visible, pattern, [eot_id, eos_id] + ([] if bos_id is None else [bos_id]))
        self._special, self.visible, self.pattern = dict(special), sorted(visible), pattern
        self.eot_id, self.eos_id, self.bos_id, self.add_bos = eot_id, eos_id, bos_id, bool(add_bos)
        self.tokens, self.merges = [*tokens], [*merges]
        self.vocab_size = len(self.tokens)
        named = {i: name for name, i in special.items()}
        pieces = {i: piece_of(token) for i, token in enumerate(tokens) if token is not None and i not in named}
        ids = {piece: i for i, piece in pieces.items()}
        written_tokens = [token for token in tokens if token is not None]
        if len(ids) < len(pieces) or len({*written_tokens}) < len(written_tokens):
            raise UserError("damaged: a token has two ids")
        decoded = pieces | {i: name.encode() for i, name in named.items() if name in self.visible}
        self._bytes_of = [decoded.get(i, b"") for i in range(self.vocab_size)]
        ranks = ranked(ids, [pair_of(merge) for merge in self.merges])
        self._id_of_rank = np.array([ids[piece] for piece in ranks], np.uint32)
        self._known = bytes(byte for byte in range(256) if bytes([byte]) in ranks)
        tiktoken, _ = _tiktoken("this tokenizer needs tiktoken", "weights")
        self._encoding = tiktoken.Encoding(
            "bytes", pat_str=PATTERNS[pattern].words, mergeable_ranks=ranks, special_tokens={}
        )
        self.fingerprint = hashlib.sha256(json.dumps(self.parts(), sort_keys=True).encode()).hexdigest()

    @property
    def special(self) -> dict[str, int]:
        return self._special

    def parts(self) -> dict[str, Any]:
        """Returns the arguments that make this tokenizer."""
        return {name: getattr(self, name) for name in PARTS}

    def encode(self, text: str) -> list[int]:
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """Encodes `text` to an array (N,) of uint32.

        Raises:
            UserError: when `text` holds a lone surrogate, or a character with a byte that is no
                token of the model.
        """
        unknown = utf8(text).translate(None, self._known)
        if unknown:
            character = next(c for c in text if not set(c.encode()).isdisjoint(unknown))
            raise UserError(
                f"the model's tokenizer has no token for the character {character!r} (U+{ord(character):04X}) at "
                f"index {text.index(character)} of the text: leave it out"
            )
        if ENDLESS_SPACE.search(text):
            words = _words(text, PATTERNS[self.pattern].words)
            ranks = np.concatenate([np.array(self._encoding._encode_single_piece(word), np.uint32) for word in words])
        else:
            ranks = self._encoding.encode_to_numpy(text, disallowed_special=())
        return self._id_of_rank[ranks]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes_of[i] for i in ids])

    def save(self, folder: Path) -> None:
        write_description(folder, self, **self.parts())


def _check_parts(
    tokens: Sequence[str | None],
    merges: Sequence[str],
    special: Mapping[str, int],
    visible: Sequence[str],
    pattern: str,
    ids: list[int],
) -> None:
    """Checks the types and the ids of the parts of a BytesTokenizer, which may be a stranger's.

    Raises:
        UserError: when one is wrong.
    """
    if not (
        isinstance(tokens, list)
        and {*map(type, tokens)} <= {str, type(None)}
        and isinstance(merges, list)
        and isinstance(special, dict)
        and {*map(type, special.values())} <= {int}
        and all(0 <= i < len(tokens) and tokens[i] == name for name, i in special.items())
        and isinstance(visible, list)
        and all(isinstance(name, str) and name in special for name in visible)
        and all(type(i) is int and 0 <= i < len(tokens) for i in ids)
    ):
        raise UserError("damaged: its tokens, special tokens and ids do not fit together")
    if not isinstance(pattern, str) or pattern not in PATTERNS:
        raise UserError(f"its pre-tokenizer {str(pattern)[:100]!r} is none of {', '.join(PATTERNS)}")
    for name in special:
        if not 0 < len(utf8(name)) <= MAX_PIECE:
            raise UserError(f"damaged: a special token's name has not 1 to {MAX_PIECE} bytes")


def bytes_tokenizer(
    tokens: Sequence[str | None],
    merges: Iterable[tuple[str, str]],
    special: Mapping[str, int],
    visible: Sequence[str],
    pattern: str,
    *,
    eos_id: int | None,
    bos_id: int | None = None,
    add_bos: bool = False,
) -> BytesTokenizer:
    """Returns the tokenizer of a stranger's vocabulary, as GGUF and tokenizer.json hold it.

    The merges are held against the definition: each token must be the encoding of its bytes by
    earlier merges and one more, so that merging by rank gives the ids that merging by this list
    gives. Merges that no text can reach are left out; Llama 3's file has 152,000 of them. The
    end-of-text token is the first of ENDS_OF_TEXT that is special, else `eos_id`.

    Raises:
        UserError: when the lists do not fit together.
    """
    eot_id = next((special[name] for name in ENDS_OF_TEXT if name in special), eos_id)
    if eot_id is None:
        raise UserError("it has no end-of-text token")
    hidden = next((name for name in visible if not _MARK.fullmatch(name)), None)
    if hidden is not None:
        raise UserError(
            f"its added token {ascii(hidden)[:100]} is text like any other, which this project cannot encode"
        )
    pairs = [(piece_of(left), piece_of(right)) for left, right in merges]
    named = {*special.values()}
    pieces = {piece_of(token): i for i, token in enumerate(tokens) if token is not None and i not in named}
    if sum(len(piece) ** 2 for piece in pieces) > MAX_WORK:
        raise UserError("its tokens are too long: no tokenizer of a published model has such")
    ranks = ranked(pieces, in_reach(pieces, pairs))
    found = derived(ranks)
    place_of = {pair: place for place, pair in enumerate(pairs)}
    places = [place_of.get((left, right), -1) for left, right in found]
    wrong = next((i for i, (one, two) in enumerate(itertools.pairwise([-1, *places])) if one >= two), None)
    if wrong is not None:
        raise UserError(
            f"its merges are no byte-pair encoding: {ascii(written(b''.join(found[wrong])))[:100]} is merged otherwise"
        )
    canonical = [f"{written(left)} {written(right)}" for left, right in found]
    last = eot_id if eos_id is None else eos_id
    return BytesTokenizer([*tokens], canonical, dict(special), [*visible], pattern, eot_id, last, bos_id, add_bos)


def _words(text: str, pattern: str) -> Iterator[str]:
    """Yields the words of a text with endless white space, which tiktoken cannot split."""
    import regex  # comes with tiktoken

    same = pattern.replace(r"\s", r"\p{White_Space}").replace(r"\S", r"\P{White_Space}").replace("$", r"\Z")
    for found in regex.finditer(same, text):
        yield found[0]


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
    return GPT2Tokenizer(*_files(ranks | {END_OF_TEXT.encode(): encoding.eot_token}, derived(ranks)))


def _open_pair(vocab: Path, merges: Path) -> GPT2Tokenizer:
    try:
        ranks = _ranks(read_file(vocab))
    except ValueError as error:
        raise UserError(f"{vocab}: {error}") from None
    try:
        lines = read_file(merges).decode().splitlines()
        lines = lines[1:] if lines[:1] and lines[0].startswith("#version") else lines
        pairs = [tuple(piece_of(part) for part in line.split(" ")) for line in lines if line]
        pieces = {piece: i for piece, i in ranks.items() if piece != END_OF_TEXT.encode()}
        if pairs != (found := derived(pieces)):
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
    ranks = {piece_of(piece): i for piece, i in found.items()}
    if ends is None or not all(bytes([byte]) in ranks for byte in range(256)):
        raise UserError(f"no vocabulary of GPT-2's kind: it lacks {END_OF_TEXT} or some of the 256 bytes")
    if END_OF_TEXT.encode() in ranks:
        raise UserError(f"no vocabulary of GPT-2's kind: {END_OF_TEXT} is a token of text in it")
    return ranks | {END_OF_TEXT.encode(): ends}


def _files(ranks: dict[bytes, int], merges: list[tuple[bytes, ...]]) -> tuple[bytes, bytes]:
    """Writes vocab.json and merges.txt in one canonical form, so that equal mappings hash alike."""
    vocab = {
        END_OF_TEXT if piece == END_OF_TEXT.encode() else written(piece): i
        for piece, i in sorted(ranks.items(), key=lambda item: item[1])
    }
    lines = ["#version: 0.2", *(" ".join(map(written, pair)) for pair in merges)]
    return json.dumps(vocab, ensure_ascii=False).encode(), ("\n".join(lines) + "\n").encode()


def files_fingerprint(vocab: bytes, merges: bytes) -> str:
    """Returns the sha256, in hex, of vocab.json followed by merges.txt."""
    return hashlib.sha256(vocab + merges).hexdigest()


def _tiktoken(what: str = "tokenizer=gpt2 needs tiktoken", extra: str = "openwebtext") -> tuple[Any, str]:
    """Imports tiktoken; returns it and GPT-2's regular expression that splits text into words.

    Raises:
        UserError: when tiktoken is not installed.
    """
    try:
        import tiktoken
        from tiktoken_ext.openai_public import r50k_pat_str
    except ImportError:
        raise missing_extra(what, extra) from None
    return tiktoken, r50k_pat_str
