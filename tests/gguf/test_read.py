"""GGUF files of others, sound, damaged and hostile."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_models import random_model, tokenizer_of

from llm_from_scratch.errors import UserError
from llm_from_scratch.gguf.library import KINDS
from llm_from_scratch.gguf.read import load, load_weights, opened
from llm_from_scratch.gguf.write import export
from llm_from_scratch.tokenizer import CharTokenizer


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS.values()])
def test_every_kind_is_read_as_the_library_reads_it(tmp_path: Path, kind: str) -> None:
    """Blocks of random bytes, since the library quantises to some of these kinds alone."""
    number = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[number]
    rows, columns = 6, 256
    raw = np.random.default_rng(1).integers(0, 60, (rows, columns // block * size), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("first", np.arange(5, dtype=np.float32))
    writer.add_tensor("second", raw, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with opened(tmp_path / "model.gguf") as file:
        assert file.tensor("first").tolist() == [0, 1, 2, 3, 4]
        assert file.infos["second"].shape == (rows, columns)
        assert np.array_equal(file.tensor("second"), gguf.quants.dequantize(raw, number))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], offset: int, kind: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file_of(
    keys: list[bytes], tensors: list[bytes], data: int = 64, counts: tuple[int, int] | None = None, version: int = 3
) -> bytes:
    """A GGUF file by hand, with `data` zero bytes for the tensors."""
    header = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(keys))))
    content = header + b"".join(keys) + b"".join(tensors)
    return content + bytes(-len(content) % 32) + bytes(data)


SOUND = {"keys": [key("a", 4, struct.pack("<I", 7))], "tensors": [tensor("x", (4, 2), 0), tensor("y", (8,), 32)]}
HUGE = struct.pack("<Q", 2**60)
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "big-endian": ({"version": 0x03000000}, "GGUF of version 0x3000000 is not read"),
    "version 1": ({"version": 1}, "GGUF of version 0x1 is not read"),
    "tensors without number": ({"counts": (2**62, 1)}, "damaged: 4611686018427387904 tensors and 1 keys"),
    "keys without number": ({"counts": (2, 2**40)}, "damaged: 2 tensors and 1099511627776 keys"),
    "keys beyond the end": ({"counts": (2, 2000)}, "damaged"),
    "a key twice": ({"keys": [key("a", 0, b"\1")] * 2}, "damaged: the key 'a' comes twice"),
    "a long name": ({"keys": [HUGE]}, "damaged: a text of 1152921504606846976 bytes"),
    "a long text": ({"keys": [key("a", 8, HUGE)]}, "damaged: a text of 1152921504606846976 bytes"),
    "a text beyond the end": ({"keys": [key("a", 8, struct.pack("<Q", 500))]}, "the file ends within its header"),
    "no UTF-8": ({"keys": [key("a", 8, struct.pack("<Q", 1) + b"\xff")]}, "damaged: a text is no UTF-8"),
    "a long array": ({"keys": [key("a", 9, struct.pack("<I", 8) + HUGE)]}, "damaged: an array of 1152921504606846976"),
    "a long array of numbers": ({"keys": [key("a", 9, struct.pack("<IQ", 12, 50))]}, "damaged: an array of 50 values"),
    "arrays of arrays": (
        {"keys": [key("a", 9, struct.pack("<IQ", 9, 1) * 2000)]},
        "an array of arrays, or of the unknown type 9, is not read",
    ),
    "an unknown type": ({"keys": [key("a", 13, b"")]}, "damaged: a value of the unknown type 13"),
    "half a truth": ({"keys": [key("a", 7, b"\2")]}, "damaged: 2 is no truth value"),
    "alignment 0": ({"keys": [key("general.alignment", 4, bytes(4))]}, "damaged: general.alignment=0 is no power"),
    "alignment 48": (
        {"keys": [key("general.alignment", 4, struct.pack("<I", 48))]},
        "damaged: general.alignment=48 is no power",
    ),
    "alignment as text": ({"keys": [key("general.alignment", 8, text("32"))]}, "general.alignment='32' is no power"),
    "one part of several": ({"keys": [key("split.count", 2, b"\3\0")]}, "llama-gguf-split --merge"),
    "a tensor twice": ({"tensors": [tensor("x", (8,), 0), tensor("x", (8,), 32)]}, "the tensor 'x' comes twice"),
    "overlap": ({"tensors": [tensor("x", (16,), 0), tensor("y", (8,), 32)]}, "damaged: tensors overlap"),
    "beyond the end": ({"tensors": [tensor("x", (17,), 0)]}, "cut off: the tensor 'x' does not lie in the file"),
    "an offset beyond the end": ({"tensors": [tensor("x", (1,), 2**63)]}, "the tensor 'x' does not lie in the file"),
    "a product beyond 64 bits": ({"tensors": [tensor("x", (2**40, 2**40), 0)]}, "'x' does not lie in the file"),
    "between the alignments": ({"tensors": [tensor("x", (1,), 4)]}, "the tensor 'x' does not lie in the file"),
    "no dimensions": ({"tensors": [tensor("x", (), 0)]}, "damaged: a tensor of 0 dimensions"),
    "five dimensions": ({"tensors": [tensor("x", (1,) * 5, 0)]}, "damaged: a tensor of 5 dimensions"),
    "a dimension of 0": ({"tensors": [tensor("x", (4, 0), 0)]}, r"damaged: a tensor of shape \(0, 4\)"),
    "half a block": ({"tensors": [tensor("x", (48,), 0, 8)]}, r"damaged: a tensor of shape \(48,\) in blocks of 32"),
    "an unknown kind": ({"tensors": [tensor("x", (4,), 0, 99)]}, "a tensor of the kind 99 is not read"),
}


def test_a_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(file_of(**SOUND))
    with opened(path) as file:
        assert file.metadata == {"a": 7}
        assert {name: info.shape for name, info in file.infos.items()} == {"x": (2, 4), "y": (8,)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    path, (change, message) = tmp_path / "model.gguf", FAULTS[fault]
    path.write_bytes(file_of(**(SOUND | change)))
    with pytest.raises(UserError, match=message) as error, opened(path):
        pass
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 200


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGML" + bytes(60), b"\x80\x02" + bytes(100)])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no GGUF file"), opened(path):
        pass
    with pytest.raises(UserError, match="cannot be read .*: name a .gguf file"), opened(tmp_path / "none.gguf"):
        pass


def test_a_model_that_its_tensors_are_not(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("abc")
    good = random_model("llama", 4)
    path = export(good, tokenizer, tmp_path / "model.gguf", dtype="f32")
    content = path.read_bytes()
    name = b"llama.block_count" + struct.pack("<I", 4)
    at = content.index(name) + len(name)

    def refused(changed: bytes, message: str) -> None:
        path.write_bytes(changed)
        with pytest.raises(UserError, match=message):
            load(path)

    refused(content[:at] + struct.pack("<I", 3) + content[at + 4 :], r"the tensor 'blk\.2\.\w+\.weight' is missing")
    refused(content[:at] + struct.pack("<I", 1) + content[at + 4 :], r"'blk\.1\.\w+\.weight' has no place in this")
    refused(content[:at] + struct.pack("<I", 2**31) + content[at + 4 :], "a larger model than its tensors are")
    refused(content.replace(b"blk.1.ffn_up", b"blk.1.ffn_us"), "'blk.1.ffn_up.weight' is missing")
    for key_name, most in (("feed_forward_length", 96), ("context_length", 256), ("attention.head_count", 4)):
        name = b"llama." + key_name.encode() + struct.pack("<I", 4)
        place = content.index(name) + len(name)
        assert struct.unpack("<I", content[place : place + 4]) == (most,)
        refused(content[:place] + struct.pack("<I", 2**31 - 2) + content[place + 4 :], "damaged|too much memory|divide")


def test_learned_positions_of_a_shorter_context(tmp_path: Path) -> None:
    model = random_model("gpt2", 4)
    path = export(model, CharTokenizer("abc"), tmp_path / "model.gguf", dtype="f32")
    short, *_ = load(path, block_size=16)
    ids = torch.randint(4, (1, 16))
    assert torch.equal(short(ids), model(ids))
    assert short.position_embedding.weight.shape == (16, 64)


CHILD = """
import json, random, resource, sys
from llm_from_scratch.errors import UserError
from llm_from_scratch.gguf.read import load

path, count = sys.argv[1], int(sys.argv[2])
content = open(path, "rb").read()
header = content.index(b"token_embd.weight") + 2500
load(path)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
outcomes = {}
for seed in range(count):
    chance = random.Random(seed)
    changed = bytearray(content)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(min(header, len(changed)))
        kind = chance.randrange(5)
        if kind == 0:
            changed[at] = chance.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            changed[at : at + 8] = chance.choice([2**64 - 1, 2**63, 2**32, 2**31, 2**16, 0]).to_bytes(8, "little")
        elif kind == 3:
            del changed[at : at + chance.randrange(1, 9)]
        else:
            del changed[chance.randrange(1, len(changed)) :]
    open(path, "wb").write(changed)
    try:
        load(path)
        outcome = "loaded"
    except UserError as error:
        outcome = "refused" if "\\n" not in str(error) and len(str(error)) < 1000 else f"long: {error}"
    except BaseException as error:
        outcome = f"{seed}: {type(error).__name__}: {error}"[:300]
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"outcomes": outcomes, "grown": grown}))
"""


@pytest.mark.parametrize(("name", "kind"), [("llama", "gpt2"), ("gpt2", "gpt2")])
def test_a_thousand_mutated_files(tmp_path: Path, name: str, kind: str) -> None:
    """Each is loaded or refused in one line, and none takes more than 300 MB."""
    tokenizer = tokenizer_of(kind, "", tmp_path / "tokenizer")
    model = random_model(name, tokenizer.vocab_size)
    path = export(model, tokenizer, tmp_path / "model.gguf", dtype="q8_0")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), "500"], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert set(found["outcomes"]) <= {"loaded", "refused"}
    assert found["outcomes"]["refused"] > 200
    assert found["grown"] < 300_000  # KB


def test_the_weights_alone(tmp_path: Path) -> None:
    model = random_model("qwen3", 4)
    path = export(model, CharTokenizer("abc"), tmp_path / "model.gguf", dtype="f32")
    with opened(path) as file:
        assert torch.equal(load_weights(file).blocks[1].feed_forward.up.weight, model.blocks[1].feed_forward.up.weight)
