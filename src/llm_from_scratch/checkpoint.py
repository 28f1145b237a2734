"""Checkpoints: nested tensors and plain values in a folder of which every byte is verified.

    checkpoints/step_00000250/   state.json (plain values, tensors by name), tensors.safetensors,
                                 manifest.json (sizes, sha256)

A state that several processes share has a file of tensors of each: tensors.safetensors,
tensors-00001.safetensors, … Their rows, one file after the other, are the whole tensors.

No file is a pickle, so an untrusted checkpoint cannot run code. The manifests of version 0.1 have
no checksum of their own and are read unverified.
"""

import errno
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.files import building_folder, publish, read_bounded, refuse_links, sha256
from llm_from_scratch.terminal import quote

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
STEP = re.compile(r"step_\d{8,}")
MAX_JSON = 64_000_000  # bytes; the files of this program are thousands of times smaller
# Errors of parsers on files whose checksums match but which this program did not write.
MALFORMED = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Rows:
    """The rows that this process holds of a tensor, which processes share in the order of ranks."""

    own: Tensor


class Writers:
    """The processes that write one state together: this process alone, or all of a group.

    Args:
        rank: the number of this process, 0 to `count` - 1; rank 0 publishes the state.
        count: the number of processes.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    def exchange(self, value: Any) -> list[Any]:
        """Returns the values of all processes, by rank; each one must call it."""
        return [value]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names a file, in one line, in whatever a malformed content of it raises.

    Raises:
        UserError: in place of such an error.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {message_of(error, 300)}") from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except MALFORMED as error:
        raise UserError(f"{path}: damaged ({reason(error)})") from None


def _split(tree: Any, tensors: dict[str, Tensor], rows: dict[str, Tensor], path: str = "") -> Any:
    """Converts a nested state to JSON's types and moves its tensors, by path.

    Those of which this process holds some rows go to `rows`, the others to `tensors`.
    """
    if isinstance(tree, Rows):
        rows[path] = tree.own.detach().cpu().contiguous()
        return {"__rows__": path}
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().cpu().contiguous()
        return {"__tensor__": path}
    if isinstance(tree, dict):
        items = [[key, _split(value, tensors, rows, f"{path}/{key}")] for key, value in tree.items()]
        # JSON's keys are strings, but optimizer state is keyed by integers.
        return dict(items) if all(isinstance(key, str) for key in tree) else {"__items__": items}
    if isinstance(tree, list | tuple):
        values = [_split(value, tensors, rows, f"{path}/{i}") for i, value in enumerate(tree)]
        return values if isinstance(tree, list) else {"__tuple__": values}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{path}: a checkpoint holds tensors and plain values, not {type(tree).__name__}")


def _join(tree: Any, files: list[dict[str, Tensor]]) -> Any:
    """Rebuilds the nested state from the JSON values of `_split` and each process's tensors."""
    if isinstance(tree, list):
        return [_join(value, files) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if "__tensor__" in tree:
        return files[0][tree["__tensor__"]]
    if "__rows__" in tree:
        return _stacked([tensors[tree["__rows__"]] for tensors in files])
    if "__tuple__" in tree:
        return tuple(_join(value, files) for value in tree["__tuple__"])
    if "__items__" in tree:
        return {key: _join(value, files) for key, value in tree["__items__"]}
    return {key: _join(value, files) for key, value in tree.items()}


def _stacked(rows: list[Tensor]) -> Tensor:
    """Returns the whole tensor of which each process has saved some rows.

    Raises:
        ValueError: when they are not of one tensor.
    """
    if rows[0].dim() == 0 or len({(tensor.dtype, tensor.shape[1:]) for tensor in rows}) > 1:
        raise ValueError("rows of different tensors")
    return torch.cat(rows)


def read_json(path: Path) -> Any:
    """Reads a JSON file of at most MAX_JSON bytes."""
    return json.loads(read_bounded(path, MAX_JSON))


def own_sha256(values: dict[str, Any], key: str) -> str:
    """Returns the sha256, in hex, of a JSON object without `key`, the entry for that checksum."""
    content = json.dumps({name: value for name, value in values.items() if name != key}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def verify_own(values: Any, key: str, known: set[str]) -> None:
    """Compares a JSON object with its own checksum, stored under `key`; version 0.1 stored none.

    Raises:
        UserError: when its other keys are not `known`, or the checksum differs.
    """
    if not isinstance(values, dict) or set(values) - {key} != known:
        raise UserError("other names than it was written with")
    if key in values and values[key] != own_sha256(values, key):
        raise UserError("its bytes have changed since they were written")


def reason(error: BaseException) -> str:
    """Returns an error's type and message in one line, the message cut at 200 characters."""
    return f"{type(error).__name__}: {message_of(error, 200)}"


class Background:
    """Writer thread: a training step waits for a copy in memory, writes follow in order.

    The previous files stay in place until a write completes. A failed write is re-raised by the
    next `submit` or by `wait`, and later writes are dropped: no checkpoint is newer than its model.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: list[Future[None]] = []
        self._failed: BaseException | None = None
        # Buffers of earlier copies, reused: touching fresh pages takes longer than the copy itself.
        self._spare: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}

    def submit(self, function: Callable[..., None], tree: Any, *arguments: Any, **settings: Any) -> None:
        """Queues `function(copy of tree, …)`; waits while two writes are pending.

        The limit bounds the memory of the copies.
        """
        while len(self._pending) > 1:
            self._pending.pop(0).result()
        if self._failed:
            raise self._failed
        used: list[Tensor] = []
        copy = self._copy(tree, used)
        self._pending.append(self._thread.submit(self._run, partial(function, copy, *arguments, **settings), used))

    def wait(self) -> None:
        """Waits until every queued write is on the disk."""
        while self._pending:
            self._pending.pop(0).result()

    def _copy(self, tree: Any, used: list[Tensor]) -> Any:
        """Copies a nested state into CPU memory and appends its tensors to `used`."""
        if isinstance(tree, Rows):
            return Rows(self._copy(tree.own, used))
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


def save_state(
    state: dict[str, Any], folder: Path, metadata: dict[str, str] | None = None, writers: Writers | None = None
) -> None:
    """Writes a nested state as a verified folder; the old one stays until the new one is complete.

    Args:
        state: nested dictionaries and lists of tensors, `Rows` and plain values.
        folder: the checkpoint's, named after its step.
        metadata: fingerprints of the data that the state belongs to, for the manifest; None: none.
        writers: the processes that call this together, with `Rows` in the same places. Each writes
            its own rows, rank 0 all the rest. None: this process alone.

    Raises:
        TypeError: when a value is neither a tensor nor plain.
        OSError: when the disk is full or read-only, or reads back other bytes, on any process.
    """
    tensors: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    values, writers = _split(state, tensors, rows), writers or Writers()
    building = _agreed(writers, lambda: building_folder(folder) if writers.rank == 0 else None)[0]
    own = building / _tensor_files(writers.count)[writers.rank]
    files = dict(_agreed(writers, lambda: _write_tensors(rows if writers.rank else tensors | rows, own, folder)))
    if writers.rank:
        return
    (building / "state.json").write_text(json.dumps(values), encoding="utf-8")
    files["state.json"] = _size_and_sha256(building / "state.json")
    manifest: dict[str, Any] = {"files": files, "facts": metadata or {}}
    manifest["sha256"] = own_sha256(manifest, "sha256")
    (building / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    publish(building, folder)


def _agreed(writers: Writers, act: Callable[[], Any]) -> list[Any]:
    """Returns what `act` returned on each process, by rank.

    Raises:
        OSError: on all of them, when it failed on one.
    """
    try:
        own = act()
    except OSError as error:
        own = error
    found = writers.exchange(own)
    for one in found:
        if isinstance(one, OSError):
            raise one
    return found


def _tensor_files(count: int) -> list[str]:
    """Returns the names of the files of tensors that `count` processes write."""
    return ["tensors.safetensors", *(f"tensors-{rank:05}.safetensors" for rank in range(1, count))]


def _write_tensors(tensors: dict[str, Tensor], path: Path, folder: Path) -> tuple[str, dict[str, Any]]:
    """Writes a file of tensors and compares what it holds; returns its name, size and sha256."""
    needed, free = sum(tensor.nbytes for tensor in tensors.values()) + 2**20, shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{folder} needs {needed:,} bytes, and {free:,} are free; earlier checkpoints stay")
    save_file(tensors, path)
    written = load_file(path)
    # Compared as bytes, so that a NaN equals itself. By numpy: torch would start OpenMP's threads
    # for this one, and those of the training would then wait asleep for each other (cores.py).
    if any(
        not np.array_equal(_bytes(tensor).numpy(), _bytes(written[name]).numpy()) for name, tensor in tensors.items()
    ):
        raise OSError(errno.EIO, f"{path}: what was written is not what is read back; earlier checkpoints stay")
    return path.name, _size_and_sha256(path)


def _size_and_sha256(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def verify_state(folder: Path) -> dict[str, str]:
    """Verifies every byte of a saved state and returns the fingerprints in its manifest.

    Raises:
        UserError: when a file, which it names, is missing, cut short or changed.
    """
    files, named = _manifest(folder)
    for name, (size, checksum) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise UserError(f"{path}: missing or cut short")
        if sha256(path) != checksum:
            raise UserError(f"{path}: its bytes have changed since they were written")
    return named


def state_fingerprints(folder: Path) -> dict[str, str]:
    """Returns the fingerprints in the manifest of a saved state, of which nothing else is read.

    Raises:
        UserError: when the manifest is missing or damaged.
    """
    return _manifest(folder)[1]


def _manifest(folder: Path) -> tuple[dict[str, tuple[int, str]], dict[str, str]]:
    """Reads a state's manifest: size and sha256 of each file, and the fingerprints.

    Raises:
        UserError: when it is missing or damaged.
    """
    refuse_links(folder, folder)
    try:
        manifest = read_json(folder / MANIFEST)
        verify_own(manifest, "sha256", {"files", "facts"})
        files = {str(name): (int(file["bytes"]), str(file["sha256"])) for name, file in manifest["files"].items()}
        if set(files) != {"state.json", *_tensor_files(len(files) - 1)}:
            raise KeyError("files")
        named = {str(name): str(fingerprint) for name, fingerprint in manifest["facts"].items()}
    except MALFORMED:
        raise UserError(f"{folder / MANIFEST}: missing or damaged") from None
    return files, named


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def load_state(folder: Path) -> dict[str, Any]:
    """Reads a saved state after verifying every byte.

    Raises:
        UserError: when a file, which it names, is missing, cut short or changed.
    """
    verify_state(folder)
    try:
        names = _tensor_files(len(_manifest(folder)[0]) - 1)
        state = _join(read_json(folder / "state.json"), [load_file(folder / name) for name in names])
        if not isinstance(state, dict):
            raise TypeError("not a dictionary")
    except MALFORMED as error:
        raise UserError(f"{folder}: state.json and its tensors are no state of a run ({reason(error)})") from None
    return state


def recorded_layout(folder: Path) -> dict[str, Any]:
    """Returns how the steps of a verified checkpoint were computed; {} for version 0.1.

    The entries are processes, micro-batch size, threads, device, precision and such.
    """
    layout = read_json(folder / "state.json").get("layout")
    return layout if isinstance(layout, dict) else {}


def checkpoints(run: Path) -> list[Path]:
    """Lists the checkpoints of a run, newest first: folders with names like step_00000250.

    Raises:
        UserError: when `checkpoints` is a link that leads out of the run folder.
    """
    if (run / "checkpoints").is_symlink():
        refuse_links(run / "checkpoints", run)
    found = [
        path
        for path in (run / "checkpoints").glob("step_*")
        if STEP.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)


def step_of(state: Path | None) -> int:
    """Returns the optimizer steps done before a checkpoint, from its name; 0 for None."""
    return int(state.name.split("_")[1]) if state else 0


def newest_state(run: Path) -> Path | None:
    """Returns the newest intact checkpoint, or None before the first one is written.

    A warning names each newer one that is damaged.

    Raises:
        UserError: when there are checkpoints and every one is damaged.
    """
    found = checkpoints(run)
    for folder in found:
        try:
            verify_state(folder)
            return folder
        except UserError as error:
            log.warning("checkpoint refused: %s", error)
    if found:
        raise UserError(
            f"{run / 'checkpoints'}: every checkpoint is damaged; start a new run ({quote(f'init_from={run}')} takes over the"
            " weights in model/)"
        )
    return None


def prune_states(run: Path, kept: int) -> None:
    """Removes all but the `kept` newest checkpoints of a run; call it after a verified save."""
    for old in checkpoints(run)[kept:]:
        gone = old.with_name(f".old-{old.name}")  # a kill must not leave half of it under its name
        old.rename(gone)
        shutil.rmtree(gone)
