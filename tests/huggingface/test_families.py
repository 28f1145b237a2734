"""Which family computes a model, and the line where none does."""

import re
from dataclasses import replace
from typing import Any

import pytest
from small_models import KINDS

from llm_from_scratch.errors import UserError
from llm_from_scratch.huggingface.families import FAMILIES, family_of
from llm_from_scratch.model import GPTConfig


def config(kind: str, **changes: Any) -> GPTConfig:
    return GPTConfig(**{"vocab_size": 61, "block_size": 16, "n_embd": 32, **KINDS[kind], **changes})


@pytest.mark.parametrize(
    ("kind", "changes", "model_type"),
    [
        ("article", {}, "openai-gpt"),
        ("article", {"position": "learned", "activation": "gelu"}, "openai-gpt"),
        ("gpt2", {}, "gpt2"),
        ("gpt2", {"activation": "gelu_erf"}, "gpt2"),
        ("gpt2", {"activation": "relu", "n_inner": 80}, "gpt2"),
        ("modern", {}, "qwen3"),
        ("qwen3", {}, "qwen3"),
        ("qwen2", {}, "qwen2"),
        ("llama3", {}, "llama"),
        ("linear", {"bias": True}, "llama"),
        ("linear", {"head_size": 12}, "llama"),
    ],
)
def test_family_of_a_model(kind: str, changes: dict[str, Any], model_type: str) -> None:
    assert family_of(config(kind, **changes)) is FAMILIES[model_type]


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("relu2", {}, "model.activation=relu2 would have to be swiglu (of Qwen3ForCausalLM, the nearest)"),
        ("shared", {}, "model.n_unique_layer=2: layers that share weights would have to be distinct"),
        ("modern", {"norm": "layernorm"}, "model.norm=layernorm would have to be rmsnorm"),
        ("modern", {"bias": True}, "model.qk_norm=true would have to be false (of LlamaForCausalLM, the nearest)"),
        ("gpt2", {"bias": False}, "model.bias=false would have to be true (of GPT2LMHeadModel, the nearest)"),
        ("gpt2", {"n_kv_head": 2}, "model.n_kv_head=2 would have to be null"),
        ("gpt2", {"head_size": 10}, "model.head_size=10 would have to be null"),
        ("article", {"activation": "gelu_erf"}, "model.activation=gelu_erf would have to be relu or gelu"),
        ("article", {"n_inner": 80}, "model.n_inner=80 would have to be null (of OpenAIGPTLMHeadModel, the nearest)"),
        (
            "linear",
            {"n_embd": 30, "n_head": 4, "head_size": 8},
            "model.n_head=4 would have to divide model.n_embd=30",
        ),
    ],
)
def test_a_model_of_no_family_is_refused_with_the_setting_in_the_way(
    kind: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(
        UserError, match="^no model of transformers computes this one: .*" + re.escape(reason)
    ) as caught:
        family_of(config(kind, **changes))
    assert "\n" not in str(caught.value)


def test_what_concerns_training_alone_does_not_decide_the_family() -> None:
    model = config("modern")
    for changes in ({"dropout": 0.2}, {"init_std": 0.5}, {"block_size": 7}, {"tie_weights": False}):
        assert family_of(replace(model, **changes)) is FAMILIES["qwen3"]  # type: ignore[arg-type]
