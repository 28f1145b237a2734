"""nanoGPT as a peer: its own files, run or read from the clone that the user names. No file of it
is in this repository.
"""

import ast
import importlib.util
import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from _processes import Finished, Steps, run

ITERATION = re.compile(r"^iter (\d+): loss \S+, time ([\d.]+)ms", re.MULTILINE)
# Runs a script as `python SCRIPT` would, and writes its peak GPU memory (MB; null on a CPU).
WATCHED = """
import atexit, json, runpy, sys
from pathlib import Path
memory, sys.argv = sys.argv[1], sys.argv[2:]
sys.path[0] = str(Path(sys.argv[0]).parent)
def report():
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_initialized()
    Path(memory).write_text(json.dumps(torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None))
atexit.register(report)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def write_ids(folder: Path, train: np.ndarray, val: np.ndarray, characters: str | None = None) -> None:
    """Writes a data set in nanoGPT's format: uint16 ids and, unless `characters` is None, the
    meta.pkl that its sample.py reads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train.astype(np.uint16).tofile(folder / "train.bin")
    val.astype(np.uint16).tofile(folder / "val.bin")
    if characters is not None:
        stoi = {character: i for i, character in enumerate(characters)}
        meta = {"vocab_size": len(characters), "stoi": stoi, "itos": dict(enumerate(characters))}
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def write_characters(folder: Path, text: str, val_fraction: float = 0.1) -> str:
    """Writes a text in nanoGPT's format, one id a character, the last `val_fraction` for
    validation; returns the characters in the order of their ids.
    """
    known = "".join(sorted(set(text)))
    ids_of = {character: i for i, character in enumerate(known)}
    ids = np.array([ids_of[character] for character in text], dtype=np.uint16)
    cut = int(len(text) * (1 - val_fraction))
    write_ids(folder, ids[:cut], ids[cut:], known)
    return known


def train(clone: Path, folder: Path, arguments: list[str], threads: int | None = None) -> Finished:
    """Runs nanoGPT's train.py in `folder`, which holds data/NAME/: the script reads data and
    configuration relative to its working directory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(clone / "configurator.py", folder)
    shutil.copytree(clone / "config", folder / "config", dirs_exist_ok=True)
    return run(["-c", WATCHED, str(folder / "memory.json"), str(clone / "train.py"), *arguments], folder, threads)


def step_seconds(log: str, warmup: int) -> float:
    """Returns the mean seconds of an iteration after the first `warmup`, from nanoGPT's log."""
    times = [float(ms) / 1000 for iteration, ms in ITERATION.findall(log) if int(iteration) >= warmup]
    if not times:
        raise RuntimeError(f"nanoGPT logged no iteration behind number {warmup}: {log[-500:]}")
    return sum(times) / len(times)


def train_steps(
    clone: Path, folder: Path, settings: dict[str, Any], *, steps: int, warmup: int, threads: int | None = None
) -> Steps:
    """Times nanoGPT's training loop, whose evaluation is reduced to one batch of each split before
    the first step, within the warm-up.
    """
    # nanoGPT stops when iter_num exceeds max_iters: it makes max_iters + 1 steps.
    fixed = {"eval_interval": 10**9, "eval_iters": 1, "log_interval": 1, "max_iters": steps - 1}
    done = train(clone, folder, [f"--{key}={value}" for key, value in (settings | fixed).items()], threads)
    memory = json.loads((folder / "memory.json").read_text())
    return Steps(step_seconds(done.stdout, warmup), done.anonymous_mb, memory)


def load_module(clone: Path) -> ModuleType:
    """Loads nanoGPT's model.py as a module."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", clone / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


def load_get_batch(clone: Path, names: dict[str, Any]) -> Callable[[str], Any]:
    """Returns get_batch of nanoGPT's train.py, with `names` as the globals that it reads."""
    tree = ast.parse((clone / "train.py").read_text(encoding="utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "get_batch")
    namespace = dict(names)
    exec(compile(ast.Module([function], []), str(clone / "train.py"), "exec"), namespace)
    return namespace["get_batch"]
