"""A link restores what was seen; a hostile one is told in one line and does nothing."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from serving import Server

from browser.guard import api
from browser.playground import PROMPT, Playground

expect = api.expect


def linked(play: Playground) -> str:
    """The hash of the address, as soon as the page has written it."""
    play.page.get_by_role("button", name="Copy link").click()
    return str(play.page.evaluate("location.hash"))


def test_a_link_restores_the_state_in_a_new_page(new_page: Callable[..., Playground]) -> None:
    first = new_page().open(prompt=PROMPT)
    for name, value in (("temperature", "1.4"), ("top_k", "40"), ("seed", "7"), ("max_tokens", "9")):
        first.page.locator(f"#{name}-number").fill(value)
    first.write()
    first.written.nth(3).hover()
    with first.writing():
        first.page.locator(".card:visible [role=menuitem]:not(.chosen)").first.click()
    first.page.locator("#text .colours").get_by_text("Surprise").click()
    first.tab("attention")
    hash = linked(first)

    second = new_page().open(hash)
    second.until(lambda: second.ids() == first.ids())
    assert second.tokens.all_inner_texts() == first.tokens.all_inner_texts()
    for name, value in (("temperature", "1.4"), ("top_k", "40"), ("seed", "7"), ("max_tokens", "9")):
        expect(second.page.locator(f"#{name}-number")).to_have_value(value)
    expect(second.page.locator("#tab-attention")).to_have_attribute("aria-selected", "true")
    expect(second.page.locator("body")).to_have_attribute("data-colour", "surprise")
    given = "all => all.map((one) => one.classList.contains('given'))"
    assert second.tokens.evaluate_all(given) == first.tokens.evaluate_all(given)
    read = "all => all.map((one) => Number(one.dataset.logprob ?? 0))"
    assert second.tokens.evaluate_all(read) == pytest.approx(first.tokens.evaluate_all(read), abs=1e-4)
    # It goes on as the first does
    assert second.write() == first.write()


def test_a_link_restores_a_prompt_that_is_edited_and_the_model(new_page: Callable[..., Playground]) -> None:
    first = new_page().open()
    first.page.locator("#model").select_option("chat")
    first.prompt.fill("half a \u202e text <b> & \u00e9")
    second = new_page().open(linked(first))
    expect(second.page.locator("#model")).to_have_value("chat")
    expect(second.prompt).to_have_value("half a \u202e text <b> & \u00e9")


def test_a_link_restores_a_text_longer_than_the_context(new_page: Callable[..., Playground]) -> None:
    first = new_page().open(prompt=PROMPT * 34)  # 510 of 512 tokens
    first.page.locator("#max_tokens-number").fill("9")
    ids = first.write()
    assert len(ids) == 519
    second = new_page().open(linked(first))
    second.until(lambda: second.ids() == ids)
    known = second.tokens.evaluate_all("all => all.map((one) => one.dataset.logprob !== undefined)")
    assert known == [False] + [True] * 511 + [False] * 7
    second.tokens.last.focus()
    expect(second.page.locator(".card:visible")).to_contain_text("Nothing is known about this one.")
    assert second.write() == first.write()


def test_what_of_a_link_is_no_good_leaves_the_rest(new_page: Callable[..., Playground]) -> None:
    parts = {"v": 1, "prompt": "kept", "seed": 5, "x.compare": "[", "x.attention": "9.9", "x.tokens": "any text"}
    play = new_page().open("#" + urlencode(parts))
    notice = "What the link says of Compare cannot be read. The rest was restored."
    expect(play.page.locator("#notice")).to_have_text(notice)
    expect(play.prompt).to_have_value("kept")
    expect(play.page.locator("#seed-number")).to_have_value("5")
    expect(play.tab("tokens").locator("textarea")).to_have_value("any text")


def test_the_last_of_two_links_counts(play: Playground) -> None:
    """The answer to the first one comes after the second is restored."""
    held: list[Any] = []
    play.page.route("**/play/read", lambda route: held.append(route))
    text = urlencode({"v": 1, "prompt": "first", "given": 1, "ids": "AQ"})
    play.page.evaluate("(hash) => (location.hash = hash)", text)
    play.until(lambda: held)
    play.page.evaluate("(hash) => (location.hash = hash)", urlencode({"v": 1, "prompt": "second"}))
    expect(play.prompt).to_have_value("second")
    with play.page.expect_response("**/play/read"):
        held[0].continue_()
    play.page.wait_for_timeout(100)
    expect(play.prompt).to_have_value("second")
    expect(play.page.locator("#notice")).to_be_empty()


def test_the_icon_is_asked_for_once(play: Playground, server: Server) -> None:
    def asked() -> int:
        return sum(line["path"] == "/icon.svg" for line in server.lines)

    before_all = asked()
    for text in "abcd":
        before = play.page.url
        play.prompt.fill(text)
        play.until(lambda before=before: play.page.url != before)
    assert play.page.request.get(f"{play.address}/health").ok  # what was asked for is in the log
    assert asked() - before_all <= 1


def test_the_address_follows_the_state(play: Playground) -> None:
    play.prompt.fill("x")
    play.until(lambda: "prompt=x&" in play.page.url or play.page.url.endswith("prompt=x"))


HOSTILE = {
    "another model": urlencode({"v": 1, "model": "<img src=x onerror=alert(1)>"}),
    "ids beyond the vocabulary": urlencode({"v": 1, "model": "base", "given": 1, "ids": "_____wc"}),
    "a broken number": "v=1&temperature=1e999",
    "a broken escape": "v=1&prompt=%E0%A4%A",
    "no link": "javascript:alert(1)",
    "a part of a panel": urlencode({"v": 1, "x.attention": "1e9.<script>", "x.compare": "\0", "x.nobody": "1"}),
    "chat of a model without": "v=1&model=base&mode=chat",
    "very long": "v=1&prompt=" + "a" * 300_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_link(new_page: Callable[..., Playground], kind: str) -> None:
    play = new_page().open("#" + HOSTILE[kind])
    if kind != "a broken escape":
        notice = play.page.locator("#notice")
        expect(notice).not_to_be_empty()
        assert "\n" not in notice.inner_text()
    play.page.locator("#max_tokens-number").fill("3")
    play.prompt.fill(PROMPT)
    assert len(play.write()) == len(PROMPT) + 3  # the page is as usable as without a link
    assert play.page.locator("img").count() == 0
