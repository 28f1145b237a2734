"""`Results` of a study -> the blocks of its report: sentences, tables, figures."""

import math
from collections.abc import Mapping, Sequence

from llm_from_scratch.pages import Block, Heading, Paragraph, Picture, Table
from llm_from_scratch.rating.records import HUMAN
from llm_from_scratch.rating.statistics.raters import RULES
from llm_from_scratch.rating.statistics.results import (
    Alpha,
    Comparisons,
    Difference,
    Panel,
    Power,
    Question,
    Results,
    SystemMean,
)
from llm_from_scratch.rating.statistics.scales import MARGIN

FEW_RATERS = 6  # below it intervals cover less than they say
Pictures = Mapping[tuple[str, str], Picture]

INTERVALS = (
    "Intervals are 95 % and speak of other raters and other prompts of the same kind: raters and prompts are both samples. They"
    " come from a variance that is clustered along both, with Student's quantiles; the percentiles of a bootstrap over raters and"
    " prompts (the pigeonhole bootstrap, Owen 2007) stand beside them. A median has the bootstrap's alone."
)
DIFFERENCES = (
    "First minus second, from a linear model with a mean for every system, rater and prompt, so that a strict rater who saw more of"
    " one system does not count against it. p is corrected for all comparisons of the study (Holm 1979). A tie is a difference that"
    f" is surely below {MARGIN} points (two one-sided tests at 5 %). Not settled says that neither was shown. “Raters needed” is for"
    " the observed difference to be found at a power of 80 % with the same prompts: it is right if the true difference is the"
    " observed one. “Detectable” is the smallest difference that this study finds at that power."
)
DIFFERENCES_OF_PAIRS = (
    "First minus second in logits. p is of a linear model of the outcomes, which stays sharp where one system wins nearly always; it"
    " is corrected for all comparisons of the study (Holm 1979). A tie is a difference that is surely"
    " below 0.41 logits, 60 wins of 100 with a winner (two one-sided tests at 5 %). Not settled says that neither was shown. “Raters"
    " needed” is for the observed difference to be found at a power of 80 % with the same prompts: it is right if the true"
    " difference is the observed one. “Detectable” is the smallest difference that this study finds at that power."
)
ALPHA = (
    "Krippendorff's alpha is agreement beyond chance: 1 is always, 0 as by chance. He asks for 0.8, and for 0.667 where conclusions"
    " are tentative; judgements of taste rarely come so far, and means of many raters may be sure where single ones are not. Its"
    " interval is of a bootstrap over prompts, for these raters."
)
MODEL = (
    "The cumulative-link model (ordered logit with an effect for each rater, statsmodels) does not take the steps of the scale for"
    " equal. Effects are log-odds of a higher answer than the first system gets; p is not corrected."
)
STRENGTHS = (
    "Bradley and Terry's scale with ties after Davidson (1970): 0 is the average system, and the odds that one wins over another"
    " are e to the difference of their scores. Win rates count a tie as one half; their intervals are Wilson's, as if all"
    " comparisons were independent, and so narrower than the scale's."
)
METRICS = (
    "Rank correlation between people's means and automatic metrics of the same texts, Spearman's rho and Kendall's tau-b, with a"
    " bootstrap over raters and prompts. The further from 0, the more a metric says what people say; a negative one says it the"
    " other way round. Over texts each text is a point. Over systems there are few points: three systems in the same order may be"
    " chance once in six. These intervals do not speak of other systems."
)
ARTICLE = (
    "The project's article let people rate fluency, coherence and relevance from 1 to 5. The project has no figures of those"
    " ratings, so none stand beside these."
)


def blocks(results: Results, pictures: Pictures | None = None) -> list[Block]:
    """Returns the blocks of the report in order; `pictures`: those of `figures.draw`."""
    pictures = pictures or {}
    people = results.people
    parts: list[Block] = [Heading(1, results.title), _about(results), Heading(2, "At a glance")]
    parts += [Paragraph(line) for line in at_a_glance(results)]
    parts += _judgements(results, people, pictures)
    parts += _raters(people, pictures)
    parts += _groups(people)
    if results.metrics:
        parts += [Heading(2, "Which metric to trust"), *_picture(pictures, people, "metrics"), _metrics(results)]
        parts.append(Paragraph(METRICS))
    for panel in results.models:
        parts += [Heading(2, f"A model as rater: {panel.name}"), _beside(results, panel)]
        parts.append(Paragraph("These are a model's answers. They are in no figure, mean or interval of the people's."))
        parts += _judgements(results, panel, pictures)
    parts += [Heading(2, "Beside the article"), Paragraph(ARTICLE)]
    if results.left_out:
        parts += [Heading(2, "Left out"), *(Paragraph(line) for line in results.left_out)]
    return parts


def _about(results: Results) -> Paragraph:
    people = results.people
    answers = sum(row.ratings for row in people.raters)
    kind = "ratings" if results.design == "scales" else "comparisons"
    state = f"closed {results.closed}" if results.closed else "still open: what follows may change"
    imported = f", {people.imported} of them imported" if people.imported else ""
    models = f" {len(results.models)} models rated as well, apart from them." if results.models else ""
    few = (
        f" With fewer than {FEW_RATERS} raters a 95 % interval holds the truth in 90 to 95 % of studies."
        if len(people.raters) < FEW_RATERS
        else ""
    )
    return Paragraph(
        f"{len(results.systems)} systems, {results.prompts} prompts, {len(people.raters)} people{imported}, {answers:,}"
        f" {kind}; {state}.{models}{few}"
    )


def at_a_glance(results: Results) -> list[str]:
    """Returns the results of the people in sentences: what is better, what ties, what is open."""
    panel = results.people
    if panel.pairs:
        groups = [("", panel.pairs.differences, panel.pairs.differences_without_flagged)]
    else:
        groups = [(f"{one.name}: ", one.differences, one.differences_without_flagged) for one in panel.questions]
    lines = []
    for title, rows, without in groups:
        lines += [f"{title}{_sentence(row, panel.pairs)}" for row in sorted(rows, key=lambda row: -abs(row.value))]
        others = {(row.first, row.second): row.verdict for row in without or ()}
        changed = [row for row in rows if others.get((row.first, row.second), row.verdict) != row.verdict]
        lines += [
            f"{title}without the raters who have a flag, {row.first} and {row.second} are"
            f" {_verdict(row.first, row.second, others[row.first, row.second])}."
            for row in changed
        ]
    flagged = [row.rater for row in panel.raters if row.flags]
    if flagged:
        lines.append(
            f"Raters with a flag: {', '.join(map(str, flagged))}; they are in all figures unless it says without."
        )
    return lines or ["No person has judged anything yet."]


def _sentence(row: Difference, pairs: Comparisons | None) -> str:
    """Says a difference, of pairs with how often the one text was preferred to the other."""
    apart, rate = f"{abs(row.value):.2f} {'logits' if pairs else 'points'}", ""
    best, other = (row.second, row.first) if row.value < 0 else (row.first, row.second)
    for one in pairs.rates if pairs else ():
        if {one.first, one.second} == {best, other}:
            share, count = one.share if one.first == best else 1 - one.share, one.wins + one.losses + one.ties
            rate = f" {best} was preferred in {100 * share:.0f} % of {count} comparisons, a tie counted as one half."
    if row.verdict in ("better", "worse"):
        ends = sorted((abs(row.low or 0), abs(row.high or 0)))
        return f"{best} is better than {other}, by {apart} ({ends[0]:.2f} to {ends[1]:.2f}).{rate}"
    if row.verdict == "tie":
        return f"{row.first} and {row.second} are a tie: {apart} apart, and surely less than is worth telling.{rate}"
    return f"{row.first} and {row.second} are not settled: {apart} apart.{rate}{_needed(row.power)}"


def _needed(power: Power | None) -> str:
    if power is None:
        return ""
    if power.raters is None:
        return " No number of raters settles so small a difference with these prompts."
    return f" About {power.raters:,} raters like these in all ({power.ratings or 0:,} ratings) would settle it."


def _verdict(first: str, second: str, verdict: str) -> str:
    return {
        "better": f"not equal: {first} is better",
        "worse": f"not equal: {second} is better",
        "tie": "a tie",
        "open": "not settled",
    }[verdict]


def _picture(pictures: Pictures, panel: Panel, name: str) -> list[Block]:
    picture = pictures.get((panel.name, name))
    return [picture] if picture else []


def _judgements(results: Results, panel: Panel, pictures: Pictures) -> list[Block]:
    """Returns the part of a panel that tells of the systems."""
    if panel.pairs:
        return _pairs(panel, panel.pairs, pictures)
    parts: list[Block] = []
    if panel.questions:
        parts += [Heading(2 if panel is results.people else 3, "Ratings"), *_picture(pictures, panel, "means")]
        parts += [*_picture(pictures, panel, "levels"), *(_means(question) for question in panel.questions)]
        parts += [Paragraph(INTERVALS), Heading(3, "Differences"), *_picture(pictures, panel, "differences")]
        for question in panel.questions:
            if question.differences:
                rows = _differences(question.differences, question.differences_without_flagged)
                parts.append(Table(f"{question.name}: differences (points)", *rows))
        parts.append(Paragraph(DIFFERENCES))
        parts += _alphas([(one.name, one.alpha, one.alpha_without_flagged) for one in panel.questions])
        parts += _model(panel.questions)
    return parts


def _means(question: Question) -> Table:
    without = {row.system: row for row in question.without_flagged or ()}
    header = [
        "system",
        "mean",
        "95 %",
        "median",
        "its 95 %",
        "ratings",
        "without flagged",
        "its 95 %",
        "bootstrap 95 %",
    ]
    header.append("cannot judge")

    def cells(row: SystemMean) -> list[str]:
        other = without.get(row.system)
        return [
            row.system,
            _number(row.mean),
            _interval(row.low, row.high),
            _number(row.median, "g"),
            _interval(row.median_low, row.median_high, "g"),
            f"{row.ratings}",
            _number(other.mean) if other else "",
            _interval(other.low, other.high) if other else "",
            _interval(row.bootstrap_low, row.bootstrap_high),
            f"{row.cannot_judge}" if row.cannot_judge else "",
        ]

    return Table(question.name, header, [cells(row) for row in question.means])


def _differences(rows: Sequence[Difference], without: Sequence[Difference] | None) -> tuple[list[str], list[list[str]]]:
    others = {(row.first, row.second): row for row in without or ()}
    header = ["first – second", "difference", "95 %", "p (Holm)", "result", "raters needed", "detectable"]
    header += ["without flagged", "its 95 %", "its result"]
    cells = []
    for row in rows:
        power, other = row.power, others.get((row.first, row.second))
        needed = "" if power is None else "more prompts" if power.raters is None else f"{power.raters:,}"
        cells.append(
            [
                f"{row.first} – {row.second}",
                f"{row.value:+.2f}",
                _interval(row.low, row.high, "+.2f"),
                "" if row.p_holm is None else f"{row.p_holm:.3f}" if row.p_holm >= 0.001 else "< 0.001",
                _short(row),
                needed,
                _number(power.detectable) if power else "",
                f"{other.value:+.2f}" if other else "",
                _interval(other.low, other.high, "+.2f") if other else "",
                _short(other) if other else "",
            ]
        )
    return header, cells


def _short(row: Difference) -> str:
    winner = {"better": f"{row.first} is better", "worse": f"{row.second} is better"}
    return winner.get(row.verdict, "tie" if row.verdict == "tie" else "not settled")


def _alphas(rows: Sequence[tuple[str, Alpha | None, Alpha | None]]) -> list[Block]:
    cells = [
        [
            name or "preference",
            own.metric,
            _number(own.value),
            _interval(own.low, own.high),
            f"{own.items}",
            _number(other.value) if other else "",
            _interval(other.low, other.high) if other else "",
        ]
        for name, own, other in rows
        if own
    ]
    if not cells:
        return [Paragraph("No item was judged by two raters, so that agreement cannot be told.")]
    header = ["question", "distance", "alpha", "95 %", "items", "without flagged", "its 95 %"]
    return [Heading(3, "Agreement"), Table("Krippendorff's alpha", header, cells), Paragraph(ALPHA)]


def _model(questions: Sequence[Question]) -> list[Block]:
    cells = [
        [
            question.name,
            f"{row.system} – {row.against}",
            f"{row.value:+.2f}",
            _interval(row.low, row.high, "+.2f"),
            f"{row.p:.3f}" if row.p >= 0.001 else "< 0.001",
            question.model_note or "",
        ]
        for question in questions
        for row in question.model or ()
    ]
    if not cells:
        return []
    header = ["question", "system", "effect (logits)", "95 %", "p", "note"]
    return [Heading(3, "Cumulative-link model"), Table("Ordered logit", header, cells), Paragraph(MODEL)]


# -------------------------------------------------------------------------------------------- pairs
def _pairs(panel: Panel, found: Comparisons, pictures: Pictures) -> list[Block]:
    without = {row.system: row for row in found.strengths_without_flagged or ()}
    strengths = [
        [
            row.system,
            f"{row.score:+.2f}",
            _interval(row.low, row.high, "+.2f"),
            f"{without[row.system].score:+.2f}" if row.system in without else "",
            _interval(without[row.system].low, without[row.system].high, "+.2f") if row.system in without else "",
            _interval(row.bootstrap_low, row.bootstrap_high, "+.2f"),
        ]
        for row in sorted(found.strengths, key=lambda row: -row.score)
    ]
    header = ["system", "strength (logits)", "95 %", "without flagged", "its 95 %", "bootstrap 95 %"]
    rates = [
        [
            f"{row.first} over {row.second}",
            f"{row.wins}",
            f"{row.ties}",
            f"{row.losses}",
            f"{row.share:.0%}",
            f"{row.low:.0%} – {row.high:.0%}",
        ]
        for row in found.rates
    ]
    parts: list[Block] = [Heading(2, "Comparisons"), *_picture(pictures, panel, "strengths")]
    parts += [Table("Strengths", header, strengths), *_picture(pictures, panel, "rates")]
    parts += [
        Table("Win rates", ["pair", "won", "tied", "lost", "win rate", "95 % (Wilson)"], rates),
        Paragraph(STRENGTHS),
    ]
    if not found.bounded:
        parts.append(
            Paragraph(
                "The comparisons alone leave some strength infinite, as of a system that won them all: half a win and half a loss"
                " against an average system were added for each. An interval is open where nothing bounds it."
            )
        )
    tied = "nobody tied" if found.ties is None else f"two equal systems tie in {_tie_share(found.ties):.0%} of all"
    left = f"{found.left / found.preferred:.0%}" if found.preferred else "none"
    ends = f" ({found.left_low:.0%} to {found.left_high:.0%})" if found.left_low is not None and found.left_high else ""
    parts.append(
        Paragraph(
            f"In this model {tied}. The left text was preferred in {left}{ends} of {found.preferred} comparisons with a winner;"
            f" {found.cannot_judge} could not be judged."
        )
    )
    rows = _differences(found.differences, found.differences_without_flagged)
    parts += [Heading(3, "Differences"), *_picture(pictures, panel, "differences")]
    parts += [Table("Differences (logits)", *rows), Paragraph(DIFFERENCES_OF_PAIRS)]
    return parts + _alphas([("preference", found.alpha, found.alpha_without_flagged)])


def _tie_share(log_nu: float) -> float:
    return math.exp(log_nu) / (2 + math.exp(log_nu))


# ---------------------------------------------------------------------------------- raters, metrics
def _raters(panel: Panel, pictures: Pictures) -> list[Block]:
    header = ["rater", "answers", "agreement", "95 %", "checks passed", "same on repeats", "apart on repeats"]
    header += ["seconds an item", "bias", "most frequent answer", "cannot judge", "kind", "flags"]
    cells = [
        [
            f"{row.rater}",
            f"{row.ratings}",
            _number(row.agreement),
            _interval(row.agreement_low, row.agreement_high),
            f"{row.checks_passed} of {row.checks}" if row.checks else "",
            f"{row.repeats_same} of {row.repeats}" if row.repeats else "",
            _number(row.repeats_apart),
            _number(row.seconds, ".1f"),
            _number(row.bias, "+.2f"),
            "" if row.same_answer is None else f"{row.same_answer:.0%}",
            f"{row.cannot_judge}" if row.cannot_judge else "",
            "" if row.kind == "person" else row.kind,
            "; ".join(row.flags),
        ]
        for row in panel.raters
    ]
    return [
        Heading(2, "Raters"),
        *_picture(pictures, panel, "raters"),
        Table("Raters", header, cells),
        Paragraph(RULES),
    ]


def _groups(panel: Panel) -> list[Block]:
    cells = [
        [
            f"{group.question}: {group.answer}",
            f"{group.raters}",
            row.question,
            row.system,
            _number(row.mean),
            _interval(row.low, row.high),
            f"{row.ratings}",
        ]
        for group in panel.groups
        for row in group.rows
    ]
    if not cells:
        return []
    measure = "win rate" if panel.pairs else "mean"
    header = ["background", "raters", "question", "system", measure, "95 %", "answers"]
    note = (
        "Groups were not drawn at random, and each is smaller than the whole: a difference between groups is a question for another"
        " study. Fewer than three raters have no interval."
    )
    return [Heading(2, "By background"), Table("Results by background", header, cells), Paragraph(note)]


def _metrics(results: Results) -> Table:
    order = {"texts": 0, "systems": 1}
    rows = sorted(results.metrics, key=lambda row: (row.question, order[row.over], -abs(row.spearman or 0)))
    cells = [
        [
            row.question,
            row.metric,
            f"{row.count} {row.over}",
            _number(row.spearman, "+.2f"),
            _interval(row.spearman_low, row.spearman_high, "+.2f"),
            _number(row.kendall, "+.2f"),
            _interval(row.kendall_low, row.kendall_high, "+.2f"),
        ]
        for row in rows
    ]
    title = "People and metrics" + ("" if HUMAN in results.systems else " (no true continuation to compare with)")
    return Table(title, ["question", "metric", "over", "Spearman", "95 %", "Kendall", "its 95 %"], cells)


def _beside(results: Results, panel: Panel) -> Table:
    raters = {row.rater for row in panel.raters}
    cells = [
        [
            row.question,
            f"{row.items}",
            _number(row.spearman, "+.2f"),
            _interval(row.spearman_low, row.spearman_high, "+.2f"),
            _number(row.bias, "+.2f"),
        ]
        for row in results.model_agreement
        if row.rater in raters
    ]
    header = ["question", "items of both", "rank correlation with people", "95 %", "points above people"]
    return Table("The model beside the people", header, cells)


def _number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def _interval(low: float | None, high: float | None, form: str = ".2f") -> str:
    """Returns an interval as text; an end that is not known is open."""
    if low is None and high is None:
        return ""
    return f"{'' if low is None else format(low, form)} – {'' if high is None else format(high, form)}".strip()
