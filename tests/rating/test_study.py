"""study.yaml: defaults, what is refused, and that a plan comes back from its own YAML."""

from pathlib import Path
from typing import Any

import pytest
from rating_studies import small_plan

from llm_from_scratch.errors import UserError
from llm_from_scratch.rating.rubric import PAIRS, QUESTIONS, SCALES
from llm_from_scratch.rating.study import StudyPlan, plan_of, read_plan, yaml_values

LEAST = {"systems": {"small": "runs/small"}, "prompts": ["Once upon a time"]}
LEVELS = {i: f"level {i}" for i in range(1, 6)}


def test_what_is_left_out_has_a_default() -> None:
    plan = plan_of(LEAST)
    assert (plan.design, plan.human, plan.raters, plan.ratings_per_item) == ("scales", False, 6, 3)
    assert plan.answers == ["fluency", "coherence", "relevance"]
    assert plan.names == ["small"]
    passages = plan_of({"systems": {"small": "last"}, "passages": {"of": "small"}})
    assert passages.names == ["small", "human"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"design": "pairs", "systems": {"a": "x", "b": "y"}, "ties": False, "pair_question": "Which is: better?"},
        {"background": [{"name": "english", "text": "Is English your first language?", "options": ["yes", "no"]}]},
        {"prompts": None, "passages": {"of": "small", "count": 3}, "title": "ünïcode: “yes”\n#"},
        {"questions": [{"name": "fun", "text": "Is it fun?", "levels": LEVELS, "anchors": {1: "no", 5: "yes"}}]},
        {"sampling": {"temperature": 0, "top_k": 5, "top_p": None, "max_new_tokens": 7}},
    ],
)
def test_a_plan_comes_back_from_its_yaml(changes: dict[str, Any]) -> None:
    plan = plan_of(LEAST | changes)
    again = plan_of(yaml_values(plan.as_yaml()))
    assert again == plan
    assert again.checksum() == plan.checksum()


def test_yes_and_no_are_words_and_true_is_none() -> None:
    values = yaml_values("options: [yes, no, on, 2024-01-01]\nties: true")
    assert values == {"options": ["yes", "no", "on", "2024-01-01"], "ties": True}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"desing": "pairs"}, "desing: there is no such setting"),
        ({"design": "triples"}, "design: 'triples': is scales or pairs"),
        ({"design": "pairs"}, "pairs need two systems"),
        ({"systems": {}}, "systems: name one or more"),
        ({"systems": {"human": "x"}}, "systems: the name 'human'"),
        ({"systems": {"a/b": "x"}}, "systems: the name 'a/b'"),
        ({"systems": {"a": "x", "A": "y"}}, "capitals alone"),
        ({"systems": ["x"]}, "systems: ['x']: must be of type dict"),
        ({"systems": {"a": 3}}, "systems.a: must be a RUN"),
        ({"prompts": None}, "prompts, passages: give one of the two"),
        ({"passages": {"of": "small"}}, "prompts, passages: give one of the two"),
        ({"prompts": None, "passages": {"of": "other"}}, "passages.of: 'other' is none of the systems"),
        ({"prompts": None, "passages": {"count": 3}}, "passages: needs of"),
        ({"prompts": None, "passages": {"of": "small", "count": 0}}, "passages.count: 0: must be 1 or more"),
        ({"prompts": "Once"}, "prompts: must be a list"),
        ({"prompts": ["a", "a"]}, "prompts: one of them stands there twice"),
        ({"prompts": [" "]}, "prompts: each must be a text"),
        ({"human": True}, "human: only passages"),
        ({"title": "\ud800"}, "half a character"),
        ({"prompts": ["a", "b\udcff"]}, "half a character"),
        ({"seed": -1}, "seed: -1: must be from 0"),
        ({"seed": True}, "seed: True: must be of type int"),
        ({"raters": "six"}, "raters: 'six': must be of type int"),
        ({"ratings_per_item": 7}, "ratings_per_item: 7: nobody rates an item for two"),
        ({"sampling": {"temprature": 1}}, "sampling.temprature: there is no such setting"),
        ({"sampling": 3}, "sampling: must be `key: value` lines"),
        ({"questions": []}, "questions: a study of scales needs one"),
        ({"questions": [{"name": "x", "text": "?"}]}, "questions[0]: needs levels"),
        ({"questions": [{"name": "x", "text": "?", "levels": {1: "a"}}]}, "questions[0].levels: needs a text for each"),
        ({"questions": [{"name": "X y", "text": "?", "levels": LEVELS}]}, "the name 'X y'"),
        (
            {"questions": [{"name": "x", "text": "?", "levels": LEVELS, "anchors": {9: "a"}}]},
            "anchors: needs a text for",
        ),
        ({"background": [{"name": "a", "text": "?", "options": ["yes"]}]}, "needs two different answers"),
        ({"training": 5}, "training: 5: there are 4 training items"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        plan_of(LEAST | changes)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_questions_of_ones_own_have_their_anchors_as_training() -> None:
    question = {"name": "fun", "text": "Is it fun?", "levels": LEVELS}
    assert plan_of(LEAST | {"questions": [question]}).training == 0
    assert plan_of(LEAST | {"questions": [question | {"anchors": {1: "a", 5: "b"}}]}).training == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1]\nb: *x", "alias"),
        ("[" * 40 + "]" * 40, "nested too deep"),
        ("just words", "holds no settings"),
        ("a: [", "while parsing"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_plan(tmp_path / "study.yaml")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_plan(tmp_path / "study.yaml")
    (tmp_path / "study.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        read_plan(tmp_path / "study.yaml")


def test_runs_of_the_command_line_take_the_place_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("prompts: [Once]\nsystems: {old: runs/old}\n", encoding="utf-8")
    assert read_plan(path).systems == {"old": "runs/old"}
    assert read_plan(path, {"new": "runs/new"}).systems == {"new": "runs/new"}


def test_the_rubric_has_words_for_each_level_and_examples_for_1_3_and_5() -> None:
    for question in QUESTIONS:
        assert list(question.levels) == [1, 2, 3, 4, 5]
        assert list(question.anchors) == [1, 3, 5]
        texts = [*question.levels.values(), *question.anchors.values()]
        assert len(set(texts)) == len(texts)


def test_training_items_are_right_about_the_questions() -> None:
    plan = StudyPlan(systems={"a": "x"}, prompts=("p",), human=False)
    for example in SCALES:
        assert list(example.expected) == plan.answers
        assert all(1 <= low <= high <= 5 for low, high in example.expected.values())
    assert {example.expected["preference"] for example in PAIRS} == {"first", "second"}
    assert small_plan().training == 2
