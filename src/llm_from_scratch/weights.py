"""`model/` of a run folder: weights, the model's settings and the tokenizer.

    model/    model.safetensors, config.json, the tokenizer's files

A run of adapters (`lora.py`) has their two files (`huggingface/adapters.py`) in place of the
weights, and its config.json names the base.

Of torch's own files (.pt, .pth, .ckpt) only tensors are read, so no code in a file can run. The
model settings of version 0.1 have no checksum of their own and are read unverified.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_from_scratch.checkpoint import MALFORMED, own_sha256, read_json, reason, verify_own
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import building_folder, open_regular, publish, refuse_links, sha256
from llm_from_scratch.model import GPT, GPTConfig, uninitialised
from llm_from_scratch.places import ADAPTER, ADAPTER_CONFIG
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer

PICKLES = (".pt", ".pth", ".ckpt")
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Base:
    """The base of a run of adapters, and what writes their files.

    `name` is that of `init_from`, `sha256` the checksum of its files (`pretrained.Source`).
    """

    name: str
    sha256: str
    write: Callable[[dict[str, Tensor], Path], None]


@dataclass
class LoadedModel:
    """Trained model with its tokenizer.

    `step` and `loss` (nats a token) are those of the best validation; None for a model that was
    trained elsewhere. `data` is the fingerprint of the prepared text; None in version 0.1.
    `end_ids` end a text, as the tokenizer's `eot_id` does. `chat_template` is in Jinja.
    """

    model: GPT
    tokenizer: Tokenizer
    step: int | None
    loss: float | None
    data: str | None = None
    end_ids: tuple[int, ...] = ()
    chat_template: str | None = None


def save_model(
    weights: dict[str, Tensor],
    config: GPTConfig,
    tokenizer: Tokenizer,
    run: Path,
    *,
    step: int,
    loss: float,
    data: str | None = None,
    end_ids: Sequence[int] = (),
    chat_template: str | None = None,
    base: Base | None = None,
) -> None:
    """Writes `model/` of a run folder: weights by parameter name, model settings, tokenizer.

    With `base`, the weights are the adapters alone. The other arguments are those of `LoadedModel`.
    """
    building = building_folder(run / "model")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    checksums: dict[str, Any]
    if base is None:
        save_file(weights, building / WEIGHTS, metadata={"step": str(step)})
        checksums = {"sha256": sha256(building / WEIGHTS)}
    else:
        base.write(weights, building)
        settings = sha256(building / ADAPTER_CONFIG)
        checksums = {"sha256": sha256(building / ADAPTER)}
        checksums["base"] = {"name": base.name, "sha256": base.sha256, "settings": settings}
    metadata = {"model": asdict(config), "step": step, "loss": loss, "tokenizer": tokenizer.fingerprint}
    metadata |= {"data": data} if data else {}
    metadata |= {"end_ids": [*end_ids]} if end_ids else {}
    metadata |= {"chat_template": chat_template} if chat_template is not None else {}
    metadata |= checksums
    metadata["config_sha256"] = own_sha256(metadata, "config_sha256")
    (building / "config.json").write_text(json.dumps(metadata, indent=1), encoding="utf-8")
    tokenizer.save(building)
    publish(building, run / "model")


def model_folder(run: Path) -> Path:
    """Returns the folder of a run's model and tokenizer, which need not exist yet.

    It is `.old-model` where a kill came between the two renames of `publish`, else `model`.
    """
    folder, old = run / "model", run / ".old-model"
    return old if old.is_dir() and not folder.is_dir() else folder


def load_model(run: Path, device: torch.device | str = "cpu", *, doc_mask: bool = False) -> LoadedModel:
    """Loads the model of a run folder, in evaluation mode on `device`.

    `pretrained.load_run` loads that of a run of adapters too, by its base.

    Args:
        run: the run folder.
        device: the device to load the model to.
        doc_mask: keeps attention within documents, as `data.doc_mask` does in training.

    Raises:
        UserError: when a file, which it names, is missing or damaged.
    """
    folder = model_folder(run)
    metadata = model_metadata(run)
    if "base" in metadata:
        raise UserError(f"{folder}: holds adapters of {metadata['base']['name']}, not weights")
    path = folder / WEIGHTS
    weights = _read_weights(path)
    return loaded(folder, metadata, weights, path, device, doc_mask=doc_mask)


def loaded(
    folder: Path,
    metadata: dict[str, Any],
    weights: dict[str, Tensor],
    path: Path,
    device: torch.device | str,
    *,
    doc_mask: bool,
) -> LoadedModel:
    """Builds the model that `model/config.json` describes of weights, which `path` is to name.

    Raises:
        UserError: when the weights, the settings and the tokenizer do not fit each other.
    """
    config = _verified_config(metadata["model"], weights, folder)
    tokenizer = load_tokenizer(folder)
    model = uninitialised(config, eot_id=tokenizer.eot_id if doc_mask else None)
    fill(model, weights, path)
    if tokenizer.vocab_size != config.vocab_size:
        raise UserError(f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens and the model {config.vocab_size}")
    if metadata.get("tokenizer", tokenizer.fingerprint) != tokenizer.fingerprint:
        raise UserError(f"{folder}: its tokenizer is another one than the model was trained with")
    end_ids, template = chat_of(metadata, tokenizer.vocab_size, folder)
    facts = (metadata["step"], metadata["loss"], metadata.get("data"), end_ids, template)
    return LoadedModel(model.to(device).eval(), tokenizer, *facts)


def chat_of(metadata: Mapping[str, Any], vocab_size: int, folder: Path) -> tuple[tuple[int, ...], str | None]:
    """Returns the ids that end an answer and the chat template, from the content of config.json.

    Raises:
        UserError: when an id is outside the vocabulary.
    """
    end_ids, template = metadata.get("end_ids", []), metadata.get("chat_template")
    known = isinstance(end_ids, list) and all(type(i) is int and 0 <= i < vocab_size for i in end_ids)
    if not known or not isinstance(template, str | None):
        raise UserError(f"{folder / 'config.json'}: damaged (its end_ids or its chat_template)")
    return tuple(end_ids), template


def model_metadata(run: Path) -> dict[str, Any]:
    """Reads `model/config.json` (settings, step, loss) and verifies the checksum of the weights.

    Raises:
        UserError: when a file, which it names, is missing or damaged.
    """
    metadata = saved_settings(run)
    folder, base = model_folder(run), metadata.get("base")
    checksums = {WEIGHTS: metadata["sha256"]}
    if base is not None:
        checksums = {ADAPTER: metadata["sha256"], ADAPTER_CONFIG: base["settings"]}
    for name, checksum in checksums.items():
        if not (folder / name).is_file() or sha256(folder / name) != checksum:
            raise UserError(f"{folder / name}: missing, or its bytes have changed since they were written")
    return metadata


def saved_settings(run: Path) -> dict[str, Any]:
    """Reads `model/config.json` as `model_metadata` does, without reading the weights.

    Raises:
        UserError: when the file is missing or damaged, or has a setting unknown to this version.
    """
    folder = model_folder(run)
    if not folder.is_dir():
        raise UserError(
            f"{run}: has no model yet (its first validation writes one)"
            if (run / "config.yaml").exists()
            else f"{run} is no run folder: train one with train.py, or name one of outputs/*/* (run=last is the newest)"
        )
    refuse_links(folder, run)
    path = folder / "config.json"
    known = {item.name: item.default for item in fields(GPTConfig)}
    try:
        metadata = read_json(path)
        optional = {"tokenizer", "data", "end_ids", "chat_template", "base"} & set(metadata)
        verify_own(metadata, "config_sha256", {"model", "step", "loss", "sha256", *optional})
        unknown = set(metadata["model"]) - set(known)
        # A setting that was added after the run has its default.
        defaults = {name: default for name, default in known.items() if default is not MISSING}
        metadata["model"] = defaults | metadata["model"]
        if "base" in metadata:
            metadata["base"] = {key: str(metadata["base"][key]) for key in ("name", "sha256", "settings")}
        metadata["step"], metadata["loss"] = int(metadata["step"]), float(metadata["loss"])
    except MALFORMED as error:
        raise UserError(f"{path}: missing or damaged ({reason(error)})") from None
    if unknown:
        raise UserError(
            f"{path}: {min(unknown)!r:.100} is no setting of a model of this version: use the version that made the run"
        )
    return metadata


def _verified_config(settings: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> GPTConfig:
    """Builds the config of untrusted settings, before their model takes any memory.

    Raises:
        UserError: when the model is larger than its weights justify, or the settings are damaged.
    """
    total = sum(tensor.numel() for tensor in weights.values())
    try:
        for name, value in settings.items():
            if isinstance(value, int) and value > max(total, 2**24):
                raise UserError(f"{name} exceeds the {total} numbers in model.safetensors")
        config = GPTConfig(**settings)
        check_size(config, total, len(weights))
    except MALFORMED as error:
        raise UserError(f"{folder / 'config.json'}: damaged ({reason(error)})") from None
    return config


def check_size(config: GPTConfig, total: int, tensors: int) -> None:
    """Compares the size of an untrusted config's model with a file of `total` numbers in `tensors`.

    Raises:
        UserError: when the model is larger than the file justifies.
    """
    if config.unique_layers > tensors or config.block_size * config.head_dim > max(total, 2**26):
        raise UserError("more layers or positions than model.safetensors accounts for")
    if config.n_layer * config.block_size * config.kv_heads * config.head_dim > max(64 * total, 2**28):
        raise UserError("more layers and positions than model.safetensors accounts for")
    heads = 2 * (config.n_head + config.kv_heads) * config.head_dim
    inner = config.inner_size * (3 if config.activation == "swiglu" else 2)
    if config.n_embd * (config.vocab_size + config.unique_layers * (heads + inner)) > total:
        raise UserError(f"larger matrices than the {total} numbers in model.safetensors")


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a `.pt`, `.pth` or `.ckpt` file by parameter name; runs no code of it.

    Raises:
        UserError: when the file is damaged or not of weights.
    """
    try:
        with open_regular(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
        content = content.get("state_dict", content)
        # Lightning prefixes the names by `model.`, torch.compile by `_orig_mod.`.
        return {name.removeprefix("model.").removeprefix("_orig_mod."): tensor for name, tensor in content.items()}
    except Exception as error:  # reading a malicious pickle can raise any error
        raise UserError(f"{path}: cannot be read as weights: {reason(error)}") from None


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        open_regular(path).close()
        return load_file(path)
    except MALFORMED as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None


def _compare(model: GPT, weights: dict[str, Tensor], path: Path) -> None:
    own = dict(model.named_parameters())  # a tied or shared parameter appears once
    wrong = sorted(set(own) ^ set(weights)) or sorted(
        name for name in own if own[name].shape != weights[name].shape or not weights[name].is_floating_point()
    )
    if wrong:
        raise UserError(f"{path}: the weights of another model ({wrong[0]!r:.100} and {len(wrong) - 1} more differ)")


def fill(model: GPT, weights: dict[str, Tensor], path: Path) -> None:
    """Copies weights by name into a model.

    Raises:
        UserError: when names or shapes do not match the model's; it names `path`.
    """
    _compare(model, weights, path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
