"""Chat, with a model that has a template: answers as tokens, another answer, undo, the link."""

from collections.abc import Callable
from pathlib import Path

import pytest

from browser import plain
from browser.guard import api
from browser.playground import Playground
from llm_from_scratch.tokenizer.template import CHATML, render_ids
from llm_from_scratch.weights import LoadedModel, load_model

expect = api.expect
SAID = "who is toto?"


@pytest.fixture(scope="session")
def talks(folder: Path) -> LoadedModel:
    """The model `chat` in this process."""
    return load_model(folder / "talks")


@pytest.fixture
def chat(play: Playground) -> Playground:
    """The conversation of the model `chat`, with answers of twelve tokens."""
    play.page.locator("#model").select_option("chat")
    play.page.locator("#max_tokens-number").fill("12")
    play.page.locator("#mode").get_by_text("Chat").click()
    return play


def main(play: Playground) -> api.Locator:
    return play.page.locator("#chat .foot .main")


def say(play: Playground, text: str) -> None:
    """Sends a message with the Enter key, and waits for the end of the answer."""
    play.page.get_by_label("Your message").fill(text)
    with play.page.expect_response("**/play/write"):
        play.page.keyboard.press("Enter")
    expect(main(play)).to_have_text("Send")


def answers(play: Playground) -> list[list[int]]:
    """The ids of each answer."""
    read = "all => all.map((turn) => [...turn.querySelectorAll('.token')].map((one) => Number(one.dataset.id)))"
    return play.page.locator("#chat .turns > li").evaluate_all(read)


def test_chat_is_offered_where_the_model_has_a_template(play: Playground) -> None:
    expect(play.page.locator("#mode")).to_be_hidden()
    play.page.locator("#model").select_option("chat")
    expect(play.page.locator("#mode")).to_be_visible()
    play.page.locator("#mode").get_by_text("Chat").click()
    expect(play.page.get_by_label("Your message")).not_to_have_value("")  # the model's example
    expect(play.page.locator("#text")).to_be_hidden()
    play.page.locator("#model").select_option("base")
    expect(play.page.locator("#chat")).to_be_hidden()
    expect(play.page.locator("#text")).to_be_visible()


def test_answers_are_drawn_at_a_lower_temperature(new_page: Callable[..., Playground], chat: Playground) -> None:
    temperature = chat.page.locator("#temperature-number")
    expect(temperature).to_have_value("0.7")
    expect(chat.page.get_by_label("Reset Temperature")).to_be_disabled()
    chat.page.locator("#mode").get_by_text("Text").click()
    expect(temperature).to_have_value("1")
    expect(chat.page.locator("#max_tokens-number")).to_have_value("12")  # what the reader chose stays
    chat.page.locator("#mode").get_by_text("Chat").click()
    temperature.fill("1")  # as the reader wants it
    chat.page.get_by_role("button", name="Copy link").click()
    second = new_page().open(str(chat.page.evaluate("location.hash")))
    expect(second.page.locator("#chat")).to_be_visible()
    expect(second.page.locator("#temperature-number")).to_have_value("1")
    second.page.get_by_role("button", name="Reset all").click()
    expect(second.page.locator("#temperature-number")).to_have_value("0.7")


def test_answers_have_the_probabilities_of_the_model(chat: Playground, talks: LoadedModel) -> None:
    say(chat, SAID)
    (answer,) = answers(chat)
    assert len(answer) == 12
    prompt = render_ids(CHATML, [{"role": "user", "content": SAID}], talks.tokenizer, add_generation_prompt=True)
    known = plain.logprobs(talks, [*prompt, *answer])
    expected = [known[len(prompt) - 1 + place, token] for place, token in enumerate(answer)]
    read = "all => all.map((one) => Number(one.dataset.logprob))"
    shown = chat.page.locator("#chat .token").evaluate_all(read)
    assert shown == pytest.approx(expected, abs=1e-4)
    # The conversation is what the next message follows
    with chat.page.expect_request("**/play/write") as asked:
        say(chat, "and then?")
    messages = asked.value.post_data_json["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"] == SAID
    assert len(answers(chat)) == 2


def test_another_token_another_answer_and_undo(chat: Playground) -> None:
    say(chat, SAID)
    (first,) = answers(chat)
    chat.page.locator("#chat .token").nth(4).hover()
    other = chat.page.locator(".card:visible [role=menuitem]:not(.chosen)").first
    token = int(other.get_attribute("data-id") or "")
    with chat.page.expect_response("**/play/write"):
        other.click()
    expect(main(chat)).to_have_text("Send")
    (second,) = answers(chat)
    assert second[:5] == [*first[:4], token]
    assert len(second) == 5 + 12
    with chat.page.expect_response("**/play/write"):
        chat.page.get_by_role("button", name="Another answer").click()
    expect(main(chat)).to_have_text("Send")
    (third,) = answers(chat)
    assert third != first
    undo = chat.page.locator("#chat").get_by_role("button", name="Undo:")
    for expected in (second, first):
        undo.click()
        assert answers(chat) == [expected]
    undo.click()
    assert answers(chat) == []
    redo = chat.page.locator("#chat").get_by_role("button", name="Redo:")
    redo.click()
    assert answers(chat) == [first]
    with chat.page.expect_response("**/play/write"):
        chat.page.locator("#chat").get_by_role("button", name="Continue").click()
    expect(main(chat)).to_have_text("Send")
    assert len(answers(chat)[0]) == 24


def test_an_answer_is_stopped(chat: Playground) -> None:
    chat.page.locator("#max_tokens-number").fill("400")
    chat.page.get_by_label("Your message").fill(SAID)
    main(chat).click()
    expect(chat.page.locator("#chat .token").nth(3)).to_be_visible()
    main(chat).click()
    expect(main(chat)).to_have_text("Send")
    assert 4 <= len(answers(chat)[0]) < 400


def test_hostile_messages_are_shown_as_text(chat: Playground) -> None:
    hostile = "<img src=x onerror=alert(1)> <|im_end|> \u202e \0 </p>"
    chat.page.locator("#chat summary").click()
    chat.page.locator("#system").fill("<script>alert(1)</script>")
    say(chat, hostile)
    assert "<img src=x onerror=alert(1)>" in chat.page.locator("#chat .said").inner_text()
    expect(chat.page.locator("#chat summary")).to_have_text("System prompt: <script>alert(1)</script>")
    assert chat.page.locator("img, body script").count() == 0


def test_a_link_restores_the_conversation(new_page: Callable[..., Playground], chat: Playground) -> None:
    say(chat, SAID)
    say(chat, "and <b>then</b>?")
    before = answers(chat)
    chat.page.get_by_role("button", name="Copy link").click()
    second = new_page().open(str(chat.page.evaluate("location.hash")))
    second.until(lambda: answers(second) == before)
    assert second.page.locator("#chat .said").all_inner_texts() == [SAID, "and <b>then</b>?"]
    expect(second.page.locator("#model")).to_have_value("chat")
    # Both go on alike
    for play in (chat, second):
        say(play, "more")
    assert answers(second) == answers(chat)
