"""Every setting has a sentence and moves the bars of the next token."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from browser import plain
from browser.guard import api
from browser.playground import PROMPT, Playground
from llm_from_scratch.weights import LoadedModel

expect = api.expect


def held(play: Playground, base: LoadedModel, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Waits for the bars that /play/next gives, holds them against the model, returns them."""
    ids = base.tokenizer.encode(PROMPT)
    body = {"model": "base", "ids": ids, "settings": settings, "top": 20}
    asked = play.page.request.post(f"{play.address}/play/next", data=body).json()
    expected = [(token["id"], token["p"], token["q"]) for token in asked["tokens"]]

    def same() -> list[dict[str, Any]]:
        bars = play.bars()
        return bars if [(bar["id"], bar["p"], bar["q"]) for bar in bars] == expected[: len(bars)] else []

    bars = play.until(same)
    assert len(bars) == 10
    logits = plain.logits_after(base, ids)[-1]
    p, q = plain.softmax(logits), plain.drawn(logits, ids, settings)
    for bar in bars:
        assert bar["p"] == pytest.approx(p[bar["id"]], abs=1e-4)
        assert bar["q"] == pytest.approx(q[bar["id"]], abs=1e-4)
        assert_seen(bar["seen"], (bar["p"], bar["q"]))
    assert asked["kept"] == int((q > 0).sum())
    facts = play.page.locator("#bars .facts").inner_text()
    assert f"{asked['kept']:,} of {base.tokenizer.vocab_size:,}" in facts
    entropy = float(-(p * np.log2(p)).sum())
    assert f"{entropy:.2f} bits" in facts
    others = [bar["id"] for bar in bars]
    rest = play.page.locator("#bars .rest .number").all_inner_texts()
    assert_seen(rest, [1 - whole[others].sum() for whole in (p, q)])
    return bars


def assert_seen(texts: Sequence[str], values: Sequence[float]) -> None:
    """Percentages as they are seen, of two digits after the point."""
    for text, value in zip(texts, values, strict=True):
        if value > 0.00011:
            assert float(text.removesuffix(" %")) == pytest.approx(100 * value, abs=0.011)
        else:
            assert text in ("0 %", "< 0.01 %", "0.01 %")


ALONE: list[dict[str, float]] = [
    {"temperature": 0.5},
    {"temperature": 0},
    {"top_k": 3},
    {"top_p": 0.8},
    {"min_p": 0.2},
    {"repetition_penalty": 1.7},
]
TOGETHER = {"temperature": 1.5, "top_k": 12, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2}


def test_every_setting_moves_the_bars(play: Playground, base: LoadedModel) -> None:
    play.prompt.fill(PROMPT)
    before = held(play, base, {})
    for settings in [*ALONE, TOGETHER]:
        for name, value in settings.items():
            play.page.locator(f"#{name}-number").fill(str(value))
        after = held(play, base, settings)
        assert [bar["q"] for bar in after] != [bar["q"] for bar in before]
        play.page.get_by_role("button", name="Reset all").click()
    held(play, base, {})


def test_the_bars_follow_a_slider_as_it_moves(play: Playground, base: LoadedModel) -> None:
    play.prompt.fill(PROMPT)
    held(play, base, {})
    slider = play.page.locator("#temperature-slider")
    slider.focus()
    for _ in range(8):
        slider.press("ArrowLeft")
    value = float(play.page.locator("#temperature-number").input_value())
    assert value == pytest.approx(0.6)
    held(play, base, {"temperature": value})


def test_a_bar_puts_its_token_at_the_end(play: Playground, base: LoadedModel) -> None:
    play.prompt.fill(PROMPT)
    bars = held(play, base, {})
    play.page.locator("#bars li button").nth(2).click()
    given = base.tokenizer.encode(PROMPT)
    play.until(lambda: play.ids() == [*given, bars[2]["id"]])
    shown = float(play.tokens.last.get_attribute("data-logprob") or "nan")
    assert shown == pytest.approx(plain.logprobs(base, given)[-1][bars[2]["id"]], abs=1e-4)


def test_each_setting_has_a_sentence_and_a_name(play: Playground) -> None:
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "max_tokens"):
        number = play.page.locator(f"#{name}-number")
        (label,) = play.page.locator(f"label[for={name}-number]").all_inner_texts()
        expect(number).to_have_accessible_name(label)
        sentence = play.page.locator(f"#{name}-says").inner_text()
        assert sentence.endswith(".")
        assert len(sentence.split()) >= 6
        assert f"{name}-says" in (number.get_attribute("aria-describedby") or "")


WRONG = {"temperature": "-1", "top_p": "2", "top_k": "1.5", "seed": "", "min_p": "x"}


def test_a_wrong_value_is_told_and_changes_nothing(play: Playground, base: LoadedModel) -> None:
    play.prompt.fill(PROMPT)
    held(play, base, {})
    for name, text in WRONG.items():
        number = play.page.locator(f"#{name}-number")
        before = number.input_value()
        number.fill(text)
        expect(number).to_have_attribute("aria-invalid", "true")
        expect(play.page.locator(f"#{name}-wrong")).to_have_text(re.compile(": give a "))
        play.prompt.focus()
        expect(play.page.locator(f"#{name}-wrong")).to_have_text("")
        expect(number).to_have_value(before)
    held(play, base, {})
