"""A study on disk: blind, lasting, right under many hands."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from rating_studies import kept, people, rate_all, small_plan, small_study, small_texts

from llm_from_scratch.errors import MachineError, UserError
from llm_from_scratch.rating import store
from llm_from_scratch.rating.store import Study

VALUE = {"fluency": 4, "coherence": 3, "relevance": None}


@pytest.fixture
def study(tmp_path: Path) -> Any:
    with small_study(tmp_path / "study") as found:
        yield found


@pytest.fixture
def pairs(tmp_path: Path) -> Any:
    with small_study(tmp_path / "pairs", "pairs") as found:
        yield found


def test_the_folder_holds_everything_and_is_the_owners_alone(study: Study) -> None:
    names = {path.name for path in study.folder.iterdir()}
    assert {"study.yaml", "texts.jsonl", "study.db", "owner_token", "exports"} <= names
    lines = (study.folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [asdict(text) for text in study.texts.values()]
    assert len(study.owner_token) > 30
    if os.name == "posix":
        assert study.folder.stat().st_mode & 0o077 == 0
        assert all(path.stat().st_mode & 0o077 == 0 for path in study.folder.iterdir())
    with pytest.raises(UserError, match="is there already"):
        Study.create(study.folder, study.plan, list(study.texts.values()), list(study.items.values()))


def test_codes_are_long_different_and_found(study: Study) -> None:
    codes = [rater.code for rater in people(study)] + study.invite(3)
    assert len(set(codes)) == study.plan.raters + 3
    assert all(re.fullmatch(r"[\w-]{24}", code) for code in codes)
    found = study.rater(codes[-1])
    assert found is not None
    assert found.code == codes[-1]
    for wrong in ("", codes[0][:-1], codes[0] + "a", codes[0].swapcase(), "é\udce9", "' OR 1=1 --"):
        assert study.rater(wrong) is None


def test_there_are_no_tasks_before_consent_and_consent_comes_once(study: Study) -> None:
    rater = people(study)[0]
    assert study.tasks(rater) == []
    first = study.consent(rater)
    tasks = study.tasks(rater)
    assert len(tasks) == 2 + 9 + 4 + 2  # training, 18 items of three ratings for six raters, repeats, checks
    again = study.consent(rater)
    assert again.consented == first.consented
    assert study.tasks(rater) == tasks


def test_background_is_kept_and_must_be_an_option(tmp_path: Path) -> None:
    background = [{"name": "english", "text": "Is English your first language?", "options": ["yes", "no"]}]
    with small_study(tmp_path / "study", background=background) as study:
        rater = people(study)[0]
        for wrong in ({"english": "perhaps"}, {"age": "3"}):
            with pytest.raises(UserError, match="no answer to a question"):
                study.consent(rater, wrong)
        assert study.tasks(rater) == []
        assert study.consent(rater, {"english": ""}).background == {}
        assert study.consent(rater, {"english": "no"}).background == {"english": "no"}
        rate_all(study, rater, VALUE)
        assert {rating.background["english"] for rating in study.ratings()} == {"no"}


def test_a_task_tells_nothing_but_its_texts(study: Study, pairs: Study) -> None:
    for one in (study, pairs):
        rater = one.consent(people(one)[0])
        tasks = one.tasks(rater)
        assert {task.kind for task in tasks} == {"training", "rated"}
        ids = [int(task.id) for task in tasks]
        assert ids != sorted(ids)
        other = one.consent(people(one)[1])
        assert {task.id for task in one.tasks(other)}.isdisjoint(task.id for task in tasks)
        for task in tasks:
            assert set(vars(task)) == {"id", "position", "kind", "given", "texts", "answer", "comment"}
            assert len(task.texts) == (1 if one is study else 2)


def test_the_newest_answer_counts_and_all_are_kept(study: Study) -> None:
    rater = study.consent(people(study)[0])
    task = next(task for task in study.tasks(rater) if task.kind == "rated")
    study.answer(rater, task.id, VALUE, "first", 3.5, "one")
    study.answer(rater, task.id, VALUE | {"fluency": 5}, "second <b>", 2.5, "two")
    study.answer(rater, task.id, VALUE | {"fluency": 1}, "repeated request", 9.0, "two")
    found = next(one for one in study.tasks(rater) if one.id == task.id)
    assert found.answer == VALUE | {"fluency": 5}
    assert found.comment == "second <b>"
    rows = study._database.all("SELECT * FROM answers ORDER BY id")
    assert [row["comment"] for row in rows] == ["first", "second <b>"]
    values = {rating.question: rating.value for rating in study.ratings()}
    assert values in ({}, VALUE | {"fluency": 5})  # {} where the first task is a check
    with pytest.raises(sqlite3.IntegrityError, match="answers are kept"):
        study._database.connection.execute("UPDATE answers SET value = '{}'")
    with pytest.raises(sqlite3.IntegrityError, match="answers are kept"):
        study._database.connection.execute("DELETE FROM answers")


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [],
        {},
        {"fluency": 4},
        {**VALUE, "other": 1},
        {**VALUE, "fluency": 0},
        {**VALUE, "fluency": 6},
        {**VALUE, "fluency": 3.0},
        {**VALUE, "fluency": True},
        {**VALUE, "fluency": "4"},
        {**VALUE, "fluency": [4]},
        {"preference": "left"},
    ],
)
def test_an_answer_that_does_not_fit_is_refused(study: Study, value: Any) -> None:
    rater = study.consent(people(study)[0])
    task = study.tasks(rater)[-1]
    with pytest.raises(UserError):
        study.answer(rater, task.id, value)
    assert study._database.all("SELECT * FROM answers") == []


@pytest.mark.parametrize("value", [{"preference": "first"}, {"preference": 1}, {"preference": ["left"]}, {"left": 1}])
def test_a_preference_that_does_not_fit_is_refused(pairs: Study, value: Any) -> None:
    rater = pairs.consent(people(pairs)[0])
    with pytest.raises(UserError):
        pairs.answer(rater, pairs.tasks(rater)[-1].id, value)


def test_a_tie_is_refused_where_the_plan_has_none(tmp_path: Path) -> None:
    with small_study(tmp_path / "study", "pairs", ties=False) as study:
        rater = study.consent(people(study)[0])
        task = study.tasks(rater)[-1]
        with pytest.raises(UserError, match="left, right, or null"):
            study.answer(rater, task.id, {"preference": "tie"})
        study.answer(rater, task.id, {"preference": None})


def test_no_code_looks_like_an_option(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["-abc", "-def", "ghi"])
    monkeypatch.setattr(store.secrets, "token_urlsafe", lambda size: next(drawn))
    assert study.invite(1) == ["ghi"]


@pytest.mark.parametrize(
    ("seconds", "found"),
    [
        (2, 2.0),
        (-5, 0.0),
        (10**400, 86_400.0),
        (float("inf"), 86_400.0),
        (float("nan"), None),
        ("3", None),
        (True, None),
    ],
)
def test_times_of_a_client_are_within_reason(study: Study, seconds: Any, found: float | None) -> None:
    rater = study.consent(people(study)[0])
    study.answer(rater, study.tasks(rater)[-1].id, VALUE, seconds=seconds)
    (row,) = study._database.all("SELECT seconds FROM answers")
    assert row["seconds"] == found


def test_comments_may_hold_anything_but_no_book(study: Study) -> None:
    rater = study.consent(people(study)[0])
    task = study.tasks(rater)[-1]
    hostile = "<script>alert(1)</script> \x00 \udce9 ‮ '; DROP TABLE answers; --"
    study.answer(rater, task.id, VALUE, hostile)
    assert study.tasks(rater)[-1].comment == hostile.replace("\udce9", "?")
    with pytest.raises(UserError, match="comment"):
        study.answer(rater, task.id, VALUE, "x" * 2001)
    with pytest.raises(UserError, match="comment"):
        study.answer(rater, task.id, VALUE, 3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="key"):
        study.answer(rater, task.id, VALUE, key="x" * 101)


def test_a_task_of_another_is_refused(study: Study) -> None:
    one, other = (study.consent(rater) for rater in people(study)[:2])
    for task in (study.tasks(other)[0].id, "", "0", "1 OR 1=1", "٣"):
        with pytest.raises(UserError, match="no such task"):
            study.answer(one, task, VALUE)


def test_training_has_feedback_and_nothing_else_has(study: Study, pairs: Study) -> None:
    for one, right, wrong in (
        (study, {"fluency": 5, "coherence": 4, "relevance": 1}, {"fluency": 5, "coherence": 4, "relevance": None}),
        (pairs, None, None),
    ):
        rater = one.consent(people(one)[0])
        for task in one.tasks(rater):
            value: Any = right or {"preference": "left"}
            feedback = one.answer(rater, task.id, value)
            assert (feedback is not None) == (task.kind == "training")
            if feedback is None:
                continue
            assert feedback.text
            if task.position == 0 and right:
                assert feedback.agrees
                assert feedback.expected == {"fluency": [4, 5], "coherence": [4, 5], "relevance": [1, 1]}
                again = one.answer(rater, task.id, wrong)
                assert again is not None
                assert not again.agrees
            if not right:
                assert feedback.agrees == (feedback.expected == {"preference": "left"})
                said = "youngest" if "miller" in task.given else "driver"
                best = task.texts[0 if feedback.expected == {"preference": "left"} else 1]
                assert said in best


def test_sides_are_turned_back(pairs: Study) -> None:
    for rater in people(pairs):
        rate_all(pairs, pairs.consent(rater), {"preference": "left"})
        assert all(task.answer == {"preference": "left"} for task in pairs.tasks(rater))
    found = pairs.preferences()
    assert {row.winner for row in found} == {"first", "second"}
    for row in found:
        assert row.winner == row.shown_left
    counts = Counter(row.item for row in found if not row.repeat)
    assert set(counts.values()) == {3}
    assert sum(row.repeat for row in found) > 0
    lefts = Counter(row.shown_left for row in found if not row.repeat)
    assert abs(lefts["first"] - lefts["second"]) <= 6


def test_a_check_is_passed_by_who_does_as_it_asks(tmp_path: Path) -> None:
    with small_study(tmp_path / "study", checks=4) as study:
        rater = study.consent(people(study)[0])
        tasks = study.tasks(rater)
        for task in tasks:
            found = re.search(r"every question about this text with (\d)", task.texts[0])
            study.answer(rater, task.id, dict.fromkeys(VALUE, int(found[1]) if found else 3))
        assert [check.passed for check in study.checks()] == [True] * 4
        rate_all(study, rater, dict.fromkeys(VALUE, 3))
        assert [check.passed for check in study.checks()] == [False] * 4
        assert all(rating.value == 3 for rating in study.ratings())
        assert {study.items[rating.item].kind for rating in study.ratings()} == {"rated"}


def test_a_study_of_the_whole_panel_has_every_rating(study: Study) -> None:
    for rater in people(study):
        rate_all(study, study.consent(rater), VALUE)
    counts = Counter((row.item, row.question) for row in study.ratings() if not row.repeat)
    assert set(counts.values()) == {3}
    assert len(counts) == 18 * 3
    assert all(rater.finished for rater in people(study))
    late = study.rater(study.invite()[0])
    assert late is not None
    study.consent(late)
    assert study.tasks(late) == []


def test_who_stops_in_the_middle_unbalances_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_study(tmp_path / "study", systems=3, prompts=8, raters=6, repeats=0) as study:
        first = study.consent(people(study)[0])
        tasks = study.tasks(first)
        rate_all(study, first, VALUE, tasks[:8])  # six or so of the systems' items, then nothing
        systems = Counter(rating.system for rating in study.ratings() if rating.question == "fluency")
        assert max(systems.values()) - min(systems.values()) <= 1
        monkeypatch.setattr(store, "IDLE", timedelta(seconds=-1))  # the first one has stopped
        for rater in people(study)[1:]:
            rate_all(study, study.consent(rater), VALUE)
        extra = study.rater(study.invite()[0])
        assert extra is not None
        rate_all(study, study.consent(extra), VALUE)
        counts = Counter(row.item for row in study.ratings() if row.question == "fluency")
        assert set(counts.values()) == {3}
        assert len(counts) == 24
        # Back again: what was begun can be finished.
        rate_all(study, first, VALUE)
        assert next(one for one in study.raters() if one.id == first.id).finished


def test_who_comes_when_all_is_given_away_rates_what_is_not_answered(study: Study) -> None:
    for rater in people(study):
        study.consent(rater)
    rate_all(study, people(study)[0], VALUE)
    late = study.rater(study.invite()[0])
    assert late is not None
    study.consent(late)
    assert study.tasks(late) != []


def test_a_closed_study_takes_nothing(study: Study) -> None:
    rater = study.consent(people(study)[0])
    task = study.tasks(rater)[-1]
    study.answer(rater, task.id, VALUE)
    assert study.closed is None
    study.close()
    time_of_close = study.closed
    study.close()
    assert study.closed == time_of_close is not None
    for refused in (
        lambda: study.answer(rater, task.id, VALUE),
        lambda: study.consent(people(study)[1]),
        lambda: study.invite(),
        lambda: study.model_rater("m"),
    ):
        with pytest.raises(UserError, match="closed"):
            refused()
    assert len(study._database.all("SELECT * FROM answers")) == 1


def test_progress_tells_no_code(study: Study) -> None:
    rater = study.consent(people(study)[0])
    study.answer(rater, study.tasks(rater)[0].id, VALUE)
    first, second = study.progress()[:2]
    assert (first.answered, first.total, first.code) == (1, 17, rater.code[-4:])
    assert first.last is not None
    assert (second.answered, second.total, second.last) == (0, 0, None)
    assert all(rater.code not in str(asdict(row)) for row in study.progress())


def test_a_model_judges_both_ways_and_its_mean_counts(pairs: Study) -> None:
    model = pairs.model_rater("judge-1")
    assert pairs.rater(model.code) is None  # no person comes in by the code of a model
    tasks = pairs.tasks(model)
    for task in tasks:
        row = kept(pairs, task)
        # Item 1: always the left one; item 2: always the first; others: cannot judge.
        sure = {"preference": "right" if row["swapped"] else "left"}
        value = {1: {"preference": "left"}, 2: sure}.get(row["item"], {"preference": None})
        pairs.answer(model, task.id, value)
    found = {row.item: row for row in pairs.preferences() if not row.repeat}
    assert {row.rater_kind for row in found.values()} == {"model"}
    assert (found[1].winner, found[2].winner, found[3].winner) == ("tie", "first", None)
    again = {row.item: row.winner for row in pairs.preferences() if row.repeat}
    assert (again[1], again[2]) == ("second", "first")
    person = pairs.consent(people(pairs)[0])
    assert len([task for task in pairs.tasks(person) if task.kind == "rated"]) == 9 + 4 + 2


def test_several_threads_and_processes_write_at_once(study: Study) -> None:
    raters = [study.consent(rater) for rater in people(study)[:4]]
    other = Study.open(study.folder)
    threads = [threading.Thread(target=rate_all, args=(one, rater)) for rater in raters for one in (study, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.disconnect()
    done = [row for row in study.progress() if row.total]
    assert [row.answered for row in done] == [row.total for row in done]
    assert len(study._database.all("SELECT * FROM answers")) == 2 * sum(row.total for row in done)


WRITER = """
import sys
from pathlib import Path
from llm_from_scratch.rating.store import Study
study = Study.open(Path(sys.argv[1]))
rater = study.rater(sys.argv[2])
task = study.tasks(rater)[-1].id
number = 0
while True:
    number += 1
    study.answer(rater, task, {"fluency": 1, "coherence": None, "relevance": 5}, str(number))
    print(number, flush=True)
"""


def test_a_kill_loses_no_confirmed_answer(study: Study) -> None:
    rater = study.consent(people(study)[0])
    confirmed, seen = 0, 0
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(study.folder), rater.code],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(REPO / "src")},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        time.sleep(0.02)
        process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        lines = ["1", *process.stdout.read().split()]
        process.wait()
        rows = study._database.all("SELECT comment FROM answers ORDER BY id")
        own = [row["comment"] for row in rows[seen:]]
        assert own[: len(lines)] == lines
        assert len(own) - len(lines) <= 1  # one more may be kept than was said
        seen, confirmed = len(rows), confirmed + len(lines)
    assert confirmed >= 5


@pytest.mark.parametrize("name", ["study.yaml", "texts.jsonl"])
def test_a_changed_plan_or_text_is_refused(study: Study, name: str) -> None:
    path = study.folder / name
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"is not what the study was made with"):
        Study.open(study.folder)


def test_what_is_no_study_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no study"):
        Study.open(tmp_path)
    (tmp_path / "study.db").write_bytes(b"nothing" * 100)
    with pytest.raises(UserError, match="is no database of a study"):
        Study.open(tmp_path)
    (tmp_path / "study.db").unlink()
    sqlite3.connect(tmp_path / "study.db").close()
    with pytest.raises(UserError, match="has version 0"):
        Study.open(tmp_path)


def test_a_full_disk_and_a_damaged_file_are_told_in_one_line(study: Study) -> None:
    rater = study.consent(people(study)[0])
    task = study.tasks(rater)[-1].id
    study.answer(rater, task, VALUE, "kept")
    pages = study._database.all("PRAGMA page_count")[0][0]
    study._database.connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for number in range(50):
            study.answer(rater, task, VALUE, "x" * 2000, key=str(number))

    with pytest.raises(MachineError, match="database or disk is full; what was confirmed is kept"):
        fill()
    assert study.tasks(rater)[-1].comment in ("kept", "x" * 2000)
    study.disconnect()
    path = study.folder / "study.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        Study.open(study.folder)


def test_a_study_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    plan = small_plan()
    with pytest.raises(UserError, match="cannot be made"):
        Study.create(tmp_path / "file" / "study", plan, *small_texts(plan))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
