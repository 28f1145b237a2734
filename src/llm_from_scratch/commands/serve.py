"""`serve`: models over HTTP, as OpenAI's interface has them."""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llm_from_scratch.errors import UserError
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import log_to_stderr, note

if TYPE_CHECKING:
    from llm_from_scratch.serve.limits import Rules
    from llm_from_scratch.serve.service import Served
    from llm_from_scratch.weights import LoadedModel

SHORTEST_TOKEN = 16  # bytes
MAX_SECONDS = 86_400
CONTEXT = 2048  # tokens; memory of every slot


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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"), help="(default: auto)")
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
    from llm_from_scratch.serve.engine import Batch, Engine
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
    models = _models(options)
    batches = {
        name: Batch(one.loaded, slots=options.slots, queue=options.queue, context=one.limits.context)
        for name, one in models.items()
    }
    engine = Engine(batches)
    service = Service(models, engine, seconds=options.timeout, log_prompts=options.log_prompts)
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{listening.getsockname()[1]}"

    def started() -> None:
        most = sum(batch.rows * batch.slots.bytes_a_text() for batch in batches.values()) / 2**20
        note(f"models: {', '.join(models)}; base_url of a client: {address}/v1")
        note(f"keys and values of full slots take {most:,.0f} MiB")
        print(address, flush=True)

    def stopping() -> None:
        service.stopping = True

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
            on_stop=stopping,
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

    for name in options.allow_host:
        if "/" in name or name.count(":") == 1:
            raise UserError(f"--allow-host {name}: give the name alone, without a port and a path")
    for origin in options.allow_origin:
        parts = urlsplit(origin)
        if not parts.scheme or not parts.netloc or parts.geturl() != f"{parts.scheme}://{parts.netloc}":
            raise UserError(f"--allow-origin {origin}: give it as SCHEME://HOST or SCHEME://HOST:PORT, without a path")
    local = is_loopback(options.host)
    token = None if options.token_file is None else read_token(options.token_file)
    if token is None and not local:
        raise UserError(
            f"--host {options.host}: other machines can reach it: name a file with a token, --token-file FILE"
        )
    names = {name.lower() for name in options.allow_host}
    # Beyond this machine the token keeps strangers out, by whatever name they come.
    hosts = frozenset(Rules.hosts | {options.host.lower()} | names) if local or names else frozenset[str]()
    return Rules(
        hosts=hosts,
        origins=frozenset(origin.lower() for origin in options.allow_origin),
        token=token,
        body=options.max_body,
        body_seconds=options.client_timeout,
        send_seconds=options.client_timeout,
    )


def is_loopback(host: str) -> bool:
    """Returns whether an address is of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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


def _models(options: argparse.Namespace) -> dict[str, Served]:
    from llm_from_scratch.generation import split_linears
    from llm_from_scratch.machine import pick_device, pick_dtype
    from llm_from_scratch.pretrained import find_model
    from llm_from_scratch.serve.protocol import Limits
    from llm_from_scratch.serve.service import Served

    device = pick_device(options.device)
    models: dict[str, Served] = {}
    for word in options.run:
        given, equals, name_of_run = word.partition("=")
        if not equals or "/" in given:
            given, name_of_run = "", word
        source = find_model(name_of_run)
        name = given or (name_of_run if source.path.suffix == ".gguf" and "/" not in name_of_run else source.path.name)
        name = name.removesuffix(".gguf")
        if name in models:
            raise UserError(f"{word}: there is a model {name} already: give it another name, as in other={name_of_run}")
        loaded = source.open(device)
        loaded.model.to(pick_dtype(options.dtype, device))
        most = loaded.model.config.block_size
        if (options.context or 0) > most:
            note(f"--context {options.context}: the model {name} has a context of {most}")
        context = min(options.context or CONTEXT, most)
        limits = Limits(context, options.max_tokens)
        models[name] = Served(name, loaded, limits, int(time.time()), fingerprint(loaded))
        split_linears(loaded.model)
    return models


def fingerprint(loaded: LoadedModel) -> str:
    """Returns a short name of a model's weights, settings and tokenizer."""
    model = loaded.model
    digest = hashlib.sha256(f"{model.config} {loaded.tokenizer.fingerprint} {loaded.step}".encode())
    for parameter in model.parameters():
        # Some numbers of each matrix tell two trainings apart.
        digest.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return f"fp_{digest.hexdigest()[:12]}"
