"""Metrics of answers to questions whose right answers are known, with intervals and baselines.

    label     accuracy, macro-F1                 baseline: the most frequent label
    answer    exact match, token F1, contains    baselines: the most frequent answer, a sentence
    summary   ROUGE-L                            baseline: the first sentence

A metric is a function of weights of the questions, so that one bootstrap gives the intervals of
all of them, and of differences between two writers on the same questions.

Shapes: N questions, S resamples, L labels.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_from_scratch.evaluation.overlap import rouge_l
from llm_from_scratch.evaluation.results import AnswerScore

RESAMPLES, LEVEL = 2000, 0.95
# (S, N) weights, each row of sum N -> (S,) values
Metric = Callable[[np.ndarray], np.ndarray]
METRICS: Mapping[str, tuple[str, ...]] = {
    "label": ("accuracy", "macro_f1"),
    "answer": ("exact_match", "token_f1", "contains"),
    "summary": ("rouge_l",),
}
_PUNCTUATION = str.maketrans({mark: " " if mark == "-" else None for mark in string.punctuation + "“”‘’"})
_SENTENCE = re.compile(r"(?<=[.!?])[\"”]?\s+")
_FIELD = re.compile(r"^[A-Z][a-z]+: ?", re.MULTILINE)  # Review: or Question: at the start of a line


@dataclass(frozen=True)
class Question:
    """A prompt, its right answers, and the short forms that a right answer contains."""

    prompt: str
    references: tuple[str, ...]
    short: tuple[str, ...]


# ----------------------------------------------------------------------------- scores of one answer
def normalised(text: str) -> str:
    """Returns lower-case words without articles or punctuation, as SQuAD (Rajpurkar et al. 2016).

    A hyphen parts words, unlike there.
    """
    words = text.lower().translate(_PUNCTUATION).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def exact_match(written: str, references: Sequence[str]) -> float:
    """Returns 1 where the answer is one of the references after `normalised`, else 0."""
    return float(normalised(written) in map(normalised, references))


def token_f1(written: str, references: Sequence[str]) -> float:
    """Returns the F1 of the words shared with the nearest reference, after `normalised`."""
    return max(_f1(normalised(written).split(), normalised(one).split()) for one in references)


def _f1(written: Sequence[str], reference: Sequence[str]) -> float:
    if not written or not reference:
        return float(written == reference)
    shared = (Counter(written) & Counter(reference)).total()
    return 2 * shared / (len(written) + len(reference))


def contains(written: str, short: Sequence[str]) -> float:
    """Returns 1 where the words of a short form stand in the answer side by side, else 0."""
    text = f" {normalised(written)} "
    return float(any(f" {normalised(one)} " in text for one in short))


# -------------------------------------------------------------------------- metrics of many answers
def metrics(kind: str, written: Sequence[str], questions: Sequence[Question]) -> dict[str, Metric]:
    """Returns the metrics of a kind by name: functions of weights of the questions.

    Args:
        kind: a key of METRICS.
        written: one answer for each question.

    Raises:
        UserError: for a summary, when rouge-score is not installed.
    """
    pairs = list(zip(written, questions, strict=True))
    if kind == "label":
        said = [normalised(text) for text in written]
        true = [normalised(one.references[0]) for one in questions]
        return {
            "accuracy": _mean([float(a == b) for a, b in zip(said, true, strict=True)]),
            "macro_f1": _macro_f1(said, true),
        }
    if kind == "answer":
        return {
            "exact_match": _mean([exact_match(text, one.references) for text, one in pairs]),
            "token_f1": _mean([token_f1(text, one.references) for text, one in pairs]),
            "contains": _mean([contains(text, one.short) for text, one in pairs]),
        }
    assert kind == "summary"
    return {"rouge_l": _mean(rouge_l(written, [one.references[0] for one in questions]))}


def _mean(scores: Sequence[float]) -> Metric:
    values = np.asarray(scores, dtype=np.float64)  # (N,)
    return lambda weights: weights @ values / weights.sum(axis=1)


def _macro_f1(said: Sequence[str], true: Sequence[str]) -> Metric:
    """The mean over the labels that occur in `true` of 2 tp / (2 tp + fp + fn), 0 for 0 / 0.

    An answer that is no label is a miss of the true label, and a hit of none.
    """
    labels = np.array(sorted(set(true)))
    hits = np.array(said)[:, None] == labels  # (N, L)
    wanted = np.array(true)[:, None] == labels

    def metric(weights: np.ndarray) -> np.ndarray:
        both = weights @ (hits & wanted)  # (S, L)
        either = weights @ hits + weights @ wanted
        return np.divide(2 * both, either, out=np.zeros_like(both), where=either > 0).mean(axis=1)

    return metric


def value(metric: Metric, count: int) -> float:
    """Returns the value of a metric over `count` questions."""
    return float(metric(np.ones((1, count)))[0])


def score(metric: Metric, count: int, than: Metric | None = None) -> AnswerScore:
    """Returns the value of a metric over `count` questions, with its bootstrap interval.

    Questions are drawn with replacement; the interval is that of percentiles (Efron and Tibshirani
    1993, chapter 13). With `than`, of a baseline, also that of the difference on the same draws.
    """
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)  # (S, N)
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    each = metric(drawn)
    low, high = np.quantile(each, ends)
    found = AnswerScore(value=value(metric, count), low=float(low), high=float(high))
    if than is not None:
        found.more = found.value - value(than, count)
        found.more_low, found.more_high = map(float, np.quantile(each - than(drawn), ends))
    return found


# ---------------------------------------------------------------------------------------- baselines
def baselines(kind: str, train: Sequence[Question], questions: Sequence[Question]) -> dict[str, list[str]]:
    """Returns what each baseline answers, by name.

    The most frequent answer is that of the training questions, the first in the alphabet of
    equally frequent ones. The sentence is the one of the prompt that shares the most words with the
    question, its last sentence; only prompts with several sentences have one.
    """
    if kind == "summary":
        return {"the first sentence": [sentences(one.prompt)[0] for one in questions]}
    counts = Counter(one.short[0] for one in train)
    most = min(counts, key=lambda answer: (-counts[answer], answer))
    found = {f"always “{most}”": [most] * len(questions)}
    if kind == "answer" and all(len(sentences(one.prompt)) > 1 for one in questions):
        found["the sentence nearest to the question"] = [nearest_sentence(one.prompt) for one in questions]
    return found


def sentences(prompt: str) -> list[str]:
    """Returns the sentences of a prompt, without the names of its fields such as `Question:`."""
    return [one for one in _SENTENCE.split(_FIELD.sub("", prompt).strip()) if one]


def nearest_sentence(prompt: str) -> str:
    """Returns the sentence that shares the most words with the last one, the first of equals."""
    *told, asked = sentences(prompt)
    wanted = set(normalised(asked).split())
    return max(told, key=lambda one: len(wanted & set(normalised(one).split())))
