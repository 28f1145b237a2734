"""Lightning's private names exist in the installed version, and one file alone touches them."""

import ast
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

import llm_from_scratch.training
from llm_from_scratch.training import internals

FOLDER = Path(llm_from_scratch.training.__file__).parent
# Private names of torch's, which has no public ones for these.
OF_TORCH = {"_foreach_copy_", "_foreach_lerp", "_foreach_lerp_", "_foreach_mul_", "_get_file_writer"}


class Line(lightning.LightningModule):
    """The smallest module that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.hooks: set[str | None] = set()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.hooks.add(getattr(self, internals.CURRENT_HOOK))
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trainer(tmp_path: Path) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )


def private_names(source: str) -> set[str]:
    """Every private attribute that a module reads or sets without defining it."""
    tree = ast.parse(source)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id == "self"
            (defined if own and isinstance(node.ctx, ast.Store) else used).add(node.attr)
    return used - defined


def test_no_other_file_touches_a_private_name_of_lightning() -> None:
    for path in sorted(FOLDER.glob("*.py")):
        if path.name != "internals.py":
            assert private_names(path.read_text(encoding="utf-8")) <= OF_TORCH, path.name


def test_the_private_names_are_there(trainer: lightning.Trainer) -> None:
    loop = trainer.fit_loop.epoch_loop
    there = {
        "_broadcast_sigterm_tensor": loop,
        "_batches_that_stepped": loop,
        "_signal_connector": trainer,
        "_logger_connector": trainer,
        "_data_parallel_size": ModelParallelStrategy(),
        "_experiment": WandbLogger(offline=True, log_model=False) if _has_wandb() else None,
    }
    names = private_names((FOLDER / "internals.py").read_text(encoding="utf-8"))
    assert names == set(there)
    for name, owner in there.items():
        assert owner is None or hasattr(owner, name), name
    assert callable(loop._broadcast_sigterm_tensor)
    assert callable(trainer._signal_connector.register_signal_handlers)
    assert callable(trainer._logger_connector.log_metrics)
    assert loop.batch_progress.total.ready == loop.batch_progress.current.ready == 0
    assert loop.automatic_optimization.optim_progress.optimizer.step.total.completed == 0
    assert hasattr(trainer, "val_check_batch")


def _has_wandb() -> bool:
    from importlib.util import find_spec

    return find_spec("wandb") is not None


def test_counters_of_a_resumed_run_are_those_of_one_that_never_stopped(trainer: lightning.Trainer) -> None:
    data = torch.utils.data.DataLoader(torch.ones(12, 1))
    trainer.accumulate_grad_batches = 2
    module = Line()
    trainer.fit(module, data)
    assert module.hooks == {"training_step"}
    loop = trainer.fit_loop.epoch_loop
    seen = (loop.batch_progress.total.ready, loop._batches_that_stepped, trainer.global_step)
    internals.count_micro_batches(trainer, 3, 2)
    internals.count_optimizer_steps(trainer, 3)
    assert (loop.batch_progress.total.ready, loop._batches_that_stepped, trainer.global_step) == seen == (6, 3, 3)
