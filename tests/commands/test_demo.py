"""demo: what replaces the book, and what does not."""

import argparse

import pytest

from llm_from_scratch.commands import demo
from llm_from_scratch.errors import UserError


@pytest.mark.parametrize(
    ("error", "experiment", "prompted"),
    [(UserError("no network"), "experiment=tales_demo", False), (None, "experiment=oz_demo", True)],
)
def test_told_stories_replace_a_book_that_is_not_at_hand(
    error: UserError | None,
    experiment: str,
    prompted: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[list[str]] = []

    def open_source(**settings: object) -> None:
        if error:
            raise error

    def run_child(words: list[str], on_line: object) -> int:
        started.append(words)
        if on_line is not None:
            on_line("run: outputs/one")  # type: ignore[operator]
        return 0

    monkeypatch.setattr("llm_from_scratch.data.sources.open_source", open_source)
    monkeypatch.setattr("llm_from_scratch.signals.run_child", run_child)
    demo.run(argparse.Namespace(overrides=["seed=2"]))
    train, generate = started
    assert train[-2:] == [experiment, "seed=2"]
    assert "run=outputs/one" in generate
    assert ("prompt=Dorothy" in generate) == prompted
    assert ("tells itself" in capsys.readouterr().err) != prompted


def test_a_bug_replaces_no_book(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_source(**settings: object) -> None:
        raise ValueError("a programmer's")

    monkeypatch.setattr("llm_from_scratch.data.sources.open_source", open_source)
    monkeypatch.setattr("llm_from_scratch.signals.run_child", lambda *_: 1)
    with pytest.raises(ValueError, match="a programmer's"):
        demo.run(argparse.Namespace(overrides=[]))
