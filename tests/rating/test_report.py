"""`rate report` on real studies: terminal, JSON, page; people and models apart; hostile names; odd studies."""

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rating_studies import kept, people, small_plan, small_study, small_texts

from llm_from_scratch import cli
from llm_from_scratch.evaluation.results import as_json
from llm_from_scratch.pages import Paragraph, Table
from llm_from_scratch.rating.blocks import at_a_glance, blocks
from llm_from_scratch.rating.figures import draw
from llm_from_scratch.rating.records import Rater, Rating
from llm_from_scratch.rating.report import records_of, results_of, write_page
from llm_from_scratch.rating.statistics import analysis
from llm_from_scratch.rating.statistics.analysis import Records, analyse
from llm_from_scratch.rating.store import Study

QUALITY = {"a": 1.8, "b": 3.0, "c": 4.3}


@pytest.fixture(autouse=True)
def without_the_cumulative_link_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes most of the time; two tests put it back."""
    monkeypatch.setattr(analysis, "cumulative_link", lambda _: ([], ""))


def judge(study: Study, rater: Rater, rng: np.random.Generator) -> None:
    """Answers all tasks by the qualities of the systems and some noise."""
    for task in study.tasks(rater):
        row = kept(study, task)
        item = study.items[row["item"]]
        shown = [study.texts[text] for text in (item.first, item.second) if text is not None]
        if row["swapped"]:
            shown.reverse()
        latent = [QUALITY.get(text.system, 3.0) + rng.normal(0, 0.5) for text in shown]
        if study.plan.design == "scales":
            value: dict[str, Any] = dict.fromkeys(study.plan.answers, int(np.clip(round(latent[0]), 1, 5)))
        else:
            apart = latent[0] - latent[1]
            value = {"preference": "tie" if abs(apart) < 0.3 else "left" if apart > 0 else "right"}
        if item.kind == "check":  # attentive people do what it asks for
            assert item.expected is not None
            value |= {name: ends[0] for name, ends in item.expected.items() if name != "preference"}
            if study.plan.design == "pairs":
                value = {
                    "preference": "left" if (item.expected["preference"] == "first") != row["swapped"] else "right"
                }
        study.answer(rater, task.id, value, seconds=float(rng.gamma(4, 3)))


def rated_study(folder: Path, design: str = "scales") -> Path:
    """A closed study that six people rated; better systems write longer texts."""
    rng = np.random.default_rng(0)
    background = [{"name": "english", "text": "Your first language?", "options": ["yes", "no"]}]
    plan = small_plan(design, prompts=8, raters=6, background=background)
    texts, items = small_texts(plan)
    texts = [
        replace(text, continuation=text.continuation + " word" * int(3 * QUALITY.get(text.system, 0) + rng.integers(4)))
        for text in texts
    ]
    with Study.create(folder, plan, texts, items) as study:
        for number, rater in enumerate(people(study)):
            judge(study, study.consent(rater, {"english": "yes" if number % 2 else "no"}), rng)
        study.close()
    return folder


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A study of each design; the tests only read them."""
    return {design: rated_study(tmp_path_factory.mktemp("rated") / design, design) for design in ("scales", "pairs")}


@pytest.mark.parametrize("design", ["scales", "pairs"])
def test_a_study_from_its_folder_to_its_page(
    rated: dict[str, Path], tmp_path: Path, design: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = rated[design], tmp_path / "page.html"
    cli.main(["rate", "report", str(folder), "--html", str(page)])
    shown = capsys.readouterr().out
    assert f"page: {page}" in shown
    assert "At a glance" in shown
    assert re.search(rf"c is better than a, by \d+\.\d+ {'logits' if design == 'pairs' else 'points'}", shown)
    if design == "pairs":
        assert "c was preferred in 100 % of 24 comparisons" in " ".join(shown.split())
    assert "no figures of those" in shown  # of the article
    html = page.read_text(encoding="utf-8")
    assert html.count("<picture>") == html.count('prefers-color-scheme: dark)" srcset') >= 3
    assert not re.findall(r'(?:src|href|srcset)="(?!data:)', html)

    cli.main(["rate", "report", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["design"] == design
    assert found["closed"]
    assert len(found["people"]["raters"]) == 6
    assert all(row["checks"] and row["repeats"] for row in found["people"]["raters"])
    assert all(row["checks_passed"] == row["checks"] for row in found["people"]["raters"])
    groups = {(row["question"], row["answer"]) for row in found["people"]["groups"]}
    assert groups == {("english", "yes"), ("english", "no")}
    assert {row["metric"] for row in found["metrics"]} >= {"words", "distinct-2"}
    if design == "scales":
        assert [row["name"] for row in found["people"]["questions"]] == ["fluency", "coherence", "relevance"]
        assert found["people"]["questions"][0]["alpha"]["value"] > 0.5
    else:
        scores = {row["system"]: row["score"] for row in found["people"]["pairs"]["strengths"]}
        assert scores["a"] < scores["b"] < scores["c"]


def test_the_command_has_the_cumulative_link_model(
    rated: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("statsmodels")
    from llm_from_scratch.rating.statistics.ordered import cumulative_link

    monkeypatch.setattr(analysis, "cumulative_link", cumulative_link)
    results = results_of(rated["scales"])
    model = results.people.questions[0].model
    assert model is not None
    assert [(row.system, row.against) for row in model] == [("b", "a"), ("c", "a")]
    assert 0 < model[0].value < model[1].value


def test_without_statsmodels_the_rest_is_there_and_it_is_told(
    rated: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_from_scratch.rating.statistics.ordered import cumulative_link

    monkeypatch.setattr(analysis, "cumulative_link", cumulative_link)
    monkeypatch.setitem(sys.modules, "statsmodels.miscmodels.ordinal_model", None)
    cli.main(["rate", "report", str(rated["scales"])])
    captured = capsys.readouterr()
    assert "c is better than a" in captured.out
    assert captured.err.count("cumulative-link model") == 1
    assert "Ordered logit" not in captured.out


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_mistakes_are_one_line(rated: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_study(tmp_path / "empty"):
        pass
    assert "no rating yet" in refused(["rate", "report", str(tmp_path / "empty")], capsys)
    assert "is no study" in refused(["rate", "report", str(tmp_path / "none")], capsys)
    page = str(tmp_path / "no" / "page.html")
    assert "make it first" in refused(["rate", "report", str(tmp_path / "empty"), "--html", page], capsys)
    folder = rated["scales"]
    assert "is a folder: name a file in it" in refused(["rate", "report", str(folder), "--html", str(tmp_path)], capsys)
    wrong = ["rate", "report", str(folder), "--evaluation", str(tmp_path / "none.json")]
    assert "cannot be read" in refused(wrong, capsys)


def test_an_evaluation_adds_its_metrics(rated: dict[str, Path], tmp_path: Path) -> None:
    folder, report = rated["scales"], tmp_path / "report.json"
    rows = [{"run": f"runs/{i}", "bits_per_byte": 3.0 - i} for i in range(3)]
    report.write_text(json.dumps({"runs": rows}), encoding="utf-8")
    found = results_of(folder, report).metrics
    (row,) = [one for one in found if one.metric == "bits per byte" and one.question == "fluency"]
    assert (row.over, row.count, row.spearman) == ("systems", 3, pytest.approx(-1))


def records(folder: Path) -> Records:
    with Study.open(folder) as study:
        return records_of(study)


@pytest.mark.parametrize("design", ["scales", "pairs"])
def test_a_model_changes_nothing_of_the_people(tmp_path: Path, design: str) -> None:
    folder = tmp_path / "study"
    rng = np.random.default_rng(0)
    with small_study(folder, design, prompts=6, raters=4) as study:
        for rater in people(study):
            judge(study, study.consent(rater), rng)
        alone = analyse(records_of(study))
        judge(study, study.model_rater("a model"), rng)
        both = analyse(records_of(study))
    assert as_json(both.people) == as_json(alone.people)
    assert as_json(both.metrics) == as_json(alone.metrics)
    assert len(both.models) == 1
    assert not alone.models
    assert {row.rater for row in both.models[0].raters}.isdisjoint(row.rater for row in both.people.raters)
    assert all(row.spearman is not None and row.spearman > 0.3 for row in both.model_agreement)
    pictures = draw(both, tmp_path)
    files = [picture.file for picture in pictures.values()]
    assert len(set(files)) == len(files)
    text = "\n".join(one.text for one in blocks(both, pictures) if isinstance(one, Paragraph))
    assert "They are in no figure, mean or interval of the people's" in text


def test_a_study_of_models_alone_says_that_no_person_judged(tmp_path: Path) -> None:
    with small_study(tmp_path / "study", prompts=6) as study:
        judge(study, study.model_rater("a model"), np.random.default_rng(0))
        results = analyse(records_of(study))
    assert at_a_glance(results) == ["No person has judged anything yet."]
    write_page(results, tmp_path / "page.html")


def test_both_themes_are_drawn_alike(rated: dict[str, Path], tmp_path: Path) -> None:
    results = analyse(records(rated["scales"]))
    for picture in draw(results, tmp_path).values():
        assert picture.dark is not None
        light, dark = (Image.open(tmp_path / name).convert("L") for name in (picture.file, picture.dark))
        assert light.size == dark.size
        assert np.median(np.asarray(light)) > 240
        assert np.median(np.asarray(dark)) < 60


def made(**changes: Any) -> Records:
    """A study of scales from made records; `changes` replace fields of every rating."""
    rng = np.random.default_rng(0)
    ratings = [
        Rating(**({"value": int(rng.integers(1, 6))} | row | changes))
        for rater in range(4)
        for prompt in range(5)
        for number, system in enumerate(["$x$ <b>", "_b_\x1b[31m"])
        for row in [
            {"rater": rater, "rater_kind": "person", "item": prompt * 2 + number, "prompt": prompt, "system": system}
            | {"question": "<script>", "seconds": math.nan}
        ]
    ]
    return Records(
        title="<script>alert(1)</script> $\\frac{$",
        design="scales",
        systems=["$x$ <b>", "_b_\x1b[31m"],
        questions=["<script>", "never asked"],
        ratings=ratings,
    )


ODD: dict[str, Callable[[], Records]] = {
    "hostile names": made,
    "the same answer always": lambda: made(value=3),
    "one rater": lambda: made(rater=1),
    "one prompt": lambda: made(prompt=0),
    "one rater and one prompt": lambda: made(rater=1, prompt=0),
    "one system": lambda: made(system="$x$ <b>"),
    "imported": lambda: made(rater_kind="imported"),
    "background of one kind": lambda: made(background={"<b>": "<i>"}),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_studies_have_a_page(name: str, tmp_path: Path) -> None:
    results = analyse(ODD[name]())
    write_page(results, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<b>" not in html
    assert "\x1b" not in html
    assert "nan" not in re.sub(r"base64,[^\"]*", "", html).lower().replace("finance", "")
    json.dumps(as_json(results), allow_nan=False)


def test_pairs_that_one_system_always_wins_are_open_at_the_top(tmp_path: Path) -> None:
    with small_study(tmp_path / "study", "pairs", prompts=6, raters=4) as study:
        for rater in people(study):
            for task in study.tasks(study.consent(rater)):
                row = kept(study, task)
                item = study.items[row["item"]]
                names = [study.texts[text].system for text in (item.first, item.second) if text is not None]
                names = names[::-1] if row["swapped"] else names
                study.answer(rater, task.id, {"preference": "left" if names[0] > names[1] else "right"})
        results = analyse(records_of(study))
    found = results.people.pairs
    assert found is not None
    assert not found.bounded
    best, worst = found.strengths[2], found.strengths[0]
    assert (best.high, worst.low) == (None, None)
    assert best.low is not None
    assert as_json(found)["strengths"][2].get("high") is None
    tables = [one for one in blocks(results) if isinstance(one, Table)]
    assert any("infinite" in one.text for one in blocks(results) if isinstance(one, Paragraph))
    assert tables
