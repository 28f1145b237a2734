"""Answers to held-out questions in the terminal and in the report: `AnswersResult` -> blocks."""

from collections.abc import Sequence

from llm_from_scratch.evaluation.results import AnswerScore, AnswersResult
from llm_from_scratch.pages import Block, Heading, Paragraph, Part, Quote, Quotes, Table

NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "exact_match": "exact match",
    "token_f1": "token F1",
    "contains": "contains the answer",
    "rouge_l": "ROUGE-L",
}
EXPLAINED = {
    "label": "Accuracy is the share of right labels; macro-F1 is the mean over the labels of their F1.",
    "answer": "Answers are compared without case, punctuation and articles (Rajpurkar et al. 2016): exact match is the share"
    " of answers that are equal, token F1 counts shared words, and the last share is of answers that contain the right one.",
    "summary": "ROUGE-L is the F-measure of the longest common subsequence of words (Lin 2004; rouge-score, no stemming).",
}


def answers_table(result: AnswersResult, names: Sequence[str]) -> Table:
    """Builds the table of scores: rows for each metric of each run, by `names`, and baseline."""
    writers = [*zip(names, result.runs, strict=True), *((own.name, own) for own in result.baselines)]
    return Table(
        f"Answers to {result.questions:,} held-out questions",
        ["metric", "", "value", "95 %", "more than the baseline, 95 %"],
        [
            [NAMES[metric], name, *_cells(own.scores[metric])]
            for metric in result.baselines[0].scores
            for name, own in writers
        ],
    )


def _cells(score: AnswerScore) -> list[str]:
    more = "" if score.more_low is None else f"{score.more_low:+.3f} – {score.more_high:+.3f}"
    return [f"{score.value:.3f}", f"{score.low:.3f} – {score.high:.3f}", more]


def answers_blocks(result: AnswersResult, names: Sequence[str]) -> list[Block]:
    """Builds the section of the report: the table, what it means, and the first questions."""
    shown = [
        Quote(kind, [Part(text)])
        for one in result.samples
        for kind, text in (("question", one.prompt), ("written", one.written), ("right", one.answer))
    ]
    return [
        Heading(2, "Answers"),
        answers_table(result, names),
        Paragraph(
            f"{EXPLAINED[result.metric]} Answers are greedy. Intervals are 95 %, by bootstrap over the questions: they cover which"
            " questions were asked, not the seed of the training. “More” is by a paired bootstrap, over the better baseline: an"
            " interval above 0 says that the model is better."
        ),
        Quotes(f"{names[0]}: the first questions", ("", "text", ""), "", shown),
    ]
