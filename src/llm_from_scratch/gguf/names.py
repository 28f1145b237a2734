"""One table an architecture of llama.cpp: its settings, tensors and keys, read in both directions.

A parameter of our GPT is one tensor of the file, or several one above the other. llama.cpp turns
channels 2i and 2i + 1 of a head together in `llama`, channels i and i + D/2, as we do, elsewhere.

Shapes: C channels, D head size, H heads.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llm_from_scratch.config import ModelConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.model import GPT, GPTConfig, scaled_frequencies

ROPE_FACTORS = "rope_freqs"  # a tensor (D/2,) by which the rotary frequencies are divided
_LAYERS = {
    "token_embedding": ("token_embd",),
    "position_embedding": ("position_embd",),
    "norm": ("output_norm",),
    "head": ("output",),
    "attention_norm": ("attn_norm",),
    "attention.qkv": ("attn_q", "attn_k", "attn_v"),
    "attention.q_norm": ("attn_q_norm",),
    "attention.k_norm": ("attn_k_norm",),
    "attention.out": ("attn_output",),
    "feed_forward_norm": ("ffn_norm",),
    "feed_forward.up": ("ffn_gate", "ffn_up"),
    "feed_forward.out": ("ffn_down",),
}
_GPT2_LAYERS = _LAYERS | {"attention.qkv": ("attn_qkv",), "feed_forward.up": ("ffn_up",)}
_MODERN = {"norm_position": "pre", "position": "rotary", "norm": "rmsnorm", "activation": "swiglu"}


@dataclass(frozen=True)
class Architecture:
    """Architecture of llama.cpp."""

    name: str
    settings: Mapping[str, Any]  # those of ModelConfig that it fixes
    layers: Mapping[str, tuple[str, ...]]  # our layer -> tensors, of which it is the rows
    epsilon: str  # the key of norm_eps
    interleaved: bool = False  # rotary pairs are channels (2i, 2i + 1)


ARCHITECTURES = {
    one.name: one
    for one in (
        Architecture(
            "llama",
            _MODERN | {"qk_norm": False, "qkv_bias": False},
            _LAYERS,
            "attention.layer_norm_rms_epsilon",
            interleaved=True,
        ),
        Architecture(
            "qwen2",
            _MODERN | {"qk_norm": False, "bias": False, "qkv_bias": True},
            _LAYERS,
            "attention.layer_norm_rms_epsilon",
        ),
        Architecture(
            "qwen3",
            _MODERN | {"qk_norm": True, "bias": False, "qkv_bias": False},
            _LAYERS,
            "attention.layer_norm_rms_epsilon",
        ),
        Architecture(
            "gpt2",
            {
                "norm_position": "pre",
                "position": "learned",
                "norm": "layernorm",
                "activation": "gelu",
                "qk_norm": False,
                "bias": True,
                "qkv_bias": False,
            },
            _GPT2_LAYERS,
            "attention.layer_norm_epsilon",
        ),
    )
}


def architecture_of(config: ModelConfig) -> Architecture:
    """Returns the architecture of llama.cpp that computes the logits of a model.

    Raises:
        UserError: when there is none; it names the setting.
    """
    if config.unique_layers != config.n_layer:
        raise UserError(
            f"model.n_unique_layer={config.n_unique_layer}: layers of a GGUF file do not share their weights; "
            "export a model with n_unique_layer=null"
        )
    modern = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    found = ARCHITECTURES["gpt2" if config.position == "learned" else modern]
    for key, needed in found.settings.items():
        if getattr(config, key) != needed:
            raise UserError(
                f"model.{key}={_yaml(getattr(config, key))}: llama.cpp has no architecture for this model "
                f"({found.name}, the nearest, needs {key}={_yaml(needed)})"
            )
    key = "n_kv_head" if config.kv_heads != config.n_head else "head_size"
    if (
        found.name == "gpt2"
        and not config.kv_heads * config.head_dim == config.n_head * config.head_dim == config.n_embd
    ):
        raise UserError(
            f"model.{key}={getattr(config, key)}: llama.cpp's gpt2 has as many key/value heads as query heads, "
            "of n_embd / n_head channels: export a model with null there"
        )
    if (config.rope_scaling or {}).get("rope_type") == "llama3" and found.name != "llama":
        raise UserError(
            f"model.rope_scaling: llama.cpp's {found.name} has none of the type llama3: "
            "export a model with rope_type=linear or without"
        )
    return found


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# ------------------------------------------------------------------------------------------ tensors
@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of a parameter, which are the tensor `name` of the file."""

    name: str
    start: int
    stop: int
    heads: int = 0  # heads whose rows are in the order of interleaved pairs; 0: in ours


def parts(model: GPT, architecture: Architecture) -> dict[str, list[Part]]:
    """Maps each parameter of a model, by name, to its tensors of the file, in the order of rows."""
    config, found = model.config, {}
    for name, parameter in model.named_parameters():
        match = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.*)\.(weight|bias)", name)
        assert match, name
        number, layer, kind = match.groups()
        prefix = "" if number is None else f"blk.{number}."
        names = architecture.layers[layer]
        heads = [config.n_head, config.kv_heads, config.kv_heads]
        rows = [len(parameter) // len(names)] * len(names)
        if len(names) == 3:
            rows = [count * config.head_dim for count in heads]
        ends = np.cumsum([0, *rows]).tolist()
        turned = heads[:2] + [0] if len(names) == 3 and architecture.interleaved else [0] * 3
        found[name] = [
            Part(f"{prefix}{part}.{kind}", start, stop, turns)
            for part, start, stop, turns in zip(names, ends, ends[1:], turned, strict=False)
        ]
    return found


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Puts the rows (H D, …) of q or k from pairs (i, i + D/2) into pairs (2i, 2i + 1)."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def deinterleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Puts the rows (H D, …) of q or k from pairs (2i, 2i + 1) into pairs (i, i + D/2)."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def rope_factors(config: ModelConfig) -> np.ndarray | None:
    """Returns the tensor `rope_freqs` (D/2,) of a model with llama3's scaling, else None."""
    scaling = config.rope_scaling
    if scaling is None or scaling["rope_type"] != "llama3":
        return None
    wavelengths = 2 * np.pi * config.rope_base ** (torch.arange(0, config.head_dim, 2) / config.head_dim)
    return (1 / scaled_frequencies(wavelengths, scaling)).float().numpy()


# --------------------------------------------------------------------------------------------- keys
def keys_of(config: GPTConfig, architecture: Architecture) -> dict[str, int | float | str]:
    """Returns the keys of the file that give a model's sizes."""
    found: dict[str, int | float | str] = {
        "context_length": config.block_size,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.inner_size,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.kv_heads,
        architecture.epsilon: config.norm_eps,
        "vocab_size": config.vocab_size,
    }
    if config.position == "rotary":
        found |= {
            "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim,
            "rope.dimension_count": config.head_dim,
            "rope.freq_base": config.rope_base,
        }
    if config.rope_scaling is not None and config.rope_scaling["rope_type"] == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(config.rope_scaling["factor"])}
    return {f"{architecture.name}.{key}": value for key, value in found.items()}


# Keys beside those of `keys_of` that change nothing in what the model computes.
_HARMLESS = {"tensor_data_layout", "rope.scaling.original_context_length", "rope.scaling.finetuned"}


class _Keys:
    """The keys of an untrusted file that begin with its architecture's name."""

    def __init__(self, metadata: Mapping[str, Any], architecture: Architecture) -> None:
        self.prefix = f"{architecture.name}."
        self.values = {key: value for key, value in metadata.items() if key.startswith(self.prefix)}
        self.read: set[str] = set()

    def count(self, key: str, default: int | None = None, most: int = 2**31) -> int:
        """Returns a whole number of 1 or more; a file without the key has the default."""
        value = self.take(key, default)
        if type(value) is not int or not 1 <= value <= most:
            raise UserError(f"{self.prefix}{key}={value!r:.40}: no whole number from 1 to {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Returns a number, which the file holds in float32, with the fewest digits that it has."""
        value = self.take(key, default)
        if type(value) not in (int, float):
            raise UserError(f"{self.prefix}{key}={value!r:.40}: no number")
        with np.errstate(over="ignore"):
            return float(str(np.float32(value)))

    def take(self, key: str, default: Any = None) -> Any:
        self.read.add(self.prefix + key)
        value = self.values.get(self.prefix + key, default)
        if value is None:
            raise UserError(f"the key {self.prefix}{key} is missing")
        return value

    def refuse_others(self) -> None:
        """Raises UserError where a key is left that changes what the model computes."""
        for key in sorted(set(self.values) - self.read):
            value = self.values[key]
            if key.removeprefix(self.prefix) not in _HARMLESS and (not isinstance(value, int | float) or value != 0):
                raise UserError(f"{key}={value!r:.40}: this package has no model with it")


def config_of(
    metadata: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    factors: np.ndarray | None = None,
    block_size: int | None = None,
) -> tuple[GPTConfig, Architecture]:
    """Returns a model's settings from the keys and the shapes of the tensors of an untrusted file.

    Args:
        metadata: the keys of the file.
        shapes: of its tensors, by name; rows first.
        factors: the tensor `rope_freqs`, where the file has one.
        block_size: the context, tokens, at most the file's; None: the file's.

    Raises:
        UserError: when this package has no such model, or a key is missing or damaged.
    """
    name = metadata.get("general.architecture")
    architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if architecture is None:
        raise UserError(f"the architecture {name!r:.40} is none of {', '.join(ARCHITECTURES)}")
    keys = _Keys(metadata, architecture)
    embedding = shapes.get("token_embd.weight", ())
    heads, width = keys.count("attention.head_count"), keys.count("embedding_length")
    if len(embedding) != 2 or embedding[1] != width:
        raise UserError(f"token_embd.weight of shape {tuple(embedding)} has not {width} columns (embedding_length)")
    settings: dict[str, Any] = {
        "vocab_size": embedding[0],
        "block_size": _context(keys.count("context_length"), block_size),
        "n_layer": keys.count("block_count"),
        "n_head": heads,
        "n_embd": width,
        "n_inner": keys.count("feed_forward_length"),
        "norm_eps": keys.number(architecture.epsilon),
        "tie_weights": "output.weight" not in shapes,
        "bias": "blk.0.attn_output.bias" in shapes,
    } | dict(architecture.settings)
    kv_heads = keys.count("attention.head_count_kv", heads)
    settings["n_kv_head"] = None if kv_heads == heads else kv_heads
    keys.read.add(f"{architecture.name}.vocab_size")
    if settings["position"] == "rotary":
        settings |= _rotary(keys, heads, width, factors)
    keys.refuse_others()
    return GPTConfig(**settings), architecture


def _context(own: int, wanted: int | None) -> int:
    if wanted is not None and wanted > own:
        raise UserError(f"block_size={wanted} exceeds the {own} positions of the model: use at most that")
    return own if wanted is None else wanted


def _rotary(keys: _Keys, heads: int, width: int, factors: np.ndarray | None) -> dict[str, Any]:
    size = keys.count("attention.key_length", max(1, width // heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        other = keys.count(key, size)
        if other != size:
            raise UserError(f"{keys.prefix}{key}={other}: this package has no model with it beside heads of {size}")
    base = keys.number("rope.freq_base", 10_000.0)
    found: dict[str, Any] = {"rope_base": base, "head_size": None if size * heads == width else size}
    kind = keys.take("rope.scaling.type", "none")
    factor = keys.number("rope.scaling.factor", 1.0)
    if kind == "linear":
        found["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    elif kind != "none" or factor != 1:
        raise UserError(f"{keys.prefix}rope.scaling.type={kind!r:.40}: this package has linear alone")
    if factors is not None:
        if kind != "none":
            raise UserError(f"{ROPE_FACTORS}.weight beside {keys.prefix}rope.scaling.type: one of them is too many")
        found["rope_scaling"] = _llama3(factors, size, base)
    return found


def _llama3(factors: np.ndarray, head_size: int, base: float) -> dict[str, Any]:
    """Recovers the settings of llama3's scaling, of which the file holds the factors alone.

    All published models have the bands 1 and 4 and were trained at 8,192 positions.
    """
    scaling = {
        "rope_type": "llama3",
        "factor": float(factors.max(initial=1.0)),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    probe = ModelConfig(n_embd=head_size, n_head=1, rope_base=base, rope_scaling=scaling)
    expected = rope_factors(probe)
    if expected is None or expected.shape != factors.shape or not np.allclose(expected, factors, rtol=1e-3):
        raise UserError(f"{ROPE_FACTORS}.weight: the factors are not those of Llama 3: this package has no such model")
    return scaling
