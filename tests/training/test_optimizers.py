"""Schedules and parameter groups, against numbers worked out by hand."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llm_from_scratch.checkpoint import load_state, save_state
from llm_from_scratch.config import OptimConfig
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.training.callbacks import EarlyStopping
from llm_from_scratch.training.optimizers import lr_factor, make_optimizer, row_keys, seed_step


@pytest.mark.parametrize(
    ("schedule", "step", "share"),
    [
        ("cosine", 0, 0.25),  # the first of four warm-up steps
        ("cosine", 3, 1.0),
        ("cosine", 4, 1.0),  # the cosine's top
        ("cosine", 9, 0.1 + 0.9 * 0.5),  # half of the way from 4 to 14
        ("cosine", 14, 0.1),  # the last step of 15
        ("cosine", 20, 0.1),  # beyond it
        ("cosine", 6, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 5))),
        ("linear", 2, 0.75),
        ("linear", 4, 1.0),
        ("linear", 6, 0.1 + 0.9 * 0.8),  # a fifth of the way
        ("linear", 14, 0.1),
        ("wsd", 1, 0.5),
        ("wsd", 8, 1.0),  # 0.4 of 15 steps: it falls over the last six, from step 8 on
        ("wsd", 11, 0.1 + 0.9 * 0.5),
        ("wsd", 14, 0.1),
        ("constant", 0, 0.25),
        ("constant", 14, 1.0),
        ("plateau", 14, 1.0),
    ],
)
def test_schedules(schedule: str, step: int, share: float) -> None:
    config = OptimConfig(schedule=schedule, warmup_steps=4, min_lr_ratio=0.1, decay_fraction=0.4)
    assert lr_factor(step, config, 15) == pytest.approx(share)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_no_warmup_one_step_and_decay_to_zero(schedule: str) -> None:
    config = OptimConfig(schedule=schedule, warmup_steps=0, min_lr_ratio=0.0, decay_fraction=1.0)
    assert lr_factor(0, config, 1) == 1.0
    assert [lr_factor(step, config, 3) for step in range(3)] == pytest.approx([1.0, 0.5, 0.0])


def test_plateaus_lower_the_learning_rate_then_end_the_run(tmp_path: Path) -> None:
    losses = [3.0, 2.0, 2.5, 2.0, 1.9, 1.95, 1.9, 1.9, 1.9]
    #              ^ two no lower than 2.0: halved; then two no lower than 1.9: a quarter; then two more: below a fifth, so it ends
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    trainer: Any = SimpleNamespace(optimizers=[optimizer], should_stop=False, is_global_zero=True, global_step=0)
    module: Any = SimpleNamespace(lr_scale=1.0)
    # The schedule is constant: what is left of the peak is the scale.
    module.follow_settings = lambda: optimizer.param_groups[0].update(lr=module.lr_scale)
    config = OptimConfig(schedule="plateau", patience=2, min_lr_ratio=0.2)
    patience, seen = EarlyStopping(config), []
    for loss in losses:
        module.val_row = {"loss": loss}
        patience.on_validation_end(trainer, module)
        seen.append((optimizer.param_groups[0]["lr"], module.lr_scale, trainer.should_stop))
        # Stopped and started anew after each validation
        save_state(patience.state_dict(), tmp_path / "state")
        patience, module.lr_scale = EarlyStopping(config), 1.0
        patience.load_state_dict(load_state(tmp_path / "state"))
        patience.on_train_start(trainer, module)
    assert seen == [(share, share, False) for share in (1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25)] + [
        (0.25, 0.25, True)
    ]
    assert trainer.should_stop
    EarlyStopping(OptimConfig(patience=3)).on_train_start(trainer, module)  # more patience
    assert not trainer.should_stop


def test_only_matrices_decay() -> None:
    model = GPT(
        GPTConfig(
            vocab_size=10, n_layer=1, n_embd=8, n_head=2, norm="layernorm", bias=True, activation="gelu", qk_norm=False
        )
    )
    decayed, kept = make_optimizer(model, OptimConfig(weight_decay=0.3), fused=False).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert all(parameter.dim() >= 2 for parameter in decayed["params"])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(
        names[id(parameter)].endswith(("bias", "weight")) and parameter.dim() == 1 for parameter in kept["params"]
    )
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_keys_of_dropout_depend_on_seed_step_and_row() -> None:
    device = torch.device("cpu")
    places = [(seed, step) for seed in (0, 1, 2**32 - 1) for step in range(5)]
    keys = {place: row_keys(*place, 0, 24, device) for place in places}
    assert len({key for each in keys.values() for key in each.tolist()}) == 24 * len(places)
    for first, count in ((0, 8), (8, 8), (23, 1)):
        assert torch.equal(row_keys(1, 3, first, count, device), keys[1, 3][first : first + count])


def test_the_generators_of_kernels_depend_on_the_place_alone() -> None:
    def draw(*place: int) -> float:
        seed_step(*place)
        return torch.rand(()).item()

    assert draw(1, 2, 3, 4) == draw(1, 2, 3, 4)
    places = [(seed, step, micro, rank) for seed in (0, 1) for step in range(5) for micro in (0, 1) for rank in (0, 1)]
    assert len({draw(*place) for place in places}) == len(places)
