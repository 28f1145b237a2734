"""What stands before the routes: host, origin and token; sizes and times; the log of requests.

A page of another site may send requests to a server on this machine, and by a name that it lets
point here (DNS rebinding) read the answers. So a request must name a host of this server, and one
that a page sends must come from this server's own pages.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import urlsplit

from llm_from_scratch.serve.answers import ApiError, encoded
from llm_from_scratch.serve.metrics import Metrics
from llm_from_scratch.serve.static import FILES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = {"/health", "/ready"}  # without a token, for who starts and watches the server
TOKENLESS = OPEN | set(FILES)
PLAY = {f"/play/{name}" for name in ("models", "tokens", "write", "read", "next", "attention", "inside")}
PATHS = {"/v1/completions", "/v1/chat/completions", "/v1/models", "/metrics", "/openapi.json", *OPEN, *PLAY}
DISCARD_SECONDS = 5.0  # for which a body that is too large is still read, so that its sender reads the answer


@dataclass(frozen=True)
class Rules:
    """Limits of requests. Sizes are in bytes, times in seconds.

    Attributes:
        hosts: names without a port that a request may have in its Host header; empty: any.
        origins: of pages elsewhere that may send requests, in small letters.
        token: that a client must send; None: none.
        body: the largest body.
        body_seconds: from the head of a request to the end of its body.
        send_seconds: for which a client may not read.
        requests: answered at a time.
        log_clients: whether the log holds their addresses.
    """

    hosts: frozenset[str] = frozenset({"localhost", "127.0.0.1", "::1"})
    origins: frozenset[str] = frozenset()
    token: bytes | None = field(default=None, repr=False)
    body: int = 2**20
    body_seconds: float = 20.0
    send_seconds: float = 30.0
    requests: int = 512
    log_clients: bool = True


class Guard:
    """ASGI application around another one, which gets whole bodies of requests that are allowed."""

    def __init__(self, app: Any, rules: Rules, metrics: Metrics, log: TextIO | None = None) -> None:
        self.app, self.rules, self.metrics = app, rules, metrics
        self.log = sys.stderr if log is None else log
        self.active = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # a WebSocket: closing it before it is accepted refuses it
            return await send({"type": "websocket.close"})
        begun, status = time.monotonic(), 0
        scope["llm"] = {}

        async def timed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # No browser is to take an answer for a page.
                message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            async with asyncio.timeout(self.rules.send_seconds):
                await send(message)

        self.active += 1
        try:
            await self._answer(scope, receive, timed)
        except* (TimeoutError, ConnectionError):
            scope["llm"]["end"] = "the client does not read"
        finally:
            self.active -= 1
            self._record(scope, status, time.monotonic() - begun)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            body = await self._body(scope, receive)
        except ApiError as error:
            return await _refuse(error, send)
        if body is None:
            return  # the client has left
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    def _check(self, scope: Message) -> None:
        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        host = _host_of(hosts[0]) if len(hosts) == 1 else None
        if host is None or (self.rules.hosts and host not in self.rules.hosts):
            raise ApiError(
                403, "the Host header names no host of this server: see --allow-host", code="host_not_allowed"
            )
        for origin in [value.decode("latin-1") for name, value in headers if name == b"origin"]:
            same = f"{scope.get('scheme', 'http')}://{hosts[0]}".lower()
            if origin.lower() not in {same, *self.rules.origins}:
                raise ApiError(403, "requests from pages of other sites are refused", code="origin_not_allowed")
        if self.rules.token is not None and scope["path"] not in TOKENLESS:
            given = [value for name, value in headers if name == b"authorization"]
            kind, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self.rules.token):
                raise ApiError(
                    401,
                    "the token is missing or wrong: send Authorization: Bearer TOKEN",
                    kind="authentication_error",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        if self.active > self.rules.requests and scope["path"] not in OPEN:
            message = f"the server answers {self.rules.requests} requests already: try again in 2 seconds"
            raise ApiError(429, message, kind="rate_limit_error", code="too_many", headers={"Retry-After": "2"})

    async def _body(self, scope: Message, receive: Receive) -> bytes | None:
        """Returns a request's body; None where the client left while it was sent."""
        size = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        length, more = int(size) if size.isdigit() and len(size) < 20 else 0, True
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.rules.body_seconds):
                while more and length <= self.rules.body:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    more = message.get("more_body", False)
                    length = max(length, sum(map(len, parts)))
        except TimeoutError:
            late = f"the body did not come within {self.rules.body_seconds:g} seconds"
            raise ApiError(408, late, code="request_timeout") from None
        if length > self.rules.body:
            parts.clear()
            await _discard(receive, more)
            raise ApiError(413, f"the body is larger than {self.rules.body} bytes", code="body_too_large")
        return b"".join(parts)

    def _record(self, scope: Message, status: int, seconds: float) -> None:
        path = _path_of_figures(scope["path"])
        self.metrics.count("requests_total", path=path, status=str(status))
        self.metrics.observe("request_seconds", seconds, path=path)
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **({"client": (scope.get("client") or ["?"])[0]} if self.rules.log_clients else {}),
            "method": scope["method"][:20],
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 6),
            **scope["llm"],
        }
        print(json.dumps(line), file=self.log, flush=True)


def _path_of_figures(path: str) -> str:
    """Returns a path for the figures, which have only a few: a client could send any number."""
    if path in PATHS:
        return path
    return "page" if path in FILES else "/play/runs" if path.startswith("/play/runs/") else "other"


def _host_of(header: str) -> str | None:
    """Returns the name in a Host header, without the port and in small letters."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


async def _discard(receive: Receive, more: bool) -> None:
    """Reads on for a while: a connection that is closed on unread bytes loses its answer."""
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while more:
                message = await receive()
                more = message["type"] == "http.request" and message.get("more_body", False)
    except TimeoutError:
        pass


async def _refuse(error: ApiError, send: Send) -> None:
    """Sends an error, after which the connection is closed."""
    body = encoded(error.body())
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    pairs = [(name.lower().encode(), value.encode()) for name, value in (headers | error.headers).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
