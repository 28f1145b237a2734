"""The rating room in a browser: two raters at once, the keyboard alone, a phone, dark mode, axe-core,
a server that ends in the middle, two tabs, hostile texts.
"""

import json
import signal
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rating_studies import people

from browser.guard import api, findings
from browser.room import Room, RoomServer, answers, new_study
from llm_from_scratch.rating.store import Study

expect = api.expect
MARKUP = '<img src=x onerror="alert(1)"><b>&amp;</b>'
RIGHT_TO_LEFT = "\u202egnirts"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Study]]:
    """A study of each design."""
    folder = tmp_path_factory.mktemp("studies")
    asked = [{"name": "english", "text": f"Is English your first language? {MARKUP}", "options": ["yes", MARKUP]}]
    with (
        new_study(folder / "scales", "scales", title=f"Tales {MARKUP}", background=asked, raters=9) as scales,
        new_study(folder / "pairs", "pairs", raters=9) as pairs,
    ):
        yield {"scales": scales, "pairs": pairs}


@pytest.fixture(scope="module")
def servers(studies: dict[str, Study]) -> Iterator[dict[str, RoomServer]]:
    """A server for each study."""
    with (
        RoomServer(str(studies["scales"].folder), cwd=studies["scales"].folder) as scales,
        RoomServer(str(studies["pairs"].folder), cwd=studies["pairs"].folder) as pairs,
    ):
        yield {"scales": scales, "pairs": pairs}


@pytest.fixture
def new_room(in_context: Callable[..., Room]) -> Callable[..., Room]:
    """`new_room(address, **options)`: a page in a context of its own."""
    return partial(in_context, Room)


@pytest.fixture
def fresh(studies: dict[str, Study]) -> Callable[[str], str]:
    """`fresh(design)`: the code of a new rater."""
    return lambda design: studies[design].invite()[0]


def of(study: Study, code: str) -> list[dict[str, Any]]:
    """All answers of a rater, in order."""
    rater = study.rater(code)
    assert rater is not None
    return [json.loads(value) for number, value in answers(study) if number == rater.id]


def test_two_raters_at_once_on_scales_and_on_pairs(
    servers: dict[str, RoomServer],
    studies: dict[str, Study],
    new_room: Callable[..., Room],
    fresh: Callable[[str], str],
) -> None:
    """With the keyboard alone, in turn, from the consent to the end."""
    for design, keys in (("scales", [("4", "5", "0"), ("1", "2", "3")]), ("pairs", [("ArrowLeft",), ("t",)])):
        codes = [fresh(design), fresh(design)]
        rooms = [new_room(servers[design].address).open(code) for code in codes]
        for room in rooms:
            expect(room.page.locator("#agree")).to_be_visible()
            while not room.page.evaluate("document.activeElement.id === 'agree'"):
                room.press("Tab")
            room.press("Enter")
            expect(room.page.locator("#place")).to_have_text("Practice 1 of 1")
            expect(room.page.locator("#place")).to_be_focused()
        total = len(studies[design].tasks(studies[design].rater(codes[0])))  # type: ignore[arg-type]
        for _ in range(total):
            for room, own in zip(rooms, keys, strict=True):
                room.answer(*own)
        for room, code in zip(rooms, codes, strict=True):
            assert room.place == "Thank you: that was all"
            assert [url for url in room.guard.requests if code in url.partition("#")[0]] == []
    scales = [{"fluency": 4, "coherence": 5, "relevance": None}, {"fluency": 1, "coherence": 2, "relevance": 3}]
    raters = [rater for rater in people(studies["scales"]) if rater.finished]
    assert len(raters) == 2
    for rater, value in zip(raters, scales, strict=True):
        assert all(task.answer == value for task in studies["scales"].tasks(rater))
    ties = [rater for rater in people(studies["pairs"]) if rater.finished]
    assert [{task.answer["preference"] for task in studies["pairs"].tasks(rater)} for rater in ties] == [  # type: ignore[index]
        {"left"},
        {"tie"},
    ]


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
@pytest.mark.parametrize("design", ["scales", "pairs"])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_window(
    design: str,
    width: int,
    scheme: str,
    servers: dict[str, RoomServer],
    studies: dict[str, Study],
    new_room: Callable[..., Room],
    fresh: Callable[[str], str],
) -> None:
    size = {"width": width, "height": 800}
    room = new_room(servers[design].address, viewport=size, color_scheme=scheme)

    def look(name: str) -> None:
        assert findings(room) == [], name
        assert room.page.evaluate("document.documentElement.scrollWidth") <= width, name

    room.open("")
    expect(room.page.locator("#code")).to_be_focused()
    look("code")
    room.open(fresh(design))
    expect(room.page.locator("#agree")).to_be_visible()
    look("consent")
    room.agree()
    for summary in room.page.locator(".item summary").all():
        summary.click()
    look("item")
    room.press("Escape")
    room.page.locator("#place").focus()
    room.press(*("112" if design == "scales" else "1"), "Enter")
    expect(room.page.locator("#on")).to_be_focused()
    look("feedback")
    room.press("Enter")
    expect(room.page.locator("#place")).to_contain_text("1 of")
    room.page.locator("#all").click()
    look("all items")
    room.press("Escape")
    room.page.locator("#help").click()
    look("keys")
    room.open(studies[design].owner_token, "owner.html")
    expect(room.page.locator(".owner tbody tr").first).to_be_visible()
    look("owner")


def test_a_closed_page_loses_nothing_and_an_answer_can_be_changed(
    servers: dict[str, RoomServer],
    studies: dict[str, Study],
    new_room: Callable[..., Room],
    fresh: Callable[[str], str],
) -> None:
    code = fresh("scales")
    room = new_room(servers["scales"].address).open(code).agree()
    room.answer("3", "3", "3")
    room.press("5", "4")  # two of three
    room.page.locator(".remark summary").click()
    room.page.locator("#comment").fill(f"half way {MARKUP}")
    room.page.close()
    room.page = room.context.new_page()
    room.open(code)
    expect(room.page.locator("#comment")).to_have_value(f"half way {MARKUP}")
    assert room.page.locator(".item input:checked").evaluate_all("all => all.map((one) => one.value)") == ["5", "4"]
    room.press("Enter")
    expect(room.page.locator("#problem")).to_have_text("Not answered yet: relevance.")
    room.page.locator("#comment").focus()
    room.press("2")  # a digit of the comment
    room.page.locator("#answer-relevance-0").focus()
    room.press("ArrowRight", "ArrowRight")  # native: from 1 to 3
    room.answer()
    assert of(studies["scales"], code)[1:] == [{"fluency": 5, "coherence": 4, "relevance": 3}]
    room.press("b")
    expect(room.page.locator("#save")).to_have_text("Go on")
    expect(room.page.locator("#comment")).to_have_value(f"half way {MARKUP}2")
    room.press("1")
    expect(room.page.locator("#save")).to_have_text("Save the change")
    room.answer()
    assert of(studies["scales"], code)[1:] == [
        {"fluency": 5, "coherence": 4, "relevance": 3},
        {"fluency": 1, "coherence": 4, "relevance": 3},
    ]


def test_an_answer_waits_for_a_server_that_has_ended(tmp_path: Path, new_room: Callable[..., Room]) -> None:
    """Killed before the answer is sent: it is kept, also over a reload, and sent once."""
    with new_study(tmp_path / "study", "pairs") as study:
        code = people(study)[0].code
        server = RoomServer(str(study.folder), cwd=tmp_path)
        room = new_room(server.address).open(code).agree()
        room.guard.expect("ERR_CONNECTION_REFUSED")
        room.answer("1")
        server.stop(signal.SIGKILL)
        place = room.place
        room.press("2", "Enter")
        expect(room.page.locator("#problem")).to_contain_text("Not saved yet")
        assert len(answers(study)) == 1
        with RoomServer(str(study.folder), "--port", str(server.port), cwd=tmp_path):
            expect(room.page.locator("#place")).not_to_have_text(place)
            expect(room.page.locator("#problem")).to_have_text("")
            assert len(of(study, code)) == 2
            assert study.tasks(people(study)[0])[1].answer == {"preference": "right"}


def test_two_tabs_of_one_rater_do_not_double(
    servers: dict[str, RoomServer],
    studies: dict[str, Study],
    new_room: Callable[..., Room],
    fresh: Callable[[str], str],
) -> None:
    study, code = studies["pairs"], fresh("pairs")
    room = new_room(servers["pairs"].address).open(code).agree()
    room.answer("1")
    other = room.context.new_page()
    other.goto(room.page.url)
    expect(other.locator("#place")).to_have_text(room.place)
    first = room.place
    room.answer("1")
    # The other tab shows the answer as soon as it is looked at
    other.evaluate("dispatchEvent(new Event('focus'))")
    expect(other.locator("#save")).to_have_text("Go on")
    assert other.locator(".item input:checked").get_attribute("value") == "left"
    other.keyboard.press("2")
    other.keyboard.press("Enter")
    expect(other.locator("#place")).not_to_have_text(first)
    rater = study.rater(code)
    assert rater is not None
    assert [task.answer for task in study.tasks(rater)][1] == {"preference": "right"}
    assert len([row for row in study.preferences() if row.rater == rater.id]) == len(
        {row.position for row in study.preferences() if row.rater == rater.id}
    )
    (progress,) = [one for one in study.progress() if one.code == code[-4:]]
    assert progress.answered == 2


def test_hostile_texts_names_and_comments_show_as_text(tmp_path: Path, new_room: Callable[..., Room]) -> None:
    with new_study(
        tmp_path / "study",
        "scales",
        title=MARKUP,
        consent=f"{MARKUP}\n\nSecond paragraph",
    ) as study:
        code = people(study)[0].code
        connection = sqlite3.connect(study.folder / "study.db")
        connection.execute("UPDATE texts SET given = ?1, continuation = ?1", (MARKUP + RIGHT_TO_LEFT,))
        connection.commit()
        connection.close()
        with RoomServer(str(study.folder), cwd=tmp_path) as server:
            room = new_room(server.address).open(code)
            expect(room.page.locator("#title")).to_have_text(MARKUP)
            expect(room.page.locator(".plain .body").first).to_have_text(MARKUP)
            room.agree()
            room.page.locator(".remark summary").click()
            room.page.locator("#comment").fill(MARKUP)
            room.page.locator("#place").focus()
            room.answer("3", "3", "3")
            for body in room.page.locator(".text .body").all():
                expect(body).to_have_text(MARKUP + RIGHT_TO_LEFT)
            rater = study.rater(code)
            assert rater is not None
            room.press("b")
            expect(room.page.locator("#comment")).to_have_value(MARKUP)
            for task in study.tasks(rater):
                study.answer(rater, task.id, dict.fromkeys(study.plan.answers, 2), comment=MARKUP)
            study.close()
            room.open(study.owner_token, "owner.html")
            expect(room.page.locator("blockquote .body").first).to_have_text(MARKUP)
            for one in (room.page.locator("img"), room.page.locator("main b")):
                expect(one).to_have_count(0)


def test_the_owner_invites_sees_progress_and_ends_the_study(tmp_path: Path, new_room: Callable[..., Room]) -> None:
    with (
        new_study(tmp_path / "study", "pairs", raters=3) as study,
        RoomServer(str(study.folder), cwd=tmp_path) as server,
    ):
        owner = new_room(server.address).open("wrong", "owner.html")
        owner.guard.expect("401")
        owner.page.locator("#code").fill(study.owner_token)
        owner.press("Enter")
        rows = owner.page.locator(".owner tbody tr")
        expect(rows).to_have_count(3)
        owner.page.locator("#count").fill("2")
        owner.page.get_by_role("button", name="Make codes").click()
        expect(rows).to_have_count(5)
        link = rows.nth(4).locator(".link").input_value()
        code = people(study)[4].code
        assert link == f"{server.address}/#{code}"
        room = new_room(server.address)
        room.page.goto(link)
        room.agree().answer("1")
        room.answer("2")
        expect(rows.nth(4)).to_contain_text("2 of")
        assert owner.page.get_by_role("button", name="Close the study").is_disabled()
        expect(owner.page.locator("section[aria-label=Results]")).to_be_hidden()
        owner.page.locator("#sure").check()
        owner.page.get_by_role("button", name="Close the study").click()
        expect(owner.page.locator("section[aria-label=Results] tbody tr")).to_have_count(2)
        assert study.closed
        # Who still rates is told so, and the answer is refused
        room.guard.expect("409")
        room.press("1", "Enter")
        expect(room.page.locator("#place")).to_have_text("The study is closed")
        assert len(answers(study)) == 2


def test_keys_can_be_turned_off_and_native_controls_keep_theirs(
    servers: dict[str, RoomServer], new_room: Callable[..., Room], fresh: Callable[[str], str]
) -> None:
    room = new_room(servers["scales"].address).open(fresh("scales")).agree()
    room.press("?")
    expect(room.page.locator("#keys")).to_be_visible()
    room.page.locator("#single").uncheck()
    room.press("Escape")
    room.press("3")
    expect(room.page.locator(".item input:checked")).to_have_count(0)
    room.page.locator("#answer-fluency-0").focus()
    room.press("Space", "ArrowRight")
    assert room.page.locator(".item input:checked").get_attribute("value") == "2"
    # A screen reader hears the number with its meaning, and the question as the group's name
    assert room.page.get_by_role("radio", name="2: Most sentences have a serious fault").is_checked()
    assert room.page.get_by_role("group", name="fluency").is_visible()
