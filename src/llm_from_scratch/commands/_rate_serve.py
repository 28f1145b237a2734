"""`rate serve`: the rating room over HTTP."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llm_from_scratch.commands.serve import allowed_hosts, read_token
from llm_from_scratch.machine import is_loopback
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import log_to_stderr, note

SECONDS = 20.0  # in which a client must send a request, or read a part of its answer
CONNECTIONS = 1000
MOST_BODY = 2**16  # bytes
GRACE = 10.0  # seconds that requests have to end


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Serves a study to its raters, and a page with its progress to its owner. Raters come with the links of the"
        " owner's page, or type a code of `rate invite`. Extra: serve. docs/ratings.md tells more."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8001, help="0: a free one (default: 8001)")
    parser.add_argument(
        "--token-file",
        type=user_path,
        metavar="FILE",
        help="holds the token of the owner's page (default: owner_token in the study's folder)",
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="one more name of this server, as of a proxy"
    )


def run(options: argparse.Namespace) -> None:
    """Prints the address on standard output and serves until a signal."""
    from llm_from_scratch.rating.room import create_app
    from llm_from_scratch.rating.store import TOKEN, Study
    from llm_from_scratch.serve.limits import Guard, Rules
    from llm_from_scratch.serve.metrics import Metrics
    from llm_from_scratch.serve.server import listen
    from llm_from_scratch.serve.server import run as serve

    log_to_stderr()
    with Study.open(options.study) as study:
        token = options.token_file or Path(options.study) / TOKEN
        # Every route of the study demands a code or this token, so that other machines may come.
        app = create_app(study, read_token(token))
        rules = Rules(
            hosts=allowed_hosts(options.host, options.allow_host),
            body=MOST_BODY,
            body_seconds=SECONDS,
            send_seconds=SECONDS,
            log_clients=False,  # a rater has no name, and an address is nearly one
        )
        listening = listen(options.host, options.port)
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listening.getsockname()[1]}"

        def started() -> None:
            # A log is kept and passed on: the token itself goes to a terminal alone.
            secret = f"#{read_token(token).decode()}" if sys.stderr.isatty() else ""
            own = address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
            note(f"the owner's page: {own}/owner.html{secret}; its token is in {token}")
            if not is_loopback(options.host):
                note("codes travel over HTTP as they are: use a network that you trust, or a proxy with TLS")
            print(address, flush=True)

        serve(
            Guard(app, rules, Metrics()),
            listening,
            idle=SECONDS,
            connections=CONNECTIONS,
            grace=GRACE,
            on_start=started,
            on_stop=lambda: None,
        )
