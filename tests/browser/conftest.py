"""A server and a browser for all tests of this folder; a context and a page for each."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server, two_models

from llm_from_scratch.weights import LoadedModel, load_model

MARKUP = "<u>&amp;"  # the name of a model: markup that a page must show as text


def chromium(own: str, how: str) -> str:
    """Returns the path of a Chromium: of the system, else playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), own)
    if not Path(found).exists():
        pytest.skip(how)
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two model runs: `base`, and `talks` with a chat template."""
    return two_models(tmp_path_factory.mktemp("playground"), endless=True)


@pytest.fixture(scope="session")
def base(folder: Path) -> LoadedModel:
    """The model `base` in this process, for plain recomputations."""
    return load_model(folder / "base")


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """A Chromium without a network."""
    from browser.guard import CLOSED, HOW, api

    pytest.importorskip("axe_playwright_python", reason=HOW)
    with api.sync_playwright() as playwright:
        path = chromium(playwright.chromium.executable_path, HOW)
        browser = playwright.chromium.launch(executable_path=path, args=[CLOSED])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Server]:
    """The server with the models `base`, `chat` and one whose name is markup."""
    with Server("base", "chat=talks", f"{MARKUP}=base", "--slots", "4", cwd=folder) as server:
        yield server


@pytest.fixture
def in_context(browser: Any) -> Iterator[Callable[..., Any]]:
    """`in_context(make, address, **options)`: a page by `make` in a context of its own, whose guard is checked in the end."""
    made = []

    def new(make: Callable[[Any, str], Any], address: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        made.append(make(context, address))
        return made[-1]

    yield new
    for one in made:
        one.context.close()
    for one in made:
        one.guard.check()


@pytest.fixture
def new_page(in_context: Callable[..., Any], server: Server) -> Callable[..., Any]:
    """`new_page(address=…, **options)`: a `Playground` in a context of its own, not yet opened."""
    from browser.playground import Playground

    return lambda address=server.address, **options: in_context(Playground, address, **options)


@pytest.fixture
def play(new_page: Callable[..., Any]) -> Any:
    """The playground, opened."""
    return new_page().open()
