"""Records of a study -> `Results`. People and models are analysed apart from one another."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.intervals import wilson
from llm_from_scratch.rating.records import Check, Item, Preference, Rating, Text
from llm_from_scratch.rating.statistics import bradley_terry, scales
from llm_from_scratch.rating.statistics.agreement import alpha_interval
from llm_from_scratch.rating.statistics.crossed import interval, p_values, parts, pigeonhole, quantiles, variance
from llm_from_scratch.rating.statistics.metrics import Judgements, correlations, measure
from llm_from_scratch.rating.statistics.multiple import holm
from llm_from_scratch.rating.statistics.ordered import cumulative_link
from llm_from_scratch.rating.statistics.power import Parts, power
from llm_from_scratch.rating.statistics.ranks import fisher_interval, spearman
from llm_from_scratch.rating.statistics.raters import score, summaries
from llm_from_scratch.rating.statistics.results import (
    Alpha,
    Comparisons,
    Correlation,
    Difference,
    Group,
    GroupMean,
    ModelRater,
    Panel,
    Question,
    Results,
    Strength,
    WinRate,
)
from llm_from_scratch.rating.statistics.table import Pairs, Ratings, pairs_table, ratings_table

MARGIN = math.log(0.6 / 0.4)  # logits: a tie wins at most 60 of 100 comparisons that have a winner
FEWEST_IN_GROUP = 3  # raters of a background group that has intervals


@dataclass(frozen=True, kw_only=True)
class Records:
    """All that is analysed.

    Attributes:
        title, design, systems, questions: of the plan; `questions` are the names of scales.
        ratings, preferences, checks: of all raters.
        texts, items: by id; {} leaves out the correlations with metrics.
        of_systems: metric -> system -> value, measured elsewhere.
        closed: the time at which the study was closed; None: it is open.
    """

    title: str
    design: str
    systems: Sequence[str]
    questions: Sequence[str] = ()
    ratings: Sequence[Rating] = ()
    preferences: Sequence[Preference] = ()
    checks: Sequence[Check] = ()
    texts: Mapping[int, Text] = field(default_factory=dict)
    items: Mapping[int, Item] = field(default_factory=dict)
    of_systems: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    closed: str | None = None

    @property
    def answers(self) -> Sequence[Rating | Preference]:
        """Returns the records of the study's design."""
        return self.ratings if self.design == "scales" else self.preferences


def analyse(records: Records) -> Results:
    """Returns all results of a study.

    Raises:
        UserError: when no person or model has judged anything yet.
    """
    people = [one for one in records.answers if one.rater_kind != "model"]
    models = [one for one in records.answers if one.rater_kind == "model"]
    if not any(score(one) is not None for one in records.answers):
        raise UserError("there is no rating yet: nothing can be reported")
    left_out: list[str] = []
    results = Results(
        title=records.title,
        design="scales" if records.design == "scales" else "pairs",
        systems=list(records.systems),
        prompts=len({one.prompt for one in records.answers}),
        closed=records.closed,
        people=_panel("people", people, records, left_out),
        left_out=left_out,
    )
    for rater in sorted({one.rater for one in models}):
        own = [one for one in models if one.rater == rater]
        results.models.append(_panel(f"model {rater}", own, records, []))
        results.model_agreement += _beside_people(rater, own, people)
    results.metrics, missing = _metrics(records, people)
    left_out += missing
    return results


# ------------------------------------------------------------------------------------------- panels
def _panel(name: str, answers: Sequence[Rating | Preference], records: Records, left_out: list[str]) -> Panel:
    raters = {one.rater for one in answers}
    rows = summaries(answers, [check for check in records.checks if check.rater in raters])
    panel = Panel(name=name, raters=rows, imported=sum(row.kind == "imported" for row in rows))
    flagged = [row.rater for row in rows if row.flags]
    if not any(score(one) is not None for one in answers):
        return panel
    if records.design == "scales":
        ratings = [one for one in answers if isinstance(one, Rating)]
        panel.questions = _questions(ratings, records, flagged, left_out)
        tables = {name: ratings_table(ratings, name, records.systems) for name in records.questions}
    else:
        preferences = [one for one in answers if isinstance(one, Preference)]
        panel.pairs = _comparisons(preferences, records.systems, flagged)
        tables = {"": _as_shares(pairs_table(preferences, records.systems))}
    panel.groups = _groups(answers, tables)
    return panel


def _questions(
    ratings: Sequence[Rating], records: Records, flagged: Sequence[int], left_out: list[str]
) -> list[Question]:
    found, all_parts = [], []
    for name in records.questions:
        table = ratings_table(ratings, name, records.systems)
        if not len(table.value):
            continue
        unjudged = [one.system for one in ratings if one.question == name and one.value is None and not one.repeat]
        question = Question(name=name, means=scales.means(table, [unjudged.count(one) for one in records.systems]))
        question.differences, variances = scales.differences(table)
        question.alpha = _alpha(table, "ordinal")
        try:
            question.model, note = cumulative_link(table)
            question.model_note = note or None
        except UserError as error:
            question.model_note = str(error)
            if str(error) not in left_out:
                left_out.append(str(error))
        rest = table.without(flagged)
        if flagged and len(rest.value):
            question.without_flagged = scales.means(rest)
            question.differences_without_flagged, _ = scales.differences(rest)
            question.alpha_without_flagged = _alpha(rest, "ordinal")
        found.append(question)
        all_parts.append((len(table.value), variances))
    _decide([one for question in found for one in question.differences])
    _decide([one for question in found for one in question.differences_without_flagged or ()])
    tests = sum(len(question.differences) for question in found)
    for question, (count, variances) in zip(found, all_parts, strict=True):
        _add_power(question.differences, variances, count, tests)
    return found


def _decide(found: Sequence[Difference]) -> None:
    """Corrects the p-values of all differences together, and sets the verdicts."""
    adjusted = holm(np.array([math.nan if one.p is None else one.p for one in found]))
    for one, p in zip(found, adjusted, strict=True):
        scales.decide(one, float(p))


def _add_power(found: Sequence[Difference], variances: Mapping[tuple[str, str], Parts], count: int, tests: int) -> None:
    for one in found:
        one.power = power(one.value, variances[one.first, one.second], count, tests)


def _alpha(table: Ratings, metric: str) -> Alpha | None:
    counts = np.unique(table.item, return_counts=True)[1]
    if not (counts > 1).any():
        return None
    kind = "ordinal" if metric == "ordinal" else "nominal"
    ends = alpha_interval(table.item, table.value, table.prompt, "ordinal" if kind == "ordinal" else "nominal")
    value, low, high = (one if math.isfinite(one) else None for one in ends)
    return Alpha(metric=metric, value=value, low=low, high=high, items=int((counts > 1).sum()))


# -------------------------------------------------------------------------------------------- pairs
def _comparisons(preferences: Sequence[Preference], systems: Sequence[str], flagged: Sequence[int]) -> Comparisons:
    table = pairs_table(preferences, systems)
    rows, log_nu, bounded, found, variances = _strengths(table)
    for one in found:
        one.power = power(one.value, variances[one.first, one.second], len(table.outcome), len(found))
    sides = [one.winner == one.shown_left for one in preferences if one.winner in ("first", "second")]
    left_low, left_high = wilson(sum(sides), len(sides)) if sides else (None, None)
    result = Comparisons(
        strengths=rows,
        ties=log_nu if math.isfinite(log_nu) else None,
        bounded=bounded,
        rates=_rates(table),
        differences=found,
        alpha=_alpha(_outcomes(table), "nominal"),
        left=sum(sides),
        preferred=len(sides),
        left_low=left_low,
        left_high=left_high,
        cannot_judge=sum(one.winner is None for one in preferences if not one.repeat),
    )
    rest = table.without(flagged)
    if flagged and len(rest.outcome):
        result.strengths_without_flagged, _, _, result.differences_without_flagged, _ = _strengths(rest)
        result.alpha_without_flagged = _alpha(_outcomes(rest), "nominal")
    return result


def _strengths(
    table: Pairs,
) -> tuple[list[Strength], float, bool, list[Difference], dict[tuple[str, str], Parts]]:
    """Returns the scale, log nu, whether it is bounded, and differences with their variances."""
    S = len(table.systems)
    fitted = bradley_terry.strengths(table.first, table.second, table.outcome, S)
    low, high = interval(fitted.scores, *variance(fitted.influence, table.rater, table.prompt))
    wins, ties = bradley_terry.tables(
        table.first, table.second, table.outcome, pigeonhole(table.rater, table.prompt), S
    )
    # A resample may leave a score infinite: all get the prior's half a win and half a loss
    again, _ = bradley_terry.fit(wins, ties, bradley_terry.PRIOR)
    boot_low, boot_high = quantiles(again)
    every, tied = bradley_terry.tables(table.first, table.second, table.outcome, np.ones((1, len(table.outcome))), S)
    rows = []
    for i, name in enumerate(table.systems):
        # Who has lost nothing may be stronger without end, who has won nothing weaker
        floor, ceiling = (side.any() or tied[0, i].any() for side in (every[0, i], every[0, :, i]))
        rows.append(
            Strength(
                system=name,
                score=float(fitted.scores[i]),
                low=_known(low[i]) if floor else None,
                high=_known(high[i]) if ceiling else None,
                bootstrap_low=_known(boot_low[i]) if floor else None,
                bootstrap_high=_known(boot_high[i]) if ceiling else None,
            )
        )
    linear, each = bradley_terry.linear_differences(table.first, table.second, table.outcome, S)
    found, variances = [], {}
    for i, first in enumerate(table.systems):
        for j, second in list(enumerate(table.systems))[i + 1 :]:
            influence = fitted.influence[:, [i]] - fitted.influence[:, [j]]
            value = float(fitted.scores[i] - fitted.scores[j])
            row = scales.difference(first, second, value, influence, table.rater, table.prompt, MARGIN)
            spread = variance(each[:, [i]] - each[:, [j]], table.rater, table.prompt)
            row.p = _known(p_values(np.array([linear[i] - linear[j]]), *spread)[0])
            found.append(row)
            variances[first, second] = parts(influence, table.rater, table.prompt)
    _decide(found)
    return rows, fitted.ties, fitted.bounded, found, variances


def _rates(table: Pairs) -> list[WinRate]:
    found = []
    for i, first in enumerate(table.systems):
        for j, second in list(enumerate(table.systems))[i + 1 :]:
            forward, back = (table.first == i) & (table.second == j), (table.first == j) & (table.second == i)
            outcomes = np.concatenate([table.outcome[forward], -table.outcome[back]])
            if not len(outcomes):
                continue
            wins, losses, ties = (int((outcomes == value).sum()) for value in (1, -1, 0))
            share = (wins + ties / 2) / len(outcomes)
            low, high = wilson(wins + ties / 2, len(outcomes))
            found.append(
                WinRate(
                    first=first, second=second, wins=wins, losses=losses, ties=ties, share=share, low=low, high=high
                )
            )
    return found


def _outcomes(table: Pairs) -> Ratings:
    """Returns comparisons as ratings of items: 1, 0 or -1, in each item's own orientation."""
    return Ratings(
        systems=table.systems,
        system=table.first,
        rater=table.rater,
        item=table.item,
        prompt=table.prompt,
        value=table.outcome.astype(np.float64),
    )


def _as_shares(table: Pairs) -> Ratings:
    """Returns each comparison twice: the first system's share of the win, and the second's."""

    def twice(column: np.ndarray) -> np.ndarray:
        return np.concatenate([column, column])

    share = (table.outcome + 1) / 2
    return Ratings(
        systems=table.systems,
        system=np.concatenate([table.first, table.second]),
        rater=twice(table.rater),
        item=twice(table.item),
        prompt=twice(table.prompt),
        value=np.concatenate([share, 1 - share]),
    )


# ----------------------------------------------------------------------------------- groups, models
def _groups(answers: Iterable[Rating | Preference], tables: Mapping[str, Ratings]) -> list[Group]:
    """Returns the results of each answer to a background question that was answered in two ways."""
    given: dict[str, dict[str, set[int]]] = {}
    for one in answers:
        for question, answer in one.background.items():
            given.setdefault(question, {}).setdefault(answer, set()).add(one.rater)
    return [
        Group(question=question, answer=answer, raters=len(raters), rows=_group_means(raters, tables))
        for question, by_answer in given.items()
        if len(by_answer) > 1
        for answer, raters in by_answer.items()
    ]


def _group_means(raters: set[int], tables: Mapping[str, Ratings]) -> list[GroupMean]:
    rows = []
    for question, table in tables.items():
        for number, system in enumerate(table.systems):
            own = table.where((table.system == number) & np.isin(table.rater, list(raters)))
            if not len(own.value):
                continue
            mean = float(own.value.mean())
            spread = variance(((own.value - mean) / len(own.value))[:, None], own.rater, own.prompt)
            (low,), (high,) = interval(np.array([mean]), *spread)
            few = len(np.unique(own.rater)) < FEWEST_IN_GROUP
            rows.append(
                GroupMean(
                    question=question,
                    system=system,
                    ratings=len(own.value),
                    mean=mean,
                    low=None if few else _known(low),
                    high=None if few else _known(high),
                )
            )
    return rows


def _beside_people(
    rater: int, own: Sequence[Rating | Preference], people: Sequence[Rating | Preference]
) -> list[ModelRater]:
    """Correlates a model's answers with people's means of the same items, a row a question."""
    found = []
    for question in dict.fromkeys(getattr(one, "question", "preference") for one in own):
        model, human = (
            _item_means(one for one in rows if getattr(one, "question", "preference") == question)
            for rows in (own, people)
        )
        common = [item for item in model if item in human]
        x, y = (np.array([side[item] for item in common]) for side in (model, human))
        pairs = question == "preference" and isinstance(own[0], Preference)
        both = (np.concatenate([x, -x]), np.concatenate([y, -y])) if pairs else (x, y)
        rho = spearman(*both) if len(common) > 2 else math.nan
        low, high = fisher_interval(rho, len(common))
        found.append(
            ModelRater(
                rater=rater,
                question=question,
                items=len(common),
                spearman=_known(rho),
                spearman_low=_known(low),
                spearman_high=_known(high),
                bias=None if pairs or not common else float((x - y).mean()),
            )
        )
    return found


def _item_means(answers: Iterable[Rating | Preference]) -> dict[int, float]:
    by_item: dict[int, list[float]] = {}
    for one in answers:
        value = score(one)
        if value is not None and not one.repeat:
            by_item.setdefault(one.item, []).append(value)
    return {item: sum(values) / len(values) for item, values in by_item.items()}


def _metrics(records: Records, people: Sequence[Rating | Preference]) -> tuple[list[Correlation], list[str]]:
    """Correlates people's judgements with metrics, question by question."""
    judged: dict[str, list[tuple[int, int, int, float]]] = {}
    for one in people:
        value, item = score(one), records.items.get(one.item)
        if value is None or one.repeat or item is None:
            continue
        if isinstance(one, Rating):
            judged.setdefault(one.question, []).append((item.first, one.rater, one.prompt, value))
        elif item.second is not None:
            share = (value + 1) / 2
            judged.setdefault("preference", []).append((item.first, one.rater, one.prompt, share))
            judged["preference"].append((item.second, one.rater, one.prompt, 1 - share))
    measured = measure((row[0] for rows in judged.values() for row in rows), records.texts, records.of_systems)
    found: list[Correlation] = []
    for question, rows in judged.items():
        text, rater, prompt, values = (np.array(column) for column in zip(*rows, strict=True))
        own = Judgements(text=text, rater=rater, prompt=prompt, value=values)
        found += correlations(question, own, records.texts, measured)
    return found, measured.left_out


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
