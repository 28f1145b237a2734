"""`export`: a trained model in the format of other programs."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm_from_scratch.errors import UserError
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import note, quote

if TYPE_CHECKING:
    from llm_from_scratch.weights import LoadedModel

DTYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
FORMATS = {
    "hf": "Hugging Face: config.json, model.safetensors, tokenizer.json and a model card, for transformers",
    "gguf": "llama.cpp and Ollama: model.gguf with its tokenizer, and a Modelfile",
    "onnx": "onnxruntime: model.onnx, of any batch and length, and tokenizer.json",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Writes a trained model into a new folder, in the format of other programs. They need no code of this "
        "project and get the same ids and the same logits; where a format cannot hold the model, one line says why."
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, last, a folder of Hugging Face, or a .gguf file")
    parser.add_argument("folder", type=user_path, metavar="FOLDER", help="a new folder, or an empty one")
    parser.add_argument(
        "--to", required=True, choices=FORMATS, help="; ".join(f"{name}: {line}" for name, line in FORMATS.items())
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the matrices of model.gguf (default: f16)")


def run(options: argparse.Namespace) -> None:
    """Exports the model; prints the folder on standard output, what to do with it on standard error."""
    if options.dtype and options.to != "gguf":
        raise UserError(f"--dtype {options.dtype}: for --to gguf alone; {options.to} is written in float32")
    from llm_from_scratch.huggingface.write import new_folder
    from llm_from_scratch.pretrained import find_model

    folder = new_folder(options.folder)
    source = find_model(options.run)
    model = source.open()
    if options.to == "hf":
        _to_hugging_face(model, source.path, folder)
    elif options.to == "gguf":
        _to_gguf(model, folder, options.dtype or "f16")
    else:
        _to_onnx(model, folder)
    note(NEXT[options.to].format(folder=quote(str(folder)), python=quote(sys.executable)))
    print(options.folder)


# The first command of the other program
NEXT = {
    "hf": "transformers: pipeline('text-generation', {folder!r}, tokenizer={folder!r})",
    "gguf": "llama.cpp: llama-cli -m {folder}/model.gguf; Ollama: ollama create NAME -f {folder}/Modelfile",
    "onnx": "onnxruntime: InferenceSession({folder!r} + '/model.onnx').run(None, {{'input_ids': ids}})",
}
