"""A run folder <-> what is in it: the state that resuming needs, and the model that using needs.

    checkpoints/step_00000250/   state.json (plain values, tensors by name), tensors.safetensors, manifest.json (sizes, sha256)
    model/                       model.safetensors, config.json, the tokenizer's files

No pickle anywhere: a file from a stranger can be wrong, and cannot run anything.
"""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"


def _split(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """A nested state -> the same in JSON's types, with its tensors taken out into `tensors` under their paths."""
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().cpu().contiguous()
        return {"__tensor__": path}
    if isinstance(tree, dict):
        items = [[key, _split(value, tensors, f"{path}/{key}")] for key, value in tree.items()]
        # JSON's keys are strings: an optimizer's state is keyed by numbers.
        return dict(items) if all(isinstance(key, str) for key in tree) else {"__items__": items}
    if isinstance(tree, list | tuple):
        values = [_split(value, tensors, f"{path}/{i}") for i, value in enumerate(tree)]
        return values if isinstance(tree, list) else {"__tuple__": values}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{path}: a checkpoint holds tensors and plain values, not {type(tree).__name__}")


def _join(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_split`."""
    if isinstance(tree, list):
        return [_join(value, tensors) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if "__tensor__" in tree:
        return tensors[tree["__tensor__"]]
    if "__tuple__" in tree:
        return tuple(_join(value, tensors) for value in tree["__tuple__"])
    if "__items__" in tree:
        return {key: _join(value, tensors) for key, value in tree["__items__"]}
    return {key: _join(value, tensors) for key, value in tree.items()}


def sha256(path: Path) -> str:
    """The checksum of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Makes a file's bytes, or a folder's names, survive a loss of power."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle of a folder to flush
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(building: Path, folder: Path) -> None:
    """Moves a finished folder to its name, at once and durably; a folder that was there gives way only then."""
    for path in sorted(building.rglob("*")):
        _sync(path)
    _sync(building)
    old = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    building.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def building_folder(folder: Path) -> Path:
    """An empty folder beside `folder`, to be filled and then published in its place."""
    building = folder.with_name(f".building-{folder.name}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    return building


def save_state(state: dict[str, Any], folder: Path) -> None:
    """Writes a nested state of tensors and plain values as a verified folder; what `folder` held stays until the new one is whole.

    Raises:
        TypeError: for a value that is neither a tensor nor plain.
        OSError: when the disk is full or read-only.
    """
    building = building_folder(folder)
    tensors: dict[str, Tensor] = {}
    values = _split(state, tensors)
    save_file(tensors, building / "tensors.safetensors")
    (building / "state.json").write_text(json.dumps(values), encoding="utf-8")
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(building.iterdir())}
    (building / MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    publish(building, folder)


def verify_state(folder: Path) -> None:
    """Checks every byte of what `save_state` wrote.

    Raises:
        ValueError: naming the file that is missing, cut short or changed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in manifest["files"].items()}
        if set(files) != {"state.json", "tensors.safetensors"}:
            raise KeyError("files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{folder / MANIFEST}: missing or damaged") from None
    for name, (size, checksum) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise ValueError(f"{path}: missing or cut short")
        if sha256(path) != checksum:
            raise ValueError(f"{path}: its bytes have changed since they were written")


def load_state(folder: Path) -> dict[str, Any]:
    """Reads what `save_state` wrote, after checking every byte; a ValueError names the file that does not hold."""
    verify_state(folder)
    values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return _join(values, load_file(folder / "tensors.safetensors"))


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return sorted((run / "checkpoints").glob("step_*"), reverse=True)


def newest_state(run: Path) -> Path | None:
    """The newest checkpoint that holds, with a warning for each that does not; None where the run stopped before its first.

    Raises:
        ValueError: when there are checkpoints and every one is damaged.
    """
    found = checkpoints(run)
    for folder in found:
        try:
            verify_state(folder)
            return folder
        except ValueError as error:
            log.warning("checkpoint refused: %s", error)
    if found:
        raise ValueError(
            f"{run / 'checkpoints'}: every checkpoint is damaged; start a new run (init_from={run} takes over the weights in model/)"
        )
    return None


@dataclass
class Run:
    """A trained model with all that using it needs. `step` and `loss` (nats a token) are those of its best validation."""

    model: GPT
    tokenizer: Tokenizer
    step: int
    loss: float


def save_model(run: Path, model: GPT, tokenizer: Tokenizer, *, step: int, loss: float) -> None:
    """Writes `model/` of a run folder: weights under their own names, the model's settings, the tokenizer."""
    building = building_folder(run / "model")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.named_parameters()}
    save_file(weights, building / "model.safetensors", metadata={"step": str(step)})
    facts = {"model": asdict(model.config), "step": step, "loss": loss}
    facts["sha256"] = sha256(building / "model.safetensors")
    (building / "config.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    tokenizer.save(building)
    publish(building, run / "model")


def load_model(run: Path, device: torch.device | str = "cpu") -> Run:
    """The model of a run folder, in evaluation mode on `device`.

    Raises:
        ValueError: in one line, naming what is missing or damaged.
    """
    folder = run / "model"
    if not folder.is_dir():
        raise ValueError(
            f"{run}: has no model yet (its first validation writes one)"
            if (run / "config.yaml").exists()
            else f"{run} is no run folder: train one with train.py, or name one of outputs/*/* (run=last is the newest)"
        )
    try:
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = {name: facts["model"][name] for name in (item.name for item in fields(GPTConfig))}
        config = GPTConfig(**settings)
        step, loss, checksum = int(facts["step"]), float(facts["loss"]), str(facts["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / 'config.json'}: missing or damaged ({type(error).__name__}: {error})") from None
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256(weights) != checksum:
        raise ValueError(f"{weights}: missing, or its bytes have changed since they were written")
    model = GPT(config)
    load_weights(model, weights)
    return Run(model.to(device).eval(), load_tokenizer(folder), step, loss)


def load_weights(model: GPT, path: Path) -> None:
    """Fills a model with the weights of a `model.safetensors`.

    Raises:
        ValueError: when the file is damaged or its names or shapes are another model's.
    """
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    own = dict(model.named_parameters())  # each once: tied and shared ones are one tensor
    wrong = sorted(set(own) ^ set(weights)) or sorted(name for name in own if own[name].shape != weights[name].shape)
    if wrong:
        raise ValueError(f"{path}: the weights of another model ({wrong[0]} and {len(wrong) - 1} more differ)")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])


def replace_text(path: Path, text: str) -> None:
    """Writes a file beside its place, then takes its place: a kill leaves the old one or the new one."""
    building = path.with_name(f".building-{path.name}")
    building.write_text(text, encoding="utf-8")
    _sync(building)
    building.replace(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; a last line that a kill cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def last_run(root: Path = Path("outputs"), holding: str = "config.yaml") -> Path:
    """The newest run below `root` that has got as far as `holding`.

    Raises:
        ValueError: when there is none.
    """
    # A run is outputs/TASK/RUN, a job of a sweep outputs/TASK/SWEEP/JOB; Hydra's own notes lie in .hydra.
    found = [
        path for stars in ("*/*", "*/*/*") for path in root.glob(f"{stars}/{holding}") if ".hydra" not in path.parts
    ]
    if not found:
        raise ValueError(f"there is no run below {root}/: train one with train.py, or name its folder (run=PATH)")
    return max(found, key=lambda path: path.stat().st_mtime_ns).parents[len(Path(holding).parts) - 1]


def find_run(name: str, holding: str = "config.yaml") -> Path:
    """`last` or a path -> the run folder."""
    return last_run(holding=holding) if name == "last" else Path(name)


def pick_device(name: str) -> torch.device:
    """`auto` -> the best device of this machine.

    Raises:
        ValueError: for one that this machine lacks.
    """
    there = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name == "auto":
        return torch.device(there[0])
    if name not in there:
        raise ValueError(f"device={name}: this machine has {', '.join(there)}")
    return torch.device(name)
