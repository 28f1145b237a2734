"""Places: where Hydra's YAML files are, and what a path of the user's means."""

import os
from pathlib import Path

from llm_from_scratch.errors import UserError

# The settings that are paths of the user's.
PATHS = ("run", "run_dir", "resume", "init_from", "data.path", "data.dir", "tokenizer.path", "prompt_file")


def config_dir() -> Path:
    """The folder of the YAML files: inside the package where a wheel was installed, at the top of a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parents[1] / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"{package}: its configs are missing: install the package again, or work in a checkout")


def expanded(path: str) -> str:
    """A path with a leading `~` as the user's home; a shell expands none behind `key=`."""
    return os.path.expanduser(path)  # noqa: PTH111  # Path.expanduser raises where ~name is nobody's home


def user_path(path: str) -> Path:
    """`expanded`, as a Path: the type of a path in a command's arguments."""
    return Path(expanded(path))
