"""kill -9 of a study's server, at any instant: no confirmed answer is lost, and none is doubled."""

import random
import signal
import threading
import time
from pathlib import Path

import pytest
from rating_studies import people, small_study
from serving import Server

from llm_from_scratch.rating.store import Study

httpx = pytest.importorskip("httpx", reason="needs the extra serve and httpx")
KILLS = 50
FAILURES = (httpx.TransportError,)


class RoomServer(Server):
    command = ("rate", "serve", "--port", "0")


class Clicking(threading.Thread):
    """A rater who answers without a pause, and sends what is not confirmed again with its key."""

    def __init__(self, address: str, code: str, tasks: list[str]) -> None:
        super().__init__()
        self.address, self.tasks = address, tasks
        self.headers = {"Authorization": f"Bearer {code}"}
        self.confirmed: list[str] = []  # keys
        self.repeated = 0
        self.ended = threading.Event()

    def run(self) -> None:
        with httpx.Client(headers=self.headers, timeout=5) as client:
            number = 0
            while not self.ended.is_set():
                value = {"preference": ("left", "right", "tie", None)[number % 4]}
                key = f"{number:06}"
                body = {"task": self.tasks[number % len(self.tasks)], "value": value, "key": key}
                while True:
                    try:
                        response = client.post(
                            f"{self.address}/room/answers", json={**body, "comment": key, "seconds": 0.5}
                        )
                    except FAILURES:
                        self.repeated += 1
                        time.sleep(0.01)
                        continue
                    assert response.status_code == 200, response.text
                    break
                self.confirmed.append(key)
                number += 1


def kept(study: Study, code: str) -> list[str]:
    """The keys of all answers of a rater, in the order of their commits."""
    rater = study.rater(code)
    assert rater is not None
    query = "SELECT key FROM answers JOIN tasks ON tasks.id = answers.task WHERE tasks.rater = ? ORDER BY answers.id"
    return [row["key"] for row in study._database.all(query, rater.id)]


@pytest.mark.chaos
def test_fifty_kills_lose_no_confirmed_answer(tmp_path: Path) -> None:
    rng = random.Random(1)
    with small_study(tmp_path / "study", "pairs") as study:
        raters = people(study)[:3]
        for rater in raters:
            study.consent(rater)
        server = RoomServer(str(study.folder), cwd=tmp_path)
        clicking = [Clicking(server.address, rater.code, [task.id for task in study.tasks(rater)]) for rater in raters]
        for one in clicking:
            one.start()
        try:
            for _ in range(KILLS):
                time.sleep(rng.uniform(0, 0.3))
                assert server.stop(signal.SIGKILL) == -signal.SIGKILL
                for one, rater in zip(clicking, raters, strict=True):
                    sure = list(one.confirmed)
                    assert kept(study, rater.code)[: len(sure)] == sure
                server = RoomServer(str(study.folder), "--port", str(server.port), cwd=tmp_path)
            time.sleep(0.5)
        finally:
            for one in clicking:
                one.ended.set()
            for one in clicking:
                one.join()
            server.stop()
        for one, rater in zip(clicking, raters, strict=True):
            assert kept(study, rater.code) == one.confirmed
            assert one.repeated > 0
            assert len(one.confirmed) > KILLS
        assert study._database.all("PRAGMA integrity_check")[0][0] == "ok"
