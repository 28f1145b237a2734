"""`chat`: a conversation with a model in a terminal, or a message a line from a pipe."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from llm_from_scratch.cores import sharing_cores
from llm_from_scratch.errors import UserError, first_line
from llm_from_scratch.files import write_file
from llm_from_scratch.machine import DTYPES
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import for_stream, log_to_stderr, note, printable

if TYPE_CHECKING:
    from llm_from_scratch.chat import Chat
    from llm_from_scratch.pretrained import Source

BLOCK = '"""'  # begins and ends a message of several lines
HELP = """\
/reset            begin a new conversation
/save FILE        write the conversation to a new file, as a line for data=chat
/system TEXT      set the system prompt; without TEXT: take it away
/temperature X    0: always the likeliest token; without X: show it
/help             this list
Lines between two lines of \"\"\", or a line that ends with \\ and the next, are one message.
Ctrl-C stops an answer, Ctrl-D ends. A message that begins with / is written with //.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "A conversation with a model that was trained on conversations. The answers come on standard output as they are"
        " written; /help lists what else can be said. From a pipe each line is a message."
    )
    parser.epilog = HELP.rstrip()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run folder or last; a .gguf file, a folder of transformers, hub:OWNER/NAME, smollm2 (make weights)",
    )
    parser.add_argument("--system", metavar="TEXT", help="the system prompt (default: the template's own)")
    parser.add_argument("--temperature", type=float, default=0.7, metavar="X", help="0: greedy (default: 0.7)")
    parser.add_argument("--top-p", type=float, default=0.9, metavar="P", help="probability kept (default: 0.9)")
    parser.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1: fewer repetitions (default: 1)"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=512, metavar="N", help="tokens of an answer, at most (default: 512)"
    )
    parser.add_argument("--seed", type=int, default=1337, metavar="S", help="of what is drawn (default: 1337)")
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens read at a time, to save memory (default: the model's)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="of the weights (default: auto)")


def run(options: argparse.Namespace) -> None:
    """Answers message after message, until the input ends."""
    from llm_from_scratch.chat import Chat
    from llm_from_scratch.config import SamplingConfig
    from llm_from_scratch.decoding_linears import lay_out
    from llm_from_scratch.machine import pick_device
    from llm_from_scratch.pretrained import find_model

    log_to_stderr()
    if sys.stdin is None:
        raise UserError("standard input is closed: chat reads the messages there")
    sampling = SamplingConfig(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
    )
    device = pick_device(options.device)
    if options.context is not None and options.context < 1:
        raise UserError(f"--context {options.context}: must be 1 or more")
    source = find_model(options.run)
    loaded = source.open(device, block_size=_context(options, source))
    chat = Chat(loaded, sampling, options.system)
    lay_out(loaded.model, options.dtype)
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    sys.stdout.reconfigure(newline="\n")  # type: ignore[union-attr]
    with sharing_cores():
        Terminal(chat, options.run).converse()


def _context(options: argparse.Namespace, source: "Source") -> int | None:
    """Returns the positions to read, at most the model's; None: all of them."""
    if options.context is None:
        return None
    most = int(source.settings()[0]["block_size"])
    if options.context > most:
        note(f"--context {options.context}: the model {options.run} has a context of {most}")
    return min(options.context, most)


class Interruption:
    """Ctrl-C: stops the answer that is being written; at the prompt it empties the line."""

    def __init__(self) -> None:
        self.answering, self.came = False, False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handles SIGINT: the first is for the end of a token, a second one ends the step, too."""
        if self.answering and not self.came:
            self.came = True
        else:
            raise KeyboardInterrupt

    @contextmanager
    def during_answer(self) -> Iterator[None]:
        """Makes Ctrl-C stop the answer within the block, without a ^C in the middle of it."""
        self.answering, self.came = True, False
        before = _control_echo(None)
        try:
            yield
        finally:
            _control_echo(before)
            self.answering = False


def _control_echo(before: list[Any] | None) -> list[Any] | None:
    """Switches off the terminal's echo of ^C, or restores the attributes `before`.

    Returns:
        the terminal's attributes until now; None where there is no terminal.
    """
    if not sys.stdin.isatty() or os.name != "posix":
        return None
    import termios

    now = termios.tcgetattr(0)
    changed = before or [*now[:3], now[3] & ~termios.ECHOCTL, *now[4:]]
    termios.tcsetattr(0, termios.TCSANOW, changed)
    return now


class Terminal:
    """The messages and commands of a user, one after the other.

    Args:
        chat: the conversation.
        name: the model's, for the first line.
    """

    def __init__(self, chat: "Chat", name: str) -> None:
        self.chat, self.name, self.interruption = chat, name, Interruption()
        self.interactive = sys.stdin.isatty()
        self.commands = {
            "/reset": self.reset,
            "/save": self.save,
            "/system": self.system,
            "/temperature": self.temperature,
            "/help": self.help,
        }

    def converse(self) -> None:
        """Answers until the input ends.

        Raises:
            UserError: from a pipe, for the first message or command that is refused.
        """
        if self.interactive:
            import readline  # noqa: F401 -- keys and history of `input`

            context = self.chat.model.config.block_size
            say(f"{self.name}, a context of {context:,} tokens. /help lists the commands, Ctrl-D ends.")
            signal.signal(signal.SIGINT, self.interruption.handle)
        while True:
            try:
                self.obey(self._message())
            except EOFError:
                if self.interactive:
                    write("\n")
                return
            except UserError as error:
                if not self.interactive:
                    raise
                say(f"error: {first_line(error)}")
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                write("\n")
                say("(Ctrl-D ends)")

    def _message(self) -> str:
        """Reads a message of one or several lines.

        Raises:
            EOFError: at the end of the input.
            UserError: when the input ends within a message.
        """
        line = self._line("> ")
        lines: list[str] = []
        try:
            if line.strip() == BLOCK:
                while (line := self._line(". ")).strip() != BLOCK:
                    lines.append(line)
                return "\n".join(lines)
            while line.endswith("\\"):
                lines.append(line[:-1])
                line = self._line(". ")
        except EOFError:
            raise UserError("the input ends within a message of several lines") from None
        return "\n".join([*lines, line])

    def _line(self, prompt: str) -> str:
        return input(prompt if self.interactive else "")

    def obey(self, message: str) -> None:
        """Runs a command, or answers a message; an empty one is passed over.

        Raises:
            UserError: when the message or the command is refused.
        """
        word, _, rest = message.strip().partition(" ")
        if word.startswith("//"):
            self.answer(message.strip()[1:])
        elif word.startswith("/"):
            if word not in self.commands:
                raise UserError(f"{word}: there is no such command; /help lists them, // begins a message with /")
            self.commands[word](rest.strip())
        elif message.strip():
            self.answer(message)

    def answer(self, message: str) -> None:
        """Prints the answer to a message as it is written, and what became of the history."""
        start, kept = self.chat.start, len(self.chat.messages)
        with self.interruption.during_answer():
            pieces = self.chat.answer(message)
            if self.chat.start > start:
                say(
                    f"(the first {self.chat.start} messages are left out from here on: the context of"
                    f" {self.chat.model.config.block_size:,} tokens is full)"
                )
            try:
                for piece in pieces:
                    write(piece)
                    if self.interruption.came:
                        break
            except KeyboardInterrupt:
                pass  # the second Ctrl-C
            finally:
                pieces.close()
        write("\n")
        if self.interruption.came:
            nothing = len(self.chat.messages) == kept
            say("(stopped: the question is taken back)" if nothing else "(stopped)")
        elif not self.chat.complete:
            say("(cut: as long as --max-new-tokens and the context allow)")
        if self.interactive:
            write("\n")

    def reset(self, rest: str) -> None:
        """Begins a new conversation."""
        self.chat.reset()
        say("(a new conversation)")

    def save(self, name: str) -> None:
        """Writes the conversation to a new file, in the form that data=chat reads.

        Raises:
            UserError: when there is none yet, the file is there, or it cannot be written.
        """
        if not name:
            raise UserError("/save FILE: name a file")
        if not self.chat.messages:
            raise UserError("/save: nothing has been said yet")
        path = user_path(name)
        if path.exists():
            raise UserError(f"{path} is there already: name a new file")
        line = json.dumps({"messages": self.chat.transcript()}, ensure_ascii=False)
        try:
            write_file(path, line + "\n")
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be written ({first_line(error)})") from None
        say(f"(saved: {path})")

    def system(self, text: str) -> None:
        """Sets the system prompt of later answers."""
        self.chat.system = text or None
        say("(the system prompt is set)" if text else "(no system prompt but the template's own)")

    def temperature(self, word: str) -> None:
        """Shows the temperature, or sets that of later answers.

        Raises:
            UserError: when it is no number from 0.
        """
        if word:
            try:
                value = float(word)
            except ValueError:
                raise UserError(f"/temperature {word}: must be a number, 0 (greedy) or above") from None
            self.chat.set_temperature(value)
        say(f"(temperature {self.chat.sampling.temperature:g})")

    def help(self, rest: str) -> None:
        """Lists the commands."""
        say(HELP.rstrip())


def write(text: str) -> None:
    """Writes text to standard output at once."""
    print(for_stream(text, sys.stdout), end="", flush=True)


def say(text: str) -> None:
    """Prints lines of the program's own on standard error."""
    print(printable(text), file=sys.stderr, flush=True)
