"""`serve`: models over HTTP, as OpenAI's interface has them."""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llm_from_scratch.cores import in_new_thread
from llm_from_scratch.errors import UserError
from llm_from_scratch.machine import DTYPES, is_loopback
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import log_to_stderr, note

if TYPE_CHECKING:
    from llm_from_scratch.pretrained import Source
    from llm_from_scratch.serve.engine import Batch
    from llm_from_scratch.serve.limits import Rules
    from llm_from_scratch.serve.service import Served, Service
    from llm_from_scratch.serve.updates import Update, Version
    from llm_from_scratch.weights import LoadedModel

SHORTEST_TOKEN = 16  # bytes
MAX_SECONDS = 86_400
CONTEXT = 2048  # tokens; memory of every slot
LAST_STATE_SECONDS = 10.0  # in which a training that ends gives its folder back, after --until-eof's end


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Serves models over HTTP: /v1/completions, /v1/chat/completions and /v1/models answer as OpenAI's interface "
        "does; /health, /ready and /metrics are for who watches. Many texts are written at once; a text depends on "
        "its request and its seed alone. Extra: serve. docs/serving.md tells more."
    )
    parser.add_argument(
        "run",
        metavar="[NAME=]RUN",
        nargs="+",
        help="a run folder, last, a .gguf file, a folder of transformers, hub:OWNER/NAME or smollm2; NAME is its name"
        " for clients (default: the folder's or the file's)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one (default: 8000)")
    parser.add_argument(
        "--token-file",
        type=user_path,
        metavar="FILE",
        help=f"holds the token that clients must send, {SHORTEST_TOKEN} characters or more; needed beyond this machine",
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="one more name of this server, as of a proxy"
    )
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="pages elsewhere that may send requests"
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="shows the curves and samples of each run folder while it trains, on the page at /, and serves its model"
        " from the first validation on, and each better one",
    )
    parser.add_argument(
        "--until-eof", action="store_true", help="ends with standard input, too: with the program that starts it"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="of the weights (default: auto)")
    _arguments_of_limits(parser.add_argument_group("limits"))
    parser.add_argument("--log-prompts", action="store_true", help="the log of requests holds their prompts")


def _arguments_of_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--slots", type=int, default=16, metavar="N", help="texts written at a time (default: 16)")
    group.add_argument("--queue", type=int, default=256, metavar="N", help="texts that wait; more: 429 (default: 256)")
    group.add_argument(
        "--context", type=int, metavar="N", help=f"tokens of a text's context (default: the model's, at most {CONTEXT})"
    )
    group.add_argument("--max-tokens", type=int, default=4096, metavar="N", help="tokens of a text (default: 4096)")
    group.add_argument("--max-body", type=int, default=2**20, metavar="BYTES", help="of a request (default: 1 MiB)")
    group.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds of a request (default: 600)")
    group.add_argument("--connections", type=int, default=1000, metavar="N", help="open at a time (default: 1000)")
    group.add_argument(
        "--client-timeout",
        type=float,
        default=20.0,
        metavar="S",
        help="seconds in which a client must send a request, or read a part of its answer (default: 20)",
    )
    group.add_argument(
        "--grace", type=float, default=30.0, metavar="S", help="seconds that requests have to end (default: 30)"
    )


def run(options: argparse.Namespace) -> None:
    """Loads the models, prints the address on standard output and serves until a signal."""
    from llm_from_scratch.serve.api import create_app
    from llm_from_scratch.serve.engine import Engine
    from llm_from_scratch.serve.limits import Guard
    from llm_from_scratch.serve.server import listen
    from llm_from_scratch.serve.server import run as serve
    from llm_from_scratch.serve.service import Service

    for name in ("slots", "queue", "context", "max_tokens", "max_body", "connections"):
        value = getattr(options, name)
        if value is not None and not value >= 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be 1 or more")
    for name in ("timeout", "client_timeout", "grace"):
        if not 0 < getattr(options, name) <= MAX_SECONDS:
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(options, name)}: must be above 0, at most {MAX_SECONDS}"
            )
    log_to_stderr()
    rules = _rules(options)
    listening = listen(options.host, options.port)
    words = [_resolved(word, options) for word in options.run]
    _check_words(words, options)
    opened = [_open(word, options) for word in words if word.is_there]
    models = {served.name: served for served, _ in opened}
    batches = {served.name: batch for served, batch in opened}
    engine = Engine(batches)
    service = Service(models, engine, seconds=options.timeout, log_prompts=options.log_prompts)
    updates = _follow(service, words, options)
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{listening.getsockname()[1]}"
    tasks: list[asyncio.Future[None]] = []

    def started() -> None:
        most = sum(batch.rows * batch.slots.bytes_a_text() for batch in batches.values()) / 2**20
        note(f"models: {', '.join(models) or 'none yet'}; base_url of a client: {address}/v1")
        note(f"keys and values of full slots take {most:,.0f} MiB")
        tasks.extend(asyncio.ensure_future(update.watch()) for update in updates)
        print(address, flush=True)

    engine.start()
    app = Guard(create_app(service), rules, service.metrics)
    try:
        serve(
            app,
            listening,
            idle=options.client_timeout,
            connections=options.connections,
            grace=options.grace,
            on_start=started,
            on_stop=service.stop,
            until=functools.partial(_wait_for_end, words) if options.until_eof else None,
        )
    finally:
        engine.close()


def _rules(options: argparse.Namespace) -> Rules:
    """Returns the limits of requests.

    Raises:
        UserError: when the server would be open to other machines without a token, or for a name
            that no request could have.
    """
    from llm_from_scratch.serve.limits import Rules

    for origin in options.allow_origin:
        parts = urlsplit(origin)
        if not parts.scheme or not parts.netloc or parts.geturl() != f"{parts.scheme}://{parts.netloc}":
            raise UserError(f"--allow-origin {origin}: give it as SCHEME://HOST or SCHEME://HOST:PORT, without a path")
    token = None if options.token_file is None else read_token(options.token_file)
    if token is None and not is_loopback(options.host):
        raise UserError(
            f"--host {options.host}: other machines can reach it: name a file with a token, --token-file FILE"
        )
    return Rules(
        hosts=allowed_hosts(options.host, options.allow_host),
        origins=frozenset(origin.lower() for origin in options.allow_origin),
        token=token,
        body=options.max_body,
        body_seconds=options.client_timeout,
        send_seconds=options.client_timeout,
    )


def allowed_hosts(host: str, names: Sequence[str]) -> frozenset[str]:
    """Returns the names that the Host header of a request may have; empty: any.

    Args:
        host: the address that the server listens on.
        names: more of them.

    Raises:
        UserError: for a name that no request could have.
    """
    from llm_from_scratch.serve.limits import Rules

    for name in names:
        if "/" in name or name.count(":") == 1:
            raise UserError(f"--allow-host {name}: give the name alone, without a port and a path")
    # Beyond this machine the token keeps strangers out, by whatever name they come.
    if not is_loopback(host) and not names:
        return frozenset()
    return frozenset(Rules.hosts | {host.lower()} | {name.lower() for name in names})


def read_token(path: Path) -> bytes:
    """Reads a token from a file.

    Raises:
        UserError: when it cannot be read, or is too short or no single word of ASCII.
    """
    try:
        with path.open("rb") as file:
            token = file.read(4097).strip()
    except OSError as error:
        raise UserError(f"--token-file {path}: {error.strerror}: name a file that holds a token") from None
    if not (SHORTEST_TOKEN <= len(token) <= 4096) or not token.isascii() or len(token.split()) != 1:
        raise UserError(
            f"--token-file {path}: holds no word of {SHORTEST_TOKEN} to 4096 characters: as from `openssl rand -hex 32`"
        )
    return token


@dataclass(frozen=True)
class _Word:
    """A word of the command line: a model under its name.

    Attributes:
        word: as it was given.
        model: its part behind the name.
        name: for clients.
        source: where the model lies.
        followed: whether that is a run folder whose training is followed.
        version: of the model that such a run has; None: it has none yet.
    """

    word: str
    model: str
    name: str
    source: Source
    followed: bool = False
    version: Version | None = None

    @property
    def is_there(self) -> bool:
        """Whether the model is to be loaded at the start."""
        return not self.followed or self.version is not None


def _resolved(word: str, options: argparse.Namespace) -> _Word:
    from llm_from_scratch.pretrained import Source, find_model
    from llm_from_scratch.serve.updates import model_version

    given, equals, model = word.partition("=")
    if not equals or "/" in given:
        given, model = "", word
    run = _run_folder(model) if options.follow else None
    if run is not None:
        return _Word(word, model, given or run.absolute().name, Source("run", run), True, model_version(run))
    source = find_model(model)
    name = given or (model if source.path.suffix == ".gguf" and "/" not in model else source.path.name)
    return _Word(word, model, name.removesuffix(".gguf"), source)


def _run_folder(name: str) -> Path | None:
    """Returns the run folder that a name means, with or without a model; None for another model."""
    from llm_from_scratch.run import find_run

    path = find_run(name)
    return path if (path / "config.yaml").is_file() else None


def _check_words(words: list[_Word], options: argparse.Namespace) -> None:
    """Checks that the models have names of their own, and that --follow has a run.

    Raises:
        UserError: where that is not so.
    """
    names: set[str] = set()
    for word in words:
        if word.name in names:
            raise UserError(
                f"{word.word}: there is a model {word.name} already: give it another name, as in other={word.model}"
            )
        names.add(word.name)
    if options.follow and not any(word.followed for word in words):
        raise UserError(f"--follow: {words[0].model} is no run folder: name one that train.py writes, or leave it out")


def _open(word: _Word, options: argparse.Namespace) -> tuple[Served, Batch]:
    """Loads a model; the threads that this takes end with it, so that the engine has all cores."""
    return in_new_thread(_load, word, options)


def _load(word: _Word, options: argparse.Namespace) -> tuple[Served, Batch]:
    from llm_from_scratch.decoding_linears import lay_out
    from llm_from_scratch.machine import pick_device
    from llm_from_scratch.serve.engine import Batch
    from llm_from_scratch.serve.protocol import Limits
    from llm_from_scratch.serve.service import Served

    device = pick_device(options.device)
    loaded = word.source.open(device)
    most = loaded.model.config.block_size
    if (options.context or 0) > most:
        note(f"--context {options.context}: the model {word.name} has a context of {most}")
    limits = Limits(min(options.context or CONTEXT, most), options.max_tokens)
    served = Served(word.name, loaded, limits, int(time.time()), fingerprint(loaded, options.dtype))
    lay_out(loaded.model, options.dtype)
    return served, Batch(loaded, slots=options.slots, queue=options.queue, context=limits.context)


def _follow(service: Service, words: list[_Word], options: argparse.Namespace) -> list[Update]:
    """Gives the service the feeds of the runs that are followed; returns what looks for models."""
    from llm_from_scratch.serve.feeds import Feed
    from llm_from_scratch.serve.follow import FollowedRun
    from llm_from_scratch.serve.updates import Update

    def step(name: str) -> int | None:
        return service.models[name].loaded.step if name in service.models else None

    updates = []
    for word in (one for one in words if one.followed):
        run = word.source.path
        service.feeds[word.name] = Feed(FollowedRun(run), functools.partial(step, word.name))
        updates.append(Update(service, word.name, run, word.version, functools.partial(_open, word, options)))
    return updates


def _wait_for_end(words: list[_Word]) -> None:
    """Waits for the end of standard input, then until followers have a run's last state."""
    from llm_from_scratch.run import is_training
    from llm_from_scratch.serve.feeds import LOOK_SECONDS

    # Not sys.stdin, whose lock a thread must not hold where the program ends before.
    while os.read(0, 4096):
        pass
    runs = [word.source.path for word in words if word.followed]
    deadline = time.monotonic() + LAST_STATE_SECONDS
    while any(map(is_training, runs)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if runs:
        time.sleep(2 * LOOK_SECONDS)


def fingerprint(loaded: LoadedModel, dtype: str) -> str:
    """Returns a short name of a model's weights, settings, tokenizer and dtype."""
    model = loaded.model
    digest = hashlib.sha256(f"{model.config} {loaded.tokenizer.fingerprint} {loaded.step} {dtype}".encode())
    for parameter in model.parameters():
        # Some numbers of each matrix tell two trainings apart.
        digest.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return f"fp_{digest.hexdigest()[:12]}"
