"""Photographs of the rating room for docs/: studies of told stories, so that no model is needed.

python tests/browser/rating_photographs.py
"""

import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
from rating_studies import people  # noqa: E402

from browser.conftest import chromium  # noqa: E402
from browser.guard import CLOSED, HOW, api  # noqa: E402
from browser.photographs import photograph  # noqa: E402
from browser.room import Room, RoomServer  # noqa: E402
from llm_from_scratch.rating.order import make_items  # noqa: E402
from llm_from_scratch.rating.records import Text  # noqa: E402
from llm_from_scratch.rating.store import Study  # noqa: E402
from llm_from_scratch.rating.study import plan_of  # noqa: E402
from llm_from_scratch.tales.telling import tell  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SENTENCES = 4  # of each story that are given
PROMPTS = 12


def texts() -> Iterator[Text]:
    """Stories as they were told, with their sentences in another order, and with another's end."""
    rng = random.Random(5)
    stories = [tell(7, number, 3).strip().replace(". ", ".\n").splitlines() for number in range(PROMPTS + 1)]
    for number, story in enumerate(stories[:-1]):
        given, rest = story[:SENTENCES], story[SENTENCES : SENTENCES + 9]
        shuffled = rng.sample(rest, len(rest))
        strange = rest[:3] + stories[number + 1][SENTENCES + 3 : SENTENCES + 9]
        for system, sentences in (("told", rest), ("shuffled", shuffled), ("strange", strange)):
            yield Text(
                id=3 * number + len(system),
                prompt=number,
                system=system,
                given=" ".join(given),
                continuation=" ".join(sentences),
            )


def study(folder: Path, design: str) -> Study:
    """A study of these stories."""
    written = [Text(**{**vars(text), "id": number}) for number, text in enumerate(texts(), 1)]
    plan = plan_of(
        {
            "title": "Which story is told better?",
            "design": design,
            "systems": dict.fromkeys(("told", "shuffled", "strange"), "a generator"),
            "prompts": list(dict.fromkeys(text.given for text in written)),
            "checks": 0,
            "background": [{"name": "english", "text": "Is English your first language?", "options": ["yes", "no"]}],
        }
    )
    return Study.create(folder, plan, *make_items(plan, written, []))


def begun(room: Room, code: str, keys: tuple[str, ...], answers: int) -> None:
    """Rates the practice items and some more."""
    room.open(code).agree()
    for _ in range(answers):
        room.answer(*keys)


def pictures(browser: Any, folder: Path) -> None:
    """Both designs on a desk in light, a phone in dark, feedback, the owner's page."""
    for design, keys in (("scales", ("4", "3", "5")), ("pairs", ("ArrowLeft",))):
        with study(folder / design, design) as made, RoomServer(str(made.folder), cwd=folder) as server:
            codes = [rater.code for rater in people(made)]

            def opened(width: int, height: int, scheme: str, address: str = server.address) -> Room:
                size = {"width": width, "height": height}
                return Room(browser.new_context(viewport=size, color_scheme=scheme), address)

            desk = opened(1280, 860, "light")
            begun(desk, codes[0], keys, 5)
            desk.press(*keys[:2])
            desk.page.mouse.move(2, 2)
            photograph(desk.page, IMAGES / f"ratings_{design}.png")
            phone = opened(360, 780, "dark")
            begun(phone, codes[1], keys, 3)
            phone.press(*keys)
            photograph(phone.page, IMAGES / f"ratings_{design}_360.png", top=10_000)
            if design == "scales":
                first = opened(1280, 860, "light").open(codes[2]).agree()
                first.press("4", "4", "4", "Enter")
                api.expect(first.page.locator("#on")).to_be_focused()
                photograph(first.page, IMAGES / "ratings_feedback.png")
                begun(opened(800, 600, "light"), codes[3], keys, 12)
                owner = opened(1280, 640, "light").open(made.owner_token, "owner.html")
                owner.page.locator(".owner tbody tr").first.wait_for()
                owner.page.locator("#base").fill("http://192.168.1.20:8001")
                owner.page.locator("#base").blur()
                photograph(owner.page, IMAGES / "ratings_owner.png")


def main() -> None:
    """Takes all of them."""
    with tempfile.TemporaryDirectory() as folder, api.sync_playwright() as playwright:
        path = chromium(playwright.chromium.executable_path, HOW)
        browser = playwright.chromium.launch(executable_path=path, args=[CLOSED])
        pictures(browser, Path(folder))
        browser.close()


if __name__ == "__main__":
    main()
