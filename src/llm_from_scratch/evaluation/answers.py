"""Answers of models to held-out questions: the rows of data.val_path -> scores beside baselines.

    rows -> prompts as ids -> greedy answers, in batches of equally long prompts -> `answer_metrics`

An answer is the first line of what a model writes: a model that was not trained on these answers
goes on with a next question.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llm_from_scratch.config import Config, DataConfig, SamplingConfig
from llm_from_scratch.data.chats import chosen_rows, sources_of
from llm_from_scratch.data.conversations import CHAT, COLUMNS, ChatStyle, Messages, question, template_of
from llm_from_scratch.data.documents import Faults, Tally
from llm_from_scratch.data.sources import Source
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.answer_metrics import Metric, Question, baselines, metrics, score, value
from llm_from_scratch.evaluation.results import AnsweredQuestion, Answers, AnswersResult
from llm_from_scratch.generation import generate_tokens, to_host
from llm_from_scratch.weights import LoadedModel

MOST_CHARACTERS: Mapping[str, int] = {"label": 40, "answer": 200, "summary": 300}  # of an answer, by its metric
SHOWN = 5  # questions that a report shows
ROWS = COLUMNS[CHAT] | {"answers"}


@dataclass(frozen=True)
class Asked:
    """A row of questions: what a model reads, and what it is scored against."""

    prompt: str | Messages
    question: Question


def read_questions(source: Source, data: DataConfig, split: str) -> list[Asked]:
    """Reads the questions of a source: the last answer of each row is the right one.

    Short right answers may stand in the row as "answers", a list of texts.

    Args:
        source: the files.
        data: the settings, which choose a part of the rows as for a training.
        split: what the source holds, train or val.

    Raises:
        UserError: when a file cannot be read, or a row is no conversation or has other "answers",
            unless it is left out.
    """
    found = []
    faults = Faults(data.on_error or "stop", True, Tally())
    for where, row in chosen_rows(source, data, split, ROWS, faults):
        try:
            found.append(_asked(row))
        except UserError as error:
            faults.document(where, f"{where}: {error}")
    faults.report()
    return found


def _asked(row: Mapping[str, Any]) -> Asked:
    prompt, answer = question(row)
    short = row.get("answers")
    if short is not None and not (isinstance(short, list) and short and all(isinstance(one, str) for one in short)):
        raise UserError('its "answers" are no list of texts')
    answer = answer.strip()
    text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", "")) if prompt else ""
    return Asked(prompt, Question(text, (answer, *(short or ())), tuple(short or (answer,))))


# --------------------------------------------------------------------------------------- generation
def write_answers(
    run: LoadedModel, prompts: Sequence[Sequence[int]], most_characters: int, batch_size: int = 32
) -> list[str]:
    """Returns the greedy answer to each prompt: the first line of what the model writes.

    Prompts of one length are read together, so that no batch needs padding, and an answer does not
    depend on the other prompts.

    Args:
        prompts: ids, at least one each.
        most_characters: of an answer, before white space is stripped.
        batch_size: prompts at a time, at most.
    """
    ends = {run.tokenizer.eot_id, *run.end_ids}
    device = next(run.model.parameters()).device
    settings = SamplingConfig(temperature=0.0, max_new_tokens=most_characters)
    answers = [""] * len(prompts)
    for numbers in _batches(prompts, batch_size):
        ids = torch.tensor([list(prompts[i]) for i in numbers], device=device)  # (B, T)
        written: list[list[int]] = [[] for _ in numbers]
        ended = [False] * len(numbers)
        for tokens in to_host(generate_tokens(run.model, ids, settings)):
            for row, token in enumerate(tokens):
                if ended[row]:
                    continue
                if token not in ends:
                    written[row].append(token)
                text = _text(run, written[row])
                ended[row] = token in ends or "\n" in text.lstrip() or len(text) >= most_characters
            if all(ended):
                break
        for number, row_ids in zip(numbers, written, strict=True):
            lines = _text(run, row_ids)[:most_characters].strip().splitlines()
            answers[number] = lines[0].strip() if lines else ""
    return answers


def _text(run: LoadedModel, ids: Sequence[int]) -> str:
    return run.tokenizer.decode_bytes(list(ids)).decode("utf-8", errors="replace")


def _batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Yields the numbers of at most `size` prompts of one length, the shortest first."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) == size or len(prompts[number]) != len(prompts[batch[0]])):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


# ------------------------------------------------------------------------------------------- scores
def answer_questions(data: DataConfig, runs: Sequence[tuple[str, LoadedModel]], batch_size: int = 32) -> AnswersResult:
    """Lets each of the runs answer the held-out questions of `data`, and scores baselines beside.

    All held-out rows are asked, as all are validated in training; the baselines have seen the rows
    that the run was trained on.

    Args:
        data: settings with a `metric`.
        runs: (name, model) of each.
        batch_size: prompts at a time, at most.

    Raises:
        UserError: when a file is missing or damaged, a library is missing, or a model cannot
            represent a prompt.
    """
    kind = data.metric
    assert kind is not None
    sources = sources_of(data, fetch=False, write=data.dir == DataConfig().dir)
    asked = read_questions(sources["val"], data, "val") if "val" in sources else []
    questions = [one.question for one in asked]
    train = [one.question for one in read_questions(sources["train"], data, "train")]
    if not questions or not train:
        raise UserError(f"data.metric={kind}: there are no {'training' if questions else 'held-out'} questions")
    of_baselines = {
        name: metrics(kind, written, questions) for name, written in baselines(kind, train, questions).items()
    }
    best = {
        metric: max((own[metric] for own in of_baselines.values()), key=lambda one: value(one, len(questions)))
        for metric in next(iter(of_baselines.values()))
    }
    results: list[Answers] = []
    first: list[str] = []
    for name, run in runs:
        style = ChatStyle(template_of(data.template, run.chat_template), run.tokenizer)
        prompts = [style.prompt_ids(one.prompt) for one in asked]
        written = write_answers(run, prompts, MOST_CHARACTERS[kind], batch_size)
        first = first or written
        results.append(_scored(name, metrics(kind, written, questions), len(questions), best))
    shown = zip(questions, first, strict=True)
    return AnswersResult(
        metric=kind,
        questions=len(questions),
        runs=results,
        baselines=[_scored(name, own, len(questions), None) for name, own in of_baselines.items()],
        samples=[AnsweredQuestion(prompt=one.prompt, answer=one.references[0], written=text) for one, text in shown][
            :SHOWN
        ],
    )


def answers_or_reason(
    runs: Sequence[tuple[str, Config | None, LoadedModel]], batch_size: int, left_out: list[str]
) -> AnswersResult | None:
    """Lets all runs answer the held-out questions of the first one with data.metric.

    None: none of them has it, or a line in `left_out` says why its questions cannot be answered.

    Args:
        runs: (name, settings, model) of each; settings None: it is no run.
        batch_size: prompts at a time, at most.
        left_out: gets the line.
    """
    data = next((config.data for _, config, _ in runs if config and config.data.metric), None)
    if data is None:
        return None
    try:
        return answer_questions(data, [(name, run) for name, _, run in runs], batch_size)
    except UserError as error:
        left_out.append(f"answers to the held-out questions: {error}")
        return None


def _scored(name: str, found: Mapping[str, Metric], count: int, than: Mapping[str, Metric] | None) -> Answers:
    scores = {metric: score(own, count, than[metric] if than else None) for metric, own in found.items()}
    return Answers(name=name, scores=scores)
