"""Write, stop, continue, undo; what is written is what `generate.py` writes; a server that goes."""

import re
from collections.abc import Callable

import pytest
from serving import Server

from browser import plain
from browser.conftest import MARKUP
from browser.guard import api
from browser.playground import PROMPT, Playground
from browser.relay import Relay
from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.generation import generate
from llm_from_scratch.weights import LoadedModel

expect = api.expect


def by_generate(loaded: LoadedModel, prompt: str, tokens: int, seed: int) -> str:
    sampling = SamplingConfig(max_new_tokens=tokens, seed=seed, temperature=1.0)
    return "".join(piece[0] for piece in generate(loaded.model, loaded.tokenizer, prompt, sampling, loaded.end_ids))


def test_a_first_visit_has_an_example_that_one_button_continues(play: Playground, base: LoadedModel) -> None:
    example = play.prompt.input_value()
    given = base.tokenizer.encode(example)
    ids = play.write()
    assert ids[: len(given)] == given
    assert len(ids) == len(given) + 60
    assert base.tokenizer.decode(ids[len(given) :]) == by_generate(base, example, 60, seed=1)
    expect(play.page.locator("#text .state")).to_have_text(re.compile(r"^60 tokens"))


def test_each_token_has_its_probability(play: Playground, base: LoadedModel) -> None:
    play.prompt.fill(PROMPT)
    ids = play.write()
    expect(play.tokens.nth(1)).to_have_attribute("data-logprob", re.compile("."))  # of the prompt: a moment later
    shown = play.tokens.evaluate_all("all => all.map((one) => Number(one.dataset.logprob ?? NaN))")
    known = plain.logprobs(base, ids)
    expected = [known[place, token] for place, token in enumerate(ids[1:])]
    assert shown[0] != shown[0]  # nothing comes before the first
    assert shown[1:] == pytest.approx(expected, abs=1e-4)


def test_tokens_appear_while_the_text_is_written(play: Playground) -> None:
    play.page.locator("#max_tokens-number").fill("300")
    play.page.evaluate(
        """() => {
          window.counts = new Set();
          const count = () => window.counts.add(document.querySelectorAll('#text .token:not(.given)').length);
          new MutationObserver(count).observe(document.querySelector('#text'), { childList: true, subtree: true });
        }"""
    )
    play.write()
    counts = play.page.evaluate("[...window.counts]")
    assert counts == sorted(counts)
    assert len([count for count in counts if 0 < count < 300]) >= 3
    assert counts[-1] == 300


def test_stop_and_continue(play: Playground, server: Server) -> None:
    play.page.locator("#max_tokens-number").fill("4000")
    main = play.button("main")
    main.click()
    expect(main).to_have_text("Stop")
    expect(play.written.nth(3)).to_be_visible()
    main.click()
    expect(main).to_have_text("Continue")
    ids = play.ids()
    written = play.written.count()
    assert 4 <= written < 4000
    expect(play.page.locator("#text .state")).to_have_text(f"Stopped after {written} tokens.")
    metrics = play.page.request
    play.until(lambda: 'active_texts{model="base"} 0\n' in metrics.get(f"{server.address}/metrics").text())
    assert play.ids() == ids  # nothing comes after the end
    play.page.locator("#max_tokens-number").fill("5")
    longer = play.write()
    assert longer[: len(ids)] == ids
    assert len(longer) == len(ids) + 5


def test_undo_and_redo(play: Playground) -> None:
    first = play.write_after_prompt(6)
    second = play.write()
    assert len(second) == len(first) + 6
    play.button("undo").click()
    assert play.ids() == first
    play.button("undo").click()
    expect(play.prompt).to_be_visible()
    expect(play.prompt).to_have_value(PROMPT)
    play.button("redo").click()
    play.button("redo").click()
    assert play.ids() == second
    expect(play.button("redo")).to_be_disabled()


def test_the_same_seed_writes_the_same_and_another_another(play: Playground, base: LoadedModel) -> None:
    first = play.write_after_prompt(20)
    with play.writing():
        play.button("another").click()
    given = base.tokenizer.encode(PROMPT)
    assert base.tokenizer.decode(play.ids()[len(given) :]) == by_generate(base, PROMPT, 20, seed=2)
    expect(play.page.locator("#seed-number")).to_have_value("2")
    play.button("edit").click()
    expect(play.prompt).to_have_value(PROMPT)
    play.page.locator("#seed-number").fill("1")
    play.prompt.focus()
    with play.writing():
        play.prompt.press("Control+Enter")
    assert play.ids() == first


def test_an_empty_prompt_begins_at_the_end_of_a_text(play: Playground, base: LoadedModel) -> None:
    play.prompt.fill("")
    ids = play.write()
    assert ids[0] == base.tokenizer.eot_id
    assert base.tokenizer.decode(ids[1:]) == by_generate(base, "", 60, seed=1)


HOSTILE = [
    "<img src=x onerror=alert(1)><script>alert(2)</script>",
    "a \u202egnp.exe\u202c b \u200f \ufeff",
    "</textarea>\"' onmouseover=alert(1) {{7*7}} ${7*7} %00",
    "zero \0 byte",
    "👩\u200d👩\u200d👧 \u00e9 e\u0301 \U000e0041",
]


def test_hostile_text_is_shown_as_text(play: Playground, base: LoadedModel) -> None:
    play.page.locator("#max_tokens-number").fill("20")
    for hostile in HOSTILE:
        play.prompt.fill(hostile)
        body = {"model": "base", "text": hostile}
        asked = play.page.request.post(f"{play.address}/play/tokens", data=body).json()
        given = [token["id"] for token in asked["tokens"]]
        ids = play.write()
        assert ids[: len(given)] == given
        # Among what the model writes are bytes that are no whole character.
        assert any(base.tokenizer.decode_bytes([token])[:1] >= b"\x80" for token in ids[len(given) :])
        for name in ("attention", "tokens", "compare", "next"):
            play.tab(name)
            play.page.wait_for_timeout(100)
        play.button("edit").click()
    assert play.page.locator("img, body script").count() == 0
    assert play.page.locator("[onerror], [onmouseover]").count() == 0


def test_a_model_whose_name_is_markup(play: Playground) -> None:
    play.page.locator("#model").select_option(MARKUP)
    assert MARKUP in play.page.locator("#model option").all_text_contents()
    assert len(play.write()) > 60
    play.tab("compare")
    assert play.page.locator("u").count() == 0


def test_a_character_of_several_tokens_stands_at_its_last(play: Playground) -> None:
    play.prompt.fill("n\u00e9\u20ac🦁")
    play.page.locator("#max_tokens-number").fill("1")
    play.write()
    seen = play.page.locator("#text .token.given").all_inner_texts()
    assert seen == ["n", "C3", "\u00e9", "E2", "82", "\u20ac", "F0", "9F", "A6", "🦁"]


def test_a_server_that_goes_while_it_writes(new_page: Callable[..., Playground], server: Server) -> None:
    relay = Relay(server.port)
    play = new_page(relay.address).open()
    play.guard.expect("Failed to load resource: net::ERR_")
    play.page.locator("#max_tokens-number").fill("4000")
    play.button("main").click()
    expect(play.written.nth(3)).to_be_visible()
    relay.close()
    problem = play.page.locator("#problem")
    expect(problem).to_have_text("The connection broke off: is the server still running?")
    written = play.ids()
    assert len(written) > 4
    play.written.nth(2).hover()  # what has come is there and can be read
    expect(play.page.locator(".card [role=menuitem]").first).to_be_visible()
    play.button("main").click()
    expect(problem).to_have_text("The server does not answer: is it still running?")
    assert play.ids() == written
    relay.reopen()
    play.page.locator("#max_tokens-number").fill("5")
    assert play.write()[: len(written)] == written
    expect(problem).to_have_text("")
    relay.close()
