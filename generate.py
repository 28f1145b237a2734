"""Writes text with a trained model: run folder -> model -> tokens -> text. `python generate.py --help` lists the settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from llm_from_scratch.overrides import command

if TYPE_CHECKING:
    from llm_from_scratch.config import GenerateConfig


def settings(composed: DictConfig) -> GenerateConfig:
    """The checked settings; one stop string is as good as a list of one."""
    from llm_from_scratch.config import GenerateConfig, check

    if isinstance(composed.get("stop"), str):
        composed.stop = [composed.stop]
    return check(composed, GenerateConfig)


@command(Path(__file__).resolve().parent / "configs", "generate", settings)
def main(composed: DictConfig) -> None:
    """Streams the text to standard output as it is written; several samples come one after the other."""
    from llm_from_scratch.checkpoint import find_run, load_model, pick_device, pick_dtype
    from llm_from_scratch.generation import generate, lay_out_for_decoding

    config = settings(composed)
    device = pick_device(config.device)
    run = load_model(find_run(config.run, holding="model/config.json"), device)
    run.model.to(pick_dtype(config.dtype, device))
    lay_out_for_decoding(run.model)
    pieces = generate(run.model, run.tokenizer, config.prompt, config)
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    if config.num_samples == 1:
        print(config.prompt, end="", flush=True)
        for (piece,) in pieces:
            print(piece, end="", flush=True)
        print()
    else:
        print("\n---\n".join(config.prompt + "".join(sample) for sample in zip(*pieces, strict=True)))


if __name__ == "__main__":
    main()
