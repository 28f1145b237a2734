"""A training that is followed: its run folder, read while it is written."""

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, SMALL, InProcess, story
from filelock import FileLock
from serving import Server, begun_run, model_run

from llm_from_scratch.cli import main
from llm_from_scratch.config import BatchConfig, Config, SamplingConfig, TrainerConfig
from llm_from_scratch.files import publish
from llm_from_scratch.generation import generate
from llm_from_scratch.pace import Pace
from llm_from_scratch.run import append_row, line_checksums, read_rows, read_samples, write_rows
from llm_from_scratch.saved_config import save_config
from llm_from_scratch.serve import feeds
from llm_from_scratch.serve.answers import ApiError
from llm_from_scratch.serve.feeds import Feed, Follower
from llm_from_scratch.serve.follow import Change, FollowedRun
from llm_from_scratch.training import live
from llm_from_scratch.training.live import Live
from llm_from_scratch.weights import load_model


def row(step: int, loss: float = 3.0, split: str = "train") -> dict[str, Any]:
    return {"step": step, "split": split, "loss": loss}


def steps(change: Change | None) -> list[int]:
    assert change is not None
    return [one.step for one in change.rows]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as a training has made it before its first row."""
    return begun_run(tmp_path / "run", every=40)


# ---------------------------------------------------------------------------------------------- rows
def test_rows_come_once_and_a_half_line_when_it_is_whole(run: Path) -> None:
    followed = FollowedRun(run)
    assert steps(followed.look()) == []
    append_row(run / "metrics.jsonl", row(10))
    assert followed.look() == Change(None, [(10, '{"step":10,"split":"train","loss":3.0}')], [], followed.state)  # type: ignore[list-item]
    assert followed.look() is None
    append_row(run / "metrics.jsonl", row(20))
    whole = (run / "metrics.jsonl").read_bytes()
    for length in range(len(whole) - 41, len(whole)):  # each part of the last line
        (run / "metrics.jsonl").write_bytes(whole[:length])
        assert followed.look() is None
    (run / "metrics.jsonl").write_bytes(whole)
    append_row(run / "metrics.jsonl", row(20, split="val"))
    assert steps(followed.look()) == [20, 20]
    assert [json.loads(one.json) for one in followed.rows] == read_rows(run / "metrics.jsonl")


def test_damaged_lines_are_left_out(run: Path) -> None:
    for step in (10, 20, 30):
        append_row(run / "metrics.jsonl", row(step))
    path = run / "metrics.jsonl"
    path.write_bytes(
        path.read_bytes().replace(b'20, "split": "train", "loss": 3.0', b'20, "split": "train", "loss": 9.0')
    )
    with path.open("a") as file:
        file.write('\n[]\n{"step": "x"}\nno row\n')
    append_row(path, {"step": 40, "loss": float("nan")})
    assert steps(FollowedRun(run).look()) == [10, 30]
    line_checksums(path).unlink()  # as in version 0.1: lines are read unverified
    assert steps(FollowedRun(run).look()) == [10, 20, 30]


def test_a_resumed_run_cuts_its_rows_back(run: Path) -> None:
    path = run / "metrics.jsonl"
    for step in (10, 20, 30, 40):
        append_row(path, row(step))
    followed = FollowedRun(run)
    followed.look()
    write_rows(path, [one for one in read_rows(path) if one["step"] <= 25])
    change = followed.look()
    assert change is not None
    assert (change.cut, change.rows, change.state["step"]) == (29, [], 20)
    append_row(path, row(30, 2.5))
    assert steps(followed.look()) == [30]
    # Cut back and written again between two looks: to the same length, and beyond.
    write_rows(path, [row(10), row(20), row(30, 2.0), row(40, 2.0), row(50, 2.0)])
    change = followed.look()
    assert change is not None
    assert (change.cut, steps(change)) == (29, [30, 40, 50])
    assert [json.loads(one.json)["loss"] for one in change.rows] == [2.0] * 3
    # The same rows once more in a new file are no change.
    write_rows(path, read_rows(path))
    assert followed.look() is None


def test_a_file_in_the_place_of_another_is_seen_by_its_bytes(run: Path) -> None:
    path = run / "metrics.jsonl"
    for step in (10, 20):
        append_row(path, row(step))
    followed = FollowedRun(run)
    followed.look()
    longer = "".join(json.dumps(row(step, 7.0)) + "\n" for step in (11, 21, 31))
    line_checksums(path).unlink()
    with path.open("r+") as file:  # the same file by its number
        file.write(longer)
    change = followed.look()
    # The checksums of the rows that were read before are known still: none of these lines has one.
    assert change is not None
    assert (change.cut, change.rows) == (9, [])
    assert steps(FollowedRun(run).look()) == [11, 21, 31]


# ------------------------------------------------------------------------------------------- samples
def test_samples_come_as_plain_text_and_a_half_one_is_replaced(run: Path) -> None:
    followed, path = FollowedRun(run), run / "samples.md"
    followed.look()
    path.write_text("# Samples\n")
    assert followed.look() is None
    path.write_text("# Samples\n\n## Step 40\n\n    Dorothy went")
    change = followed.look()
    assert change is not None
    assert change.samples == [(40, "Dorothy went")]
    text = "# Samples\n\n## Step 40\n\n    Dorothy went\n\n      <b>home</b>\n    # and back\n"
    path.write_text(text)
    change = followed.look()
    assert change is not None
    assert change.samples == [(40, "Dorothy went\n\n  <b>home</b>\n# and back")]
    assert change.cut is None
    path.write_text(text + "\n## Step 80\n\n    Toto\n")
    change = followed.look()
    assert change is not None
    assert change.samples == [(80, "Toto")]
    path.write_text(text)  # a resumed run
    change = followed.look()
    assert change is not None
    assert (change.cut, change.samples) == (79, [])


# --------------------------------------------------------------------------------------------- state
def test_the_state_follows_the_lock_the_settings_and_the_clock(run: Path) -> None:
    followed = FollowedRun(run)
    unknown = dict.fromkeys(("tokens_per_second", "tokens_seen", "seconds_left"))
    assert followed.look() is not None
    assert followed.state == {
        "there": True, "step": 0, "max_steps": 100, "running": False, "ended": False, **unknown
    }  # fmt: skip
    with FileLock(run / ".lock"):
        # The first row holds the start's costs; then 10 steps in 2 s, and a validation of 3 s.
        for step, seconds in ((10, 60.0), (20, 9.0), (30, 2.0), (40, 2.0)):
            append_row(run / "metrics.jsonl", row(step))
            append_row(
                run / "timing.jsonl",
                {"step": step, "tokens_per_second": 5000, "seconds": seconds, "tokens_seen": 100 * step},
            )
        append_row(run / "timing.jsonl", {"step": 40, "validation_seconds": 3.0})
        change = followed.look()
        assert change is not None
        assert change.state["running"]
        assert (change.state["step"], change.state["tokens_per_second"], change.state["tokens_seen"]) == (
            40,
            5000,
            4000,
        )
        # 60 steps of 0.2 s; validations at 80 and at the end.
        assert change.state["seconds_left"] == pytest.approx(12 + 6)
    change = followed.look()
    assert change is not None
    assert (change.state["running"], change.state["ended"], change.state["seconds_left"]) == (False, False, None)
    (run / "curves.png").touch()
    change = followed.look()
    assert change is not None
    assert (change.state["running"], change.state["ended"]) == (False, True)


def test_later_steps_with_larger_batches_take_longer(run: Path) -> None:
    data = BatchConfig(batch_size=40, batch_schedule=[[50, 10]])
    config = Config(trainer=TrainerConfig(max_steps=100, val_check_interval=1000))
    config.data.batch_size, config.data.batch_schedule = data.batch_size, data.batch_schedule
    save_config(config, run / "config.yaml")
    for step in (10, 20, 30):
        append_row(run / "metrics.jsonl", row(step))
        append_row(run / "timing.jsonl", {"step": step, "tokens_per_second": 1, "seconds": 1.0})
    with FileLock(run / ".lock"):
        change = FollowedRun(run).look()
    assert change is not None
    # 0.01 s a sequence: 20 steps of 10, then 50 of 40; a validation at the end is not timed yet.
    assert change.state["seconds_left"] == pytest.approx(0.01 * (200 + 2000))
    assert Pace(float, 100, 40).left(20) == 0  # without a row


def test_a_look_does_not_keep_a_training_out(run: Path) -> None:
    followed = FollowedRun(run)
    (run / ".lock").touch()
    followed.look()
    with FileLock(run / ".lock", timeout=0):  # no look holds it
        assert followed.look() is not None


# ------------------------------------------------------------------------------- other things on disk
def test_a_folder_that_is_deleted_and_made_again(run: Path) -> None:
    append_row(run / "metrics.jsonl", row(10))
    followed = FollowedRun(run)
    followed.look()
    shutil.rmtree(run)
    change = followed.look()
    assert change is not None
    assert (change.cut, change.rows, change.state["there"], change.state["max_steps"]) == (9, [], False, None)
    assert followed.look() is None
    run.mkdir()
    append_row(run / "metrics.jsonl", row(5, 8.0))
    change = followed.look()
    assert change is not None
    assert (steps(change), change.state["there"]) == ([5], True)


@pytest.mark.skipif(os.name == "nt", reason="pipes of Unix")
def test_a_strangers_links_and_pipes_are_not_read(run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"step": 1, "secret": true}\n')
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(tmp_path / "secret")
    line_checksums(run / "metrics.jsonl").unlink()
    os.mkfifo(run / "samples.md")
    (run / ".lock").symlink_to(tmp_path / "secret")
    (run / "config.yaml").write_text("model: [")
    followed = FollowedRun(run)
    change = followed.look()
    assert change is not None
    assert (change.rows, change.samples, change.state["running"], change.state["max_steps"]) == ([], [], False, None)


# -------------------------------------------------------------------------------------------- events
async def received(follower: Follower, count: int) -> list[dict[str, Any]]:
    """The next events of a follower, comments left out."""
    found: list[dict[str, Any]] = []
    stream = follower.events()
    while len(found) < count:
        event = await anext(stream)
        if event.startswith(b"data: "):
            found.append(json.loads(event.removeprefix(b"data: ")))
    await stream.aclose()
    return found


def test_followers_share_the_looks_and_get_all_from_their_step_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LOOK_SECONDS", 0.01)
    for step in (10, 20, 30):
        append_row(run / "metrics.jsonl", row(step))
    (run / "samples.md").write_text("# Samples\n\n## Step 20\n\n    one\n\n## Step 30\n\n    two\n")
    looks = []

    async def scene() -> None:
        feed = Feed(FollowedRun(run), lambda: 20)
        look = feed.run.look
        monkeypatch.setattr(feed.run, "look", lambda: looks.append(threading.current_thread()) or look())
        late, early = feed.join(20), feed.join(-1)
        tasks = [asyncio.create_task(received(one, 3)) for one in (late, early)]
        while len(feed._told) < 2:
            await asyncio.sleep(0.01)
        append_row(run / "metrics.jsonl", row(40))
        while not any(one.step == 40 for one in feed.run.rows):
            await asyncio.sleep(0.01)
        write_rows(run / "metrics.jsonl", [row(10)])
        of_late, of_early = await asyncio.gather(*tasks)
        assert [one["step"] for one in of_late[0]["rows"]] == [30]
        assert (of_late[0]["cut"], of_late[0]["samples"]) == (20, [{"step": 30, "text": "two"}])
        assert [one["step"] for one in of_early[0]["rows"]] == [10, 20, 30]
        assert (of_early[0]["cut"], len(of_early[0]["samples"])) == (-1, 2)
        assert of_early[0]["state"]["model"] == 20
        for events in (of_late, of_early):
            assert events[1] == {"rows": [row(40)], "samples": [], "state": events[1]["state"]}
            assert (events[2]["cut"], events[2]["rows"]) == (19, [])
        for one in (late, early):
            one.close()
        assert not feed.joined
        await asyncio.sleep(0.1)  # nobody follows any more
        count = len(looks)
        await asyncio.sleep(0.1)
        assert len(looks) == count

    asyncio.run(scene())
    assert threading.main_thread() not in looks  # a slow disk does not stop the event loop


def test_a_feed_is_bounded_kept_alive_and_ended(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "KEEP_ALIVE_SECONDS", 0.05)
    monkeypatch.setattr(feeds, "MOST_ROWS", 2)
    for step in range(1, 6):
        append_row(run / "metrics.jsonl", row(step))

    async def scene() -> None:
        feed = Feed(FollowedRun(run), lambda: None)
        stream = feed.join(-1).events()
        first = [json.loads((await anext(stream)).removeprefix(b"data: ")) for _ in range(3)]
        assert [[one["step"] for one in event["rows"]] for event in first] == [[1, 2], [3, 4], [5]]
        assert ["cut" in event for event in first] == [True, False, False]
        assert await anext(stream) == feeds.KEEP_ALIVE
        for _ in range(feeds.MOST_FOLLOWERS - 1):
            feed.join(-1)
        with pytest.raises(ApiError, match="32 clients follow this run already") as refused:
            feed.join(-1)
        assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "10"})
        feed.close()
        assert [event async for event in stream if event != feeds.KEEP_ALIVE] == []
        with pytest.raises(ApiError, match="the server stops"):
            feed.join(-1)

    asyncio.run(scene())


# -------------------------------------------------------------------------------------------- server
class Events:
    """The events of a run of a server, as they come."""

    def __init__(self, address: str, name: str, query: str = "") -> None:
        self.connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=120)
        self.connection.request("GET", f"/play/runs/{name}/events{query}")
        self.answer = self.connection.getresponse()
        self.rows: dict[tuple[int, str], dict[str, Any]] = {}
        self.samples: dict[int, str] = {}
        self.state: dict[str, Any] = {}

    def read(self) -> bool:
        """Takes in the next event, as a page does; False at the end."""
        while line := self.answer.readline():
            if line.startswith(b"data: "):
                event = json.loads(line.removeprefix(b"data: "))
                cut = event.get("cut", 2**53)
                self.rows = {key: one for key, one in self.rows.items() if key[0] <= cut}
                self.rows |= {(one["step"], one["split"]): one for one in event["rows"]}
                self.samples = {step: text for step, text in self.samples.items() if step <= cut}
                self.samples |= {one["step"]: one["text"] for one in event["samples"]}
                self.state = event["state"]
                return True
        return False

    def until(self, true: Callable[[], bool]) -> None:
        while not true():
            assert self.read(), self.state


def models(address: str) -> list[str]:
    with urllib.request.urlopen(f"{address}/v1/models", timeout=120) as answer:
        return [one["id"] for one in json.load(answer)["data"]]


def completed(address: str, model: str, **settings: Any) -> str:
    body = {"model": model, "prompt": "a", "temperature": 0, "max_tokens": 20, **settings}
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        text: str = json.load(answer)["choices"][0]["text"]
        return text


def test_a_run_without_a_model_is_followed_and_its_models_are_taken_up(run: Path, tmp_path: Path) -> None:
    model_run(tmp_path / "other")
    for seed in (1, 2):
        model_run(tmp_path / f"model{seed}", seed=seed)
    with Server("other", "mine=run", "--follow", cwd=tmp_path) as server:
        assert models(server.address) == ["other"]
        events = Events(server.address, "mine")
        assert events.read()
        assert (events.rows, events.state["model"], events.state["max_steps"]) == ({}, None, 100)
        with FileLock(run / ".lock"):
            append_row(run / "metrics.jsonl", row(10))
            events.until(lambda: events.state["running"] and len(events.rows) == 1)
            shutil.copytree(tmp_path / "model1/model", run / ".building")
            (run / ".building").rename(run / "model")
            events.until(lambda: events.state["model"] == 1)
            assert models(server.address) == ["other", "mine"]
            first = completed(server.address, "mine")
            shutil.copytree(tmp_path / "model2/model", run / ".building")
            publish(run / ".building", run / "model")
            while completed(server.address, "mine") == first:
                time.sleep(0.05)
        second = completed(server.address, "mine")
        loaded = load_model(run)
        assert second == "".join(
            piece
            for (piece,) in generate(
                loaded.model, loaded.tokenizer, "a", SamplingConfig(temperature=0, max_new_tokens=20)
            )
        )
        # A run in its place that has another shape is not taken for it.
        shutil.rmtree(run / "model")
        model_run(tmp_path / "model3", block_size=256)
        shutil.copytree(tmp_path / "model3/model", run / "model")
        while "holds another run now: start the server again" not in "".join(server.errors):
            time.sleep(0.05)
        assert completed(server.address, "mine") == second
        # The end of a server ends the events, too.
        assert server.stop() == 128 + 15
        events.until(lambda: True)
        while events.read():
            pass


def test_mistakes_of_followers_are_refused(run: Path, tmp_path: Path) -> None:
    model_run(tmp_path / "other")
    with Server("run", "--follow", cwd=tmp_path) as server:
        for path, status, message in (
            ("other/events", 404, "the run 'other' is not followed: there are run"),
            ("run/events?after=x", 400, "after: must be a step, or -1 for all"),
            ("run/events?after=-2", 400, "after: must be a step"),
            ("run/events?after=1&x=2", 400, "'x': there is no such field"),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{server.address}/play/runs/{path}", timeout=120)
            assert refused.value.code == status
            assert message in json.load(refused.value)["error"]["message"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            completed(server.address, "run")
        assert "a run has one after its first validation" in json.load(refused.value)["error"]["message"]


def test_follow_needs_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model_run(tmp_path / "other")  # has no config.yaml
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "other", "--follow", "--port", "0"])
    assert ended.value.code == 2
    assert "--follow: other is no run folder" in capsys.readouterr().err


# ---------------------------------------------------------------------------------- beside a training
STEPS = ("trainer.max_steps=60", "trainer.val_check_interval=25", "model.dropout=0.1", "optim.warmup_steps=5")


class Training:
    """A training in a process of its own; `lines` is what it says."""

    def __init__(self, folder: Path, *words: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(REPO / "src"), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(REPO / "train.py"), *words]
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, encoding="utf-8")
        self.lines: list[str] = []

    def address(self) -> str:
        """The address of its page."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"live: (http://127\.0\.0\.1:\d+) shows this run", line)
            if found:
                return found[1]
        raise AssertionError("".join(self.lines))

    def end(self, number: int | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=300)
        self.lines += rest.splitlines(keepends=True)
        return self.process.returncode


def is_open(address: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10):
            return True
    except OSError:
        return False


def closes(address: str) -> bool:
    deadline = time.monotonic() + 120
    while is_open(address) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not is_open(address)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_training_has_a_page_that_ends_with_it(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "story.txt", tmp_path)
    # Killed, with no time to say anything: the page tells that it has stopped, and ends.
    words = (*SMALL, "run_dir=run", "trainer.val_check_interval=25", "model.dropout=0.1", "optim.warmup_steps=5")
    training = Training(tmp_path, *words, "trainer.max_steps=1000000", "callbacks=live")
    address = training.address()
    events = Events(address, "run")
    events.until(lambda: (25, "val") in events.rows and 25 in events.samples and events.state["model"] is not None)
    assert events.state["running"]
    assert completed(address, "run", prompt="Dorothy", max_tokens=3)
    assert training.end(signal.SIGKILL) == -signal.SIGKILL
    events.until(lambda: not events.state["running"])
    assert not events.state["ended"]
    while events.read():
        pass
    assert closes(address)
    # Resumed: another page, by the settings of the run; Ctrl-C ends the training and that page.
    training = Training(tmp_path, "resume=run")
    address = training.address()
    assert is_open(address)
    assert training.end(signal.SIGINT) == 128 + signal.SIGINT
    assert closes(address)
    assert not [line for line in training.lines if "callbacks.live" in line]


@pytest.mark.slow
def test_with_a_page_a_run_is_the_same_and_what_is_followed_is_the_run(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "story.txt", tmp_path)
    training = Training(tmp_path, *SMALL, *STEPS, "run_dir=run", "callbacks=live")
    run = tmp_path / "run"
    while not (run / "config.yaml").exists():
        assert training.process.poll() is None
        time.sleep(0.05)
    with Server("run", "--follow", cwd=tmp_path) as server:
        events = Events(server.address, "run")
        events.until(lambda: events.state.get("ended", False))
        assert training.end() == 0
        assert [*events.rows.values()] == read_rows(run / "metrics.jsonl")
        assert {step: f"\n{quoted(text)}\n" for step, text in events.samples.items()} == dict(
            read_samples(run / "samples.md")
        )
        events.until(lambda: events.state["model"] == load_model(run).step)
    same = finished / "run"
    assert (run / "metrics.jsonl").read_bytes() == (same / "metrics.jsonl").read_bytes()
    for name in ("state.json", "tensors.safetensors"):
        assert (run / "checkpoints/step_00000060" / name).read_bytes() == (
            same / "checkpoints/step_00000060" / name
        ).read_bytes()


def quoted(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.split("\n"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["callbacks=live", "callbacks.live.host=0.0.0.0"], "callbacks.live.host=0.0.0.0: other machines can reach it"),
        (["callbacks=live", "callbacks.live.port=65536"], "callbacks.live.port=65536: must be from 0 to 65535"),
        (["callbacks=live", "callbacks.live.port=x"], "callbacks.live.port=x: must be from 0 to 65535"),
        (
            ["callbacks=live", "+callbacks.live.name=x"],
            "callbacks.live.name: there is no such setting; it has host, port",
        ),
        (["callbacks.live.port=1"], "callbacks.live.port: changes nothing without callbacks=live"),
    ],
)
def test_settings_of_the_page_are_checked_before_a_run_starts(
    train_here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    (tmp_path / "story.txt").write_text(story(3000), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    status, said = train_here(*SMALL, "run_dir=run", *words)
    assert (status, message in said, said.count("\n")) == (2, True, 1), said
    assert not (tmp_path / "run").exists()


def test_a_page_needs_its_extra(train_here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "story.txt").write_text(story(3000), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(live, "find_spec", lambda name: None if name == "uvicorn" else name)
    status, said = train_here(*SMALL, "run_dir=run", "callbacks=live")
    assert status == 2
    assert "callbacks.live needs fastapi and uvicorn: pip install -e '.[serve]'" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("python", ["no/such/python", "false"])
def test_a_page_that_does_not_start_costs_a_line(
    python: str, run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live.sys, "executable", shutil.which(python) or python)
    page = Live()
    page.start(run)
    deadline = time.monotonic() + 60
    while not caplog.messages and time.monotonic() < deadline:
        time.sleep(0.01)
    (line,) = caplog.messages
    assert line.startswith("callbacks.live: its server ")
    assert line.endswith("; the training goes on")
    page.close()
