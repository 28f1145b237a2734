"""The site of `make docs`: it is built without a warning, asks no other machine, and everybody can
read it, on a phone and in the dark.
"""

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

from browser.guard import Visit, findings

HOW = "needs sphinx, myst-parser and furo: make docs installs them"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    for library in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(library, reason=HOW)
    folder = tmp_path_factory.mktemp("site")
    # Whoever asks the network is refused.
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    words = ["-q", "-b", "html", "-n", "-W", "--keep-going", "-E", "-c", "docs", "-d", str(folder / "read")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, ".", str(folder / "html")],
        cwd=REPO,
        env=os.environ | closed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The address of a server of the site."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    """A page on a phone, in the dark."""
    context = browser.new_context(viewport={"width": 360, "height": 800}, color_scheme="dark")
    visit = Visit(context, address)
    yield visit
    context.close()
    visit.guard.check()


def sideways(visit: Visit) -> bool:
    """Whether the page must be scrolled sideways."""
    return bool(visit.page.evaluate("document.documentElement.scrollWidth > innerWidth"))


@pytest.mark.slow
def test_every_page_on_a_phone_and_on_a_screen(visit: Visit, site: Path) -> None:
    """Nothing is asked of another machine (the guard looks), nothing is cut off, formulas are drawn, and
    axe-core has nothing serious to say, in the dark and in the light.
    """
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert {"index.html", "README.html", "docs/index.html", "docs/reference/llm_from_scratch.model.html"} <= set(pages)
    formulas = 0
    pages.remove("index.html")  # leads on to docs/index.html at once
    for name in pages:
        visit.page.set_viewport_size({"width": 360, "height": 800})
        visit.page.emulate_media(color_scheme="dark")
        visit.page.goto(f"{visit.address}/{name}")
        visit.page.wait_for_load_state("load")
        assert not sideways(visit), name
        assert visit.page.locator(".katex-error").count() == 0, name
        assert (
            visit.page.locator(".math").count() == visit.page.locator(".math > .katex, .math > .katex-display").count()
        )
        formulas += visit.page.locator(".katex").count()
        unseen = visit.page.evaluate("[...document.images].filter((one) => !one.complete || !one.naturalWidth).length")
        assert unseen == 0, name
        if name.startswith(("source/", "docs/reference/")) and not name.endswith("model.html"):
            continue  # made alike
        assert findings(visit) == [], f"{name}, dark"
        visit.page.set_viewport_size({"width": 1280, "height": 800})
        visit.page.emulate_media(color_scheme="light")
        assert not sideways(visit), name
        assert findings(visit) == [], f"{name}, light"
    assert formulas > 20


@pytest.mark.slow
def test_the_way_of_a_reader(visit: Visit) -> None:
    """From the first page to the course, to a line of the source, and by the search to an entry."""
    page = visit.page
    page.goto(visit.address)
    page.wait_for_url("**/docs/index.html")
    page.locator("article").get_by_role("link", name="The course", exact=True).click()
    page.locator("article").get_by_role("link", name="A corpus and its dirt").click()
    page.locator("article").locator("a[href*='source/src/']").first.click()
    page.wait_for_url("**/source/src/**#L-*")
    line = page.evaluate("document.querySelector(location.hash).nextSibling.parentElement.textContent")
    assert page.url.split("#L-")[1].isdigit()
    assert line
    page.goto(f"{visit.address}/search.html?q=get_random_chunk")
    page.get_by_role("link", name="llm_from_scratch.data.sampler.get_random_chunk").first.click()
    page.wait_for_url("**/docs/reference/llm_from_scratch.data.sampler.html*")
    page.locator("a .viewcode-link").first.click()  # the link itself has no width: its text floats
    page.wait_for_url("**/source/src/llm_from_scratch/data/sampler.py.html#L-*")
