"""The static step against the growing cache, and the fused kernels against the model, in Triton's
interpreter where there is no GPU.
"""

import os
from typing import Any

import pytest
import torch
from test_generation import BLOCK, FAMILIES, generator, make

from llm_from_scratch import decoding_kernels as kernels
from llm_from_scratch import generation, static_step
from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.generation import generate_tokens, sample
from llm_from_scratch.model import GPT, KVCache
from llm_from_scratch.static_step import bucket

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.2, "top_k": 30, "top_p": 0.95, "min_p": 0.001},
    {"temperature": 1.2, "repetition_penalty": 1.4},
]


def ids_of(model: GPT, prompt: torch.Tensor, **settings: Any) -> torch.Tensor:
    config = SamplingConfig(**settings)
    return torch.stack(list(generate_tokens(model.to(DEVICE), prompt.to(DEVICE), config)), dim=1).cpu()


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "filters", "penalty"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_static_step_writes_what_the_growing_cache_writes(
    family: str, settings: dict[str, Any], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "static", lambda config, device: config.compile == "auto")
    monkeypatch.setattr(static_step, "SMALLEST", 4)
    # A context of 40 passes the buckets of 4, 8, 16 and 32 positions, then is left behind twice.
    model, prompt = make(family, block_size=5 * BLOCK), torch.randint(40, (rows, 3), generator=generator())
    settings = settings | {"max_new_tokens": 10 * BLOCK}
    plain, static = (ids_of(model, prompt, **settings, compile=compiled) for compiled in (False, "auto"))
    assert torch.equal(plain, static)
    assert len(plain.unique()) > 5


def test_one_prompt_is_read_once_for_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = make(block_size=16), torch.randint(40, (1, 5), generator=generator()).to(DEVICE)
    model.to(DEVICE)
    read: list[int] = []
    hidden_states = model.hidden_states
    monkeypatch.setattr(
        model, "hidden_states", lambda ids, cache: read.append(ids.numel()) or hidden_states(ids, cache)
    )
    config = SamplingConfig(max_new_tokens=9, temperature=1.5, num_samples=4, compile=False)
    one = torch.stack(list(generate_tokens(model, prompt, config)), dim=1)
    assert read == [5, *[4] * 8]
    four = torch.stack(list(generate_tokens(model, prompt.repeat(4, 1), config)), dim=1)
    assert torch.equal(one, four)
    assert len({tuple(row) for row in one.tolist()}) == 4


def test_a_bucket_holds_the_length_and_no_more_than_the_context() -> None:
    assert [bucket(n, 1000) for n in (1, 128, 129, 512, 513, 1000)] == [128, 128, 256, 512, 1000, 1000]
    assert bucket(3, 8) == 8


@pytest.mark.skipif(not ON_GPU, reason="needs a CUDA GPU")
@pytest.mark.parametrize(("family", "rows"), [("gpt2", 1), ("gpt2", 8), ("modern", 1)])
def test_all_paths_write_the_same_ids_at_the_size_of_gpt2(family: str, rows: int) -> None:
    sizes = {"n_layer": 12, "n_embd": 768, "n_head": 12, "block_size": 256, "vocab_size": 50_257, "init_std": 0.05}
    model = make(family, **(sizes | ({"n_kv_head": 4} if family == "modern" else {})))
    assert kernels.supports(model)
    plain, fused, compiled = (
        ids_of(model, torch.tensor([[7]]), max_new_tokens=300, num_samples=rows, compile=compiled)
        for compiled in (False, "auto", rows > 1)  # compiling takes ten seconds: once is enough
    )
    assert torch.equal(plain, fused)
    assert torch.equal(plain, compiled)
    assert len(plain.unique()) > 100


KERNELS = [
    ("gpt2", {}),
    ("gpt2", {"activation": "gelu_erf", "n_embd": 48, "n_head": 3, "tie_weights": False}),
    ("gpt2", {"activation": "relu", "qk_norm": True}),
    ("modern", {"n_kv_head": 2}),
    ("modern", {"n_kv_head": 1, "n_unique_layer": 1, "bias": True}),
    ("modern", {"activation": "relu2", "n_embd": 24, "n_head": 2, "norm": "layernorm"}),
    ("modern", {"position": "sinusoidal", "qk_norm": False}),
    ("imported", {}),
]


WITH_KERNELS = pytest.mark.skipif(
    not (ON_GPU or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="needs a CUDA GPU, or Triton and TRITON_INTERPRET=1",
)


@WITH_KERNELS
@pytest.mark.parametrize(("family", "changes", "rows"), [(*case, 1 if i % 2 else 5) for i, case in enumerate(KERNELS)])
@torch.inference_mode()
def test_the_fused_kernels_compute_the_logits_of_the_model(
    family: str, changes: dict[str, Any], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(family, **({"block_size": 40} | changes)).to(DEVICE)
    for parameter in model.parameters():  # gains and biases that are not the ones of a new model
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator()).to(DEVICE))
    assert kernels.supports(model)
    for name, small in (("PROGRAMS", 1), ("TILE", 512), ("ATTENTION_TILES", (256, 256))):
        # Few programs for the interpreter, of several tiles each
        monkeypatch.setattr(kernels, name, small)
    ids = torch.randint(40, (rows, 40), generator=generator()).to(DEVICE)
    expected = model(ids)
    for at in (0, 1, 39):
        cache = KVCache(model.config, rows, model.config.block_size, DEVICE, torch.float32)
        for buffer in (*cache.keys, *cache.values):
            buffer.fill_(torch.nan)  # what has not been written is not read
        if at:
            model(ids[:, :at], cache)
        cache.position = torch.tensor([at], device=DEVICE)
        torch.testing.assert_close(
            kernels.next_logits(model, ids[:, at], cache, kernels.head_of(model, rows)),
            expected[:, at],
            rtol=1e-4,
            atol=1e-4,
        )


@WITH_KERNELS
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_fused_choice_is_that_of_sample(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "CHOICE_TILE", 64)
    logits = torch.randn(4, 230, generator=generator())[:, :200].to(
        DEVICE
    )  # rows that do not follow each other at once
    logits[1, 7] = logits[1, 170] = 9.0  # of equal ones the first
    noise = torch.empty(4, 200).exponential_(generator=generator()).to(DEVICE) if temperature else None
    expected = sample(logits, logits, SamplingConfig(temperature=temperature), noise)
    assert torch.equal(kernels.choose(logits, noise, temperature or 1.0), expected)


def test_the_post_norm_family_is_left_to_the_model() -> None:
    assert not kernels.supports(make("article"))
