"""`prepare`: make a corpus's token shards, before the first training on it."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm_from_scratch.front.inherit import template_of_origin, tokenizer_of_origin
from llm_from_scratch.front.program import checked
from llm_from_scratch.places import MODEL, config_dir
from llm_from_scratch.terminal import for_stream, log_to_stderr, printable

if TYPE_CHECKING:
    from llm_from_scratch.config import Config
    from llm_from_scratch.data.prepared import Prepared


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Makes a corpus's token shards, with the settings that train.py will be given. Killed and started "
        "again, it goes on where it was. Progress on standard error, the folder on standard output."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="data=… tokenizer=… prepare.workers=2 …")


def prepared_text(config: "Config") -> "Prepared":
    """Returns the text of the run that `resume` names, else the settings' own, prepared if needed.

    Raises:
        UserError: when the text cannot be prepared, or has changed since that run.
    """
    from llm_from_scratch.data.prepare import prepare
    from llm_from_scratch.evaluation.measure import run_text
    from llm_from_scratch.pretrained import load_run

    if config.resume:
        folder = Path(config.resume)
        return run_text(folder, config, load_run(folder))
    return prepare(
        config.data,
        config.tokenizer,
        tokenizer=tokenizer_of_origin(config),
        template=template_of_origin(config) if config.data.format != "text" else None,
        settings=config.prepare,
    )


def run(options: argparse.Namespace) -> None:
    """Prepares a corpus's token shards, or one task of them, and prints counts."""
    import time

    from llm_from_scratch.data.prepare import SPLITS, prepare_task

    log_to_stderr()
    started = time.monotonic()
    config = checked(config_dir(), options.overrides, resumes=MODEL, own=["prepare.task"])
    if config.prepare.task is None:
        prepared = prepared_text(config)
    else:
        part = prepare_task(config.data, config.tokenizer, config.prepare, tokenizer=tokenizer_of_origin(config))
        if part is None:
            print(f"task {config.prepare.task} is done; others are missing", file=sys.stderr)
            return
        prepared = part
    seconds = time.monotonic() - started
    for split in SPLITS:
        counted = prepared.manifest["splits"][split]
        tokens = counted.get("tokens", 0)
        rate = f", {counted['text_bytes'] / tokens:.2f} bytes a token" if tokens else ""
        counts = f"{counted['documents']:,} documents, {counted['text_bytes']:,} bytes of text, {tokens:,} tokens"
        print(f"{split:<5} {counts}{rate}", file=sys.stderr)
    if (prepared.folder / "report.md").exists():
        print(printable(f"what was left out: {prepared.folder / 'report.md'}"), file=sys.stderr)
    print(f"{seconds:.1f} s", file=sys.stderr)
    print(for_stream(f"prepared: {prepared.folder}", sys.stdout), flush=True)
