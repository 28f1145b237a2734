"""The web application of a study: the pages of the raters and of the owner, and their routes.

A code or the owner's token comes in the Authorization header. The pages read it from the fragment
of their address, which a browser sends to no server, so that neither stands in a URL or in a log.
A rater is told nothing that `records.Task` does not hold, and the owner no system before the study
is closed.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeVar

from llm_from_scratch.errors import UserError, missing_extra
from llm_from_scratch.rating.records import Preference, Rater, Task
from llm_from_scratch.rating.store import MAX_SECONDS, Study
from llm_from_scratch.serve import static
from llm_from_scratch.serve.answers import ApiError, Json
from llm_from_scratch.serve.responses import failed, file_reply, reply

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
except ImportError as error:
    raise missing_extra("rate serve needs starlette", "serve", str(error)) from None

T = TypeVar("T")
FOLDER = Path(__file__).parent / "page"
FILES = static.SHARED | static.page_files(FOLDER)
MOST_INVITED = 1000  # codes a request


def create_app(study: Study, owner_token: bytes) -> Starlette:
    """Returns the application of a study."""
    room, owner = _Room(study), _Owner(study, owner_token)
    routes = [Route(path, _file, methods=["GET"]) for path in FILES]
    routes += [
        Route("/health", _health, methods=["GET"]),
        Route("/room/study", room.study, methods=["GET"]),
        Route("/room/tasks/{task}", room.task, methods=["GET"]),
        Route("/room/consent", room.consent, methods=["POST"]),
        Route("/room/answers", room.answer, methods=["POST"]),
        Route("/owner/study", owner.progress, methods=["GET"]),
        Route("/owner/codes", owner.codes, methods=["GET"]),
        Route("/owner/invitations", owner.invite, methods=["POST"]),
        Route("/owner/close", owner.close, methods=["POST"]),
        Route("/owner/results", owner.results, methods=["GET"]),
    ]
    handlers: dict[Any, Any] = {ApiError: _own, UserError: _refused, HTTPException: _http, Exception: _unexpected}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Room:
    """What a rater may ask for."""

    def __init__(self, study: Study) -> None:
        self.kept = study

    async def study(self, request: Request) -> Response:
        """Describes the study to a rater, and tells how far he is."""
        rater = await self._rater(request)
        return reply(await asyncio.to_thread(self._described, rater))

    async def task(self, request: Request) -> Response:
        """Returns one task."""
        rater = await self._rater(request)
        tasks = await asyncio.to_thread(self.kept.tasks, rater)
        task = next((one for one in tasks if one.id == request.path_params["task"]), None)
        if task is None:
            raise ApiError(404, "there is no such task", code="task_not_found")
        return reply(_listed(task) | {"given": task.given, "texts": task.texts, "comment": task.comment})

    async def consent(self, request: Request) -> Response:
        """Keeps a rater's consent, and gives him his tasks."""
        rater = await self._rater(request)
        body = await _body(request, background=dict)
        if rater.consented is None:
            rater = await self._changed(lambda: self.kept.consent(rater, body["background"]))
        return reply(await asyncio.to_thread(self._described, rater))

    async def answer(self, request: Request) -> Response:
        """Keeps an answer: it is on the disk when the response is sent."""
        rater = await self._rater(request)
        body = await _body(request, task=str, value=dict, comment=str, seconds=(int, float), key=str)
        if not 0 <= body["seconds"] <= MAX_SECONDS:
            raise ApiError(400, f"seconds: must be from 0 to {MAX_SECONDS:g}", param="seconds")
        if not body["key"]:
            raise ApiError(400, "key: must not be empty", param="key")
        feedback = await self._changed(lambda: self.kept.answer(rater, **body))
        return reply({"saved": True, "feedback": feedback and asdict(feedback)})

    async def _rater(self, request: Request) -> Rater:
        code = _bearer(request).decode("latin-1")
        rater = await asyncio.to_thread(self.kept.rater, code)
        if rater is None:
            raise _unknown("this code belongs to nobody in this study: is the link whole?")
        return rater

    async def _changed(self, change: Callable[[], T]) -> T:
        """Runs a change in a thread, since it waits for the disk."""
        try:
            return await asyncio.to_thread(change)
        except UserError:
            if self.kept.closed:
                raise ApiError(409, "this study is closed: it takes no more answers", code="closed") from None
            raise

    def _described(self, rater: Rater) -> Json:
        plan = self.kept.plan
        scales = plan.design == "scales"
        return {
            "title": plan.title,
            "design": plan.design,
            "questions": [asdict(question) for question in plan.questions] if scales else [],
            "pair_question": "" if scales else plan.pair_question,
            "ties": plan.ties and not scales,
            "consent": plan.consent,
            "practice": plan.training > 0,
            "background": [asdict(one) for one in plan.background],
            "consented": rater.consented is not None,
            "closed": self.kept.closed is not None,
            "tasks": [_listed(task) for task in self.kept.tasks(rater)],
        }


def _listed(task: Task) -> Json:
    """Returns what the list of a rater's tasks has of each."""
    return {"id": task.id, "training": task.kind == "training", "answer": task.answer}


class _Owner:
    """What the owner may ask for; nothing of it names a system before the study is closed."""

    def __init__(self, study: Study, token: bytes) -> None:
        self.study, self.token = study, token

    async def progress(self, request: Request) -> Response:
        """Tells how far every rater is."""
        self._check(request)
        return reply(await asyncio.to_thread(self._progress))

    async def codes(self, request: Request) -> Response:
        """Returns the codes of all people, in the order of `progress`."""
        self._check(request)
        raters = await asyncio.to_thread(self.study.raters)
        return reply({"codes": [rater.code for rater in raters if rater.kind == "person"]})

    async def invite(self, request: Request) -> Response:
        """Makes codes for more people."""
        self._check(request)
        count = (await _body(request, count=int))["count"]
        if not 1 <= count <= MOST_INVITED:
            raise ApiError(400, f"count: must be from 1 to {MOST_INVITED}", param="count")
        return reply({"codes": await asyncio.to_thread(self.study.invite, count)})

    async def close(self, request: Request) -> Response:
        """Ends the study, for ever."""
        self._check(request)
        await _body(request)
        await asyncio.to_thread(self.study.close)
        return reply(await asyncio.to_thread(self._progress))

    async def results(self, request: Request) -> Response:
        """Returns counts of people's answers, and their comments, once the study is closed."""
        self._check(request)
        if self.study.closed is None:
            raise ApiError(409, "close the study first: until then nothing tells which system wrote what", code="open")
        return reply(await asyncio.to_thread(results, self.study))

    def _progress(self) -> Json:
        plan = self.study.plan
        return {
            "title": plan.title,
            "design": plan.design,
            "closed": self.study.closed,
            "raters": [asdict(one) for one in self.study.progress() if one.kind != "imported"],
        }

    def _check(self, request: Request) -> None:
        if not hmac.compare_digest(_bearer(request), self.token):
            raise _unknown("this is not the token of the study's owner: it is in the file owner_token of its folder")


def results(study: Study) -> Json:
    """Returns for each system what people answered, repetitions not counted, and all comments.

    Scales: count, mean and median of each question. Pairs: wins, ties and losses.
    """
    ratings = [row for row in study.ratings() if row.rater_kind == "person" and not row.repeat]
    pairs = [row for row in study.preferences() if row.rater_kind == "person" and not row.repeat]
    systems: dict[str, Json] = {name: {} for name in study.plan.names}
    for name, found in systems.items():
        for question in study.plan.answers if study.plan.design == "scales" else ():
            values = [
                row.value for row in ratings if (row.system, row.question) == (name, question) and row.value is not None
            ]
            mean = {"mean": fmean(values), "median": median(values)} if values else {"mean": None, "median": None}
            found[question] = {"count": len(values), **mean}
        if study.plan.design == "pairs":
            outcomes = Counter(_outcome(row, name) for row in pairs if row.winner and name in (row.first, row.second))
            found |= {outcome: outcomes[outcome] for outcome in ("wins", "ties", "losses")}
    by_task: dict[tuple[int, int], tuple[tuple[str, ...], str]]
    by_task = {(row.rater, row.position): ((row.system,), row.comment) for row in ratings}
    by_task |= {(row.rater, row.position): ((row.first, row.second), row.comment) for row in pairs}
    comments = [{"systems": [*names], "text": text} for names, text in by_task.values() if text]
    return {"design": study.plan.design, "systems": systems, "comments": comments}


def _outcome(row: Preference, system: str) -> str:
    """Returns what a decided pair is for one of its two systems."""
    if row.winner == "tie":
        return "ties"
    return "wins" if (row.first if row.winner == "first" else row.second) == system else "losses"


def _bearer(request: Request) -> bytes:
    """Returns the code or token of a request; empty where it has none."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip().encode("latin-1") if kind.lower() == "bearer" else b""


def _unknown(message: str) -> ApiError:
    headers = {"WWW-Authenticate": "Bearer"}
    return ApiError(401, message, kind="authentication_error", code="unknown_code", headers=headers)


async def _body(request: Request, **fields: type | tuple[type, ...]) -> Json:
    """Returns the JSON object of a request, which has these fields, of these types, and no others.

    Raises:
        ApiError: when it is none.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be of type application/json")

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        body = json.loads(await request.body(), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is no JSON") from None
    if not isinstance(body, dict) or set(body) != set(fields):
        names = ", ".join(fields) or "nothing"
        raise ApiError(400, f"the body must be an object of {names}")
    for name, kind in fields.items():
        if not isinstance(body[name], kind) or isinstance(body[name], bool):
            raise ApiError(400, f"{name}: is of a wrong type", param=name)
    return body


async def _file(request: Request) -> Response:
    return await file_reply(request, FILES[request.scope["path"]])


async def _health(request: Request) -> Response:
    return reply({"status": "ok"})


async def _own(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return failed(error)


async def _refused(request: Request, error: Exception) -> Response:
    return failed(ApiError(400, str(error)[:500]))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return failed(ApiError(error.status_code, str(error.detail), headers=error.headers))


async def _unexpected(request: Request, error: Exception) -> Response:
    return failed(ApiError(500, "the server failed", kind="server_error"))
