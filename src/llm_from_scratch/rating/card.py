"""The card of a study, README.md of its export: what was asked of whom about which texts.

A card is published, so no path of this machine and no code of a rater is in it.
"""

import json
from pathlib import Path

import yaml

from llm_from_scratch.pages import Block, Heading, Paragraph, Table, markdown
from llm_from_scratch.rating.store import Study

LIMITS = (
    "These are the opinions of these raters about these texts. Nothing was drawn from a population, so intervals are for"
    " raters and texts like these. Short texts tell little about long ones, and what reads well need not be true."
)
FILES = (
    ("ratings.csv, ratings.jsonl", "an answer a row; repeat: the rater saw the item a second time; rater_kind: person,"
     " model or imported, never to be mixed; no value: cannot judge"),
    ("checks.csv", "whether raters did as the attention checks asked them to"),
    ("texts.jsonl", "the rated texts and their systems"),
    ("pairs.jsonl", "prompt, chosen, rejected: for preference optimization"),
)  # fmt: skip


def study_card(study: Study, answers: int, pairs: int) -> str:
    """Returns the text of README.md for an export of `answers` rows and `pairs` pairs."""
    plan = study.plan
    front = {
        "pretty_name": plan.title,
        "license": "unknown",
        "task_categories": ["text-generation"],
        "tags": ["human-evaluation", "llm-from-scratch", *(["dpo"] if pairs else [])],
        "configs": [
            {"config_name": name, "data_files": f"{name}.jsonl"}
            for name, rows in (("ratings", answers), ("texts", 1), ("pairs", pairs))
            if rows
        ],
    }
    checks = study.checks()
    failed = sum(not check.passed for check in checks)
    raters = [rater for rater in study.raters() if rater.consented]
    people = sum(rater.kind == "person" for rater in raters)
    imported = sum(rater.kind == "imported" for rater in raters)
    models = [rater.name for rater in raters if rater.kind == "model"]
    what = "Each text was rated by itself." if plan.design == "scales" else "Two texts were compared at a time."
    blocks: list[Block] = [
        Heading(1, plan.title),
        Paragraph(
            f"A study of texts by {len(plan.names)} systems, read blind, made with LLMfromScratch. {what} {answers:,} answers,"
            f" {pairs:,} pairs. {'Closed' if study.closed else 'Not closed yet'}."
        ),
        Heading(2, "Systems"),
        _systems(study),
        Heading(2, "Raters"),
        Paragraph(
            f"{people} people, {imported} raters imported from elsewhere, {len(models)} models"
            + (f" ({', '.join(models)})" if models else "")
            + f". Wanted of people: {plan.ratings_per_item} ratings an item. {failed} of {len(checks)} attention checks failed."
        ),
        Paragraph(f"The raters agreed to: {plan.consent}"),
        *([Table("Asked about the raters", ["question", "answers"], [
            [one.text, ", ".join(one.options)] for one in plan.background
        ])] if plan.background else []),
        Heading(2, "Questions"),
        *_questions(study),
        Heading(2, "Files"),
        Table("", ["file", "holds"], [list(row) for row in FILES]),
        Heading(2, "Limits"),
        Paragraph(LIMITS),
        Paragraph("The licence is not stated: whoever publishes this has to state one, also for the texts."),
    ]  # fmt: skip
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{markdown(blocks)}"


def _systems(study: Study) -> Table:
    known = json.loads(study.fact("systems") or "{}")
    rows = []
    for name in study.plan.names:
        about = known.get(name, {})
        step = about.get("step")
        run = Path(about["run"]).name if about else ""
        rows.append([name, run, "" if step is None else f"{step:,}", str(about.get("checksum", ""))[:16]])
    sampling = study.plan.sampling
    title = f"Sampling: temperature {sampling.temperature:g}, top_k {sampling.top_k}, top_p {sampling.top_p}"
    return Table(title, ["system", "run", "step", "sha256"], rows)


def _questions(study: Study) -> list[Block]:
    if study.plan.design == "pairs":
        tie = "a tie, " if study.plan.ties else ""
        return [Paragraph(f"{study.plan.pair_question} One of the two, {tie}or: cannot judge.")]
    return [
        Table(
            f"{question.name}: {question.text}",
            ["level", "meaning", "example"],
            [[str(level), text, question.anchors.get(level, "")] for level, text in question.levels.items()],
        )
        for question in study.plan.questions
    ]
