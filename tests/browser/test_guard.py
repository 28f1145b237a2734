"""The guard of the other tests sees what it is there to see."""

import re
from collections.abc import Callable
from typing import Any

import pytest

POLICY = "<meta http-equiv=Content-Security-Policy content=\"default-src 'self'\"><script>alert(1)</script>"


@pytest.mark.parametrize(
    ("deed", "fault"),
    [
        (
            lambda page: page.evaluate("fetch('http://198.51.100.7/').catch(() => {})"),
            "another host: http://198.51.100.7/",
        ),
        (lambda page: page.evaluate("new Image().src = 'http://localhost/x.png'"), "another host: http://localhost/"),
        (lambda page: page.set_content(POLICY), "console error: .*Content Security Policy"),
        (lambda page: page.evaluate("console.error('broken')"), "console error: broken"),
        (lambda page: page.evaluate("void setTimeout(() => { throw new Error('thrown') })"), "exception: .*thrown"),
        (lambda page: page.evaluate("alert('hello')"), "dialog: hello"),
    ],
)
def test_the_guard_sees(new_page: Callable[..., Any], deed: Callable[[Any], None], fault: str) -> None:
    play = new_page()
    deed(play.page)
    play.page.wait_for_timeout(50)
    with pytest.raises(AssertionError):
        play.guard.check()
    assert any(re.search(fault, one) for one in play.guard.faults), play.guard.faults
    play.guard.faults.clear()
