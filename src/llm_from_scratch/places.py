"""The folder of Hydra's YAML files, the words that start a command, the user's paths, and where a
run has its model.
"""

import os
import sys
from pathlib import Path

from llm_from_scratch.errors import UserError

MODEL = "model/config.json"  # in a run folder, from its first validation on
# The files of an adapter, in PEFT's format and in model/ of a run of adapters.
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
# The settings that are paths of the user's.
PATHS = (
    "run",
    "run_dir",
    "resume",
    "init_from",
    "data.path",
    "data.val_path",
    "data.template",
    "data.dir",
    "tokenizer.path",
    "prompt_file",
)


def config_dir() -> Path:
    """Returns the folder of the YAML files: in the installed package, or at the top of a checkout.

    Raises:
        UserError: when neither place has one.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parents[1] / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"{package}: its configs are missing: install the package again, or work in a checkout")


def program(name: str = "") -> list[str]:
    """Returns the words that start a command, such as `python train.py` in a checkout.

    They follow how this process was started. Without a `name` they start the whole program.
    """
    if Path(sys.argv[0]).stem == "llm-from-scratch":
        start = ["llm-from-scratch"]
    elif name and (config_dir().parent / f"{name}.py").is_file() and config_dir().parent != Path(__file__).parent:
        return ["python", f"{name}.py"]
    else:
        start = ["python", "-m", "llm_from_scratch"]
    return [*start, name] if name else start


def expanded(path: str) -> str:
    """Returns a path with a leading `~` as the home folder: a shell expands none behind `key=`."""
    return os.path.expanduser(path)  # noqa: PTH111  # Path.expanduser raises where ~name is nobody's home


def user_path(path: str) -> Path:
    """Returns `expanded(path)` as a Path: the type of path arguments on the command line."""
    return Path(expanded(path))
