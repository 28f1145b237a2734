"""A run folder <-> what is in it: the state that resuming needs, and the model that using needs.

    checkpoints/step_00000250/   state.json (plain values, tensors by name), tensors.safetensors, manifest.json (sizes, sha256)
    model/                       model.safetensors, config.json, the tokenizer's files
    metrics.jsonl timing.jsonl   rows; the checksums of their lines are in .metrics.jsonl.crc32, .timing.jsonl.crc32

No pickle anywhere: a file from a stranger can be wrong, and cannot run anything. Every file has a checksum that is checked
where the file is read; the manifests, model settings and rows of version 0.1 have none and are read as they stand.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import MISSING, asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import (
    building_folder,
    open_regular,
    publish,
    read_bounded,
    refuse_links,
    sha256,
    write_file,
)
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import note, quote
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
PICKLES = (".pt", ".pth", ".ckpt")
STEP = re.compile(r"step_\d{8,}")
# The temporary names of what a run writes, with and without the random part that keeps them apart.
LEFTOVER = re.compile(
    r"\.(building|old)-(config\.yaml|\.?(metrics|timing)\.jsonl(\.crc32)?|samples\.md|curves\.png|model|step_\d{8,})(-[0-9a-f]{8})?"
)
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
    return json.loads(read_bounded(path, MAX_JSON))


def _own_sha256(facts: dict[str, Any], key: str) -> str:
    """The checksum of a JSON object without `key`, under which it keeps that checksum."""
    content = json.dumps({name: value for name, value in facts.items() if name != key}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _verify_own(facts: Any, key: str, known: set[str]) -> None:
    """Holds a JSON object against the checksum that it keeps of itself; version 0.1 kept none.

    Raises:
        UserError: it is another one than was written. A damaged `key` shows as an unknown name.
    """
    if not isinstance(facts, dict) or set(facts) - {key} != known:
        raise UserError("other names than it was written with")
    if key in facts and facts[key] != _own_sha256(facts, key):
        raise UserError("its bytes have changed since they were written")


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class Background:
    """One thread that writes, in order, what is handed to it. The step waits for a copy in memory, never for a disk.

    The previous files stay in place until a write completes. A failed write is raised by the next `submit` or by `wait`, and no
    write is made after it: a checkpoint is on the disk only if the model that it tells of is.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: list[Future[None]] = []
        self._failed: BaseException | None = None
        # Memory of earlier copies: a first touch of fresh pages takes longer than the copy itself.
        self._spare: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}

    def submit(self, function: Callable[..., None], tree: Any, *arguments: Any, **settings: Any) -> None:
        """Hands `function(a copy of tree, …)` over; waits first where two are under way, so that copies cannot fill the memory."""
        while len(self._pending) > 1:
            self._pending.pop(0).result()
        if self._failed:
            raise self._failed
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
            if not self._failed:
                write()
        except BaseException as error:
            self._failed = error
            raise
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
    manifest: dict[str, Any] = {"files": files, "facts": facts or {}}
    manifest["sha256"] = _own_sha256(manifest, "sha256")
    (building / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    publish(building, folder)


def verify_state(folder: Path) -> dict[str, str]:
    """Checks every byte of what `save_state` wrote; returns the fingerprints that it was given.

    Raises:
        UserError: naming the file that is missing, cut short or changed.
    """
    refuse_links(folder, folder)
    try:
        manifest = _read_json(folder / MANIFEST)
        _verify_own(manifest, "sha256", {"files", "facts"})
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


def recorded_layout(folder: Path) -> dict[str, Any]:
    """How the run before a verified checkpoint cut its steps (`LanguageModel.layout`); empty for one of version 0.1."""
    layout = _read_json(folder / "state.json").get("layout")
    return layout if isinstance(layout, dict) else {}


def prune_states(run: Path, kept: int) -> None:
    """Removes the oldest checkpoints of a run; called behind a save that was read back and compared."""
    for old in checkpoints(run)[kept:]:
        gone = old.with_name(f".old-{old.name}")  # a kill must not leave half of it under its name
        old.rename(gone)
        shutil.rmtree(gone)


def remove_leftovers(run: Path) -> None:
    """Removes what a kill left half built or half removed: with other intervals no save comes to the names of checkpoints again.

    A file or folder of any other name is somebody else's. A model that was moved aside and not replaced gets its name back.
    """
    refuse_links(run / "checkpoints", run)
    if model_folder(run).name == ".old-model":
        model_folder(run).rename(run / "model")
    for folder in (run, run / "checkpoints"):
        for left in sorted(folder.glob(".*")):
            if not LEFTOVER.fullmatch(left.name):
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first: the folders step_00000250; any other name beside them is somebody else's.

    Raises:
        UserError: `checkpoints` is a link that leads out of the run folder.
    """
    if (run / "checkpoints").is_symlink():
        refuse_links(run / "checkpoints", run)
    found = [
        path
        for path in (run / "checkpoints").glob("step_*")
        if STEP.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)


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
            f"{run / 'checkpoints'}: every checkpoint is damaged; start a new run ({quote(f'init_from={run}')} takes over the"
            " weights in model/)"
        )
    return None


@dataclass
class Run:
    """A trained model with all that using it needs. `step` and `loss` (nats a token) are those of its best validation.

    `data` is the fingerprint of the prepared text it was trained on; None in `model/` of version 0.1.
    """

    model: GPT
    tokenizer: Tokenizer
    step: int
    loss: float
    data: str | None = None


def save_model(
    weights: dict[str, Tensor],
    config: GPTConfig,
    tokenizer: Tokenizer,
    run: Path,
    *,
    step: int,
    loss: float,
    data: str | None = None,
) -> None:
    """Writes `model/` of a run folder: the weights (named_parameters), the model's settings, the tokenizer."""
    building = building_folder(run / "model")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(weights, building / "model.safetensors", metadata={"step": str(step)})
    facts = {"model": asdict(config), "step": step, "loss": loss, "tokenizer": tokenizer.fingerprint}
    facts |= {"data": data} if data else {}
    facts["sha256"] = sha256(building / "model.safetensors")
    facts["config_sha256"] = _own_sha256(facts, "config_sha256")
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
    facts = model_facts(run)
    settings, path = facts["model"], folder / "model.safetensors"
    weights = _read_weights(path)
    model = _build(settings, weights, folder)
    fill(model, weights, path)
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} pieces and the model {model.config.vocab_size}"
        )
    if facts.get("tokenizer", tokenizer.fingerprint) != tokenizer.fingerprint:
        raise UserError(f"{folder}: its tokenizer is another one than the model was trained with")
    return Run(model.to(device).eval(), tokenizer, facts["step"], facts["loss"], facts.get("data"))


def model_facts(run: Path) -> dict[str, Any]:
    """What `model/config.json` of a run says: the model's settings, its step and loss; the weights' bytes are verified.

    Raises:
        UserError: in one line, naming what is missing or damaged.
    """
    facts = saved_settings(run)
    path = model_folder(run) / "model.safetensors"
    if not path.is_file() or sha256(path) != facts["sha256"]:
        raise UserError(f"{path}: missing, or its bytes have changed since they were written")
    return facts


def saved_settings(run: Path) -> dict[str, Any]:
    """`model_facts` without a look at the weights.

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
    refuse_links(folder, run)
    try:
        facts = _read_json(folder / "config.json")
        _verify_own(facts, "config_sha256", {"model", "step", "loss", "sha256", *({"tokenizer", "data"} & set(facts))})
        facts["model"] = _settings(facts["model"])
        facts["step"], facts["loss"] = int(facts["step"]), float(facts["loss"])
    except MALFORMED as error:
        raise UserError(f"{folder / 'config.json'}: missing or damaged ({_why(error)})") from None
    return facts


def _settings(saved: dict[str, Any]) -> dict[str, Any]:
    """The settings of a saved model; one that is younger than the run has its default."""
    unknown = set(saved) - {item.name for item in fields(GPTConfig)}
    if unknown:
        raise UserError(f"{min(unknown)}: no setting of a model of this version")
    defaults = {item.name: item.default for item in fields(GPTConfig) if item.default is not MISSING}
    return defaults | saved


def data_fingerprint(run: Path) -> str | None:
    """The fingerprint of the prepared text that a run was trained on, as its model or else a checkpoint says; None where none does."""
    for path, key in [
        (model_folder(run) / "config.json", None),
        *((one / MANIFEST, "facts") for one in checkpoints(run)),
    ]:
        try:
            found = _read_json(path)
            data = (found[key] if key else found)["data"]
        except MALFORMED:
            continue
        if isinstance(data, str):
            return data
    return None


def _build(settings: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> GPT:
    """The model of settings that may be anybody's: they get no more time and memory than the weights account for."""
    total = sum(tensor.numel() for tensor in weights.values())
    try:
        for name, value in settings.items():
            if isinstance(value, int) and value > max(total, 2**24):
                raise UserError(f"{name} exceeds the {total} numbers in model.safetensors")
        config = GPTConfig(**settings)
        if config.unique_layers > len(weights) or config.block_size * config.head_dim > max(total, 2**26):
            raise UserError("more layers or positions than model.safetensors accounts for")
        if config.n_layer * config.block_size * config.kv_heads * config.head_dim > max(64 * total, 2**28):
            raise UserError("more layers and positions than model.safetensors accounts for")
        heads = 2 * (config.n_head + config.kv_heads) * config.head_dim
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
        with open_regular(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
        content = content.get("state_dict", content)
        # Lightning's module holds the model as `model`, and a compiled one is wrapped once more.
        return {name.removeprefix("model.").removeprefix("_orig_mod."): tensor for name, tensor in content.items()}
    except Exception as error:  # a hostile pickle makes its reader raise anything
        raise UserError(f"{path}: cannot be read as weights: {_why(error)}") from None


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        open_regular(path).close()
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


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replaces a .jsonl file of rows, and the checksums of its lines, at once and durably."""
    lines = [json.dumps(row) for row in rows]
    write_file(path, "".join(f"{line}\n" for line in lines))
    write_file(line_checksums(path), "".join(f"{_crc(line.encode())}\n" for line in lines))


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Appends a row to a .jsonl file; its checksum goes first, so that no kill leaves a row without one."""
    line = json.dumps(row)
    for file, content in ((line_checksums(path), _crc(line.encode())), (path, line)):
        with file.open("a", encoding="utf-8") as opened:
            opened.write(f"{content}\n")


def line_checksums(path: Path) -> Path:
    """The file of the checksums of a .jsonl file's lines, beside it: the rows themselves hold nothing but their values."""
    return path.with_name(f".{path.name}.crc32")


def _crc(line: bytes) -> str:
    return f"{zlib.crc32(line):08x}"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of metrics.jsonl or timing.jsonl; one warning tells which lines are damaged, and how many are gone.

    They are a record and no result depends on them, so a damaged line costs its own row alone. A last line without its
    end is what a kill leaves, and is left out without a word.
    """
    rows, bad, missing = parse_rows(path)
    if bad:
        lines = ", ".join(map(str, bad[:10])) + ", …" * (len(bad) > 10)
        log.warning("%s: damaged lines are left out, %d in all: line %s", path, len(bad), lines)
    if missing > 0:
        log.warning("%s: has been cut off: it lacks %d lines or more", path, missing)
    if missing < 0:
        log.warning("%s: damaged, so that rows of %s cannot be verified; they are kept", line_checksums(path), path)
    return rows


def parse_rows(path: Path) -> tuple[list[dict[str, Any]], list[int], int]:
    """The rows of a .jsonl file, the numbers, from 1, of its damaged lines, and how many lines are missing.

    A line is held against the checksums beside the file; version 0.1 wrote none. Where it is these that are cut off, the
    count of missing lines is negative, and rows that have none are taken as they stand.

    Raises:
        UserError: `path` leads out of its folder, or is no regular file.
    """
    lines: list[bytes] = []
    if path.exists():
        refuse_links(path, path.parent)
        with open_regular(path) as file:
            # A damaged end of a line costs neither of its neighbours; an editor or git may have made it CRLF.
            *lines, rest = re.split(rb"\r?\n|(?<=\}).(?=\{)", file.read())
        if b"}" in rest:  # it was whole once; without its end it is what a kill leaves
            lines.append(rest)
    sums = line_checksums(path)
    if not sums.exists():
        parsed = [_row(line) for line in lines]
        return [row for row in parsed if row], [number for number, row in enumerate(parsed, 1) if not row], 0
    refuse_links(sums, path.parent)
    with open_regular(sums) as file:
        written = Counter(file.read().split())
    checksums = [_crc(line).encode() for line in lines]
    copies = (Counter(one for one in checksums if one in written) - written).total()
    unverified = len(lines) - copies - written.total()  # above 0 where it is the checksums that are gone
    rows, bad, seen = [], [], Counter[bytes]()
    for number, (line, checksum) in enumerate(zip(lines, checksums, strict=True), 1):
        row = _row(line)
        seen[checksum] += 1
        # A line that stands there more often than it was written is a copy.
        if row and (seen[checksum] <= written[checksum] or (unverified > 0 and checksum not in written)):
            rows.append(row)
        else:
            bad.append(number)
    if unverified > 0:
        return rows, bad, -unverified
    unseen = sum(count for checksum, count in written.items() if checksum not in seen)
    # The checksum of a row is written first, so that a kill leaves one without its row.
    return rows, bad, max(0, unseen - (len(bad) - copies) - 1)


def refuse_other_kinds(run: Path) -> None:
    """Refuses a run folder in which a record is a folder, or a folder is a file: a resumed run would find that out too late.

    Raises:
        UserError: naming the first one.
    """
    records = [run / "metrics.jsonl", run / "timing.jsonl", run / "samples.md", run / "curves.png"]
    for path in (*records, *map(line_checksums, records[:2])):
        if path.is_dir():
            raise UserError(f"{path} is a folder, where a run keeps a file: move it away")
    for path in (run / "checkpoints", run / "model", run / "tensorboard", run / "csv"):
        if path.is_file():
            raise UserError(f"{path} is a file, where a run keeps a folder: move it away")


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        return row if isinstance(row["step"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


MODEL = "model/config.json"  # what a run holds from its first validation on


def _runs(root: Path) -> list[Path]:
    """The runs below `root` in the order of their starts; a resumed one counts from its resumption."""
    # A run is outputs/TASK/RUN, a job of a sweep outputs/TASK/SWEEP/JOB; Hydra's own notes lie in .hydra.
    found = [
        path for stars in ("*/*", "*/*/*") for path in root.glob(f"{stars}/config.yaml") if ".hydra" not in path.parts
    ]
    return [path.parent for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path))]


def started_last(run: Path, root: Path = Path("outputs")) -> None:
    """Makes `run`, which has just written its config.yaml, the last of `_runs`, also where the clock went back."""
    path = run / "config.yaml"
    times = [other.stat().st_mtime_ns for one in _runs(root) if not (other := one / "config.yaml").samefile(path)]
    if times and max(times) >= path.stat().st_mtime_ns:
        os.utime(path, ns=(max(times) + 10**6,) * 2)  # file systems round times


def last_run(root: Path = Path("outputs"), holding: str = "config.yaml") -> Path:
    """The run below `root` that was started last, of those that hold the file `holding`.

    Raises:
        UserError: when there is none.
    """
    found = [run for run in _runs(root) if _holds(run, holding)]
    if not found:
        missing = " with a model" if holding == MODEL and _runs(root) else ""
        raise UserError(
            f"there is no run{missing} below {root}/: train one with train.py, or name its folder (run=PATH)"
        )
    return found[-1]


def _holds(run: Path, holding: str) -> bool:
    return ((model_folder(run) / "config.json") if holding == MODEL else run / holding).is_file()


def find_run(name: str, holding: str = "config.yaml", key: str = "run") -> Path:
    """`last` or a path -> the run folder; the one that `last` stands for is said on standard error.

    Args:
        name: what the user wrote.
        holding: the file that the command needs.
        key: the setting that `name` is the value of.

    Raises:
        UserError: no run below outputs/ holds that file.
    """
    if name != "last":
        return user_path(name)
    run, newest = last_run(holding=holding), last_run()
    note(f"{key}=last: {run}" + (f" ({newest} is newer and has no model yet)" if newest != run else ""))
    return run


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
