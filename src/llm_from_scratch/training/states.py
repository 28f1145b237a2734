"""States to resume for Lightning: verified folders of tensors and plain values."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from llm_from_scratch.checkpoint import Background, Rows, load_state, save_state, state_fingerprints
from llm_from_scratch.errors import UserError
from llm_from_scratch.terminal import quote


class StateFolders(CheckpointIO):
    """Lightning's CheckpointIO for verified folders of tensors and plain values.

    Args:
        fingerprints: checksums of the data and the tokenizer; a checkpoint with others is refused.
        background: the thread that writes while training continues.
    """

    def __init__(self, fingerprints: dict[str, str], background: Background) -> None:
        self.fingerprints, self.background = fingerprints, background

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Copies the state; a thread then writes it beside `path` and renames it.

        `storage_options`: the `Writers` where several processes share the state, else None.
        """
        self.background.submit(save_state, plain_state(checkpoint), Path(path), self.fingerprints, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint after verifying every byte; it holds no code that could run.

        Raises:
            UserError: when it is damaged, or made with other data or another tokenizer.
        """
        self.background.wait()
        self.compare(Path(path))
        return user_state(load_state(Path(path)))

    def compare(self, path: Path) -> None:
        """Compares the data and the tokenizer of a checkpoint with those of this run.

        Only the manifest is read: `newest_state` and `load_state` verify the tensors.

        Raises:
            UserError: when the manifest is damaged or they differ; the message then has both
                fingerprints.
        """
        for name, fingerprint in state_fingerprints(path).items():
            own = self.fingerprints.get(name, "none")
            if fingerprint != own:
                start = quote(f"init_from={path.parents[1]}")
                mend = f"put the text back as it was, or start a new run from the weights ({start})"
                if name == "base":
                    mend = "put the model that init_from names back as it was: these are adapters of it"
                raise UserError(f"{path}: made with the {name} {fingerprint[:16]}, and this run has {own[:16]}: {mend}")

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes a checkpoint folder, after all queued writes."""
        self.background.wait()
        shutil.rmtree(path)

    def teardown(self) -> None:
        """Waits until all checkpoints are on the disk."""
        self.background.wait()


def plain_state(tree: Any, *path: str) -> Any:
    """Converts a nested state to tensors, rows of sharded tensors, and JSON types.

    `user_state` restores arrays and paths.

    Args:
        tree: dictionaries, lists and tuples of values.
        path: the keys that lead to `tree`, for the message.

    Raises:
        UserError: when a value has another type; the message names the callback that holds it.
    """
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, DTensor):
        assert tree.placements == (Shard(0),)
        return Rows(tree.to_local())
    if tree is None or isinstance(tree, Tensor | bool | int | float | str):
        return tree
    if isinstance(tree, dict):
        return {key: plain_state(value, *path, str(key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        values = [plain_state(value, *path, str(i)) for i, value in enumerate(tree)]
        return values if isinstance(tree, list) else tuple(values)
    if isinstance(tree, Path):
        return {"__path__": str(tree)}
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "biuf":
        return {"__array__": torch.from_numpy(tree.copy())}
    name, *rest = path[1:] if path[:1] == ("callbacks",) else path
    raise UserError(
        f"{name}: its state holds a {type(tree).__name__} ({'/'.join(rest) or 'all of it'}), and a checkpoint keeps numbers,"
        " texts, lists, dictionaries, tensors, arrays and paths alone: let its state_dict() return these"
    )


def user_state(tree: Any) -> Any:
    """Restores numpy arrays and paths in a state that `plain_state` has converted."""
    if isinstance(tree, dict):
        if set(tree) == {"__path__"}:
            return Path(tree["__path__"])
        if set(tree) == {"__array__"}:
            return tree["__array__"].numpy()
        return {key: user_state(value) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(user_state(value) for value in tree)
    return tree
