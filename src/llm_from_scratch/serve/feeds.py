"""Events of runs that are followed: one look at a folder a second, for all who follow it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from llm_from_scratch.serve.answers import ApiError, Json, encoded
from llm_from_scratch.serve.follow import Change, FollowedRun, Row

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 10.0  # a proxy between closes a connection that is silent for longer
MOST_FOLLOWERS = 32  # of a run
MOST_ROWS = 1000  # of an event
KEEP_ALIVE = b": keep-alive\n\n"


class Feed:
    """The followers of a run. While there are some, a task looks at the folder.

    Args:
        run: the run.
        model_step: returns the step of the run's model that is served, None for none.
    """

    def __init__(self, run: FollowedRun, model_step: Callable[[], int | None]) -> None:
        self.run, self.model_step = run, model_step
        self.joined: set[Follower] = set()
        self.closed = False
        self._told: set[Follower] = set()  # those that have what was there first
        self._state: Json = {}
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def join(self, after: int) -> Follower:
        """Returns a new follower, who has rows and samples up to the step `after`; -1: none.

        Raises:
            ApiError: when there are as many as there may be, or the server stops.
        """
        if self.closed:
            raise ApiError(503, "the server stops", kind="server_error")
        if len(self.joined) >= MOST_FOLLOWERS:
            message = f"{MOST_FOLLOWERS} clients follow this run already: try again in 10 seconds"
            retry = {"Retry-After": "10"}
            raise ApiError(429, message, kind="rate_limit_error", code="too_many", headers=retry)
        follower = Follower(self, after)
        self.joined.add(follower)
        return follower

    async def begin(self, follower: Follower) -> Change:
        """Returns all that is there; the follower is told what comes from then on."""
        async with self._looking:
            await self._look()
            if not self.closed:
                self._told.add(follower)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._watch())
            return Change(None, [*self.run.rows], [*self.run.samples], self._state)

    def leave(self, follower: Follower) -> None:
        """Forgets a follower."""
        self.joined.discard(follower)
        self._told.discard(follower)

    def close(self) -> None:
        """Ends the streams of all followers."""
        self.closed = True
        for follower in self.joined:
            follower.changes.put_nowait(None)

    async def _look(self) -> None:
        found = await asyncio.to_thread(self.run.look)
        state = self.run.state | {"model": self.model_step()}
        if found is None and state == self._state:
            return
        self._state = state
        change = Change(found.cut, found.rows, found.samples, state) if found else Change(None, [], [], state)
        for follower in self._told:
            follower.changes.put_nowait(change)

    async def _watch(self) -> None:
        try:
            while self.joined and not self.closed:
                await asyncio.sleep(LOOK_SECONDS)
                async with self._looking:
                    await self._look()
        except Exception:
            log.exception("%s cannot be followed any more", self.run.path)
            self.close()


class Follower:
    """A client that follows a run; `close` forgets it."""

    def __init__(self, feed: Feed, after: int) -> None:
        self.feed, self.after = feed, after
        self.changes: asyncio.Queue[Change | None] = asyncio.Queue()

    async def events(self) -> AsyncIterator[bytes]:
        """Yields server-sent events: what is there, then what comes."""
        first = await self.feed.begin(self)
        rows = [row for row in first.rows if row.step > self.after]
        samples = [sample for sample in first.samples if sample.step > self.after]
        for part in parts(Change(self.after, rows, samples, first.state)):
            yield part
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    change = await self.changes.get()
            except TimeoutError:
                yield KEEP_ALIVE
                continue
            if change is None:
                return
            for part in parts(change):
                yield part

    def close(self) -> None:
        """Ends what the feed keeps for this client."""
        self.feed.leave(self)


def parts(change: Change) -> list[bytes]:
    """Returns a change as events of at most MOST_ROWS rows; the samples are in the last one."""
    pieces = [change.rows[start : start + MOST_ROWS] for start in range(0, len(change.rows), MOST_ROWS)] or [[]]
    found = []
    for place, rows in enumerate(pieces):
        head: dict[str, Any] = {"state": change.state, "samples": []}
        if place == 0 and change.cut is not None:
            head["cut"] = change.cut
        if place == len(pieces) - 1:
            head["samples"] = [sample._asdict() for sample in change.samples]
        found.append(_event(head, rows))
    return found


def _event(head: Json, rows: Sequence[Row]) -> bytes:
    return b"data: " + encoded(head)[:-1] + b',"rows":[' + ",".join(row.json for row in rows).encode() + b"]}\n\n"
