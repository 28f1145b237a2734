"""The page of `explain`: from the disk, without a request, by keyboard, light and dark, on a phone."""

from pathlib import Path
from typing import Any

import pytest
from serving import model_run

from browser.guard import Visit, findings
from llm_from_scratch import cli

TEXT = "once there was a cat. the cat was once there. " * 4


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    run = model_run(folder / "<i>base")
    cli.main(["explain", str(run), TEXT, "--html", str(folder / "page.html")])
    return folder / "page.html"


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark"), (360, "dark"), (1280, "light")])
def test_the_page_opens_from_the_disk(browser: Any, file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    visit = Visit(context, "file://")
    page = visit.page
    page.goto(file.as_uri())
    assert "<i>base" in page.title()
    assert page.locator("i").count() == 0
    # Every picture is there, of this theme, and no request left the page
    pictures = page.locator("img")
    page.locator("details").evaluate_all("all => all.forEach((one) => (one.open = true))")
    assert pictures.count() == 9
    assert pictures.evaluate_all("all => all.every((one) => one.complete && one.naturalWidth > 300)")
    sources = pictures.evaluate_all("all => all.map((one) => one.currentSrc === one.src)")
    assert set(sources) == {scheme == "light"}
    assert [url for url in visit.guard.requests if not url.startswith(("data:", "file:"))] == []
    assert findings(visit) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # By keyboard: a folded part opens, a wide table is scrolled
    page.locator("details").evaluate_all("all => all.forEach((one) => (one.open = false))")
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.evaluate("one => one.open")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "wide"
    context.close()
    visit.guard.check()
