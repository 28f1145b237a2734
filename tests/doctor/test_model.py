"""The checks of a model of others: each finding is one line, and each fault has advice."""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from byte_level import stranger
from gguf_models import random_model, tokenizer_of

from llm_from_scratch import registry
from llm_from_scratch.cli import main
from llm_from_scratch.doctor.examination import examine
from llm_from_scratch.doctor.findings import Finding
from llm_from_scratch.doctor.model import ExaminedModel, architecture, files, template, tokenizer, weights
from llm_from_scratch.errors import UserError
from llm_from_scratch.gguf.write import export
from llm_from_scratch.pretrained import find_model
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.tokenizer.huggingface import read

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"


def about(name: str) -> list[Finding]:
    model = ExaminedModel(find_model(name))

    def all_of() -> Iterator[Finding]:
        for check in (files, architecture, weights, tokenizer, template):
            yield from check(model)

    found = list(all_of())
    assert all("\n" not in finding.what + finding.advice for finding in found)
    assert all(finding.advice for finding in found if finding.mark != "ok")
    return found


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random model with a byte-level tokenizer and a template of conversations."""
    monkeypatch.chdir(tmp_path)
    own = tokenizer_of("gpt2", "", tmp_path / "gpt2")
    model = random_model("llama", own.vocab_size)
    return export(model, own, tmp_path / "model.gguf", dtype="f32", chat_template=CHATML)


def test_a_sound_model(chat: Path) -> None:
    found = about("model.gguf")
    assert [finding.mark for finding in found] == ["ok"] * 5, found
    size = chat.stat().st_size / 10**6
    vocabulary = len(json.loads(Path("gpt2/vocab.json").read_text(encoding="utf-8")))
    # 2 layers: q and o of 64 x 64, k and v of 64 x 32, three of 64 x 96, two norms; and the last norm
    parameters = 64 * vocabulary + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64) + 64
    for finding, line in zip(
        found,
        (
            f"model.gguf: {size:.1f} MB; its authors' checksums are not known here",
            "model.gguf: llama, 2 layers of width 64, 4 heads of 16 (2 of keys and values), a context of 256,"
            f" {vocabulary} tokens",
            f"model.gguf: {parameters:,} parameters, each a finite number",
            "model.gguf: tokenizer of kind ",
            "model.gguf: its chat template makes ",
        ),
        strict=True,
    ):
        assert finding.what.startswith(line)


def test_a_tokenizer_without_some_bytes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = read(stranger("gpt2", tmp_path / "theirs"))
    export(random_model("llama", own.vocab_size), own, tmp_path / "model.gguf", dtype="f32")
    marks = {finding.mark: finding.what for finding in about("model.gguf")}
    assert "has no token for the character" in marks["warning"]
    assert "fault" not in marks


def test_a_damaged_file_is_a_fault(chat: Path) -> None:
    content = chat.read_bytes()
    chat.write_bytes(content[: len(content) // 2])
    assert [finding.mark for finding in about("model.gguf")] == ["ok", "fault"]
    chat.write_bytes(b"x" + content[1:])
    assert "no GGUF file" in about("model.gguf")[1].what


def test_weights_that_are_no_numbers_are_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = random_model("llama", 4)
    with torch.no_grad():
        dict(model.named_parameters())["token_embedding.weight"][1, 2] = 12345.0
    path = export(model, CharTokenizer("abc"), tmp_path / "model.gguf", dtype="f32")
    content = path.read_bytes()
    assert content.count(struct.pack("<f", 12345.0)) == 1
    path.write_bytes(content.replace(struct.pack("<f", 12345.0), struct.pack("<f", math.nan)))
    marks = {finding.mark: finding.what for finding in about("model.gguf")}
    assert "weights hold numbers that are not finite" in marks["fault"]
    # Characters without bytes
    assert "tokenizer of kind char" in marks["warning"]


def test_the_command_takes_a_model(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "model.gguf", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert [one["what"] for one in said["findings"]][-5:] == [finding.what for finding in about("model.gguf")]
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "none.gguf"])
    assert ended.value.code == 2
    assert "none.gguf: there is no such file" in capsys.readouterr().err
    with pytest.raises(UserError, match="no such file"):
        list(examine(None, find_model("none.gguf")))


def test_a_model_of_the_hub_is_not_downloaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = {}

    def snapshot(name: str, **options: object) -> str:
        asked.update(options)
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    with pytest.raises(SystemExit):
        main(["doctor", "hub:a/b"])
    assert asked["local_files_only"] is True
    assert capsys.readouterr().err.startswith("error: hub:a/b: not downloaded (FileNotFoundError: not in the cache)")


@pytest.mark.slow
def test_smollm2_is_the_published_one() -> None:
    try:
        registry.find("smollm2")
    except UserError as error:
        pytest.skip(str(error))
    found = about("smollm2")
    assert [finding.mark for finding in found] == ["ok"] * 5, found
    assert "sha256 of SmolLM2-135M-Instruct" in found[0].what
    assert (
        "llama, 30 layers of width 576, 9 heads of 64 (3 of keys and values), a context of 8,192, 49,152 tokens"
        in found[1].what
    )
