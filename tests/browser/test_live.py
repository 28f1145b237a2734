"""The tab Training: curves and samples of a run as they come, in a page that is open meanwhile."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from serving import Server, begun_run, model_run

from browser.guard import api, findings
from browser.playground import PROMPT, Playground
from llm_from_scratch.run import append_row

expect = api.expect
HOSTILE = "<img src=x onerror=alert(1)> \u202e <script>alert(2)</script>"


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run folder as a training has made it before its first row, with a name that is markup."""
    return begun_run(folder / "<i>run", every=20)


@pytest.fixture(scope="module")
def following(run: Path, folder: Path) -> Iterator[Server]:
    """A server that follows the run, which has no model yet."""
    with Server("./<i>run", "--follow", cwd=folder) as server:
        yield server


def rows(run: Path, first: int, last: int) -> None:
    """Writes training rows each 5 steps, and a validation each 20; the loss of step s is 5 - s / 50."""
    for step in range(first, last + 1, 5):
        row: dict[str, Any] = {"step": step, "split": "train", "loss": 5 - step / 50, "lr": 0.001, "grad_norm": 1.0}
        append_row(run / "metrics.jsonl", row)
        if step % 20 == 0:
            bits = (5 - step / 50) / 2
            row = {"step": step, "split": "val", "loss": 5 - step / 50, "bits_per_byte": bits, "perplexity": 9.0}
            append_row(run / "metrics.jsonl", row)


def test_a_run_is_shown_as_it_comes(
    new_page: Callable[..., Playground], following: Server, run: Path, folder: Path
) -> None:
    play = new_page(following.address)
    page = play.page
    with FileLock(run / ".lock"):  # as a training holds it
        page.goto(following.address)
        # The server has no model: the page opens with the training, and nothing can be written.
        expect(page.locator("#tab-training")).to_have_attribute("aria-selected", "true")
        expect(play.button("main")).to_be_disabled()
        panel = page.locator("#training")
        rows(run, 5, 20)
        read = panel.locator("#live-read")
        expect(read).to_contain_text("Step 20")
        expect(read).to_contain_text("4.6000")  # 5 - 20 / 50
        expect(panel.locator("svg path, svg polyline").first).to_be_attached()
        text = f"# Samples\n\n## Step 20\n\n    {HOSTILE}\n"
        (run / "samples.md").write_text(text, encoding="utf-8")
        expect(panel.get_by_role("article").first).to_contain_text("<img src=x onerror=alert(1)>")
        rows(run, 25, 60)
        expect(read).to_contain_text("Step 60")
        expect(read).to_contain_text("3.8000")
        # By keyboard to an earlier point
        point = panel.locator("#live-point")
        point.focus()
        page.keyboard.press("Home")
        expect(read).to_contain_text("Step 5")
        expect(read).to_contain_text("4.9000")
        panel.locator("summary").click()
        table = panel.locator("tbody tr")
        expect(table).to_have_count(3)
        assert re.search(r"60.*3\.8000", table.first.inner_text(), re.DOTALL)
        assert page.locator("img, body script, i:not([aria-hidden] *)").count() == 0
        assert findings(play) == []
        # With its model the page writes
        model_run(folder / "made", endless=True, seed=3)
        (folder / "made" / "model").rename(run / "model")
        expect(play.button("main")).to_be_enabled()
        play.prompt.fill(PROMPT)
        assert len(play.write()) == len(PROMPT) + 60
    expect(panel.locator(".live-word")).to_contain_text("Stopped")


def test_a_page_without_a_run_says_how_to_follow_one(play: Playground) -> None:
    expect(play.tab("training").locator(".live-line")).to_contain_text("callbacks=live")
