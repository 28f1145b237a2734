"""`generate.py`: run folder -> model -> tokens -> text on standard output."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from llm_from_scratch.cores import sharing_cores
from llm_from_scratch.errors import UserError
from llm_from_scratch.front.program import command
from llm_from_scratch.front.words import job_overrides
from llm_from_scratch.places import config_dir, program
from llm_from_scratch.terminal import for_stream, printable, shell

if TYPE_CHECKING:
    from llm_from_scratch.config import GenerateConfig

STANDARD_INPUT = "-"
MAX_PROMPT = 16_000_000  # bytes; only the context's last tokens are read


@functools.cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    """Returns a temporary folder of this process, for the file that Hydra's sweeper writes."""
    return tempfile.TemporaryDirectory(prefix="llm_from_scratch_")


OmegaConf.register_new_resolver("scratch", lambda: scratch().name, replace=True)


def settings(composed: DictConfig, job: Sequence[str] = ()) -> GenerateConfig:
    """Returns the checked settings, with the prompt read; a single `stop` string becomes a list."""
    from llm_from_scratch.check import check
    from llm_from_scratch.config import GenerateConfig
    from llm_from_scratch.data.clean import clean_typed

    if isinstance(composed.get("stop"), str):
        composed.stop = [composed.stop]
    config = check(composed, GenerateConfig)
    source = config.prompt_file or (config.prompt == STANDARD_INPUT and STANDARD_INPUT)
    if source:
        config.prompt = clean_typed(read_prompt(source))
    return config


@functools.cache  # standard input is read once, for the check and for every value of a sweep
def read_prompt(source: str) -> str:
    """Reads a text from a file, or from standard input for `-`, without its last line end.

    Raises:
        UserError: when it cannot be read, is not UTF-8 or is longer than MAX_PROMPT bytes.
    """
    name = "standard input" if source == STANDARD_INPUT else f"prompt_file={source}"
    if source == STANDARD_INPUT:
        if sys.stdin is None:
            raise UserError("prompt=-: standard input is closed: pipe a text into it, or use prompt_file=PATH")
        if sys.stdin.isatty():
            say("the prompt, ended by Ctrl-D on a line of its own:")
        content = sys.stdin.buffer.read(MAX_PROMPT + 1)
    else:
        try:
            with Path(source).open("rb") as file:
                content = file.read(MAX_PROMPT + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{name}: cannot be read ({reason}): name a text file") from None
    if len(content) > MAX_PROMPT:
        raise UserError(f"{name}: longer than {MAX_PROMPT:,} bytes: give its last part alone")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: no UTF-8 at byte {error.start}: convert it, or name a text file") from None
    return text.removesuffix("\n").removesuffix("\r")


@functools.cache  # once for all values of a sweep
def say(line: str) -> None:
    """Prints a line on standard error, once per process."""
    print(printable(line, keep=""), file=sys.stderr, flush=True)


@command(config_dir(), "generate", settings)
def main(composed: DictConfig) -> None:
    """Generates text and streams it to standard output; further samples follow the first."""
    from llm_from_scratch.decoding_linears import lay_out
    from llm_from_scratch.generation import generate
    from llm_from_scratch.machine import pick_device
    from llm_from_scratch.pretrained import find_model

    config = settings(composed)
    device = pick_device(config.device)
    source = find_model(config.run)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        say(f"--- {' '.join(word for word in job_overrides() if word not in sys.argv)}".rstrip())
    run = source.open(device)
    if run.chat_template is not None:
        chat = shell(*program("chat"), config.run)
        say(f"{config.run} is a model to chat with: this continues the prompt as plain text; {chat} answers it")
    lay_out(run.model, config.dtype)
    pieces = generate(run.model, run.tokenizer, config.prompt, config, run.end_ids)
    sys.stdout.reconfigure(newline="\n")  # type: ignore[union-attr]
    with sharing_cores():
        show(pieces, config.prompt, config.num_samples)


def show(pieces: Iterator[list[str]], prompt: str, samples: int) -> None:
    """Prints every sample after its prompt: the first while it is generated, then the others.

    `pieces` yields the next part of every sample's text. A line separates several samples: in a
    terminal the sample's name; in a pipe `---`, with the names on standard error.
    """
    others: list[list[str]] = [[] for _ in range(samples - 1)]
    _head(1, samples)
    write(prompt)
    for first, *rest in pieces:
        write(first)
        for written, piece in zip(others, rest, strict=True):
            written.append(piece)
    write("\n")
    for number, written in enumerate(others, start=2):
        _head(number, samples)
        write(prompt + "".join(written) + "\n")


def _head(number: int, samples: int) -> None:
    if samples == 1:
        return
    name = f"--- sample {number} of {samples}"
    if sys.stdout.isatty():
        write(f"{name}\n")
        return
    if number > 1:
        write("---\n")
    print(name, file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Writes text to standard output and flushes it."""
    print(for_stream(text, sys.stdout), end="", flush=True)
