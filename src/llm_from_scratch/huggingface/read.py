"""A folder of transformers -> a GPT: config.json, model.safetensors or its shards.

    headers of the files -> names and shapes, compared with config.json -> one tensor at a time

The folder is a stranger's: no pickle is read, no code runs, no file outside it is opened, and
nothing is allocated before the sizes in config.json agree with the files' headers.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from llm_from_scratch.checkpoint import MAX_JSON, naming
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import open_regular, read_bounded, refuse_links
from llm_from_scratch.huggingface.families import FAMILIES, Family
from llm_from_scratch.huggingface.settings import from_settings
from llm_from_scratch.huggingface.tensors import HEAD, SINUSOIDS, check_shapes, pairs, stored_names
from llm_from_scratch.model import GPT, GPTConfig, sinusoids, uninitialised
from llm_from_scratch.tokenizer import Tokenizer
from llm_from_scratch.tokenizer.base import utf8
from llm_from_scratch.tokenizer.huggingface import read as read_tokenizer
from llm_from_scratch.weights import check_size

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
GENERATION = "generation_config.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MAX_SHARDS = 1000
DTYPES = ("F32", "F16", "BF16")  # read as float32


TEMPLATE, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
MAX_TEMPLATE = 1_000_000  # bytes


@dataclass
class ForeignModel:
    """The model of a folder, in evaluation mode, and the ids that end a text of it."""

    model: GPT
    end_ids: tuple[int, ...]


def load(folder: Path, *, block_size: int | None = None) -> tuple[GPT, Tokenizer, tuple[int, ...], str | None]:
    """Loads the model and the tokenizer of a folder of transformers; weights are float32.

    Rows beyond the tokenizer's tokens pad the vocabulary and are left out.

    Args:
        folder: with config.json, the weights and the tokenizer's files.
        block_size: the context, tokens, at most the model's own; None: the model's own.

    Returns:
        the model, the tokenizer, the ids that end a text, and the template of a chat in Jinja.

    Raises:
        UserError: when a file is missing, damaged or leads out of the folder, or is of a model or
            a tokenizer that this package lacks.
    """
    tokenizer = _tokenizer(folder)
    template = chat_template(folder)
    found = load_weights(folder, vocab_size=tokenizer.vocab_size, block_size=block_size)
    return found.model, tokenizer, found.end_ids, template


def load_weights(folder: Path, *, vocab_size: int | None = None, block_size: int | None = None) -> ForeignModel:
    """Loads the model of a folder of transformers; float16 and bfloat16 become float32.

    Args:
        folder: with config.json and model.safetensors, or with shards and their index.
        vocab_size: tokens of the tokenizer. Rows beyond them pad the vocabulary and are left out,
            so that no such id has a probability. None: all rows.
        block_size: the context, at most the model's own; None: the model's own.

    Raises:
        UserError: when a file is missing, damaged or leads out of the folder, or when this GPT
            does not compute the model; it names the file.
    """
    with _opened(folder, vocab_size, block_size) as (settings, config, stored, weights):
        model = _filled(config, stored, weights)
    return ForeignModel(model, _end_ids(folder, settings, config.vocab_size))


def read_settings(folder: Path) -> tuple[GPTConfig, Tokenizer]:
    """Reads the config of the model that `load` returns and its tokenizer, without the weights.

    Raises:
        UserError: as `load`.
    """
    tokenizer = _tokenizer(folder)
    with _opened(folder, tokenizer.vocab_size, None) as (_, config, _, _):
        return config, tokenizer


def _tokenizer(folder: Path) -> Tokenizer:
    if not folder.is_dir():
        raise _no_folder(folder)
    for name in TOKENIZER_FILES:
        _checked(folder, name)
    return read_tokenizer(folder)


@contextmanager
def _opened(
    folder: Path, vocab_size: int | None, block_size: int | None
) -> Iterator[tuple[dict[str, Any], GPTConfig, GPTConfig, "Weights"]]:
    """Opens a folder: config.json, the model's config, that of the files, and the tensors."""
    if not folder.is_dir():
        raise _no_folder(folder)
    settings = _read_json(folder, CONFIG)
    with naming(folder / CONFIG):
        arguments = from_settings(settings)
        family = FAMILIES[settings["model_type"]]
        _check_sizes(arguments, vocab_size, block_size)
        # A table of positions has its rows in the file; the others follow from the config.
        own_positions = arguments["position"] == "learned"
        stored = GPTConfig(
            **arguments | ({} if own_positions else {"block_size": block_size or arguments["block_size"]})
        )
    with ExitStack() as stack:
        weights = Weights(folder, stored, family, stack)
        config = replace(stored, vocab_size=vocab_size or stored.vocab_size, block_size=block_size or stored.block_size)
        if family is FAMILIES["openai-gpt"] and weights.has_sinusoids(stored):
            config = replace(config, position="sinusoidal")
        yield settings, config, stored, weights


def _no_folder(folder: Path) -> UserError:
    return UserError(f"{folder}: there is no such folder: name one with config.json and model.safetensors")


def _check_sizes(arguments: Mapping[str, Any], vocab_size: int | None, block_size: int | None) -> None:
    if vocab_size is not None and vocab_size > arguments["vocab_size"]:
        raise UserError(f"the tokenizer has {vocab_size} tokens and the model {arguments['vocab_size']}")
    if block_size is not None and not 1 <= block_size <= arguments["block_size"]:
        raise UserError(f"block_size={block_size} must be from 1 to the model's own {arguments['block_size']}")


# -------------------------------------------------------------------------------------------- files
def _root(folder: Path) -> Path:
    """Returns the folder that links may lead into: the folder itself, or its model in the cache of
    huggingface_hub, whose snapshots are links to ../../blobs.
    """
    whole = folder.absolute().parent.parent
    cached = folder.absolute().parent.name == "snapshots" and whole.name.startswith("models--")
    return whole if cached else folder


def _checked(folder: Path, name: str) -> Path:
    path = folder / name
    refuse_links(path, _root(folder))
    return path


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        raise UserError("a name stands in it twice")
    return found


def _read_json(folder: Path, name: str) -> Any:
    path = folder / name
    with naming(path):
        return json.loads(read_bounded(_checked(folder, name), MAX_JSON), object_pairs_hook=_unique)


def _shards(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder.

    Raises:
        UserError: when there is none, or the index names a file elsewhere.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        pickles = [name for name in PICKLES if (folder / name).exists()]
        if pickles:
            raise UserError(
                f"{folder / pickles[0]}: a pickle can run code, so it is not read: convert it with transformers,"
                " AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
            )
        raise UserError(f"{folder / WEIGHTS} is missing, and {INDEX} too")
    index = _read_json(folder, INDEX)
    with naming(folder / INDEX):
        named = index["weight_map"].values()
        if not all(isinstance(name, str) for name in named):
            raise UserError("weight_map must map the names of tensors to files")
        files = sorted(set(named))
        if not 1 <= len(files) <= MAX_SHARDS:
            raise UserError(f"it names {len(files)} files; 1 to {MAX_SHARDS} are read")
        for name in files:
            plain = Path(name).name == name and "\\" not in name and name.isprintable()
            if not (plain and name.endswith(".safetensors")):
                raise UserError(f"{name!r:.100} is no .safetensors file of this folder")
    return [folder / name for name in files]


def weight_files(folder: Path) -> list[Path]:
    """Returns the files that hold the weights of a folder of transformers, in order.

    Raises:
        UserError: when there is none, or a link leads out of the folder.
    """
    return [_checked(folder, path.name) for path in _shards(folder)]


class Weights:
    """Tensors of a folder by their full name, read one at a time."""

    def __init__(self, folder: Path, config: GPTConfig, family: Family, stack: ExitStack) -> None:
        """Opens the files and compares their headers with `config`, before anything is allocated.

        `stack` closes the files.

        Raises:
            UserError: when a file is damaged, or holds other tensors than the config's model.
        """
        # name in the files -> the file, its shape there
        files: dict[str, Any] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for path in _shards(folder):
            with naming(path):
                open_regular(_checked(folder, path.name)).close()
                file = stack.enter_context(safe_open(path, framework="pt"))
                for name in file.keys():  # noqa: SIM118  # no dictionary
                    if name in files:
                        raise UserError(f"the tensor {name!r:.100} is in another file too")
                    files[name], shapes[name] = file, tuple(file.get_slice(name).get_shape())
        with naming(folder):
            check_size(config, sum(map(prod, shapes.values())), len(shapes))
            self.names = stored_names(files, family, tied=False)
            self._files = files
            shapes = {name: shapes[own] for name, own in self.names.items()}
            dtypes = {name: files[own].get_slice(own).get_dtype() for name, own in self.names.items()}
            wrong = sorted(name for name, dtype in dtypes.items() if dtype not in DTYPES)
            if wrong:
                raise UserError(f"the tensor {wrong[0]!r:.100} is of {dtypes[wrong[0]]}: {', '.join(DTYPES)} are read")
            check_shapes(
                {name: shape for name, shape in shapes.items() if not (config.tie_weights and name == HEAD)}, config
            )
            if config.tie_weights and HEAD in shapes:
                self._check_tied(config)

    def _check_tied(self, config: GPTConfig) -> None:
        """Raises UserError where a tied head is stored too, and is not the embedding."""
        embedding = next(pair.theirs[0] for pair in pairs(config) if pair.ours == "token_embedding.weight")
        if not torch.equal(self.read(HEAD), self.read(embedding)):
            raise UserError(f"{HEAD} is not {embedding}, and tie_word_embeddings says that it is")

    def read(self, name: str) -> Tensor:
        """Returns a tensor, as its file holds it."""
        own = self.names[name]
        tensor: Tensor = self._files[own].get_tensor(own)
        return tensor

    def has_sinusoids(self, config: GPTConfig) -> bool:
        """Returns whether the learned table of positions of OpenAI-GPT is that of sinusoids."""
        if config.n_embd % 2:
            return False
        table = sinusoids(config.block_size, config.n_embd)
        # Processors differ in the last bit of a sine.
        return torch.allclose(self.read(SINUSOIDS).float(), table, rtol=0, atol=1e-6)


# -------------------------------------------------------------------------------------------- model
def _filled(config: GPTConfig, stored: GPTConfig, weights: Weights) -> GPT:
    """Builds a model and fills it, one parameter at a time.

    `stored` is the config of the files, whose vocabulary and table of positions may be longer.
    """
    model = uninitialised(config)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for pair in pairs(stored):
            if pair.ours in parameters:
                parameter = parameters[pair.ours]
                parameter.copy_(pair.join([weights.read(name) for name in pair.theirs])[: len(parameter)])
    return model


def _end_ids(folder: Path, settings: Mapping[str, Any], vocab_size: int) -> tuple[int, ...]:
    """Reads eos_token_id of generation_config.json, else of config.json.

    An id that the model cannot write ends nothing and is left out.
    """
    name = GENERATION if (folder / GENERATION).exists() else CONFIG
    found = _read_json(folder, name) if name == GENERATION else settings
    with naming(folder / name):
        if not isinstance(found, dict):
            raise UserError("no JSON object")
        ids = found.get("eos_token_id", settings.get("eos_token_id"))
        ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
        if not all(type(one) is int and one >= 0 for one in ids):
            raise UserError(f"eos_token_id={ids!r:.60} must be an id or a list of ids")
    return tuple(one for one in dict.fromkeys(ids) if one < vocab_size)


def chat_template(folder: Path) -> str | None:
    """Reads the template of a chat: a file of its own, or an entry of tokenizer_config.json.

    The entry is the template, or a list of several by name, of which `default` is read.
    """
    path = _checked(folder, TEMPLATE)
    if path.exists():
        with naming(path):
            return read_bounded(path, MAX_TEMPLATE).decode()
    path = folder / TOKENIZER_CONFIG
    if not path.exists():
        return None
    content = _read_json(folder, TOKENIZER_CONFIG)
    with naming(path):
        found = content.get("chat_template")
        if isinstance(found, list):
            found = {one["name"]: one["template"] for one in found}.get("default")
        if found is not None and not isinstance(found, str):
            raise UserError("chat_template must be a text, or a list of texts with names")
        utf8(found or "")  # JSON can hold a lone surrogate, which no file that is written takes
        return found
