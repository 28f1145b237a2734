"""Settings of the model's architecture."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_from_scratch.errors import UserError

_MODEL_CHOICES = {
    "norm": ("layernorm", "rmsnorm"),
    "norm_position": ("pre", "post"),
    "position": ("rotary", "learned", "sinusoidal"),
    "activation": ("relu", "gelu", "gelu_erf", "relu2", "swiglu"),
}
# Where blocks are shared, the size of the weights bounds nothing: a folder of 100 KB would run for minutes.
MAX_SHARING_LAYERS = 1024

# The keys of `model.rope_scaling` beside rope_type, named as in transformers' configurations.
ROPE_SCALING = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def check_rope_scaling(scaling: Mapping[str, Any]) -> None:
    """Checks the keys and values of `model.rope_scaling` against its rope_type.

    Raises:
        UserError: when a key is missing or unknown, or a value is out of range.
    """
    kind = scaling.get("rope_type") if isinstance(scaling, Mapping) else None
    if not isinstance(kind, str) or kind not in ROPE_SCALING:
        raise UserError(f"model.rope_scaling={scaling}: rope_type must be one of {', '.join(ROPE_SCALING)}")
    wanted = {"rope_type", *ROPE_SCALING[kind]}
    if set(scaling) != wanted:
        raise UserError(f"model.rope_scaling={scaling}: {kind} takes rope_type, {', '.join(ROPE_SCALING[kind])}")
    for key in ROPE_SCALING[kind]:
        value, least = scaling[key], 1 if key in ("factor", "original_max_position_embeddings") else 0
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and least <= value < math.inf and value > 0):
            raise UserError(
                f"model.rope_scaling.{key}={value} must be a finite number {'of 1 or more' if least else 'above 0'}"
            )
    if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise UserError(
            f"model.rope_scaling.low_freq_factor={scaling['low_freq_factor']} must be below high_freq_factor="
            f"{scaling['high_freq_factor']}"
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model's architecture, without the vocabulary size, which the tokenizer sets.

    The defaults are a modern GPT: RMSNorm, rotary positions, SwiGLU. Raises UserError.
    """

    block_size: int = 128  # the longest context, tokens
    n_layer: int = 4  # depth: blocks that a token passes through
    n_unique_layer: int | None = None  # distinct blocks, cycled to fill the depth (Lan et al. 2019); null: n_layer
    n_head: int = 4  # query heads
    n_kv_head: int | None = None  # key/value heads, each shared by n_head / n_kv_head queries; null: n_head
    n_embd: int = 128  # width, channels
    head_size: int | None = None  # channels of a head; null: n_embd / n_head
    n_inner: int | None = None  # width inside the feed-forward; null: 4C, for SwiGLU 8C/3 rounded up to 64s
    norm: str = "rmsnorm"  # layernorm | rmsnorm
    norm_position: str = "pre"  # pre: x + f(norm(x)), and a final norm | post: norm(x + f(x))
    position: str = "rotary"  # rotary | learned | sinusoidal
    activation: str = "swiglu"  # relu | gelu (tanh form) | gelu_erf (exact) | relu2 (squared ReLU) | swiglu
    qk_norm: bool = True  # normalise each head's queries and keys
    bias: bool = False  # in every linear layer but the head, and in LayerNorm
    qkv_bias: bool = False  # in the product that makes queries, keys and values alone (Qwen2)
    tie_weights: bool = True  # the head shares the token embedding (Press & Wolf 2017)
    dropout: float = 0.0  # probability, after the embedding, on attention weights and on each residual branch
    rope_base: float = 10_000.0  # rotary wavelengths run from 2 pi to 2 pi rope_base positions
    # As transformers writes it; llama3: {…, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings}
    rope_scaling: dict[str, Any] | None = None  # longer contexts: {rope_type: linear, factor: 4}, or llama3; null: none
    norm_eps: float = 1e-6  # added to the variance (layernorm) or the mean square (rmsnorm) before the root
    init_std: float | None = None  # standard deviation of embeddings and matrices at the start; null: 1/sqrt(C)

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_heads()
        self._check_layers()
        self._check_positions()
        if self.bias and self.qkv_bias:
            raise UserError("model.qkv_bias=true changes nothing beside model.bias=true: leave one of them out")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout={self.dropout} must be a probability from 0 to below 1")

    def _check_sizes(self) -> None:
        optional = ("n_unique_layer", "n_kv_head", "n_inner", "head_size")
        for key in ("block_size", "n_layer", "n_head", "n_embd", *optional):
            value = getattr(self, key)
            if not ((isinstance(value, int) and value >= 1) or (value is None and key in optional)):
                also = " or null" if key in optional else ""
                raise UserError(f"model.{key}={value} must be a whole number of 1 or more{also}")
        for key, choices in _MODEL_CHOICES.items():
            value = str(getattr(self, key))
            if value not in choices:
                nearest = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.0)[0]
                raise UserError(f"model.{key}={value!s:.200} is unknown: use {nearest} (one of {', '.join(choices)})")
        for key in ("rope_base", "norm_eps", "init_std"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"model.{key}={value} must be a finite number above 0")

    def _check_heads(self) -> None:
        if self.head_size is None and self.n_embd % self.n_head:
            divisors = [str(n) for n in range(1, min(self.n_embd, 1000) + 1) if self.n_embd % n == 0]
            raise UserError(
                f"model.n_head={self.n_head} does not divide model.n_embd={self.n_embd}: use one of {', '.join(divisors)}"
            )
        if self.n_head % self.kv_heads:
            divisors = [str(n) for n in range(1, min(self.n_head, 1000) + 1) if self.n_head % n == 0]
            raise UserError(
                f"model.n_kv_head={self.n_kv_head} does not divide model.n_head={self.n_head}: "
                f"use one of {', '.join(divisors)}"
            )

    def _check_layers(self) -> None:
        if self.n_layer > max(self.unique_layers, MAX_SHARING_LAYERS):
            raise UserError(
                f"model.n_layer={self.n_layer}: more than {MAX_SHARING_LAYERS} layers that share their weights: use fewer"
            )
        if self.unique_layers > self.n_layer:
            raise UserError(
                f"model.n_unique_layer={self.n_unique_layer} exceeds model.n_layer={self.n_layer}: use at most that, or null"
            )

    def _check_positions(self) -> None:
        if self.position == "rotary" and self.head_dim % 2:
            if self.head_size is not None:
                raise UserError(
                    f"model.head_size={self.head_size} is odd: rotary positions need an even one, "
                    "change it or use model.position=learned"
                )
            raise UserError(
                f"model.n_embd={self.n_embd} / model.n_head={self.n_head} makes heads of odd size {self.head_dim}: "
                "rotary positions need an even one, change either or use model.position=learned"
            )
        if self.position == "sinusoidal" and self.n_embd % 2:
            raise UserError(f"model.n_embd={self.n_embd} is odd: sinusoidal positions need an even width")
        if self.rope_scaling is not None:
            if self.position != "rotary":
                raise UserError(
                    f"model.rope_scaling={self.rope_scaling} needs model.position=rotary: set it to null, or change that"
                )
            check_rope_scaling(self.rope_scaling)

    @property
    def head_dim(self) -> int:
        """Returns the channels of a head: `head_size`, or n_embd / n_head by default."""
        return self.head_size or self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def unique_layers(self) -> int:
        return self.n_unique_layer or self.n_layer

    @property
    def inner_size(self) -> int:
        """Returns the width inside the feed-forward, in channels: `n_inner`, or its default."""
        # SwiGLU has three matrices instead of two: at 8C/3 it costs what 4C does (Shazeer 2020),
        # and multiples of 64 suit the hardware.
        if self.n_inner:
            return self.n_inner
        return 64 * math.ceil(8 * self.n_embd / 3 / 64) if self.activation == "swiglu" else 4 * self.n_embd
