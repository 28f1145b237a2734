"""Learning and loading any tokenizer: what was saved comes back, and a damaged file is named in one
line.
"""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from small_corpora import PROSE_AND_CODE as TEXT

from llm_from_scratch.tokenizer import BPETokenizer, CharTokenizer, load_tokenizer, train_tokenizer
from llm_from_scratch.tokenizer import bpe as bpe_module


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train([TEXT], 400)


@pytest.mark.parametrize("tokenizer", [CharTokenizer("abc"), BPETokenizer.train(["abc"], 300)])
def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"lone surrogate, U\+D800 at index 1"):
        tokenizer.encode("a\ud800")
    with pytest.raises(ValueError, match="lone surrogate"):
        train_tokenizer(
            "bpe" if tokenizer.kind == "bpe" else "char", ["a\ud800"], 300 if tokenizer.kind == "bpe" else None
        )


@pytest.mark.parametrize(("kind", "held_out"), [("char", []), ("char", ["\U0001f600"]), ("bpe", [])])
def test_saved_and_loaded_it_is_the_same(kind, held_out, tmp_path):
    tokenizer = train_tokenizer(kind, [TEXT + "\u2028\x85\x00"], 350 if kind == "bpe" else None, held_out)
    tokenizer.save(tmp_path / "model")
    loaded = load_tokenizer(tmp_path / "model")
    for other in (loaded, pickle.loads(pickle.dumps(tokenizer))):
        assert other.encode(TEXT) == tokenizer.encode(TEXT)
        assert other.fingerprint == tokenizer.fingerprint
    saved = json.loads((tmp_path / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    assert saved["kind"] == kind
    assert saved["vocab_size"] == tokenizer.vocab_size
    assert saved["eot_id"] == tokenizer.eot_id
    assert saved["fingerprint"] == tokenizer.fingerprint
    if kind == "bpe":
        model = (tmp_path / "model" / "tokenizer.model").read_bytes()
        assert hashlib.sha256(model).hexdigest() == tokenizer.fingerprint


def test_a_fingerprint_tells_mappings_apart(bpe):
    assert CharTokenizer("ab").fingerprint != CharTokenizer("abc").fingerprint
    assert BPETokenizer.train([TEXT], 399).fingerprint != bpe.fingerprint


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xff",
        b"[" * 10**6,
        b"null",
        b"{}",
        b'{"kind": "char"}',
        b'{"kind": "char", "characters": ["a"]}',
        b'{"kind": "char", "characters": "ba"}',
        b'{"kind": "char", "characters": "\\ud800"}',
        b'{"kind": "char", "characters": "ab", "vocab_size": 3, "eot_id": 0, "fingerprint": "0"}',
        b'{"kind": "char", "characters": "ab", "byte_fallback": 1}',
        b'{"kind": "char", "characters": "ab", "byte_fallback": true, "vocab_size": 3, "eot_id": 0, "fingerprint": "0"}',
        b'{"kind": ["bpe"]}',
        b'{"kind": "char", "characters": "ab", "vocab_size": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_damaged_json_is_named(content, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json: damaged") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("damage", [lambda m: m[:-1], lambda m: b"", lambda m: m[:100] + b"\xff" + m[101:]])
def test_a_damaged_model_is_named_and_not_parsed(bpe, damage, tmp_path, monkeypatch):
    bpe.save(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(damage(bpe.model))
    monkeypatch.setattr(sentencepiece, "SentencePieceProcessor", lambda **_: pytest.fail("the parser saw it"))
    with pytest.raises(ValueError, match=r"tokenizer\.model: damaged"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("model", [b"", b"junk" * 100])
def test_a_model_that_is_none_but_has_the_right_checksum_is_refused(model, tmp_path):
    saved = {"kind": "bpe", "fingerprint": hashlib.sha256(model).hexdigest()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")
    (tmp_path / "tokenizer.model").write_bytes(model)
    with pytest.raises(ValueError, match=r"tokenizer\.model: damaged"):
        load_tokenizer(tmp_path)


def test_a_missing_file_is_named(bpe, tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.json: No such file"):
        load_tokenizer(tmp_path)
    bpe.save(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.model: No such file"):
        load_tokenizer(tmp_path)


def test_settings_that_make_no_sense_are_refused():
    for kind, size, message in [
        ("char", 100, "leave it null"),
        ("bpe", None, "1024"),
        ("gpt3", 10, "char, bpe or gpt2"),
    ]:
        with pytest.raises(ValueError, match=message):
            train_tokenizer(kind, ["abc"], size)


@pytest.mark.parametrize(
    ("parser", "words"),
    [
        ("import os; os.abort()", "it crashed, status -6" if os.name == "posix" else "it crashed"),
        ("raise RuntimeError('not mine')", "RuntimeError: not mine"),
    ],
)
def test_a_model_on_which_the_native_parser_crashes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parser: str, words: str
) -> None:
    BPETokenizer.train(["What a pretty story it was, said the Lion. " * 20], 300).save(tmp_path)
    bpe_module.try_parser.cache_clear()
    monkeypatch.setattr(bpe_module, "_PARSE", parser)
    for _ in range(2):  # tried again, and refused again
        with pytest.raises(ValueError, match=rf"tokenizer\.model: damaged: .*{words}"):
            load_tokenizer(tmp_path)
    monkeypatch.undo()
    load_tokenizer(tmp_path)


def test_a_process_tries_the_parser_once_on_the_same_model(
    bpe: BPETokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[bytes] = []
    original = bpe_module.subprocess.run

    def counted(command: list[str], *, input: bytes, **settings: Any) -> Any:
        tried.append(input)
        return original(command, input=input, **settings)

    monkeypatch.setattr(bpe_module.subprocess, "run", counted)
    bpe_module.try_parser.cache_clear()
    other = BPETokenizer.train([TEXT], 399)
    for name, tokenizer in (("run", bpe), ("prepared", bpe), ("other", other)):
        tokenizer.save(tmp_path / name)
        load_tokenizer(tmp_path / name)
    assert tried == [bpe.model, other.model]
