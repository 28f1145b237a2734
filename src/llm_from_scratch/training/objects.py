"""The user's own classes, found by the `_target_` of a setting, made from those beside it."""

import importlib
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer

from llm_from_scratch.errors import UserError, first_line

KINDS: dict[str, type] = {"callbacks": Callback, "logger": Logger, "optim": Optimizer}
HOMES = {
    "callbacks": "lightning.pytorch.callbacks.Callback",
    "logger": "lightning.pytorch.loggers.Logger",
    "optim": "torch.optim.Optimizer",
}


def object_class(group: str, name: str, settings: Any) -> type:
    """The class that a callback, a logger or an optimizer of the user's names.

    Raises:
        UserError: there is none, or it is of another kind.
    """
    key, kind = f"{group}.{name}", KINDS[group]
    target = settings.get("_target_") if isinstance(settings, dict) else None
    if not isinstance(target, str):
        raise UserError(f"{key}: write {key}._target_=MODULE.CLASS, a subclass of {HOMES[group]}")
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module of the user's raises when it is read
        raise UserError(f"{key}._target_={target}: cannot be loaded: {first_line(error)}") from None
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{key}._target_={target}: is no {HOMES[group]}")
    return found


def make_objects(group: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The user's callbacks or loggers by their names, each made from its settings.

    Raises:
        UserError: one does not take its settings.
    """
    made = {}
    for name, one in settings.items():
        kind = object_class(group, name, one)
        try:
            made[name] = instantiate(one)
        except Exception as error:  # hydra wraps what the object raises
            raise UserError(f"{group}.{name}: {first_line(error.__cause__ or error)}") from None
        if not isinstance(made[name], kind):  # settings of Hydra's own make something else of it
            raise UserError(f"{group}.{name}: comes to no {kind.__name__}: leave out _partial_")
    return made
