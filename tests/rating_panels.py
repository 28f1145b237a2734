"""Simulated panels of raters: studies whose truth is known.

A rater's latent rating of a text is the system's quality, plus what the rater, the prompt, the
rater with this system, and the prompt with this system add, plus noise; all are normal. It is
rounded to 1 to 5. Of two texts the one with the higher latent value is preferred, and they tie
where the values are less than `TIE` apart.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from llm_from_scratch.rating.records import Check, Preference, Rating
from llm_from_scratch.rating.statistics.table import Pairs, Ratings

TIE = 0.4


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the parts of a latent rating, points."""

    rater: float = 0.4
    prompt: float = 0.3
    rater_system: float = 0.2
    prompt_system: float = 0.4
    noise: float = 0.8

    @property
    def total(self) -> float:
        return math.hypot(self.rater, self.prompt, self.rater_system, self.prompt_system, self.noise)


def assignment(rng: np.random.Generator, raters: int, items: int, groups: int, each: int) -> np.ndarray:
    """Gives every item `each` raters, all raters alike many, also of each group (items % groups):
    (items * each, 2) rows of rater and item.
    """
    load = np.zeros((raters, groups))
    rows = []
    for item in rng.permutation(items):
        own = load[:, item % groups]
        chosen = np.lexsort((rng.random(raters), own + 0.5 * load.sum(axis=1)))[:each]
        load[chosen, item % groups] += 1
        rows += [(rater, item) for rater in chosen]
    return np.array(rows)


def latent(
    rng: np.random.Generator, quality: np.ndarray, spread: Spread, raters: int, prompts: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what all but the noise adds, (raters, prompts, systems), by rater and by prompt."""
    systems = len(quality)
    of_rater = spread.rater * rng.normal(size=(raters, 1)) + spread.rater_system * rng.normal(size=(raters, systems))
    of_prompt = spread.prompt * rng.normal(size=(prompts, 1)) + spread.prompt_system * rng.normal(
        size=(prompts, systems)
    )
    return quality + of_rater, of_prompt


def scales_study(
    rng: np.random.Generator, quality: np.ndarray, spread: Spread, raters: int, prompts: int, each: int
) -> Ratings:
    """Draws a study of scales."""
    systems = len(quality)
    rater, item = assignment(rng, raters, prompts * systems, systems, each).T
    prompt, system = np.divmod(item, systems)
    of_rater, of_prompt = latent(rng, quality, spread, raters, prompts)
    value = of_rater[rater, system] + of_prompt[prompt, system] + spread.noise * rng.normal(size=len(rater))
    names = [f"s{number}" for number in range(systems)]
    return Ratings(
        systems=names, system=system, rater=rater, item=item, prompt=prompt, value=np.clip(np.round(value), 1, 5)
    )


def true_means(quality: np.ndarray, spread: Spread) -> np.ndarray:
    """Returns the expected rating of each system, over all raters and prompts."""
    one = NormalDist(0, spread.total)
    return np.array([1 + sum(1 - one.cdf(edge - mean) for edge in (1.5, 2.5, 3.5, 4.5)) for mean in quality])


def pairs_study(
    rng: np.random.Generator, quality: np.ndarray, spread: Spread, raters: int, prompts: int, each: int
) -> Pairs:
    """Draws a study of pairs; all pairs of systems for every prompt."""
    systems = len(quality)
    i, j = np.triu_indices(systems, 1)
    rater, item = assignment(rng, raters, prompts * len(i), len(i), each).T
    prompt, pair = np.divmod(item, len(i))
    of_rater, of_prompt = latent(rng, quality, spread, raters, prompts)
    noise = spread.noise * rng.normal(size=(2, len(rater)))
    values = [of_rater[rater, side[pair]] + of_prompt[prompt, side[pair]] + noise[k] for k, side in enumerate((i, j))]
    apart = values[0] - values[1]
    outcome = np.where(np.abs(apart) < TIE, 0, np.sign(apart)).astype(int)
    names = [f"s{number}" for number in range(systems)]
    return Pairs(systems=names, first=i[pair], second=j[pair], rater=rater, item=item, prompt=prompt, outcome=outcome)


def expected_tables(quality: np.ndarray, spread: Spread) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probabilities of wins and ties of each pair, (S, S): what the scale is fitted to
    when there are endless raters and prompts.
    """
    # Of two systems the rater's and the prompt's own parts cancel out
    deviation = math.sqrt(2) * math.hypot(spread.rater_system, spread.prompt_system, spread.noise)
    systems = len(quality)
    wins, ties = np.zeros((systems, systems)), np.zeros((systems, systems))
    for i in range(systems):
        for j in range(systems):
            if i != j:
                apart = NormalDist(quality[i] - quality[j], deviation)
                wins[i, j] = 1 - apart.cdf(TIE)
                ties[i, j] = apart.cdf(TIE) - apart.cdf(-TIE)
    return wins, ties


def rating_records(
    table: Ratings, question: str = "fluency", careless: tuple[int, ...] = (), seed: int = 0
) -> list[Rating]:
    """Returns a study of scales as records; careless raters answer at random, and fast."""
    rng = np.random.default_rng(seed)
    rows = zip(*(getattr(table, name).tolist() for name in ("rater", "item", "prompt", "system", "value")), strict=True)
    found = []
    for position, (rater, item, prompt, system, value) in enumerate(rows):
        if rater in careless:
            value, seconds = int(rng.integers(1, 6)), float(rng.gamma(4, 4))
        else:
            value, seconds = int(value), float(rng.gamma(4, 4))
        found.append(
            Rating(
                rater=rater,
                rater_kind="person",
                item=item,
                prompt=prompt,
                system=table.systems[system],
                question=question,
                value=value,
                position=position,
                seconds=seconds,
                background={"english": "yes" if rater % 3 else "no"},
            )
        )
    return found


def preference_records(table: Pairs, careless: tuple[int, ...] = (), seed: int = 0) -> list[Preference]:
    """Returns a study of pairs as records; careless raters answer at random."""
    rng = np.random.default_rng(seed)
    names = ("rater", "item", "prompt", "first", "second", "outcome")
    found = []
    for position, row in enumerate(zip(*(getattr(table, name).tolist() for name in names), strict=True)):
        rater, item, prompt, first, second, outcome = row
        if rater in careless:
            outcome = int(rng.integers(-1, 2))
        found.append(
            Preference(
                rater=rater,
                rater_kind="person",
                item=item,
                prompt=prompt,
                first=table.systems[first],
                second=table.systems[second],
                winner=("tie", "first", "second")[outcome],
                shown_left="first" if rng.random() < 0.5 else "second",
                position=position,
                seconds=float(rng.gamma(4, 4)),
                background={"english": "yes" if rater % 3 else "no"},
            )
        )
    return found


def attention_checks(raters: int, careless: tuple[int, ...] = (), each: int = 3, seed: int = 0) -> list[Check]:
    """Returns checks that attentive raters pass with 99 %, and careless ones with 40 %."""
    rng = np.random.default_rng(seed)
    return [
        Check(
            rater=rater,
            rater_kind="person",
            item=10_000 + number,
            passed=bool(rng.random() < (0.4 if rater in careless else 0.99)),
        )
        for rater in range(raters)
        for number in range(each)
    ]
