"""Watches a browser context: a request to another machine and an error on the console, which a
violation of the Content-Security-Policy is, each fail the test.
"""

import re
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import pytest

HOW = (
    "needs playwright, axe and a Chromium: pip install -c constraints.txt -e '.[browser]', "
    "then apt-get install chromium, or python -m playwright install chromium"
)
Found = TypeVar("Found")
api = pytest.importorskip("playwright.sync_api", reason=HOW)
SECONDS = 30.0  # for which a change of the page is waited for, on a machine that does much else
api.expect.set_options(timeout=1000 * SECONDS)
INSIDE = ("data", "blob", "about")  # schemes that reach no network
# The browser looks up no name and opens no connection but to this machine.
CLOSED = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


class Guard:
    """What went wrong in a context: `faults`, one text each.

    Args:
        context: a new context of playwright.
        address: of the server, as in http://127.0.0.1:8000; the only one that a page may ask.
    """

    def __init__(self, context: "api.BrowserContext", address: str) -> None:
        self.host = urlsplit(address).netloc
        self.faults: list[str] = []
        self.expected: list[str] = []
        self.requests: list[str] = []
        context.on("request", self._on_request)
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.faults.append(f"exception: {error.error}"))
        context.on("page", lambda page: page.on("dialog", self._on_dialog))

    def _on_request(self, request: "api.Request") -> None:
        self.requests.append(request.url)
        parts = urlsplit(request.url)
        if parts.netloc != self.host and parts.scheme not in INSIDE:
            self.faults.append(f"request to another host: {request.url}")

    def _on_console(self, message: "api.ConsoleMessage") -> None:
        if message.type in ("error", "warning", "assert"):
            self.faults.append(f"console {message.type}: {message.text}")

    def _on_dialog(self, dialog: "api.Dialog") -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def expect(self, pattern: str) -> None:
        """Allows the faults that a regular expression finds, and demands that there is one."""
        self.expected.append(pattern)

    def check(self) -> None:
        """Raises AssertionError for each fault that is not expected."""
        unseen = [pattern for pattern in self.expected if not any(re.search(pattern, one) for one in self.faults)]
        rest = [one for one in self.faults if not any(re.search(pattern, one) for pattern in self.expected)]
        assert rest == [], "\n".join(rest)
        assert unseen == [], f"expected, but did not come: {unseen}"


class Visit:
    """A page of a context of its own.

    Args:
        context: of playwright.
        address: of the server.
    """

    def __init__(self, context: "api.BrowserContext", address: str) -> None:
        context.set_default_timeout(1000 * SECONDS)
        self.context, self.address = context, address
        self.guard = Guard(context, address)
        self.page = context.new_page()

    def until(self, check: Callable[[], Found]) -> Found:
        """Waits until `check` returns something true, and returns it."""
        end = time.monotonic() + SECONDS
        while not (found := check()):
            assert time.monotonic() < end, f"did not come about within {SECONDS:g} seconds"
            self.page.wait_for_timeout(10)
        return found


def findings(visit: Visit) -> list[str]:
    """What axe-core calls serious or critical on a page, one line each."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        f"{found['id']} ({found['impact']}): {node['target']} {node['html'][:200]} {node['failureSummary'][:300]}"
        for found in Axe().run(visit.page).response["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]
