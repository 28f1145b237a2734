"""The tab Compare: two models, or two settings of one, from the same seed."""

import json
import re
from collections.abc import Callable

import numpy as np
import pytest

from browser import plain
from browser.guard import api
from browser.playground import PROMPT, Playground
from llm_from_scratch.weights import LoadedModel

expect = api.expect


def texts(play: Playground) -> list[list[int]]:
    """The ids of both columns."""
    read = "all => all.map((column) => [...column.querySelectorAll('.token')].map((one) => Number(one.dataset.id)))"
    return play.page.locator("#compare .column").evaluate_all(read)


def both(play: Playground) -> list[list[int]]:
    """Lets both write; returns the ids of each."""
    button = play.page.locator("#compare .main")
    button.click()
    expect(button).to_have_text("Write both")
    play.until(lambda: all(texts(play)))
    return texts(play)


def alone(play: Playground, model: str, **settings: float) -> list[int]:
    """The ids that /play/write gives."""
    tokens = play.page.request.post(f"{play.address}/play/tokens", data={"model": model, "text": PROMPT}).json()
    ids = [token["id"] for token in tokens["tokens"]]
    body = {"model": model, "ids": ids, "settings": settings, "top": 0}
    lines = play.page.request.post(f"{play.address}/play/write", data=body).text().split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return [event["token"]["id"] for event in events if "token" in event]


@pytest.fixture
def compare(play: Playground) -> Playground:
    play.tab("compare")
    play.page.get_by_label("The prompt of both").fill(PROMPT)
    play.page.locator("#compare-max_tokens").fill("20")
    play.page.locator("#compare-seed").fill("5")
    return play


def test_two_models_on_the_same_seed(compare: Playground, base: LoadedModel) -> None:
    expect(compare.page.locator("#compare-a-model")).to_have_value("base")
    expect(compare.page.locator("#compare-b-model")).to_have_value("chat")
    a, b = both(compare)
    assert a == alone(compare, "base", seed=5, max_tokens=20)
    assert b == alone(compare, "chat", seed=5, max_tokens=20)
    assert a != b
    # The mean surprise is the model's
    ids = [*base.tokenizer.encode(PROMPT), *a]
    known = plain.logprobs(base, ids)
    bits = [-known[place - 1, ids[place]] / np.log(2) for place in range(len(PROMPT), len(ids))]
    line = compare.page.locator("#compare .column").first.inner_text()
    mean = re.search(r"Mean surprise ([\d.]+) bits", line)
    assert mean
    assert float(mean[1]) == pytest.approx(np.mean(bits), abs=0.0051)


def test_two_settings_of_one_model(compare: Playground) -> None:
    compare.page.locator("#compare-b-model").select_option("base")
    assert len({tuple(ids) for ids in both(compare)}) == 1
    expect(compare.page.locator("#compare .verdict")).to_have_text("Both wrote the same.")
    column = compare.page.locator("#compare .column").nth(1)
    column.locator("summary").click()
    column.get_by_label("Temperature").fill("2")
    a, b = both(compare)
    assert a == alone(compare, "base", seed=5, max_tokens=20)
    assert b == alone(compare, "base", seed=5, max_tokens=20, temperature=2)
    parts = next(place for place, (one, other) in enumerate(zip(a, b, strict=False)) if one != other)
    expect(compare.page.locator("#compare .verdict")).to_have_text(re.compile(r"^They part "))
    assert [one.count() for one in [compare.page.locator("#compare .column .token.parts")]] == [2]
    place = "all => all.map((one) => [...one.parentElement.querySelectorAll('.token')].indexOf(one))"
    assert compare.page.locator("#compare .column .token.parts").evaluate_all(place) == [parts, parts]


def test_an_alternative_in_one_column_leaves_the_other(compare: Playground) -> None:
    a, b = both(compare)
    column = compare.page.locator("#compare .column").first
    column.locator(".token").nth(3).hover()
    other = column.locator(".card [role=menuitem]:not(.chosen)").first
    token = int(other.get_attribute("data-id") or "")
    other.click()
    expect(compare.page.locator("#compare .main")).to_have_text("Write both")
    compare.until(lambda: len(texts(compare)[0]) == 24)
    after = texts(compare)
    assert after[0][:4] == [*a[:3], token]
    assert after[1] == b


def test_a_link_restores_what_is_compared(new_page: Callable[..., Playground], compare: Playground) -> None:
    column = compare.page.locator("#compare .column").nth(1)
    column.locator("summary").click()
    column.get_by_label("Top-k").fill("3")
    before = both(compare)
    compare.page.get_by_role("button", name="Copy link").click()
    second = new_page().open(str(compare.page.evaluate("location.hash")))
    expect(second.page.locator("#compare")).to_be_visible()
    expect(second.page.locator("#compare-seed")).to_have_value("5")
    expect(second.page.get_by_label("The prompt of both")).to_have_value(PROMPT)
    assert both(second) == before
