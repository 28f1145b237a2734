"""A training step: the same loss and gradient however its batch is cut into micro-batches and
processes.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_from_scratch.config import Config, DataConfig, TrainerConfig
from llm_from_scratch.kernels import IGNORE
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.training.data import Batch
from llm_from_scratch.training.module import LanguageModel

B, T, V = 24, 16, 50
PARTS = {"whole": (1, 1), **{f"{micro} micro-batches": (1, micro) for micro in (2, 3, 4, 8, 24)}}
PARTS |= {"2 processes": (2, 1), "2 processes with 3 micro-batches": (2, 3)}


def language_model(**settings: Any) -> LanguageModel:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=V, block_size=T, n_layer=2, n_embd=32, n_head=4, **{"dropout": 0.2} | settings)
    run = Config(seed=7, data=DataConfig(batch_size=B), trainer=TrainerConfig(max_steps=10))
    module = LanguageModel(GPT(config).train(), run, val_bytes=1)
    module.log = lambda *arguments, **settings: None  # type: ignore[method-assign]
    return module


def step(
    module: LanguageModel,
    ids: Tensor,
    processes: int,
    micro_batches: int,
    number: int = 3,
    learned: Tensor | None = None,
) -> list[Tensor]:
    """The loss and the gradients of one optimizer step, its parts computed one behind the other.

    `learned` (B, T): the targets that count; None: all of them.
    """
    module.zero_grad()
    targets = ids[:, 1:] if learned is None else ids[:, 1:].where(learned, IGNORE)
    count = processes * micro_batches
    parts = list(zip(ids[:, :-1].chunk(count), targets.chunk(count), strict=True))
    data = SimpleNamespace(targets=lambda step: None if learned is None else int(learned.sum()))
    total = torch.zeros(())
    for index, part in enumerate(parts):
        rank, micro = divmod(index, micro_batches)
        module._trainer = SimpleNamespace(  # type: ignore[assignment]
            accumulate_grad_batches=micro_batches,
            global_step=number,
            global_rank=rank,
            world_size=processes,
            datamodule=data,
        )
        loss = module.training_step(Batch(*part), micro) / len(parts)
        loss.backward()
        total += loss.detach()
    return [total, *(parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None)]


def batch() -> Tensor:
    return torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("settings", [{}, {"n_kv_head": 2, "n_unique_layer": 1}, {"norm_position": "post"}])
def test_dropout_belongs_to_a_row_of_the_batch(settings: dict[str, Any]) -> None:
    module, ids = language_model(**settings), batch()
    whole = step(module, ids, *PARTS["whole"])
    for name, parts in PARTS.items():
        for found, expected in zip(step(module, ids, *parts), whole, strict=True):
            torch.testing.assert_close(
                found, expected, atol=2e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
            )
    # Another step and another seed have other masks.
    assert step(module, ids, 1, 1, number=4)[0] != whole[0]
    module.seed = 8
    assert step(module, ids, 1, 1)[0] != whole[0]


def test_a_step_has_the_mean_over_its_targets_however_it_is_divided() -> None:
    module, ids = language_model(), batch()
    generator = torch.Generator().manual_seed(2)
    learned = torch.rand(B, T, generator=generator) < torch.linspace(0, 1, B)[:, None]
    assert not learned[0].any()  # one micro-batch of 24 has no target
    whole = step(module, ids, *PARTS["whole"], learned=learned)
    for parts in PARTS.values():
        found = step(module, ids, *parts, learned=learned)
        for one, expected in zip(found, whole, strict=True):
            torch.testing.assert_close(one, expected, atol=2e-6, rtol=1e-4)
    module = language_model(dropout=0.0)
    each = module.model.loss(ids[:, :-1], ids[:, 1:], reduction="none")
    torch.testing.assert_close(step(module, ids, 2, 3, learned=learned)[0], each[learned].mean())


def test_masks_drawn_again_in_the_backward_pass_are_the_same() -> None:
    module, ids = language_model(), batch()
    whole = step(module, ids, 1, 1)
    module.model.recompute = True
    torch.testing.assert_close(step(module, ids, 1, 3), whole, atol=2e-6, rtol=1e-4)


@pytest.mark.slow
def test_a_compiled_graph_drops_the_same() -> None:
    module, ids = language_model(), batch()
    whole = step(module, ids, 1, 1)
    module.loss = torch.compile(module.model.loss, dynamic=False)
    for micro_batches in (1, 4):
        found = step(module, ids, 1, micro_batches)
        torch.testing.assert_close(found, whole, atol=2e-6, rtol=1e-4)


def test_a_resume_says_how_far_another_layout_changes_it(caplog: pytest.LogCaptureFixture) -> None:
    module = language_model()
    device = torch.device("cpu")
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=1,
        precision="32-true",
        strategy=SimpleNamespace(root_device=device),
        datamodule=SimpleNamespace(micro_batch_size=8, micro_batch_chosen=True),
    )
    layout = module.layout()

    def told(before: Any) -> str:
        caplog.clear()
        with caplog.at_level("INFO"):
            module._tell_changes(before)
        return caplog.text

    assert told(layout) == ""
    assert told(layout | {"micro_batch_chosen": False}) == ""
    said = told(layout | {"micro_batch_size": 4, "processes": 2})
    assert "processes=1 rather than 2, micro_batch_size=8 rather than 4: the data" in said
    assert "nor does dropout; losses differ by rounding" in said
    assert "as between two seeds" in told(layout | {"device": "cuda"})
    assert "dropout drops other numbers" in told("1 processes x 1 micro-batches, 2 threads")
    module._trainer.strategy.root_device = torch.device("cuda")
    on_gpu = module.layout()
    assert "as between two seeds" in told(on_gpu | {"micro_batch_size": 4})
    assert "nor does dropout" in told(on_gpu | {"threads": 64})
