"""The playground as a reader handles it: a page with the moves that many tests make."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from browser.guard import Visit, api

PROMPT = "once there was "


class Playground(Visit):
    """The playground's page."""

    def open(self, hash: str = "", *, prompt: str | None = None) -> "Playground":
        """Loads the page; waits until it can be used; writes a prompt into its field."""
        self.page.goto("about:blank")  # a change of the hash alone would load nothing
        self.page.goto(f"{self.address}/{hash}")
        api.expect(self.button("main")).to_be_enabled()
        if prompt is not None:
            self.prompt.fill(prompt)
        return self

    # The text

    @property
    def prompt(self) -> "api.Locator":
        """The field of the prompt."""
        return self.page.locator("#prompt")

    @property
    def tokens(self) -> "api.Locator":
        """The buttons of the tokens, prompt first."""
        return self.page.locator("#text .token")

    @property
    def written(self) -> "api.Locator":
        """The buttons of the tokens that the model wrote, or the reader chose."""
        return self.page.locator("#text .token:not(.given)")

    def button(self, name: str) -> "api.Locator":
        """A button beside the text: main, another, undo, redo, edit."""
        return self.page.locator(f"#text [data-name={name}]")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Waits until what was begun in this block is written."""
        with self.page.expect_response("**/play/write"):
            yield
        api.expect(self.button("main")).not_to_have_text("Stop")

    def write_after_prompt(self, tokens: int) -> list[int]:
        """Writes some tokens after PROMPT; returns the ids of the whole text."""
        self.prompt.fill(PROMPT)
        self.page.locator("#max_tokens-number").fill(str(tokens))
        return self.write()

    def write(self) -> list[int]:
        """Presses Write or Continue, waits for the end; returns the ids of the whole text."""
        with self.writing():
            self.button("main").click()
        return self.ids()

    def ids(self) -> list[int]:
        """The ids of the text."""
        return [int(one) for one in self.tokens.evaluate_all("all => all.map((one) => one.dataset.id)")]

    # The tools

    def tab(self, name: str) -> "api.Locator":
        """Opens a tab: next, attention, tokens, compare, training. Returns its panel."""
        self.page.locator(f"#tab-{name}").click()
        return self.page.locator(f"#{name}")

    def bars(self) -> list[dict[str, Any]]:
        """The rows of the next token: id, p and q in full, and all that is seen of a row."""
        return self.page.locator("#bars li button[data-id]").evaluate_all(
            """all => all.filter((one) => one.textContent).map((one) => ({
              id: Number(one.dataset.id), p: Number(one.dataset.p), q: Number(one.dataset.q),
              seen: [...one.querySelectorAll('.number')].map((number) => number.textContent),
            }))"""
        )
