"""`llm-from-scratch COMMAND` or `python -m llm_from_scratch COMMAND`: runs the command's module.

A command is one file of `commands/` with `arguments(parser)` and `run(options)`. Only the file of
the command that was asked for is imported, so that `--help` and a mistake are quick. Data goes to
standard output, all else to standard error.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from llm_from_scratch import signals
from llm_from_scratch.errors import stop
from llm_from_scratch.places import program
from llm_from_scratch.terminal import printable, shell, use_utf8

# Commands that are Hydra programs: their modules have `main()`, which reads sys.argv.
HYDRA_PROGRAMS = ("train", "generate")
# Command -> the Hydra program whose settings it takes.
SETTINGS_OF = {**dict.fromkeys(("train", "plan", "prepare", "inspect", "demo"), "train"), "generate": "generate"}
# Command -> its line in --help. Its module is commands/NAME.py, with "_" for "-".
COMMANDS = {
    "train": "train a GPT, make a sweep of trainings, or go on with a run",
    "generate": "write text with a trained model",
    "chat": "talk with a model that was trained on conversations",
    "plan": "what a training will take, before it begins: memory, passes, time, disk, and what is unwise about it",
    "prepare": "make a corpus's token shards, before the first training on it",
    "inspect": "look at a prepared text: sizes, lengths of documents, frequent pieces, chunks as the model sees them",
    "evaluate": "loss, perplexity and bits per byte over a whole split; with --report, everything that is measured",
    "explain": "a text on its way through a model: shapes, surprise, attention, the logit lens, what each head does",
    "compare": "runs, or a sweep: what differs in their settings beside their results, curves, significance",
    "scaling": "runs of several sizes and amounts of text: the law that fits their losses, with intervals",
    "lm-eval": "a run on the tasks of EleutherAI's lm-eval (extra: harness)",
    "export": "a trained model in the format of other programs: Hugging Face, GGUF (llama.cpp, Ollama), ONNX",
    "serve": "models over HTTP, for any client of OpenAI's interface (extra: serve)",
    "rate": "people rate texts of runs, blind: a study in the browser or the terminal, its report, pairs for training",
    "doctor": "check this machine, and a run: one line for each finding, with what to do",
    "tales": "small stories whose entropy is known: tell them, score a text to the bit, name its faults",
    "settings": "every setting of train.py and generate.py: its default, its range and what it does",
    "demo": "train on the Wizard of Oz, or on told stories, for a few minutes, then write a story",
}
RULE = (
    "What composes a configuration (train, generate, plan, prepare, inspect, demo) takes key=value."
    " What looks at something that exists (chat, serve, evaluate, explain, lm-eval, compare, scaling, export, rate, doctor) takes a RUN"
    " and --options."
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose error messages show control characters as visible escapes."""

    def error(self, message: str) -> NoReturn:
        """Prints the message as one line on standard error and exits with status 2."""
        print(f"error: {printable(message, keep='')}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


@signals.ending
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that `arguments` name (None: those of the process).

    Raises:
        SystemExit: for every error; a user error prints one line and has status 2.
    """
    use_utf8()
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else ""
    # Lightning starts the other ranks with the training's arguments, without the command's name.
    relaunched = any(word.startswith(signals.LIGHTNING_CHILD) for word in words)
    if name in HYDRA_PROGRAMS or relaunched:
        sys.argv[1:] = words if relaunched else words[1:]
        return _module("train" if relaunched else name).main()
    if name in ("-sc", "--shell-completion"):
        return complete(words)
    parser = Parser(prog=shell(*program()), description="Builds a GPT from scratch, step by step.", epilog=RULE)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for each, line in COMMANDS.items():
        sub = commands.add_parser(each, help=line)
        if each == name:
            module = _module(each)
            module.arguments(sub)
            sub.set_defaults(command=module.run)
    options, others = parser.parse_known_args(words)
    if not hasattr(options, "overrides") or any(word.startswith("-") for word in others):
        parser.parse_args(words)  # exits where it finds an unknown argument
    else:
        options.overrides += others  # key=value words after an option
    options.arguments = words
    try:
        options.command(options)
    except Exception as error:
        stop(error, name)


def complete(words: Sequence[str]) -> None:
    """Answers a shell's request: the script that it loads, or words for the line in `COMP_LINE`.

    Hydra completes the settings of its programs, and knows no name of a command before them.
    """
    line = os.environ.get("COMP_LINE", "")
    start, _, rest = line.lstrip().partition(" ")
    name, space, settings = rest.lstrip().partition(" ")
    if words[-1].startswith("query=") and not space:
        return print("\n".join(COMMANDS))
    os.environ["COMP_LINE"] = f"{start} {settings}"
    sys.argv[1:] = words
    if name in SETTINGS_OF or not words[-1].startswith("query="):
        _module(SETTINGS_OF.get(name, "train")).main()


def _module(name: str) -> ModuleType:
    return import_module(f"llm_from_scratch.commands.{name.replace('-', '_')}")
