"""demo: what replaces the book, and what does not."""

import argparse

import pytest

from llm_from_scratch.commands import demo
from llm_from_scratch.errors import UserError


@pytest.mark.parametrize(("error", "data"), [(UserError("no network"), "data=stdlib"), (None, "data=oz")])
def test_the_standard_library_replaces_a_book_that_is_not_at_hand(
    error: UserError | None, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def open_source(**settings: object) -> None:
        if error:
            raise error

    def run_child(words: list[str], on_line: object) -> int:
        started.append(words)
        return 1

    monkeypatch.setattr("llm_from_scratch.data.sources.open_source", open_source)
    monkeypatch.setattr("llm_from_scratch.signals.run_child", run_child)
    with pytest.raises(SystemExit):
        demo.run(argparse.Namespace(overrides=[]))
    (words,) = started
    assert data in words


def test_a_bug_replaces_no_book(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_source(**settings: object) -> None:
        raise ValueError("a programmer's")

    monkeypatch.setattr("llm_from_scratch.data.sources.open_source", open_source)
    monkeypatch.setattr("llm_from_scratch.signals.run_child", lambda *_: 1)
    with pytest.raises(ValueError, match="a programmer's"):
        demo.run(argparse.Namespace(overrides=[]))
