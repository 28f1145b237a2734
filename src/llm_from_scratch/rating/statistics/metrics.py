"""Which automatic metric says what people say: rank correlations over texts and over systems.

T texts, S systems, N judgements, B resamples. A judgement is an answer on a scale, or the share of
a win that a text of a pair got: 1, 0.5 or 0.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.overlap import bleu, chrf, distinct_n, repetition, rouge_l
from llm_from_scratch.rating.records import HUMAN, Text
from llm_from_scratch.rating.statistics.crossed import drawn, quantiles
from llm_from_scratch.rating.statistics.ranks import bootstrap_interval, kendall, spearman
from llm_from_scratch.rating.statistics.results import Correlation

RESAMPLES = 300
FEWEST_TEXTS, FEWEST_SYSTEMS = 5, 3
MAX_REPORT = 50_000_000  # bytes of a report.json

Metric = Callable[[Sequence[str], Sequence[str]], float]
# Metrics of texts, given their true continuations; the second group needs those.
ALONE: dict[str, Metric] = {
    "words": lambda texts, _: float(np.mean([len(text.split()) for text in texts])),
    "distinct-2": lambda texts, _: distinct_n(texts, 2),
    "repetition": lambda texts, _: repetition(texts),
}
AGAINST: dict[str, Metric] = {
    "BLEU": bleu,
    "chrF": chrf,
    "ROUGE-L": lambda texts, truth: float(np.mean(rouge_l(texts, truth))),
}
# Of a system as a whole: field of a run in report.json, or of its `generated` -> name
OF_RUNS = {"bits_per_byte": "bits per byte", "perplexity_word": "perplexity a word"}
OF_GENERATED = {"bertscore": "BERTScore", "entailed": "entailed", "contradicted": "contradicted"}


@dataclass(frozen=True, kw_only=True)
class Judgements:
    """Judgements of texts: arrays of N; `text` holds ids."""

    text: np.ndarray
    rater: np.ndarray
    prompt: np.ndarray
    value: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Metric -> text's id -> value, metric -> system -> value, and why others are missing."""

    of_texts: dict[str, dict[int, float]]
    of_systems: dict[str, dict[str, float]]
    left_out: list[str]


def correlations(question: str, judged: Judgements, texts: Mapping[int, Text], measured: Measured) -> list[Correlation]:
    """Correlates mean judgements with metrics: over the texts, then over the systems.

    Intervals are of the pigeonhole bootstrap over raters and prompts: over texts by
    `ranks.bootstrap_interval`, over systems its percentiles. Over systems a correlation has few
    values to take, and the interval does not speak of other systems.

    Args:
        judged: of `question`. texts: all texts, by id. measured: by `measure`.
    """
    ids, number = np.unique(judged.text, return_inverse=True)
    own = [texts[one] for one in ids.tolist()]
    systems = sorted({text.system for text in own})
    system = np.array([systems.index(text.system) for text in own])
    rng = np.random.default_rng(0)
    by_rater, by_prompt = drawn(judged.rater, RESAMPLES, rng), drawn(judged.prompt, RESAMPLES, rng)
    observed = np.ones((1, len(number)))
    text_means = _means(judged.value, number, len(ids), np.concatenate([observed, by_rater]))
    both = np.concatenate([observed, by_rater * by_prompt])
    system_means = _means(judged.value, system[number], len(systems), both)
    # A text counts as often as its prompt was drawn, and not at all where none of its raters was
    text_weights = by_prompt[:, np.unique(number, return_index=True)[1]] * np.isfinite(text_means[1:])
    found = []
    for name, per_text in measured.of_texts.items():
        x = np.array([per_text.get(one, math.nan) for one in ids.tolist()])
        found += _correlated(question, name, "texts", x, text_means, text_weights, FEWEST_TEXTS)
    for name, per_system in measured.of_systems.items():
        x = np.array([per_system.get(one, math.nan) for one in systems])
        found += _correlated(question, name, "systems", x, system_means, None, FEWEST_SYSTEMS)
    return found


def read_evaluation(path: Path, runs: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Reads the metrics of systems from a report.json of `evaluate`: metric -> system -> value.

    A run of the report is the system whose RUN of the study is the same folder.

    Raises:
        UserError: when the file is no such report, or names no system of the study.
    """
    try:
        if path.stat().st_size > MAX_REPORT:
            raise UserError(f"--evaluation {path}: is too large for a report of evaluate")
        report = json.loads(path.read_text(encoding="utf-8"))
        rows = {str(Path(row["run"]).resolve()): dict(row) for row in report["runs"]}
    except OSError as error:
        raise UserError(
            f"--evaluation {path}: cannot be read ({error.strerror}): name a report.json of evaluate"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"--evaluation {path}: is no report.json of `evaluate --report`: name one") from None
    found: dict[str, dict[str, float]] = {}
    matched = False
    for system, run in runs.items():
        row = rows.get(str(Path(run).resolve()))
        if row is None:
            continue
        matched = True
        generated = row.get("generated")
        for fields, names in ((row, OF_RUNS), (generated if isinstance(generated, dict) else {}, OF_GENERATED)):
            for key, name in names.items():
                value = fields.get(key)
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    found.setdefault(name, {})[system] = float(value)
    if not matched:
        raise UserError(
            f"--evaluation {path}: has none of the study's runs ({', '.join(runs.values())}): evaluate these"
        )
    return found


def measure(rated: Iterable[int], texts: Mapping[int, Text], elsewhere: Mapping[str, Mapping[str, float]]) -> Measured:
    """Measures the texts that were rated, each by itself and those of a system together.

    Args:
        rated: ids. texts: all texts, by id; the human ones are the true continuations.
        elsewhere: metric -> system -> value, from an evaluation of the runs.
    """
    own = [texts[one] for one in sorted(set(rated))]
    truth = {text.prompt: text.continuation for text in texts.values() if text.system == HUMAN}
    by_text: dict[str, dict[int, float]] = {}
    by_system: dict[str, dict[str, float]] = {}
    left_out: list[str] = []
    for metrics, needed in ((ALONE, False), (AGAINST, True)):
        chosen = [text for text in own if not needed or (text.system != HUMAN and text.prompt in truth)]
        for name, metric in metrics.items() if chosen else ():
            try:
                by_text[name] = {text.id: metric([text.continuation], [truth.get(text.prompt, "")]) for text in chosen}
                for system in sorted({text.system for text in chosen}):
                    rows = [text for text in chosen if text.system == system]
                    by_system.setdefault(name, {})[system] = metric(
                        [text.continuation for text in rows], [truth.get(text.prompt, "") for text in rows]
                    )
            except UserError as error:
                left_out.append(f"{name}: {error}")
                by_text.pop(name, None)
    return Measured(
        of_texts=by_text,
        of_systems=by_system | {name: dict(values) for name, values in elsewhere.items()},
        left_out=left_out,
    )


def _correlated(
    question: str, metric: str, over: Any, x: np.ndarray, means: np.ndarray, weights: np.ndarray | None, fewest: int
) -> list[Correlation]:
    """Correlates a metric (n,) with means (1 + B, n), whose first row is what was observed."""
    known = np.isfinite(x) & np.isfinite(means[0])
    if known.sum() < fewest or len(np.unique(x[known])) < 2:
        return []
    x, observed = x[known], means[0][known]
    rho, tau = spearman(x, observed), kendall(x, observed)
    replicates = []
    for row, again in enumerate(means[1:]):
        weight = np.isfinite(again[known]).astype(float) if weights is None else weights[row][known]
        y = np.nan_to_num(again[known])
        replicates.append((spearman(x, y, weight), kendall(x, y, weight)))
    spread = np.array(replicates)
    if over == "texts":
        ends = [*bootstrap_interval(rho, spread[:, 0]), *bootstrap_interval(tau, spread[:, 1])]
    else:  # a few values, often 1 or -1, which have no place on Fisher's scale
        ends = list(np.stack(quantiles(spread), axis=1).ravel())
    low, high, tau_low, tau_high = (float(end) if math.isfinite(end) else None for end in ends)
    return [
        Correlation(
            question=question,
            metric=metric,
            over=over,
            count=int(known.sum()),
            spearman=rho if math.isfinite(rho) else None,
            spearman_low=low,
            spearman_high=high,
            kendall=tau if math.isfinite(tau) else None,
            kendall_low=tau_low,
            kendall_high=tau_high,
        )
    ]


def _sums(weights: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
    """Sums weights (B, N) within groups: (B, count)."""
    return weights @ np.eye(count)[number]


def _means(value: np.ndarray, number: np.ndarray, count: int, weights: np.ndarray) -> np.ndarray:
    """Returns weighted means within groups: (B, count); NaN where nothing was drawn."""
    total = _sums(weights, number, count)
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, _sums(weights * value, number, count) / np.maximum(total, 1e-300), np.nan)
