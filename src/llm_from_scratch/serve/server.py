"""The server: sockets, connections and a graceful end, by uvicorn."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from llm_from_scratch.errors import UserError, missing_extra

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]
try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise missing_extra("serve needs uvicorn", "serve", str(error)) from None

SWITCH_SECONDS = 0.0005  # for which a thread keeps Python's lock from the engine


class Connection(H11Protocol):
    """A connection that is closed where it idles, at once where there are too many.

    Attributes:
        idle_seconds: for which a client may send no whole head of a request.
        most: connections at a time; beyond, the one that idles longest is closed.
    """

    idle_seconds: float
    most: int

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to watch the connection."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self.watch = self.loop.call_later(self.idle_seconds, self._look)
        if len(self.connections) > self.most:
            idle = [one for one in self.connections if isinstance(one, Connection) and one.idles and one is not self]
            (min(idle, key=lambda one: one.since) if idle else self).transport.close()

    @property
    def idles(self) -> bool:
        """Whether no request is answered or sent a body."""
        return self.cycle is None or self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Begins a new wait, for the next request."""
        super().on_response_complete()
        self.since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the watch."""
        self.watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        now = self.loop.time()
        if self.transport.is_closing():  # what was sent last is not read
            self.transport.abort()
            return
        if self.idles and now - self.since >= self.idle_seconds:
            self.transport.close()
        wait = self.since + self.idle_seconds - now if self.idles else self.idle_seconds
        self.watch = self.loop.call_later(max(wait, 0.01), self._look)


class _Server(uvicorn.Server):
    """Tells when it listens, and when it begins to end."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
        until: Callable[[], None] | None,
    ) -> None:
        super().__init__(config)
        self.on_start, self.on_stop, self.until = on_start, on_stop, until

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens."""
        await super().startup(sockets)
        if self.started:
            self.on_start()
        if self.until is not None:
            threading.Thread(target=self._wait, args=(self.until,), daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for the requests that are answered."""
        self.on_stop()
        await super().shutdown(sockets)

    def _wait(self, until: Callable[[], None]) -> None:
        until()
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket; port 0 chooses a free one.

    Raises:
        UserError: when the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror or error}: choose another one") from None
    return found


def raise_file_limit() -> None:
    """Raises the limit of open files, each connection being one, to what the system allows."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(
    app: Any,
    listening: socket.socket,
    *,
    idle: float,
    connections: int,
    grace: float,
    on_start: Callable[[], None],
    on_stop: Callable[[], None],
    until: Callable[[], None] | None = None,
) -> None:
    """Serves an ASGI application until a signal.

    Args:
        app: the application.
        listening: from `listen`.
        idle: seconds for which a connection may send no whole head of a request.
        connections: open at a time, at most.
        grace: seconds that requests have to end after the signal.
        on_start: is called in the event loop when the server listens.
        on_stop: is called there when it takes no connection any more.
        until: is called in a thread of its own; the server ends, too, when it returns.
    """
    raise_file_limit()
    sys.setswitchinterval(SWITCH_SECONDS)
    config = uvicorn.Config(
        app,
        http=type("_Connection", (Connection,), {"idle_seconds": idle, "most": connections}),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, round(idle)),
        timeout_graceful_shutdown=max(1, round(grace)),
        backlog=2048,
    )
    _Server(config, on_start, on_stop, until).run(sockets=[listening])
