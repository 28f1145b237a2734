"""The tab Tokens: any text as the tokenizer divides it, with ids and bytes."""

from browser.guard import api
from browser.playground import Playground
from llm_from_scratch.weights import LoadedModel

expect = api.expect


def test_a_text_is_divided_as_the_tokenizer_divides_it(play: Playground, base: LoadedModel) -> None:
    panel = play.tab("tokens")
    text = "a café\n<u>€🦁</u>"
    panel.get_by_label("Any text").fill(text)
    ids = base.tokenizer.encode(text)
    rows = panel.locator("tbody tr")
    expect(rows).to_have_count(len(ids))
    cells = [row.split("\t") for row in rows.all_inner_texts()]
    for place, (token, (number, _, shown, data)) in enumerate(zip(ids, cells, strict=True)):
        assert (number, int(shown)) == (str(place + 1), token)
        assert bytes.fromhex(data) == base.tokenizer.decode_bytes([token])
    assert b"".join(bytes.fromhex(cell[3]) for cell in cells) == text.encode()
    facts = panel.locator(".counts").inner_text().split("\n")
    assert facts == [
        *("Tokens", str(len(ids)), "Bytes", str(len(text.encode())), "Characters", str(len(text))),
        *("Bytes a token", f"{len(text.encode()) / len(ids):.2f}"),
    ]
    assert play.page.locator("u").count() == 0
    panel.get_by_label("Any text").fill("")
    expect(rows).to_have_count(0)


def test_the_text_that_was_written_is_divided(play: Playground) -> None:
    play.page.locator("#max_tokens-number").fill("8")
    ids = play.write()
    panel = play.tab("tokens")
    panel.get_by_role("button", name="Take the text").click()
    expect(panel.locator("tbody tr").nth(len(ids) - 9)).to_be_visible()
    expect(panel.get_by_label("Any text")).not_to_have_value("")


def test_each_model_has_a_tokenizer_of_its_own(play: Playground) -> None:
    panel = play.tab("tokens")
    with play.page.expect_request("**/play/tokens") as first:
        panel.get_by_label("Any text").fill("x y")
    assert first.value.post_data_json == {"model": "base", "text": "x y"}
    with play.page.expect_request("**/play/tokens") as second:
        play.page.locator("#model").select_option("chat")
    assert second.value.post_data_json["model"] == "chat"
