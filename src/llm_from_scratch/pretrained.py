"""A model by its name: a run of this package, or a model that was trained elsewhere.

last, PATH                  a run folder
PATH.gguf                   a file of llama.cpp
PATH                        a folder of transformers, with config.json
PATH                        an adapter in PEFT's format, with adapter_config.json
hub:OWNER/NAME@REVISION     a folder of transformers, from the Hugging Face hub
smollm2                     a published model that `make weights` installs (`registry`)

A run of adapters and an adapter name their base, of any of these forms. Opened, they are merged
into it.
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llm_from_scratch import lora, registry
from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.files import sha256
from llm_from_scratch.gguf import read as gguf
from llm_from_scratch.huggingface import adapters, hub
from llm_from_scratch.huggingface import read as huggingface
from llm_from_scratch.places import ADAPTER, ADAPTER_CONFIG, MODEL, user_path
from llm_from_scratch.run import find_run
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer
from llm_from_scratch.weights import (
    LoadedModel,
    chat_of,
    load_model,
    loaded,
    model_folder,
    model_metadata,
    saved_settings,
)


@dataclass(frozen=True)
class Source:
    """Where a model lies."""

    kind: str  # run | gguf | huggingface | peft
    path: Path

    def settings(self) -> tuple[dict[str, Any], Tokenizer]:
        """Returns the model's settings, by the names of GPTConfig, and its tokenizer.

        No weights are loaded.

        Raises:
            UserError: as `open`.
        """
        if self.kind == "run":
            return saved_settings(self.path)["model"], load_tokenizer(model_folder(self.path))
        if self.kind == "peft":
            return self._base().settings()
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
        if self.kind == "peft":
            return self._base().chat_template()
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
            return _shortened(load_run(self.path, device, doc_mask=doc_mask), block_size)
        if self.kind == "peft":
            return self._merged(self._base().open(block_size=block_size, doc_mask=doc_mask), device)
        load = gguf.load if self.kind == "gguf" else huggingface.load
        model, tokenizer, end_ids, template = load(self.path, block_size=block_size)
        model.eot_id = tokenizer.eot_id if doc_mask else None
        return LoadedModel(model.to(device), tokenizer, step=None, loss=None, end_ids=end_ids, chat_template=template)

    def open_within(self, block_size: int) -> LoadedModel:
        """Loads the model as a run of `block_size` tokens starts from it.

        Positions that the run does not have would only take memory. A model that is a run, or an
        adapter of one, keeps its own.
        """
        if self.kind == "run":
            return self.open()
        if self.kind == "peft":
            return self._merged(self._base().open_within(block_size), "cpu")
        settings, _ = self.settings()
        return self.open(block_size=min(settings["block_size"], block_size))

    def checksum(self) -> str:
        """Returns a sha256 of the files that hold the weights, those of a base included.

        Raises:
            UserError: when a file is missing or damaged.
        """
        if self.kind == "gguf":
            return sha256(self.path)
        if self.kind == "run":
            metadata = model_metadata(self.path)
            base = metadata.get("base")
            if base is None:
                return str(metadata["sha256"])
            sums = [metadata["sha256"], base["settings"], base["sha256"]]
        elif self.kind == "peft":
            sums = [*(sha256(self.path / name) for name in (ADAPTER, ADAPTER_CONFIG)), self._base().checksum()]
        else:
            sums = [sha256(path) for path in huggingface.weight_files(self.path)]
        return hashlib.sha256("".join(sums).encode()).hexdigest()

    def _merged(self, base: LoadedModel, device: torch.device | str) -> LoadedModel:
        """Merges an adapter in PEFT's format into its base, in place."""
        lora.attach(base.model, adapters.read_adapters(self.path, base.model.config))
        lora.merge(base.model)
        # Of a base that is a run, the step and the loss are no longer the model's.
        return replace(base, model=base.model.to(device), step=None, loss=None, data=None)

    def _base(self) -> "Source":
        """Returns the base of an adapter in PEFT's format, which is no such adapter itself.

        Raises:
            UserError: when it is not there.
        """
        settings = adapters.read_settings(self.path)
        name, revision = str(settings["base_model_name_or_path"]), settings.get("revision")
        near = self.path.parent / name
        for found in (name, str(near)):
            if user_path(found).exists():
                base = find_model(found, "base_model_name_or_path")
                break
        else:
            # PEFT names a model of the hub without a prefix, and its revision apart.
            on_hub = hub.NAME.fullmatch(hub.PREFIX + name)
            if on_hub:
                name = hub.PREFIX + name + (f"@{revision}" if revision and not on_hub["revision"] else "")
            base = find_model(name, "base_model_name_or_path")
        if base.kind == "peft":
            raise UserError(
                f"{self.path / ADAPTER_CONFIG}: its base {name!r:.100} is an adapter too: merge that one first"
            )
        return base


def _shortened(run: LoadedModel, block_size: int | None) -> LoadedModel:
    """Sets the context of a run, which may read fewer tokens than in training; None: as it is.

    Raises:
        UserError: when the run has fewer positions.
    """
    if block_size is not None:
        config = run.model.config
        if not 1 <= block_size <= config.block_size:
            raise UserError(f"block_size={block_size} must be from 1 to the model's own {config.block_size}")
        run.model.config = replace(config, block_size=block_size)
    return run


def load_run(run: Path, device: torch.device | str = "cpu", *, doc_mask: bool = False) -> LoadedModel:
    """Loads the model of a run folder; adapters are merged into their base.

    The arguments are those of `weights.load_model`.

    Raises:
        UserError: when a file, which it names, is missing or damaged, or the base is gone or
            another one.
    """
    if "base" not in saved_settings(run):
        return load_model(run, device, doc_mask=doc_mask)
    metadata, folder = model_metadata(run), model_folder(run)
    source = find_base(run, metadata["base"]["name"], metadata["base"]["sha256"])
    base = source.open_within(int(metadata["model"]["block_size"]))
    weights = {name: parameter.detach() for name, parameter in base.model.named_parameters()}
    found = loaded(folder, metadata, weights, source.path, "cpu", doc_mask=doc_mask)
    lora.attach(found.model, adapters.read_adapters(folder, found.model.config))
    lora.merge(found.model)
    found.model.to(device).eval()
    return found


def find_base(
    run: Path, name: str, sha256: str | None, *, what: str = "the base of its adapters", fetch: bool = False
) -> Source:
    """Finds the model that a run was started from by its recorded name, and compares its checksum.

    Args:
        run: the run folder.
        name: as `init_from` had it; a relative path may be in any of `places_of`.
        sha256: the checksum of its files; None: none is recorded, and the first found is taken.
        what: the model, for the message.
        fetch: whether a model of the hub may be downloaded.

    Raises:
        UserError: when it is gone, or another one.
    """
    faults = []
    for place in places_of(run, name):
        try:
            source = find_model(place, "init_from", fetch=fetch)
            now = source.checksum()
        except UserError as error:
            faults.append(f"is gone: {message_of(error, 200)}")
            continue
        if sha256 in (None, now):
            return source
        faults.append(
            f"is another one than it was trained on ({now[:16]}, not {str(sha256)[:16]}): put it back as it was"
        )
    raise UserError(f"{run}: {what}, {name}, {faults[0]}")


def places_of(run: Path, name: str) -> list[str]:
    """Returns where the model of a run's `init_from` may lie.

    A relative path is of the present folder, or else of one above the run's own.
    """
    if Path(name).is_absolute() or hub.is_hub_name(name) or name in registry.PUBLISHED:
        return [name]
    return [name, *(str(above / name) for above in run.absolute().parents if (above / name).exists())]


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
    if (path / ADAPTER_CONFIG).is_file() and not (path / "config.yaml").exists():
        return Source("peft", path)
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
