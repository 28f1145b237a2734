"""What else could have stood there: by pointer and by keyboard; the tree of versions."""

import re
from typing import Any

import numpy as np
import pytest

from browser import plain
from browser.guard import api
from browser.playground import PROMPT, Playground
from llm_from_scratch.weights import LoadedModel

expect = api.expect


@pytest.fixture
def text(play: Playground) -> Playground:
    """Twelve tokens after the prompt."""
    play.write_after_prompt(12)
    return play


def alternatives(play: Playground) -> list[dict[str, float | str]]:
    items = play.page.locator(".card:visible [role=menuitem]")
    return items.evaluate_all(
        """all => all.map((one) => ({ id: Number(one.dataset.id), logprob: Number(one.dataset.logprob),
          seen: one.querySelector('.number').textContent, name: one.getAttribute('aria-label') }))"""
    )


def test_pointing_at_a_token_shows_the_ten_likeliest(text: Playground, base: LoadedModel) -> None:
    ids = text.ids()
    known = plain.logprobs(base, ids)
    for place in (len(PROMPT), len(PROMPT) + 7):
        text.page.mouse.move(5, 5)
        text.tokens.nth(place).hover()
        expect(text.page.locator(".card:visible")).to_be_visible()
        expect(text.tokens.nth(place)).to_have_attribute("aria-expanded", "true")
        shown = alternatives(text)
        best = np.argsort(-known[place - 1])[:10].tolist()
        assert [one["id"] for one in shown[:10]] == best
        assert len(shown) == (10 if ids[place] in best else 11)
        for one in shown:
            logprob = known[place - 1, one["id"]]
            assert one["logprob"] == pytest.approx(logprob, abs=1e-4)
            p = 100 * np.exp(logprob)
            if p >= 0.011:
                assert float(one["seen"].removesuffix(" %")) == pytest.approx(p, abs=0.0051)


def test_numbers_that_come_late_leave_a_card_open(play: Playground) -> None:
    held: list[Any] = []
    play.page.route("**/play/read", lambda route: held.append(route))  # how likely the prompt's tokens were
    play.write_after_prompt(3)
    play.tokens.nth(4).focus()
    expect(play.page.locator(".card:visible")).to_contain_text("Part of the prompt")
    play.until(lambda: held)
    held[0].continue_()
    expect(play.page.locator(".card:visible [role=menuitem]").nth(9)).to_be_visible()
    expect(play.tokens.nth(4)).to_be_focused()


def test_an_alternative_by_pointer(text: Playground) -> None:
    before = text.ids()
    place = len(PROMPT) + 4
    text.tokens.nth(place).hover()
    other = text.page.locator(".card:visible [role=menuitem]:not(.chosen)").first
    token = int(other.get_attribute("data-id") or "")
    with text.writing():
        other.click()
    after = text.ids()
    assert after[:place] == before[:place]
    assert after[place] == token != before[place]
    assert len(after) == place + 1 + 12
    # Both versions are there, and one can walk between them
    chips = text.page.locator("#text .chips button")
    assert chips.all_inner_texts() == ["1", "2"]
    expect(chips.nth(1)).to_have_attribute("aria-pressed", "true")
    chips.nth(0).click()
    assert text.ids() == before
    text.page.locator("#text .chips button").nth(1).click()
    assert text.ids() == after
    text.button("undo").click()
    assert text.ids() == before


def test_an_alternative_by_keyboard(text: Playground) -> None:
    before = text.ids()
    keys = text.page.keyboard
    text.button("main").focus()
    # The tokens are one stop of the Tab key, before the buttons
    text.until(lambda: keys.press("Shift+Tab") or text.page.evaluate("document.activeElement.matches('.token')"))
    keys.press("End")
    for _ in range(6):
        keys.press("ArrowLeft")
    place = len(before) - 7
    expect(text.tokens.nth(place)).to_be_focused()
    expect(text.page.locator(".card:visible")).to_be_visible()  # on focus as on hover
    keys.press("Enter")
    shown = alternatives(text)
    expect(text.page.locator(".card:visible [role=menuitem]").first).to_be_focused()
    index = next(index for index, one in enumerate(shown) if one["id"] != before[place])
    for _ in range(index):
        keys.press("ArrowDown")
    with text.writing():
        keys.press("Enter")
    after = text.ids()
    assert after[:place] == before[:place]
    assert after[place] == shown[index]["id"]
    assert len(after) == place + 1 + 12
    expect(text.tokens.nth(place)).to_be_focused()
    keys.press("Enter")
    keys.press("Escape")
    expect(text.page.locator(".card:visible")).to_have_count(0)
    expect(text.tokens.nth(place)).to_be_focused()
    # Back to the first version, by its number
    chip = text.page.locator("#text .chips button").first
    chip.focus()
    keys.press("Enter")
    assert text.ids() == before


def test_versions_of_versions(text: Playground) -> None:
    first = text.ids()
    place = len(PROMPT) + 2
    texts = [first]
    for at in (place, place + 3):
        text.page.mouse.move(5, 5)
        text.tokens.nth(at).hover()
        with text.writing():
            text.page.locator(".card:visible [role=menuitem]:not(.chosen)").nth(1).click()
        texts.append(text.ids())
    assert texts[2][: place + 3] == texts[1][: place + 3]
    assert text.page.locator("#text .chips").count() == 2
    for index in (1, 0):
        text.button("undo").click()
        assert text.ids() == texts[index]
    text.button("redo").click()
    text.button("redo").click()
    assert text.ids() == texts[2]
    expect(text.page.locator("#said")).to_have_text(f"Another version, {len(texts[2])} tokens.")


def test_colours_follow_probability_or_surprise(text: Playground, base: LoadedModel) -> None:
    ids = text.ids()
    known = plain.logprobs(base, ids)
    places = range(len(PROMPT), len(ids))
    p = np.array([np.exp(known[place - 1, ids[place]]) for place in places])

    def heats() -> list[float]:
        read = "all => all.map((one) => parseFloat(one.style.getPropertyValue('--heat')))"
        return text.written.evaluate_all(read)

    def background(place: int) -> str:
        return str(text.tokens.nth(place).evaluate("one => getComputedStyle(one).backgroundColor"))

    assert heats() == pytest.approx(100 * p, abs=0.51)
    likeliest = len(PROMPT) + int(p.argmax())
    before = background(likeliest)
    text.page.locator("#text .colours").get_by_text("Surprise").click()
    assert heats() == pytest.approx(100 * np.minimum(1, -np.log2(p) / 12), abs=0.51)
    assert background(likeliest) != before
    text.page.locator("#text .colours").get_by_text("Probability").click()
    assert background(likeliest) == before


def test_the_number_of_a_token_is_in_its_name(text: Playground, base: LoadedModel) -> None:
    ids = text.ids()
    place = len(PROMPT) + 1
    logprob = plain.logprobs(base, ids)[place - 1, ids[place]]
    name = text.tokens.nth(place).get_attribute("aria-label") or ""
    numbers = re.search(r"([\d.]+) %, ([\d.]+) bits", name)
    assert numbers, name
    assert float(numbers[1]) == pytest.approx(100 * np.exp(logprob), abs=0.0051)
    assert float(numbers[2]) == pytest.approx(-logprob / np.log(2), abs=0.0051)
