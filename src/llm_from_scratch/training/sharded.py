"""`trainer=fsdp`: weights, gradients and moments sharded over processes; unsharded checkpoints.

Fully sharded data parallelism (Rajbhandari et al. 2020, Zhao et al. 2023) through torch's
`fully_shard`, which keeps the names and shapes of the weights. So a run of eight processes can
resume with one, and the other way round.
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
    """Lightning's strategy for `fully_shard`, with unsharded checkpoints.

    They are saved and loaded through the Trainer's CheckpointIO.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Sets the environment up for one set of weights sharded over all processes."""
        share_among_all(self)
        super().setup_environment()

    def shard(self, model: GPT) -> None:
        """Shards each block, then the rest; a block's weights are whole only while it computes."""
        if isinstance(model, FSDPModule):
            return  # Lightning calls this again for each stage
        mesh = self.device_mesh["data_parallel"]
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "loss")

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Writes the checkpoint on rank 0, which holds the whole state."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads and verifies the checkpoint on every process, which keeps its own shard."""
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
        """Returns the unsharded optimizer state on rank 0, and an empty dictionary on all others.

        Parameters are numbered as in a run of one process. Every process must call it.
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
        """Returns the names of an optimizer's parameters, in the order of its state's numbers."""
        assert self.model is not None
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor unsharded. Of a sharded tensor every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole_model(model: GPT) -> GPT:
    """Returns the model with unsharded weights: itself, or a copy where it is sharded.

    Of a sharded model every process must call it.
    """
    if not isinstance(model, FSDPModule):
        return model
    copy = GPT(model.config).to(model.token_embedding.weight.device)
    copy.load_state_dict({name: whole(tensor) for name, tensor in model.state_dict().items()})
    return copy
