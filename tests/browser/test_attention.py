"""The tab Attention: the weights shown are those of the model, for every layer and head."""

import re

import numpy as np
import pytest

from browser import plain
from browser.guard import api, findings
from browser.playground import Playground
from llm_from_scratch.weights import LoadedModel

expect = api.expect


@pytest.fixture
def text(play: Playground) -> Playground:
    """A text of twenty tokens, with the tab Attention open."""
    play.write_after_prompt(5)
    play.tab("attention")
    expect(play.page.locator("#attention [role=option]")).to_have_count(20)
    return play


def shown(play: Playground) -> list[float]:
    """The weights of the row that is read, in the order of the text, as they are seen."""
    titles = play.page.locator("#attention [role=option]").evaluate_all("all => all.map((one) => one.title)")
    return [float(found[1]) for title in titles if (found := re.search(r": ([\d.]+)$", title))]


def test_weights_of_every_layer_and_head(text: Playground, base: LoadedModel) -> None:
    ids = text.ids()
    options = text.page.locator("#attention [role=option]")
    expect(options).to_have_count(len(ids))
    options.nth(11).click()
    expect(options.nth(11)).to_have_attribute("aria-selected", "true")
    for layer in range(2):
        weights = plain.attention(base, ids, layer)
        text.page.locator("#attention-layer").select_option(index=layer)
        for head in ("mean", "0", "3"):
            text.page.locator("#attention-head").select_option(index=0 if head == "mean" else 1 + int(head))
            expected = (weights.mean(axis=0) if head == "mean" else weights[int(head)])[11, :12]
            seen = text.until(
                lambda expected=expected: (
                    found if (found := shown(text)) == pytest.approx(expected, abs=1.5e-4) else None
                )
            )
            assert len(seen) == 12
            rows = text.page.locator("#attention .reading tbody tr").all_inner_texts()
            best = np.argsort(-expected)[:8]
            numbers = [row.split()[-1] for row in rows]
            assert [float(one) for one in numbers[:8]] == pytest.approx(expected[best], abs=1.5e-4)
            assert sum(map(float, numbers)) == pytest.approx(1, abs=1e-3)


def test_a_token_of_the_text_is_the_row_that_is_read(text: Playground) -> None:
    options = text.page.locator("#attention [role=option]")
    text.tokens.nth(6).click()
    expect(options.nth(6)).to_have_attribute("aria-selected", "true")
    assert len(shown(text)) == 7
    # By keyboard, in the reading itself
    options.nth(6).focus()
    text.page.keyboard.press("ArrowRight")
    expect(options.nth(7)).to_have_attribute("aria-selected", "true")
    expect(options.nth(7)).to_be_focused()


def test_the_pattern_of_the_whole_text(text: Playground, base: LoadedModel) -> None:
    weights = plain.attention(base, text.ids(), 0).mean(axis=0)
    canvas = text.page.locator("#attention canvas")
    pair = text.page.locator("#attention .pair")
    expect(canvas).to_be_visible()
    canvas.focus()
    text.page.keyboard.press("End")
    expect(pair).to_have_text(re.compile(r"\d\.\d+$"))
    for key, row, column in (("ArrowUp", 18, 18), ("Home", 18, 0), ("ArrowRight", 18, 1)):
        text.page.keyboard.press(key)
        expect(pair).to_have_text(re.compile(rf"token {row + 1}\) → .*token {column + 1}\): \d\.\d+$"))
        seen = float(pair.inner_text().rpartition(" ")[2])
        assert seen == pytest.approx(weights[row, column], abs=1.5e-4)
    text.page.keyboard.press("Enter")
    expect(text.page.locator("#attention [role=option]").nth(18)).to_have_attribute("aria-selected", "true")
    # Its darkest cell of the last row is the largest weight
    box = canvas.bounding_box()
    assert box
    assert box["width"] > 200
    read = """canvas => { const { data, width } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return [width, data.filter((_, index) => index % 4 === 3).reduce((sum, one) => sum + (one > 0), 0)]; }"""
    width, painted = canvas.evaluate(read)
    assert painted > 0.3 * width * width  # half a square


def test_pointing_at_the_pattern(text: Playground, base: LoadedModel) -> None:
    weights = plain.attention(base, text.ids(), 0).mean(axis=0)
    canvas, pair = text.page.locator("#attention canvas"), text.page.locator("#attention .pair")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    # The last cell of the last row is in the lower right corner
    canvas.hover(position={"x": box["width"] - 6, "y": box["height"] - 6})
    expect(pair).to_have_text(re.compile(r"token 20\) → .*token 20\): [\d.]+$"))
    assert float(pair.inner_text().rpartition(" ")[2]) == pytest.approx(weights[19, 19], abs=1.5e-4)


def test_the_lens_of_a_token_and_a_head_that_is_picked(text: Playground, base: LoadedModel) -> None:
    ids, inside = text.ids(), text.page.locator("#attention .inside")
    inside.locator("summary").click()
    layers = inside.locator("table").first.locator("tbody tr")
    expect(layers).to_have_count(3)
    for place in (19, 6):
        text.tokens.nth(place).click()
        expect(inside.locator("h3").first).to_contain_text(f"(token {place + 1})")
        best = int(np.argmax(plain.logits_after(base, ids)[place]))
        p = plain.softmax(plain.logits_after(base, ids))[place, best]
        expect(layers.first).to_contain_text(f"{100 * p:.2f} %")
        expect(layers.last).to_contain_text("embedding")
    assert findings(text) == []
    # A head that is picked is the one that is shown
    button = inside.locator("tbody button").first
    found = re.search(r"layer (\d+), head (\d+)", button.inner_text())
    assert found
    button.click()
    expect(text.page.locator("#attention-layer")).to_have_value(str(int(found[1]) - 1))
    expect(text.page.locator("#attention-head")).to_have_value(str(int(found[2]) - 1))
