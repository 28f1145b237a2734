"""The JSON of an evaluation: users script on its keys, so that these tables change with an entry in
CHANGELOG.md alone.
"""

from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from llm_from_scratch.evaluation.pairs import Preference
from llm_from_scratch.evaluation.results import (
    AnsweredQuestion,
    Answers,
    AnswerScore,
    AnswersResult,
    ArticleFigures,
    Baseline,
    Divergence,
    Evaluation,
    Excess,
    Extremes,
    Figures,
    GenerationMetrics,
    Position,
    RunResult,
    Sample,
    Sampling,
    ScoredPassage,
    Share,
    TalesResult,
    TalesRun,
    TextInfo,
    Told,
    ToldStory,
    UsedSettings,
    as_json,
)

FIGURES = {
    *("loss", "perplexity", "perplexity_word", "bits_per_byte", "bits_per_byte_low", "bits_per_byte_high"),
    *("bits_per_character", "tokens", "more", "more_low", "more_high"),
}
KEYS: dict[type, set[str]] = {
    Evaluation: {
        *("text", "settings", "runs", "baselines", "article", "truth", "bias_limits", "grammar_limits", "left_out"),
        *("answers", "tales", "command"),
    },
    TextInfo: {"name", "documents", "bytes", "characters", "words", "lines_count", "units", "sha256", "split"},
    UsedSettings: {"overlap", "seed", "sampling"},
    Sampling: {"passages", "temperature", "top_p"},
    RunResult: FIGURES
    | {"run", "step", "parameters", "tokenizer", "positions", "passages", "generated", "samples", "bias", "grammar"},
    Baseline: FIGURES | {"name", "kind", "note"},
    ArticleFigures: {"name", "note", "perplexity", "loss", "bleu"},
    Position: {"first", "last", "loss", "low", "high"},
    Extremes: {"worst", "best"},
    ScoredPassage: {"bits_per_byte", "pieces"},
    Sample: {"prompt", "continuation", "written"},
    AnswersResult: {"metric", "questions", "runs", "baselines", "samples"},
    Answers: {"name", "scores"},
    AnswerScore: {"value", "low", "high", "more", "more_low", "more_high"},
    AnsweredQuestion: {"prompt", "answer", "written"},
    TalesResult: {"level", "stories", "entropy", "entropy_low", "entropy_high", "truth", "runs"},
    TalesRun: {"name", "whole", "by_kind", "by_place", "divergence", "told"},
    Excess: {"model", "process", "excess", "low", "high"},
    Divergence: {"choices", "bits", "low", "high"},
    Told: {"stories", "temperature", "top_p", "faultless", "faults", "copied", "new_ending", "samples"},
    Share: {"count", "share", "low", "high"},
    ToldStory: {"text", "faults"},
    Preference: {"kind", "pairs", "share", "low", "high", "nats", "nats_low", "nats_high"},
    GenerationMetrics: {
        *("bleu", "chrf", "rouge1", "rouge2", "rougeL", "bertscore", "distinct_1", "distinct_2", "distinct_3"),
        *("repetition_4", "self_bleu", "entailed", "contradicted", "memorised", "memorised_longest"),
        *("memorised_longest_characters", "words", "style", "delta", "faithfulness"),
    },
}


def filled(kind: Any) -> Any:
    """A value of a type, every field of it given."""
    options = [one for one in get_args(kind) if one is not type(None)]
    if isinstance(kind, UnionType):
        return filled(options[0])
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{one.name: filled(hints[one.name]) for one in fields(kind)})  # type: ignore[operator]
    origin = getattr(kind, "__origin__", kind)
    if origin is list:
        return [filled(options[0])]
    return {dict: {"a": 1.0}, tuple: ("a", 1.0), np.ndarray: np.ones(1), str: "a"}.get(origin, 1)


@pytest.mark.parametrize("kind", KEYS, ids=lambda kind: kind.__name__)
def test_the_keys_of_the_json_object(kind: type) -> None:
    assert set(as_json(filled(kind))) == KEYS[kind]


def test_a_figure_that_was_not_measured_is_absent() -> None:
    figures = Figures(perplexity_word=3.0, bits_per_byte=2.0, bits_per_character=1.0, unit_bits=np.ones(3))
    assert as_json(figures) == {"perplexity_word": 3.0, "bits_per_byte": 2.0, "bits_per_character": 1.0}
    passage = ScoredPassage(bits_per_byte=1.0, pieces=[("a", 0.5)])
    assert as_json([passage]) == [{"bits_per_byte": 1.0, "pieces": [["a", 0.5]]}]


def test_the_split_of_a_text_that_is_no_runs_is_null() -> None:
    written = as_json(replace(filled(TextInfo), split=None))
    assert written["split"] is None
