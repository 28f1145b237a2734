"""A trained model -> a folder that transformers, and what reads its format, loads.

folder/    config.json, generation_config.json, model.safetensors, the tokenizer's files,
           chat_template.jinja where the model has a template, README.md
"""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import building_folder, existing_parent, publish
from llm_from_scratch.huggingface.families import family_of
from llm_from_scratch.huggingface.settings import one_or_list, to_settings
from llm_from_scratch.huggingface.tensors import to_weights
from llm_from_scratch.tokenizer import first_id
from llm_from_scratch.tokenizer.huggingface import write as write_tokenizer
from llm_from_scratch.weights import LoadedModel


def export(trained: LoadedModel, folder: Path, *, card: str | None = None) -> Path:
    """Writes a model and its tokenizer as a folder of transformers, whole or not at all.

    The weights are float32. A model without `end_ids` ends a text with the tokenizer's `eot_id`.

    Args:
        trained: the model, its tokenizer, ids that end a text and template of a chat.
        folder: a new folder or an empty one.
        card: the text of README.md; None: none is written.

    Returns:
        The folder, as an absolute path.

    Raises:
        UserError: when no class of transformers computes the model, its files cannot describe the
            tokenizer, or the folder holds files.
    """
    config, tokenizer = trained.model.config, trained.tokenizer
    family_of(config)
    folder = new_folder(folder)
    ends = trained.end_ids or (tokenizer.eot_id,)
    begin = first_id(tokenizer)
    settings = to_settings(config, bos_id=begin, end_ids=ends)
    generation = {"bos_token_id": begin, "eos_token_id": one_or_list(ends)}
    state = {name: parameter.detach().cpu().float() for name, parameter in trained.model.named_parameters()}
    building = building_folder(folder)
    try:
        _write_json(building / "config.json", settings)
        _write_json(building / "generation_config.json", generation)
        # transformers reads the metadata before it reads the tensors.
        save_file(to_weights(state, config), building / "model.safetensors", metadata={"format": "pt"})
        write_tokenizer(tokenizer, building, chat_template=trained.chat_template)
        if card is not None:
            (building / "README.md").write_bytes(card.encode())
        publish(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return folder


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def new_folder(folder: Path) -> Path:
    """Returns the absolute path of a folder that may be written.

    Raises:
        UserError: when it holds files, is no folder or lies in none, is where this command works,
            or is the place of a run's own model.
    """
    path = folder.absolute()
    path = path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{folder} is no folder: name a new one")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder")
    above = existing_parent(path)
    if not above.is_dir():
        raise UserError(f"{folder} would lie in {above}, which is no folder: name another one")
    if path == Path.cwd().resolve():
        raise UserError(f"{folder} is the folder that this command works in: name a new one")
    if path.name in ("model", ".old-model") and (path.parent / "config.yaml").exists():
        raise UserError(
            f"{folder} is the place of the run's own model: name another folder, such as {path.parent / 'export'}"
        )
    return path
