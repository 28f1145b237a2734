"""What became of the documents of a corpus, beside its shards: report.md has counts and examples, report.png draws them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llm_from_scratch.data import duplicates
from llm_from_scratch.data.quality import RULES
from llm_from_scratch.data.tasks import SPLITS, Tally
from llm_from_scratch.data.work import Work
from llm_from_scratch.pages import as_markdown

EXAMPLES = 3  # of what was removed for one reason
PICTURE = "report.png"


def write_report(work: Work, tallies: list[Tally], splits: dict[str, Any]) -> None:
    """Writes both files where the corpus is built. The same corpus gives the same bytes, whoever prepared it."""
    (work.building / "report.md").write_text(report(work, tallies, splits), encoding="utf-8")
    kept = {split: splits[split]["documents"] for split in SPLITS}
    _draw(work.building / PICTURE, kept, summed(tally.removed for tally in tallies))


def _draw(path: Path, kept: dict[str, int], removed: dict[str, int]) -> None:
    """A bar for each split, and one for each reason to remove a document; the counts stand beside them, for many are small."""
    from matplotlib.figure import Figure

    counts = kept | removed
    figure = Figure(figsize=(8, 0.8 + 0.35 * len(counts)), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:blue"] * len(kept) + ["tab:orange"] * len(removed)
    bars = axes.barh(list(counts), list(counts.values()), color=colours)
    axes.bar_label(bars, [f"{count:,}" for count in counts.values()], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("documents kept (blue) and removed (orange)")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def report(work: Work, tallies: list[Tally], splits: dict[str, Any]) -> str:
    """What became of the documents, in Markdown: counts, and the first examples of what was removed for each reason."""
    removed = summed(tally.removed for tally in tallies)
    lines = [f"# What was prepared of {as_markdown(work.source.name)}", ""]
    of = "" if work.expected is None else f" of {work.expected:,} published"
    lines += [f"{sum(tally.read for tally in tallies):,} documents{of} were read.", ""]
    lines += ["| split | documents | bytes of text | tokens |", "|---|---|---|---|"]
    for split in SPLITS:
        facts = splits[split]
        tokens = f"{facts['tokens']:,}" if "tokens" in facts else "–"
        lines.append(f"| {split} | {facts['documents']:,} | {facts['text_bytes']:,} | {tokens} |")
    lines += [
        "",
        f"![Documents kept and removed]({PICTURE})",
        "",
        "## Removed",
        "",
        "| why | documents | what is kept |",
        "|---|---|---|",
    ]
    meanings = {name: (rule.__doc__ or "").splitlines()[0] for name, rule in RULES.items()} | {
        "fraction": f"the part {work.recipe.fraction} by a hash of the name (data.fraction)",
        "no_text": "what is UTF-8, without NUL",
        "empty": "at least one character",
        "min_chars": f"{work.recipe.min_chars} characters or more",
        "language": f"pages of {work.recipe.language} (data.language)",
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
            lines.append(
                f"- {as_markdown(json.dumps(name, ensure_ascii=False))}: {as_markdown(json.dumps(text, ensure_ascii=False))}"
            )
    return "\n".join(lines) + "\n"


def summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The counts of all, by their keys."""
    total: dict[str, int] = {}
    for one in counts:
        for key, count in one.items():
            total[key] = total.get(key, 0) + count
    return total
