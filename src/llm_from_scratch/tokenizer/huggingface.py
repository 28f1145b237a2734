"""Tokenizers in the files of Hugging Face: tokenizer.json and its companions, written and read.

The files are plain JSON, made without a library. The pipeline that they describe gives our ids:
no normalizer; words only where the tokenizer itself splits them; merges with real spaces, because
the usual way to write SentencePiece's models turns a U+2581 of the text into a space.
https://huggingface.co/docs/tokenizers/components
"""

import json
from pathlib import Path
from typing import Any

from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.files import write_file
from llm_from_scratch.tokenizer.base import END_OF_TEXT, JSON_FILE, Tokenizer, read_file, utf8
from llm_from_scratch.tokenizer.bpe import MODEL_FILE, BPETokenizer, SentencePieceTokenizer, try_parser
from llm_from_scratch.tokenizer.bytes import (
    MERGES_FILE,
    VOCAB_FILE,
    BytesTokenizer,
    GPT2Tokenizer,
    bytes_tokenizer,
    open_gpt2,
)
from llm_from_scratch.tokenizer.char import CharTokenizer
from llm_from_scratch.tokenizer.merges import MAX_WORK
from llm_from_scratch.tokenizer.model_proto import BYTE, CONTROL, NORMAL, UNKNOWN, Piece, read_model, write_model
from llm_from_scratch.tokenizer.patterns import PATTERNS, pattern_of_json

CONFIG_FILE, MAP_FILE, TEMPLATE_FILE = "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"
MAX_TOKENS = 1_000_000
MAX_VALUES = 4_000_000  # in a file of JSON; Llama 3's has 0.7 million
UNKNOWN_TOKEN = "<unk>"
MARK = "▁"  # a space, in pieces of SentencePiece
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]
# The pre-tokenizer of a character tokenizer. Oniguruma has no (?s:.).
CHARACTERS = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
FROM_BYTES = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}


# ------------------------------------------------------------------------------------------ writing
def write(tokenizer: Tokenizer, folder: Path, *, chat_template: str | None = None) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into `folder`.

    AutoTokenizer then gives the tokenizer's ids, and decodes to the same text. Names of special
    tokens in a text are ordinary text to it, unless `chat_template` (written as
    chat_template.jinja) needs them parsed.

    Raises:
        UserError: when these files cannot describe the tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = _named_tokens(tokenizer)
    settings = {
        # Without it the type of the model chooses a class that builds another pipeline: wrong ids.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": chat_template is None,
        "model_max_length": 10**30,  # no limit; the model's is in config.json
        **named,
    }
    _write_json(folder / JSON_FILE, _pipeline(tokenizer))
    _write_json(folder / CONFIG_FILE, settings)
    _write_json(folder / MAP_FILE, named)
    if chat_template is not None:
        write_file(folder / TEMPLATE_FILE, utf8(chat_template))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_file(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def _named_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """Returns the names of the tokens with a part of their own, such as eos_token."""
    if isinstance(tokenizer, BytesTokenizer):
        name_of = {i: name for name, i in tokenizer.special.items()}
        found = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.eot_id}
        return {key: name_of[i] for key, i in found.items() if i is not None and i in name_of}
    # In our models a document begins with the end-of-text token.
    names = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    return names | ({"unk_token": UNKNOWN_TOKEN} if isinstance(tokenizer, BPETokenizer) else {})


def _pipeline(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the content of tokenizer.json."""
    if isinstance(tokenizer, CharTokenizer):
        parts = _of_characters(tokenizer)
    elif isinstance(tokenizer, BPETokenizer):
        parts = _of_model(tokenizer)
    elif isinstance(tokenizer, GPT2Tokenizer):
        merges = tokenizer.files[MERGES_FILE].decode().splitlines()[1:]
        parts = _of_bytes(list(tokenizer.tokens()), merges, "gpt2")
    elif isinstance(tokenizer, BytesTokenizer):
        tokens = [f"[PAD{i}]" if token is None else token for i, token in enumerate(tokenizer.tokens)]
        parts = _of_bytes(tokens, tokenizer.merges, tokenizer.pattern)
        if tokenizer.add_bos and tokenizer.bos_id is not None:
            parts["post_processor"] = _begin_with(tokenizer.bos_id, tokenizer.tokens[tokenizer.bos_id] or "")
    else:
        raise UserError(
            f"a tokenizer of kind {tokenizer.kind} is not written as tokenizer.json: its ids would differ; use the"
            f" {MODEL_FILE} that it came with"
        )
    visible = tokenizer.visible if isinstance(tokenizer, BytesTokenizer) else []
    added = [
        {"id": i, "content": name, "special": name not in visible}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for name, i in sorted(tokenizer.special.items(), key=lambda item: item[1])
    ]
    stages = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **stages, **parts}


def _bpe(vocab: dict[str, int], merges: list[list[str]], **more: Any) -> dict[str, Any]:
    model: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return model | more | {"vocab": vocab, "merges": merges}


def _of_characters(tokenizer: CharTokenizer) -> dict[str, Any]:
    vocab = {END_OF_TEXT: 0} | {character: i for i, character in enumerate(tokenizer.characters, start=1)}
    if tokenizer.byte_fallback:
        vocab |= {piece: len(vocab) + byte for byte, piece in enumerate(BYTE_PIECES)}
        return {"decoder": FROM_BYTES, "model": _bpe(vocab, [], byte_fallback=True)}
    # The unknown token is none of the vocabulary: an unknown character is an error, as it is here.
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": UNKNOWN_TOKEN}
    return {"pre_tokenizer": CHARACTERS, "decoder": {"type": "Fuse"}, "model": model}


def _of_model(tokenizer: BPETokenizer) -> dict[str, Any]:
    model = read_model(tokenizer.model)
    if not model.plain or model.space_prefix:
        raise UserError("its SentencePiece model changes texts before it encodes them: tokenizer.json would not")
    texts = [piece.text if _is_fixed(piece) else piece.text.replace(MARK, " ") for piece in model.pieces]
    vocab = {text: i for i, text in enumerate(texts)}
    if len(vocab) < len(texts):
        raise UserError("two of its tokens are the same text")
    unknown = next(piece.text for piece in model.pieces if piece.type == UNKNOWN)
    bpe = _bpe(vocab, merges_of(model.pieces), byte_fallback=True, unk_token=unknown)
    return {"decoder": FROM_BYTES, "model": bpe}


def merges_of(pieces: list[Piece]) -> list[list[str]]:
    """Returns every pair of pieces that makes a piece, with real spaces, higher scores first."""
    score_of = {piece.text.replace(MARK, " "): piece.score for piece in pieces if not _is_fixed(piece)}
    return [
        [text[:i], text[i:]]
        for text in sorted(score_of, key=lambda text: -score_of[text])
        for i in range(1, len(text))
        if text[:i] in score_of and text[i:] in score_of
    ]


def _is_fixed(piece: Piece) -> bool:
    """Returns whether a piece is none of text: a byte, the unknown or a control piece."""
    return piece.type in (BYTE, UNKNOWN, CONTROL)


def _of_bytes(tokens: list[str], merges: list[str], pattern: str) -> dict[str, Any]:
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        raise UserError("two of its tokens have one name")
    decoder = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = _bpe(vocab, [merge.split(" ") for merge in merges])
    return {"pre_tokenizer": PATTERNS[pattern].written, "decoder": decoder, "model": model}


def _begin_with(token_id: int, name: str) -> dict[str, Any]:
    """Returns the post-processor that puts a token in front of a text."""

    def token(type_id: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": type_id}}

    def text(key: str, type_id: int) -> dict[str, Any]:
        return {"Sequence": {"id": key, "type_id": type_id}}

    return {
        "type": "TemplateProcessing",
        "single": [token(0), text("A", 0)],
        "pair": [token(0), text("A", 0), token(1), text("B", 1)],
        "special_tokens": {name: {"id": name, "ids": [token_id], "tokens": [name]}},
    }


# ------------------------------------------------------------------------------------------ reading
def read(folder: Path, vocab_size: int | None = None) -> Tokenizer:
    """Reads the tokenizer of somebody's model: tokenizer.json, tokenizer.model or GPT-2's files.

    tokenizer.json may be a byte-level BPE with a pre-tokenizer of `patterns.PATTERNS`, or what
    `write` wrote. With `vocab_size`, the rows of the model's embedding, ids above the last token
    are no token's. Everything in the folder may be a stranger's.

    Raises:
        UserError: when there is no tokenizer, it is damaged, or its kind is not supported.
    """
    path = folder / JSON_FILE
    if not path.is_file():
        if (folder / MODEL_FILE).is_file():
            return _read_model(folder / MODEL_FILE)
        if (folder / VOCAB_FILE).is_file():
            return open_gpt2(str(folder))
        raise UserError(f"{folder}: it has no {JSON_FILE}, {MODEL_FILE} or {VOCAB_FILE}")
    try:
        content = _read_json(path)
        if _is_metaspace(content):
            if (folder / MODEL_FILE).is_file():
                return _read_model(folder / MODEL_FILE)
            raise UserError(f"it is SentencePiece's, of which the {MODEL_FILE} is needed beside it")
        names: dict[str, Any] = {}
        for name in (MAP_FILE, CONFIG_FILE):
            if (folder / name).is_file():
                names |= _read_json(folder / name)
        return _Reader(content, names, vocab_size).tokenizer()
    except RecursionError:
        raise UserError(f"{path}: damaged: nested too deeply") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read_model(path: Path) -> Tokenizer:
    """Reads a tokenizer.model: ours, or any other of SentencePiece."""
    content = read_file(path)
    try:
        try_parser(content)
        model = read_model(content)
        names = {piece.text for piece in model.pieces if piece.type == CONTROL}
        count = sum(piece.type == BYTE for piece in model.pieces)
        own = model.plain and not model.space_prefix and count == 256 and names == {END_OF_TEXT}
        return BPETokenizer(content) if own else SentencePieceTokenizer(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object whose memory is bounded: every value has a bracket or a comma.

    Raises:
        UserError: when it is missing, damaged or too large.
    """
    content = read_file(path)
    if content.count(b",") > MAX_VALUES or content.count(b"[") + content.count(b"{") > MAX_VALUES:
        raise UserError("damaged: it has too many entries")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"damaged: {message_of(error, 150)}") from None
    if not isinstance(found, dict):
        raise UserError("damaged: no JSON object")
    return found


def _is_metaspace(content: dict[str, Any]) -> bool:
    """Returns whether a tokenizer.json imitates SentencePiece with spaces as U+2581."""
    stages = json.dumps([content.get("normalizer"), content.get("pre_tokenizer")], ensure_ascii=False)
    return "Metaspace" in stages or MARK in stages


class _Reader:
    """The content of a tokenizer.json, checked before it is used.

    Args:
        content: the object of tokenizer.json.
        names: the entries of tokenizer_config.json, such as eos_token.
        vocab_size: the number of ids; None: the number of tokens.
    """

    def __init__(self, content: dict[str, Any], names: dict[str, Any], vocab_size: int | None) -> None:
        self.content, self.names = content, names
        model = content.get("model")
        if "kind" in content and "fingerprint" in content:
            raise UserError("it is the tokenizer of a run of this project: name the run folder")
        if not isinstance(model, dict):
            raise UserError("damaged: it has no model")
        self.model = model
        self.kind = model.get("type", "BPE" if "merges" in model else None)
        if self.kind not in ("BPE", "WordLevel"):
            raise UserError(f"its model is {str(self.kind)[:50]!r}: only byte-pair encodings are supported")
        self.added = self._read_added()
        self.tokens = self._read_tokens(vocab_size)

    def _read_added(self) -> dict[str, dict[str, Any]]:
        """Returns the added tokens by name."""
        added = self.content.get("added_tokens") or []
        if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
            raise UserError("damaged: added_tokens is no list of objects")
        for token in added:
            if not isinstance(token.get("content"), str) or not token["content"] or not _is_id(token.get("id")):
                raise UserError("damaged: an added token has no name or no id")
            if any(token.get(key) for key in ("lstrip", "rstrip", "single_word")):
                raise UserError(
                    f"its added token {ascii(token['content'])[:100]} changes the text around it, which is not supported"
                )
        found = {token["content"]: token for token in added}
        if len(found) < len(added):
            raise UserError("damaged: two added tokens have one name")
        return found

    def _read_tokens(self, vocab_size: int | None) -> list[str | None]:
        """Returns the token of each id; None for ids that belong to no token."""
        vocab = self.model.get("vocab")
        if not isinstance(vocab, dict) or not all(map(_is_id, vocab.values())):
            raise UserError("damaged: its vocabulary is no object of tokens and ids")
        for name, token in self.added.items():
            if vocab.setdefault(name, token["id"]) != token["id"]:
                raise UserError(f"damaged: the added token {ascii(name)[:100]} has two ids")
        token_of: dict[int, str | None] = {i: token for token, i in vocab.items()}
        if len(token_of) < len(vocab):
            raise UserError("damaged: two tokens have one id")
        if len(vocab) != max(token_of, default=-1) + 1:
            raise UserError("damaged: ids of its vocabulary are missing")
        if not vocab or len(vocab) > MAX_TOKENS:
            raise UserError(f"damaged: it has no tokens, or more than {MAX_TOKENS}")
        size = len(vocab) if vocab_size is None else min(vocab_size, MAX_TOKENS)
        if size < len(vocab):
            raise UserError(f"it has {len(vocab)} tokens, and the model only {size}")
        # Ids without a token, as `write` names them.
        unused = {i for i, token in token_of.items() if token == f"[PAD{i}]" and token not in self.added}
        return [None if i in unused else token_of.get(i) for i in range(size)]

    def merges(self) -> list[tuple[str, str]]:
        """Returns the merges, which are pairs or, in older files, lines."""
        merges = self.model.get("merges") or []
        if not isinstance(merges, list):
            raise UserError("damaged: its merges are no list")
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        if not all(isinstance(pair, list) and [*map(type, pair)] == [str, str] for pair in pairs):
            raise UserError("damaged: a merge is not two tokens")
        return [(left, right) for left, right in pairs]

    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer of the kind that the parts describe."""
        stages = [self.content.get(key) for key in ("normalizer", "pre_tokenizer")]
        own_end = self.tokens[0] == END_OF_TEXT
        if self.kind == "WordLevel":
            characters = "".join(token or "" for token in self.tokens[1:])
            if stages != [None, CHARACTERS] or not own_end or len(characters) != len(self.tokens) - 1:
                raise UserError("its words are not single characters: only byte-pair encodings are supported")
            return CharTokenizer(characters)
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if self.model.get(key):
                raise UserError(f"its model has {key}, which is not supported")
        if self.model.get("byte_fallback"):
            if stages != [None, None] or not own_end or self.content.get("decoder") != FROM_BYTES:
                raise UserError("it falls back to bytes in a way that is not supported")
            return self._model_of_ours()
        if stages[0] not in (None, {"type": "NFC"}):
            raise UserError(f"its normalizer {json.dumps(stages[0])[:100]} is not supported")
        return self._byte_level(pattern_of_json(stages[1]))

    def _byte_level(self, pattern: str) -> BytesTokenizer:
        special = {name: int(token["id"]) for name, token in self.added.items()}
        begins = self._begins_with()
        add_bos = self.names.get("add_bos_token", begins is not None)
        bos = begins if begins is not None else special.get(self._name("bos_token"))
        return bytes_tokenizer(
            self.tokens,
            self.merges(),
            special,
            [name for name, token in self.added.items() if not token.get("special")],
            pattern,
            eos_id=special.get(self._name("eos_token")),
            bos_id=bos,
            add_bos=add_bos is True and bos is not None,
        )

    def _name(self, key: str) -> str:
        """Returns the name of a token in tokenizer_config.json; "" where it has none."""
        token = self.names.get(key)
        name = token.get("content") if isinstance(token, dict) else token
        return name if isinstance(name, str) else ""

    def _begins_with(self) -> int | None:
        """Returns the id that the post-processor puts in front of a text; None: it puts none."""
        found = self.content.get("post_processor")
        stages = found.get("processors") if isinstance(found, dict) and found.get("type") == "Sequence" else [found]
        for stage in stages if isinstance(stages, list) else []:
            if isinstance(stage, dict) and stage.get("type") == "TemplateProcessing":
                single = stage.get("single")
                first = single[0] if isinstance(single, list) and single else None
                token = first.get("SpecialToken") if isinstance(first, dict) else None
                name = token.get("id") if isinstance(token, dict) else None
                if isinstance(name, str) and name in self.added:
                    return int(self.added[name]["id"])
        return None

    def _model_of_ours(self) -> Tokenizer:
        """Rebuilds the SentencePiece model, or the characters with bytes, that `write` wrote."""
        texts = [token for token in self.tokens if token is not None]
        merges, unknown = self.merges(), self.model.get("unk_token")
        if len(texts) < len(self.tokens):
            raise UserError(f"it has {len(texts)} tokens, and the model {len(self.tokens)}")
        if not {*BYTE_PIECES} <= {*texts}:
            raise UserError("damaged: it lacks some of the 256 bytes")
        characters = "".join(texts[1:-256])
        if unknown is None and not merges and texts[-256:] == BYTE_PIECES and len(characters) == len(texts) - 257:
            return CharTokenizer(characters, byte_fallback=True)
        if not isinstance(unknown, str) or unknown not in texts or unknown in (END_OF_TEXT, *BYTE_PIECES):
            raise UserError("damaged: it has no unknown token")
        if sum(len(text) ** 2 for text in texts) > MAX_WORK or any(MARK in text for text in texts):
            raise UserError("damaged: a token is too long, or holds a U+2581")
        rank_of: dict[str, int] = {}
        for left, right in merges:
            rank_of.setdefault(left + right, len(rank_of))
        fixed = dict.fromkeys(self.added, CONTROL) | dict.fromkeys(BYTE_PIECES, BYTE)
        fixed |= {END_OF_TEXT: CONTROL, unknown: UNKNOWN}
        pieces = [
            Piece(
                text if text in fixed else text.replace(" ", MARK),
                -float(rank_of.get(text, len(rank_of) + i)),
                fixed.get(text, NORMAL),
            )
            for i, text in enumerate(texts)
        ]
        if [*map(tuple, merges_of(pieces))] != merges:
            raise UserError("its merges are not those that this project writes, so that its ids would differ")
        model = write_model(pieces, eos_id=0, bos_id=None, space_prefix=False)
        try_parser(model)
        return BPETokenizer(model)


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_TOKENS
