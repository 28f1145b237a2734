"""Files that a stranger could hand over, a thousand mutated ones of each kind: success or one line,
soon and in little memory.

Each kind has a process of its own, whose program is this file: a native parser that crashes, a loop
without end or a header that asks for terabytes ends that process, and the test says at which input.
`python tests/test_fuzz.py KIND FOLDER 17 18` runs input 17 alone.
"""

import gzip
import hashlib
import io
import json
import lzma
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import as_version_0_1

INPUTS = 1000  # of each kind
FIRST = 200  # of them, which `make test` reads; `make slow` reads the others
CPU_SECONDS = 1.0  # for one input
MEMORY = 512 * 2**20  # bytes of address space beyond what the imports take
Read = Callable[[Path], object]
Seal = Callable[[Path], None]

# ---------------------------------------------------------------------------------------- mutations
NUMBERS = (0, -1, 1, 2, 7, 255, 65_537, 2**31, 2**32 - 1, 2**53 + 1, 2**63, 2**64, 2**70, -(2**63), 0.5, 1e300, -0.0)
WORDS = (
    "",
    "\n",
    "a\nb",
    "\0",
    "\ud800",
    "x" * 5000,
    "../../x",
    "é",
    "NaN",
    "${x}",
    "${oc.env:HOME}",
    "???",
    "F64",
    "<u4",
)
# Python's json reads NaN and Infinity; the others are what a reader may choke on.
RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "[" * 100_000,
    '{"a":' * 50_000,
    "[" * 900 + "]" * 900,
    "",
    "\x00",
    '"\\ud800"',
)
MARK = "a mark that stands in no file"


def hostile_bytes(rng: random.Random, good: bytes) -> bytes:
    """Flips, cuts, doublings, and blocks put in, out or over."""
    raw = bytearray(good)
    for _ in range(rng.choice((1, 1, 2, 5))):
        start = rng.randrange(len(raw) + 1)
        end = min(len(raw), start + rng.choice((1, 2, 8, 64, 1000)))
        match rng.randrange(7):
            case 0 if raw:
                raw[start % len(raw)] ^= 1 << rng.randrange(8)
            case 1:
                del raw[start:]
            case 2:
                del raw[start:end]
            case 3:
                raw[start:start] = raw[start:end] * rng.choice((1, 2, 50))
            case 4:
                raw[start:end] = rng.randbytes(end - start)
            case 5:
                raw[start:end] = rng.choice((b"\0", b"\xff", b"\x80")) * (end - start)
            case _:
                raw[start:start] = rng.choice((b"\xff" * 8, b"\0" * 8, b"[" * 5000, b"\n", b"{}", rng.randbytes(16)))
    return bytes(raw)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    found: list[tuple[Any, Any]] = []
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            found += [(tree, key), *places(tree[key])]
    return found


def hostile_tree(rng: random.Random, tree: Any) -> tuple[Any, str]:
    """Values of other types and sizes, swapped, lost and added keys; text to be put raw where MARK
    stands.
    """
    tree, raw = json.loads(json.dumps(tree)), ""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        where = places(tree)
        if not where:
            return rng.choice((None, 3, "x", [], {})), raw
        container, key = rng.choice(where)
        match rng.randrange(8):
            case 0 | 1:
                container[key] = rng.choice(NUMBERS)
            case 2:
                container[key] = rng.choice(WORDS)
            case 3:
                container[key] = rng.choice(
                    (None, True, [], {}, [[]], [1, "a", None], {"": 0}, {"__tensor__": "x"}, {"__items__": [[[], 1]]})
                )
            case 4:
                container[key] = json.loads(json.dumps(rng.choice(where)[0]))
            case 5:
                del container[key]
            case 6 if isinstance(container, dict):
                container[rng.choice(WORDS)] = container[key]
            case _:
                container[key] = MARK
                raw = rng.choice(RAW)
    return tree, raw


def hostile_json(rng: random.Random, good: bytes) -> bytes:
    """JSON that parses more often than not; else anything."""
    if rng.random() < 0.25:
        return hostile_bytes(rng, good)
    tree, raw = hostile_tree(rng, json.loads(good))
    return json.dumps(tree).replace(f'"{MARK}"', raw).encode()


def hostile_safetensors(rng: random.Random, good: bytes) -> bytes:
    """Headers that lie about their length, and tensors that lie about place, shape and type."""
    length = int.from_bytes(good[:8], "little")
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]
    tensors = [name for name in header if name != "__metadata__"]
    others_place = header[tensors[0]]["data_offsets"]
    match rng.randrange(6):
        case 0:
            return hostile_bytes(rng, good)
        case 1:
            fake = rng.choice((0, 1, length - 1, length + 1, len(good), 10**8, 2**31, 2**40, 2**63, 2**64 - 1))
            return fake.to_bytes(8, "little") + good[8:]
        case 2:
            text = hostile_json(rng, good[8 : 8 + length])
        case _:
            for name in rng.sample(tensors, rng.randint(1, min(3, len(tensors)))):
                if (facts := header.get(name)) is None:
                    continue  # an earlier one took its name
                match rng.randrange(5):
                    case 0:
                        facts["data_offsets"] = rng.choice(
                            (
                                [0, len(body)],
                                [len(body), 0],
                                [0, 2**62],
                                [-8, 0],
                                [2**63, 2**64 - 1],
                                [0],
                                [0, 0],
                                others_place,
                            )
                        )
                    case 1:
                        facts["shape"] = rng.choice(
                            (
                                [],
                                [0],
                                [2**62, 4],
                                [2**63, 2],
                                [-1],
                                [0, 2**63],
                                facts["shape"][::-1],
                                [*facts["shape"], 1],
                                [1] * 2000,
                            )
                        )
                    case 2:
                        facts["dtype"] = rng.choice(
                            (
                                "F64",
                                "F16",
                                "BF16",
                                "I64",
                                "U8",
                                "BOOL",
                                "F8_E4M3",
                                "F8_E8M0",
                                "F4",
                                "U64",
                                "C64",
                                "F6_E2M3",
                                "?",
                            )
                        )
                    case 3:
                        header[rng.choice(("x", "", "é\n", *tensors))] = header.pop(name)
                    case _:
                        facts["dtype"], facts["shape"] = rng.choice(
                            (
                                ("F16", [2 * n for n in facts["shape"][:1]] + facts["shape"][1:]),
                                ("U8", [4, *facts["shape"]]),
                            )
                        )
            text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


TAGGED = (
    "!!python/name:os.system",
    "!!binary x",
    "!!set {a, b}",
    "!!timestamp 2001-01-01",
    "!x y",
    "2001-01-01",
    "!!int x",
)
TAGGED += ("0x", "1:2:3", ".inf", "!!omap [a: 1]")
OPEN = ("[", "{a: ", "- ", "${", "${a:", "&a [*a, ", "!!seq [", "? ")
ALIASES = (
    "&a [*a]",
    "&a {b: *a}",
    "*nowhere",
    "&a &b c",
    "<<",
    "{<<: *a}",
    "{<<: 1}",
    "? x",
    "{[1]: 2}",
    "{{a: b}: c}",
)


def hostile_yaml(rng: random.Random, good: bytes) -> bytes:
    """What YAML can do beyond JSON: aliases, tags, anchors that hold themselves."""
    if rng.random() < 0.3:
        return hostile_bytes(rng, good)
    lines = good.decode().splitlines()
    at = rng.randrange(len(lines))
    key = lines[at].partition(":")[0]
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    match rng.randrange(10):
        case 0:
            return laughs.encode() + good
        case 1:
            lines[at] = f"{key}: !!python/object/apply:os.system ['exit 1']"
        case 2:
            lines[at] = f"{key}: {rng.choice(TAGGED)}"
        case 3:
            lines[at] = f"{key}: {rng.choice(OPEN) * rng.choice((1, 300, 20_000))}"
        case 4:
            lines[at] = f"{key}: {rng.choice(ALIASES)}"
        case 5:
            lines[at] = f"{key}: {rng.choice(RAW)}"
        case 6:
            lines[at] = f"{key}: {json.dumps(rng.choice((*NUMBERS, *WORDS)))}"
        case 7:
            del lines[at]
        case 8:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case _:
            lines[at] = f"{key}: {'${' * 200}{'}' * 200}"
    return "\n".join(lines).encode(errors="replace") + b"\n"


# ------------------------------------------------------------------------ the kinds of files, sound
def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    """Puts a checksum into a JSON file that may have become anything."""
    try:
        tree = json.loads(path.read_bytes())
        change(tree)
        path.write_text(json.dumps(tree), encoding="utf-8")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        pass


def index_kind(folder: Path) -> tuple[dict[str, Any], Seal, Read]:
    import numpy as np

    from llm_from_scratch.data.shards import open_shard, write_shard

    write_shard(folder / "s", [([5, 6, 7, 0], 3), ([0], 0), ([300, 2, 0], 9)], vocab_size=400, tokenizer="t")

    def mutate(rng: random.Random, good: bytes) -> bytes:
        line, _, ends = good.partition(b"\n")
        which = rng.randrange(3)
        if which == 0:
            return hostile_bytes(rng, good)
        return hostile_json(rng, line) + b"\n" + (ends if which == 1 else hostile_bytes(rng, ends))

    def seal(folder: Path) -> None:
        line, _, ends = (folder / "s.idx").read_bytes().partition(b"\n")
        try:
            facts = json.loads(line) | {
                "document_ends_sha256": hashlib.sha256(ends).hexdigest(),
                "documents": len(ends) // 8,
            }
            (folder / "s.idx").write_bytes(json.dumps(facts).encode() + b"\n" + ends)
        except (ValueError, TypeError, RecursionError):
            pass

    def read(folder: Path) -> object:
        shard = open_shard(folder / "s", tokenizer="t")
        return int(np.asarray(shard.tokens, np.int64).sum()), shard.document_ends.tolist()

    return {"s.idx": mutate}, seal, read


def prepared_kind(folder: Path) -> tuple[dict[str, Any], Seal, Read]:
    from llm_from_scratch.config import DataConfig, TokenizerConfig
    from llm_from_scratch.data import prepare as module
    from llm_from_scratch.data.prepared import manifest_sha256

    (folder / "story.txt").write_text("What a pretty story! " * 20, encoding="utf-8")
    data = DataConfig(name="text", path=str(folder / "story.txt"), dir=str(folder / "data"))
    place = module.prepare(data, TokenizerConfig(kind="char", vocab_size=None)).folder.relative_to(folder)

    def seal(folder: Path) -> None:
        change_json(folder / place / "manifest.json", lambda tree: tree.update(sha256=manifest_sha256(tree)))

    def read(folder: Path) -> object:
        data = DataConfig(name="text", path=str(folder / "story.txt"), dir=str(folder / "data"))
        prepared = module.prepare(data, TokenizerConfig(kind="char", vocab_size=None))
        for split in module.SPLITS:
            [shard] = prepared.shards(split) or [None]
            assert shard is None or folder in shard.info.path.resolve().parents
            assert prepared.text_bytes(split) >= 0
            "".join(prepared.documents(split))
        return int(prepared.manifest["splits"]["val"]["tokens"])

    return {str(place / "manifest.json"): hostile_json}, seal, read


def model_kind(folder: Path) -> tuple[dict[str, Any], Seal, Read]:
    import torch

    from llm_from_scratch.model import GPT, GPTConfig
    from llm_from_scratch.tokenizer import CharTokenizer
    from llm_from_scratch.weights import load_model, save_model

    tokenizer = CharTokenizer("abcdefg")
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=2, n_embd=16, n_head=2, block_size=8))
    save_model(dict(model.named_parameters()), model.config, tokenizer, folder, step=5, loss=1.5)

    def seal(folder: Path) -> None:
        model = folder / "model"

        def change(tree: Any) -> None:
            # As version 0.1 wrote it, so that what is behind the checksum is tried
            tree.pop("config_sha256", None)
            tree.update(sha256=sha256(model / "model.safetensors"))

        change_json(model / "config.json", change)
        change_json(
            model / "tokenizer.json",
            lambda tree: tree.update(
                fingerprint=hashlib.sha256(tree["characters"].encode()).hexdigest(),
                vocab_size=len(tree["characters"]) + 1,
            ),
        )

    def read(folder: Path) -> object:
        run = load_model(folder)
        ids = run.tokenizer.encode("abc")
        if run.model.config.n_layer > 100:
            return run  # at most 1,024 layers in a circle: slow beside the others
        with torch.inference_mode():
            logits = run.model(torch.tensor([ids]))
        return run.tokenizer.decode(logits.argmax(-1)[0].tolist())

    return (
        {
            "model/config.json": hostile_json,
            "model/model.safetensors": hostile_safetensors,
            "model/tokenizer.json": hostile_json,
        },
        seal,
        read,
    )


def huggingface_kind(folder: Path) -> tuple[dict[str, Any], Seal, Read]:
    """A folder of transformers with one file of weights, and one with two and their index."""
    import torch
    from safetensors.torch import load_file, save_file

    from llm_from_scratch.huggingface.read import load_weights
    from llm_from_scratch.huggingface.write import export
    from llm_from_scratch.model import GPT, GPTConfig
    from llm_from_scratch.tokenizer import CharTokenizer
    from llm_from_scratch.weights import LoadedModel

    tokenizer = CharTokenizer("abcdefg")
    shape: dict[str, Any] = {"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8}
    scaling = {"rope_type": "linear", "factor": 2.0}
    other: dict[str, Any] = {"qk_norm": False, "rope_scaling": scaling, "tie_weights": False}
    for name, more in (("one", {}), ("two", other)):
        model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape, **more))
        export(LoadedModel(model, tokenizer, 5, 1.5), folder / name)
    whole = folder / "two" / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / "two" / file)
    index = folder / "two" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}), encoding="utf-8")

    def read(folder: Path) -> object:
        models = [load_weights(folder / name, block_size=4) for name in ("one", "two")]
        with torch.inference_mode():
            return [found.model(torch.tensor([[0, 1, 2, 3]])).argmax(-1).tolist() for found in models]

    return (
        {
            "one/config.json": hostile_json,
            "two/config.json": hostile_json,
            "one/generation_config.json": hostile_json,
            "one/model.safetensors": hostile_safetensors,
            "two/model.safetensors.index.json": hostile_json,
            "two/model-00002-of-00002.safetensors": hostile_safetensors,
        },
        lambda folder: None,
        read,
    )


def checkpoint_kind(folder: Path) -> tuple[dict[str, Any], Seal, Read]:
    import torch

    from llm_from_scratch.checkpoint import load_state, save_state

    moments = {
        0: {"step": torch.tensor(7.0), "exp_avg": torch.ones(2, 3)},
        1: {"exp_avg": torch.zeros(4, dtype=torch.int64)},
    }
    state = {
        "global_step": 7,
        "optimizer_states": [{"state": moments, "param_groups": [{"betas": (0.9, 0.95)}]}],
        "text": "é\n",
    }
    save_state(state, folder / "step_00000007")

    def seal(folder: Path) -> None:
        step = folder / "step_00000007"

        def change(tree: Any) -> None:
            tree.pop("sha256", None)
            for name in ("state.json", "tensors.safetensors"):
                tree["files"][name].update(bytes=(step / name).stat().st_size, sha256=sha256(step / name))

        change_json(step / "manifest.json", change)

    def read(folder: Path) -> object:
        state = load_state(folder / "step_00000007")
        assert isinstance(state, dict)
        return state

    return (
        {
            "step_00000007/manifest.json": hostile_json,
            "step_00000007/state.json": hostile_json,
            "step_00000007/tensors.safetensors": hostile_safetensors,
        },
        seal,
        read,
    )


def config_kind(folder: Path) -> tuple[dict[str, Any], Seal, Read]:
    from llm_from_scratch.check import check
    from llm_from_scratch.config import Config
    from llm_from_scratch.saved_config import read_config, save_config

    save_config(Config(), folder / "config.yaml")
    as_version_0_1(folder / "config.yaml")  # so that what is behind the checksum is tried
    return (
        {"config.yaml": hostile_yaml},
        lambda folder: None,
        lambda folder: check(read_config(folder / "config.yaml"), Config),
    )


def tokenizer_kind(folder: Path) -> tuple[dict[str, Any], Seal, Read]:
    from llm_from_scratch.tokenizer import BPETokenizer, load_tokenizer

    BPETokenizer.train(["What a pretty story it was, said the Lion. " * 20], 300).save(folder)

    def seal(folder: Path) -> None:
        change_json(folder / "tokenizer.json", lambda tree: tree.update(fingerprint=sha256(folder / "tokenizer.model")))

    def read(folder: Path) -> object:
        tokenizer = load_tokenizer(folder)
        ids = tokenizer.encode("said the Lion\n▁ é 猫\0" * 3)
        return tokenizer.decode(ids), tokenizer.decode(range(tokenizer.vocab_size))

    return {"tokenizer.model": hostile_bytes, "tokenizer.json": hostile_json}, seal, read


GPT2_PIECES = [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]


def gpt2_kind(folder: Path) -> tuple[dict[str, Any], Seal, Read]:
    """The copy in a run folder, and the files as they are given."""
    from llm_from_scratch.tokenizer import load_tokenizer, open_gpt2
    from llm_from_scratch.tokenizer.bytes import files_fingerprint

    pieces = [*map(chr, GPT2_PIECES), "th", "the", "Ġthe", "<|endoftext|>"]
    (folder / "vocab.json").write_bytes(json.dumps({piece: i for i, piece in enumerate(pieces)}).encode())
    (folder / "merges.txt").write_bytes("#version: 0.2\nt h\nth e\nĠ the\n".encode())
    open_gpt2(str(folder)).save(folder)

    def seal(folder: Path) -> None:
        files = [(folder / name).read_bytes() for name in ("vocab.json", "merges.txt")]
        change_json(folder / "tokenizer.json", lambda tree: tree.update(fingerprint=files_fingerprint(*files)))

    def read(folder: Path) -> object:
        given = open_gpt2(str(folder))
        tokenizer = load_tokenizer(folder)
        ids = tokenizer.encode("said the Lion\n▁ é 猫\0" * 3)
        return given.fingerprint, tokenizer.decode(ids), tokenizer.decode(range(tokenizer.vocab_size))

    return {"vocab.json": hostile_json, "merges.txt": hostile_bytes, "tokenizer.json": hostile_json}, seal, read


def hostile_tar(rng: random.Random, good: bytes) -> bytes:
    """Header fields that lie, with the header's checksum put right."""
    raw = bytearray(hostile_bytes(rng, good) if rng.random() < 0.4 else good)
    starts = [start for start in range(0, len(raw) - 511, 512) if raw[start + 257 : start + 262] == b"ustar"]
    for start in rng.sample(starts, min(len(starts), rng.choice((1, 1, 2, 5)))):
        field, width = rng.choice(
            ((0, 100), (100, 8), (124, 12), (124, 12), (156, 1), (156, 1), (157, 100), (345, 155))
        )
        value: bytes = rng.choice(
            (
                *(b"%011o\0" % size for size in (0, 1, 511, 512, 513, 8**11 - 1)),
                *(b"\x80" + size.to_bytes(11, "big") for size in (5, 2**40, 2**64, 2**87)),
                b"\xff" * 12,
                *(bytes([kind]) for kind in b"01234567LKxgXSDMNV\0"),
                *(
                    b"../x.txt\0",
                    b"/etc/x.txt\0",
                    b"C:\\x.txt\0",
                    b"a/b.txt.gz\0",
                    b"a.tar\0",
                    b"a.jsonl\0",
                    b"\xff\xfe\0",
                ),
                rng.randbytes(width),
            )
        )
        raw[start + field : start + field + min(width, len(value))] = value[:width]
        raw[start + 148 : start + 156] = b" " * 8
        raw[start + 148 : start + 156] = b"%06o\0 " % sum(raw[start : start + 512])
    return bytes(raw)


def hostile_lines(rng: random.Random, good: bytes) -> bytes:
    lines = good.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = hostile_json(rng, lines[at])
    return b"\n".join(lines)


def packed(compress: Callable[[bytes], bytes], expand: Callable[[bytes], bytes], inner: Any) -> Any:
    """Mutates what comes out of a compressed file as often as the file itself."""

    def mutate(rng: random.Random, good: bytes) -> bytes:
        return compress(inner(rng, expand(good))) if rng.random() < 0.5 else hostile_bytes(rng, good)

    return mutate


def reader_kind(
    name: str, make: Callable[[], bytes], mutation: Any
) -> Callable[[Path], tuple[dict[str, Any], Seal, Read]]:
    def kind(folder: Path) -> tuple[dict[str, Any], Seal, Read]:
        from llm_from_scratch.data.readers import read_documents

        (folder / name).write_bytes(make())

        def read(folder: Path) -> object:
            return sum(len(document.raw) for document in read_documents(folder / name, name))

        return {name: mutation}, lambda folder: None, read

    return kind


PAGES = [f"What a pretty story {i}, said the Lion. É 猫\n" * i for i in range(8)]


def make_tar(texts: list[str] = PAGES) -> bytes:
    file = io.BytesIO()
    for form, place in ((tarfile.PAX_FORMAT, "é/" * 60), (tarfile.GNU_FORMAT, "b/" * 60), (tarfile.USTAR_FORMAT, "")):
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for i, text in enumerate(texts):
                info = tarfile.TarInfo(f"{place}{i}.txt")
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))
            end = archive.offset
        file.seek(end)
    return file.getvalue()


def make_nested(inner: bytes | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, raw in (("1_data.xz", inner or xz(make_tar())), ("2.jsonl.gz", gzip.compress(make_lines()))):
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return file.getvalue()


def make_lines() -> bytes:
    return "".join(json.dumps({"text": text, "n": [1, {"a": None}]}) + "\n" for text in PAGES).encode()


def make_parquet() -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    table = pyarrow.table({"text": PAGES * 20, "n": range(160)})
    write_table(table, file, row_group_size=50, data_page_size=300, compression="zstd")
    return file.getvalue()


def xz(raw: bytes) -> bytes:
    return lzma.compress(raw, preset=0)


def hostile_nested(rng: random.Random, good: bytes) -> bytes:
    """The outer archive, or one of the inner ones in a sound outer one."""
    if rng.random() < 0.5:
        return hostile_tar(rng, good)
    with tarfile.open(fileobj=io.BytesIO(good)) as archive:
        files = {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
    inner = packed(xz, lzma.decompress, hostile_tar)(rng, files["1_data.xz"])
    return make_nested(inner)


def zstd(raw: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(write_checksum=True).compress(raw)


def unzstd(raw: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().decompress(raw)


KINDS = {
    "index": index_kind,
    "prepared": prepared_kind,
    "model": model_kind,
    "huggingface": huggingface_kind,
    "checkpoint": checkpoint_kind,
    "config": config_kind,
    "tokenizer": tokenizer_kind,
    "gpt2": gpt2_kind,
    "tar": reader_kind("a.tar", make_tar, hostile_tar),
    "tar.xz": reader_kind("a.tar.xz", lambda: xz(make_tar()), packed(xz, lzma.decompress, hostile_tar)),
    "nested": reader_kind("urlsf_subset00.tar", make_nested, hostile_nested),
    "gz": reader_kind(
        "a.txt.gz",
        lambda: gzip.compress("".join(PAGES).encode()),
        packed(gzip.compress, gzip.decompress, hostile_bytes),
    ),
    "jsonl.gz": reader_kind(
        "a.jsonl.gz", lambda: gzip.compress(make_lines()), packed(gzip.compress, gzip.decompress, hostile_lines)
    ),
    "zst": reader_kind("a.tar.zst", lambda: zstd(make_tar()), packed(zstd, unzstd, hostile_tar)),
    "parquet": reader_kind("a.parquet", make_parquet, hostile_bytes),
}
NEEDS = {"gpt2": "tiktoken", "zst": "zstandard", "parquet": "pyarrow"}


# ---------------------------------------------------------------------------- the process of a kind
def program(kind: str, folder: Path, start: int, end: int) -> Iterator[str]:
    """Runs inputs of one kind; yields what went wrong, and in the end how many of them were
    read.
    """
    import resource

    from llm_from_scratch.errors import UserError

    good = folder / "good"
    good.mkdir()
    mutations, seal, read = KINDS[kind](good)
    bad = folder / "bad"
    shutil.copytree(good, bad)
    sound = {path.relative_to(good): path.read_bytes() for path in good.rglob("*") if path.is_file()}
    read(bad)  # sound, it is read; and everything is imported
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    accepted = 0
    for number in range(start, end):
        rng = random.Random(f"{kind} {number}")
        for path, content in sound.items():
            (bad / path).write_bytes(content)
        name = rng.choice(list(mutations))
        (bad / name).write_bytes(mutations[name](rng, sound[Path(name)]))
        if rng.random() < 0.6:
            seal(bad)
        print("input", number, flush=True)
        # Nothing catches SIGPROF: no loop can hold it up
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            read(bad)
            accepted += 1
        except ValueError as error:
            if not isinstance(error, UserError) or "\n" in str(error) or len(str(error)) > 2000:
                yield f"input {number} ({name}): no message for a user: {str(error)[:500]!r}"
        except BaseException as error:
            yield f"input {number} ({name}): {type(error).__name__}: {str(error)[:300]!r}"
        signal.setitimer(signal.ITIMER_PROF, 0)
    yield f"accepted {accepted}"


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(kind: str, tmp_path: Path) -> None:
    check_inputs(kind, tmp_path, 0, FIRST)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_of_a_thousand_mutated_files(kind: str, tmp_path: Path) -> None:
    check_inputs(kind, tmp_path, FIRST, INPUTS)


def check_inputs(kind: str, folder: Path, start: int, end: int) -> None:
    pytest.importorskip("resource")
    pytest.importorskip(NEEDS.get(kind, "json"))
    command = [sys.executable, __file__, kind, str(folder), str(start), str(end)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False)
    lines = done.stdout.splitlines()
    wrong = [line for line in lines if ": " in line]
    reached = next((line for line in reversed(lines) if line.startswith("input")), "nothing")
    assert done.returncode == 0, f"ended with {done.returncode} at {reached}: {done.stderr[-500:]}"
    assert wrong == []
    accepted = int(lines[-1].removeprefix("accepted "))
    # The mutations reach beyond the first checksum, and are not harmless
    assert 0 < accepted < end - start


if __name__ == "__main__":
    for line in program(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])):
        print(line, flush=True)
