"""Random models of each architecture of llama.cpp, of some 100 KB."""

from pathlib import Path
from typing import Any

import torch
from byte_level import learn

from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, open_gpt2

_SIZES: dict[str, Any] = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_inner": 96, "block_size": 256}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {"qk_norm": False, "n_kv_head": 2},
    "llama, untied": {"qk_norm": False, "tie_weights": False},
    "llama, biases": {"qk_norm": False, "bias": True},
    "llama, heads of 6": {"qk_norm": False, "head_size": 6},
    "llama, scaled": {"qk_norm": False, "head_size": 64, "rope_base": 500_000.0, "rope_scaling": LLAMA3},
    "qwen2": {"qk_norm": False, "qkv_bias": True, "n_kv_head": 1},
    "qwen3": {"n_kv_head": 1, "head_size": 32},
    "qwen3, scaled": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "gpt2": {"norm": "layernorm", "position": "learned", "activation": "gelu", "qk_norm": False, "bias": True},
}
SETTINGS["gpt2, untied"] = SETTINGS["gpt2"] | {"tie_weights": False}


def random_model(name: str, vocab_size: int, **settings: Any) -> GPT:
    """A model whose norms and biases are random as well, so that no exchange of two goes unseen."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=vocab_size, **(_SIZES | SETTINGS[name] | settings))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tokenizer_of(kind: str, text: str, folder: Path) -> Tokenizer:
    """A tokenizer that has learned the text: char, bpe or gpt2."""
    if kind == "char":
        return CharTokenizer.train([text], held_out=["\0"])  # with the bytes
    if kind == "bpe":
        return BPETokenizer.train([text], 500)
    return open_gpt2(str(learn(folder)))
