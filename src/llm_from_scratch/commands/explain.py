"""`explain`: a text on its way through a model: shapes, surprise, attention, the logit lens."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from llm_from_scratch.cores import sharing_cores
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import check_new_file, write_file
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import console, for_stream, log_to_stderr, note

if TYPE_CHECKING:
    from llm_from_scratch.explain.explanation import Explanation


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Reads a text with a model and shows what happens inside: the tensors with their shapes, how much each token "
        "surprised, what every layer would have said next, what each head attends to, and how each figure was computed."
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run folder, last, a .gguf file, a folder of transformers, hub:OWNER/NAME or smollm2",
    )
    parser.add_argument("text", metavar="TEXT", help="the text, in quotes")
    parser.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="whose attention to show, from 1 (default: the head that reads the previous token most)",
    )
    parser.add_argument("--head", type=int, metavar="N", help="of that layer, from 1 (default: the mean of all)")
    parser.add_argument(
        "--html", type=user_path, metavar="FILE", help="write one page with all figures, no network needed"
    )
    parser.add_argument(
        "--png", type=user_path, metavar="FOLDER", help="write the figures as files, *_dark.png for dark pages"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object rather than tables")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")


def run(options: argparse.Namespace) -> None:
    """Prints the explanation, and writes its page and figures.

    Raises:
        UserError: when there is no such model, layer or head, the text is empty, or a file cannot
            be written.
    """
    from llm_from_scratch.data.clean import clean_typed
    from llm_from_scratch.explain.explanation import as_json, explain
    from llm_from_scratch.explain.report import blocks, how
    from llm_from_scratch.machine import pick_device
    from llm_from_scratch.pages import show
    from llm_from_scratch.pretrained import open_model

    text = clean_typed(options.text)
    if not text:
        raise UserError("the text is empty: there is nothing to explain")
    check_new_file("--html", options.html)
    log_to_stderr()
    layer, head = (None if one is None else one - 1 for one in (options.layer, options.head))
    with sharing_cores():
        loaded = open_model(options.run, pick_device(options.device))
        found = explain(loaded.model, loaded.tokenizer, text, name=options.run, layer=layer, head=head)
        if found.beyond:
            read = len(found.ids) - 1
            note(f"the text has {read + found.beyond:,} tokens: its first {read:,} are explained")
        if options.png or options.html:
            _write(found, options.png, options.html)
    if options.json:
        print(json.dumps(as_json(found, how(found))))
        return
    show(blocks(found), console(), elsewhere="; --html and --json have all")
    for what, path in (("figures", options.png), ("page", options.html)):
        if path:
            print(for_stream(f"{what}: {path}", sys.stdout), flush=True)


def _write(found: Explanation, folder: Path | None, file: Path | None) -> None:
    """Writes the figures into a folder, and the page with them inside into a file; None: neither.

    Raises:
        UserError: when one cannot be written.
    """
    from llm_from_scratch.explain.report import page

    with TemporaryDirectory() as elsewhere:
        option, path = "--png", folder
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
            content = page(found, folder or Path(elsewhere))
            option, path = "--html", file
            if file:
                write_file(file, content)
        except OSError as error:
            raise UserError(f"{option} {path} cannot be written ({error.strerror}): name another") from None
