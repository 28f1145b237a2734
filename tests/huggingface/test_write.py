"""Exported folders: transformers loads them and computes the same; nothing half written, nothing
overwritten.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import story
from small_models import IMPORTED, V, make

from llm_from_scratch.api import generate
from llm_from_scratch.errors import UserError
from llm_from_scratch.huggingface import write
from llm_from_scratch.huggingface.read import load, load_weights
from llm_from_scratch.huggingface.write import export
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import CharTokenizer, train_tokenizer
from llm_from_scratch.weights import LoadedModel

TOKENIZER = CharTokenizer("".join(chr(ord("0") + i) for i in range(V - 1)))


def trained(kind: str = "modern", **changes: Any) -> LoadedModel:
    return LoadedModel(make(kind, **changes), TOKENIZER, step=7, loss=1.5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [*IMPORTED, "article", "gpt2", "modern"])
def test_transformers_computes_the_same_from_the_folder(kind: str, tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = trained(kind, tie_weights=tied, dropout=0.1)
    folder = export(ours, tmp_path / "export")
    twin, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())  # no tensor missing, unexpected or of another shape
    ids = torch.randint(V, (3, 10))
    with torch.inference_mode():
        torch.testing.assert_close(ours.model(ids), twin(ids).logits, rtol=1e-5, atol=1e-5)
        mine = ids
        for _ in range(6):
            mine = torch.cat((mine, ours.model(mine)[:, -1:].argmax(-1)), dim=1)
        # Without a mask transformers would make one, from the places of the padding's id.
        settings = {"attention_mask": torch.ones_like(ids), "do_sample": False, "eos_token_id": None}
        written = twin.generate(ids, max_new_tokens=6, pad_token_id=0, **settings)
    assert torch.equal(mine, written)
    back = load_weights(folder).model
    assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), back.parameters(), strict=True))


@pytest.mark.slow
@torch.inference_mode()
def test_gpt2_at_its_full_size(tmp_path: Path) -> None:
    """124,439,808 random parameters: out, into transformers, and in again."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"block_size": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768, "init_std": 0.02}
    kind = {"norm": "layernorm", "position": "learned", "activation": "gelu", "qk_norm": False, "bias": True}
    model = GPT(GPTConfig(vocab_size=50_257, norm_eps=1e-5, **shape, **kind)).eval()  # type: ignore[arg-type]
    folder = export(LoadedModel(model, TOKENIZER, 1, 1.0), tmp_path / "gpt2")
    assert (folder / "model.safetensors").stat().st_size == pytest.approx(4 * 124_439_808, rel=1e-4)
    ids = torch.randint(50_257, (1, 64))
    expected = model(ids)
    twin = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(twin(ids).logits, expected, rtol=1e-5, atol=1e-5)
    del twin
    back = load_weights(folder).model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), back.parameters(), strict=True))
    assert torch.equal(back(ids), expected)


def test_the_folder_holds_what_was_given(tmp_path: Path) -> None:
    ours = replace(trained(), end_ids=(3, 5), chat_template="{{ é }}\n")
    folder = export(ours, tmp_path / "export", card="# A model\n")
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"),
        *("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
    ]
    assert (folder / "chat_template.jinja").read_bytes() == "{{ é }}\n".encode()
    generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert generation == {"bos_token_id": 0, "eos_token_id": [3, 5]}
    assert load(folder)[2:] == ((3, 5), "{{ é }}\n")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"] == [3, 5]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_text_is_continued_alike_from_the_folder(kind: str, tmp_path: Path) -> None:
    """A prompt through AutoTokenizer and AutoModelForCausalLM, as a reader of the model card does."""
    transformers = pytest.importorskip("transformers")
    text = story(6000)
    tokenizer = train_tokenizer(kind, [text], 320 if kind == "bpe" else None)
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=2, n_embd=32, n_head=2, block_size=64)).eval()
    folder = export(LoadedModel(model, tokenizer, 1, 1.0), tmp_path / "export")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    twin = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = "Dorothy  went to\n\nthe castle."
    batch = theirs(prompt, return_tensors="pt")
    assert batch["input_ids"][0].tolist() == tokenizer.encode(prompt)
    written = twin.generate(**batch, max_new_tokens=20, do_sample=False)[0, batch["input_ids"].shape[1] :]
    run = LoadedModel(model, tokenizer, 1, 1.0)
    assert generate(run, prompt, max_new_tokens=20, temperature=0) == [tokenizer.decode(written.tolist())]


def test_a_folder_that_holds_files_or_is_a_runs_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for place, message in (
        (tmp_path / "run", "is not empty: name a new folder$"),
        (tmp_path / "run" / "config.yaml", "is no folder: name a new one$"),
        (tmp_path / "run" / "model", "is the place of the run's own model: name another folder, such as "),
        (tmp_path / "link", "is no folder: name a new one$"),
        (
            tmp_path / "run" / "config.yaml" / "a" / "b",
            r"would lie in .*config\.yaml, which is no folder: name another",
        ),
        (Path(), "is the folder that this command works in: name a new one$"),
        (Path("..", "empty"), "is the folder that this command works in: name a new one$"),
    ):
        with pytest.raises(UserError, match=message):
            export(trained(), place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.yaml", "empty", "link", "run"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert load_weights(export(trained(), tmp_path / "empty")).model.config.n_layer == 2


def test_a_model_of_no_family_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no model of transformers computes this one: model.activation=relu2"):
        export(trained("relu2"), tmp_path / "new" / "export")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(write, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        export(trained(), tmp_path / "export")
    assert list(tmp_path.iterdir()) == []
