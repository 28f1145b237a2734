"""Polyak averaging: a moving average of the weights, less noisy than the last weights.

Source: Polyak & Juditsky 1992.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from llm_from_scratch.training.sharded import own_rows, reshard, share_like


class WeightAverage(Callback):
    """An exponential moving average of the weights with the decay `optim.ema_decay`.

    It is free of a bias towards the first weights: it is the weighted mean of the weights after
    steps 1 … t, with the weights decay^(t-1), …, decay, 1 (Kingma & Ba 2015 correct Adam's moments
    in the same way). With `trainer=fsdp` each process averages its share of the weights.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.tensors: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """Returns the averaged tensors and the number of steps that they average."""
        return {"steps": self.steps, "tensors": self.tensors}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the averaged tensors and the number of steps."""
        self.steps, self.tensors = int(state_dict["steps"]), list(state_dict["tensors"])

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Copies the trained weights, or a restored average, to the device of the weights."""
        reshard(pl_module)
        weights = [parameter.detach() for parameter in pl_module.parameters() if parameter.requires_grad]
        self.tensors = [
            torch.empty_like(weight).copy_(share_like(weight, tensor))
            for tensor, weight in zip(self.tensors or weights, weights, strict=True)
        ]
        self.own, self.own_weights = own_rows(self.tensors), own_rows(weights)
        self.module = pl_module
        pl_module.average = self  # type: ignore[assignment]

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Updates the average where this micro-batch ended an optimizer step."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Adds the weights after one more optimizer step to the average."""
        self.steps += 1
        torch._foreach_lerp_(self.own, self.own_weights, (1 - self.decay) / (1 - self.decay**self.steps))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swaps the average into the model, and the weights back at the end of the `with` block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        reshard(self.module)
        held = [tensor.clone() for tensor in self.own]
        torch._foreach_copy_(self.own, self.own_weights)
        torch._foreach_copy_(self.own_weights, held)
