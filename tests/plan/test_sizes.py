"""Sizes of models and texts, against published ones and arithmetic."""

from pathlib import Path
from typing import Any

import pytest
from plans import GPT2, PRESETS

from llm_from_scratch.check import check
from llm_from_scratch.config import Config
from llm_from_scratch.errors import UserError
from llm_from_scratch.model import GPTConfig
from llm_from_scratch.plan.sizes import (
    assumed_text,
    compute_optimal,
    meta_model,
    nearest,
    training_flops,
)


def test_gpt2_by_hand() -> None:
    model = meta_model(GPTConfig(vocab_size=50_257, **GPT2))
    assert model.num_parameters() == 124_439_808  # as published
    # 12 layers of 12 C^2 weights and a head of V C, 6 FLOPs each; attention 12 L C T.
    assert training_flops(model) == 6 * (12 * 12 * 768**2 + 50_257 * 768) + 12 * 12 * 768 * 1024 == 854_438_400
    shared = meta_model(GPTConfig(vocab_size=50_257, **GPT2, n_unique_layer=3))
    assert training_flops(shared) == training_flops(model)  # fewer weights, used as often
    # Qwen3-0.6B: 28 layers of (4,096 + 2,048 + 3 x 3,072) x 1,024 weights, heads of 16 x 128 at
    # width 1,024.
    shape = {"n_embd": 1024, "n_head": 16, "n_kv_head": 8, "head_size": 128, "n_inner": 3072, "n_layer": 28}
    qwen = meta_model(GPTConfig(vocab_size=151_936, block_size=4096, **shape))
    weights = 28 * (4096 + 2048 + 3 * 3072) * 1024 + 151_936 * 1024
    assert training_flops(qwen) == 6 * weights + 12 * 28 * 16 * 128 * 4096


def test_frozen_weights_take_less() -> None:
    """Two layers of 12 C^2 weights and an untied head of V C, C = 64, V = 100, T = 32."""
    shape = GPTConfig(
        vocab_size=100, **{**GPT2, "n_layer": 2, "n_embd": 64, "n_head": 2, "block_size": 32}, tie_weights=False
    )
    layer, head, attention = 12 * 64**2, 100 * 64, 64 * 32
    model = meta_model(shape)
    assert training_flops(model) == 6 * (2 * layer + head) + 2 * 12 * attention
    model.token_embedding.requires_grad_(False)
    model.position_embedding.requires_grad_(False)
    for weight in model.blocks[0].parameters():
        weight.requires_grad_(False)
    assert training_flops(model) == 2 * layer + 6 * layer + 6 * head + (4 + 12) * attention
    for weight in (*model.blocks[1].parameters(), *model.norm.parameters()):
        weight.requires_grad_(False)
    assert training_flops(model) == 2 * 2 * layer + 4 * head + 2 * 4 * attention  # the head alone: no gradient below it
    model.blocks[0].requires_grad_(True)  # a gradient flows through all that is above
    assert training_flops(model) == (6 + 4) * layer + 6 * head + 2 * 12 * attention


def test_the_optimum_is_chinchilla() -> None:
    # Hoffmann et al. 2022: 5.88e23 FLOPs are 70 billion parameters on 1.4 trillion tokens.
    parameters, tokens = compute_optimal(5.88e23)
    assert parameters == pytest.approx(70e9, rel=0.001)
    assert tokens == pytest.approx(20 * parameters)
    assert nearest(3_000_000, PRESETS) == "tiny"
    assert nearest(4_000_000, PRESETS) == "small"  # 2.75 times rather than 4 times as large


@pytest.mark.parametrize(
    ("values", "vocab_size", "bytes_a_token"),
    [
        ({"kind": "gpt2", "vocab_size": None}, 50_257, 4.5),
        ({"kind": "bpe", "vocab_size": 1024}, 1024, 3),
        ({"kind": "bpe", "vocab_size": 8192}, 8192, 4.5),
        ({"kind": "char", "vocab_size": None}, 256, 1),
    ],
)
def test_a_text_that_is_not_at_hand_has_the_tokenizers_vocabulary(
    values: dict[str, Any], vocab_size: int, bytes_a_token: float
) -> None:
    text = assumed_text(check({"tokenizer": values}, Config), 10**6)
    assert (text.vocab_size, text.train_bytes) == (vocab_size, 10**6 * bytes_a_token)
    assert (text.train_tokens, text.val_tokens, text.estimated) == (10**6, 10**5, True)


def test_a_tokenizer_without_a_size_or_files_cannot_be_planned(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenizer=bpe needs a number of tokens"):
        assumed_text(check({"tokenizer": {"kind": "bpe", "vocab_size": None}}, Config), 10**6)
    files = check({"tokenizer": {"kind": "gpt2", "vocab_size": None, "path": str(tmp_path)}}, Config)
    with pytest.raises(UserError, match=r"there is no vocab\.json with merges\.txt"):
        assumed_text(files, 10**6)
