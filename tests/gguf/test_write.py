"""Exported models, held against llama.cpp and against themselves."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from conftest import story
from gguf_models import SETTINGS, random_model, tokenizer_of
from llamacpp import LlamaCpp
from tokenizer_strings import strings

from llm_from_scratch.api import score
from llm_from_scratch.errors import UserError
from llm_from_scratch.gguf import write
from llm_from_scratch.gguf.read import load, opened
from llm_from_scratch.gguf.write import DTYPES, export
from llm_from_scratch.tokenizer import CharTokenizer, Tokenizer
from llm_from_scratch.weights import LoadedModel

TEXT = story(20_000)
MARK = "▁"  # a space, for llama.cpp, where the tokens are SentencePiece's


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {kind: tokenizer_of(kind, TEXT, folder / kind) for kind in ("char", "bpe", "gpt2")}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "bpe"), ("qwen3", "gpt2"), ("gpt2", "char"), *((name, "char") for name in SETTINGS if "," in name)]
    + [("qwen2", "char"), ("gpt2", "gpt2"), ("llama", "char"), ("qwen3", "bpe")],
)
def test_llama_cpp_computes_the_same(
    tmp_path: Path, corpora: Path, tokenizers: dict[str, Tokenizer], name: str, kind: str
) -> None:
    tokenizer = tokenizers[kind]
    oz = (corpora / "oz" / "wizard_of_oz.txt").read_text(encoding="utf-8")[5000:15_000]
    model = random_model(name, tokenizer.vocab_size)
    path = export(model, tokenizer, tmp_path / "model.gguf", dtype="f32")
    ids = [tokenizer.eot_id, *tokenizer.encode(oz)[:200]]
    own = model(torch.tensor([ids])).log_softmax(-1)[0, :-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    odd = [text for text in strings(300, 5) if kind == "gpt2" or MARK not in text]
    with LlamaCpp(path, 256) as peer:
        # Its cache is float16, and its GELU a table in float16.
        assert np.abs(np.array(peer.logprobs([ids])[0]) - own.detach().numpy()).max() < 0.03
        found = peer.tokens([oz, *odd])
    assert found[0] == tokenizer.encode(oz)
    assert [text for text, ids in zip(odd, found[1:], strict=True) if ids != tokenizer.encode(text)] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["char", "bpe", "gpt2"])
def test_llama_cpp_gives_the_same_ids_of_2000_strings(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    tokenizer = tokenizers[kind]
    path = export(random_model("llama", tokenizer.vocab_size), tokenizer, tmp_path / "model.gguf", dtype="f32")
    odd = [text for text in strings(2000, 6) if kind == "gpt2" or MARK not in text]
    with LlamaCpp(path, 256) as peer:
        found = peer.tokens(odd)
    assert [text for text, ids in zip(odd, found, strict=True) if ids != tokenizer.encode(text)] == []


@pytest.mark.parametrize("name", SETTINGS)
def test_out_and_in_again(tmp_path: Path, tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers["char"]
    model = random_model(name, tokenizer.vocab_size)
    path = export(model, tokenizer, tmp_path / "model.gguf", dtype="f32", chat_template="{{ x }}", end_ids=(0, 3))
    back, same, end_ids, template = load(path)
    assert back.config == model.config
    assert not back.training
    assert (same.fingerprint, end_ids, template) == (tokenizer.fingerprint, (0, 3), "{{ x }}")
    for (key, one), (other_key, other) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert key == other_key
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype_is_what_the_library_makes_of_it(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], dtype: str
) -> None:
    model = random_model("gpt2", tokenizers["char"].vocab_size)
    path = export(model, tokenizers["char"], tmp_path / "model.gguf", dtype=dtype)
    outer = gguf.GGMLQuantizationType["Q8_0" if dtype == "q4_0" else dtype.upper()]
    inner = gguf.GGMLQuantizationType[dtype.upper()]
    expected = {
        "token_embd.weight": (model.token_embedding.weight, outer),
        "position_embd.weight": (model.position_embedding.weight, gguf.GGMLQuantizationType.F32),
        "blk.1.ffn_down.weight": (model.blocks[1].feed_forward.out.weight, inner),
        "blk.0.ffn_up.bias": (model.blocks[0].feed_forward.up.bias, gguf.GGMLQuantizationType.F32),
    }
    with opened(path) as file:
        for name, (parameter, kind) in expected.items():
            numbers = parameter.detach().numpy()
            assert file.infos[name].kind.name == kind.name
            assert np.array_equal(file.tensor(name), gguf.quants.dequantize(gguf.quants.quantize(numbers, kind), kind))
        number = gguf.LlamaFileType[("ALL_" if dtype == "f32" else "MOSTLY_") + dtype.upper()].value
        assert file.metadata["general.file_type"] == number


def test_bits_per_byte_of_q8_0_are_those_of_f32(tmp_path: Path, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bpe"]
    model = random_model("llama", tokenizer.vocab_size)
    bits = []
    for dtype in ("f32", "q8_0"):
        loaded, *_ = load(export(model, tokenizer, tmp_path / f"{dtype}.gguf", dtype=dtype))
        bits.append(score(LoadedModel(loaded, tokenizer, None, None), TEXT[:3000]).bits_per_byte)
    assert bits[0] != bits[1]
    assert bits[1] == pytest.approx(bits[0], rel=0.005)


def test_the_library_reads_the_keys(tmp_path: Path, tokenizers: dict[str, Tokenizer]) -> None:
    about: dict[str, str | list[str]] = {"name": "Öz", "license": "mit", "tags": ["text-generation"]}
    export(random_model("llama", tokenizers["bpe"].vocab_size), tokenizers["bpe"], tmp_path, metadata=about)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    found = {key: field.contents() for key, field in reader.fields.items()}
    assert found["general.name"] == "Öz"
    assert found["general.license"] == "mit"
    assert found["general.tags"] == ["text-generation"]
    assert found["general.file_type"] == 1
    assert found["tokenizer.ggml.add_space_prefix"] is False
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F16", "F32"}


@pytest.mark.parametrize(
    ("template", "lines"),
    [
        (None, ['TEMPLATE """{{ .Prompt }}"""']),
        ("{{ '<|im_start|>' }}", ['TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}']),
        ("[INST]", []),
    ],
)
def test_the_modelfile(tmp_path: Path, template: str | None, lines: list[str]) -> None:
    model = random_model("llama", 4)
    export(model, CharTokenizer("abc"), tmp_path / "oz.gguf", chat_template=template)
    found = (tmp_path / "oz.Modelfile").read_text(encoding="utf-8").splitlines()
    assert found[:2] == ["FROM ./oz.gguf", 'PARAMETER stop "<|endoftext|>"']
    assert found[2:3] == lines
    export(model, CharTokenizer("abc"), tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["Modelfile", "model.gguf"]
    assert (tmp_path / "folder" / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./model.gguf\n")


def test_three_ids_may_end_a_text(tmp_path: Path) -> None:
    """Llama 3.1 has three."""
    model, tokenizer = random_model("llama", 4), CharTokenizer("abc")
    assert load(export(model, tokenizer, tmp_path / "oz.gguf", end_ids=(3, 0, 1)))[2] == (3, 0, 1)
    with pytest.raises(UserError, match="4 ids end a text .* names 3: shorten eos_token_id"):
        export(model, tokenizer, tmp_path / "more.gguf", end_ids=(0, 1, 2, 3))
    assert not (tmp_path / "more.gguf").exists()


@pytest.mark.parametrize("stop", ['x"\nADAPTER /home/other', 'x"', "x\nSYSTEM lies", "x\r"])
def test_a_stranger_s_token_adds_no_line_to_the_modelfile(stop: str) -> None:
    keys = {"tokenizer.ggml.tokens": [stop, "</s>"], "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.eot_token_id": 1}
    assert write.modelfile("model.gguf", keys) == (
        'FROM ./model.gguf\nPARAMETER stop "</s>"\nTEMPLATE """{{ .Prompt }}"""\n'
    )


def test_a_failed_export_leaves_the_file_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "oz.gguf"
    path.write_bytes(b"before")

    def full(*arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(write, "quantize", full)
    with pytest.raises(OSError, match="no space left"):
        export(random_model("llama", 4), CharTokenizer("abc"), path)
    assert path.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["oz.gguf"]


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("abc")

    def refused(message: str, value: float | None = None, dtype: str = "f16", **settings: int) -> None:
        model = random_model("llama", 4, **settings)
        if value is not None:
            with torch.no_grad():
                model.blocks[0].attention.out.weight[1, 2] = value
        with pytest.raises(UserError, match=message):
            export(model, tokenizer, tmp_path / "model.gguf", dtype=dtype)
        assert list(tmp_path.iterdir()) == []

    refused("q4_k is unknown: use one of f32, f16, bf16, q8_0, q4_0", dtype="q4_k")
    refused("blocks of 32 numbers, and those of blk.0.ffn_down.weight have 40: use f16", dtype="q8_0", n_inner=40)
    refused("blk.0.attn_output.weight holds 70000, beyond the largest number of F16: use bf16", 7e4)
    refused("blk.0.attn_output.weight holds nan: the training diverged", float("nan"), "f32")
    (tmp_path / "model.gguf").mkdir()
    with pytest.raises(UserError, match="is a folder: name a file"):
        export(random_model("llama", 4), tokenizer, tmp_path / "model.gguf")
