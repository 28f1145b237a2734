"""The HTTP routes: OpenAI's completions and chat completions, models, health, figures, the
playground's.
"""

from __future__ import annotations

import asyncio
import functools
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from llm_from_scratch.errors import missing_extra
from llm_from_scratch.serve import protocol, static
from llm_from_scratch.serve.answers import DONE, Answer, ApiError, Json, event, usage
from llm_from_scratch.serve.playground import Playground
from llm_from_scratch.serve.protocol import Asked, ChatBody, CompletionBody
from llm_from_scratch.serve.responses import Stream, failed, nobody, reply, whole
from llm_from_scratch.serve.service import Served, Service, Ticket

try:
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise missing_extra("serve needs fastapi", "serve", str(error)) from None


def _nullable(*kinds: str) -> Json:
    return {"anyOf": [{"type": kind} for kind in (*kinds, "null")]}


ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _nullable("string"),
                "code": _nullable("string"),
            },
        }
    },
}
_ERROR = {"description": "What is wrong.", "content": {"application/json": {"schema": ERROR}}}
_TEXT: Json = {"description": "The answer, or with stream=true its parts.", "content": {"text/event-stream": {}}}
RESPONSES: dict[int | str, dict[str, Any]] = {200: _TEXT, "4XX": _ERROR, "5XX": _ERROR}
PLAIN: dict[int | str, dict[str, Any]] = {"4XX": _ERROR, "5XX": _ERROR}


def counted(ticket: Ticket) -> Json:
    """Returns the count of a request's tokens."""
    return usage(ticket.asked.prompt_tokens, sum(ticket.written), ticket.reused_tokens)


async def streamed(ticket: Ticket, answer: Answer, include_usage: bool) -> AsyncIterator[bytes]:
    """Yields server-sent events, those of one step together."""
    more: Json = {"usage": None} if include_usage else {}
    try:
        async for parts in ticket.parts():
            yield b"".join(event(chunk) for place, part in parts for chunk in answer.chunks(place, part, more))
        if include_usage:
            kind = "chat.completion.chunk" if answer.chat else answer.kind
            yield event(answer.head | {"object": kind, "choices": [], "usage": counted(ticket)})
        yield DONE
    except ApiError as error:
        yield event(error.body())


async def answered(request: Request, ticket: Ticket, answer: Answer) -> Response:
    """Returns the whole answer; a client that leaves ends it."""
    texts = await whole(request, ticket)
    return nobody() if texts is None else reply(answer.whole(texts, counted(ticket)))


def create_app(service: Service) -> FastAPI:
    """Returns the application. Its description is at /openapi.json; there is no page of docs,
    which would load scripts from elsewhere.
    """
    app = FastAPI(title="LLMfromScratch", version="1", docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_texts(app, service)
    _add_figures(app, service)
    _add_playground(app, Playground(service))
    return app


def _add_texts(app: FastAPI, service: Service) -> None:
    async def answer_to(
        request: Request,
        body: CompletionBody | ChatBody,
        check: Callable[[Any, Any, Any], Asked],
        logprobs: int | None,
    ) -> Response:
        served = service.find(body.model)
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options needs stream=true", param="stream_options")
        asked = await asyncio.to_thread(check, body, served.loaded, served.limits)
        ticket = service.submit(served, asked)
        chat = isinstance(body, ChatBody)
        answer = Answer(_head(served, chat), served.loaded.tokenizer, chat=chat, logprobs=logprobs, echoes=asked.echoes)
        if not body.stream:
            return await answered(request, ticket, answer)
        include = body.stream_options is not None and bool(body.stream_options.include_usage)
        return Stream(streamed(ticket, answer, include), ticket)

    @app.post("/v1/completions", responses=RESPONSES)
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Continues texts."""
        return await answer_to(request, body, protocol.completion, body.logprobs)

    @app.post("/v1/chat/completions", responses=RESPONSES)
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Answers a conversation."""
        return await answer_to(request, body, protocol.chat, (body.top_logprobs or 0) if body.logprobs else None)


def _head(served: Served, chat: bool) -> Json:
    number = uuid.uuid4().hex
    return {
        "id": f"chatcmpl-{number}" if chat else f"cmpl-{number}",
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": served.fingerprint,
    }


def _add_figures(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", responses=PLAIN)
    async def models() -> Response:
        """Lists the models."""
        return reply({"object": "list", "data": [served.describe() for served in service.models.values()]})

    @app.get("/v1/models/{name:path}", responses=PLAIN)
    async def model(name: str) -> Response:
        """Describes a model."""
        return reply(service.find(name).describe())

    @app.get("/health", responses=PLAIN)
    async def health() -> Response:
        """Tells whether the engine runs."""
        return reply({"status": "ok"}) if service.engine.alive else failed(ApiError(503, "the engine has ended"))

    @app.get("/ready", responses=PLAIN)
    async def ready() -> Response:
        """Tells whether requests are taken."""
        return reply({"status": "ready"}) if service.ready else failed(ApiError(503, "the server stops"))

    @app.get("/metrics", responses={**PLAIN, 200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Returns figures for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_playground(app: FastAPI, playground: Playground) -> None:
    """Adds what the page asks for; the description of the API leaves it out."""
    add = functools.partial(app.add_api_route, include_in_schema=False)
    for path in static.FILES:
        add(path, playground.file, methods=["GET", "HEAD"])
    add("/play/models", playground.models)
    for name in ("tokens", "write", "read", "next", "attention", "inside"):
        add(f"/play/{name}", getattr(playground, name), methods=["POST"])
    add("/play/runs/{name:path}/events", playground.events)


def _add_errors(app: FastAPI) -> None:
    async def own(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return failed(error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        names = [str(one) for one in first["loc"] if one != "body"]
        if names[:1] == ["settings"] and len(names) > 1:  # of the playground
            names = names[1:]
        param = names[0][:100] if names and first["type"] != "json_invalid" else None
        text = str(first["msg"]).removeprefix("Value error, ")[:300]
        return failed(ApiError(400, f"{param}: {text}" if param else text, param=param))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return failed(ApiError(error.status_code, str(error.detail), headers=error.headers))

    async def unexpected(request: Request, error: Exception) -> Response:
        return failed(ApiError(500, "the server failed", kind="server_error"))

    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        ApiError: own,
        RequestValidationError: invalid,
        HTTPException: http,
        Exception: unexpected,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
