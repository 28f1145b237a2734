"""Parameters of a GPT <-> tensors of a folder, by the table of the family.

Both sides turn the channel pairs (i, i + D/2) in rotary positions, so no row changes its place.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_from_scratch.errors import UserError
from llm_from_scratch.huggingface.families import Family, family_of
from llm_from_scratch.model import GPT, GPTConfig, sinusoids

SINUSOIDS = "transformer.positions_embed.weight"  # OpenAI-GPT's table, where it is not learned
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Pair:
    """A parameter and the tensors of a folder that hold it, their rows one below the other."""

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    rows: tuple[int, ...]  # of each of theirs
    transposed: bool

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of their tensors."""
        whole = [(rows, *self.shape[1:]) for rows in self.rows]
        return {name: one[::-1] if self.transposed else one for name, one in zip(self.theirs, whole, strict=True)}

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Splits the parameter into their tensors."""
        parts = tensor.split(self.rows)
        return {
            name: (part.T if self.transposed else part).contiguous()
            for name, part in zip(self.theirs, parts, strict=True)
        }

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Joins their tensors, in the order of `theirs`, to the parameter."""
        turned = [part.T if self.transposed else part for part in parts]
        return turned[0] if len(turned) == 1 else torch.cat(turned)


def pairs(config: GPTConfig) -> list[Pair]:
    """Lists the parameters of a model with their tensors, in the order of the model.

    Raises:
        UserError: when no class of transformers computes the model.
    """
    family = family_of(config)
    with torch.device("meta"):
        parameters = [(name, tuple(one.shape)) for name, one in GPT(config).named_parameters()]
    found = []
    for name, shape in parameters:
        module, leaf = name.rsplit(".", 1)
        layer = re.match(r"blocks\.(\d+)\.", module)
        template = re.sub(r"^blocks\.\d+", "blocks.{i}", module)
        theirs = tuple(f"{one.format(i=layer and layer[1])}.{leaf}" for one in family.tensors[template])
        if len(theirs) == 3:  # q, k, v
            rows = tuple(config.head_dim * heads for heads in (config.n_head, config.kv_heads, config.kv_heads))
        else:
            rows = (shape[0] // len(theirs),) * len(theirs)
        transposed = family.transposed and layer is not None and len(shape) == 2
        found.append(Pair(name, theirs, shape, rows, transposed))
    return found


def to_weights(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Returns the tensors of a folder from the parameters of a model, by name.

    Raises:
        UserError: when no class of transformers computes the model.
    """
    tensors: dict[str, Tensor] = {}
    for pair in pairs(config):
        tensors |= pair.split(state[pair.ours])
    if config.position == "sinusoidal":
        tensors[SINUSOIDS] = sinusoids(config.block_size, config.n_embd)
    return tensors


def from_weights(tensors: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Returns the parameters of a model from the tensors of a folder, by name.

    Raises:
        UserError: when names or shapes are not those of the config's model.
    """
    stored = stored_names(tensors, family_of(config), config.tie_weights)
    check_shapes({name: tuple(tensors[one].shape) for name, one in stored.items()}, config)
    return {pair.ours: pair.join([tensors[stored[name]] for name in pair.theirs]) for pair in pairs(config)}


def stored_names(names: Iterable[str], family: Family, tied: bool) -> dict[str, str]:
    """Returns the full name of each tensor -> its name in the folder, without unused buffers.

    The folder of a class without head has no prefix. `tied`: the head's tensor, which then is the
    embedding once more, is left out.

    Raises:
        UserError: when a name stands there with and without its prefix.
    """
    found: dict[str, str] = {}
    for name in names:
        full = name if name.startswith((family.prefix, "lm_head.")) else family.prefix + name
        if full in found:
            raise UserError(f"the tensor {full!r:.100} is there twice, with and without its prefix")
        if not (re.fullmatch(family.unused, full) or (tied and full == HEAD)):
            found[full] = name
    return found


def check_shapes(shapes: Mapping[str, Sequence[int]], config: GPTConfig) -> None:
    """Compares the names and shapes of tensors with those of a config's model.

    Raises:
        UserError: when one is missing, unknown or of another shape; it names the first.
    """
    expected = {name: shape for pair in pairs(config) for name, shape in pair.shapes().items()}
    if config.position == "sinusoidal":
        expected[SINUSOIDS] = (config.block_size, config.n_embd)
    for name, shape in expected.items():
        if name not in shapes:
            raise UserError(f"the tensor {name} is missing")
        if tuple(shapes[name]) != shape:
            raise UserError(f"the tensor {name} has the shape {list(shapes[name])!s:.60} and the config {list(shape)}")
    unknown = sorted(set(shapes) - set(expected))
    if unknown:
        raise UserError(f"the tensor {unknown[0]!r:.100} and {len(unknown) - 1} more are none of the config's model")
