"""Models by name, and the way of one request: the queue, its parts, its end; figures of all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from llm_from_scratch.errors import MachineError, UserError
from llm_from_scratch.serve.answers import ApiError
from llm_from_scratch.serve.engine import Batch, Engine, QueueFullError
from llm_from_scratch.serve.feeds import Feed
from llm_from_scratch.serve.metrics import Labels, Metrics
from llm_from_scratch.serve.protocol import Asked, Limits
from llm_from_scratch.serve.requests import Part, Text, joined
from llm_from_scratch.weights import LoadedModel

RETRY_AFTER = 2  # seconds that a refused client is asked to wait


@dataclass(frozen=True)
class Served:
    """A model under its name. `created` is in seconds since 1970, `fingerprint` tells it apart.

    `parameters` are counted here: later the weights may be laid out in a way that hides them.
    """

    name: str
    loaded: LoadedModel
    limits: Limits
    created: int
    fingerprint: str
    parameters: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", self.loaded.model.num_parameters())

    def describe(self) -> dict[str, Any]:
        """Returns the model as GET /v1/models lists it."""
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "llm-from-scratch"}


class Service:
    """What the routes need: models, the engine, figures.

    Args:
        models: by name.
        engine: runs already; has a batch of each name.
        seconds: that a request may take.
        log_prompts: whether the log holds prompts.
    """

    def __init__(
        self, models: Mapping[str, Served], engine: Engine, *, seconds: float = 600.0, log_prompts: bool = False
    ) -> None:
        self.models, self.engine, self.seconds, self.log_prompts = dict(models), engine, seconds, log_prompts
        self.feeds: dict[str, Feed] = {}  # of the runs that are followed, by their names
        self.stopping = False
        self.metrics = Metrics()
        declare = self.metrics.declare
        declare("requests_total", "counter", "Answered requests.")
        declare("request_seconds", "histogram", "Seconds from a request to the end of its answer.")
        declare("texts_total", "counter", "Texts by the reason of their end.")
        declare("prompt_tokens_total", "counter", "Tokens of prompts.")
        declare("prompt_tokens_reused_total", "counter", "Tokens of prompts that were not read again.")
        declare("generated_tokens_total", "counter", "Tokens that were written.")
        declare("time_to_first_token_seconds", "histogram", "Seconds from a request to the first token of a text.")
        declare("time_per_token_seconds", "histogram", "Mean seconds between two tokens of a text.")
        self.metrics.gauge("waiting_texts", "Texts in the queue.", lambda: self._sizes("waiting"))
        self.metrics.gauge("active_texts", "Texts that are read or written.", lambda: self._sizes("active"))

    def _sizes(self, what: str) -> dict[Labels, float]:
        sizes: dict[Labels, float] = {}
        for name, batch in self.engine.batches.items():
            sizes[(("model", name),)] = float(len(batch.waiting) if what == "waiting" else batch.active)
        return sizes

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.engine.alive and not self.stopping

    def find(self, name: str) -> Served:
        """Returns the model of a name.

        Raises:
            ApiError: when there is none.
        """
        if name not in self.models:
            there = f"there are {', '.join(self.models)}" if self.models else "a run has one after its first validation"
            message = f"there is no model {name!r:.200}: {there}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return self.models[name]

    def submit(self, served: Served, asked: Asked) -> Ticket:
        """Puts the texts of a request into the queue.

        Raises:
            ApiError: when the queue is full, or the server stops.
        """
        return Ticket(self, self.models[served.name], asked)

    def take(self, served: Served, batch: Batch) -> None:
        """Serves a model under its name from now on; it is called in the event loop.

        A text that waits, is read or is written ends with the model that it began with.
        """
        self.engine.replace(served.name, batch)
        self.models = {**self.models, served.name: served}  # others may be going through the old one

    def stop(self) -> None:
        """Takes no requests any more, and ends the streams of runs that are followed."""
        self.stopping = True
        for feed in self.feeds.values():
            feed.close()


class Ticket:
    """A request in the engine; `close` frees its slots at the next step."""

    def __init__(self, service: Service, served: Served, asked: Asked) -> None:
        self.service, self.served, self.asked = service, served, asked
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[int, Part]] = asyncio.Queue()
        self.reused = [0] * len(asked.requests)
        self.written = [0] * len(asked.requests)
        self.left = {*range(len(asked.requests))}
        self.first_token_seconds: float | None = None
        self.reason = "cancelled"  # for which `close` ends texts
        try:
            self.texts: list[Text] = service.engine.submit(served.name, asked.requests, self._on_part)
        except QueueFullError as error:
            raise ApiError(
                429,
                f"{error}: try again in {RETRY_AFTER} seconds",
                kind="rate_limit_error",
                code="queue_full",
                headers={"Retry-After": str(RETRY_AFTER)},
            ) from None
        except UserError as error:
            raise ApiError(503, str(error), kind="server_error") from None
        late = ApiError(504, f"the answer took longer than {service.seconds:g} seconds", kind="timeout_error")
        self.timer = self.loop.call_later(service.seconds, self.queue.put_nowait, (0, Part(error=late)))

    @property
    def reused_tokens(self) -> int:
        """The tokens of the prompts, each counted once, that were not read again."""
        return sum(self.reused[:: self.asked.choices])

    def _on_part(self, place: int, part: Part) -> None:
        with suppress(RuntimeError):  # the event loop has ended before the engine
            self.loop.call_soon_threadsafe(self.queue.put_nowait, (place, part))

    async def parts(self) -> AsyncIterator[list[tuple[int, Part]]]:
        """Yields the parts that have come since, with the place of their text.

        Raises:
            ApiError: when a text ends with an error.
        """
        while self.left:
            found = [await self.queue.get()]
            while not self.queue.empty():
                found.append(self.queue.get_nowait())
            for place, part in found:
                if part.error is not None:
                    self.reason = "timeout" if isinstance(part.error, ApiError) else "error"
                    raise _as_api_error(part.error)
                self.written[place], self.reused[place] = part.count, part.reused
                if part.finish:
                    self._end(place, part.finish)
            yield found

    async def whole(self) -> list[Part]:
        """Returns every text as one part."""
        texts: list[list[Part]] = [[] for _ in self.texts]
        async for parts in self.parts():
            for place, part in parts:
                texts[place].append(part)
        return [joined(parts) for parts in texts]

    def close(self) -> None:
        """Ends what is not finished."""
        self.timer.cancel()
        for place in [*self.left]:
            self.texts[place].cancel()
            self._end(place, self.reason)

    def _end(self, place: int, reason: str) -> None:
        self.left.discard(place)
        text, metrics, name = self.texts[place], self.service.metrics, self.served.name
        metrics.count("texts_total", model=name, end=reason)
        metrics.count("prompt_tokens_total", len(text.request.prompt), model=name)
        metrics.count("prompt_tokens_reused_total", text.reused, model=name)
        metrics.count("generated_tokens_total", text.written, model=name)
        if text.first is None:
            return
        waited = text.first - text.submitted
        self.first_token_seconds = min(waited, self.first_token_seconds or waited)
        metrics.observe("time_to_first_token_seconds", waited, model=name)
        if text.written > 1:
            between = (time.monotonic() - text.first) / (text.written - 1)
            metrics.observe("time_per_token_seconds", between, model=name)


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    message = str(error) if isinstance(error, MachineError) else "the server failed while it wrote this text"
    return ApiError(500, message, kind="server_error")
