"""Rating in a terminal: every answer of a whole study by typed lines, back, comments, hostile text."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from rating_studies import people, small_study

from llm_from_scratch.errors import UserError
from llm_from_scratch.rating.records import Rater
from llm_from_scratch.rating.store import Study
from llm_from_scratch.rating.terminal import Terminal, rater_of


def typed(study: Study, rater: Rater, lines: Iterable[str]) -> str:
    """Types lines, then the end of the input; returns what was shown."""
    waiting, shown = iter(lines), []

    def read(prompt: str) -> str:
        shown.append(prompt)
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    Terminal(study, rater, read, shown.append).rate()
    return "\n".join(shown)


def test_a_whole_order_is_rated_by_typing(tmp_path: Path) -> None:
    with small_study(tmp_path / "study", raters=3) as study:
        rater = people(study)[0]
        said = typed(study, rater, ["perhaps", "yes", *(["5", "4", "1", ""] * 2), *(["3", "2", "-"] * 30)])
        assert study.plan.consent.split(".")[0][:60] in said
        tasks = study.tasks(rater)
        assert tasks[0].answer == {"fluency": 5, "coherence": 4, "relevance": 1}
        assert {str(task.answer) for task in tasks[2:]} == {str({"fluency": 3, "coherence": 2, "relevance": None})}
        assert "Right." in said
        assert "We would have said it otherwise." in said
        assert f"=== {len(tasks)} of {len(tasks)} ===" in said
        assert "All is answered. Thank you!" in said
        assert rater.code in said.splitlines()[-1]
        assert not any(name in said for name in ("runs/", "human", "check"))


def test_back_comments_rubric_and_an_answer_that_is_kept(tmp_path: Path) -> None:
    with small_study(tmp_path / "study") as study:
        rater = people(study)[0]
        said = typed(study, rater, ["y", "?", "7", "c not <b>bold</b>", "1", "2", "3", "", "b", "5", "", "", "", "q"])
        assert "FLUENCY: How well" in said
        assert "Hardly a sentence is English" in said
        assert "1, 2, 3, 4, 5, -" in said
        first, second = study.tasks(rater)[:2]
        assert first.answer == {"fluency": 5, "coherence": 2, "relevance": 3}
        assert first.comment == "not <b>bold</b>"
        assert second.answer is None
        # Later on: it goes on where it was left.
        assert "=== 2 of" in typed(study, study.raters()[0], [])


def test_pairs_and_background(tmp_path: Path) -> None:
    background = [{"name": "english", "text": "Is English your first language?", "options": ["yes", "no"]}]
    with small_study(tmp_path / "study", "pairs", background=background, training=0) as study:
        rater = people(study)[0]
        said = typed(study, rater, ["yes", "3", "2", "a", "b", "t", "-", "back", "a", "x", "q"])
        assert study.raters()[0].background == {"english": "no"}
        answers = [task.answer for task in study.tasks(rater)[:5]]
        assert answers == [{"preference": one} for one in ("left", "right", "tie", "left")] + [None]
        assert "--- A" in said
        assert study.plan.pair_question in said


def test_who_does_not_agree_leaves_nothing(tmp_path: Path) -> None:
    with small_study(tmp_path / "study") as study:
        assert "nothing is kept" in typed(study, people(study)[0], ["no"])
        assert study.raters()[0].consented is None
        typed(study, people(study)[0], [])
        assert study.raters()[0].consented is None


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    with small_study(tmp_path / "study", title="\x1b]0;owned\x07 [bold]", consent="\x1b[2J", training=0) as study:
        said = typed(study, people(study)[0], ["y", "3"])
        assert "\x1b" not in said
        assert "\\x1b]0;owned\\x07 [bold]" in said


def test_codes(tmp_path: Path) -> None:
    with small_study(tmp_path / "study", raters=3) as study:
        first = rater_of(study, None)
        assert first.id == people(study)[0].id
        study.consent(first)
        assert rater_of(study, None).id == people(study)[1].id
        assert rater_of(study, first.code).consented
        with pytest.raises(UserError, match="no such code"):
            rater_of(study, "wrong")
        for rater in people(study):
            study.consent(rater)
        with pytest.raises(UserError, match="every code is in use"):
            rater_of(study, None)
        study.close()
        with pytest.raises(UserError, match="closed"):
            typed(study, study.raters()[0], ["3"] * 20)
