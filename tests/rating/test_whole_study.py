"""A whole study, as a user has it: two runs of the book, a study, a panel, the report, a training."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from conftest import Process
from rating_studies import kept, people

from llm_from_scratch.rating.records import Task
from llm_from_scratch.rating.store import Study

RUN = (
    "data=oz",
    "model.n_layer=2",
    "model.n_embd=64",
    "model.n_head=2",
    "model.block_size=128",
    "tokenizer.vocab_size=512",
    "data.batch_size=16",
    "trainer=cpu",
    "optim.warmup_steps=5",
    "sample.max_new_tokens=8",
)
PLAN = """
title: Which run tells the better tale?
design: {design}
passages: {{of: late, count: 8, prompt_characters: 80, continuation_characters: 120}}
ratings_per_item: 2
raters: 4
repeats: 2
checks: 2
background: [{{name: english, text: "Is English your first language?", options: [yes, no]}}]
"""
QUALITY = {"early": 0, "late": 1, "human": 2}
NOISE = 0.15  # share of answers at random


def opinion(study: Study, task: Task, rng: random.Random) -> dict[str, object]:
    """The answer of a rater who sees the truth, but for some noise, and does as checks ask."""
    row = kept(study, task)
    item = study.items[row["item"]]
    systems = [study.texts[one].system for one in (item.first, item.second) if one is not None]
    if study.plan.design == "scales":
        if item.kind != "rated":
            expected = item.expected or {}
            return {name: expected[name][0] for name in study.plan.answers}
        level = rng.randint(1, 5) if rng.random() < NOISE else 1 + 2 * QUALITY[systems[0]]
        return {name: min(max(level + rng.choice((-1, 0, 0, 1)), 1), 5) for name in study.plan.answers}
    if item.kind != "rated":
        better = (item.expected or {})["preference"]
    elif rng.random() < NOISE:
        better = rng.choice(("first", "second", "tie"))
    else:
        better = "first" if QUALITY[systems[0]] > QUALITY[systems[1]] else "second"
    sides = {"first": "left", "second": "right", "tie": "tie"}
    if row["swapped"]:
        sides |= {"first": "right", "second": "left"}
    return {"preference": sides[better]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, corpora: Path) -> Path:
    """The folder of two runs of the Wizard of Oz: one after 5 steps, one after 250."""
    from conftest import REPO, run

    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("early", 5), ("late", 250)):
        done = run([str(REPO / "train.py"), *RUN, f"run_dir={name}", f"trainer.max_steps={steps}"], folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("design", ["pairs", "scales"])
def test_a_whole_study(design: str, runs: Path, command: Process, train: Process) -> None:
    def rate(*words: str) -> str:
        done = command("rate", *words, cwd=runs)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (runs / f"{design}.yaml").write_text(PLAN.format(design=design), encoding="utf-8")
    out = rate("new", "early=early", "late=late", "--study", f"{design}.yaml", "--out", design, "--device", "cpu")
    assert out == f"study: {design}\n"
    rng = random.Random(0)
    with Study.open(runs / design) as study:
        for rater in people(study):
            own = study.consent(rater, {"english": rng.choice(("yes", "no"))})
            for task in study.tasks(own):
                study.answer(own, task.id, opinion(study, task, rng), seconds=rng.uniform(5, 20))
        assert all(check.passed for check in study.checks())
        rows = study.ratings() or study.preferences()
        counts = Counter((row.item, getattr(row, "question", "")) for row in rows if not row.repeat)
        assert set(counts.values()) == {2}
        assert len({row.item for row in rows}) == 24
    rate("close", design)

    found = json.loads(rate("report", design, "--json", "--html", f"{design}.html"))
    if design == "pairs":
        strengths = sorted(found["people"]["pairs"]["strengths"], key=lambda one: one["score"])
        order = [one["system"] for one in strengths]
    else:
        means = next(one for one in found["people"]["questions"] if one["name"] == "coherence")["means"]
        order = [one["system"] for one in sorted(means, key=lambda one: one["mean"])]
    assert order == ["early", "late", "human"]
    page = (runs / f"{design}.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 2
    assert "Which run tells the better tale?" in page

    paths = [Path(line) for line in rate("export", design).splitlines()]
    assert {path.name for path in paths} >= {"ratings.csv", "pairs.jsonl", "README.md"}
    pairs = [
        json.loads(line) for line in (runs / design / "exports/pairs.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(pairs) >= 12
    settings = ("data=preferences", f"data.path={design}/exports/pairs.jsonl", "loss=dpo", "init_from=late")
    sizes = ("data.batch_size=4", "data.val_fraction=0.25", "model.dropout=0", "trainer.max_steps=30", "optim.lr=1e-3")
    done = train(*settings, *sizes, "trainer=cpu", "trainer.log_every_n_steps=1", f"run_dir={design}-dpo", cwd=runs)
    assert done.returncode == 0, done.stderr
    lines = (runs / f"{design}-dpo/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    learned = [row for row in map(json.loads, lines) if row["split"] == "train"]
    assert learned[0]["loss"] == pytest.approx(0.693, abs=0.02)
    assert learned[-1]["loss"] < 0.4
    assert learned[-1]["accuracy"] > 0.8
