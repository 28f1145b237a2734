import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from llm_from_scratch.data.made import make
from llm_from_scratch.evaluation.answer_metrics import (
    Question,
    baselines,
    contains,
    exact_match,
    metrics,
    nearest_sentence,
    normalised,
    score,
    sentences,
    token_f1,
)


def questions(rows: list[dict[str, str]]) -> list[Question]:
    return [Question(row["prompt"], (row["completion"].strip(),), (row["completion"].strip(),)) for row in rows]


def values(kind: str, written: list[str], asked: list[Question]) -> dict[str, float]:
    return {name: score(metric, len(asked)).value for name, metric in metrics(kind, written, asked).items()}


def test_answers_are_compared_without_case_articles_and_punctuation() -> None:
    assert normalised(" The  Hammer-Heads’ king, an ANT! ") == "hammer heads king ant"
    assert exact_match("A white cat.", ("the white cat",)) == 1
    assert exact_match("white cats", ("white cat", "cats")) == 0
    assert contains("They lived in the Emerald City.", ("City of Emeralds", "emerald city")) == 1
    assert contains("He was catty.", ("cat",)) == 0
    assert contains("", ("cat",)) == 0


def test_token_f1_by_hand() -> None:
    # 2 of 3 words written, 2 of 4 wanted: 2 * 2 / 7
    assert token_f1("silver shoes forever", ("a pair of silver shoes",)) == pytest.approx(4 / 7)
    # Words count as often as they occur: 1 of 2, 1 of 1.
    assert token_f1("no no", ("no",)) == pytest.approx(2 / 3)
    # The nearest reference.
    assert token_f1("blue", ("The color is blue.", "blue")) == 1
    assert token_f1("the", ("an",)) == 1  # both are nothing
    assert token_f1("", ("blue",)) == 0


def test_label_metrics_by_hand() -> None:
    asked = [Question("", (one,), (one,)) for one in ("positive", "positive", "positive", "negative")]
    found = values("label", ["Positive.", "positive", "negative", "rather negative"], asked)
    # positive: 2 of 2 said, 2 of 3 found; negative: 0 of 1 said, 0 of 1 found
    assert found == {"accuracy": 0.5, "macro_f1": pytest.approx((4 / 5 + 0) / 2)}


def test_label_metrics_are_those_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    names = ["a label", "b", "c"]
    for _ in range(20):
        true, said = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
        asked = [Question("", (names[i],), (names[i],)) for i in true]
        found = values("label", [names[i] for i in said], asked)
        pair = torch.tensor(said), torch.tensor(true)
        assert found["macro_f1"] == pytest.approx(float(multiclass_f1_score(*pair, 3, average="macro")), abs=1e-6)
        assert found["accuracy"] == pytest.approx(float(multiclass_accuracy(*pair, 3, average="micro")), abs=1e-6)


def test_rouge_l_by_hand_and_by_the_library() -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    asked = [Question("", ("the lion ran to the wood",), ()), Question("", ("a storm came",), ())]
    written = ["the lion walked to a wood", "no"]
    # the lion . to . wood: 4 of 6 on both sides; nothing of the second
    assert values("summary", written, asked)["rouge_l"] == pytest.approx((4 / 6 + 0) / 2)
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    rows = make("summaries", train=40, held_out=0)[0]
    asked = questions(rows)
    written = [sentences(row["prompt"])[0] for row in rows]
    each = [scorer.score(one.references[0], text)["rougeL"].fmeasure for one, text in zip(asked, written, strict=True)]
    assert values("summary", written, asked)["rouge_l"] == pytest.approx(np.mean(each))


def test_an_interval_is_that_of_a_binomial_and_shrinks() -> None:
    widths = []
    for count in (100, 400):
        asked = [Question("", ("yes",), ("yes",))] * count
        metric = metrics("answer", ["yes", "no", "no", "no"] * (count // 4), asked)["exact_match"]
        found = score(metric, count)
        assert found.value == 0.25
        assert found.low < 0.25 < found.high
        error = 1.96 * (0.25 * 0.75 / count) ** 0.5
        assert found.high - found.low == pytest.approx(2 * error, rel=0.1)
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.1)


def test_the_excess_over_a_baseline_is_paired() -> None:
    asked = [Question("", ("yes",), ("yes",))] * 200
    base = ["yes", "no"] * 100
    better = ["yes", "no"] * 80 + ["yes", "yes"] * 20  # never wrong where the other is right
    this, other = (metrics("answer", written, asked)["contains"] for written in (better, base))
    found = score(this, 200, other)
    assert found.more == pytest.approx(0.1)
    assert found.more_low is not None
    assert found.more_low > 0.05  # of independent draws it would be about 0.1 - 0.097
    same = score(this, 200, this)
    assert (same.more, same.more_low, same.more_high) == (0, 0, 0)


def test_baselines_by_hand() -> None:
    def told(prompt: str, answer: str) -> Question:
        return Question(prompt, (answer,), (answer,))

    train = [told("", "b"), told("", "a"), told("", "b"), told("", "a"), told("", "c")]
    assert baselines("label", train, train[:2]) == {"always “a”": ["a", "a"]}
    passage = "Passage: Anna is a cook. Leo is a nurse. It was late.\nQuestion: What is Leo's job?\nAnswer:"
    assert sentences(passage) == ["Anna is a cook.", "Leo is a nurse.", "It was late.", "What is Leo's job?"]
    found = baselines("answer", train, [told(passage, "a nurse")])
    assert found == {"always “a”": ["a"], "the sentence nearest to the question": ["Anna is a cook."]}
    plain = "Passage: Anna is a cook. The job of Leo is that of a nurse.\nQuestion: Which job has Leo?\nAnswer:"
    assert nearest_sentence(plain) == "The job of Leo is that of a nurse."
    assert list(baselines("answer", train, [told("Who is Oz?", "a humbug")])) == ["always “a”"]
    news = 'News: "How nice," said Anna. On Monday it rained.\nSummary:'
    assert baselines("summary", train, [told(news, "")]) == {"the first sentence": ['"How nice," said Anna.']}


def test_baselines_of_the_made_tasks() -> None:
    for name, kind, metric, limits in (
        ("sentiment", "label", "accuracy", (0.5, 0.5)),
        ("questions", "answer", "exact_match", (0.0, 0.05)),
        ("summaries", "summary", "rouge_l", (0.1, 0.5)),
    ):
        if kind == "summary":
            pytest.importorskip("rouge_score")
        train, held_out = map(questions, make(name))
        written = next(iter(baselines(kind, train, held_out).values()))
        assert limits[0] <= values(kind, written, held_out)[metric] <= limits[1]
