"""`inspect`: look at a prepared text: sizes, document lengths, frequent tokens, training chunks."""

import argparse
import json

from llm_from_scratch.commands.prepare import prepared_text
from llm_from_scratch.errors import UserError
from llm_from_scratch.front.program import checked
from llm_from_scratch.places import MODEL, config_dir
from llm_from_scratch.terminal import console, log_to_stderr


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Looks at a text as it is prepared for training, with the settings of train.py; prepares it first "
        "where it is not."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="data=… tokenizer=… model.block_size=…")
    parser.add_argument(
        "--chunks", type=int, default=3, metavar="N", help="of the first step to show, or conversations (default: 3)"
    )
    parser.add_argument("--pieces", type=int, default=20, metavar="N", help="most frequent ones to show (default: 20)")
    parser.add_argument("--json", action="store_true", help="one JSON object rather than tables")


def run(options: argparse.Namespace) -> None:
    """Prints sizes, frequent tokens and training chunks of a text, which it prepares if needed."""
    from dataclasses import replace

    from llm_from_scratch.data import inspection
    from llm_from_scratch.data.prepared import Conversations

    if min(options.chunks, options.pieces) < 0:
        raise UserError("--chunks and --pieces must be 0 or more")
    log_to_stderr()
    config = checked(config_dir(), options.overrides, resumes=MODEL)
    prepared = prepared_text(config)
    if isinstance(prepared, Conversations):
        found = inspection.inspect_conversations(prepared, config.data, config.model.block_size, options.chunks)
        if options.json:
            print(json.dumps(found))
        else:
            inspection.show_conversations(found, console(width=140))
        return
    # a larger batch begins with the sequences of a smaller one
    data = replace(config.data, batch_size=max(config.data.batch_size, options.chunks), batch_schedule=None)
    sampler = prepared.sampler(data, block_size=config.model.block_size, seed=config.seed)
    result = inspection.inspect(prepared, sampler, chunks=options.chunks, pieces=options.pieces)
    if options.json:
        print(json.dumps(result))
    else:
        inspection.show(result, console(width=140))
