"""`settings`: name, default, range and meaning of every setting."""

import argparse
import json
from typing import Any

from llm_from_scratch.front.program import composed
from llm_from_scratch.places import config_dir
from llm_from_scratch.terminal import console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = "Every setting of train.py and generate.py: its default, its range and what it does."
    parser.add_argument(
        "word", metavar="WORD", nargs="?", default="", help="those alone whose name or meaning holds it"
    )
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument("--markdown", action="store_true", help="as the page docs/settings.md")
    shapes.add_argument("--json", action="store_true", help="one JSON list rather than tables")


def run(options: argparse.Namespace) -> None:
    """Prints the reference of all settings, with the defaults of train.py and generate.py."""
    from dataclasses import asdict

    from omegaconf import OmegaConf
    from rich.table import Table

    from llm_from_scratch.settings import groups, markdown, reference

    defaults: dict[str, Any] = {
        f"{name}.py": OmegaConf.to_container(composed(config_dir(), name, [])) for name in ("train", "generate")
    }
    found = reference(defaults, options.word)
    if options.json:
        print(json.dumps([asdict(setting) for setting in found]))
        return
    if options.markdown:
        print(markdown(found), end="")
        return
    out = console()
    for group, own in groups(found):
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
        table.add_column(no_wrap=True)
        # An address is shortened; the page has all of it
        table.add_column(no_wrap=True, max_width=18)
        table.add_column(overflow="fold")
        for setting in own:
            table.add_row(setting.key, setting.default, setting.explanation)
        out.print(group, style="bold")
        out.print(table)
        out.print()
