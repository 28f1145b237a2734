"""Raters: how each rates beside the others, and who stands out.

Nobody is dropped: a report shows its results with and without those who have a flag.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from llm_from_scratch.rating.records import Check, Preference, Rating
from llm_from_scratch.rating.statistics.ranks import FIELLER, fisher_interval, spearman
from llm_from_scratch.rating.statistics.results import RaterSummary
from llm_from_scratch.rating.statistics.table import OUTCOMES

FASTEST = 1 / 3  # of the panel's median time
SAME = 0.9  # share of one answer
FEWEST_SAME = 10  # answers from which on that share tells something
OUTLYING = 3.5  # modified z-score (Iglewicz and Hoaglin 1993)
LEAST_BIAS = 0.5  # points: a smaller one is no flag, however alike the others are
BELOW = 2.326  # standard errors below the panel's agreement: one-sided 1 %
RULES = (
    f"A flag is set where more than half of the checks failed; where the agreement with the others may be none (its interval"
    f" holds 0) and lies more than {BELOW:.1f} standard errors below the median of the others; where the distance from the others"
    f" on the same items is {LEAST_BIAS} points or more from the panel's median with a modified z-score above {OUTLYING}; where one"
    f" answer is {SAME:.0%} of all; or where an item takes less than a third of the panel's median time. A flag is a reason to look,"
    " not a proof: all results stand here with and without these raters."
)


def summaries(records: Sequence[Rating | Preference], checks: Sequence[Check]) -> list[RaterSummary]:
    """Returns a summary of each rater of the records, in the order of their numbers, with flags."""
    by_rater: dict[int, list[Rating | Preference]] = {}
    for record in records:
        by_rater.setdefault(record.rater, []).append(record)
    others = _others(records)
    found = [
        _summary(rater, by_rater[rater], [check for check in checks if check.rater == rater], others)
        for rater in sorted(by_rater)
    ]
    _flag(found, {rater: len({one.item for one in own if not one.repeat}) for rater, own in by_rater.items()})
    return found


def score(record: Rating | Preference) -> float | None:
    """Returns an answer as a number: 1 to 5, or 1, 0, -1 for first, tie, second; None for none."""
    if isinstance(record, Rating):
        return None if record.value is None else float(record.value)
    return None if record.winner is None else float(OUTCOMES[record.winner])


def _given(record: Rating | Preference) -> str:
    """Returns an answer as the rater gave it: of a pair, the side."""
    if isinstance(record, Rating):
        return str(record.value)
    return "tie" if record.winner == "tie" else "left" if record.winner == record.shown_left else "right"


Key = tuple[int, str]  # item and question


def _key(record: Rating | Preference) -> Key:
    return record.item, record.question if isinstance(record, Rating) else ""


def _others(records: Sequence[Rating | Preference]) -> dict[Key, tuple[float, int]]:
    """Returns the sum and the number of all answers to each item and question."""
    found: dict[Key, tuple[float, int]] = {}
    for record in records:
        value = score(record)
        if value is not None and not record.repeat:
            total, count = found.get(_key(record), (0.0, 0))
            found[_key(record)] = total + value, count + 1
    return found


def _summary(
    rater: int, own: Sequence[Rating | Preference], checks: Sequence[Check], others: Mapping[Key, tuple[float, int]]
) -> RaterSummary:
    first = {_key(record): value for record in own if not record.repeat and (value := score(record)) is not None}
    again = {_key(record): value for record in own if record.repeat and (value := score(record)) is not None}
    apart = [abs(value - first[key]) for key, value in again.items() if key in first]
    beside = [  # own answer, and the mean of the others' answers to the same
        (key, value, (others[key][0] - value) / (others[key][1] - 1))
        for key, value in first.items()
        if others[key][1] > 1
    ]
    pairs = isinstance(own[0], Preference)
    agreement = _agreement([(key[1], a, b) for key, a, b in beside], pairs)
    low, high = fisher_interval(agreement, len({key[0] for key, _, _ in beside}))
    # One time an item: the questions of an item are answered together
    seconds = {record.item: record.seconds for record in own if not record.repeat and math.isfinite(record.seconds)}
    known = [one for one in seconds.values() if one > 0]
    given = [_given(record) for record in own if not record.repeat and score(record) is not None]
    return RaterSummary(
        rater=rater,
        kind=own[0].rater_kind,
        ratings=len(given),
        cannot_judge=sum(score(record) is None for record in own if not record.repeat),
        checks=len(checks),
        checks_passed=sum(check.passed for check in checks),
        seconds=float(np.median(known)) if known else None,
        repeats=len(apart),
        repeats_same=sum(one == 0 for one in apart),
        repeats_apart=float(np.mean(apart)) if apart else None,
        agreement=_known(agreement),
        agreement_low=_known(low),
        agreement_high=_known(high),
        bias=float(np.mean([a - b for _, a, b in beside])) if beside and not pairs else None,
        same_answer=max(given.count(one) for one in set(given)) / len(given) if given else None,
    )


def _agreement(beside: Sequence[tuple[str, float, float]], pairs: bool) -> float:
    """Returns the rank correlation of own answers with the others' means; NaN where it has none.

    Questions are centred first, so that a question that everybody rates higher is no agreement. Of
    pairs it is arbitrary which text is the first: each counts both ways round.
    """
    if len(beside) < 3:
        return math.nan
    names = np.array([name for name, _, _ in beside])
    own, other = (np.array([row[side] for row in beside]) for side in (1, 2))
    if pairs:
        return spearman(np.concatenate([own, -own]), np.concatenate([other, -other]))
    for name in set(names.tolist()):
        own[names == name] -= own[names == name].mean()
        other[names == name] -= other[names == name].mean()
    return spearman(own, other)


def _flag(found: Sequence[RaterSummary], items: Mapping[int, int]) -> None:
    """Adds the flags that `RULES` describes."""
    for row in found:
        rest = [other for other in found if other is not row]
        failed = row.checks - row.checks_passed
        if 2 * failed > row.checks:
            row.flags.append(f"failed {failed} of {row.checks} checks")
        # A rater without any variation has no correlation: the share of one answer tells it.
        level = _median([math.atanh(min(one.agreement, 0.999999)) for one in rest if one.agreement is not None])
        if row.agreement is not None and row.agreement_low is not None and level is not None:
            error = FIELLER / math.sqrt(items[row.rater] - 3)
            if row.agreement_low <= 0 and math.atanh(max(row.agreement, -0.999999)) < level - BELOW * error:
                row.flags.append("does not agree with the others")
        biases = [one.bias for one in found if one.bias is not None]
        if row.bias is not None and len(biases) >= 4:
            middle = float(np.median(biases))
            spread = float(np.median(np.abs(np.array(biases) - middle)))
            away = row.bias - middle
            if abs(away) >= LEAST_BIAS and 0.6745 * abs(away) > OUTLYING * spread:
                row.flags.append("much stricter than the others" if away < 0 else "much milder than the others")
        if row.same_answer is not None and row.ratings >= FEWEST_SAME and row.same_answer >= SAME:
            row.flags.append(f"one answer in {row.same_answer:.0%} of all")
        pace = _median([one.seconds for one in rest if one.seconds is not None])
        if row.seconds is not None and pace is not None and row.seconds < FASTEST * pace:
            row.flags.append(f"fast: {row.seconds:.1f} s an item")


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
