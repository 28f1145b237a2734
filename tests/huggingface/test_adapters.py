"""Adapters in PEFT's format: peft itself computes the same logits, in both directions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import ARTICLE, GPT2, IMPORTED, MODERN, V

from llm_from_scratch.config import LINEAR_LAYERS
from llm_from_scratch.errors import UserError
from llm_from_scratch.huggingface import hub
from llm_from_scratch.huggingface.adapters import adapter_writer, read_adapters
from llm_from_scratch.huggingface.settings import to_settings
from llm_from_scratch.huggingface.tensors import to_weights
from llm_from_scratch.lora import adapt, adapted_layers, attach, kept_parameters, merge
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.pretrained import find_model

FAMILIES = {
    "article": ARTICLE,
    "gpt2": GPT2,
    "modern": MODERN,
    "qwen2": IMPORTED["qwen2"],
    "llama3": IMPORTED["llama3"],
}


def base_model(kind: str, folder: Path) -> GPT:
    """A model, and its folder of transformers."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=V, n_embd=32, block_size=16, **({"n_head": 4} | FAMILIES[kind]))).eval()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_settings(model.config)), encoding="utf-8")
    state = {name: one.detach() for name, one in model.named_parameters()}
    save_file(to_weights(state, model.config), folder / "model.safetensors", metadata={"format": "pt"})
    return model


def written(model: GPT, folder: Path, rank: int = 3, alpha: float = 12.0, base: str = "base") -> None:
    folder.mkdir(exist_ok=True)
    write = adapter_writer(model.config, base, rank=rank, alpha=alpha, p=0.0)
    write({name: one.detach() for name, one in kept_parameters(model).items()}, folder)


@pytest.mark.parametrize("targets", [LINEAR_LAYERS, ("attention.qkv", "blocks.0.feed_forward.out")])
@pytest.mark.parametrize("kind", FAMILIES)
def test_peft_computes_the_logits_of_what_is_written(kind: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = base_model(kind, tmp_path / "base")
    adapt(model, targets, rank=3, alpha=12.0, p=0.0)
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    written(model, tmp_path / "adapter")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    ids = torch.randint(V, (2, 16))
    before = theirs(ids).logits.detach()
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    assert (adapted(ids).logits - before).abs().max() > 0.1
    torch.testing.assert_close(adapted(ids).logits, model(ids), rtol=0, atol=1e-5)
    # Read again, the adapters are those that were written.
    again = read_adapters(tmp_path / "adapter", model.config)
    assert list(again) == list(adapted_layers(model))
    for name, layer in adapted_layers(model).items():
        assert torch.equal(again[name].a, layer.lora_A)
        assert torch.equal(again[name].b, layer.lora_B)
        assert again[name].scale == layer.scale == 4.0


# What peft trains by default is q and v; ranks and alphas that differ; a scale of alpha / sqrt(r).
THEIRS: dict[str, dict[str, Any]] = {
    "some": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
    "all": {"target_modules": "all-linear"},
    "ranks": {
        "target_modules": ["q_proj", "k_proj", "v_proj", "up_proj"],
        "rank_pattern": {"k_proj": 2},
        "alpha_pattern": {"layers.0.self_attn.v_proj": 3.0},
    },
    "rslora": {"target_modules": ["q_proj", "gate_proj", "up_proj"], "use_rslora": True},
}


@pytest.mark.parametrize("settings", THEIRS)
def test_what_peft_writes_has_the_same_logits_here(settings: str, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = base_model("modern", tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, init_lora_weights=False, **THEIRS[settings])
    adapted = peft.get_peft_model(theirs, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    attach(model, read_adapters(tmp_path / "adapter", model.config))
    ids = torch.randint(V, (2, 16))
    torch.testing.assert_close(model(ids), adapted(ids).logits, rtol=0, atol=1e-5)
    merge(model)
    torch.testing.assert_close(model(ids), adapted(ids).logits, rtol=0, atol=1e-5)


def test_the_revision_of_a_base_is_pefts_own_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = base_model("modern", tmp_path / "base")
    adapt(model, LINEAR_LAYERS, rank=3, alpha=6.0, p=0.0)
    asked: list[str] = []

    def download(name: str, *, fetch: bool = True) -> Path:
        asked.append(name)
        return tmp_path / "base"

    monkeypatch.setattr(hub, "download", download)
    for base, name, revision in (
        ("hub:owner/name@refs/pr/1", "owner/name", "refs/pr/1"),
        ("hub:owner/name", "owner/name", None),
        ("folder/a@b", "folder/a@b", None),
    ):
        written(model, tmp_path / "adapter", base=base)
        settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text(encoding="utf-8"))
        assert (settings["base_model_name_or_path"], settings["revision"]) == (name, revision)
    peft = pytest.importorskip("peft")
    written(model, tmp_path / "adapter", base="hub:owner/name@v1")
    theirs = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert (theirs.base_model_name_or_path, theirs.revision) == ("owner/name", "v1")
    theirs.revision = "v2"
    theirs.save_pretrained(tmp_path / "adapter")
    find_model(str(tmp_path / "adapter")).checksum()
    # A name with the revision in it, as an earlier version wrote it
    path = tmp_path / "adapter/adapter_config.json"
    older = json.loads(path.read_text(encoding="utf-8")) | {
        "base_model_name_or_path": "owner/name@v3",
        "revision": None,
    }
    path.write_text(json.dumps(older), encoding="utf-8")
    find_model(str(tmp_path / "adapter")).checksum()
    assert asked == ["hub:owner/name@v2", "hub:owner/name@v3"]
    # The revision of a folder is not looked at, as by transformers.
    (tmp_path / "owner/name").parent.mkdir()
    (tmp_path / "base").rename(tmp_path / "owner/name")
    path.write_text(json.dumps(older | {"base_model_name_or_path": "owner/name", "revision": "v4"}), encoding="utf-8")
    find_model(str(tmp_path / "adapter")).checksum()
    assert len(asked) == 2


def test_a_model_of_no_class_of_transformers_keeps_its_own_names(tmp_path: Path) -> None:
    model = GPT(GPTConfig(vocab_size=V, n_embd=32, n_head=4, block_size=16, **(MODERN | {"activation": "relu2"})))
    adapt(model, LINEAR_LAYERS, rank=3, alpha=6.0, p=0.0)
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_B)
    written(model, tmp_path / "adapter", alpha=6.0)
    again = read_adapters(tmp_path / "adapter", model.config)
    assert {name: one.scale for name, one in again.items()} == dict.fromkeys(adapted_layers(model), 2.0)
    assert torch.equal(again["blocks.1.feed_forward.up"].b, model.get_parameter("blocks.1.feed_forward.up.lora_B"))


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("peft_type", "IA3", "peft_type='IA3' is not supported"),
        ("use_dora", True, "use_dora=True is not supported"),
        ("bias", "all", "bias='all' is not supported"),
        ("init_lora_weights", "pissa_niter_4", "init_lora_weights='pissa_niter_4' is not supported"),
        ("modules_to_save", ["lm_head"], "is not supported: merge it with peft"),
        ("lora_alpha", float("inf"), "must be a finite number above 0"),
        ("alpha_pattern", {"(a+)+$": 1}, "is a regular expression"),
        ("base_model_name_or_path", None, "must name the model that it adapts"),
        ("revision", 3, "revision=3 must be a branch, a tag or a commit"),
        ("revision", "a b", "revision='a b' must be a branch, a tag or a commit"),
    ],
)
def test_what_is_not_computed_here_is_refused_in_one_line(entry: str, value: Any, words: str, tmp_path: Path) -> None:
    model = GPT(GPTConfig(vocab_size=V, n_embd=32, n_head=4, block_size=16, **MODERN))
    adapt(model, LINEAR_LAYERS, rank=3, alpha=6.0, p=0.0)
    written(model, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {entry: value}), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_adapters(tmp_path / "adapter", model.config)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_tensors_of_other_layers_or_shapes_are_refused(tmp_path: Path) -> None:
    model = GPT(GPTConfig(vocab_size=V, n_embd=32, n_head=4, block_size=16, **MODERN))
    adapt(model, LINEAR_LAYERS, rank=3, alpha=6.0, p=0.0)
    written(model, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors, name = load_file(path), "base_model.model.model.layers.1.self_attn.k_proj.lora_{}.weight"
    for changed, words in (
        ({"base_model.model.lm_head.lora_A.weight": torch.zeros(3, 32)}, "lm_head A' is of no linear layer"),
        ({name.format("B"): torch.zeros(4, 3)}, "and 4 outputs, and the layer has 32 and 16"),
        ({name.format("B"): torch.zeros(16, 2)}, "are not two matrices of one rank"),
        ({"base_model.model.model.norm.weight": torch.zeros(3)}, "is of no linear layer's adapter"),
    ):
        save_file(tensors | changed, path)
        with pytest.raises(UserError) as error:
            read_adapters(tmp_path / "adapter", model.config)
        assert words in str(error.value)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        read_adapters(tmp_path / "adapter", model.config)
