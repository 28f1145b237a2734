"""Writes text with a trained model: run folder -> model -> tokens -> text. `python generate.py --help` lists the settings."""

from __future__ import annotations

from llm_from_scratch import signals

if __name__ == "__main__":
    signals.catch()

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from llm_from_scratch.overrides import command
from llm_from_scratch.places import config_dir
from llm_from_scratch.terminal import for_stream

if TYPE_CHECKING:
    from llm_from_scratch.config import GenerateConfig


def settings(composed: DictConfig, job: Sequence[str] = ()) -> GenerateConfig:
    """The checked settings; one stop string is as good as a list of one."""
    from llm_from_scratch.config import GenerateConfig, check

    if isinstance(composed.get("stop"), str):
        composed.stop = [composed.stop]
    return check(composed, GenerateConfig)


@command(config_dir(), "generate", settings)
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
    sys.stdout.reconfigure(newline="\n")  # type: ignore[union-attr]
    if config.num_samples == 1:
        print(for_stream(config.prompt, sys.stdout), end="", flush=True)
        for (piece,) in pieces:
            print(for_stream(piece, sys.stdout), end="", flush=True)
        print()
    else:
        texts = (config.prompt + "".join(sample) for sample in zip(*pieces, strict=True))
        print(for_stream("\n---\n".join(texts), sys.stdout))


if __name__ == "__main__":
    main()
