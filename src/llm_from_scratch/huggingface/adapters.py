"""LoRA adapters in PEFT's format: adapter_config.json, adapter_model.safetensors.

    adapters of this GPT's layers <-> adapters of the layers of a class of transformers

A fused layer here is several layers there. Written, each gets the shared A and its rows of B.
Read, adapters with one A become one again; others lie side by side, each in its own columns of B:
three of rank r are one of rank 3 r. Of a model that no class of transformers computes, the files
hold the names of this package.

A folder of a stranger's is untrusted: nothing in it runs.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_from_scratch.checkpoint import naming, read_json
from llm_from_scratch.config import LINEAR_LAYERS
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import open_regular, refuse_links
from llm_from_scratch.huggingface.families import family_of
from llm_from_scratch.huggingface.hub import NAME, REVISION
from llm_from_scratch.huggingface.tensors import pairs
from llm_from_scratch.lora import Adapter
from llm_from_scratch.model import GPTConfig
from llm_from_scratch.places import ADAPTER, ADAPTER_CONFIG

ROOT = "base_model.model."  # PEFT's prefix of every module
# Entries that change what an adapter computes, with the values that this package computes.
FIXED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    # The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change the weights of the base, too.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva", "mica"),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "use_bdlora": (None, False),
    "monteclora_config": (None,),
}


@dataclass(frozen=True)
class Place:
    """The modules of transformers that are a linear layer here, their rows one below the other."""

    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    inputs: int


def places(config: GPTConfig) -> dict[str, Place]:
    """Returns the linear layers of a model's blocks by name, each with its place there."""
    try:
        family_of(config)
    except UserError:
        return _own_places(config)
    found = {}
    for pair in pairs(config):
        module, _, leaf = pair.ours.rpartition(".")
        if leaf == "weight" and module.endswith(LINEAR_LAYERS):
            theirs = tuple(name.removesuffix(".weight") for name in pair.theirs)
            found[module] = Place(theirs, pair.rows, pair.shape[1])
    return found


def _own_places(config: GPTConfig) -> dict[str, Place]:
    """Returns the layers of a model that no class of transformers computes, by their own names."""
    heads, kv = config.n_head * config.head_dim, config.kv_heads * config.head_dim
    up = config.inner_size * (2 if config.activation == "swiglu" else 1)
    shapes = {  # outputs and inputs
        "attention.qkv": (heads + 2 * kv, config.n_embd),
        "attention.out": (config.n_embd, heads),
        "feed_forward.up": (up, config.n_embd),
        "feed_forward.out": (config.n_embd, config.inner_size),
    }
    return {
        f"blocks.{block}.{name}": Place((f"blocks.{block}.{name}",), (outputs,), inputs)
        for block in range(config.unique_layers)
        for name, (outputs, inputs) in shapes.items()
    }


# ---------------------------------------------------------------------------------------- writing
def adapter_writer(
    config: GPTConfig, base: str, *, rank: int, alpha: float, p: float
) -> Callable[[Mapping[str, Tensor], Path], None]:
    """Returns a function of (parameters by name, folder) that writes an adapter's two files.

    Args:
        config: the architecture of the base.
        base: the name of the base, as `init_from` has it. Of a model of the hub PEFT keeps the
            revision in a field of its own.
        rank: the adapters' rank.
        alpha: their scale times the rank.
        p: the dropout that they were trained with.
    """
    found = NAME.fullmatch(base)
    name, revision = (found["name"], found["revision"]) if found else (base, None)
    of_base = {"base_model_name_or_path": name, "revision": revision}
    settings: dict[str, Any] = {"lora_alpha": alpha, "lora_dropout": p, "r": rank, **of_base}
    return partial(_write, config=config, settings=settings)


def _write(state: Mapping[str, Tensor], folder: Path, *, config: GPTConfig, settings: dict[str, Any]) -> None:
    known = places(config)
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(one.rpartition(".")[0] for one in state):
        a, b, place = state[f"{name}.lora_A"], state[f"{name}.lora_B"], known[name]
        for theirs, rows in zip(place.theirs, b.split(place.rows), strict=True):
            # Copies: a file may hold no tensor twice.
            tensors[f"{ROOT}{theirs}.lora_A.weight"] = a.clone()
            tensors[f"{ROOT}{theirs}.lora_B.weight"] = rows.clone()
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})
    adapted = {name.removeprefix(ROOT).removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name}
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "bias": "none",
        "fan_in_fan_out": _transposed(config),
        "inference_mode": True,
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
        "target_modules": _targets(adapted, {one for place in known.values() for one in place.theirs}),
        **settings,
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _transposed(config: GPTConfig) -> bool:
    try:
        return family_of(config).transposed
    except UserError:
        return False


def _targets(adapted: set[str], layers: set[str]) -> list[str]:
    """Returns PEFT's list of targets: the last parts of the names, where these say it all."""
    last = {name.rpartition(".")[2] for name in adapted}
    whole = {name for name in layers if name.rpartition(".")[2] in last}
    return sorted(last if whole == adapted else adapted)


# ---------------------------------------------------------------------------------------- reading
def read_settings(folder: Path) -> dict[str, Any]:
    """Reads adapter_config.json and checks that this package computes the adapter.

    Raises:
        UserError: when it is missing or damaged, or of another kind of adapter.
    """
    path = folder / ADAPTER_CONFIG
    with naming(path):
        refuse_links(path, folder)
        content = read_json(path)
        for name, allowed in FIXED.items():
            if content.get(name) not in allowed:
                raise UserError(
                    f"{name}={content.get(name)!r:.60} is not supported: merge it with peft, merge_and_unload()"
                )
        patterns = content.get("rank_pattern") or {}, content.get("alpha_pattern") or {}
        for key in (one for pattern in patterns for one in pattern):
            if not re.fullmatch(r"[\w.]{1,200}", key):
                raise UserError(f"{key!r:.60} is a regular expression: only names are read")
        for value in (content["r"], content["lora_alpha"], *(one for pattern in patterns for one in pattern.values())):
            if isinstance(value, bool) or not 0 < value < math.inf:
                raise UserError(f"{value!r:.60} must be a finite number above 0")
        name = content.get("base_model_name_or_path")
        if not (isinstance(name, str) and name and name.isprintable()):
            raise UserError("base_model_name_or_path must name the model that it adapts")
        revision = content.get("revision")
        if revision is not None and not (isinstance(revision, str) and re.fullmatch(REVISION, revision)):
            raise UserError(f"revision={revision!r:.60} must be a branch, a tag or a commit")
    return dict(content)


def read_adapters(folder: Path, config: GPTConfig) -> dict[str, Adapter]:
    """Reads the adapters of a folder in PEFT's format, by the names of this GPT's layers.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        config: the architecture of the base.

    Raises:
        UserError: when a file is missing or damaged, or holds adapters of other layers.
    """
    settings, path = read_settings(folder), folder / ADAPTER
    with naming(path):
        refuse_links(path, folder)
        open_regular(path).close()
        tensors = {_module(name): tensor for name, tensor in load_file(path).items()}
        found = {}
        for name, place in places(config).items():
            parts = {theirs: _part(theirs, tensors, settings) for theirs in place.theirs}
            given = {theirs: part for theirs, part in parts.items() if part is not None}
            if given:
                _check_shapes(given, place)
                found[name] = _joined(given, place)
        if tensors:
            raise UserError(f"the tensor {' '.join(min(tensors))!r:.100} is of no linear layer of this model's blocks")
        if not found:
            raise UserError("it holds no adapter")
    return found


def _module(name: str) -> tuple[str, str]:
    """Returns the module and the matrix, A or B, of a tensor's name."""
    found = re.fullmatch(re.escape(ROOT) + r"(.+)\.lora_([AB])\.weight", name)
    if not found:
        raise UserError(f"the tensor {name!r:.100} is of no linear layer's adapter")
    return found[1], found[2]


def _part(theirs: str, tensors: dict[tuple[str, str], Tensor], settings: Mapping[str, Any]) -> Adapter | None:
    """Takes the adapter of one of their modules from `tensors`; None where it has none."""
    a, b = tensors.pop((theirs, "A"), None), tensors.pop((theirs, "B"), None)
    if a is None and b is None:
        return None
    if a is None or b is None or a.dim() != 2 or b.dim() != 2 or len(a) != b.shape[1] or not len(a):
        raise UserError(f"{theirs}: lora_A and lora_B are not two matrices of one rank")
    alpha = settings["lora_alpha"]
    for key, value in (settings.get("alpha_pattern") or {}).items():
        if theirs == key or theirs.endswith(f".{key}"):
            alpha = value
            break
    rank = len(a)
    return Adapter(a.float(), b.float(), alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _check_shapes(parts: Mapping[str, Adapter], place: Place) -> None:
    for theirs, rows in zip(place.theirs, place.rows, strict=True):
        part = parts.get(theirs)
        if part is not None and (part.a.shape[1], len(part.b)) != (place.inputs, rows):
            raise UserError(
                f"{theirs}: an adapter of {part.a.shape[1]} inputs and {len(part.b)} outputs, and the layer has"
                f" {place.inputs} and {rows}"
            )


def _joined(parts: Mapping[str, Adapter], place: Place) -> Adapter:
    """Joins the adapters of their modules to one of the fused layer, which computes the same.

    A module without an adapter has rows of zeros.
    """
    first = next(iter(parts.values()))
    if all(part.scale == first.scale and torch.equal(part.a, first.a) for part in parts.values()):
        rows = [
            parts[theirs].b if theirs in parts else first.b.new_zeros(rows, len(first.a))
            for theirs, rows in zip(place.theirs, place.rows, strict=True)
        ]
        return Adapter(first.a, torch.cat(rows), first.scale)
    b = first.b.new_zeros(sum(place.rows), sum(len(part.a) for part in parts.values()))
    row = column = 0
    for theirs, height in zip(place.theirs, place.rows, strict=True):
        if theirs in parts:
            part = parts[theirs]
            b[row : row + height, column : column + len(part.a)] = part.b * part.scale
            column += len(part.a)
        row += height
    return Adapter(torch.cat([part.a for part in parts.values()]), b, 1.0)
