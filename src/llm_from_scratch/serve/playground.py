"""The playground's routes: the files of its page, and the numbers that it shows.

`write`, `read` and `next` are requests of the engine, so that their numbers are those of /v1 and
the streams of others go on beside them. `attention` and `inside` have forward passes of their own,
one at a time.

A token is {"id", "text", "bytes"}; `text` is the bytes decoded, or the name of a special token.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from llm_from_scratch import __version__
from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.cores import in_new_thread
from llm_from_scratch.errors import MachineError, UserError, missing_extra
from llm_from_scratch.evaluation.scoring import scorer, text_nats
from llm_from_scratch.explain.attention import Layer, read_layers, weights
from llm_from_scratch.explain.distribution import next_token
from llm_from_scratch.serve import protocol, static
from llm_from_scratch.serve.answers import ApiError, Json, event, finite
from llm_from_scratch.serve.inside import Inside
from llm_from_scratch.serve.prefixes import piece_key
from llm_from_scratch.serve.protocol import AttentionBody, InsideBody, NextBody, ReadBody, TokensBody, WriteBody
from llm_from_scratch.serve.requests import Part, TokenInfo
from llm_from_scratch.serve.responses import Events, Stream, file_reply, nobody, reply, unless_gone, whole
from llm_from_scratch.serve.service import RETRY_AFTER, Served, Service, Ticket
from llm_from_scratch.tokenizer import Tokenizer, first_id
from llm_from_scratch.weights import LoadedModel

try:
    from starlette.requests import Request
    from starlette.responses import Response
except ImportError as error:
    raise missing_extra("serve needs starlette", "serve", str(error)) from None

T = TypeVar("T")
LONGEST_ATTENTION = 512  # tokens: the weights are T^2 / 2 numbers
WAITING = 16  # forward passes that wait for their turn, at most
KEPT_LOGITS = 16  # texts
KEPT_LAYERS = 2**27  # bytes of queries and keys
# The one that a run's model finds the likeliest is its example; of other models the first.
EXAMPLES = (
    "Once upon a time",
    "Dorothy and the Scarecrow ",
    "ROMEO:\n",
    "The old man looked at the sea and",
    "once upon a time ",
)
QUESTIONS = ("Who is Dorothy?", "who is dorothy?")  # of a run's model
QUESTIONS_OF_OTHERS = ("Why is the sky blue?",)


def token(tokenizer: Tokenizer, number: int) -> Json:
    """Returns a token."""
    data = tokenizer.decode_bytes([number])
    text = data.decode("utf-8", "replace")
    if not data:
        text = next((name for name, special in tokenizer.special.items() if special == number), "")
    return {"id": number, "text": text, "bytes": [*data]}


def read_token(tokenizer: Tokenizer, info: TokenInfo) -> Json:
    """Returns a token with its log-probability and the likeliest ones there."""
    top = [token(tokenizer, number) | {"logprob": finite(logprob)} for number, logprob in info.top]
    logprob = None if info.logprob is None else finite(info.logprob)
    return token(tokenizer, info.id) | {"logprob": logprob, "top": top}


def text_key(served: Served, ids: Sequence[int]) -> bytes:
    """Returns a key of a text under a model, which may be replaced by another one of its name."""
    return piece_key(f"{served.name} {served.fingerprint}".encode(), ids)


def described(served: Served) -> Json:
    """Returns a model as GET /play/models lists it."""
    loaded, config = served.loaded, served.loaded.model.config
    return {
        "name": served.name,
        "parameters": served.parameters,
        "layers": config.n_layer,
        "heads": config.n_head,
        "context": served.limits.context,
        "vocabulary": loaded.tokenizer.vocab_size,
        "chat": loaded.chat_template is not None,
        "step": loaded.step,
        "example": example_of(loaded),
        "question": question_of(loaded),
    }


def example_of(loaded: LoadedModel) -> str:
    """Returns a text for a first try, which the model continues."""
    found = [text for text in EXAMPLES if _encodes(loaded.tokenizer, text)]
    if loaded.step is None:
        return found[0] if found else ""
    return min(found, key=lambda text: _nats(loaded, text), default="")


def question_of(loaded: LoadedModel) -> str | None:
    """Returns a message for a first try, which the model answers; None where it has no template."""
    if loaded.chat_template is None:
        return None
    questions = QUESTIONS_OF_OTHERS if loaded.step is None else QUESTIONS
    return next((text for text in questions if _encodes(loaded.tokenizer, text)), "")


def _encodes(tokenizer: Tokenizer, text: str) -> bool:
    try:
        return tokenizer.decode(tokenizer.encode(text)) == text
    except UserError:
        return False


def _nats(loaded: LoadedModel, text: str) -> float:
    """Returns the mean nats a character of a text under a model."""
    model = scorer(loaded.model, first_id(loaded.tokenizer))
    return text_nats(model, loaded.tokenizer.encode(text)) / len(text)


async def written(ticket: Ticket, prompt: Sequence[Json] | None) -> AsyncIterator[bytes]:
    """Yields the events of POST /play/write: the prompt of a conversation, tokens, the end."""
    tokenizer = ticket.served.loaded.tokenizer

    def events(part: Part) -> bytes:
        found = b"".join(event({"token": read_token(tokenizer, one)}) for one in part.tokens)
        return found + event({"finish": part.finish}) if part.finish else found

    try:
        if prompt is not None:
            yield event({"prompt": prompt})
        async for parts in ticket.parts():
            yield b"".join(events(part) for _, part in parts)
    except ApiError as error:
        yield event(error.body())


class Playground:
    """The routes of one service, each a method."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.logits: OrderedDict[bytes, Tensor] = OrderedDict()  # (V,) behind the texts that were asked last
        self.layers: OrderedDict[bytes, list[Layer]] = OrderedDict()  # of `pool`
        self.inside_of = Inside()  # of `pool`
        self.described: dict[str, tuple[bytes, Json]] = {}  # by name: a key of the model, its description
        self.pool = ThreadPoolExecutor(1, "playground")  # for forward passes, one at a time
        self.waiting = 0

    async def _alone(self, work: Callable[..., T], *given: Any) -> T:
        """Runs work with a forward pass when those before it have ended."""
        if self.waiting >= WAITING:
            message = f"{WAITING} requests wait for this already: try again in {RETRY_AFTER} seconds"
            retry = {"Retry-After": str(RETRY_AFTER)}
            raise ApiError(429, message, kind="rate_limit_error", code="queue_full", headers=retry)
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, in_new_thread, work, *given)
        finally:
            self.waiting -= 1

    async def file(self, request: Request) -> Response:
        """Returns a file of the page."""
        return await file_reply(request, static.FILES[request.scope["path"]])

    async def events(self, name: str, request: Request) -> Response:
        """Streams the rows, samples and states of a run that is followed."""
        if name not in self.service.feeds:
            there = ", ".join(self.service.feeds) or "none: start the server with --follow"
            raise ApiError(404, f"the run {name!r:.200} is not followed: there are {there}", code="run_not_found")
        given = dict(request.query_params)
        after = given.pop("after", "-1")
        if given:
            raise ApiError(400, f"{next(iter(given))!r:.100}: there is no such field", param=next(iter(given))[:100])
        if not after.removeprefix("-").isdecimal() or not -1 <= int(after[:20]) < 2**53:
            raise ApiError(400, "after: must be a step, or -1 for all", param="after")
        return Events(self.service.feeds[name].join(int(after)))

    # ---------------------------------------------------------------------------------------- texts
    async def models(self) -> Response:
        """Lists the models."""
        found = [await self._describe(served) for served in self.service.models.values()]
        return reply({"models": found, "runs": [*self.service.feeds], "version": __version__})

    async def _describe(self, served: Served) -> Json:
        key, known = text_key(served, ()), self.described.get(served.name)
        if known is None or known[0] != key:
            known = self.described[served.name] = key, await self._alone(described, served)
        return known[1]

    async def tokens(self, body: TokensBody) -> Response:
        """Returns the tokens of a text, as a prompt has them."""
        tokenizer = self.service.find(body.model).loaded.tokenizer

        def work() -> Response:
            return reply({"tokens": [token(tokenizer, one) for one in protocol.play_ids(body.text, tokenizer)]})

        return await asyncio.to_thread(work)

    async def write(self, body: WriteBody) -> Response:
        """Streams a continuation, or the answer of a conversation."""
        served = self.service.find(body.model)
        asked = await asyncio.to_thread(protocol.play_writing, body, served.loaded, served.limits)
        ticket = self.service.submit(served, asked)
        prompt = None
        if body.messages is not None:
            prompt = [token(served.loaded.tokenizer, one) for one in asked.requests[0].prompt]
        return Stream(written(ticket, prompt), ticket)

    async def read(self, body: ReadBody, request: Request) -> Response:
        """Returns the log-probability of each token of a text, and what else could stand there.

        Of a text longer than the context these are of its first part, and None of the others.
        """
        served = self.service.find(body.model)
        asked = await asyncio.to_thread(protocol.play_reading, body, served.loaded, served.limits)
        parts = await whole(request, self.service.submit(served, asked))
        if parts is None:
            return nobody()
        tokenizer = served.loaded.tokenizer

        def work() -> Response:
            beyond = [token(tokenizer, one) | {"logprob": None, "top": []} for one in body.ids[served.limits.context :]]
            return reply({"tokens": [*(read_token(tokenizer, one) for one in parts[0].prompt), *beyond]})

        return await asyncio.to_thread(work)

    # -------------------------------------------------------------------------------------- numbers
    async def next(self, body: NextBody, request: Request) -> Response:
        """Returns the distribution of the next token, before and after the settings."""
        served = self.service.find(body.model)
        asked = await asyncio.to_thread(protocol.play_next, body, served.loaded, served.limits)
        key = text_key(served, body.ids)
        logits = self.logits.get(key)
        if logits is None:
            ticket = self.service.submit(served, asked)
            parts = await whole(request, ticket)
            if parts is None:
                return nobody()
            key = text_key(ticket.served, body.ids)
            logits = parts[0].logits
            assert logits is not None
            self.logits[key] = logits
        self.logits.move_to_end(key)
        while len(self.logits) > KEPT_LOGITS:
            self.logits.popitem(last=False)
        settings = asked.requests[0].sampling
        work = partial(_next_reply, served.loaded.tokenizer, logits, body, settings)
        return await asyncio.to_thread(in_new_thread, work)

    async def attention(self, body: AttentionBody, request: Request) -> Response:
        """Returns the attention weights of a head, or their mean over the heads of a layer."""
        served = self.service.find(body.model)
        config = served.loaded.model.config
        _check_text(served, body.ids)
        for name, value, count in (("layer", body.layer, config.n_layer), ("head", body.head, config.n_head)):
            if value is not None and value >= count:
                raise ApiError(400, f"{name} {value}: the model has {count}, from 0 to {count - 1}", param=name)
        found = await unless_gone(request, self._alone(self._attention, served, body))
        return nobody() if found is None else found

    async def inside(self, body: InsideBody, request: Request) -> Response:
        """Returns what each layer would say after a token, and what the heads attend to."""
        served = self.service.find(body.model)
        _check_text(served, body.ids)
        if body.place >= len(body.ids):
            raise ApiError(400, f"place {body.place}: the text has {len(body.ids)} tokens, from 0", param="place")
        found = await unless_gone(request, self._alone(self._inside, served, body))
        return nobody() if found is None else found

    def _inside(self, served: Served, body: InsideBody) -> Response:
        keys = text_key(served, body.ids), text_key(served, ())
        name = partial(token, served.loaded.tokenizer)
        try:
            return reply(self.inside_of.read(served.loaded, keys, body.ids, body.place, name))
        except MachineError as error:
            raise ApiError(500, str(error), kind="server_error") from None

    def _attention(self, served: Served, body: AttentionBody) -> Response:
        key = text_key(served, body.ids)
        layers = self.layers.pop(key, None) or read_layers(served.loaded.model, body.ids)
        self.layers[key] = layers
        while len(self.layers) > 1 and sum(one.nbytes for text in self.layers.values() for one in text) > KEPT_LAYERS:
            self.layers.popitem(last=False)
        found = weights(layers[body.layer], body.head).cpu()
        if not found.isfinite().all():
            message = "the model computes NaN: its training diverged, or its weights are damaged"
            raise ApiError(500, message, kind="server_error")
        rows = found.double().round(decimals=7).tolist()
        return reply({"weights": [row[: place + 1] for place, row in enumerate(rows)]})


def _check_text(served: Served, ids: Sequence[int]) -> None:
    """Refuses a text that is too long for the weights of a head, and ids that the model has not."""
    most = min(LONGEST_ATTENTION, served.limits.context)
    if len(ids) > most:
        message = f"the text has {len(ids)} tokens: attention is shown of at most {most}"
        raise ApiError(400, message, param="ids", code="context_length_exceeded")
    protocol.check_ids(ids, served.loaded.tokenizer)


def _next_reply(tokenizer: Tokenizer, logits: Tensor, body: NextBody, settings: SamplingConfig) -> Response:
    found = next_token(logits, body.ids, settings, body.top)
    return reply(
        {
            "tokens": [token(tokenizer, one.id) | {"p": one.p, "q": one.q} for one in found.top],
            "rest": {"p": found.rest_p, "q": found.rest_q},
            "kept": found.kept,
            "entropy": found.entropy,
        }
    )
