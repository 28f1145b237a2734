"""What became of the documents of a corpus, as report.md beside its shards: counts, and examples of what was removed."""

import json
from collections.abc import Iterable
from typing import Any

from llm_from_scratch.data import duplicates
from llm_from_scratch.data.quality import RULES
from llm_from_scratch.data.tasks import SPLITS, Tally
from llm_from_scratch.data.work import Work

EXAMPLES = 3  # of what was removed for one reason


def report(work: Work, tallies: list[Tally], splits: dict[str, Any]) -> str:
    """What became of the documents, in Markdown: counts, and the first examples of what was removed for each reason."""
    removed = summed(tally.removed for tally in tallies)
    lines = [f"# What was prepared of {work.source.name}", ""]
    lines += [f"{sum(tally.read for tally in tallies):,} documents were read.", ""]
    lines += ["| split | documents | bytes of text | tokens |", "|---|---|---|---|"]
    for split in SPLITS:
        facts = splits[split]
        tokens = f"{facts['tokens']:,}" if "tokens" in facts else "–"
        lines.append(f"| {split} | {facts['documents']:,} | {facts['text_bytes']:,} | {tokens} |")
    lines += ["", "## Removed", "", "| why | documents | what is kept |", "|---|---|---|"]
    meanings = {name: (rule.__doc__ or "").splitlines()[0] for name, rule in RULES.items()} | {
        "fraction": f"the part {work.recipe.fraction} by a hash of the name (data.fraction)",
        "no_text": "what is UTF-8, without NUL",
        "empty": "at least one character",
        "min_chars": f"{work.recipe.min_chars} characters or more",
        "exact_duplicate": "the first of equal texts",
        "near_duplicate": f"the first of texts with {duplicates.THRESHOLD:.0%} of their runs of five words in common",
    }
    lines += [f"| {reason} | {count:,} | {meanings.get(reason, '')} |" for reason, count in removed.items()]
    lines += [] if removed else ["| – | 0 | everything |"]
    cleaned = summed(tally.cleaned for tally in tallies)
    lines += ["", "## Changed by cleaning", "", "| what | characters or bytes |", "|---|---|"]
    lines += [f"| {step} | {count:,} |" for step, count in cleaned.items()]
    for reason in removed:
        examples = [example for tally in tallies for example in tally.examples.get(reason, [])][:EXAMPLES]
        if examples:
            lines += ["", f"## Examples: {reason}", ""]
        for name, text in examples:
            lines.append(f"- {json.dumps(name, ensure_ascii=False)}: {json.dumps(text, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The counts of all, by their keys."""
    total: dict[str, int] = {}
    for one in counts:
        for key, count in one.items():
            total[key] = total.get(key, 0) + count
    return total
