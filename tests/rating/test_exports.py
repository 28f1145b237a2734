"""What leaves a study and what comes back: tables, pairs for a training, a card, ratings of others."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from containers import CHARS
from rating_studies import kept, people, rate_all, small_study

from llm_from_scratch.config import DataConfig
from llm_from_scratch.data.preferences import Pairs
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.data.prepared import Preferences
from llm_from_scratch.errors import UserError
from llm_from_scratch.rating.exports import pairs_of_ratings, pairs_of_votes, preference_rows, write_exports
from llm_from_scratch.rating.imports import import_ratings
from llm_from_scratch.rating.records import Item, Preference, Rating
from llm_from_scratch.rating.store import Study

ITEMS = {i: Item(id=i, kind="rated", prompt=i % 2, first=10 * i, second=10 * i + 1) for i in range(1, 5)}


def vote(item: int, winner: object) -> Preference:
    return Preference(rater=1, rater_kind="person", item=item, prompt=0, first="a", second="b", winner=winner)  # type: ignore[arg-type]


def rating(item: int, question: str, value: int | None) -> Rating:
    return Rating(rater=1, rater_kind="person", item=item, prompt=item % 2, system="a", question=question, value=value)


@pytest.fixture
def pairs(tmp_path: Path) -> Iterator[Study]:
    with small_study(tmp_path / "pairs", "pairs", systems=2, background=[BACKGROUND]) as study:
        for number, rater in enumerate(people(study)):
            rater = study.consent(rater, {"english": ("yes", "no")[number % 2]})
            for task in study.tasks(rater):
                row = kept(study, task)
                better = "right" if row["swapped"] else "left"  # system a, the first one
                value = {0: better, 1: "tie", 2: None}[row["item"] % 3]
                study.answer(rater, task.id, {"preference": value}, "=SUM(A1) “no”, he said\n-", 2.5)
        yield study


BACKGROUND = {"name": "english", "text": "Is English your first language?", "options": ["yes", "no"]}


def test_most_votes_decide() -> None:
    votes = [vote(1, "first"), vote(1, "first"), vote(1, "second"), vote(2, "second"), vote(2, "tie"), vote(2, None)]
    votes += [vote(3, "first"), vote(3, "second"), vote(4, "tie")]
    assert pairs_of_votes(votes, ITEMS) == [(10, 11), (21, 20)]


def test_ratings_decide_within_a_prompt_from_a_margin_on() -> None:
    ratings = [rating(1, "fun", 4), rating(1, "fun", 5), rating(1, "sense", 3), rating(1, "sense", None)]  # 3.75
    ratings += [rating(3, "fun", 2), rating(3, "sense", 3)]  # 2.5, of the same prompt
    ratings += [rating(2, "fun", 1), rating(4, "fun", None)]
    assert pairs_of_ratings(ratings, ITEMS, 1.25) == [(10, 30)]
    assert pairs_of_ratings(ratings, ITEMS, 1.26) == []


def test_the_pairs_are_what_a_training_reads(pairs: Study) -> None:
    rows = preference_rows(pairs)
    items = [item for item in pairs.items.values() if item.kind == "rated" and item.id % 3 == 0]
    assert len(rows) == len(items) == 2
    for row, item in zip(rows, items, strict=True):
        assert row["chosen"] == pairs.texts[item.first].continuation
        assert item.second is not None
        assert row["rejected"] == pairs.texts[item.second].continuation
        assert row["prompt"] == pairs.texts[item.first].given
    folder = pairs.folder / "exports"
    write_exports(pairs, folder)
    config = DataConfig(
        name="preferences",
        format="preferences",
        path=str(folder / "pairs.jsonl"),
        dir=str(folder / "data"),
        val_fraction=0.5,
    )
    prepared = prepare(config, CHARS)
    assert isinstance(prepared, Preferences)
    found = [prepared.pairs(split, config, 512) for split in ("train", "val")]
    assert all(isinstance(one, Pairs) for one in found)
    assert sum(map(len, found)) == 2


def test_models_and_people_make_pairs_of_their_own(tmp_path: Path) -> None:
    with small_study(tmp_path / "study", "pairs", systems=2) as study:
        model = study.model_rater("judge")
        for task in study.tasks(model):
            study.answer(model, task.id, {"preference": "right" if kept(study, task)["swapped"] else "left"})
        assert preference_rows(study) == []
        assert len(preference_rows(study, ("model",))) == 6


def test_tables_hold_every_answer_and_no_code(pairs: Study) -> None:
    paths = write_exports(pairs, pairs.folder / "exports")
    names = ["ratings.csv", "ratings.jsonl", "checks.csv", "texts.jsonl", "pairs.jsonl", "README.md"]
    assert [path.name for path in paths] == names
    contents = {path.name: path.read_text(encoding="utf-8") for path in paths}
    rows = [json.loads(line) for line in contents["ratings.jsonl"].splitlines()]
    assert len(rows) == len(pairs.preferences())
    assert rows[0]["comment"] == "=SUM(A1) “no”, he said\n-"
    assert {row["background.english"] for row in rows} == {"yes", "no"}
    cells = list(csv.DictReader(io.StringIO((paths[0]).read_bytes().decode(), newline="")))
    assert [row["winner"] or None for row in cells] == [row["winner"] for row in rows]
    assert cells[0]["comment"] == "'=SUM(A1) “no”, he said\n-"
    for rater in pairs.raters():
        assert all(rater.code not in content for content in contents.values())
    assert str(pairs.folder) not in contents["README.md"]


def test_the_card_says_what_was_asked(pairs: Study, tmp_path: Path) -> None:
    write_exports(pairs, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["configs"][-1] == {"config_name": "pairs", "data_files": "pairs.jsonl"}
    for said in ("6 people", "0 models", "12 attention checks", pairs.plan.pair_question, "Not closed yet"):
        assert said in body
    with small_study(tmp_path / "scales") as scales:
        rate_all(scales, scales.consent(people(scales)[0]))
        write_exports(scales, tmp_path / "more")
        assert "Hardly a sentence is English" in (tmp_path / "more/README.md").read_text(encoding="utf-8")


def test_a_study_without_an_answer_is_exported_too(tmp_path: Path) -> None:
    with small_study(tmp_path / "study") as study:
        paths = write_exports(study, tmp_path / "out")
        assert [path.read_text(encoding="utf-8") for path in paths[:3]] == ["", "", ""]
        (tmp_path / "file").write_text("", encoding="utf-8")
        with pytest.raises(UserError, match="cannot be written"):
            write_exports(study, tmp_path / "file")


# ------------------------------------------------------------------------------------------- import
@pytest.mark.parametrize("design", ["scales", "pairs"])
def test_an_export_comes_back_as_a_study(design: str, tmp_path: Path) -> None:
    with small_study(tmp_path / "study", design, raters=3) as study:
        for rater in people(study):
            for task in study.tasks(study.consent(rater)):
                if design == "scales":
                    value: dict[str, object] = {"fluency": 1 + int(task.id) % 5, "coherence": None, "relevance": 3}
                else:
                    value = {"preference": ("left", "right", "tie", None)[int(task.id) % 4]}
                study.answer(rater, task.id, value, "+1", 1.5)
        before = study.ratings() or study.preferences()
        write_exports(study, tmp_path / "out")
    count = import_ratings(tmp_path / "out/ratings.csv", tmp_path / "again")
    with Study.open(tmp_path / "again") as again:
        after = again.ratings() or again.preferences()
        assert again.closed
        assert {rater.name for rater in again.raters()} == {"1", "2", "3"}
        assert count == len(again._database.all("SELECT * FROM answers"))
        assert len(after) == len(before)

        def facts(rows: object) -> list[str]:
            found = []
            for row in rows:  # type: ignore[attr-defined]
                own = vars(row)
                about = [own["rater"], own["prompt"], own["repeat"], own["comment"], own["seconds"], own["at"]]
                about += [own.get(key) for key in ("system", "question", "value")]
                # A study of its own may have the two of a pair in another order.
                about += [
                    *sorted(map(str, (own.get("first"), own.get("second")))),
                    own.get(str(own.get("winner")), "none"),
                ]
                found.append(str(about))
            return sorted(found)

        assert facts(after) == facts(before)
        assert {row.rater_kind for row in after} == {"imported"}


def test_ratings_are_added_to_a_study_once(tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    path.write_text(
        "\ufeffrater,prompt,second,first,winner,background.english,other\n"
        "Ann,0,a,b,first,no,x\nAnn,1,b,a,,no,x\nBob,0,b,a,TIE,,x\n",
        encoding="utf-8",
    )
    with small_study(tmp_path / "study", "pairs", systems=2) as study:
        assert import_ratings(path, study.folder) == 3
        found = [(row.rater_kind, row.prompt, row.first, row.winner) for row in study.preferences()]
        assert found == [("imported", 0, "a", "second"), ("imported", 1, "a", None), ("imported", 0, "a", "tie")]
        assert study.preferences()[0].background == {"english": "no"}
        with pytest.raises(UserError, match="imported before"):
            import_ratings(path, study.folder)
        assert len(study.preferences()) == 3
        person = study.consent(people(study)[0])  # what was imported takes no rating away
        assert len([task for task in study.tasks(person) if task.kind == "rated"]) == 3 + 0 + 2


SCALES = "rater,prompt,system,question,value\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no ratings: its header needs rater,prompt,system,question,value; or rater,prompt,first"),
        ("a,b\n1,2\n", "holds no ratings"),
        (SCALES + "x,0,a,fluency,6\n", "ratings.csv:2: value '6' must be from 1 to 5"),
        (SCALES + "x,0,a,fluency,3.5\n", "value '3.5'"),
        (SCALES + "x,0,a,fun,3\n", "needs an answer to each of fluency, coherence, relevance, and to nothing else"),
        (SCALES + "x,99,a,fluency,3\n", "prompt '99' has no text of 'a'"),
        (SCALES + "x,0,zz,fluency,3\n", "prompt '0' has no text of 'zz'"),
        (SCALES + "x,0,a,fluency,3\nx,0,a,fluency,4\n", ":3: is of the same rater about the same text"),
        (SCALES + "x,0,a\n", "line 2: has more or fewer cells"),
        (SCALES + "x,0,a,fluency,3,4\n", "line 2: has more or fewer cells"),
        ("rater,prompt,first,second,winner\nx,0,a,b,first\n", "holds pairs, and this is a study of scales"),
        (SCALES + 'x,0,a,"fluency,3\n', "unexpected end of data"),
    ],
)
def test_a_file_that_does_not_fit_adds_nothing(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(text, encoding="utf-8")
    with small_study(tmp_path / "study") as study:
        with pytest.raises(UserError) as refused:
            import_ratings(path, study.folder)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
        assert study.ratings() == []
        assert [rater for rater in study.raters() if rater.kind == "imported"] == []


def test_ratings_that_make_no_study_leave_none(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    for text, said in (
        (SCALES + "x,p,Sys tem,fun,3\n", "makes no study: systems: the name 'Sys tem'"),
        (SCALES + "x,p,a,fun,3\nx,p,a,fun,3\n", "is of the same rater"),
        ("rater,prompt,first,second,winner\nx,0,a,b,left\n", "winner: must be first, second or tie"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=said):
            import_ratings(path, tmp_path / "study")
        assert not (tmp_path / "study").exists()
    with pytest.raises(UserError, match="No such file"):
        import_ratings(tmp_path / "no.csv", tmp_path / "study")


def test_answers_of_models_do_not_come_back_as_people(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    header = "rater,rater_kind,prompt,system,question,value,given,continuation\n"
    path.write_text(header + "1,person,p,a,fun,3,Once, upon\n2,model,p,a,fun,5,Once, upon\n", encoding="utf-8")
    assert import_ratings(path, tmp_path / "study") == 1
    with Study.open(tmp_path / "study") as study:
        (text,) = study.texts.values()
        assert (text.given, text.continuation) == ("Once", " upon")
        assert [row.value for row in study.ratings()] == [3]
