"""Results of an evaluation: `measure` makes them, `--json` and `report` show them.

The names of the fields are the keys of the JSON object. A figure that was not requested, or could
not be measured, is None, and its key is absent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from llm_from_scratch.evaluation.pairs import Preference

NULL = {"null": True}  # a field whose None is null in JSON rather than absent
UNWRITTEN = {"unwritten": True}  # a field that is not in JSON


@dataclass(kw_only=True)
class TextInfo:
    """The text that was scored: counts that a reader can check, and the checksum of its bytes."""

    name: str
    documents: int
    bytes: int
    characters: int
    words: int
    lines_count: bool  # whether the end of a line counts as a word
    units: str  # number and kind of the bootstrap's units
    sha256: str
    # The split of the runs' own text; None where another text is scored
    split: str | None = field(default=None, metadata=NULL)


@dataclass(kw_only=True)
class Figures:
    """The likelihood of the text; figures of tokens are None for a compressor."""

    loss: float | None = None  # nats a token
    perplexity: float | None = None  # a token
    perplexity_word: float
    bits_per_byte: float
    bits_per_byte_low: float | None = None  # bootstrap over the units, 95 %
    bits_per_byte_high: float | None = None
    bits_per_character: float
    tokens: int | None = None
    more: float | None = None  # bits per byte above the first run's, by a paired bootstrap
    more_low: float | None = None
    more_high: float | None = None
    # (U,) bits of each unit
    unit_bits: np.ndarray | None = field(default=None, repr=False, compare=False, metadata=UNWRITTEN)


@dataclass(kw_only=True)
class Position:
    """Mean loss at the positions `first` to `last` of the context, 1-based, and its interval."""

    first: int
    last: int
    loss: float
    low: float
    high: float


@dataclass(kw_only=True)
class ScoredPassage:
    """A passage of the text, as pieces (text of a token, bits of it)."""

    bits_per_byte: float
    pieces: list[tuple[str, float]]


@dataclass(kw_only=True)
class Extremes:
    """The passages with the most and the fewest bits per byte."""

    worst: list[ScoredPassage]
    best: list[ScoredPassage]


@dataclass(kw_only=True)
class GenerationMetrics:
    """Metrics of continuations; `report.DEFINITIONS` has definitions and sources."""

    bleu: float | None = None
    chrf: float | None = None
    rouge1: float | None = None
    rouge2: float | None = None
    rougeL: float | None = None  # noqa: N815 - as it is written everywhere
    bertscore: float | None = None
    distinct_1: float
    distinct_2: float
    distinct_3: float
    repetition_4: float
    self_bleu: float | None = None
    entailed: float | None = None
    contradicted: float | None = None
    # Length in characters -> share of characters inside copies of at least that length
    memorised: dict[str, float] | None = None
    memorised_longest: str | None = None
    memorised_longest_characters: int | None = None
    words: int
    style: dict[str, float] | None = None
    delta: dict[str, float] | None = None  # text -> Burrows's Delta to it
    faithfulness: dict[str, float] | None = None  # kind -> mean count a passage


@dataclass(kw_only=True)
class Sample:
    """A held-out passage (prompt and true continuation), and a run's own continuation."""

    prompt: str
    continuation: str
    written: str


@dataclass(kw_only=True)
class AnswerScore:
    """A metric of answers to held-out questions, and its bootstrap interval over them, 95 %."""

    value: float
    low: float
    high: float
    # The excess over the better baseline, by a paired bootstrap; None in a baseline's own row
    more: float | None = None
    more_low: float | None = None
    more_high: float | None = None


@dataclass(kw_only=True)
class Answers:
    """The scores of one writer, a model or a baseline."""

    name: str
    scores: dict[str, AnswerScore]  # metric -> score


@dataclass(kw_only=True)
class AnsweredQuestion:
    """A held-out question, the right answer, and what the first run wrote."""

    prompt: str
    answer: str
    written: str


@dataclass(kw_only=True)
class AnswersResult:
    """Answers to the held-out questions: of each run, then of the baselines."""

    metric: str  # a key of `answer_metrics.METRICS`
    questions: int
    runs: list[Answers]
    baselines: list[Answers]
    samples: list[AnsweredQuestion]


@dataclass(kw_only=True)
class Excess:
    """Bits per byte of a model and of the process that tells the stories, on the same stories.

    Those of a part of the stories are divided by the bytes of all, so that parts add up. The
    interval is of the difference, by bootstrap over the stories, 95 %.
    """

    model: float
    process: float
    excess: float
    low: float
    high: float


@dataclass(kw_only=True)
class Divergence:
    """Kullback-Leibler divergence of a model from the true distribution of a choice, in bits.

    The mean over choices and its bootstrap interval over them, 95 %.
    """

    choices: int
    bits: float
    low: float
    high: float


@dataclass(kw_only=True)
class Share:
    """A share of stories, and Wilson's interval of 95 %."""

    count: int
    share: float
    low: float
    high: float


@dataclass(kw_only=True)
class ToldStory:
    """A story that a model wrote, and its faults as (kind, what stands there)."""

    text: str
    faults: list[tuple[str, str]]


@dataclass(kw_only=True)
class Told:
    """What a model tells: its faults, and what of it the training text has."""

    stories: int
    temperature: float
    top_p: float | None
    faultless: Share
    faults: dict[str, Share]  # kind -> stories with a fault of it, the most frequent first
    copied: Share | None = None  # stands in the training text word for word; None: that is not at hand
    new_ending: Share | None = None  # has last two sentences that no training story ends with
    samples: list[ToldStory]  # the first ones


@dataclass(kw_only=True)
class TalesRun:
    """The figures of one run on told stories; the keys of `by_kind` are kinds of choice."""

    name: str
    whole: Excess
    by_kind: dict[str, Excess]
    by_place: list[Excess]  # tenths of a story
    divergence: dict[str, Divergence]  # kind of choice, or "all"
    told: Told | None = None


@dataclass(kw_only=True)
class TalesResult:
    """Runs on told stories, whose entropy is known."""

    level: int
    stories: int  # that were scored
    entropy: float  # bits per byte, exact but for the mean length
    entropy_low: float
    entropy_high: float
    truth: Told | None = None  # of the held-out stories
    runs: list[TalesRun]


@dataclass(kw_only=True)
class RunResult(Figures):
    """The figures of one run."""

    run: str  # its folder
    step: int | None  # None: a model that was trained elsewhere
    parameters: int
    tokenizer: str
    positions: list[Position]
    passages: Extremes
    generated: GenerationMetrics | None = None
    samples: list[Sample] | None = None
    bias: list[Preference] | None = None
    grammar: list[Preference] | None = None


@dataclass(kw_only=True)
class Baseline(Figures):
    """The figures of a baseline; `kind` is a key of `figures.KINDS`."""

    name: str
    kind: str
    note: str


@dataclass(kw_only=True)
class ArticleFigures:
    """Figures that the project's article (README) gives, for its own text."""

    name: str
    note: str
    perplexity: float
    loss: float | None = None
    bleu: float | None = None


@dataclass(kw_only=True)
class Sampling:
    """The sampling settings of the continuations."""

    passages: int
    temperature: float
    top_p: float | None


@dataclass(kw_only=True)
class UsedSettings:
    """Settings that the figures depend on."""

    overlap: float
    seed: int
    sampling: Sampling | None = None


@dataclass(kw_only=True)
class Evaluation:
    """All results of one evaluation."""

    text: TextInfo
    settings: UsedSettings
    runs: list[RunResult]
    baselines: list[Baseline] | None = None
    article: list[ArticleFigures] | None = None
    answers: AnswersResult | None = None
    tales: TalesResult | None = None
    truth: GenerationMetrics | None = None  # of the true continuations
    bias_limits: str | None = None
    grammar_limits: str | None = None
    left_out: list[str]  # one line for each figure not measured, with the reason
    command: str | None = None


def as_json(value: Any) -> Any:
    """Converts results to the objects, lists, strings and numbers of JSON."""
    if is_dataclass(value):
        names = [one for one in fields(value) if not one.metadata.get("unwritten")]
        pairs = ((one, getattr(value, one.name)) for one in names)
        return {one.name: as_json(own) for one, own in pairs if own is not None or one.metadata.get("null")}
    if isinstance(value, Mapping):
        return {key: as_json(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(own) for own in value]
    return value
