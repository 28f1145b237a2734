"""A model by its name: a run of this package, or a model that was trained elsewhere.

last, PATH                  a run folder
PATH.gguf                   a file of llama.cpp
PATH                        a folder of transformers, with config.json
hub:OWNER/NAME@REVISION     the same, from the Hugging Face hub
smollm2                     a published model that `make weights` installs (`registry`)
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llm_from_scratch import registry
from llm_from_scratch.errors import UserError
from llm_from_scratch.gguf import read as gguf
from llm_from_scratch.huggingface import hub
from llm_from_scratch.huggingface import read as huggingface
from llm_from_scratch.places import MODEL, user_path
from llm_from_scratch.run import find_run
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer
from llm_from_scratch.weights import LoadedModel, chat_of, load_model, model_folder, saved_settings


@dataclass(frozen=True)
class Source:
    """Where a model lies."""

    kind: str  # run | gguf | huggingface
    path: Path

    def settings(self) -> tuple[dict[str, Any], Tokenizer]:
        """Returns the model's settings, by the names of GPTConfig, and its tokenizer.

        No weights are loaded.

        Raises:
            UserError: as `open`.
        """
        if self.kind == "run":
            return saved_settings(self.path)["model"], load_tokenizer(model_folder(self.path))
        read = gguf.read_settings if self.kind == "gguf" else huggingface.read_settings
        config, tokenizer = read(self.path)
        return asdict(config), tokenizer

    def chat_template(self) -> str | None:
        """Returns the chat template in Jinja, or None where the model has none.

        Raises:
            UserError: as `open`.
        """
        if self.kind == "run":
            metadata = saved_settings(self.path)
            return chat_of(metadata, metadata["model"]["vocab_size"], model_folder(self.path))[1]
        return gguf.read_template(self.path) if self.kind == "gguf" else huggingface.chat_template(self.path)

    def open(
        self, device: torch.device | str = "cpu", *, block_size: int | None = None, doc_mask: bool = False
    ) -> LoadedModel:
        """Loads the model with its tokenizer, in evaluation mode on `device`.

        Args:
            device: the device to load the model to.
            block_size: the context, tokens, at most the model's own; None: the model's own.
            doc_mask: keeps attention within documents, as `data.doc_mask` does in training.

        Raises:
            UserError: when a file is missing or damaged, or of a model that this package lacks.
        """
        if self.kind == "run":
            if block_size is not None:
                raise UserError(f"block_size={block_size}: a run keeps the context that it was trained with")
            return load_model(self.path, device, doc_mask=doc_mask)
        load = gguf.load if self.kind == "gguf" else huggingface.load
        model, tokenizer, end_ids, template = load(self.path, block_size=block_size)
        model.eot_id = tokenizer.eot_id if doc_mask else None
        return LoadedModel(model.to(device), tokenizer, step=None, loss=None, end_ids=end_ids, chat_template=template)


def find_model(name: str, key: str = "run", *, fetch: bool = True) -> Source:
    """Resolves the name of a model, of one of the forms above; nothing is loaded.

    Args:
        name: as above. A folder that is no model is a run folder, whose absence `open` tells.
        key: the setting or argument whose value is `name`, for the message.
        fetch: whether a model of the hub may be downloaded; False: it has been downloaded before.

    Raises:
        UserError: when there is no run yet, or a published model is not installed.
    """
    if name in registry.PUBLISHED:
        return Source("gguf", registry.find(name))
    path = user_path(name)
    if path.suffix == ".gguf":
        return Source("gguf", path)
    if hub.is_hub_name(name):
        return Source("huggingface", hub.download(name, fetch=fetch))
    if path.name == "model" and (path.parent / "config.yaml").is_file():
        raise UserError(f"{key}={name}: the model of a run: name the run itself, {path.parent}")
    if (path / huggingface.CONFIG).is_file() and not (path / "config.yaml").exists():
        return Source("huggingface", path)
    return Source("run", find_run(name, MODEL, key))


def open_model(
    name: str,
    device: torch.device | str = "cpu",
    *,
    block_size: int | None = None,
    doc_mask: bool = False,
    key: str = "run",
) -> LoadedModel:
    """Loads the model of a name: `find_model`, then `Source.open`."""
    return find_model(name, key).open(device, block_size=block_size, doc_mask=doc_mask)
