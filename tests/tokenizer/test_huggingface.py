"""Our files in transformers give our ids, and a stranger's files give its ids or one line."""

import json
import random
import resource
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import smollm2
from byte_level import EOT, TEXT, learn, stranger
from conftest import story
from small_corpora import PROSE_AND_CODE
from tokenizer_strings import ODD, strings

from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer import BPETokenizer, BytesTokenizer, CharTokenizer, Tokenizer, open_gpt2
from llm_from_scratch.tokenizer.gguf import from_gguf
from llm_from_scratch.tokenizer.huggingface import read, write
from llm_from_scratch.tokenizer.patterns import PATTERNS

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

OURS = ("char", "bpe", "gpt2", "smollm")  # for the long texts
KINDS = ("char", "char with bytes", "bpe", "gpt2", "smollm", "qwen2", "llama3")


def made(kind: str, folder: Path) -> Tokenizer:
    text = TEXT + PROSE_AND_CODE + "".join(ODD)
    if kind.startswith("char"):
        return CharTokenizer.train([text], ["猫狗鳥"] if kind == "char with bytes" else [])
    if kind == "bpe":
        return BPETokenizer.train([text], 700)
    if kind == "gpt2":
        return open_gpt2(str(learn(folder / "gpt2")))
    return read(stranger(kind, folder / kind))


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any, Path]:
    """A tokenizer, what transformers makes of its files, and their folder."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = made(request.param, folder)
    write(tokenizer, folder / "export")
    return tokenizer, transformers.AutoTokenizer.from_pretrained(folder / "export"), folder / "export"


def texts(count: int, tokenizer: Tokenizer, seed: int = 0) -> Iterator[str]:
    """Fuzzed strings of the characters that the tokenizer has ids for."""
    for text in strings(count, seed):
        if isinstance(tokenizer, CharTokenizer) and not tokenizer.byte_fallback:
            yield "".join(c for c in text if c in tokenizer.characters)
        elif isinstance(tokenizer, BytesTokenizer):
            yield "".join(c for c in text if not c.encode().translate(None, tokenizer._known))
        else:
            yield text


def same(tokenizer: Tokenizer, other: Any, text: str) -> bool:
    ids = tokenizer.encode(text)
    return other.encode(text, add_special_tokens=False) == ids and other.decode(ids) == text == tokenizer.decode(ids)


def test_transformers_gives_the_same_ids_and_text(pair: tuple[Tokenizer, Any, Path]) -> None:
    tokenizer, other, _ = pair
    assert len(other) == tokenizer.vocab_size
    assert [text for text in texts(2000, tokenizer) if not same(tokenizer, other, text)] == []
    assert same(tokenizer, other, TEXT)


@pytest.mark.slow
def test_transformers_gives_the_same_ids_of_fifty_thousand_strings(pair: tuple[Tokenizer, Any, Path]) -> None:
    tokenizer, other, _ = pair
    assert [text for text in texts(50_000, tokenizer, 1) if not same(tokenizer, other, text)] == []


@pytest.mark.parametrize("pair", OURS, indirect=True)
@pytest.mark.parametrize("name", ["oz/wizard_of_oz.txt", pytest.param("shakespeare/input.txt", marks=pytest.mark.slow)])
def test_books_have_the_same_ids(pair: tuple[Tokenizer, Any, Path], name: str, corpora: Path) -> None:
    tokenizer, other, _ = pair
    text = (corpora / name).read_text(encoding="utf-8")
    if isinstance(tokenizer, CharTokenizer):
        text = "".join(c for c in text if c in tokenizer.characters)
    if isinstance(tokenizer, BytesTokenizer):
        text = "".join(c for c in text if not c.encode().translate(None, tokenizer._known))
    assert same(tokenizer, other, text)


@pytest.mark.slow
@pytest.mark.parametrize("pair", OURS, indirect=True)
def test_a_megabyte_of_code_has_the_same_ids(pair: tuple[Tokenizer, Any, Path]) -> None:
    tokenizer, other, _ = pair
    size = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        if isinstance(tokenizer, CharTokenizer):
            text = "".join(c for c in text if c in tokenizer.characters)
        if isinstance(tokenizer, BytesTokenizer):
            text = "".join(c for c in text if not c.encode().translate(None, tokenizer._known))
        assert same(tokenizer, other, text)
        size += len(text)
        if size > 1_000_000:
            break
    assert size > 1_000_000


def test_what_is_written_is_read_again(pair: tuple[Tokenizer, Any, Path]) -> None:
    tokenizer, _, folder = pair
    again = read(folder)
    assert (again.vocab_size, again.eot_id, again.special) == (
        tokenizer.vocab_size,
        tokenizer.eot_id,
        tokenizer.special,
    )
    if isinstance(tokenizer, CharTokenizer | BytesTokenizer):
        assert again.fingerprint == tokenizer.fingerprint
    for text in [TEXT, *texts(300, tokenizer, 2)]:
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_strangers_byte_level_bpe_has_the_ids_of_the_library(pattern: str, tmp_path: Path) -> None:
    tokenizer = read(stranger(pattern, tmp_path))
    assert isinstance(tokenizer, BytesTokenizer)
    assert (tokenizer.eot_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos) == (0, 1, 2, False)
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    other.encode_special_tokens = True
    assert len(tokenizer._known) < 256
    for text in [TEXT, *texts(3000, tokenizer, 3)]:
        assert tokenizer.encode(text) == other.encode(text, add_special_tokens=False).ids
    with pytest.raises(UserError, match=r"no token for the character '\\x04' \(U\+0004\) at index 2"):
        tokenizer.encode("a \x04")


def test_smollm2_through_its_export(tmp_path: Path) -> None:
    tokenizer = from_gguf(**smollm2.parts())
    write(tokenizer, tmp_path, chat_template=smollm2.metadata()["tokenizer.chat_template"])
    assert read(tmp_path).fingerprint == tokenizer.fingerprint
    other = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    assert other.apply_chat_template(messages, tokenize=False).startswith("<|im_start|>system\nYou are a helpful AI")
    other.split_special_tokens = True
    for text in texts(1000, tokenizer, 4):
        assert other.encode(text, add_special_tokens=False) == tokenizer.encode(text)


def test_the_files_say_what_transformers_needs(tmp_path: Path) -> None:
    write(BPETokenizer.train([TEXT], 400), tmp_path / "base")
    settings = json.loads((tmp_path / "base/tokenizer_config.json").read_bytes())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["clean_up_tokenization_spaces"] is False
    assert settings["split_special_tokens"] is True
    assert (settings["bos_token"], settings["eos_token"], settings["unk_token"]) == (EOT, EOT, "<unk>")
    write(CharTokenizer("ab"), tmp_path / "chat", chat_template="{{ messages }}")
    assert json.loads((tmp_path / "chat/tokenizer_config.json").read_bytes())["split_special_tokens"] is False
    assert (tmp_path / "chat/chat_template.jinja").read_bytes() == b"{{ messages }}"


def test_ids_beyond_the_last_token_are_no_ones(tmp_path: Path) -> None:
    """The embedding of Qwen2 has more rows than its tokenizer has tokens."""
    size = read(stranger("qwen2", tmp_path)).vocab_size
    tokenizer = read(tmp_path, size + 5)
    assert tokenizer.vocab_size == size + 5
    assert tokenizer.decode([size + 4]) == ""
    assert tokenizer.encode(TEXT) == read(tmp_path).encode(TEXT)
    with pytest.raises(UserError, match=f"it has {size} tokens, and the model only {size - 1}"):
        read(tmp_path, size - 1)
    write(tokenizer, tmp_path / "export")
    assert read(tmp_path / "export").fingerprint == tokenizer.fingerprint


def test_a_token_in_front_of_every_text_is_known(tmp_path: Path) -> None:
    stranger("llama3", tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_bytes())
    single = [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}
    template = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    content["post_processor"] = {"type": "Sequence", "processors": [byte_level, template]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = read(tmp_path)
    assert isinstance(tokenizer, BytesTokenizer)
    assert (tokenizer.bos_id, tokenizer.add_bos) == (1, True)
    write(tokenizer, tmp_path / "export")
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    assert other.encode("a b") == [1, *tokenizer.encode("a b")]


def test_a_model_of_sentencepiece_is_read_as_it_is(tmp_path: Path) -> None:
    tokenizer = BPETokenizer.train([TEXT], 400)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model)
    assert read(tmp_path).fingerprint == tokenizer.fingerprint
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    model = {"type": "BPE", "vocab": {}, "merges": [], "byte_fallback": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model, "pre_tokenizer": metaspace}))
    assert read(tmp_path).fingerprint == tokenizer.fingerprint
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json: it is SentencePiece's, of which the tokenizer\.model"):
        read(tmp_path)


def change(content: dict[str, Any], place: str, value: object) -> bytes:
    *way, last = place.split(".")
    inner: Any = content
    for key in way:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[int(last) if isinstance(inner, list) else last] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("model", None, "no model"),
        ("model.type", "Unigram", "its model is 'Unigram'"),
        ("model.vocab", [], "no object of tokens and ids"),
        ("model.vocab.Ġt", 2**70, "no object of tokens and ids"),
        ("model.vocab.Ġt", 3, "two tokens have one id"),
        ("model.vocab.Ġt", 10_000, "ids of its vocabulary are missing"),
        ("model.merges", ["a"], "a merge is not two tokens"),
        ("model.merges", [["a", "zzz"]], "merge 0 joins or makes what is no token"),
        ("model.merges", [], "no merge makes the token"),
        ("model.dropout", 0.1, "its model has dropout"),
        ("model.continuing_subword_prefix", "##", "continuing_subword_prefix"),
        ("normalizer", {"type": "Lowercase"}, "its normalizer .* is not supported"),
        ("pre_tokenizer", None, "the pre-tokenizer null is none of those known"),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}}, "is none of those known"),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}, "is none of those known"),
        ("added_tokens", [{"id": 1}], "no name or no id"),
        ("added_tokens.0.id", 7, "has two ids"),
        ("added_tokens.1.lstrip", True, "changes the text around it"),
        ("added_tokens.1.special", False, None),
        ("added_tokens", [], "no end-of-text token"),
        ("normalizer", {"type": "NFC"}, None),
    ],
)
def test_a_strangers_file_is_read_or_refused_in_one_line(
    place: str, value: object, message: str | None, tmp_path: Path
) -> None:
    content = json.loads((stranger("gpt2", tmp_path) / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer.json").write_bytes(change(content, place, value))
    if message is None:
        assert read(tmp_path).encode("the") == read(stranger("gpt2", tmp_path / "other")).encode("the")
        return
    with pytest.raises(UserError, match=rf"tokenizer\.json: .*{message}") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "damaged"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "damaged"),
        (b'{"model": ' + b"[" * 900 + b"]" * 900 + b"}", "damaged: it has no model"),
        (b"[" + b"0," * 5_000_000 + b"0]", "too many entries"),
        (b"[" * 5_000_000, "too many entries"),
        (b'{"model": {"vocab": {"\\ud800": 0}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}}', "."),
        (b"\xff", "damaged"),
        (b"null", "no JSON object"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_an_added_token_that_is_a_word_is_refused(tmp_path: Path) -> None:
    """Phi-2 has runs of spaces as added tokens, which its tokenizer looks for in every text."""
    content = json.loads((stranger("gpt2", tmp_path) / "tokenizer.json").read_bytes())
    content["added_tokens"].append(
        content["added_tokens"][0] | {"id": len(content["model"]["vocab"]), "content": "    ", "special": False}
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="its added token '    ' is text like any other"):
        read(tmp_path)


def test_a_run_folders_tokenizer_is_told_apart(tmp_path: Path) -> None:
    CharTokenizer("ab").save(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.json: it is the tokenizer of a run of this project"):
        read(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it has no tokenizer\.json, tokenizer\.model or vocab\.json"):
        read(tmp_path)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value; of a long list or object, the first and the last ones."""
    yield at
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in [*keys[:40], *keys[40:][-40:]]:
        yield from places(value[key], (*at, key))


def test_a_thousand_changed_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    chance = random.Random(5)
    originals = [
        json.loads((stranger("smollm", tmp_path / "one") / "tokenizer.json").read_bytes()),
        *(json.loads((tmp_path / name / "tokenizer.json").read_bytes()) for name in export_two(tmp_path)),
    ]
    found = [[place for place in places(content) if place] for content in originals]
    values: list[Any] = [None, True, 0, -1, 1.5, 2**70, "", "a", "Ġ", "\ud800", [], {}, ["a", "b"], [["a", "a"]]]
    values += [{"type": "ByteLevel"}, {"Regex": "("}, "▁", "x" * 3000, EOT, "<0x41>", "BPE", "WordLevel"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / "changed").mkdir()
    messages = []
    for number in range(1000):
        which = number % len(originals)
        content = json.loads(json.dumps(originals[which]))
        for _ in range(chance.randrange(1, 3)):
            *way, last = chance.choice(found[which])
            inner = content
            try:
                for key in way:
                    inner = inner[key]
                inner[last] = chance.choice(values)
            except (KeyError, IndexError, TypeError):  # the first change took the place of the second
                continue
        (tmp_path / "changed/tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        try:
            read(tmp_path / "changed").encode("the cat")
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 500
    assert all("\n" not in message and len(message) < 500 for message in messages)
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def export_two(folder: Path) -> list[str]:
    write(BPETokenizer.train([story(5000)], 330), folder / "bpe")
    write(CharTokenizer.train([story(5000)]), folder / "char")
    return ["bpe", "char"]
