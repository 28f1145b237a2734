"""Watched texts: what their rows say, before the training and after it, and an exact resume."""

import json
from pathlib import Path

import pytest
from conftest import InProcess, story

from llm_from_scratch.cli import main
from llm_from_scratch.run import read_rows
from llm_from_scratch.training.results import draw_curves

WORDS = (
    *(
        "data=text",
        "data.path=story.txt",
        "data.batch_size=4",
        "trainer=cpu",
        "sample.max_new_tokens=0",
        "init_from=run",
    ),
    *("optim.warmup_steps=1", "optim.schedule=constant", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1"),
)
WATCH = ("+watch.old={path: old.txt}", "+watch.same={path: story.txt}")


@pytest.fixture(autouse=True)
def another_text(finished_here: Path) -> None:
    """old.txt beside a finished run, in the present folder."""
    (finished_here / "old.txt").write_text(story(20_000, seed=5).upper(), encoding="utf-8")


def test_rows_from_step_0_on_and_an_exact_resume(train_here: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = train_here(*WORDS, *WATCH, "trainer.max_steps=4", "run_dir=whole")
    assert status == 0, said
    rows = read_rows(Path("whole/metrics.jsonl"))
    assert [(row["step"], row["split"]) for row in rows if row["split"] != "train"] == [
        *((0, "val/old"), (0, "val/same")),
        *((step, split) for step in (2, 4) for split in ("val", "val/old", "val/same")),
    ]
    found = {(row["step"], row["split"]): row for row in rows}
    for step in (2, 4):  # the text itself, watched, has its own loss
        for name in ("loss", "bits_per_byte", "perplexity"):
            assert found[step, "val/same"][name] == pytest.approx(found[step, "val"][name], rel=1e-9)
    # At step 0 it is the loss of the origin, as `evaluate` measures it.
    capsys.readouterr()
    main(["evaluate", "run", "--json", "--device", "cpu"])
    loss = json.loads(capsys.readouterr().out.splitlines()[-1])["loss"]
    assert found[0, "val/same"]["loss"] == pytest.approx(loss, abs=1e-5)
    assert found[0, "val/old"]["loss"] > 1.2 * loss  # capitals
    table = said[said.index("Watched: texts") :]
    assert "parameters; curves.png is in the run folder. Next:" in said  # sample.max_new_tokens=0
    change = found[4, "val/old"]["bits_per_byte"] - found[0, "val/old"]["bits_per_byte"]
    assert f"{change:+.4f}" in table

    # Without watching, the training is the same; stopped, it goes on with its rows.
    assert train_here(*WORDS, "trainer.max_steps=4", "run_dir=alone")[0] == 0
    alone = read_rows(Path("alone/metrics.jsonl"))
    assert alone == [row for row in rows if not row["split"].startswith("val/")]
    assert train_here(*WORDS, *WATCH, "trainer.max_steps=2", "run_dir=stopped")[0] == 0
    status, said = train_here("resume=stopped", "trainer.max_steps=4")
    assert status == 0, said
    assert Path("stopped/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()
    # A resume may add a text, which has no row of step 0.
    status, said = train_here("resume=alone", "trainer.max_steps=6", WATCH[0])
    assert status == 0, said
    assert [row["step"] for row in read_rows(Path("alone/metrics.jsonl")) if row["split"] == "val/old"] == [6]
    draw_curves(Path("alone"))


def test_conversations_are_watched_by_their_answers(train_here: InProcess) -> None:
    """With the figures that they have where they are trained on."""
    rows = [{"prompt": f"Who was number {n}?", "completion": f" The Lion was {n}."} for n in range(60)]
    Path("talks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    talks = "+watch.talks={path: talks.jsonl, format: chat, too_long: skip}"
    words = [word for word in WORDS if not word.startswith("data")]
    chat = ("data=chat", "data.path=talks.jsonl", "data.batch_size=4", "data.too_long=skip")
    status, said = train_here(*words, *chat, talks, WATCH[0], "trainer.max_steps=2", "run_dir=chat")
    assert status == 0, said
    found = {(row["step"], row["split"]): row for row in read_rows(Path("chat/metrics.jsonl"))}
    for name in ("loss", "bits_per_byte", "perplexity"):
        assert found[2, "val/talks"][name] == pytest.approx(found[2, "val"][name], rel=1e-9)
    assert found[2, "val/talks"]["loss"] < found[0, "val/talks"]["loss"]
    # Beside a text, with the same figures at the same weights
    status, said = train_here(*WORDS, talks, "trainer.max_steps=2", "run_dir=text")
    assert status == 0, said
    beside = {(row["step"], row["split"]): row for row in read_rows(Path("text/metrics.jsonl"))}
    assert beside[0, "val/talks"] == found[0, "val/talks"]
    # Messages need a template, which this run has not.
    row = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Toto."}]}
    Path("talks.jsonl").write_text(f"{json.dumps(row)}\n" * 9, encoding="utf-8")
    status, said = train_here(*WORDS, talks, "trainer.max_steps=2", "run_dir=new")
    assert (status, "watch.talks: " in said, "has no token <|im_start|> for ChatML" in said) == (2, True, True), said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("+watch.a={fraction: 2}", "watch.a: fraction=2.0: must be above 0, at most 1"),
        ("+watch.a={mix: {oz: 1}}", "watch.a: a mixture is watched in its parts: name each text by itself"),
        ("+watch.a={path: old.txt, format: preferences}", "watch.a: pairs of answers are not watched"),
        ("+watch.a={path: none.txt}", "none.txt"),
        ("+watch.a={path: old.txt, batch_size: 3}", "watch.a.batch_size=3: is of training, and this text is validated"),
    ],
)
def test_settings_of_no_text_are_refused(words: str, message: str, train_here: InProcess) -> None:
    status, said = train_here(*WORDS, words, "trainer.max_steps=2", "run_dir=new")
    assert (status, message in said) == (2, True), said
    assert not Path("new").exists()
