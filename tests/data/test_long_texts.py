"""Kind 18 of the faults: a text that is read in pieces gives the bytes of the same text as a whole,
in memory that does not grow.
"""

import hashlib
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from conftest import story
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_from_scratch.config import DataConfig, TokenizerConfig
from llm_from_scratch.data import documents, long_texts, prepare, tasks
from llm_from_scratch.data.clean import clean
from llm_from_scratch.data.documents import is_validation
from llm_from_scratch.data.long_texts import encode_pieces, open_long, read_pieces
from llm_from_scratch.data.streams import ChangedFileError
from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer import BPETokenizer, GPT2Tokenizer, SentencePieceTokenizer, Tokenizer
from llm_from_scratch.tokenizer.gguf import from_gguf
from llm_from_scratch.tokenizer.patterns import PATTERNS

BLOCK = 2**14  # characters: what a tokenizer learns from at a time
KINDS = {"char": TokenizerConfig(kind="char", vocab_size=None), "bpe": TokenizerConfig(vocab_size=300)}


def odd_text(seed: int, size: int = 20_000) -> str:
    """Everything that a cut could go wrong at: marks, line ends, long lines, runs of white space,
    signs of four bytes.
    """
    chance = random.Random(seed)
    parts = [
        "e\u0301",
        "e",
        "\u0301\u0323",
        "\r\n",
        "\r",
        "\n",
        "\n\n",
        " ",
        "  \n ",
        "▁",
        "猫",
        "🦁",
        "\u212b",
        "\ufeff",
        "word ",
        "a",
    ]
    text = "".join(chance.choices(parts, k=size))
    return f"\ufeff{text}{'x' * 20_000}\n{story(3_000, seed=seed)}{'猫' * 17_000}{text[:500]}"


@pytest.fixture
def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (long_texts, documents, tasks):
        monkeypatch.setattr(module, "LONG", 1)
    monkeypatch.setattr(long_texts, "PIECE", BLOCK)


def prepared(folder: Path, texts: list[str], kind: str, **settings: object) -> dict[str, bytes]:
    (folder / "own").mkdir(parents=True)
    for i, text in enumerate(texts):
        (folder / f"own/{i:02}.txt").write_bytes(text.encode())
    data = DataConfig(name="text", path=str(folder / "own"), dir=str(folder / "data"), **settings)  # type: ignore[arg-type]
    made = prepare.prepare(data, KINDS[kind]).folder
    return {str(path.relative_to(folder)): path.read_bytes() for path in made.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("count", "more"),
    [
        (1, {}),
        (2, {"stream": "text"}),
        (20, {"val_fraction": 0.4, "keep_text": False, "dedup": "exact"}),
    ],
)
def test_a_text_in_pieces_gives_the_same_bytes(
    kind: str, count: int, more: dict[str, object], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # The validation split needs the characters of the training split alone.
    texts = [f"{odd_text(i)}\n{odd_text(i)}" for i in range(min(count, 2))]
    if count == 20:
        assert not is_validation("00.txt", 0.4)
        assert is_validation("01.txt", 0.4)
        texts = [texts[0], texts[0][:30_000], *(f"words {'ab' * i}" for i in range(18))]
    whole = prepared(tmp_path / "whole", texts, kind, **more)
    request.getfixturevalue("in_small_pieces")
    assert prepared(tmp_path / "pieces", texts, kind, **more) == whole


@pytest.mark.usefixtures("in_small_pieces")
def test_the_clean_text_and_its_report_are_those_of_the_whole(tmp_path: Path) -> None:
    for i, text in enumerate(
        [*map(odd_text, range(3)), "", "\ufeff\ufeff", "a" * 100_000, "猫" * 50_000, "\r" * 40_000]
    ):
        path = tmp_path / f"{i}.txt"
        path.write_bytes(text.encode())
        found = open_long(path, path.name, "", lambda count: None)
        assert found is not None
        expected, report = clean(text.encode(), path.name)
        pieces = list(found.pieces())
        assert "".join(pieces) == expected
        assert [len(piece) for piece in pieces[:-1]] == [BLOCK] * (len(pieces) - 1)
        assert (len(found), found.size, found.cleaned) == (len(expected), len(expected.encode()), report)
        with path.open("rb") as file:
            raw = text.encode()
            assert "".join(read_pieces(file, len(raw))) == text


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize("sign", ["Project Gutenberg", "small print!"])
def test_boilerplate_is_looked_for_in_the_whole(sign: str, tmp_path: Path) -> None:
    for i in range(8):  # at every place of a border
        path = tmp_path / "a.txt"
        path.write_text("a" * (BLOCK - 2 * i - 1) + sign + "a" * 100)
        assert open_long(path, "a.txt", "", lambda count: None) is None


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize("bad", [b"\xff", b"\0", b"\xc3"])
def test_a_bad_byte_is_named_by_its_place_in_the_file(bad: bytes, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.txt").write_bytes(b"a" * 50_000 + bad + b"a" * 50_000)
    data = DataConfig(name="text", path=str(tmp_path / "own"), dir=str(tmp_path / "data"))
    with pytest.raises(ValueError, match=r"^a\.txt: byte 50000: "):
        prepare.prepare(data, KINDS["char"])


# --------------------------------------------------------------------------------------- tokenizers
def gpt2() -> Tokenizer:
    """All bytes, and pieces of white space that a cut in the wrong place would break."""
    pytest.importorskip("tiktoken")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(byte for byte in range(256) if byte not in letters)}
    pairs = ["\n\n", "  ", " a", "  \n", "\n\n\n", "wo", "'s"]
    tokens = [*letters.values(), *("".join(letters[byte] for byte in pair.encode()) for pair in pairs), "<|endoftext|>"]
    return GPT2Tokenizer(json.dumps({token: i for i, token in enumerate(tokens)}).encode(), b"")


def other_bytes(pattern: str) -> Tokenizer:
    """The same with the pre-tokenizer of another model."""
    found = gpt2()
    assert isinstance(found, GPT2Tokenizer)
    tokens = found.tokens()
    merges = [f"{token[:-1]} {token[-1]}" for token in tokens[256:-1]]
    types, end = [1] * 263 + [3], {"eos": 263}
    return from_gguf(tokens, types, [], merges, "gpt2", PATTERNS[pattern].names[0], end, {})


@pytest.fixture(scope="module", params=["bpe", "gpt2", *list(PATTERNS)[1:]])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param in PATTERNS:
        return gpt2() if request.param == "gpt2" else other_bytes(request.param)
    return BPETokenizer.train([odd_text(1, 2000), story(20_000)], 500)


PARTS = st.sampled_from(
    [
        *("\n", "\n\n", " ", "  ", " \n", "\r", "\t", "\x85", "\x1c", "\u2028", "a", "word", "▁", "'s", "'", "é", "1"),
        *("!", "!\n", "猫", "，", "。", "a，", "猫。", "x" * 9000, "猫" * 9000),
    ]
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(PARTS, max_size=6), max_size=6))
def test_ids_of_pieces_are_those_of_the_whole(tokenizer: Tokenizer, parts: list[list[str]]) -> None:
    pieces = ["".join(part) for part in parts]
    found = [array.tolist() for array in encode_pieces(iter(pieces), tokenizer)]
    assert [i for ids in found for i in ids] == tokenizer.encode("".join(pieces))


def test_a_long_text_is_encoded_in_many_pieces(tokenizer: Tokenizer) -> None:
    text = story(200_000).replace(". ", ".\n")
    arrays = list(encode_pieces((text[i : i + 10_000] for i in range(0, len(text), 10_000)), tokenizer))
    assert len(arrays) > 10
    assert np.concatenate(arrays).tolist() == tokenizer.encode(text)


def test_anothers_sentencepiece_encodes_a_text_as_a_whole() -> None:
    """It puts a space in front of each text that it is given."""
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(story(20_000).splitlines()),
        model_writer=content,
        vocab_size=300,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = SentencePieceTokenizer(content.getvalue())
    text = story(30_000)
    arrays = list(encode_pieces((text[i : i + 1000] for i in range(0, len(text), 1000)), tokenizer))
    assert np.concatenate(arrays).tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("word", ["word ", "x", "猫，", "no line end, anywhere. "])
def test_a_text_without_line_ends_is_encoded_in_pieces(word: str, tokenizer: Tokenizer) -> None:
    if word == "x":
        pytest.skip("one word without end has no place to be cut")
    text = word * (2**18 // len(word))
    arrays = list(encode_pieces((text[i : i + BLOCK] for i in range(0, len(text), BLOCK)), tokenizer))
    assert len(arrays) > 10
    assert np.concatenate(arrays).tolist() == tokenizer.encode(text)


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize("changed", [b"A", b"\xff", b"\xe9"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_file_that_changes_between_its_two_readings_is_refused(changed: bytes, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 50_000)
    found = open_long(path, "a.txt", "", lambda count: None, encoding)
    assert found is not None
    assert "".join(found.pieces()) == "a" * 50_000
    path.write_bytes(b"a" * 40_000 + changed + b"a" * 9_999)
    with pytest.raises(ChangedFileError, match=r"a\.txt: it was changed while it was read: start again"):
        list(found.pieces())
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*a\.txt: No such file"):
        list(found.pieces())


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig", "utf-7"])
def test_a_long_text_in_another_encoding_is_read_in_pieces(encoding: str, tmp_path: Path) -> None:
    text = f"{'é' * 30_000}\r\n{story(40_000)}"
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    found = open_long(tmp_path / "a.txt", "a.txt", "", lambda count: None, encoding)
    assert found is not None
    expected, report = clean(text.encode(), "a.txt")
    assert ("".join(found.pieces()), found.cleaned) == (expected, report)


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize(("raw", "encoding"), [(b"a\x81" * 20_000, "cp1252"), ("é".encode() * 30_000, "latin-1")])
def test_a_fault_of_the_encoding_is_looked_for_in_the_whole(raw: bytes, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(raw)
    assert open_long(tmp_path / "a.txt", "a.txt", "", lambda count: None, encoding) is None


@pytest.mark.usefixtures("in_small_pieces")
def test_a_chinese_text_is_read_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("猫与狗" * 40_000, encoding="utf-8")
    found = open_long(tmp_path / "a.txt", "a.txt", "", lambda count: None)
    assert found is not None
    assert max(map(len, found._pieces_of_utf8(hashlib.sha256()))) <= 2 * BLOCK


# ------------------------------------------------------------------------------------------- memory
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
@pytest.mark.parametrize("more", [{}, {"encoding": "latin-1"}, {"separator": "<|endoftext|>"}], ids=str)
def test_memory_does_not_grow_with_a_file(more: dict[str, str], tmp_path: Path) -> None:
    code = """
import json, resource, sys
from llm_from_scratch.config import DataConfig, TokenizerConfig
from llm_from_scratch.data.prepare import prepare
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = DataConfig(name="text", path=sys.argv[1], dir=sys.argv[2], **json.loads(sys.argv[3]))
prepare(data, TokenizerConfig(kind="char", vocab_size=None))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    book = story(1_000_000) + "“é”🦁\n"
    raw = book.encode("latin-1", "ignore") if "encoding" in more else book.encode() + b"<|endoftext|>"
    (tmp_path / "big.txt").write_bytes(raw * 60)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "big.txt"), str(tmp_path / "data"), json.dumps(more)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150_000  # KiB; as one text it took 800 MB
