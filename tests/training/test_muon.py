"""Muon against torch's, against singular value decompositions and against numbers worked out by
hand; its AdamW against torch's.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, Process, story
from torch import Tensor
from torch.nn import Parameter
from torch.optim.lr_scheduler import LambdaLR

from llm_from_scratch.checkpoint import checkpoints, load_state, save_state
from llm_from_scratch.config import OptimConfig
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.run import read_rows
from llm_from_scratch.training.muon import Muon, newton_schulz, orthogonal
from llm_from_scratch.training.optimizers import make_optimizer


def lifted(s: float) -> float:
    """A singular value after five of Jordan et al.'s polynomials."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


def model(**settings: Any) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=20, n_layer=2, n_embd=16, n_head=4, n_kv_head=2, block_size=8, **settings))


def learn(model: GPT, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        ids = torch.randint(20, (2, 9), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()


def test_a_step_worked_out_by_hand() -> None:
    # diag(3, 4) has the norm 5; Nesterov's mixture of it and of its own momentum points the same
    # way.
    weight = Parameter(torch.eye(2))
    optimizer = Muon([{"params": [weight]}], lr=0.1, weight_decay=0.5, momentum=0.9)
    weight.grad = torch.diag(torch.tensor([3.0, 4.0]))
    optimizer.step()
    expected = [0.95 - 0.1 * 0.2 * math.sqrt(2) * lifted(share) for share in (0.6, 0.8)]
    torch.testing.assert_close(weight.detach(), torch.diag(torch.tensor(expected)))
    torch.testing.assert_close(optimizer.state[weight]["momentum_buffer"], 0.1 * weight.grad)


def test_newton_schulz_keeps_the_singular_vectors_and_evens_the_values() -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 6, 11, dtype=torch.float64)
    u, values, v = torch.linalg.svd(x, full_matrices=False)
    values /= values.norm(dim=1, keepdim=True)
    made = u.mT @ newton_schulz(x) @ v.mT
    expected = torch.tensor([[lifted(value) for value in row] for row in values.tolist()], dtype=torch.float64)
    torch.testing.assert_close(made, torch.diag_embed(expected))
    assert 0.65 < expected.min() < expected.max() < 1.25


def test_the_product_of_a_stack_is_torchs_of_each() -> None:
    from torch.optim._muon import _zeropower_via_newtonschulz

    torch.manual_seed(2)
    x = torch.randn(5, 8, 12)
    for matrix, made in zip(x, newton_schulz(x, torch.bfloat16), strict=True):
        theirs = _zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
        torch.testing.assert_close(made, theirs, atol=0.03, rtol=0)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_the_optimizer_is_torchs_but_for_bfloat16(shape: tuple[int, int]) -> None:
    torch.manual_seed(3)
    ours, theirs = (Parameter(torch.ones(shape)) for _ in range(2))
    settings = {"lr": 0.1, "weight_decay": 0.5, "momentum": 0.9}
    optimizers = (
        Muon([{"params": [ours]}], **settings),
        torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings),
    )
    for _ in range(4):
        gradient = torch.randn(shape)
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0)


def test_matrices_of_all_shapes_are_made_one_by_one() -> None:
    torch.manual_seed(4)
    matrices = [torch.randn(shape) for shape in ((4, 6), (6, 4), (5, 5), (4, 6))]
    for whole, alone in zip(orthogonal(matrices), (orthogonal([matrix])[0] for matrix in matrices), strict=True):
        torch.testing.assert_close(whole, alone)


@pytest.mark.parametrize("fused", [False, True])
def test_what_is_no_matrix_of_a_block_is_torchs_adamw(fused: bool) -> None:
    ours, theirs = model(bias=True, norm="layernorm"), model(bias=True, norm="layernorm")
    config = OptimConfig(name="muon", lr=0.01, weight_decay=0.3, adamw_lr=0.02)
    optimizer = make_optimizer(ours, config, fused=fused)
    matrices, *rest = optimizer.param_groups
    assert [group["kind"] for group in optimizer.param_groups] == ["muon", "adamw", "adamw"]
    names = {parameter: name for name, parameter in ours.named_parameters()}
    assert {names[p].split(".", 2)[2] for p in matrices["params"]} == {
        "attention.qkv.weight",
        "attention.out.weight",
        "feed_forward.up.weight",
        "feed_forward.out.weight",
    }
    assert [names[p] for p in rest[0]["params"]] == ["token_embedding.weight"]
    twin = dict(theirs.named_parameters())
    groups = [
        {"params": [twin[names[p]] for p in group["params"]], "weight_decay": group["weight_decay"]} for group in rest
    ]
    reference = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.95), fused=fused)
    schedules = [LambdaLR(each, lambda step: 1 / (step + 1)) for each in (optimizer, reference)]
    torch.manual_seed(5)
    for _ in range(5):
        for name, parameter in ours.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            twin[name].grad = parameter.grad.clone()
        for each, schedule in zip((optimizer, reference), schedules, strict=True):
            each.step()
            schedule.step()
    for group in rest:
        for parameter in group["params"]:
            assert torch.equal(parameter, twin[names[parameter]]), names[parameter]


def test_queries_keys_and_values_are_matrices_of_their_own() -> None:
    network = model()
    optimizer = make_optimizer(network, OptimConfig(name="muon", lr=0.1, weight_decay=0.0), fused=True)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    learn(network, optimizer, 1)
    heights = {
        "attention.qkv": [16, 8, 8],
        "attention.out": [16],
        "feed_forward.up": [64, 64],
        "feed_forward.out": [16],
    }
    for name, rows in heights.items():
        key = f"blocks.1.{name}.weight"
        matrix = dict(network.named_parameters())[key]
        assert matrix.grad is not None
        for part, old, gradient in zip(
            matrix.split(rows), before[key].split(rows), matrix.grad.split(rows), strict=True
        ):
            torch.testing.assert_close((old - part) / 0.1, orthogonal([gradient])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("when", [0, 2])
def test_a_bad_gradient_leaves_weights_and_moments(when: int) -> None:
    network = model()
    optimizer = make_optimizer(network, OptimConfig(name="muon"), fused=True)
    learn(network, optimizer, when)
    optimizer.zero_grad()
    before: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
        before[name] = parameter.detach().clone()
    states = {p: {name: value.clone() for name, value in state.items()} for p, state in optimizer.state.items()}
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]), name
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            assert torch.equal(value, states.get(parameter, {}).get(name, torch.zeros_like(value))), name
    # A good one with the flag at 0 is a step as without a flag.
    twin = model()
    other = make_optimizer(twin, OptimConfig(name="muon"), fused=True)
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    learn(network, optimizer, 2, first=when)
    learn(twin, other, when + 2)
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_its_state_survives_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    whole, part = model(), model()
    config = OptimConfig(name="muon", lr=0.01)
    learn(whole, make_optimizer(whole, config, fused=True), 6)
    first = make_optimizer(part, config, fused=True)
    learn(part, first, 3)
    save_state(first.state_dict(), tmp_path / "state")
    second = make_optimizer(part, config, fused=True)
    second.load_state_dict(load_state(tmp_path / "state"))
    learn(part, second, 3, first=3)
    for a, b in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_a_run_with_muon_stops_goes_on_and_keeps_its_optimizer(train: Process, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    shared = (*SMALL, "model.dropout=0.1", "trainer.val_check_interval=10", "optim=muon", "optim.min_lr_ratio=1")
    for run_dir, steps in (("whole", 20), ("part", 10)):
        done = train(*shared, "optim.warmup_steps=2", f"trainer.max_steps={steps}", f"run_dir={run_dir}")
        assert done.returncode == 0, done.stderr
    resumed = train("resume=part", "trainer.max_steps=20")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    # untrained: log(320) = 5.8
    assert read_rows(tmp_path / "whole/metrics.jsonl")[-1]["loss"] < 4.5
    state = load_state(checkpoints(tmp_path / "whole")[0])["optimizer_states"][0]
    assert [group["kind"] for group in state["param_groups"]] == ["muon", "adamw", "adamw"]
    refused = train("resume=part", "optim.name=adamw", "trainer.max_steps=30")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "optim.name=adamw: the resumed run has muon" in refused.stderr
