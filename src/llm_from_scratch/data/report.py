"""The report of a preparation: counts and examples in report.md, a bar chart in report.png."""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llm_from_scratch.data import duplicates
from llm_from_scratch.data.corpus import Corpus
from llm_from_scratch.data.documents import NAMED, NOT_READ, SPLITS, Tally
from llm_from_scratch.data.folders import listed
from llm_from_scratch.data.formats import COLUMN, MAX_COLUMNS
from llm_from_scratch.data.quality import RULES
from llm_from_scratch.pages import as_markdown
from llm_from_scratch.tokenizer import END_OF_TEXT

log = logging.getLogger(__name__)
EXAMPLES = 3  # most removed documents that the report shows for one reason
PICTURE = "report.png"


def removes_any(corpus: Corpus, tallies: list[Tally]) -> bool:
    """Returns whether anything was removed or not read, or the settings ask for removal.

    Columns that are not read do not count.
    """
    skipped = any(set(tally.skipped) - {COLUMN} or tally.removed for tally in tallies)
    return corpus.removes or bool(corpus.source.skipped) or skipped


def warn(corpus: Corpus, tallies: list[Tally]) -> None:
    """Logs warnings of documents and archive members that were left out unasked.

    Each names the first few and gives their count. Columns that are not read are logged as
    information.
    """
    name = corpus.source.name
    meanings = {
        "no_text": "documents left out that are no text",
        "unreadable": "files left out that are damaged",
        "empty": "empty documents",
    }
    for reason in NOT_READ:
        if count := sum(tally.removed.get(reason, 0) for tally in tallies):
            examples = [(example[0], "") for tally in tallies for example in tally.examples.get(reason, [])]
            log.warning("%s: %s, %s in all: %s", name, meanings[reason], f"{count:,}", listed(examples, count))
    for why, count in summed(tally.skipped for tally in tallies).items():
        members = [(one, why) for one in dict.fromkeys(one for tally in tallies for one in tally.named.get(why, []))]
        if why == COLUMN:
            log.info("%s: columns not read: %s", name, listed(members))
        else:
            log.warning("%s: members of archives not read, %s in all: %s", name, f"{count:,}", listed(members, count))
    if separators := sum(tally.separators for tally in tallies):
        log.warning(
            "%s: documents that hold %s as a word of their text, %s in all: where it stands between documents, "
            "data.separator='%s' reads each of them by itself",
            *(name, END_OF_TEXT, f"{separators:,}", END_OF_TEXT),
        )


def write_report(corpus: Corpus, tallies: list[Tally], splits: dict[str, Any]) -> None:
    """Writes report.md and report.png to the build folder.

    The same corpus gives the same bytes, whichever process prepares it.
    """
    # A file's name can hold bytes that are not UTF-8.
    content = report(corpus, tallies, splits).encode("utf-8", "backslashreplace")
    (corpus.building / "report.md").write_bytes(content)
    kept = {split: splits[split]["documents"] for split in SPLITS}
    _draw(corpus.building / PICTURE, kept, summed(tally.removed for tally in tallies))


def _draw(path: Path, kept: dict[str, int], removed: dict[str, int]) -> None:
    """Draws a bar for each split and for each reason to remove a document.

    The counts stand beside the bars, for many bars are short.
    """
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


def report(corpus: Corpus, tallies: list[Tally], splits: dict[str, Any]) -> str:
    """Returns the report in Markdown: counts, and the first examples of each reason for removal."""
    removed = summed(tally.removed for tally in tallies)
    lines = [f"# What was prepared of {as_markdown(corpus.source.name)}", ""]
    of = "" if corpus.expected is None else f" of {corpus.expected:,} published"
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
        "fraction": f"the part {corpus.selection.fraction} by a hash of the name (data.fraction)",
        "no_text": f"texts in {corpus.selection.encoding}, without NUL",
        "unreadable": "files that are whole",
        "empty": "at least one character",
        "min_chars": f"{corpus.selection.min_chars} characters or more",
        "language": f"pages of {corpus.selection.language} (data.language)",
        "exact_duplicate": "the first of equal texts",
        "near_duplicate": f"the first of texts with {duplicates.THRESHOLD:.0%} of their runs of five words in common",
    }
    lines += [f"| {reason} | {count:,} | {meanings.get(reason, '')} |" for reason, count in removed.items()]
    lines += [] if removed else ["| – | 0 | everything |"]
    cleaned = summed(tally.cleaned for tally in tallies)
    lines += ["", "## Changed by cleaning", "", "| what | characters or bytes |", "|---|---|"]
    lines += [f"| {step} | {count:,} |" for step, count in cleaned.items()]
    lines += _not_read(corpus, tallies)
    for reason in removed:
        few = NAMED if reason in NOT_READ else EXAMPLES
        examples = [example for tally in tallies for example in tally.examples.get(reason, [])][:few]
        if examples:
            lines += ["", f"## Examples: {reason}", ""]
        for name, text in examples:
            lines.append(f"- {_code(name)}: {_code(text)}")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """Returns untrusted text as code in Markdown, so that its links and images are not rendered."""
    quoted = json.dumps(text, ensure_ascii=False)
    ticks = "`" * (1 + max(map(len, re.findall("`+", quoted)), default=0))
    return f"{ticks} {quoted} {ticks}"


def _not_read(corpus: Corpus, tallies: list[Tally]) -> list[str]:
    """Returns the Markdown lines on files, members and columns not read; [] where all were read."""
    reasons = {why: [name for name, one in corpus.source.skipped if one == why] for _, why in corpus.source.skipped}
    counts = {why: len(names) for why, names in reasons.items()}
    for why, count in summed(tally.skipped for tally in tallies).items():
        members = dict.fromkeys(one for tally in tallies for one in tally.named.get(why, []))
        reasons[why] = reasons.get(why, []) + list(members)
        counts[why] = counts.get(why, 0) + (len(members) if why == COLUMN else count)
    if not reasons:
        return []
    lines = ["", "## Not read", "", "| what | count | the first |", "|---|---|---|"]
    for why, names in reasons.items():
        first = ", ".join(_code(name).replace("|", "\\|") for name in names[:NAMED])
        uncounted = why == COLUMN and any(len(tally.named.get(why, [])) == MAX_COLUMNS for tally in tallies)
        lines.append(f"| {why} | {counts[why]:,}{' or more' if uncounted else ''} | {first} |")
    return lines


def summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Returns the sum of several dictionaries of counts, key by key."""
    total: dict[str, int] = {}
    for one in counts:
        for key, count in one.items():
            total[key] = total.get(key, 0) + count
    return total
