"""The rating room as a rater handles it, and a server of a study."""

from pathlib import Path
from typing import Any

from rating_studies import small_study
from serving import Server

from browser.guard import Visit, api
from llm_from_scratch.rating.store import Study


class RoomServer(Server):
    """`llm-from-scratch rate serve` with the study of a folder."""

    command = ("rate", "serve", "--port", "0")


class Room(Visit):
    """A rater's page, or the owner's."""

    def open(self, code: str, page: str = "") -> "Room":
        """Loads a page by a link."""
        self.page.goto("about:blank")  # a change of the hash alone would not load it
        self.page.goto(f"{self.address}/{page}#{code}")
        return self

    def agree(self) -> "Room":
        """Agrees, and waits for the first item."""
        self.page.locator("#agree").click()
        api.expect(self.page.locator("#judge")).to_be_visible()
        return self

    @property
    def place(self) -> str:
        """The heading: which item of how many."""
        return self.page.locator("#place").inner_text()

    def press(self, *keys: str) -> None:
        """Presses keys, wherever the focus is."""
        for key in keys:
            self.page.keyboard.press(key)

    def answer(self, *keys: str) -> None:
        """Answers an item by keys, and waits for the next one."""
        before = self.place
        self.press(*keys, "Enter")
        if before.startswith("Practice"):
            api.expect(self.page.locator("#on")).to_be_focused()
            self.press("Enter")
        api.expect(self.page.locator("#place")).not_to_have_text(before)


def answers(study: Study) -> list[tuple[int, str]]:
    """All rows of answers: the rater and the value."""
    query = "SELECT tasks.rater, answers.value FROM answers JOIN tasks ON tasks.id = answers.task ORDER BY answers.id"
    return [(row["rater"], row["value"]) for row in study._database.all(query)]


def new_study(folder: Path, design: str, **changes: Any) -> Study:
    """A study with one practice item, in a new folder."""
    return small_study(
        folder, design, **{"training": 1, "systems": 2, "prompts": 3, "repeats": 1, "checks": 1, **changes}
    )
