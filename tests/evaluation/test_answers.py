"""Answers to held-out questions: generated in batches, scored, shown by `evaluate`."""

import json
from pathlib import Path

import pytest
import torch

from llm_from_scratch.cli import main
from llm_from_scratch.config import Config, DataConfig, SamplingConfig
from llm_from_scratch.data.conversations import ChatStyle
from llm_from_scratch.data.made import made_files, make
from llm_from_scratch.data.sources import Source
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.answers import (
    answer_questions,
    answers_or_reason,
    read_questions,
    write_answers,
)
from llm_from_scratch.evaluation.report import blocks
from llm_from_scratch.generation import generate
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.weights import LoadedModel

TEXT = "".join(sorted({*"".join(row["prompt"] + row["completion"] for part in make("sentiment") for row in part)}))


@pytest.fixture
def untrained() -> LoadedModel:
    """A model of characters with large weights, so that its greedy answers differ from one another."""
    torch.manual_seed(0)
    tokenizer = CharTokenizer(TEXT)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=2, n_embd=32, n_head=2, block_size=64)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return LoadedModel(model, tokenizer, step=1, loss=1.0)


def test_answers_in_batches_are_those_one_by_one(untrained: LoadedModel) -> None:
    prompts = ["Review: dull", "Review: good", "Review: a very long one", "A", "I", "N", "Review: fine", "T"]
    ids = [ChatStyle(None, untrained.tokenizer).prompt_ids(prompt) for prompt in prompts]
    together = write_answers(untrained, ids, 30, batch_size=3)
    config = SamplingConfig(temperature=0.0, max_new_tokens=30)
    for prompt, answer in zip(prompts, together, strict=True):
        text = "".join(part for (part,) in generate(untrained.model, untrained.tokenizer, prompt, config))
        lines = text.strip().splitlines()
        assert answer == (lines[0].strip() if lines else "")
    assert len(set(together)) > 3
    assert write_answers(untrained, ids[::-1], 30, batch_size=1) == together[::-1]


def test_an_answer_is_the_first_line(monkeypatch: pytest.MonkeyPatch, untrained: LoadedModel) -> None:
    tokenizer = untrained.tokenizer
    written = ["\n positive \nReview: more", "negative", "x" * 50, ""]
    steps = [tokenizer.encode(text) + [tokenizer.eot_id] * 60 for text in written]
    seen = []

    def scripted(model: GPT, ids: torch.Tensor, config: SamplingConfig) -> object:
        for step in zip(*steps, strict=False):
            seen.append(step)
            yield torch.tensor(step)

    monkeypatch.setattr("llm_from_scratch.evaluation.answers.generate_tokens", scripted)
    assert write_answers(untrained, [[1]] * 4, 40) == ["positive", "negative", "x" * 40, ""]
    assert len(seen) == 40  # no step after the last row has ended


def source(path: Path) -> Source:
    return Source("mine", [(path.name, path)])


def test_rows_become_questions(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": "Say it: ", "completion": " yes "},
        {
            "messages": [
                {"role": "system", "content": "be short"},
                {"role": "user", "content": "Who?"},
                {"role": "assistant", "content": "It was Oz."},
            ],
            "answers": ["Oz", "the Wizard"],
        },
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    plain, asked = read_questions(source(path), DataConfig(), "train")
    assert (plain.prompt, plain.question.references, plain.question.short) == ("Say it: ", ("yes",), ("yes",))
    assert asked.question.prompt == "Who?"
    assert asked.question.references == ("It was Oz.", "Oz", "the Wizard")
    assert asked.question.short == ("Oz", "the Wizard")
    assert [message["role"] for message in asked.prompt] == ["system", "user"]
    path.write_text(json.dumps({"prompt": "a", "completion": "b", "answers": "b"}), encoding="utf-8")
    with pytest.raises(UserError, match=r'rows.jsonl:1: its "answers" are no list of texts'):
        read_questions(source(path), DataConfig(), "train")
    lines = [path.read_text(encoding="utf-8"), "[]", json.dumps(rows[0])]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="2 documents cannot be read: rows.jsonl:1: its .*; rows.jsonl:2: no object"):
        read_questions(source(path), DataConfig(), "train")
    assert [one.prompt for one in read_questions(source(path), DataConfig(on_error="skip"), "val")] == ["Say it: "]


def test_the_chosen_part_is_of_the_training_rows(tmp_path: Path, untrained: LoadedModel) -> None:
    """The questions are the held-out rows of the run, all of them; the baseline has seen its training rows."""
    for name, rows in (
        ("train", [("a", "b"), ("a", "c"), ("a", "c"), ("a", 1)]),
        ("held", [("a", "b"), ("a", "c"), ("a", "b")]),
    ):
        lines = [json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    settings = {"path": str(tmp_path / "train.jsonl"), "val_path": str(tmp_path / "held.jsonl"), "metric": "label"}
    data = DataConfig(name="chat", format="chat", max_docs=1, **settings)
    found = answer_questions(data, [("run", untrained)])
    assert found.questions == 3
    assert [base.name for base in found.baselines] == ["always “b”"]
    with pytest.raises(UserError, match=r"train.jsonl:4"):
        answer_questions(DataConfig(name="chat", format="chat", **settings), [("run", untrained)])


def test_a_model_is_asked_as_it_was_trained(untrained: LoadedModel) -> None:
    style = ChatStyle(None, untrained.tokenizer)
    (document,) = style.documents({"prompt": "Review:", "completion": " good"}, "chat")
    assert style.prompt_ids("Review:") == document.ids[: document.learned.index(True)]
    with pytest.raises(UserError, match="has no token <|im_start|> for ChatML"):
        style.prompt_ids([{"role": "user", "content": "Who?"}])


def test_scores_stand_beside_the_baseline(
    tmp_path: Path, untrained: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = DataConfig(name="sentiment", format="chat", generator="sentiment", metric="label")
    found = answer_questions(data, [("run", untrained)], batch_size=64)
    assert (found.metric, found.questions, len(found.samples)) == ("label", 300, 5)
    (base,) = found.baselines
    assert (base.name, base.scores["accuracy"].value) == ("always “negative”", 0.5)
    assert base.scores["macro_f1"].value == pytest.approx(1 / 3)
    (run,) = found.runs
    assert run.scores["accuracy"].value < 0.1
    assert run.scores["accuracy"].more_high is not None
    assert run.scores["accuracy"].more_high < 0
    # Of a stranger's run nothing is written elsewhere.
    left_out: list[str] = []
    config = Config(data=DataConfig(**{**vars(data), "dir": "elsewhere"}))
    assert answers_or_reason([("run", config, untrained)], 32, left_out) is None
    assert left_out[0].startswith("answers to the held-out questions: elsewhere/sentiment/train.jsonl: is missing")
    assert not Path("elsewhere").exists()
    assert answers_or_reason([("run", Config(), untrained), ("smollm2", None, untrained)], 32, left_out) is None
    assert len(left_out) == 1
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}', encoding="utf-8")
    config = Config(data=DataConfig(name="chat", format="chat", path="rows.jsonl", metric="label"))
    assert answers_or_reason([("run", config, untrained)], 32, left_out) is None
    assert left_out[1].endswith("data.metric=label: there are no held-out questions")


def test_evaluate_shows_the_answers_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llm_from_scratch.commands import train
    from llm_from_scratch.evaluation.measure import Settings, measure

    monkeypatch.chdir(tmp_path)
    small = ["model.n_layer=1", "model.n_embd=32", "model.n_head=2", "model.block_size=128", "tokenizer.vocab_size=400"]
    steps = ["trainer.max_steps=30", "trainer.val_check_interval=30", "optim.warmup_steps=5", "data.batch_size=4"]
    words = ["data=sentiment", *small, *steps, "optim.lr=1e-2", "run_dir=run", "logger=none", "trainer.accelerator=cpu"]
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    train.main()
    row = json.loads(Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    capsys.readouterr()

    main(["evaluate", "run", "--json", "--device", "cpu"])
    found = json.loads(capsys.readouterr().out)
    # The learned text alone, as in training's validation.
    assert found["loss"] == pytest.approx(row["loss"], rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(row["bits_per_byte"], rel=1e-4)
    (run,) = found["answers"]["runs"]
    assert run["scores"]["accuracy"]["value"] > 0.3  # it has learned to say one of the labels
    main(["evaluate", "run", "--device", "cpu"])
    shown = capsys.readouterr().out
    assert "Answers to 300 held-out questions" in shown
    assert "always “negative”" in shown
    for option, value in (("--split", "train"), ("--overlap", "0.5")):
        with pytest.raises(SystemExit):
            main(["evaluate", "run", option, value])
        assert "of conversations the held-out answers are scored" in capsys.readouterr().err

    evaluation = measure(["run"], Settings(device="cpu"))
    assert evaluation.text.name == "sentiment, val split, prompts and answers"
    assert evaluation.answers is not None
    assert evaluation.answers.runs[0].scores["accuracy"].value == run["scores"]["accuracy"]["value"]
    titles = [getattr(block, "text", "") for block in blocks(evaluation, {})]
    assert "Answers" in titles
    assert made_files("sentiment", Path("data/sentiment"), write=False)[0].is_file()
