"""Places: the folder of Hydra's YAML files, the words that start a command, paths of the user's."""

import os
import sys
from pathlib import Path

from llm_from_scratch.errors import UserError

# The settings that are paths of the user's.
PATHS = ("run", "run_dir", "resume", "init_from", "data.path", "data.dir", "tokenizer.path", "prompt_file")


def config_dir() -> Path:
    """The folder of the YAML files: inside the package where a wheel was installed, at the top of a
    checkout.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parents[1] / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"{package}: its configs are missing: install the package again, or work in a checkout")


def program(name: str = "") -> list[str]:
    """The words that start a command in the user's setting, such as `python train.py` in a
    checkout.
    """
    if Path(sys.argv[0]).stem == "llm-from-scratch":
        start = ["llm-from-scratch"]
    elif name and (config_dir().parent / f"{name}.py").is_file() and config_dir().parent != Path(__file__).parent:
        return ["python", f"{name}.py"]
    else:
        start = ["python", "-m", "llm_from_scratch"]
    return [*start, name] if name else start


def expanded(path: str) -> str:
    """A path with a leading `~` as the user's home; a shell expands none behind `key=`."""
    return os.path.expanduser(path)  # noqa: PTH111  # Path.expanduser raises where ~name is nobody's home


def user_path(path: str) -> Path:
    """`expanded`, as a Path: the type of a path in a command's arguments."""
    return Path(expanded(path))
