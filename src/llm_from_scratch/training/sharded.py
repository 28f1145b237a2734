"""`trainer=fsdp`: weights, gradients and moments sharded over processes, and their checkpoints.

Fully sharded data parallelism (Rajbhandari et al. 2020, Zhao et al. 2023) through torch's
`fully_shard`, which keeps the names and shapes of the weights: each process holds some rows of
each. A checkpoint has a file of each process, and is read by any number of them.
"""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from llm_from_scratch.checkpoint import Writers
from llm_from_scratch.model import GPT
from llm_from_scratch.training.internals import share_among_all


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for `fully_shard`, with checkpoints by the Trainer's CheckpointIO."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.writers: Writers
        self.skeleton: GPT  # the model without its weights

    def setup_environment(self) -> None:
        """Sets the environment up for one set of weights sharded over all processes."""
        share_among_all(self)
        super().setup_environment()
        # Threads write the checkpoints: their messages must not mix with those of the training.
        self.writers = Group(dist.new_group(backend="gloo"))

    def shard(self, model: GPT, forward_method: str) -> None:
        """Shards each block, then the rest; a block's weights are whole only while it computes.

        `forward_method`: of the model, the first that a step calls.
        """
        if isinstance(model, FSDPModule):
            return  # Lightning calls this again for each stage
        no_weights: dict[int, Any] = {
            id(one): nn.Parameter(one.to("meta"), one.requires_grad) for one in model.parameters()
        }
        self.skeleton = copy.deepcopy(model, no_weights)
        mesh = self.device_mesh["data_parallel"]
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, forward_method)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Returns the weights, of which this process has a share."""
        assert self.model is not None
        return self.model.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Returns the optimizer's state, numbered as in a run of one process."""
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return inner.state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Writes the checkpoint together with all other processes, each its own share."""
        self.checkpoint_io.save_checkpoint(checkpoint, filepath, self.writers)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads and verifies the checkpoint on every process, which keeps its own share."""
        checkpoint = self.checkpoint_io.load_checkpoint(Path(checkpoint_path))
        assert self.model is not None
        assert self.lightning_module is not None
        own = dict(self.model.named_parameters())
        weights = {name: share_like(own.get(name), tensor) for name, tensor in checkpoint["state_dict"].items()}
        self.model.load_state_dict(weights, strict=self.lightning_module.strict_loading)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            shares = {
                number: {name: share_like(parameters[number], value) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            optimizer.load_state_dict(state | {"state": shares})
        return checkpoint


class Group(Writers):
    """The processes of a group that write checkpoints together."""

    def __init__(self, group: Any) -> None:
        super().__init__(dist.get_rank(group), dist.get_world_size(group))
        self.group = group

    def exchange(self, value: Any) -> list[Any]:
        """Returns the values of all processes, by rank; each one must call it."""
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=self.group)
        return found


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor unsharded. Of a sharded tensor every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole_model(strategy: Strategy, model: GPT) -> GPT:
    """Returns on rank 0 the model with unsharded weights: itself, or a copy where it is sharded.

    Of a sharded model every process must call it; the others get it back as it is.
    """
    if not isinstance(strategy, Sharded):
        return model
    weights = {}
    for name, tensor in model.state_dict().items():
        gathered = whole(tensor)
        if strategy.is_global_zero:
            weights[name] = gathered
    if not strategy.is_global_zero:
        return model
    copied = copy.deepcopy(strategy.skeleton)
    copied.load_state_dict(weights, assign=True)
    return copied.to(strategy.root_device)


def own_rows(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Returns of each tensor the rows that this process holds, in the same memory."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def share_like(parameter: Tensor | None, value: Any) -> Any:
    """Returns of a whole tensor the share that this process holds of a parameter of its shape.

    Any other value, and all values where the parameter is not sharded, come back as they are.
    """
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value


def reshard(module: nn.Module) -> None:
    """Frees gathered weights, so that the next forward pass gathers the present ones.

    The outermost ones stay gathered between a forward and a backward pass, also in validation.
    """
    for one in module.modules():
        if isinstance(one, FSDPModule):
            one.reshard()
