"""A model and its tokenizer -> one GGUF file for llama.cpp, with a Modelfile for Ollama."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import replaced_file, write_file
from llm_from_scratch.gguf import DTYPES
from llm_from_scratch.gguf.library import FILE_TYPES, KIND_OF, Kind, quantize, write
from llm_from_scratch.gguf.names import ROPE_FACTORS, Part, architecture_of, interleave, keys_of, parts, rope_factors
from llm_from_scratch.model import GPT
from llm_from_scratch.tokenizer import Tokenizer
from llm_from_scratch.tokenizer.gguf import to_gguf

# Keys `general.*` that a caller may give
DESCRIPTIVE = ("name", "author", "version", "organization", "description", "license", "license.link", "url", "tags")
LARGEST_F16 = 65504.0
ENDS = ("eos", "eot", "eom")  # names of the ids that end a text, of a turn and of a message


def export(
    model: GPT,
    tokenizer: Tokenizer,
    target: Path,
    *,
    dtype: str = "f16",
    chat_template: str | None = None,
    end_ids: Sequence[int] = (),
    metadata: Mapping[str, str | list[str]] | None = None,
) -> Path:
    """Writes a model as GGUF, atomically, and a Modelfile beside it; returns the path of the file.

    Matrices have the dtype; norms, biases and tables of positions stay float32, and with q4_0 the
    embedding and the head are q8_0.

    Args:
        model: of an architecture of llama.cpp.
        tokenizer: the model's.
        target: a file NAME.gguf, with NAME.Modelfile, or a folder for model.gguf and Modelfile.
        dtype: one of DTYPES.
        chat_template: the Jinja template of a chat; None for a model that continues texts.
        end_ids: the ids that end a text, at most three; empty: the tokenizer's.
        metadata: keys of DESCRIPTIVE, written as general.KEY.

    Raises:
        UserError: when llama.cpp has no architecture for the model, more ids end a text than the
            file can name, or the dtype does not fit the sizes or weights.
    """
    if dtype not in DTYPES:
        raise UserError(f"{dtype} is unknown: use one of {', '.join(DTYPES)}")
    architecture = architecture_of(model.config)
    table = parts(model, architecture)
    shapes = _shapes(model, table)
    infos = {name: (shape, kind_of(name, shape, dtype)) for name, shape in shapes.items()}
    path = target if target.suffix == ".gguf" else target / "model.gguf"
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file, or the folder above it")
    keys: dict[str, Any] = _general(metadata or {}, path.stem, dtype) | keys_of(model.config, architecture)
    keys |= to_gguf(tokenizer) | _ends(end_ids)
    if chat_template is not None:
        keys["tokenizer.chat_template"] = chat_template
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as building:
        write(building, architecture.name, keys, infos, _tensors(model, table, infos))
    beside = path.with_suffix(".Modelfile") if path == target else path.with_name("Modelfile")
    write_file(beside, modelfile(path.name, keys))
    return path


def _ends(end_ids: Sequence[int]) -> dict[str, int]:
    """Returns the keys of the ids that end a text."""
    if len(end_ids) > len(ENDS):
        raise UserError(
            f"{len(end_ids)} ids end a text of this model, and a GGUF file names {len(ENDS)}: "
            "shorten eos_token_id in its generation_config.json"
        )
    return {f"tokenizer.ggml.{name}_token_id": number for name, number in zip(ENDS, end_ids, strict=False)}


def kind_of(name: str, shape: tuple[int, ...], dtype: str) -> Kind:
    """Returns how a tensor is stored.

    Raises:
        UserError: when the rows are no whole number of blocks.
    """
    if len(shape) < 2 or name == "position_embd.weight":
        return KIND_OF["F32"]
    outer = name in ("token_embd.weight", "output.weight")
    kind = KIND_OF["Q8_0" if dtype == "q4_0" and outer else dtype.upper()]
    if shape[-1] % kind.block:
        raise UserError(
            f"{dtype} stores rows in blocks of {kind.block} numbers, and those of {name} have {shape[-1]}: use f16"
        )
    return kind


def _shapes(model: GPT, table: Mapping[str, Sequence[Part]]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor of the file, rows first."""
    found = {
        part.name: (part.stop - part.start, *parameter.shape[1:])
        for name, parameter in model.named_parameters()
        for part in table[name]
    }
    factors = rope_factors(model.config)
    return found if factors is None else found | {f"{ROPE_FACTORS}.weight": factors.shape}


def _tensors(
    model: GPT, table: Mapping[str, Sequence[Part]], infos: Mapping[str, tuple[tuple[int, ...], Kind]]
) -> Iterator[np.ndarray]:
    """Yields the bytes of each tensor, in the order of `_shapes`."""
    for name, parameter in model.named_parameters():
        for part in table[name]:
            rows = parameter.detach()[part.start : part.stop].float().cpu().numpy()
            rows = interleave(rows, part.heads) if part.heads else rows
            _refuse_overflow(rows, part.name, infos[part.name][1])
            yield quantize(rows, infos[part.name][1])
    factors = rope_factors(model.config)
    if factors is not None:
        yield factors


def _refuse_overflow(rows: np.ndarray, name: str, kind: Kind) -> None:
    """Refuses weights beyond the range of F16, which the scales of Q8_0 and Q4_0 have as well."""
    largest = float(np.abs(rows).max())
    if not largest < np.inf:
        raise UserError(f"{name} holds {largest}: the training diverged, or the weights are damaged")
    if kind.name not in ("F32", "BF16") and largest > LARGEST_F16:
        raise UserError(f"{name} holds {largest:g}, beyond the largest number of {kind.name}: use bf16")


def _general(metadata: Mapping[str, str | list[str]], name: str, dtype: str) -> dict[str, Any]:
    assert set(metadata) <= set(DESCRIPTIVE), metadata
    found: dict[str, Any] = {"general.type": "model", "general.name": name}
    found |= {f"general.{key}": value for key, value in metadata.items()}
    found["general.file_type"] = FILE_TYPES[dtype.upper()]
    if dtype in ("q8_0", "q4_0"):
        found["general.quantization_version"] = 2
    return found


# ---------------------------------------------------------------------------------------- Modelfile
CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


def modelfile(name: str, keys: Mapping[str, Any]) -> str:
    """Returns the Modelfile with which `ollama create` takes in the file `name` beside it.

    Ollama's own templates are Go's, not Jinja's: one is written for ChatML; for other templates
    Ollama recognises those that it knows in the file itself. A token with a quotation mark or a
    control character, which would end its line, is left out: llama.cpp stops at its id anyway.
    """
    tokens, template = keys["tokenizer.ggml.tokens"], keys.get("tokenizer.chat_template")
    ids = [keys.get(f"tokenizer.ggml.{name}_token_id") for name in ENDS]
    stops = [tokens[i] for i in dict.fromkeys(ids) if i is not None]
    stops = [stop for stop in stops if stop.isprintable() and '"' not in stop]
    lines = [f"FROM ./{name}", *(f'PARAMETER stop "{stop}"' for stop in stops)]
    if template is None:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    elif "<|im_start|>" in template:
        lines.append(f'TEMPLATE """{CHATML}"""')
    return "\n".join(lines) + "\n"
