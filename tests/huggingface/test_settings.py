"""config.json: what transformers makes of ours, what is read of theirs, what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from small_models import IMPORTED, KINDS

from llm_from_scratch.check import check
from llm_from_scratch.config import Config
from llm_from_scratch.errors import UserError
from llm_from_scratch.huggingface.settings import from_settings, to_settings
from llm_from_scratch.model import GPTConfig

EXPORTED = [*IMPORTED, "article", "gpt2", "modern"]
# The config.json of meta-llama/Llama-3.2-1B, openai-community/gpt2 and Qwen/Qwen2.5-0.5B, without
# entries of no effect.
LLAMA_32: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
    "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
    "vocab_size": 128256,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_type": "cls_index", "vocab_size": 50257,
}  # fmt: skip
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": True, "use_mrope": False, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip

# Of Qwen/Qwen3-0.6B
QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
    "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip


def config(kind: str, **changes: Any) -> GPTConfig:
    return GPTConfig(**{"vocab_size": 61, "block_size": 16, "n_embd": 32, **KINDS[kind], **changes})


def effect(config: GPTConfig) -> dict[str, Any]:
    """The settings that the logits depend on, defaults worked out."""
    names = ("vocab_size", "block_size", "n_layer", "n_head", "kv_heads", "n_embd", "head_dim", "inner_size")
    names += ("norm", "norm_position", "activation", "qk_norm", "bias", "qkv_bias", "tie_weights")
    names += ("rope_base", "rope_scaling", "norm_eps")
    return {name: getattr(config, name) for name in names}


@pytest.mark.parametrize("kind", EXPORTED)
def test_out_and_in_again_is_the_same_model(kind: str) -> None:
    ours = config(kind, dropout=0.1, rope_base=1000.0 if kind in IMPORTED else 10_000.0)
    settings = json.loads(json.dumps(to_settings(ours, bos_id=3, end_ids=[3])))
    assert effect(GPTConfig(**from_settings(settings))) == effect(ours)


@pytest.mark.parametrize("published", [LLAMA_32, GPT2, QWEN2, QWEN3], ids=lambda one: str(one["model_type"]))
def test_published_models_are_within_the_ranges_of_a_training(published: dict[str, Any]) -> None:
    model = from_settings(published)
    sizes = {"vocab_size": model.pop("vocab_size")}
    tokenizer = {"kind": "bytes", "vocab_size": None}
    settings = check({"init_from": "folder", "model": model, "tokenizer": tokenizer}, Config)
    assert GPTConfig(**sizes, **vars(settings.model)) == GPTConfig(**sizes, **model)


@pytest.mark.parametrize("kind", EXPORTED)
def test_transformers_reads_what_it_would_write(kind: str, tmp_path: Path) -> None:
    """Its class takes every entry as an attribute, and its own config.json is read as ours is."""
    transformers = pytest.importorskip("transformers")
    ours = config(kind)
    settings = to_settings(ours, bos_id=0, end_ids=[0, 3])
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, str(theirs.dtype)) == (0, [0, 3], "torch.float32")
    for name in settings.keys() - {"dtype", "torch_dtype", "rope_scaling", "rope_theta"}:
        assert getattr(theirs, name) == settings[name], name
    theirs.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert effect(GPTConfig(**from_settings(written))) == effect(ours)


def test_ids_are_a_number_a_list_or_null() -> None:
    assert to_settings(config("gpt2"))["eos_token_id"] is None
    assert to_settings(config("gpt2"), end_ids=[7])["eos_token_id"] == 7
    assert to_settings(config("gpt2"), end_ids=[7, 9])["eos_token_id"] == [7, 9]


def test_published_files_are_read() -> None:
    llama = GPTConfig(**from_settings(LLAMA_32))
    assert (llama.block_size, llama.rope_base, llama.head_dim, llama.kv_heads) == (131_072, 500_000.0, 64, 8)
    assert llama.rope_scaling == LLAMA_32["rope_scaling"]
    gpt2 = GPTConfig(**from_settings(GPT2))
    assert (gpt2.activation, gpt2.inner_size, gpt2.tie_weights, gpt2.position) == ("gelu", 3072, True, "learned")
    qwen = GPTConfig(**from_settings(QWEN2))
    assert (qwen.qkv_bias, qwen.bias, qwen.head_dim, qwen.tie_weights) == (True, False, 64, True)


def test_an_absent_entry_has_the_default_of_its_class() -> None:
    def without(settings: dict[str, Any], *names: str) -> GPTConfig:
        return GPTConfig(**from_settings({key: value for key, value in settings.items() if key not in names}))

    bare = without(LLAMA_32, "tie_word_embeddings", "rope_theta", "rope_scaling", "num_key_value_heads", "head_dim")
    assert (bare.tie_weights, bare.rope_base, bare.rope_scaling, bare.kv_heads) == (False, 10_000.0, None, 32)
    assert without(GPT2, "activation_function", "layer_norm_epsilon").activation == "gelu"
    qwen3 = {**LLAMA_32, "model_type": "qwen3"}
    assert without(qwen3, "head_dim").head_dim == 128
    # The form of versions before 4.43, whose first context is the model's
    old = {**LLAMA_32, "rope_scaling": {"type": "linear", "factor": 2}}
    assert without(old).rope_scaling == {"rope_type": "linear", "factor": 2}
    scaling = {k: v for k, v in LLAMA_32["rope_scaling"].items() if k != "original_max_position_embeddings"}
    found = without({**LLAMA_32, "rope_scaling": scaling}).rope_scaling
    assert found is not None
    assert found["original_max_position_embeddings"] == 131_072


SLIDING = "sliding windows of attention are not supported: "


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (LLAMA_32, {"model_type": "mistral"}, "model_type='mistral' is not supported (supported: openai-gpt, gpt2, llama, qwen2, qwen3)"),
        (LLAMA_32, {"model_type": None}, "model_type=None is not supported"),
        (LLAMA_32, {"model_type": ["llama"]}, "model_type=['llama'] is not supported"),
        (LLAMA_32, {"hidden_act": "gelu"}, "hidden_act='gelu' is not supported (supported: silu)"),
        (LLAMA_32, {"attention_bias": True}, "mlp_bias=false is not supported beside attention_bias=true (supported: true)"),
        (LLAMA_32, {"mlp_bias": True}, "mlp_bias=true is not supported beside attention_bias=false (supported: false)"),
        (LLAMA_32, {"model_type": "qwen3", "attention_bias": True}, "attention_bias=true is not supported (supported: false)"),
        (LLAMA_32, {"quantization_config": {"bits": 4}}, "quantization_config: quantized weights are not read"),
        (LLAMA_32, {"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_type='yarn' is not supported (supported: "),
        (LLAMA_32, {"rope_scaling": {"rope_type": "linear"}}, "model.rope_scaling={'rope_type': 'linear'}: linear takes rope_type, factor"),
        (LLAMA_32, {"rope_scaling": [1]}, "rope_scaling=[1] must be an object or null"),
        (LLAMA_32, {"rope_scaling": {"rope_type": "default", "rope_theta": 5.0}}, "rope_theta has two values, 5.0 and 500000.0"),
        (LLAMA_32, {"partial_rotary_factor": 0.5}, "partial_rotary_factor: "),
        (LLAMA_32, {"rope_theta": math.inf}, "rope_theta=inf must be a finite number above 0"),
        (LLAMA_32, {"rms_norm_eps": "1e-5"}, "rms_norm_eps='1e-5' must be a finite number above 0"),
        (LLAMA_32, {"hidden_size": 2048.0}, "hidden_size=2048.0 must be a whole number from 1 to 2147483647"),
        (LLAMA_32, {"num_hidden_layers": True}, "num_hidden_layers=True must be a whole number"),
        (LLAMA_32, {"num_hidden_layers": 1025}, "num_hidden_layers=1025: more than 1024 layers are not read"),
        (LLAMA_32, {"vocab_size": 2**31}, "vocab_size=2147483648 must be a whole number"),
        (LLAMA_32, {"vocab_size": None}, "vocab_size=None must be a whole number"),
        (LLAMA_32, {"tie_word_embeddings": 1}, "tie_word_embeddings=1 must be true or false"),
        (QWEN2, {"use_sliding_window": True, "max_window_layers": 21}, SLIDING),
        (QWEN2, {"layer_types": ["full_attention"] * 23 + ["sliding_attention"]}, SLIDING),
        (QWEN2, {"layer_types": "full_attention"}, SLIDING),
        (GPT2, {"activation_function": "gelu_fast"}, "activation_function='gelu_fast' is not supported (supported: gelu_new, "),
        (GPT2, {"scale_attn_weights": False}, "scale_attn_weights=false is not supported (supported: true)"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=true is not supported"),
        (GPT2, {"add_cross_attention": True}, "add_cross_attention=true is not supported (supported: false)"),
        (GPT2, {"model_type": "openai-gpt", "afn": "silu"}, "afn='silu' is not supported (supported: relu, gelu)"),
    ],
)  # fmt: skip
def test_what_this_model_cannot_hold_is_refused(
    settings: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        from_settings({**settings, **changes})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_missing_size_is_named() -> None:
    settings = {key: value for key, value in GPT2.items() if key != "n_layer"}
    with pytest.raises(UserError, match=r"^n_layer is missing: the model's size is unknown$"):
        from_settings(settings)
    with pytest.raises(UserError, match=r"^no JSON object$"):
        from_settings([settings])


def test_windows_that_no_layer_uses_are_none() -> None:
    for changes in ({"use_sliding_window": True}, {"layer_types": ["full_attention"] * 24}):
        assert GPTConfig(**from_settings({**QWEN2, **changes})).n_layer == 24
