"""`trainer=fsdp`: weights, gradients and moments sharded over processes, whole checkpoints.

Fully sharded data parallelism (Rajbhandari et al. 2020, Zhao et al. 2023) through torch's
`fully_shard`, which keeps the names and shapes of the weights. So a checkpoint of eight processes
goes on with one, and the other way round.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from llm_from_scratch.model import GPT
from llm_from_scratch.training.internals import share_among_all

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for `fully_shard`; it saves and loads through the Trainer's
    CheckpointIO.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """All processes share one set of weights."""
        share_among_all(self)
        super().setup_environment()

    def shard(self, model: GPT) -> None:
        """Shards each block, then the rest; a block's weights are whole only while it computes."""
        if isinstance(model, FSDPModule):
            return  # Lightning asks again for each stage
        mesh = self.device_mesh["data_parallel"]
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "loss")

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """The first process holds the whole state, and writes it."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every process reads and verifies, and keeps its share."""
        checkpoint = self.checkpoint_io.load_checkpoint(Path(checkpoint_path))
        assert self.model is not None
        set_model_state_dict(self.model, dict(checkpoint["state_dict"]), options=WHOLE)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            names = self._names(optimizer)
            by_name: Any = {
                "state": {names[number]: values for number, values in state["state"].items()},
                "param_groups": [
                    group | {"params": [names[number] for number in group["params"]]} for group in state["param_groups"]
                ],
            }
            set_optimizer_state_dict(self.model, optimizer, by_name, options=WHOLE)
        return checkpoint

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state, numbered as in a single process; empty on all processes but the
        first.
        """
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        assert self.model is not None
        state: Mapping[str, Any] = get_optimizer_state_dict(self.model, optimizer, options=WHOLE)
        if not self.is_global_zero:
            return {}
        numbers = {name: number for number, name in enumerate(self._names(optimizer))}
        return {
            "state": {numbers[name]: values for name, values in state["state"].items()},
            "param_groups": [
                group | {"params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]
            ],
        }

    def _names(self, optimizer: Optimizer) -> list[str]:
        """The names of an optimizer's parameters, in the order in which its state numbers them."""
        assert self.model is not None
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; then every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole_model(model: GPT) -> GPT:
    """The model with whole weights: itself, or a copy that every process must ask for."""
    if not isinstance(model, FSDPModule):
        return model
    copy = GPT(model.config).to(model.token_embedding.weight.device)
    copy.load_state_dict({name: whole(tensor) for name, tensor in model.state_dict().items()})
    return copy
