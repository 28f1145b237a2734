"""`demo`: train on the Wizard of Oz for a few minutes, then write a story."""

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
    parser.description = "Train on the Wizard of Oz for a few minutes, then write a story."
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for train.py")


def run(options: argparse.Namespace) -> None:
    """Trains on the Wizard of Oz, then generates text.

    Python's standard library replaces a book that is neither on disk nor downloadable.
    """
    from omegaconf import DictConfig, OmegaConf

    from llm_from_scratch.data.sources import open_source

    oz = DictConfig(OmegaConf.load(config_dir() / "data" / "oz.yaml"))
    data, prompt, settings = "oz", "Dorothy", []
    try:
        open_source(
            **{name: oz.get(name) for name in ("name", "path", "file", "url", "sha256", "must_contain")},
            data_dir=Path("data"),
        )
    except UserError as error:
        so = "So this demonstration trains on the source code of Python's standard library."
        print(printable(f"{error}\n{so}"), file=sys.stderr)
        # Its validation split is eighty times as long as the book's: two validations fit into five
        # minutes.
        data, prompt, settings = (
            "stdlib",
            "def ",
            ["task=stdlib_demo", "sample.prompt=def ", "trainer.val_check_interval=240"],
        )
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

    run("train", "experiment=oz_demo", f"data={data}", *settings, *options.overrides, on_line=on_line)
    trained = next(line for line in reversed(printed) if line.startswith("run: ")).removeprefix("run: ")
    run("generate", f"run={argument(trained)}", f"prompt={prompt}", "max_new_tokens=300", "top_p=0.9")
