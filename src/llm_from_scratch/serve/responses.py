"""Responses of the routes: JSON, errors, files, streams of server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llm_from_scratch.errors import missing_extra
from llm_from_scratch.serve import static
from llm_from_scratch.serve.answers import ApiError, encoded

try:
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
except ImportError as error:
    raise missing_extra("serve needs starlette", "serve", str(error)) from None

if TYPE_CHECKING:  # the models' libraries take seconds to load, and not every server has a model
    from llm_from_scratch.serve.feeds import Follower
    from llm_from_scratch.serve.requests import Part
    from llm_from_scratch.serve.service import Ticket

T = TypeVar("T")
CLIENT_GONE = 499  # nginx's number for a request whose client has left; nobody receives it
NO_STORE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Stream(StreamingResponse):
    """A stream of server-sent events, whose texts end with the connection."""

    def __init__(self, content: AsyncIterator[bytes], ticket: Ticket) -> None:
        super().__init__(content, media_type="text/event-stream", headers=NO_STORE)
        self.ticket = ticket

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ticket.close()
            note(scope, self.ticket)


class Events(StreamingResponse):
    """The events of a run that is followed, which end with the connection."""

    def __init__(self, follower: Follower) -> None:
        super().__init__(follower.events(), media_type="text/event-stream", headers=NO_STORE)
        self.follower = follower

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.follower.close()


def reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Returns a response of JSON."""
    return Response(encoded(value), status, {**NO_STORE, **(headers or {})}, "application/json")


async def file_reply(request: Request, path: Path) -> Response:
    """Returns a file of a page; without its content where the browser has it."""
    content = await asyncio.to_thread(path.read_bytes)
    headers = static.file_headers(path, content)
    if static.is_known(headers["ETag"], request.headers.get("if-none-match")):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)


def failed(error: ApiError) -> Response:
    """Returns a response of OpenAI's shape for an error."""
    return reply(error.body(), error.status, error.headers)


def note(scope: Any, ticket: Ticket) -> None:
    """Leaves the figures of a request where the log finds them."""
    scope.setdefault("llm", {}).update(
        model=ticket.served.name,
        texts=len(ticket.texts),
        prompt_tokens=ticket.asked.prompt_tokens,
        reused_tokens=ticket.reused_tokens,
        completion_tokens=sum(text.written for text in ticket.texts),
        first_token_seconds=ticket.first_token_seconds and round(ticket.first_token_seconds, 6),
    )
    if ticket.service.log_prompts:
        tokenizer = ticket.served.loaded.tokenizer
        prompts = [tokenizer.decode(request.prompt) for request in ticket.asked.requests]
        scope["llm"]["prompts"] = list(dict.fromkeys(prompts))


def nobody() -> Response:
    """Returns a response for a client that has left."""
    return Response(status_code=CLIENT_GONE)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Waits for some work; where the client leaves before its end, cancels it and returns None."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    left, done = asyncio.ensure_future(gone()), asyncio.ensure_future(work)
    try:
        await asyncio.wait({left, done}, return_when=asyncio.FIRST_COMPLETED)
        return done.result() if done.done() else None
    finally:
        left.cancel()
        done.cancel()


async def whole(request: Request, ticket: Ticket) -> list[Part] | None:
    """Returns every text of a request as one part, or None where the client leaves before."""
    try:
        return await unless_gone(request, ticket.whole())
    finally:
        ticket.close()
        note(request.scope, ticket)
