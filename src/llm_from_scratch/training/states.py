"""The state of a user's callbacks in a checkpoint: plain values there, and what they were when they come back."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_from_scratch.errors import UserError


def plain_state(tree: Any, *path: str) -> Any:
    """A nested state in tensors and JSON's types; numpy's values and paths are marked, so that `user_state` brings them back.

    Args:
        tree: dictionaries, lists and tuples of values.
        path: the keys above `tree`, for the message.

    Raises:
        UserError: for a value of another type, with the callback that holds it.
    """
    if isinstance(tree, np.generic):
        return tree.item()
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
    """The inverse of `plain_state`."""
    if isinstance(tree, dict):
        if set(tree) == {"__path__"}:
            return Path(tree["__path__"])
        if set(tree) == {"__array__"}:
            return tree["__array__"].numpy()
        return {key: user_state(value) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(user_state(value) for value in tree)
    return tree
