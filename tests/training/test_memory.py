"""The estimate of a training's memory against what autograd keeps, and against numbers worked out
by hand.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llm_from_scratch import machine
from llm_from_scratch.checkpoint import save_state
from llm_from_scratch.config import Config, DataConfig, FinetuneConfig, ModelConfig, OptimConfig
from llm_from_scratch.kernels import splitmix
from llm_from_scratch.lora import set_dropout_keys
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.plan.sizes import meta_model
from llm_from_scratch.training import memory
from llm_from_scratch.training.finetuning import choose_trained, planned_model
from llm_from_scratch.training.memory import (
    activation_bytes,
    layers_with_gradient,
    logits_bytes,
    micro_batch_size,
    state_bytes,
)
from llm_from_scratch.training.optimizers import make_optimizer
from llm_from_scratch.training.trainer import micro_batches

GPT2: dict[str, Any] = {
    "norm": "layernorm",
    "position": "learned",
    "activation": "gelu",
    "qk_norm": False,
    "bias": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    "modern": {},
    "dropout": {"dropout": 0.1},
    "grouped": {"n_kv_head": 2},
    "gpt2": GPT2,
    "gpt2 with dropout": GPT2 | {"dropout": 0.1},
    "article": GPT2 | {"position": "sinusoidal", "activation": "relu", "norm_position": "post", "n_head": 1},
    "rotary": GPT2 | {"position": "rotary", "activation": "relu2"},
    "exact GELU": GPT2 | {"activation": "gelu_erf"},
    "wide heads": {"n_kv_head": 2, "head_size": 64, "qk_norm": False, "qkv_bias": True},
}


def kept_for_the_backward_pass(model: GPT, tokens: int) -> int:
    """Bytes of what autograd saves, each storage once, weights and tables left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    held, sizes = [], {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)  # so that no storage is used twice
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.zeros(tokens // model.config.block_size, model.config.block_size, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.loss(ids, ids)
    return sum(size for place, size in sizes.items() if place not in own)


@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_what_autograd_keeps(shape: str) -> None:
    config = GPTConfig(vocab_size=1024, n_layer=8, block_size=64, **SHAPES[shape])
    kept = kept_for_the_backward_pass(GPT(config).train(), tokens=512) / 512
    assert activation_bytes(meta_model(config), recompute=False, cpu=True) == pytest.approx(kept, rel=0.06)


@pytest.mark.parametrize(
    ("finetune", "tied", "layers"),
    [
        (FinetuneConfig(method="lora"), True, 8),
        (FinetuneConfig(method="lora", rank=32, dropout=0.1), True, 8),
        (FinetuneConfig(method="lora", targets=["blocks.[67].*"]), True, 2),
        (FinetuneConfig(method="head"), True, 8),  # the token embedding, too
        (FinetuneConfig(method="head"), False, 0),
        (FinetuneConfig(freeze=["token_embedding", "blocks.[0-4]"]), False, 3),
    ],
)
def test_frozen_layers_below_the_first_trained_one_keep_nothing(
    finetune: FinetuneConfig, tied: bool, layers: int
) -> None:
    config = GPTConfig(vocab_size=1024, n_layer=8, block_size=64, tie_weights=tied)
    model = GPT(config).train()
    choose_trained(model, finetune)
    assert layers_with_gradient(model) == layers
    set_dropout_keys(model, splitmix(0, torch.arange(8)))
    kept = kept_for_the_backward_pass(model, tokens=512) / 512
    assert activation_bytes(model, recompute=False, cpu=True) == pytest.approx(kept, rel=0.06)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize(
    "finetune", [FinetuneConfig(), FinetuneConfig(method="lora"), FinetuneConfig(method="head"),
                 FinetuneConfig(freeze=["token_embedding", "blocks.0"])],
    ids=["all", "lora", "head", "freeze"],
)  # fmt: skip
def test_the_state_is_what_a_step_leaves(finetune: FinetuneConfig, name: str) -> None:
    model, optim = GPT(GPTConfig(vocab_size=512, n_layer=2, n_embd=32, n_head=2, block_size=16)), OptimConfig(name=name)
    choose_trained(model, finetune)
    optimizer = make_optimizer(model, optim, fused=False)
    ids = torch.zeros(1, 16, dtype=torch.int64)
    model.loss(ids, ids).backward()
    optimizer.step()
    gradients = sum(one.grad.nbytes for one in model.parameters() if one.grad is not None)
    moments = sum(one.nbytes for state in optimizer.state.values() for one in state.values() if one.dim())
    weights = sum(one.nbytes for one in model.parameters())
    assert state_bytes(model, optim) == {"weights": weights, "gradients": gradients, "optimizer": moments}


def test_every_activation_is_known() -> None:
    from llm_from_scratch.config.model import _MODEL_CHOICES

    assert set(memory.INNER) == set(_MODEL_CHOICES["activation"])


def test_by_hand() -> None:
    gpt2 = ModelConfig(n_layer=12, n_head=12, n_embd=768, block_size=1024, **GPT2)
    # 8 streams of 768, and 2 times 3,072 inside: 12,288 values a layer; 3 streams at the end.
    model = meta_model(GPTConfig(vocab_size=50_257, **vars(gpt2)))
    assert activation_bytes(model, recompute=False, cpu=False) == 4 * (12 * 12_288 + 3 * 768) == 599_040
    assert activation_bytes(model, recompute=True, cpu=False) == 4 * (12 * 768 + 12_288 + 3 * 768)
    # GPT-2 with AdamW: 16 bytes a parameter, 1.99 GB.
    found = state_bytes(model, OptimConfig())
    assert found == {"weights": 497_759_232, "gradients": 497_759_232, "optimizer": 995_518_464}
    # Muon has one moment for 12 x 12 x 768^2 numbers, and an average is as large as the weights: 4
    # (2 N - 84,934,656 + N).
    averaged = state_bytes(model, OptimConfig(name="muon", ema_decay=0.99))
    assert averaged["optimizer"] == 1_153_539_072
    # 3.2 GB: 5,341 tokens at a time
    assert logits_bytes(50_257, cpu=False) == 3 * 4 * 50_257 * 5341


def test_micro_batches_fill_the_memory_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(data=DataConfig(batch_size=48))
    a_sequence = 128 * activation_bytes(planned_model(config, 1), recompute=False, cpu=True)
    monkeypatch.setattr(memory, "on_gpu", lambda settings: False)
    for room, devices, expected in ((100, 1, 48), (47, 1, 24), (11, 2, 8), (11, 1, 8), (0, 1, 1)):
        monkeypatch.setattr(memory, "activation_room", lambda settings, processes, room=room: room * a_sequence + 1)
        assert micro_batch_size(config, devices) == expected
    # 6 and 15 a device, and 24 in the end: 3 divide them all
    config.data.batch_schedule = [[10, 12], [20, 30]]
    for room, devices, expected in ((100, 2, 3), (2, 2, 1), (100, 1, 6)):
        monkeypatch.setattr(memory, "activation_room", lambda settings, processes, room=room: room * a_sequence + 1)
        assert micro_batch_size(config, devices) == expected
    with pytest.raises(ValueError, match=r"data\.batch_schedule=30 cannot be shared by 4 devices"):
        micro_batch_size(config, 4)
    config.data.batch_schedule = None
    with pytest.raises(ValueError, match=r"data\.batch_size=48 cannot be shared by 5 devices"):
        micro_batch_size(config, 5)
    config.data.micro_batch_size = 7
    with pytest.raises(ValueError, match=r"data\.micro_batch_size=7 does not divide the 24 sequences"):
        micro_batch_size(config, 2)


def test_a_recorded_micro_batch_stays_where_it_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(data=DataConfig(batch_size=24))
    a_sequence = 128 * activation_bytes(planned_model(config, 1), recompute=False, cpu=True)
    monkeypatch.setattr(memory, "on_gpu", lambda settings: False)
    monkeypatch.setattr(memory, "activation_room", lambda settings, processes: 12 * a_sequence)
    assert micro_batch_size(config, 1, recorded=6) == 6
    assert micro_batch_size(config, 1, recorded=24) == 12  # of a larger machine
    assert micro_batch_size(config, 8, recorded=12) == 3  # of fewer processes
    config.data.micro_batch_size = 4
    assert micro_batch_size(config, 1, recorded=6) == 4


def test_the_micro_batch_follows_from_the_size_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(data=DataConfig(batch_size=4096))
    monkeypatch.setattr(memory, "on_gpu", lambda settings: False)
    monkeypatch.setattr(machine, "cgroup_limits", list)
    a_sequence = 128 * activation_bytes(planned_model(config, 1), recompute=False, cpu=True)
    pages = {"SC_PHYS_PAGES": 4 * 64 * a_sequence // 4096 + 1, "SC_PAGE_SIZE": 4096}
    # Asking for what is free is a KeyError
    monkeypatch.setattr(machine.os, "sysconf", lambda name: pages[name])
    assert micro_batch_size(config, 1) == 64
    assert micro_batch_size(config, 2) == 32  # both fill the same memory
    monkeypatch.setattr(machine, "cgroup_limits", lambda: [2**60, 4 * 16 * a_sequence])
    assert micro_batch_size(config, 1) == 16


def test_a_resumed_run_keeps_the_micro_batch_that_was_chosen_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = Config(data=DataConfig(batch_size=24))
    monkeypatch.setattr(memory, "on_gpu", lambda settings: False)
    expected = micro_batch_size(config, 1)
    trainer: Any = SimpleNamespace(world_size=1, is_global_zero=True)
    layouts = {"chosen": {"micro_batch_size": 6, "micro_batch_chosen": True}, "set": {"micro_batch_size": 6}}
    for name, size in (("chosen", 6), ("set", expected), ("of 0.1", expected)):
        save_state({"layout": layouts.get(name, "1 processes x 4 micro-batches, 2 threads")}, tmp_path / name)
        assert micro_batches(trainer, config, tmp_path / name) == size
        assert trainer.accumulate_grad_batches == 24 // size
