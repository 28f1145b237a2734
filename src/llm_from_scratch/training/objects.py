"""The user's own callbacks, loggers and optimizers: classes named by `_target_` in a setting."""

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
    """Returns the class that the `_target_` of a setting names.

    `group` is callbacks, logger or optim; `name` is the key of the setting in it.

    Raises:
        UserError: when the class cannot be loaded, or is no subclass of the group's base class.
    """
    key, kind = f"{group}.{name}", KINDS[group]
    target = settings.get("_target_") if isinstance(settings, dict) else None
    if not isinstance(target, str):
        raise UserError(f"{key}: write {key}._target_=MODULE.CLASS, a subclass of {HOMES[group]}")
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module can raise any error when it is imported
        raise UserError(f"{key}._target_={target}: cannot be loaded: {first_line(error)}") from None
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{key}._target_={target}: is no {HOMES[group]}")
    return found


def make_objects(group: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Builds the user's callbacks or loggers from their settings, by their names.

    Raises:
        UserError: when one does not take its settings.
    """
    made = {}
    for name, one in settings.items():
        kind = object_class(group, name, one)
        try:
            made[name] = instantiate(one)
        except Exception as error:  # Hydra wraps the object's own error
            raise UserError(f"{group}.{name}: {first_line(error.__cause__ or error)}") from None
        if not isinstance(made[name], kind):  # Hydra's `_partial_` makes a function of it
            raise UserError(f"{group}.{name}: comes to no {kind.__name__}: leave out _partial_")
    return made
