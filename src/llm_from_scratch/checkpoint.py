"""A run folder <-> what is in it: the state that resuming needs, and the model that using needs.

    checkpoints/step_00000250/   state.json (plain values, tensors by name), tensors.safetensors, manifest.json (sizes, sha256)
    model/                       model.safetensors, config.json, the tokenizer's files

No pickle anywhere: a file from a stranger can be wrong, and cannot run anything.
"""

import errno
import json
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import BUILDING, building_folder, publish, sha256
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
PICKLES = (".pt", ".pth", ".ckpt")
MAX_JSON = 64_000_000  # bytes; ours are thousands of times smaller, and a stranger's must not fill the memory
# What files that keep their checksums, and were never written by this program, make their parsers raise.
MALFORMED = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


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


def _read_json(path: Path) -> Any:
    with path.open("rb") as file:
        content = file.read(MAX_JSON + 1)
    if len(content) > MAX_JSON:
        raise UserError(f"larger than {MAX_JSON} bytes")
    return json.loads(content)


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class Background:
    """One thread that writes, in order, what is handed to it. The step waits for a copy in memory, never for a disk.

    Until a write has ended, what was there before it is what there is; an error of one write is raised at the next, or by `wait`.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: list[Future[None]] = []
        # Memory of earlier copies: a first touch of fresh pages takes longer than the copy itself.
        self._spare: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}

    def submit(self, function: Callable[..., None], tree: Any, *arguments: Any, **settings: Any) -> None:
        """Hands `function(a copy of tree, …)` over; waits first where two are under way, so that copies cannot fill the memory."""
        while len(self._pending) > 1:
            self._pending.pop(0).result()
        used: list[Tensor] = []
        copy = self._copy(tree, used)
        self._pending.append(self._thread.submit(self._run, partial(function, copy, *arguments, **settings), used))

    def wait(self) -> None:
        """Returns when everything is on the disk."""
        while self._pending:
            self._pending.pop(0).result()

    def _copy(self, tree: Any, used: list[Tensor]) -> Any:
        """The same nested state in the machine's own memory, its tensors listed in `used`."""
        if isinstance(tree, Tensor):
            spare = self._spare.get((tree.shape, tree.dtype))
            used.append(spare.pop() if spare else torch.empty(tree.shape, dtype=tree.dtype))
            return used[-1].copy_(tree.detach())
        if isinstance(tree, dict):
            return {key: self._copy(value, used) for key, value in tree.items()}
        return type(tree)(self._copy(value, used) for value in tree) if type(tree) in (list, tuple) else tree

    def _run(self, write: Callable[[], None], used: list[Tensor]) -> None:
        try:
            write()
        finally:
            for tensor in used:
                self._spare.setdefault((tensor.shape, tensor.dtype), []).append(tensor)


def save_state(state: dict[str, Any], folder: Path, facts: dict[str, str] | None = None) -> None:
    """Writes a nested state of tensors and plain values as a verified folder; what `folder` held stays until the new one is whole.

    Args:
        state: what to write.
        folder: where, a name that says the step.
        facts: fingerprints of what the state belongs to, for the manifest.

    Raises:
        TypeError: for a value that is neither a tensor nor plain.
        OSError: when the disk is full or read-only.
    """
    tensors: dict[str, Tensor] = {}
    values = _split(state, tensors)
    building = building_folder(folder)
    needed, free = sum(tensor.nbytes for tensor in tensors.values()) + 2**20, shutil.disk_usage(building).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{folder} needs {needed:,} bytes, and {free:,} are free; earlier checkpoints stay")
    save_file(tensors, building / "tensors.safetensors")
    written = load_file(building / "tensors.safetensors")
    # Compared as bytes: a NaN that was saved is equal to itself, too.
    if any(not torch.equal(_bytes(tensor), _bytes(written[name])) for name, tensor in tensors.items()):
        raise OSError(errno.EIO, f"{building}: what was written is not what is read back; earlier checkpoints stay")
    (building / "state.json").write_text(json.dumps(values), encoding="utf-8")
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(building.iterdir())}
    (building / MANIFEST).write_text(json.dumps({"files": files, "facts": facts or {}}, indent=1), encoding="utf-8")
    publish(building, folder)


def verify_state(folder: Path) -> dict[str, str]:
    """Checks every byte of what `save_state` wrote; returns the fingerprints that it was given.

    Raises:
        UserError: naming the file that is missing, cut short or changed.
    """
    try:
        manifest = _read_json(folder / MANIFEST)
        files = {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in manifest["files"].items()}
        if set(files) != {"state.json", "tensors.safetensors"}:
            raise KeyError("files")
        named = {str(name): str(fingerprint) for name, fingerprint in manifest["facts"].items()}
    except MALFORMED:
        raise UserError(f"{folder / MANIFEST}: missing or damaged") from None
    for name, (size, checksum) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise UserError(f"{path}: missing or cut short")
        if sha256(path) != checksum:
            raise UserError(f"{path}: its bytes have changed since they were written")
    return named


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def load_state(folder: Path) -> dict[str, Any]:
    """Reads what `save_state` wrote, after checking every byte; a UserError names the file that does not hold."""
    verify_state(folder)
    try:
        state = _join(_read_json(folder / "state.json"), load_file(folder / "tensors.safetensors"))
        if not isinstance(state, dict):
            raise TypeError("not a dictionary")
    except MALFORMED as error:
        raise UserError(f"{folder}: state.json and tensors.safetensors are no state of a run ({_why(error)})") from None
    return state


def prune_states(run: Path, kept: int) -> None:
    """Removes the oldest checkpoints of a run; called behind a save that was read back and compared."""
    for old in checkpoints(run)[kept:]:
        gone = old.with_name(f".old-{old.name}")  # a kill must not leave half of it under its name
        old.rename(gone)
        shutil.rmtree(gone)


def remove_leftovers(run: Path) -> None:
    """Removes checkpoints that a kill left half built or half removed: with other intervals no save comes to their names again."""
    for left in (*(run / "checkpoints").glob(".*"), *run.glob(f"{BUILDING}*")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return sorted((run / "checkpoints").glob("step_*"), reverse=True)


def newest_state(run: Path) -> Path | None:
    """The newest checkpoint that holds, with a warning for each that does not; None where the run stopped before its first.

    Raises:
        UserError: when there are checkpoints and every one is damaged.
    """
    found = checkpoints(run)
    for folder in found:
        try:
            verify_state(folder)
            return folder
        except ValueError as error:
            log.warning("checkpoint refused: %s", error)
    if found:
        raise UserError(
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


def save_model(
    weights: dict[str, Tensor], config: GPTConfig, tokenizer: Tokenizer, run: Path, *, step: int, loss: float
) -> None:
    """Writes `model/` of a run folder: the weights (named_parameters), the model's settings, the tokenizer."""
    building = building_folder(run / "model")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(weights, building / "model.safetensors", metadata={"step": str(step)})
    facts = {"model": asdict(config), "step": step, "loss": loss}
    facts["sha256"] = sha256(building / "model.safetensors")
    (building / "config.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    tokenizer.save(building)
    publish(building, run / "model")


def model_folder(run: Path) -> Path:
    """Where a run's model is, with its tokenizer."""
    folder, old = run / "model", run / ".old-model"
    return old if old.is_dir() and not folder.is_dir() else folder  # killed between the two renames of `publish`


def load_model(run: Path, device: torch.device | str = "cpu") -> Run:
    """The model of a run folder, in evaluation mode on `device`.

    Raises:
        UserError: in one line, naming what is missing or damaged.
    """
    folder = model_folder(run)
    if not folder.is_dir():
        raise UserError(
            f"{run}: has no model yet (its first validation writes one)"
            if (run / "config.yaml").exists()
            else f"{run} is no run folder: train one with train.py, or name one of outputs/*/* (run=last is the newest)"
        )
    try:
        facts = _read_json(folder / "config.json")
        settings = {name: facts["model"][name] for name in (item.name for item in fields(GPTConfig))}
        step, loss, checksum = int(facts["step"]), float(facts["loss"]), str(facts["sha256"])
    except MALFORMED as error:
        raise UserError(f"{folder / 'config.json'}: missing or damaged ({_why(error)})") from None
    path = folder / "model.safetensors"
    if not path.is_file() or sha256(path) != checksum:
        raise UserError(f"{path}: missing, or its bytes have changed since they were written")
    weights = _read_weights(path)
    model = _build(settings, weights, folder)
    fill(model, weights, path)
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} pieces and the model {model.config.vocab_size}"
        )
    return Run(model.to(device).eval(), tokenizer, step, loss)


def _build(settings: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> GPT:
    """The model of settings that may be anybody's: they get no more time and memory than the weights account for."""
    total = sum(tensor.numel() for tensor in weights.values())
    try:
        for name, value in settings.items():
            if isinstance(value, int) and value > max(total, 2**24):
                raise UserError(f"{name} exceeds the {total} numbers in model.safetensors")
        config = GPTConfig(**settings)
        if config.unique_layers > len(weights) or config.block_size * config.head_size > max(total, 2**26):
            raise UserError("more layers or positions than model.safetensors accounts for")
        heads = (config.n_head + 2 * config.kv_heads) * config.head_size + config.n_embd
        inner = config.inner_size * (3 if config.activation == "swiglu" else 2)
        if config.n_embd * (config.vocab_size + config.unique_layers * (heads + inner)) > total:
            raise UserError(f"larger matrices than the {total} numbers in model.safetensors")
    except MALFORMED as error:
        raise UserError(f"{folder / 'config.json'}: damaged ({_why(error)})") from None
    return GPT(config)


def load_weights(model: GPT, path: Path) -> None:
    """Fills a model with the weights of a `model.safetensors`, or of a `.pt`, `.pth` or `.ckpt` of torch's or Lightning's.

    Raises:
        UserError: when the file is damaged or refused, or its names or shapes are another model's.
    """
    fill(model, _read_pickle(path) if path.suffix in PICKLES else _read_weights(path), path)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors and plain containers alone, whatever the environment says: nothing in the file can run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content = content.get("state_dict", content)
        # Lightning's module holds the model as `model`, and a compiled one is wrapped once more.
        return {name.removeprefix("model.").removeprefix("_orig_mod."): tensor for name, tensor in content.items()}
    except Exception as error:  # a hostile pickle makes its reader raise anything
        raise UserError(f"{path}: cannot be read as weights: {_why(error)}") from None


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except MALFORMED as error:
        raise UserError(f"{path}: cannot be read ({_why(error)})") from None


def _compare(model: GPT, weights: dict[str, Tensor], path: Path) -> None:
    own = dict(model.named_parameters())  # each once: tied and shared ones are one tensor
    wrong = sorted(set(own) ^ set(weights)) or sorted(
        name for name in own if own[name].shape != weights[name].shape or not weights[name].is_floating_point()
    )
    if wrong:
        raise UserError(f"{path}: the weights of another model ({wrong[0]!r:.100} and {len(wrong) - 1} more differ)")


def fill(model: GPT, weights: dict[str, Tensor], path: Path) -> None:
    """Copies weights by name into a model; a UserError names `path` where names or shapes are another model's."""
    _compare(model, weights, path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


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
        UserError: when there is none.
    """
    # A run is outputs/TASK/RUN, a job of a sweep outputs/TASK/SWEEP/JOB; Hydra's own notes lie in .hydra.
    found = [
        path for stars in ("*/*", "*/*/*") for path in root.glob(f"{stars}/{holding}") if ".hydra" not in path.parts
    ]
    if not found:
        raise UserError(f"there is no run below {root}/: train one with train.py, or name its folder (run=PATH)")
    return max(found, key=lambda path: path.stat().st_mtime_ns).parents[len(Path(holding).parts) - 1]


def find_run(name: str, holding: str = "config.yaml") -> Path:
    """`last` or a path -> the run folder."""
    return last_run(holding=holding) if name == "last" else Path(name)


def pick_device(name: str) -> torch.device:
    """`auto` -> the best device of this machine.

    Raises:
        UserError: for one that this machine lacks.
    """
    there = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name == "auto":
        return torch.device(there[0])
    if name not in there:
        raise UserError(f"device={name}: this machine has {', '.join(there)}")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` -> bfloat16 on a CUDA GPU that has it in hardware, else float32; the other names are torch's."""
    if name != "auto":
        return getattr(torch, name)
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast else torch.float32
