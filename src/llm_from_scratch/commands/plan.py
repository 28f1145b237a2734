"""`plan`: memory, epochs, time and disk of a training, before it begins."""

import argparse
import json
from pathlib import Path

from llm_from_scratch.errors import UserError
from llm_from_scratch.front.compose import model_presets
from llm_from_scratch.front.inherit import template_of_origin, tokenizer_of_origin
from llm_from_scratch.front.program import checked
from llm_from_scratch.places import config_dir
from llm_from_scratch.terminal import console, log_to_stderr


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "What the training with these settings of train.py will take: parameters, memory, passes over the "
        "text, time from a few measured steps, disk, and what is unwise about it. A small text is prepared "
        "first; a large one that is not is estimated."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="model=… data=… trainer=…")
    parser.add_argument(
        "--hours", type=float, metavar="H", help="that there are, for the best size (default: the run's)"
    )
    parser.add_argument(
        "--tokens", type=float, metavar="N", help="plan for so many training tokens, with no text at hand"
    )
    parser.add_argument("--no-measuring", action="store_true", help="try no steps, and say no times")
    parser.add_argument("--json", action="store_true", help="one JSON object rather than a table")


def run(options: argparse.Namespace) -> None:
    """Prints the memory, epochs, time and disk that a training will take."""
    from llm_from_scratch.check import check
    from llm_from_scratch.config import Config

    for option, value in (("--hours", options.hours), ("--tokens", options.tokens)):
        if value is not None and not 0 < value < 1e18:
            raise UserError(f"{option} {value}: must be above 0")
    log_to_stderr()
    config = checked(config_dir(), options.overrides)
    if options.hours is not None and config.init_from is not None:
        raise UserError(f"--hours: is for the best size of a new model, and init_from={config.init_from} has its size")

    # These import torch, which takes seconds: the settings are right by now.
    from llm_from_scratch.evaluation.measure import own_text
    from llm_from_scratch.model import GPTConfig
    from llm_from_scratch.plan.estimate import plan
    from llm_from_scratch.plan.measuring import measure
    from llm_from_scratch.plan.sizes import assumed_text, counted, device_count, meta_model, text_size
    from llm_from_scratch.plan.table import show
    from llm_from_scratch.training.checks import require_device
    from llm_from_scratch.training.memory import micro_batch_size

    require_device(config.trainer)
    if options.tokens:
        text = assumed_text(config, int(options.tokens), tokenizer_of_origin(config))
    elif (prepared := own_text(Path(config.resume), config) if config.resume else None) is not None:
        text = counted(prepared)
    else:
        template = template_of_origin(config) if config.data.format != "text" else None
        text = text_size(config, tokenizer_of_origin(config), template)
    presets = {
        name: meta_model(GPTConfig(vocab_size=text.vocab_size, **vars(check(preset, Config).model))).num_parameters()
        for name, preset in model_presets(config_dir()).items()
        if name != "article"  # one layer, one head: to look at
    }
    measured = None
    if not options.no_measuring:
        shape = GPTConfig(vocab_size=text.vocab_size, **vars(config.model))
        measured = measure(config, shape, micro_batch_size(config, device_count(config.trainer)))
    result = plan(config, text, measured, hours=options.hours, presets=presets)
    if options.json:
        print(json.dumps(result))
    else:
        show(result, console(width=140))
