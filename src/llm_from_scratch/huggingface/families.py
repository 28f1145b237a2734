"""Families of models that transformers computes too, one table each, read in both directions.

    GPTConfig <-> config.json          `settings`
    parameters <-> tensors             `tensors`

Shapes: C channels (n_embd), H query heads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_from_scratch.errors import UserError
from llm_from_scratch.model import GPTConfig

MAX_NUMBER = 2**31
REQUIRED = object()


@dataclass(frozen=True)
class Key:
    """An entry of config.json that means the same as a setting of GPTConfig."""

    name: str
    kind: type  # int | float | bool
    # where the entry is absent, as in the class of transformers; None: the setting may be null
    default: Any = REQUIRED

    def read(self, settings: Mapping[str, Any]) -> Any:
        """Returns the entry's value.

        Raises:
            UserError: when it is absent without a default, of another type or out of range.
        """
        value = settings.get(self.name, self.default)
        if value is REQUIRED:
            raise UserError(f"{self.name} is missing: the model's size is unknown")
        if value is None and self.default is None:
            return None
        if self.kind is bool:
            right, need = isinstance(value, bool), "true or false"
        elif self.kind is int:
            right, need = type(value) is int and 1 <= value < MAX_NUMBER, f"a whole number from 1 to {MAX_NUMBER - 1}"
        else:
            right = type(value) in (int, float) and 0 < value < math.inf
            need = "a finite number above 0"
        if not right:
            raise UserError(f"{self.name}={value!r:.60} must be {need}")
        return value


@dataclass(frozen=True, kw_only=True)
class Family:
    """The table of one family: names, and the settings that its class of transformers computes."""

    model_type: str
    architecture: str  # the class of transformers
    keys: Mapping[str, Key]  # setting of GPTConfig -> entry of config.json
    activation: str  # the entry of config.json
    default_activation: str  # of the class, where the entry is absent
    activations: Mapping[str, str]  # their name -> ours; the first of ours is written
    # Setting of GPTConfig -> values that the class computes; a model read from a folder has the
    # first, unless config.json decides it
    settings: Mapping[str, tuple[Any, ...]]
    biases: tuple[str, ...] = ()  # entries that are all equal to model.bias
    # Entries that change what is computed -> the value, also the default, that this GPT computes
    fixed: Mapping[str, Any] = field(default_factory=dict)
    dropouts: tuple[str, ...] = ()  # entries that are equal to model.dropout; for training alone
    even_heads: bool = False  # whether the class demands that H divides C
    tensors: Mapping[str, tuple[str, ...]]  # module here -> modules there, whose rows it holds
    prefix: str  # of all modules but the head; absent in the folder of a class without head
    transposed: bool = False  # whether the matrices of a block are (in, out), as Conv1D keeps them
    unused: str = r"(?!)"  # names of old buffers, as a regular expression


def _names(
    layers: str, top: Mapping[str, str], block: Mapping[str, str | tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Returns templates of names with `{i}` for the layer."""
    inside = {name: (theirs,) if isinstance(theirs, str) else theirs for name, theirs in block.items()}
    return {name: (theirs,) for name, theirs in top.items()} | {
        f"blocks.{{i}}.{name}": tuple(f"{layers}.{{i}}.{one}" for one in theirs) for name, theirs in inside.items()
    }


# ---------------------------------------------------------------------------- GPT and GPT-2: tables
_GPT_KEYS = {
    "vocab_size": Key("vocab_size", int),
    "block_size": Key("n_positions", int),
    "n_layer": Key("n_layer", int),
    "n_head": Key("n_head", int),
    "n_embd": Key("n_embd", int),
    "norm_eps": Key("layer_norm_epsilon", float, 1e-5),
    "tie_weights": Key("tie_word_embeddings", bool, True),
}
_GPT_BLOCK: dict[str, str | tuple[str, ...]] = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.out": "mlp.c_proj",
}
_GPT_DROPOUTS = ("embd_pdrop", "resid_pdrop", "attn_pdrop")
_GPT_SETTINGS: dict[str, tuple[Any, ...]] = {
    "norm": ("layernorm",),
    "qk_norm": (False,),
    "bias": (True,),
    "qkv_bias": (False,),
}

OPENAI_GPT = Family(
    model_type="openai-gpt",
    architecture="OpenAIGPTLMHeadModel",
    keys=_GPT_KEYS,
    activation="afn",
    default_activation="gelu",
    activations={"relu": "relu", "gelu": "gelu"},  # its "gelu" is the form with tanh
    settings={**_GPT_SETTINGS, "norm_position": ("post",), "position": ("learned", "sinusoidal")},
    dropouts=_GPT_DROPOUTS,
    tensors=_names(
        "transformer.h",
        {
            "token_embedding": "transformer.tokens_embed",
            "position_embedding": "transformer.positions_embed",
            "head": "lm_head",
        },
        _GPT_BLOCK,
    ),
    prefix="transformer.",
    transposed=True,
    unused=r"transformer\.(position_ids|h\.\d+\.attn\.bias)",
)
GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    keys={**_GPT_KEYS, "n_inner": Key("n_inner", int, None)},
    activation="activation_function",
    default_activation="gelu_new",
    activations={"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_erf", "relu": "relu"},
    settings={**_GPT_SETTINGS, "norm_position": ("pre",), "position": ("learned",)},
    fixed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    dropouts=_GPT_DROPOUTS,
    tensors=_names(
        "transformer.h",
        {
            "token_embedding": "transformer.wte",
            "position_embedding": "transformer.wpe",
            "norm": "transformer.ln_f",
            "head": "lm_head",
        },
        _GPT_BLOCK,
    ),
    prefix="transformer.",
    transposed=True,
    unused=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
)

# ---------------------------------------------------------------------- Llama, Qwen2, Qwen3: tables
_LLAMA_KEYS = {
    "vocab_size": Key("vocab_size", int),
    "block_size": Key("max_position_embeddings", int),
    "n_layer": Key("num_hidden_layers", int),
    "n_head": Key("num_attention_heads", int),
    "n_kv_head": Key("num_key_value_heads", int, None),
    "n_embd": Key("hidden_size", int),
    "head_size": Key("head_dim", int, None),
    "n_inner": Key("intermediate_size", int),
    "norm_eps": Key("rms_norm_eps", float, 1e-6),
    "tie_weights": Key("tie_word_embeddings", bool, False),
}
_LLAMA_TOP = {"token_embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_LLAMA_BLOCK: dict[str, str | tuple[str, ...]] = {
    "attention_norm": "input_layernorm",
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.up": ("mlp.gate_proj", "mlp.up_proj"),
    "feed_forward.out": "mlp.down_proj",
}
_QK_NORMS = {"attention.q_norm": "self_attn.q_norm", "attention.k_norm": "self_attn.k_norm"}
_LLAMA_SETTINGS: dict[str, tuple[Any, ...]] = {
    "norm": ("rmsnorm",),
    "norm_position": ("pre",),
    "position": ("rotary",),
}
_INV_FREQ = r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    keys=_LLAMA_KEYS,
    activation="hidden_act",
    default_activation="silu",
    activations={"silu": "swiglu"},
    settings={**_LLAMA_SETTINGS, "qk_norm": (False,), "bias": (False, True), "qkv_bias": (False,)},
    biases=("attention_bias", "mlp_bias"),
    even_heads=True,
    tensors=_names("model.layers", _LLAMA_TOP, _LLAMA_BLOCK),
    prefix="model.",
    unused=_INV_FREQ,
)
QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    keys=_LLAMA_KEYS,
    activation="hidden_act",
    default_activation="silu",
    activations={"silu": "swiglu"},
    settings={**_LLAMA_SETTINGS, "qk_norm": (False,), "bias": (False,), "qkv_bias": (True,)},
    tensors=_names("model.layers", _LLAMA_TOP, _LLAMA_BLOCK),
    prefix="model.",
    unused=_INV_FREQ,
)
QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    keys={**_LLAMA_KEYS, "head_size": Key("head_dim", int, 128)},
    activation="hidden_act",
    default_activation="silu",
    activations={"silu": "swiglu"},
    settings={**_LLAMA_SETTINGS, "qk_norm": (True,), "bias": (False,), "qkv_bias": (False,)},
    fixed={"attention_bias": False},
    tensors=_names("model.layers", _LLAMA_TOP, {**_LLAMA_BLOCK, **_QK_NORMS}),
    prefix="model.",
    unused=_INV_FREQ,
)
FAMILIES = {family.model_type: family for family in (OPENAI_GPT, GPT2, LLAMA, QWEN2, QWEN3)}


# ------------------------------------------------------------------------- the family of a model
def family_of(config: GPTConfig) -> Family:
    """Returns the family that computes the model of a config.

    Raises:
        UserError: when no class of transformers computes it; it names the setting.
    """
    obstacles = {name: _obstacles(family, config) for name, family in FAMILIES.items()}
    nearest = min(obstacles, key=lambda name: len(obstacles[name]))
    if obstacles[nearest]:
        raise UserError(
            f"no model of transformers computes this one: {', '.join(obstacles[nearest])}"
            f" (of {FAMILIES[nearest].architecture}, the nearest)"
        )
    return FAMILIES[nearest]


def _obstacles(family: Family, config: GPTConfig) -> list[str]:
    """Lists the settings that a family's class does not compute, with the values that it does."""
    allowed = {**family.settings, "activation": tuple(family.activations.values())}
    found = []
    for name, values in allowed.items():
        if getattr(config, name) not in values:
            takes = " or ".join(dict.fromkeys(shown(value) for value in values))
            found.append(f"model.{name}={shown(getattr(config, name))} would have to be {takes}")
    if config.unique_layers != config.n_layer:
        found.append(
            f"model.n_unique_layer={config.n_unique_layer}: layers that share weights would have to be distinct"
        )
    if "n_kv_head" not in family.keys and config.kv_heads != config.n_head:
        found.append(f"model.n_kv_head={config.n_kv_head} would have to be null")
    if "head_size" not in family.keys and config.n_head * config.head_dim != config.n_embd:
        found.append(f"model.head_size={config.head_size} would have to be null")
    if family.even_heads and config.n_embd % config.n_head:
        found.append(f"model.n_head={config.n_head} would have to divide model.n_embd={config.n_embd}")
    if "n_inner" not in family.keys and config.inner_size != 4 * config.n_embd:
        found.append(f"model.n_inner={config.n_inner} would have to be null")
    return found


def shown(value: Any) -> str:
    """Formats a setting's value as config.yaml and config.json write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
