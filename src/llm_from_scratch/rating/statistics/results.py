"""Results of a study: `analysis` makes them, `--json`, the figures and the pages show them.

The names of the fields are the keys of the JSON object. A figure that cannot be told is None, and
its key is absent. Intervals are 95 %.
"""

from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["better", "worse", "tie", "open"]


@dataclass(kw_only=True)
class SystemMean:
    """The ratings of one system under one question."""

    system: str
    ratings: int
    cannot_judge: int
    mean: float | None = None
    low: float | None = None  # over raters and prompts: `crossed.variance`
    high: float | None = None
    bootstrap_low: float | None = None  # percentiles of the pigeonhole bootstrap
    bootstrap_high: float | None = None
    median: float | None = None
    median_low: float | None = None  # the same bootstrap
    median_high: float | None = None
    counts: list[int] = field(default_factory=list)  # ratings of 1 to 5


@dataclass(kw_only=True)
class Difference:
    """`first` minus `second`: points of the scale, or logits of a scale of strengths."""

    first: str
    second: str
    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None  # corrected for all comparisons of the study
    verdict: Verdict = "open"
    power: "Power | None" = None


@dataclass(kw_only=True)
class Power:
    """Ratings that settle a difference of the observed size, at 80 % power.

    Attributes:
        detectable: the smallest difference that the study as it is settles at that power.
        factor: how many times the raters are needed, each rating as many as now, the same prompts;
            None: no number of raters is enough with these prompts.
        raters, ratings: the same as numbers, of all together.
        both_factor: the factor where raters and prompts grow alike.
    """

    detectable: float | None
    factor: float | None
    raters: int | None
    ratings: int | None
    both_factor: float | None


@dataclass(kw_only=True)
class Alpha:
    """Krippendorff's alpha of a question; `items` were rated by two raters or more."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    items: int


@dataclass(kw_only=True)
class Effect:
    """A system's coefficient of the cumulative-link model, in logits against `against`."""

    system: str
    against: str
    value: float
    low: float
    high: float
    p: float


@dataclass(kw_only=True)
class Question:
    """All results of one question of a study of scales."""

    name: str
    means: list[SystemMean]
    without_flagged: list[SystemMean] | None = None
    differences: list[Difference] = field(default_factory=list)
    differences_without_flagged: list[Difference] | None = None
    alpha: Alpha | None = None
    alpha_without_flagged: Alpha | None = None
    model: list[Effect] | None = None
    model_note: str | None = None  # what the model left out, or why there is none


@dataclass(kw_only=True)
class Strength:
    """A system's place on the scale of strengths (Bradley-Terry with ties), in logits."""

    system: str
    score: float
    low: float | None = None
    high: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None


@dataclass(kw_only=True)
class WinRate:
    """How often `first` was preferred to `second`; a tie counts one half. Wilson's interval."""

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    share: float
    low: float
    high: float


@dataclass(kw_only=True)
class Comparisons:
    """All results of a study of pairs."""

    strengths: list[Strength]
    ties: float | None  # log nu of Davidson's model; None: nobody tied
    bounded: bool
    rates: list[WinRate]
    differences: list[Difference]
    alpha: Alpha | None
    left: int  # how often the left text was preferred, of those with a preference
    preferred: int
    left_low: float | None
    left_high: float | None
    cannot_judge: int
    strengths_without_flagged: list[Strength] | None = None
    differences_without_flagged: list[Difference] | None = None
    alpha_without_flagged: Alpha | None = None


@dataclass(kw_only=True)
class RaterSummary:
    """One rater: how he rates beside the others; `flags` say why he stands out."""

    rater: int
    kind: str
    ratings: int
    cannot_judge: int
    checks: int
    checks_passed: int
    seconds: float | None  # median of an item
    repeats: int  # answers given twice
    repeats_same: int
    repeats_apart: float | None  # mean distance of the two, points
    agreement: float | None  # rank correlation with the others' mean of the same items
    agreement_low: float | None
    agreement_high: float | None
    bias: float | None  # mean distance from the others on the same items, points
    same_answer: float | None  # share of the most frequent answer
    flags: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Group:
    """The results of the raters who gave one answer to a background question."""

    question: str
    answer: str
    raters: int
    rows: list["GroupMean"]


@dataclass(kw_only=True)
class GroupMean:
    """A system's mean, or its win rate against all others, among the raters of a group."""

    question: str
    system: str
    ratings: int
    mean: float
    low: float | None
    high: float | None


@dataclass(kw_only=True)
class Correlation:
    """Rank correlation of people's judgement with a metric, over texts or over systems."""

    question: str
    metric: str
    over: Literal["texts", "systems"]
    count: int
    spearman: float | None
    spearman_low: float | None
    spearman_high: float | None
    kendall: float | None
    kendall_low: float | None
    kendall_high: float | None


@dataclass(kw_only=True)
class ModelRater:
    """A model as rater beside the people: rank correlation over the items that both rated."""

    rater: int
    question: str
    items: int
    spearman: float | None
    spearman_low: float | None
    spearman_high: float | None
    bias: float | None  # its mean minus the people's, points; None for pairs


@dataclass(kw_only=True)
class Panel:
    """The results of raters of one kind; people and models are never in one panel."""

    name: str  # people, or model and its number
    raters: list[RaterSummary]
    imported: int  # of the raters: ratings made elsewhere
    questions: list[Question] = field(default_factory=list)
    pairs: Comparisons | None = None
    groups: list[Group] = field(default_factory=list)


@dataclass(kw_only=True)
class Results:
    """All results of a study."""

    title: str
    design: Literal["scales", "pairs"]
    systems: list[str]
    prompts: int
    closed: str | None
    people: Panel
    models: list[Panel] = field(default_factory=list)
    model_agreement: list[ModelRater] = field(default_factory=list)
    metrics: list[Correlation] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
