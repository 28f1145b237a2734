"""kill -9 of the server between any two clicks of a rater in a browser."""

import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from rating_studies import people

from browser.guard import api
from browser.room import Room, RoomServer, answers, new_study

expect = api.expect
KILLS = 50
KEYS = {"1": "left", "2": "right", "t": "tie", "0": None}


@pytest.mark.chaos
def test_fifty_kills_between_clicks_lose_no_confirmed_answer(tmp_path: Path, browser: Any) -> None:
    """Before, while and after an answer is sent; the page says when it is saved."""
    rng = random.Random(2)
    plan = {"prompts": KILLS, "raters": 1, "ratings_per_item": 1, "repeats": 0, "checks": 0, "training": 0}
    with new_study(tmp_path / "study", "pairs", **plan) as study:
        (rater,) = people(study)
        server = RoomServer(str(study.folder), cwd=tmp_path)
        room = Room(browser.new_context(), server.address).open(rater.code).agree()
        room.guard.expect("ERR_")
        given = []
        for number in range(KILLS):
            place = room.place
            assert place == f"Pair {number + 1} of {KILLS}"
            key = rng.choice([*KEYS])
            given.append(KEYS[key])
            killed = threading.Timer(rng.uniform(0, 0.12), server.stop, (signal.SIGKILL,))
            killed.start()
            room.press(key)
            room.page.wait_for_timeout(rng.uniform(0, 60))
            room.press("Enter")
            killed.join()
            confirmed = room.page.locator("#answered").inner_text()
            assert len(answers(study)) >= int(confirmed.split()[0])
            if rng.random() < 0.2:  # a page that is loaded again has kept what was not confirmed
                room.page.goto("about:blank")
            server = RoomServer(str(study.folder), "--port", str(server.port), cwd=tmp_path)
            if room.page.url == "about:blank":
                room.open(rater.code)
            expect(room.page.locator("#place")).not_to_have_text(place)
            expect(room.page.locator("#problem")).to_have_text("")
            room.until(lambda done=number + 1: room.page.locator("#answered").inner_text().startswith(f"{done} of"))  # type: ignore[misc]
        server.stop()
        assert [task.answer for task in study.tasks(rater)] == [{"preference": one} for one in given]
        assert len(answers(study)) == KILLS
        room.context.close()
        room.guard.check()
