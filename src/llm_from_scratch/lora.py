"""Low-rank adapters of linear layers: W x + scale B A x, with W frozen (Hu et al. 2021, LoRA).

A of a fresh adapter is random and B zero, so that training begins at the model itself. On a fused
layer (queries, keys and values; SwiGLU's gate and value) the parts share A, and each has its own
rows of B.

Shapes: B batch, T time, I inputs, O outputs of a layer, r rank.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_from_scratch.errors import UserError
from llm_from_scratch.kernels import dropout, splitmix
from llm_from_scratch.model import GPT


@dataclass(frozen=True)
class Adapter:
    """The two matrices of a layer's adapter, which adds scale B A to the layer's weight."""

    a: Tensor  # (r, I)
    b: Tensor  # (O, r)
    scale: float


class LoRALinear(nn.Linear):
    """A linear layer with frozen weights and a trained adapter: (B, T, I) -> (B, T, O)."""

    def __init__(self, base: nn.Linear, adapter: Adapter, p: float = 0.0) -> None:
        """Takes over the weights of `base`.

        Args:
            base: the layer.
            adapter: the adapter's matrices at the start.
            p: dropout of the adapter's input, a probability.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight = base.weight
        self.register_parameter("bias", base.bias)
        self.lora_A = nn.Parameter(adapter.a)
        self.lora_B = nn.Parameter(adapter.b)
        self.scale, self.p = adapter.scale, p
        # (B,) keys of the dropout of this step's sequences, set by `set_dropout_keys`.
        self.keys: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer and its adapter."""
        inner = x if self.keys is None or not self.training else dropout(x, self.p, self.keys)
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(inner, self.lora_A), self.lora_B) * self.scale

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Returns a plain layer with the weight W + scale B A, whose outputs are the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight + self.scale * (self.lora_B @ self.lora_A))
        plain.bias = self.bias
        return plain.train(self.training)


def target_layers(model: GPT, targets: Sequence[str]) -> list[str]:
    """Lists the linear layers within blocks that `targets` names, in the model's order.

    A target is the end of a layer's name (`attention.qkv`), its whole name
    (`blocks.0.attention.qkv`) or a glob of whole names (`blocks.[0-3].feed_forward.*`).

    Raises:
        UserError: when a target names no layer.
    """
    layers = [f"blocks.{name}" for name, module in model.blocks.named_modules() if isinstance(module, nn.Linear)]
    chosen: set[str] = set()
    for target in targets:
        found = {name for name in layers if name.endswith(f".{target}") or fnmatchcase(name, target)}
        if not found:
            ends = dict.fromkeys(name.split(".", 2)[2] for name in layers)
            raise UserError(f"finetune.targets: {target} names no linear layer of a block: use {', '.join(ends)}")
        chosen |= found
    return [name for name in layers if name in chosen]


def adapt(model: GPT, targets: Sequence[str], *, rank: int, alpha: float, p: float) -> None:
    """Freezes a model in place and gives fresh adapters to the layers that `targets` names.

    Args:
        model: the base.
        targets: as in `target_layers`.
        rank: r; one that exceeds a layer's inputs or outputs saves nothing there.
        alpha: the scale is alpha / r.
        p: dropout of the adapters' inputs.

    Raises:
        UserError: when a target names no layer.
    """
    adapters = {}
    for name in target_layers(model, targets):
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        a = nn.init.kaiming_uniform_(weight.new_empty(rank, weight.shape[1]), a=math.sqrt(5))
        adapters[name] = Adapter(a, weight.new_zeros(weight.shape[0], rank), alpha / rank)
    attach(model, adapters, p=p)


def attach(model: GPT, adapters: Mapping[str, Adapter], *, p: float = 0.0) -> None:
    """Freezes a model in place and gives it adapters, by the names of its layers."""
    model.requires_grad_(False)
    for name, adapter in adapters.items():
        parent, _, leaf = name.rpartition(".")
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        setattr(model.get_submodule(parent), leaf, LoRALinear(base, adapter, p).train(base.training))


def merge(model: GPT) -> None:
    """Replaces the adapted layers of a model in place by plain ones with the same outputs."""
    for name, layer in adapted_layers(model).items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.merged())
    model.requires_grad_(True)


def adapted_layers(model: GPT) -> dict[str, LoRALinear]:
    """Returns the adapted layers of a model by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def merged_parameters(model: GPT) -> int:
    """Counts the parameters that a model has once its adapters are merged."""
    adapters = sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in adapted_layers(model).values())
    return model.num_parameters() - adapters


def kept_parameters(model: GPT) -> dict[str, nn.Parameter]:
    """Returns the parameters that a checkpoint holds: the adapters alone where there are any."""
    adapted = bool(adapted_layers(model))
    return {name: one for name, one in model.named_parameters() if one.requires_grad or not adapted}


def set_dropout_keys(model: GPT, keys: Tensor) -> None:
    """Sets the dropout of the adapters for a micro-batch, from one key (B,) a sequence.

    The places of a key's stream from -1 downwards are the adapters'; the model's own dropout has
    those from 0 upwards.
    """
    layers = [layer for layer in adapted_layers(model).values() if layer.p]
    places = -1 - torch.arange(len(layers), device=keys.device)
    for layer, own in zip(layers, splitmix(keys, places[:, None]), strict=True):
        layer.keys = own
