"""`demo`: train on the Wizard of Oz, or on told stories, for a few minutes, then write a story."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from llm_from_scratch import signals
from llm_from_scratch.errors import UserError
from llm_from_scratch.places import config_dir, program
from llm_from_scratch.terminal import argument, for_stream, printable, shell


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Train on the Wizard of Oz for a few minutes, then write a story; without the book and a network, on stories"
        " that the program tells itself."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for train.py")


def run(options: argparse.Namespace) -> None:
    """Trains on the Wizard of Oz, then generates text.

    Told stories replace a book that is neither on disk nor downloadable.
    """
    from omegaconf import DictConfig, OmegaConf

    from llm_from_scratch.data.sources import open_source

    oz = DictConfig(OmegaConf.load(config_dir() / "data" / "oz.yaml"))
    experiment, prompt = "oz_demo", ["prompt=Dorothy"]
    try:
        open_source(
            **{name: oz.get(name) for name in ("name", "path", "file", "url", "sha256", "must_contain")},
            data_dir=Path("data"),
        )
    except UserError as error:
        so = "So this demonstration trains on small stories, which the program tells itself (docs/tales.md)."
        print(printable(f"{error}\n{so}"), file=sys.stderr)
        experiment, prompt = "tales_demo", []  # a story from its beginning
    printed: list[str] = []

    def on_line(line: str) -> None:
        printed.append(line)
        print(for_stream(line, sys.stdout), flush=True)

    def run(name: str, *words: str, on_line: Callable[[str], None] | None = None) -> None:
        _, *start = program(name)
        if start == [f"{name}.py"]:
            # The script of the checkout, whatever the current folder is
            start = [str(config_dir().parent / f"{name}.py")]
        elif start == [name]:
            start = ["-m", "llm_from_scratch", name]
        print("$ " + shell(*program(name), *words), file=sys.stderr)
        status = signals.run_child([sys.executable, *start, *words], on_line)
        if status:
            raise SystemExit(status)

    run("train", f"experiment={experiment}", *options.overrides, on_line=on_line)
    trained = next(line for line in reversed(printed) if line.startswith("run: ")).removeprefix("run: ")
    run("generate", f"run={argument(trained)}", *prompt, "max_new_tokens=300", "top_p=0.9")
