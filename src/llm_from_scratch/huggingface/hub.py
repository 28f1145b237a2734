"""A model of the Hugging Face hub by its name, hub:OWNER/NAME or hub:OWNER/NAME@REVISION.

Only settings, safetensors and the tokenizer's files are downloaded, so no code and no pickle
comes with them. huggingface_hub keeps them in its own cache, where they are found offline too.
"""

import re
from pathlib import Path

from llm_from_scratch.errors import UserError, message_of, missing_extra

PREFIX = "hub:"
REVISION = r"[\w./-]{1,200}"
NAME = re.compile(rf"hub:(?P<name>[\w.-]{{1,96}}/[\w.-]{{1,96}})(@(?P<revision>{REVISION}))?")
FILES = [
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *("model-*-of-*.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja"),
]


def is_hub_name(name: str) -> bool:
    """Returns whether a name is of a model on the hub rather than a path."""
    return name.startswith(PREFIX)


def download(name: str, *, fetch: bool = True) -> Path:
    """Downloads a model, or finds it in the cache, and returns its folder.

    Args:
        name: hub:OWNER/NAME, which is the newest revision, or hub:OWNER/NAME@REVISION: a commit, a
            tag or a branch.
        fetch: whether it may be downloaded; False looks in the cache alone.

    Raises:
        UserError: when the name is malformed, huggingface_hub is missing, or the model cannot be
            downloaded.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise UserError(f"{name!r:.100} must be hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra(f"{name} needs huggingface_hub", "hf", message_of(error, 100)) from None
    try:
        folder = snapshot_download(
            found["name"], revision=found["revision"], allow_patterns=FILES, local_files_only=not fetch
        )
        return Path(folder)
    except Exception as error:  # of HTTP, of the hub, of the disk: libraries differ by version
        raise UserError(
            f"{name}: not downloaded ({type(error).__name__}: {message_of(error, 150)}): put config.json, "
            "model.safetensors and the tokenizer's files into a folder by hand, and name that folder"
        ) from None
