"""Everybody can use it: axe-core, the keyboard alone, a phone's width, a screen reader's line; a
server that wants a token.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import Server

from browser.guard import api, findings
from browser.playground import PROMPT, Playground

expect = api.expect
TABS = ("next", "attention", "tokens", "compare", "training")


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "light"),
        (1440, "dark"),
        pytest.param(360, "dark", marks=pytest.mark.slow),
        pytest.param(1440, "light", marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing_serious(new_page: Callable[..., Playground], scheme: str, width: int) -> None:
    play = new_page(viewport={"width": width, "height": 900}, color_scheme=scheme).open(prompt=PROMPT)
    assert findings(play) == []
    play.page.locator("#max_tokens-number").fill("12")
    play.write()
    play.written.nth(3).focus()
    for name in TABS:
        play.tab(name)
        play.page.wait_for_timeout(300)
        assert findings(play) == [], name
        # Nothing is wider than the window
        assert play.page.evaluate("document.documentElement.scrollWidth") <= width, name
    play.written.nth(3).click()
    expect(play.page.locator(".card:visible")).to_be_visible()
    assert findings(play) == []


def test_the_keyboard_alone(new_page: Callable[..., Playground]) -> None:
    """From the address bar to a text, its tokens, another version, every tab and a setting."""
    play = new_page().open()
    keys = play.page.keyboard

    def focused(selector: str) -> bool:
        return bool(play.page.evaluate("(selector) => document.activeElement.matches(selector)", selector))

    def tab_to(selector: str, key: str = "Tab") -> None:
        for _ in range(60):
            keys.press(key)
            if focused(selector):
                return
        raise AssertionError(f"{key} does not come to {selector}")

    keys.press("Tab")
    assert focused("#skip")
    keys.press("Enter")
    assert focused("#prompt")
    keys.press("Control+a")
    keys.type(PROMPT)
    tab_to("#text [data-name=main]")
    with play.writing():
        keys.press("Enter")
    before = play.ids()
    assert len(before) == len(PROMPT) + 60
    expect(play.button("main")).to_be_focused()
    tab_to(".token", "Shift+Tab")
    keys.press("End")
    keys.press("Enter")
    keys.press("ArrowDown")
    assert focused("[role=menuitem]")
    keys.press("Escape")
    assert focused(".token")
    tab_to("[role=tab]")
    for name in TABS[1:]:
        keys.press("ArrowRight")
        assert focused(f"#tab-{name}")
        expect(play.page.locator(f"#{name}")).not_to_have_attribute("hidden", "")
    keys.press("ArrowRight")
    assert focused("#tab-next")
    tab_to("#temperature-slider")
    keys.press("ArrowRight")
    expect(play.page.locator("#temperature-number")).to_have_value("1.05")
    # The focus is always seen
    outline = play.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline not in ("none", "")


def test_a_screen_reader_hears_the_beginning_and_the_end(play: Playground) -> None:
    said = play.page.locator("#said")
    expect(said).to_have_attribute("aria-live", "polite")
    play.page.evaluate(
        """() => {
          window.heard = [];
          const said = document.querySelector('#said');
          new MutationObserver(() => window.heard.push(said.textContent)).observe(said, { childList: true });
        }"""
    )
    play.prompt.fill(PROMPT)
    play.write()
    heard = play.page.evaluate("window.heard")
    assert heard[0] == "Writing."
    assert re.match(r"60 tokens", heard[-1])
    assert len(heard) <= 4  # not a line a token


def test_names_and_roles(play: Playground) -> None:
    play.write()
    page = play.page
    expect(page.get_by_role("tablist")).to_have_count(1)
    expect(page.get_by_role("tab")).to_have_count(5)
    for name in TABS:
        play.tab(name)
        expect(page.get_by_role("tabpanel")).to_have_count(1)
        expect(page.locator(f"#tab-{name}")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("main")).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    # A field that takes millions of characters stops a browser.
    assert set(page.locator("textarea").evaluate_all("all => all.map((one) => one.maxLength)")) == {20_000}
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea')]
          .filter((one) => one.checkVisibility() && !(one.labels?.length || one.textContent.trim() || one.ariaLabel))
          .map((one) => one.outerHTML)"""
    )
    assert unnamed == []


def test_motion_can_be_reduced(new_page: Callable[..., Playground]) -> None:
    play = new_page(reduced_motion="reduce").open()
    moving = """() => [...document.querySelectorAll('*')].filter((one) => {
      const style = getComputedStyle(one);
      return style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0;
    }).length"""
    assert play.page.evaluate(moving) == 0


TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def closed(folder: Path) -> Iterator[Server]:
    """A server that wants a token, with a chat model alone."""
    (folder / "token").write_text(TOKEN, encoding="utf-8")
    with Server("talks", "--token-file", "token", cwd=folder) as server:
        yield server


def test_a_server_that_wants_a_token(new_page: Callable[..., Playground], closed: Server) -> None:
    play = new_page(closed.address)
    play.guard.expect(r"status of 401 \(Unauthorized\)")
    page = play.page
    page.goto(closed.address)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(page.get_by_label("Token", exact=True)).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("refused that token")
    page.get_by_label("Token", exact=True).fill(TOKEN)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(play.button("main")).to_be_enabled()
    play.prompt.fill(PROMPT)
    assert len(play.write()) == len(PROMPT) + 60
    # It stays in this tab, and nowhere else
    assert TOKEN not in page.url
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    page.reload()
    expect(play.button("main")).to_be_enabled()
    expect(dialog).to_be_hidden()
    assert not [url for url in play.guard.requests if TOKEN in url]


def test_no_token_is_given(new_page: Callable[..., Playground], closed: Server) -> None:
    play = new_page(closed.address)
    play.guard.expect(r"status of 401 \(Unauthorized\)")
    play.page.goto(closed.address)
    expect(play.page.get_by_role("dialog")).to_be_visible()
    play.page.get_by_role("button", name="Cancel").click()
    expect(play.page.locator("#problem")).to_have_text(re.compile("needs a token"))
    expect(play.button("main")).to_be_disabled()
