"""A model as rater: a fake endpoint whose answers are known, and this project's own server."""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from chat_models import chain_run
from rating_studies import kept, people, rate_all, small_study
from serving import Server

from llm_from_scratch.errors import MachineError, UserError
from llm_from_scratch.rating.judge import Endpoint, judge, read_number, read_side
from llm_from_scratch.rating.store import Study

Answer = str | int | tuple[int, dict[str, str], bytes]


class Fake:
    """An endpoint that answers by a function of the last message."""

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        self.answer, self.requests = answer, list[dict[str, Any]]()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.requests.append({"path": self.path, "headers": dict(self.headers), **body})
                given = fake.answer(body["messages"][-1]["content"])
                if isinstance(given, str):
                    given = (200, {}, json.dumps({"choices": [{"message": {"content": given}}]}).encode())
                status, headers, content = (given, dict[str, str](), b"") if isinstance(given, int) else given
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def endpoint(self, **more: Any) -> Endpoint:
        self.waits: list[float] = []
        return Endpoint(self.url, "judge-1", wait=self.waits.append, **more)


@pytest.fixture
def fake() -> Iterator[Callable[[Callable[[str], Answer]], Fake]]:
    made: list[Fake] = []

    def make(answer: Callable[[str], Answer]) -> Fake:
        made.append(Fake(answer))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()


def test_scales_are_judged_question_by_question_and_blind(tmp_path: Path, fake: Any) -> None:
    def answer(prompt: str) -> str:
        return (
            "4" if "written, sentence" in prompt else "<think>3 or 5?</think> Rating: 2/5" if "hang" in prompt else "0"
        )

    endpoint = fake(answer)
    with small_study(tmp_path / "study") as study:
        judged = judge(study, endpoint.endpoint(token="secret-token-of-mine"))
        assert (judged.tasks, judged.requests, judged.unclear) == (20, 60, 0)
        ratings = study.ratings()
        assert {(row.question, row.value) for row in ratings} == {("fluency", 4), ("coherence", 2), ("relevance", None)}
        assert {row.rater_kind for row in ratings} == {"model"}
        assert len({row.item for row in ratings}) == 18
        assert [row.kind for row in study.progress() if row.total] == ["model"]
        words = " ".join(request["messages"][-1]["content"] for request in endpoint.requests)
        assert not any(word in words for word in ("runs/", "system", "human"))
        text = next(iter(study.texts.values()))
        assert text.given in words
        assert text.continuation in words
        assert "Hardly a sentence is English" in words
        first = endpoint.requests[0]
        assert (first["path"], first["temperature"], first["model"]) == ("/v1/chat/completions", 0, "judge-1")
        assert first["headers"]["Authorization"] == "Bearer secret-token-of-mine"
        # People have as much to rate as before.
        assert len(study.tasks(study.consent(people(study)[0]))) == 17
        with pytest.raises(UserError, match="has judged this study already"):
            judge(study, endpoint.endpoint())
        assert judge(study, endpoint.endpoint(), name="once more").tasks == 20


def test_a_judge_that_prefers_a_side_finds_ties_and_one_that_reads_does_not(tmp_path: Path, fake: Any) -> None:
    def last_in_the_alphabet(prompt: str) -> str:
        texts = re.findall(r"(?s)<continuation [AB]>\n(.*?)\n</continuation", prompt)
        return "A" if texts == sorted(texts, reverse=True) else "B"

    with small_study(tmp_path / "study", "pairs", systems=2) as study:
        judge(study, fake(lambda prompt: "A is better.").endpoint(), name="side")
        judge(study, fake(last_in_the_alphabet).endpoint(), name="reader")
        side, reader = [rater.id for rater in study.raters() if rater.kind == "model"]
        winners = {
            name: [row.winner for row in study.preferences() if row.rater == name and not row.repeat]
            for name in (side, reader)
        }
        assert winners[side] == ["tie"] * 6
        assert len(winners[reader]) == 6
        for row in (one for one in study.preferences() if one.rater == reader):
            item = study.items[row.item]
            assert item.second is not None
            first, second = (study.texts[one].continuation for one in (item.first, item.second))
            assert row.winner == ("first" if first > second else "second")


def test_answers_without_an_answer_are_counted(tmp_path: Path, fake: Any) -> None:
    with small_study(tmp_path / "study", "pairs", systems=2, ties=False, checks=0) as study:
        judged = judge(study, fake(lambda prompt: "I would call it a tie.").endpoint())
        assert (judged.tasks, judged.unclear) == (12, 12)
        assert {row.winner for row in study.preferences()} == {None}


def test_a_judge_that_breaks_down_goes_on_where_it_was(tmp_path: Path, fake: Any) -> None:
    calls = Counter[str]()

    def answer(prompt: str) -> Answer:
        calls["all"] += 1
        return 503 if 6 <= calls["all"] <= 9 else "3"

    endpoint = fake(answer)
    with small_study(tmp_path / "study", checks=0) as study:
        with pytest.raises(MachineError, match="no answer after 4 attempts: 503"):
            judge(study, endpoint.endpoint())
        assert endpoint.waits == [1.0, 2.0, 4.0]
        assert len(study.ratings()) == 3  # one task of three questions; the second one broke off
        judged = judge(study, endpoint.endpoint())
        assert judged.tasks == 17
        assert len(study.ratings()) == 54
        assert len([rater for rater in study.raters() if rater.kind == "model"]) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {}, b'{"error": {"message": "no such\\nkey"}}'), "refused: 401 no such key"),
        ((404, {}, b"<html>nothing here</html>"), "refused: 404 <html>nothing here</html>"),
        ((302, {"Location": "http://127.0.0.1:9/v1"}, b""), "refused: 302"),
        ((200, {}, b"<html>"), "is it base_url"),
        ((200, {}, b'{"choices": []}'), "is it base_url"),
        ((200, {}, b"[]"), "is it base_url"),
    ],
)
def test_what_is_no_endpoint_is_told_in_one_line_and_leaves_no_rater(
    tmp_path: Path, fake: Any, answer: Answer, said: str
) -> None:
    with small_study(tmp_path / "study") as study:
        with pytest.raises(UserError) as refused:
            judge(study, fake(lambda prompt: answer).endpoint())
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
        assert [rater for rater in study.raters() if rater.kind == "model"] == []


def test_an_address_without_a_server_and_one_that_is_none(tmp_path: Path) -> None:
    with small_study(tmp_path / "study") as study, pytest.raises(MachineError, match="no answer after 4 attempts"):
        judge(study, Endpoint("http://127.0.0.1:9/v1", "m", wait=lambda seconds: None))
    for url in ("file:///etc/passwd", "ftp://x/v1", "localhost:8000", "http://"):
        with pytest.raises(UserError, match="--url"):
            Endpoint(url, "m")


def test_a_busy_endpoint_says_how_long_to_wait(fake: Any) -> None:
    calls = Counter[str]()

    def answer(prompt: str) -> Answer:
        calls["all"] += 1
        return (429, {"Retry-After": "7"}, b"") if calls["all"] < 3 else "5"

    endpoint = fake(answer)
    assert endpoint.endpoint().ask("?") == "5"
    assert endpoint.waits == [7.0, 7.0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4", 4),
        ("**4**", 4),
        ("Rating: 3 out of 5", 3),
        ("0", None),
        ("I give it a 2.", 2),
        ("10, no: 5", 5),
        ("4.", 4),
    ],
)
def test_numbers_are_read(text: str, found: int | None) -> None:
    assert read_number(text) == found


@pytest.mark.parametrize("text", ["", "good", "7", "3.5", "42"])
def test_what_is_no_number_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="no number"):
        read_number(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A", "left"),
        ("**B**", "right"),
        ("Tie", "tie"),
        ("It is a tie", "tie"),
        ("0", None),
        ("Continuation B.", "right"),
    ],
)
def test_sides_are_read(text: str, found: str | None) -> None:
    assert read_side(text, ties=True) == found


@pytest.mark.parametrize("text", ["", "a", "Both", "1"])
def test_what_is_no_side_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        read_side(text, ties=True)


def test_this_projects_own_server_judges(tmp_path: Path) -> None:
    # The first character of a request chooses the answer: H of both forms of request.
    run = chain_run(tmp_path / "run", {"H": "4", "A": "1"}, block_size=8192)
    with small_study(tmp_path / "study", systems=2, prompts=2, checks=0) as study:
        with Server(f"judge={run}", cwd=tmp_path) as server:
            judged = judge(study, Endpoint(f"{server.address}/v1", "judge", max_tokens=8))
        assert (judged.tasks, judged.unclear) == (4, 0)
        assert {row.value for row in study.ratings()} == {4}
        rate_all(study, study.consent(people(study)[0]))
        assert {row.rater_kind for row in study.ratings()} == {"model", "person"}
    with Study.open(tmp_path / "study") as study:
        assert kept(study, study.tasks(judged.rater)[0])["rater"] == judged.rater.id
