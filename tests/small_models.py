"""Models and states of some kilobytes, for the tests of models and of run folders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llm_from_scratch.huggingface.settings import to_settings
from llm_from_scratch.huggingface.tensors import to_weights
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.weights import save_model

STATE = {
    "global_step": 7,
    "optimizer_states": [
        {
            "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.arange(6.0).view(2, 3)}},
            "param_groups": [{"betas": (0.9, 0.95)}],
        }
    ],
    "nothing": None,
    "text": "é\n",
}


def small_model(run: Path, step: int, loss: float = 1.5, **settings: Any) -> GPT:
    """Saves a model of two layers and 16 channels as a run's, and returns it."""
    tokenizer = CharTokenizer("abc")
    model = GPT(GPTConfig(vocab_size=4, **({"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8} | settings)))
    run.mkdir(exist_ok=True)
    save_model(dict(model.named_parameters()), model.config, tokenizer, run, step=step, loss=loss)
    return model


# ------------------------------------------------------------------- families, and their twins elsewhere
V = 61
# Small models of the three families: what the presets choose, at a size that a test can afford.
ARTICLE: dict[str, Any] = {
    "n_layer": 2, "n_head": 1, "norm": "layernorm", "norm_position": "post", "position": "sinusoidal", "activation": "relu",
    "qk_norm": False, "bias": True, "tie_weights": False, "norm_eps": 1e-5,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "n_layer": 2,
    "norm": "layernorm",
    "position": "learned",
    "activation": "gelu",
    "qk_norm": False,
    "bias": True,
    "norm_eps": 1e-5,
}
MODERN: dict[str, Any] = {"n_layer": 2, "n_kv_head": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Of the four wavelengths one is kept, one between, two divided
    "original_max_position_embeddings": 64,
}
# Models of others whose weights are to be loaded: the shapes of Qwen3, Qwen2 and Llama 3 that the
# modern family has not.
IMPORTED: dict[str, dict[str, Any]] = {
    "qwen3": {**MODERN, "head_size": 12},
    "qwen2": {**MODERN, "qk_norm": False, "qkv_bias": True},
    "llama3": {**MODERN, "qk_norm": False, "rope_scaling": LLAMA3},
    "linear": {**MODERN, "qk_norm": False, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
}
KINDS = {
    **IMPORTED,
    "article": ARTICLE,
    "gpt2": GPT2,
    "modern": MODERN,
    "shared": {**MODERN, "n_layer": 5, "n_unique_layer": 2},
    "relu2": {**MODERN, "activation": "relu2"},
}


def make(kind: str, **changes: Any) -> GPT:
    """A small model whose every parameter is random, biases and norms too, so that none can be
    forgotten.
    """
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{"vocab_size": V, "block_size": 16, "n_embd": 32, **KINDS[kind], **changes}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.2)
    return model.eval()


def twin_of(model: GPT) -> nn.Module:
    """The class of transformers that computes the same, with the same weights."""
    transformers = pytest.importorskip("transformers")
    settings = to_settings(model.config)
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    twin = transformers.AutoModelForCausalLM.from_config(config)
    wrong = twin.load_state_dict(to_weights(dict(model.named_parameters()), model.config), strict=False)
    assert wrong.unexpected_keys == []
    assert wrong.missing_keys == (["lm_head.weight"] if model.config.tie_weights else [])
    twin.tie_weights()
    return twin.eval()
