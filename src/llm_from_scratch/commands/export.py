"""`export`: a trained model in the format of other programs."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import building_folder, publish
from llm_from_scratch.gguf import DTYPES
from llm_from_scratch.places import ADAPTER, ADAPTER_CONFIG, user_path
from llm_from_scratch.terminal import argument, note

if TYPE_CHECKING:
    from llm_from_scratch.pretrained import Source
    from llm_from_scratch.weights import LoadedModel

FORMATS = {
    "hf": "Hugging Face: config.json, model.safetensors, tokenizer.json and a model card, for transformers",
    "gguf": "llama.cpp and Ollama: model.gguf with its tokenizer, and a Modelfile",
    "onnx": "onnxruntime: model.onnx, for any batch and length, and tokenizer.json",
    "peft": "peft: the adapters of finetune=lora alone; in the other formats they are merged into their base",
}
# What to do with the folder
NEXT = {
    "hf": "transformers: AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer likewise, FOLDER={folder}",
    "gguf": "llama.cpp: llama-cli -m {folder}/model.gguf; Ollama: ollama create NAME -f {folder}/Modelfile",
    "onnx": "onnxruntime: InferenceSession(FOLDER + '/model.onnx').run(None, {{'input_ids': ids}}), FOLDER={folder}",
    "peft": "peft: PeftModel.from_pretrained(BASE, FOLDER), BASE the base exported with --to hf, FOLDER={folder}",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Writes a trained model into a new folder, in the format of other programs. They need no code of this "
        "project and get the same ids and the same logits; where a format cannot hold the model, one line says why."
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run folder, last, a .gguf file, a folder of transformers, hub:OWNER/NAME or smollm2",
    )
    parser.add_argument("folder", type=user_path, metavar="FOLDER", help="a new folder, or an empty one")
    parser.add_argument(
        "--to", required=True, choices=FORMATS, help="; ".join(f"{name}: {line}" for name, line in FORMATS.items())
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the matrices of model.gguf (default: f16)")


def run(options: argparse.Namespace) -> None:
    """Exports the model; prints the folder on standard output, how to use it on standard error."""
    from llm_from_scratch.huggingface.write import new_folder
    from llm_from_scratch.pretrained import find_model

    if options.dtype and options.to != "gguf":
        raise UserError(f"--dtype {options.dtype}: for --to gguf alone; --to {options.to} writes float32")
    folder = new_folder(options.folder)
    source = find_model(options.run)
    if options.to == "peft":
        _write_peft(source, folder)
        note(NEXT["peft"].format(folder=argument(folder)))
        print(options.folder)
        return
    model = source.open()
    if options.to == "hf":
        from llm_from_scratch.huggingface.card import model_card
        from llm_from_scratch.huggingface.write import export

        # Without its settings, as where model/ alone was copied, a run has no recipe to tell.
        known = source.kind == "run" and (source.path / "config.yaml").exists()
        export(model, folder, card=model_card(model, source.path) if known else None)
    else:
        building = building_folder(folder)
        try:
            if options.to == "gguf":
                _write_gguf(model, building, options.dtype or "f16")
            else:
                _write_onnx(model, building)
            publish(building, folder)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    note(NEXT[options.to].format(folder=argument(folder)))
    print(options.folder)


def _write_peft(source: Source, folder: Path) -> None:
    """Copies the two files of an adapter, which are read and verified first."""
    from llm_from_scratch.huggingface.families import family_of
    from llm_from_scratch.weights import model_folder, saved_settings

    adapted = source.kind == "peft" or (source.kind == "run" and "base" in saved_settings(source.path))
    if not adapted:
        raise UserError(f"--to peft: {source.path} holds no adapters: fine-tune with finetune=lora, or use --to hf")
    family_of(source.open().model.config)
    held, building = model_folder(source.path) if source.kind == "run" else source.path, building_folder(folder)
    try:
        for name in (ADAPTER, ADAPTER_CONFIG):
            shutil.copyfile(held / name, building / name)
        publish(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _write_gguf(model: LoadedModel, folder: Path, dtype: str) -> None:
    from llm_from_scratch.gguf.write import export

    export(
        model.model,
        model.tokenizer,
        folder,
        dtype=dtype,
        chat_template=model.chat_template,
        end_ids=model.end_ids,
    )


def _write_onnx(model: LoadedModel, folder: Path) -> None:
    from llm_from_scratch.onnx import export
    from llm_from_scratch.tokenizer.huggingface import write

    export(model.model, folder / "model.onnx")
    write(model.tokenizer, folder, chat_template=model.chat_template)
