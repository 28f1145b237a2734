"""The routes of the rating room: who may ask, what is kept, and that nothing tells a system."""

import asyncio
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from rating_studies import kept, people, small_study
from serving import Server

from llm_from_scratch.cli import main
from llm_from_scratch.rating.records import Rater
from llm_from_scratch.rating.store import Study

httpx = pytest.importorskip("httpx", reason="needs the extra serve and httpx")
pytest.importorskip("starlette", reason="needs the extra serve")

from llm_from_scratch.rating import room  # noqa: E402
from llm_from_scratch.serve.limits import Guard, Rules  # noqa: E402
from llm_from_scratch.serve.metrics import Metrics  # noqa: E402

SYSTEMS = {"zebra-large": "runs/quagga", "okapi.tiny": "runs/giraffe"}
TOKEN = b"the-token-of-the-owner-0123456789"
VALUES: dict[str, Any] = {
    "scales": {"fluency": 4, "coherence": None, "relevance": 1},
    "pairs": {"preference": "left"},
}


class Client:
    """Sends requests to the application of a study in this process; keeps every response."""

    def __init__(self, study: Study) -> None:
        self.app = Guard(room.create_app(study, TOKEN), Rules(body=2**16), Metrics(), log=io.StringIO())
        self.seen: list[Any] = []

    def __call__(self, secret: str | bytes, path: str, body: Any = None, method: str = "", **more: Any) -> Any:
        headers = {"Authorization": b"Bearer " + (secret.encode() if isinstance(secret, str) else secret)}
        more |= {} if body is None else {"json": body}

        async def send() -> Any:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                sent = {**headers, **more.pop("headers", {})}
                return await client.request(method or ("GET" if body is None else "POST"), path, headers=sent, **more)

        self.seen.append(asyncio.run(send()))
        return self.seen[-1]


def answer(task: str, value: Any, **changes: Any) -> dict[str, Any]:
    return {"task": task, "value": value, "comment": "", "seconds": 1.5, "key": f"key of {task}", **changes}


@pytest.fixture(params=["scales", "pairs"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Study]:
    """A study of two systems with telling names, and of every kind of item."""
    plan = {"systems": 2, "prompts": 5, "repeats": 2, "checks": 2, "training": 2, "ratings_per_item": 3}
    with small_study(tmp_path / "study", request.param, **plan) as made:
        yield made


@pytest.fixture(params=["scales", "pairs"])
def named(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """The same with names that can be looked for."""
    import rating_studies

    plan = rating_studies.plan_of(
        {
            "title": "Tales",
            "design": request.param,
            "systems": SYSTEMS,
            "prompts": [f"Prompt {i}: once" for i in range(9)],
            "repeats": 2,
            "checks": 2,
        }
    )
    with Study.create(tmp_path / "study", plan, *rating_studies.small_texts(plan)) as made:
        yield made


def agreed(study: Study, ask: Client, number: int) -> Rater:
    """A rater who has agreed, by the page's own requests."""
    rater = people(study)[number]
    assert ask(rater.code, "/room/study").status_code == 200
    assert ask(rater.code, "/room/consent", {"background": {}}).status_code == 200
    return rater


def everything(study: Study, ask: Client, rater: Rater) -> None:
    """All that a rater can do, and try."""
    for path in room.FILES:
        assert ask("", path).status_code == 200
    tasks = ask(rater.code, "/room/study").json()["tasks"]
    for task in tasks:
        assert ask(rater.code, f"/room/tasks/{task['id']}").status_code == 200
        sent = answer(task["id"], VALUES[study.plan.design], comment="a comment")
        for _ in range(2):
            assert ask(rater.code, "/room/answers", sent).status_code == 200
        assert ask(rater.code, f"/room/tasks/{task['id']}").status_code == 200
        ask(rater.code, "/room/answers", answer(task["id"], {"preference": "zebra"}))
        ask(rater.code, "/room/answers", answer(task["id"], None))
    ask(rater.code, "/room/study")
    for path in (
        "/room/tasks/1",
        "/room/tasks/0",
        "/room/texts/1",
        "/room/items",
        "/room/study?closed=1",
        "/study.yaml",
    ):
        ask(rater.code, path)
    for path in (
        "/texts.jsonl",
        "/study.db",
        "/study.db-wal",
        "/owner_token",
        "/exports/",
        "/..%2fstudy.yaml",
        "/page/",
    ):
        assert ask(rater.code, path).status_code == 404
    for path in ("/owner/study", "/owner/codes", "/owner/results"):
        assert ask(rater.code, path).status_code == 401
    for path in ("/owner/invitations", "/owner/close"):
        assert ask(rater.code, path, {}).status_code == 401
    for method in ("HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"):
        ask(rater.code, "/room/study", method=method)


# ---------------------------------------------------------------------------------------- blinding
def test_no_response_to_a_rater_or_an_owner_names_a_system(named: Study) -> None:
    ask = Client(named)
    raters = [agreed(named, ask, 0), agreed(named, ask, 1)]
    for rater in raters:
        everything(named, ask, rater)
    for path in ("/owner/study", "/owner/codes", "/owner/results"):
        ask(TOKEN, path)
    telling = [*SYSTEMS, *SYSTEMS.values(), "zebra-", "okapi", "quagga", "giraffe", str(named.folder)]
    for response in ask.seen:
        told = f"{response.request.url} {response.headers} {response.text}"
        assert [word for word in telling if word in told] == [], response.request.url
    assert len(ask.seen) > 100


def test_tasks_of_all_kinds_look_alike(named: Study) -> None:
    """Keys, headers and ids of a check and of a repetition are those of what is rated."""
    ask = Client(named)
    rater = agreed(named, ask, 0)
    everything(named, ask, rater)
    listed = ask(rater.code, "/room/study").json()["tasks"]
    kinds: dict[str, list[Any]] = {}
    for place, task in enumerate(named.tasks(rater)):
        row = kept(named, task)
        kind = "repeat" if row["repeat_of"] is not None else named.items[row["item"]].kind
        found = ask(rater.code, f"/room/tasks/{task.id}")
        sent = ask(rater.code, "/room/answers", answer(task.id, VALUES[named.plan.design]))
        body, done = found.json(), sent.json()
        assert body | {"texts": 0, "given": 0} == listed[place] | {"texts": 0, "given": 0, "comment": "a comment"}
        feedback = done.pop("feedback")
        assert (feedback is not None) == (kind == "training") == listed[place]["training"]
        shape = (
            [*body],
            [*listed[place]],
            done,
            [(name, value) for name, value in found.headers.items() if name != "content-length"],
            [(name, value) for name, value in sent.headers.items() if name != "content-length"],
            int(found.headers["content-length"]) == len(found.content),
        )
        kinds.setdefault(kind, []).append(shape)
    assert {*kinds} == {"training", "rated", "check", "repeat"}
    assert all(shape == kinds["rated"][0] for shapes in kinds.values() for shape in shapes)
    assert "etag" not in dict(kinds["rated"][0][3])


def test_ids_are_random_and_one_raters_own(named: Study) -> None:
    ask = Client(named)
    ids = []
    for number in range(3):
        rater = agreed(named, ask, number)
        ids += [task["id"] for task in ask(rater.code, "/room/study").json()["tasks"]]
    assert len(set(ids)) == len(ids)
    assert all(10**9 < int(one) < 2**52 for one in ids)  # no number of a text, of an item, or of a place
    assert sorted(ids, key=int) != ids


def test_another_raters_link_reveals_nothing(named: Study) -> None:
    ask = Client(named)
    one, other = agreed(named, ask, 0), agreed(named, ask, 1)
    mine = ask(one.code, "/room/study").json()["tasks"][0]["id"]
    ask(one.code, "/room/answers", answer(mine, VALUES[named.plan.design], comment="private"))
    stolen, none = ask(other.code, f"/room/tasks/{mine}"), ask(other.code, "/room/tasks/123456789")
    assert (stolen.status_code, stolen.content, stolen.headers) == (404, none.content, none.headers)
    refused = ask(other.code, "/room/answers", answer(mine, VALUES[named.plan.design]))
    assert refused.status_code == 400
    assert ask(one.code, f"/room/tasks/{mine}").json()["comment"] == "private"
    assert [one.answered for one in named.progress()][:2] == [1, 0]


@pytest.mark.parametrize("code", ["", "x", "\x00", "é" * 24, "a" * 5000, "Bearer"])
def test_who_has_no_code_is_told_nothing(named: Study, code: str) -> None:
    ask = Client(named)
    for path in ("/room/study", "/room/tasks/1", "/owner/study", "/owner/codes", "/owner/results"):
        if "\x00" in code:
            continue
        assert ask(code.encode("latin-1"), path).status_code == 401
    assert ask(TOKEN, "/room/study").status_code == 401  # the owner is no rater
    assert ask("", "/room/study", headers={"Authorization": people(named)[0].code}).status_code == 401
    before = ask(people(named)[0].code, "/room/study")
    assert before.json()["tasks"] == []


def test_results_are_told_when_the_study_is_closed(named: Study) -> None:
    ask = Client(named)
    rater = agreed(named, ask, 0)
    everything(named, ask, rater)
    assert ask(TOKEN, "/owner/results").status_code == 409
    assert ask(TOKEN, "/owner/close", {}).json()["closed"]
    found = ask(TOKEN, "/owner/results").json()
    assert [*found["systems"]] == [*SYSTEMS]
    if named.plan.design == "scales":
        rated = [row for row in named.ratings() if not row.repeat]
        for name, questions in found["systems"].items():
            count = len([row for row in rated if (row.system, row.question) == (name, "fluency")])
            assert questions["fluency"] == {"count": count, "mean": 4.0, "median": 4}
            assert questions["coherence"] == {"count": 0, "mean": None, "median": None}
        assert sum(one["fluency"]["count"] for one in found["systems"].values()) == len(rated) / 3
    else:
        rows = [row for row in named.preferences() if not row.repeat]
        wins = {name: one["wins"] for name, one in found["systems"].items()}
        for name in SYSTEMS:
            assert wins[name] == len([row for row in rows if getattr(row, row.winner or "") == name])
        assert sum(wins.values()) == sum(one["losses"] for one in found["systems"].values()) == len(rows)
    assert {one["text"] for one in found["comments"]} == {"a comment"}
    # Raters still learn nothing, and no answer is taken
    task = named.tasks(rater)[0].id
    refused = ask(rater.code, "/room/answers", answer(task, VALUES[named.plan.design], key="late"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "closed")
    assert ask(rater.code, "/owner/results").status_code == 401
    assert ask(people(named)[1].code, "/room/consent", {"background": {}}).status_code == 409
    assert ask(TOKEN, "/owner/invitations", {"count": 1}).status_code == 400


# ------------------------------------------------------------------------------------------ answers
def test_an_answer_is_kept_once_however_often_it_is_sent(study: Study) -> None:
    ask = Client(study)
    rater = agreed(study, ask, 0)
    task = study.tasks(rater)[0].id
    for seconds in (1.5, 2, 1e4):
        response = ask(rater.code, "/room/answers", answer(task, VALUES[study.plan.design], seconds=seconds))
        assert response.json()["saved"] is True
    assert len(study._database.all("SELECT * FROM answers")) == 1
    ask(rater.code, "/room/answers", answer(task, VALUES[study.plan.design], key="another tab"))
    assert len(study._database.all("SELECT * FROM answers")) == 2
    assert study.progress()[0].answered == 1


HOSTILE: list[Callable[[str], bytes]] = [
    lambda task: b"",
    lambda task: b"null",
    lambda task: b"[" * 60_000,
    lambda task: b'{"task":' * 7000,
    lambda task: b"\xff\xfe",
    lambda task: json.dumps(answer(task, {"preference": "left", "fluency": 1})).encode(),
    lambda task: json.dumps(answer(task, {})).encode(),
    lambda task: json.dumps(answer(task, {"fluency": 6, "coherence": 1, "relevance": 1})).encode(),
    lambda task: json.dumps(answer(task, {"fluency": True, "coherence": 1, "relevance": 1})).encode(),
    lambda task: json.dumps(answer(task, {"fluency": 1.0, "coherence": 1, "relevance": 1.5})).encode(),
    lambda task: json.dumps(answer(task, {"preference": ["left"]})).encode(),
    lambda task: json.dumps(answer(task, {"preference": "first"})).encode(),
    *(
        lambda task, change=change: json.dumps(answer(task, {"preference": "left"}) | change).encode()  # type: ignore[misc]
        for change in (
            {"seconds": float("nan")},
            {"seconds": float("inf")},
            {"seconds": -1},
            {"seconds": 10**400},
            {"seconds": True},
            {"seconds": None},
            {"key": ""},
            {"key": "k" * 101},
            {"key": 7},
            {"comment": "c" * 2001},
            {"comment": None},
            {"task": 7},
            {"task": "' OR 1=1 --"},
            {"value": "left"},
            {"more": 1},
        )
    ),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_body_is_refused_and_nothing_is_kept(study: Study, number: int) -> None:
    ask = Client(study)
    rater = agreed(study, ask, 0)
    content = HOSTILE[number](study.tasks(rater)[0].id)
    response = ask(
        rater.code, "/room/answers", method="POST", content=content, headers={"Content-Type": "application/json"}
    )
    assert 400 <= response.status_code < 500, response.text
    assert response.json()["error"]["message"]
    assert study._database.all("SELECT * FROM answers") == []


def test_odd_texts_are_kept_as_they_can_be(study: Study) -> None:
    ask = Client(study)
    rater = agreed(study, ask, 0)
    task = study.tasks(rater)[0].id
    for comment in ("\ud800", "a\x00b", "<b>\u202e", "x" * 2000):
        raw = json.dumps(answer(task, VALUES[study.plan.design], comment=comment, key=f"k{len(comment)}")).encode()
        headers = {"Content-Type": "application/json"}
        assert ask(rater.code, "/room/answers", method="POST", content=raw, headers=headers).status_code == 200
        assert ask(rater.code, f"/room/tasks/{task}").status_code == 200


def test_bodies_need_their_type_and_their_size(study: Study) -> None:
    ask = Client(study)
    rater = agreed(study, ask, 0)
    content = json.dumps(answer(study.tasks(rater)[0].id, VALUES[study.plan.design])).encode()
    form = ask(rater.code, "/room/answers", method="POST", content=content, headers={"Content-Type": "text/plain"})
    assert form.status_code == 415  # what a form of another site could send
    large = ask(rater.code, "/room/answers", answer("x", {}, comment="c" * 70_000))
    assert large.status_code == 413


def test_consent_is_given_once(study: Study) -> None:
    ask = Client(study)
    code = people(study)[0].code
    assert ask(code, "/room/consent", {"background": {"age": "7"}}).status_code == 400
    assert ask(code, "/room/consent", {"background": []}).status_code == 400
    first = ask(code, "/room/consent", {"background": {}}).json()
    assert first["consented"]
    assert len(first["tasks"]) > 4
    assert ask(code, "/room/consent", {"background": {}}).json() == first


@pytest.mark.parametrize("count", [0, -1, 1001, True, 1.0, "1", None])
def test_invitations_are_of_a_sensible_number(study: Study, count: Any) -> None:
    ask = Client(study)
    before = len(study.raters())
    assert ask(TOKEN, "/owner/invitations", {"count": count}).status_code == 400
    assert len(study.raters()) == before


# ---------------------------------------------------------------------------------------- the server
class RoomServer(Server):
    command = ("rate", "serve", "--port", "0")


def test_codes_stand_in_no_log_and_no_address_of_a_client(study: Study, tmp_path: Path) -> None:
    with RoomServer(str(study.folder), cwd=tmp_path) as server:
        code = people(study)[0].code
        headers = {"Authorization": f"Bearer {code}"}
        tasks = httpx.post(f"{server.address}/room/consent", json={"background": {}}, headers=headers).json()["tasks"]
        sent = answer(tasks[0]["id"], VALUES[study.plan.design])
        assert httpx.post(f"{server.address}/room/answers", json=sent, headers=headers).status_code == 200
        assert httpx.get(server.address, headers={"Host": "elsewhere.example"}).status_code == 403
        assert httpx.get(server.address, headers={"Origin": "http://elsewhere.example"}).status_code == 403
        assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    log = "".join(server.errors)
    assert len(server.lines) == 4
    assert code not in log
    assert study.owner_token not in log  # which is no terminal
    assert all("client" not in line for line in server.lines)
    assert re.search(r"owner's page: http://127\.0\.0\.1:\d+/owner\.html; its token is in \S+owner_token", log)


def test_it_starts_without_the_models_libraries() -> None:
    code = "import sys; import llm_from_scratch.rating.room, llm_from_scratch.serve.server; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, 'src'); {code}"],
        cwd=REPO,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert "llm_from_scratch.rating.room" in loaded.stdout.split()
    assert {"torch", "lightning", "hydra", "numpy"}.isdisjoint(loaded.stdout.split())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "nowhere: is no study"),
        (["study", "--token-file", "short"], "--token-file short: holds no word"),
        (["study", "--token-file", "none"], "--token-file none: No such file"),
        (["study", "--allow-host", "a/b"], "--allow-host a/b: give the name alone"),
        (["study", "--host", "256.0.0.1"], "--host 256.0.0.1"),
    ],
)
def test_a_mistake_costs_one_line(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_study(tmp_path / "study").disconnect()
    (tmp_path / "short").write_text("token")
    with pytest.raises(SystemExit) as ended:
        main(["rate", "serve", *words, "--port", "0"])
    assert ended.value.code == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: {line}")
