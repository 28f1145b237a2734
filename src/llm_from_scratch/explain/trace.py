"""One pass of a text through a model, with every tensor on its way measured.

The hooks are on a twin of the model's modules that shares their weights: other threads may use the
model at the same time, and a model in training stays as it is.

Shapes: T positions, C channels (n_embd), H query heads, G key/value heads, D head size, I inner
width of the feed-forward, L layers, V vocabulary.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from llm_from_scratch.errors import MachineError
from llm_from_scratch.explain.attention import Layer, Recorder, patterns
from llm_from_scratch.model import GPT, Block


@dataclass(frozen=True)
class Stage:
    """A tensor on the way of a text, without its first dimension: there is one text.

    Attributes:
        place: "text", "embedding", "block 1" and so on, or "end".
        tensor: its name.
        shape: its size in each dimension.
        mean, deviation: over all its numbers, the deviation divided by their count; None of ids.
        parameters: the number of weights that made it out of the tensors before it; a weight that
            is used again counts once.
    """

    place: str
    tensor: str
    shape: tuple[int, ...]
    mean: float | None
    deviation: float | None
    parameters: int


@dataclass(frozen=True)
class Trace:
    """What one pass leaves behind.

    `residual` (L + 1, T, C) is the residual stream before the first block and after each one,
    `logits` (T, V) those of the model. Tensors are on the model's device.
    """

    stages: tuple[Stage, ...]
    residual: Tensor
    layers: list[Layer]
    logits: Tensor


@torch.inference_mode()
def trace(model: GPT, ids: Sequence[int]) -> Trace:
    """Reads ids (T,) once and returns what was seen on the way.

    Raises:
        UserError: when there are more ids than the model has positions.
        MachineError: when the model computes NaN or infinite numbers.
    """
    twin = cast(GPT, _twin(model).eval())
    given = torch.tensor([list(ids)], device=model.token_embedding.weight.device)
    with Recorder() as recorder:
        way = _Way(twin, recorder.layers)
        way.add("text", "ids", given)
        hidden = twin.hidden_states(given)
    logits = twin.logits(hidden)
    if not logits.isfinite().all():
        raise MachineError("the model computes NaN: its training diverged, or its weights are damaged")
    way.add("end", "logits", logits, twin.head)
    return Trace(tuple(way.stages), torch.stack(way.residual), recorder.layers, logits[0])


def _twin(module: nn.Module) -> nn.Module:
    """Copies modules, not their tensors: hooks and the mode of the copy are its own."""
    made = copy.copy(module)
    state: dict[str, Any] = made.__dict__
    state |= {name: OrderedDict() for name in state if name.startswith("_forward")}
    state["_compiled_call_impl"] = None  # of torch.compile: it would run past the hooks
    state["_modules"] = {name: child if child is None else _twin(child) for name, child in module._modules.items()}
    return made


@dataclass
class _Way:
    """The stages of a pass in the order in which they are computed."""

    model: GPT
    layers: list[Layer]  # filled by the recorder of attention
    stages: list[Stage] = field(default_factory=list)
    residual: list[Tensor] = field(default_factory=list)
    counted: set[int] = field(default_factory=set)  # ids of parameters

    def __post_init__(self) -> None:
        model, position = self.model, self.model.config.position
        self._after(model.token_embedding, "token vectors", model.token_embedding, place="embedding")
        # The dropout after the embedding passes on the sum with the positions.
        table = model.position_embedding if position == "learned" else None
        model.dropout.register_forward_hook(lambda _, __, x: self._embedded(x, table))
        for block in model.blocks:
            self._watch(cast(Block, block))
        if model.config.norm_position == "pre":
            self._after(model.norm, "final norm", model.norm, place="end")

    def _embedded(self, x: Tensor, table: nn.Module | None) -> None:
        self.residual.append(x[0])
        if self.model.config.position != "rotary":
            self.add("embedding", "with positions", x, table)

    def _watch(self, block: Block) -> None:
        attention, forward = block.attention, block.feed_forward
        self._after(block.attention_norm, "attention norm", block.attention_norm)
        self._after(attention.qkv, "q, k, v", attention.qkv)
        self._before(attention.out, lambda x: self._attended(x, attention.q_norm, attention.k_norm))
        self._after(attention.out, "attention output", attention.out)
        if not block.post_norm:
            self._before(block.feed_forward_norm, lambda x: self.add(self._block, "residual stream", x))
        self._after(forward.up, "inner layer", forward.up)
        self._before(forward.out, lambda x: self.add(self._block, "activation", x))
        self._after(forward.out, "feed-forward out", forward.out)
        self._after(block.feed_forward_norm, "feed-forward norm", block.feed_forward_norm)
        block.register_forward_hook(lambda _, __, x: self._leave(x, block.post_norm))

    def _attended(self, mixed: Tensor, q_norm: nn.Module | None, k_norm: nn.Module | None) -> None:
        """Adds what stands between q, k, v and the output: queries, keys, weights, mixed values."""
        layer = self.layers[-1]
        self.add(self._block, "queries", layer.queries[None], q_norm)
        self.add(self._block, "keys", layer.keys[None], k_norm)
        self.add(self._block, "weights", patterns(layer)[None])
        self.add(self._block, "mixed values", mixed)

    def _leave(self, x: Tensor, post_norm: bool) -> None:
        if not post_norm:
            self.add(self._block, "residual stream", x)
        self.residual.append(x[0])

    @property
    def _block(self) -> str:
        return f"block {len(self.residual)}"

    def _before(self, module: nn.Module, work: Callable[[Tensor], None]) -> None:
        module.register_forward_pre_hook(lambda _, given: work(given[0]))

    def _after(self, module: nn.Module, tensor: str, weights: nn.Module, place: str | None = None) -> None:
        module.register_forward_hook(lambda _, __, x: self.add(place or self._block, tensor, x, weights))

    def add(self, place: str, tensor: str, x: Tensor, *modules: nn.Module | None) -> None:
        """Adds a tensor (1, …) and the parameters of the modules that made it."""
        new = {id(one): one.numel() for module in modules if module is not None for one in module.parameters()}
        parameters = sum(count for key, count in new.items() if key not in self.counted)
        self.counted |= new.keys()
        mean = deviation = None
        if x.is_floating_point():
            numbers = x.cpu().double()
            mean, deviation = float(numbers.mean()), float(numbers.std(correction=0))
        self.stages.append(Stage(place, tensor, tuple(x.shape[1:]), mean, deviation, parameters))
