"""Runs on told stories in the terminal and in the report: `TalesResult` -> blocks."""

from collections.abc import Sequence

from llm_from_scratch.evaluation.results import Excess, Share, TalesResult, TalesRun, Told
from llm_from_scratch.pages import Block, Heading, Paragraph, Part, Quote, Quotes, Table
from llm_from_scratch.tales import FAULTS

EXPLAINED = (
    "The excess is what the model needs more than the process on the same stories, whose exact probability is known;"
    " intervals are 95 %, by bootstrap over the stories. A token counts for the last choice that it decides, up to the"
    " character that tells its option from all others; what follows is all other text, which earlier choices determine,"
    " and the end of the story; an event counts with the sentence that tells it. The divergence is Kullback and"
    " Leibler's, of the model's probabilities of all options of a choice from the true ones."
)


def tales_blocks(result: TalesResult, names: Sequence[str]) -> list[Block]:
    """Builds the section of the report; `names` are those of the runs."""
    blocks: list[Block] = [Heading(2, "Told stories"), Paragraph(_entropy(result)), Paragraph(EXPLAINED)]
    for name, run in zip(names, result.runs, strict=True):
        blocks += [_parts(name, run), _places(name, run)]
    blocks += tales_told(result, names)
    for name, run in zip(names, result.runs, strict=True):
        if run.told:
            quotes = [
                Quote("; ".join(f"{kind}: {found!r:.60}" for kind, found in one.faults) or "no fault", [Part(one.text)])
                for one in run.told.samples
            ]
            blocks.append(Quotes(f"{name}: the first stories, and their faults", ("faults", "story", ""), "", quotes))
    return blocks


def tales_tables(result: TalesResult, names: Sequence[str]) -> list[Block]:
    """Builds what the terminal shows of runs."""
    parts = [_parts(name, run) for name, run in zip(names, result.runs, strict=True)]
    places = [_places(name, run) for name, run in zip(names, result.runs, strict=True)]
    return [Paragraph(_entropy(result)), *parts, *places, *tales_told(result, names)]


def _entropy(result: TalesResult) -> str:
    return (
        f"Stories of level {result.level}: their entropy is {result.entropy:.5f} bits per byte"
        f" ({result.entropy_low:.5f} to {result.entropy_high:.5f}), which no model comes below on all of them;"
        f" {result.stories:,} held-out ones are scored, each from its beginning."
    )


def _parts(name: str, run: TalesRun) -> Table:
    rows = [["all", *_cells(run.whole), *_divergence(run, "all")]]
    kinds = dict.fromkeys([*run.by_kind, *(kind for kind in run.divergence if kind != "all")])
    for kind in kinds:
        own = run.by_kind.get(kind)
        rows.append([kind, *(_cells(own) if own else [""] * 4), *_divergence(run, kind)])
    header = [
        "kind of choice",
        "bits per byte",
        "process",
        "excess",
        "95 %",
        "divergence (bits a choice)",
        "95 % ",
        "choices",
    ]
    return Table(f"{name}: excess over the process", header, rows)


def _cells(excess: Excess) -> list[str]:
    values = [f"{excess.model:.4f}", f"{excess.process:.4f}", f"{excess.excess:+.4f}"]
    return [*values, f"{excess.low:+.4f} – {excess.high:+.4f}"]


def _divergence(run: TalesRun, kind: str) -> list[str]:
    found = run.divergence.get(kind)
    if found is None:
        return ["", "", ""]
    return [f"{found.bits:.4f}", f"{found.low:.4f} – {found.high:.4f}", f"{found.choices:,}"]


def _places(name: str, run: TalesRun) -> Table:
    rows = [[f"{10 * place}–{10 * place + 10} %", *_cells(one)] for place, one in enumerate(run.by_place)]
    return Table(f"{name}: by place in the story", ["place", "bits per byte", "process", "excess", "95 %"], rows)


def tales_told(result: TalesResult, names: Sequence[str]) -> list[Block]:
    """Builds the table of what the runs tell; [] where nothing was written."""
    columns: list[tuple[str, Told]] = [
        (name, run.told) for name, run in zip(names, result.runs, strict=True) if run.told is not None
    ]
    if not columns:
        return []
    first = columns[0][1]
    if result.truth is not None:
        columns.append(("held-out stories", result.truth))
    told = [one for _, one in columns]
    kinds = dict.fromkeys(kind for one in told for kind in one.faults)
    rows = [
        ["without fault", *(_share(one.faultless) for one in told), ""],
        *([f"with {kind}", *(_share(one.faults.get(kind)) for one in told), FAULTS[kind]] for kind in kinds),
        ["copied", *(_share(one.copied) for one in told), "stands in the training text word for word"],
        [
            "new ending",
            *(_share(one.new_ending) for one in told),
            "last two sentences that no training story ends with",
        ],
    ]
    title = f"{first.stories:,} stories written (temperature {first.temperature:g}, top-p {first.top_p:g})"
    return [Table(title, ["stories", *(name for name, _ in columns), "meaning"], rows)]


def _share(share: Share | None) -> str:
    return "0.0%" if share is None else f"{share.share:.1%} ({share.low:.1%} – {share.high:.1%})"
