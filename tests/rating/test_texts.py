"""The texts of a study: written by real runs, the true continuation among them, as long as it is."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.measure import open_with_data
from llm_from_scratch.generation import generate
from llm_from_scratch.rating.order import make_items
from llm_from_scratch.rating.study import StudyPlan, plan_of
from llm_from_scratch.rating.texts import whole_words, write_texts

SHORT = {"of": "one", "count": 3, "prompt_characters": 60, "continuation_characters": 80}


def plan(**changes: object) -> StudyPlan:
    return plan_of({"systems": {"one": "run", "two": "run"}, "passages": SHORT} | changes)


def test_passages_are_held_out_and_every_system_continues_them(finished_here: Path) -> None:
    written = write_texts(plan(), "cpu")
    assert [(text.prompt, text.system) for text in written.texts] == [
        (prompt, system) for prompt in range(3) for system in ("one", "two", "human")
    ]
    assert [text.id for text in written.texts] == list(range(1, 10))
    held_out = "".join(open_with_data("run", "cpu").prepared.documents("val"))
    for text in written.texts:
        assert text.given in held_out
        if text.system == "human":
            assert text.given + text.continuation in held_out
        assert 0 < len(text.continuation) <= 80
    assert len({text.seed for text in written.texts if text.system != "human"}) == 6
    assert len({text.continuation for text in written.texts}) == 9
    again = write_texts(plan(), "cpu")
    assert again == written
    assert write_texts(plan(seed=2), "cpu").texts != written.texts


def test_carriers_of_checks_are_more_texts_of_the_systems(finished_here: Path) -> None:
    written = write_texts(plan(checks=4), "cpu")
    rated = {text.continuation for text in written.texts}
    assert len(written.carriers) == 4
    assert {text.system for text in written.carriers} == {"check"}
    assert rated.isdisjoint(text.continuation for text in written.carriers)
    assert {text.given for text in written.carriers} <= {text.given for text in written.texts}
    pairs = write_texts(plan(checks=2, design="pairs"), "cpu")
    assert [text.prompt for text in pairs.carriers][::2] == [text.prompt for text in pairs.carriers][1::2]
    texts, items = make_items(plan(checks=2, design="pairs"), pairs.texts, pairs.carriers)
    by_id = {text.id: text for text in texts}
    for item in (one for one in items if one.kind == "check"):
        assert item.second is not None
        assert by_id[item.first].given == by_id[item.second].given


def test_prompts_are_continued_by_tokens_with_the_plans_sampling(finished_here: Path) -> None:
    sampling = {"temperature": 0, "top_p": None, "max_new_tokens": 12}
    own = plan(passages=None, prompts=["Dorothy  went to", "The Lion"], sampling=sampling)
    written = write_texts(own, "cpu")
    assert len(written.texts) == 4
    model = open_with_data("run", "cpu").run
    for text in written.texts:
        from llm_from_scratch.config import SamplingConfig

        config = SamplingConfig(temperature=0, max_new_tokens=12)
        whole = "".join(new for (new,) in generate(model.model, model.tokenizer, text.given, config))
        assert whole.startswith(text.continuation)
        assert len(whole) - len(text.continuation) < 20
    assert written.texts[0].continuation == written.texts[1].continuation  # greedy, one run
    about = json.loads(written.systems)
    assert about["one"]["run"] == "run"
    assert len(about["one"]["checksum"]) == 64


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"passages": SHORT | {"count": 500}}, "passages.count: 500: the text that one holds out has"),
        ({"passages": SHORT | {"continuation_characters": 10**6}}, "needs held-out text of at least"),
        ({"systems": {"one": "run", "two": "nowhere"}}, "nowhere"),
        ({"sampling": {"temperature": -1}}, "sampling.temperature=-1"),
    ],
)
def test_what_cannot_be_written_is_told_in_one_line(finished_here: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as refused:
        write_texts(plan(**changes), "cpu")
    assert said in str(refused.value)


@given(st.text())
def test_a_cut_text_ends_with_a_whole_word(text: str) -> None:
    found = whole_words(text)
    assert text.startswith(found)
    if text.strip():
        assert found.strip()
    if found != text and text.rstrip() == text:
        assert text[len(found) :].strip()


def test_whole_words() -> None:
    assert whole_words(" Dorothy went to the Emer") == " Dorothy went to the"
    assert whole_words(" Dorothy went ") == " Dorothy went"
    assert whole_words("Emerald") == "Emerald"
    assert whole_words(" Emer") == " Emer"
