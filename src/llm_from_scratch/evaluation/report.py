"""What `measure` returns -> tables in the terminal, report.md with pictures, and report.html, one file that opens with no network.

    the dictionary -> blocks (headings, paragraphs, tables, pictures, passages) -> one of the three

Texts and names come from a run, and so perhaps from a stranger: they are escaped wherever they are shown.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from llm_from_scratch.evaluation.figures import draw, heat, plain, run_names
from llm_from_scratch.files import write_file
from llm_from_scratch.pages import as_html, as_markdown

# Of generated text: key, name, what it is and where it is from.
DEFINITIONS = (
    (
        "bleu",
        "BLEU",
        "n-grams of 1 to 4 words shared with the true continuation (Papineni et al. 2002; sacrebleu's defaults), 0 to 1",
    ),
    ("chrf", "chrF", "n-grams of 1 to 6 characters shared with it, F2 (Popović 2015; sacrebleu's defaults), 0 to 1"),
    ("rouge1", "ROUGE-1", "words shared with it, F1 (Lin 2004; rouge-score, no stemming), 0 to 1"),
    ("rouge2", "ROUGE-2", "pairs of words shared with it, F1"),
    ("rougeL", "ROUGE-L", "longest common subsequence of words, F1"),
    ("bertscore", "BERTScore", "F1 of the model's vectors of both (Zhang et al. 2020), not rescaled"),
    ("entailed", "entailed", "share of the sentences that the prompt entails, by the model of --entailment"),
    ("contradicted", "contradicted", "share of the sentences that the prompt contradicts, by the same"),
    ("distinct_1", "distinct-1", "different words / words, of all texts together (Li et al. 2016)"),
    ("distinct_2", "distinct-2", "the same of pairs of words"),
    ("distinct_3", "distinct-3", "the same of three words in a row"),
    ("repetition_4", "repetition", "1 - different / all runs of four words within a text (Welleck et al. 2020)"),
    ("self_bleu", "self-BLEU", "BLEU of each text against all others (Zhu et al. 2018): high is monotonous"),
    ("memorised_longest_characters", "longest copy", "the longest string of the training text in it (characters)"),
    ("words", "words", "words written, all texts together"),
)
FAITHFUL = {
    "kept": "names of the prompt kept",
    "dropped": "names of the prompt dropped",
    "introduced": "names brought in",
    "agreeing": "genders agreeing",
    "contradicted": "genders contradicted",
    "relations_kept": "relations kept",
    "relations_contradicted": "relations contradicted",
    "relations_invented": "relations invented",
}
STYLE = """
:root { color-scheme: light dark; --text: #222; --back: #fff; --faint: #5a5a5a; --line: #d4d4d4; --hot: 222,45,38 }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; --back: #16181c; --faint: #a2a2a2; --line: #3a3d42; --hot: 255,82,66 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
body { color: var(--text); background: var(--back) }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
p, .passage, figcaption { max-width: 60rem; overflow-wrap: anywhere }
.wide { overflow-x: auto; max-width: 100% } table { border-collapse: collapse; font-size: .875rem; margin: .5rem 0 1rem }
th, td { padding: .25rem .4rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { border-bottom: 2px solid var(--faint); vertical-align: bottom; min-width: 4.75rem; overflow-wrap: anywhere }
td { max-width: 26rem; overflow-wrap: break-word }
td:first-child { min-width: 8rem } td:last-child:not(.number) { min-width: 10rem } .number { text-align: right }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; min-width: 0 }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
.passage { white-space: pre-wrap; border-left: 3px solid var(--line); padding: .25rem .75rem; margin: .5rem 0 }
.passage b { color: var(--faint); font-size: .875rem }
figure { margin: 1rem 0 } figcaption { color: var(--faint); font-size: .875rem }
"""
MOST_ROWS = 10  # of the summary's table
SUMMARY_COLUMNS = ("", "bits per byte", "95 %", "perplexity a word", "BLEU")
NUMBER = re.compile(r"[-–+e\d.,% ]*")


@dataclass(frozen=True)
class Heading:
    """Level 1 to 3."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Text of this project or of a run."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells are text; a column that is empty everywhere is not shown."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG file of the report's folder."""

    file: str
    caption: str


@dataclass(frozen=True)
class Passages:
    """Passages of [text, bits] of each token."""

    title: str
    rows: Sequence[dict[str, Any]]


Block = Heading | Paragraph | Table | Picture | Passages


def print_tables(report: dict[str, Any], console: Console) -> None:
    """The tables of the report, and what has to be said beside them."""
    for block in blocks(report | {"left_out": []}, {}):
        if isinstance(block, Paragraph):
            console.print(RichText(plain(block.text, 1000)))
        if isinstance(block, Table):
            table, dropped = _fitted(block, console.width)
            table.title, table.title_justify = RichText(plain(block.title, 120)), "left"
            console.print(table)
            if dropped:
                console.print(RichText(f"too narrow here for: {', '.join(dropped)}; --json and --report have all"))


def print_summary(report: dict[str, Any], console: Console) -> None:
    """The figures that are read first, in 20 lines at most; the pages hold all of them."""
    names, likely = run_names(report), _likelihood(report, run_names(report))
    runs, baselines = len(report["runs"]), len(report.get("baselines", []))
    # The baselines come sorted, the best one first; the article's figures, of another text, stay in the page.
    shown = likely.rows[: min(runs, MOST_ROWS)]
    shown = [*shown, *likely.rows[runs : runs + min(baselines, MOST_ROWS - len(shown))]]
    columns = [i for i, name in enumerate(likely.header) if name in SUMMARY_COLUMNS]
    figures = Table("", [likely.header[i] for i in columns], [[row[i] for i in columns] for row in shown])
    table, _ = _fitted(figures, console.width)
    table.box, table.padding, table.pad_edge = None, (0, 2, 0, 0), False
    first, *others = table.columns
    first.no_wrap, first.overflow = True, "ellipsis"
    first.max_width = max(console.width - sum((column.width or 0) + 2 for column in others) - 2, 8)
    console.print(RichText(plain(likely.title, console.width)))
    console.print(table)

    lines = []
    written = report["runs"][0].get("generated") or {}
    if written:
        copied = written.get("memorised_longest_characters", 0)
        lines.append(
            f"Text of {plain(names[0], 30)}: distinct-2 {written['distinct_2']:.3f},"
            f" longest copy of the training text {copied:,} characters."
        )
    more = [f"{runs + baselines - len(shown)} rows"] * (runs + baselines > len(shown))
    more += (
        ["positions", "passages"]
        + ["generated text"] * bool(written)
        + ["bias and grammar"] * ("bias" in report["runs"][0])
    )
    more += [f"why {len(report['left_out'])} figures are left out"] * bool(report["left_out"])
    lines.append(f"More in the page: {', '.join(more)}.")
    for line in lines:
        console.print(RichText(line))


def _fitted(block: Table, width: int) -> tuple[RichTable, list[str]]:
    """The table in at most `width` columns: headers and texts are folded, then the last columns are dropped.

    Returns:
        The table, and the headers of what was dropped.
    """
    columns = _columns(block)
    needed = [(_is_number(cells), max(map(len, [name, *cells])), _least(name, cells)) for name, cells in columns]
    kept = len(columns)
    while kept > 2 and sum(least for _, _, least in needed[:kept]) + 3 * kept + 1 > width:
        kept -= 1
    folded = sum(natural for _, natural, _ in needed[:kept]) + 3 * kept + 1 > width
    table = RichTable()
    for (name, _), (number, natural, least) in zip(columns[:kept], needed[:kept], strict=True):
        fixed = (least if folded else natural) if number else None
        table.add_column(RichText(name), justify="right" if number else "left", overflow="fold", width=fixed)
    for row in zip(*(cells for _, cells in columns[:kept]), strict=True):
        table.add_row(*(RichText(plain(cell, 200)) for cell in row))
    return table, [name for name, _ in columns[kept:]]


def _is_number(cells: Sequence[str]) -> bool:
    return all(NUMBER.fullmatch(cell) for cell in cells)


def _least(name: str, cells: Sequence[str]) -> int:
    """The width below which a column is no longer read: numbers stay whole, words are folded."""
    words = max(map(len, name.split()), default=0)
    longest = max(map(len, cells), default=0)
    return max(words, longest if _is_number(cells) else min(24, longest))


def write_report(report: dict[str, Any], folder: Path) -> Path:
    """report.md, report.html and the pictures in `folder`, which is made where it is missing.

    Of a name that ends with .md, that page alone, for a repository's documentation; its pictures lie beside it in a folder of its name.

    Returns:
        The page to look at.
    """
    if folder.suffix == ".md":
        pictures = folder.with_suffix("")
        pictures.mkdir(parents=True, exist_ok=True)
        drawn = {f"{pictures.name}/{name}": caption for name, caption in draw(report, pictures).items()}
        write_file(folder, markdown(blocks(report, drawn)))
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(report, folder)
    write_file(folder / "report.md", markdown(blocks(report, drawn)))
    drawn.pop("passages.png")  # HTML has colours of its own
    write_file(folder / "report.html", page(blocks(report, drawn), folder))
    return folder / "report.html"


def blocks(report: dict[str, Any], pictures: dict[str, str]) -> list[Block]:
    """The report in order; `pictures`: file name -> caption."""
    names, runs, text = run_names(report), report["runs"], report["text"]

    def picture(name: str) -> list[Block]:
        return [Picture(file, caption) for file, caption in pictures.items() if Path(file).name == name]

    parts: list[Block] = [Heading(1, "How good it is: " + ", ".join(names))]
    documents = "1 document" if text["documents"] == 1 else f"{text['documents']:,} documents"
    parts.append(
        Paragraph(
            f"Scored on {text['name']}: {text['bytes']:,} bytes, {text['characters']:,} characters, {text['words']:,} words,"
            f" {documents} (sha256 {text['sha256'][:16]}…); every byte is predicted once, windows overlap by"
            f" {report['settings']['overlap']:g}. Intervals are 95 %, by bootstrap over {text['units']}: they cover which text was"
            " scored, not the seed of the training."
        )
    )
    if report.get("command"):
        parts.append(Paragraph(f"Made by: {report['command']}"))
    parts += [Heading(2, "Likelihood"), _likelihood(report, names), *picture("bits_per_byte.png")]
    parts.append(
        Paragraph(
            "Bits per byte, bits per character and perplexity a word are comparable between tokenizers; loss and perplexity a token are"
            " not. Words are what white space parts"
            + (
                ", and the ends of lines, as in the published figures of WikiText; the text is scored as it was published, with"
                " spaces before its punctuation, and with <unk> where that form has it."
                if text.get("lines_count")
                else "."
            )
        )
    )
    if any("more" in row for row in [*runs, *report.get("baselines", [])]):
        parts.append(
            Paragraph(
                f"“More” is in bits per byte, by a paired bootstrap (Koehn 2004): what a row needs more than {names[0]} on the same"
                " units of text. An interval that stays above 0 says that the row is worse, even where the intervals of the two overlap."
            )
        )
    if any(row["kind"] == "compressor" for row in report.get("baselines", [])):
        parts.append(
            Paragraph(
                "The n-grams are interpolated modified Kneser-Ney (Chen and Goodman 1999), learned from the training part of the"
                " (first) run; the compressors read it first, and learn on as they read."
            )
        )
    if "article" in report:
        parts.append(
            Paragraph(
                "The article's figures are its own, on a text, a split and a vocabulary that it does not give. Its perplexity"
                " and its cross-entropy contradict each other as well: e^3.2 is 24.5, and 42.7 is e^3.75. Its BLEU of 0.25 says"
                " neither which texts nor which smoothing."
            )
        )
    parts += [Heading(3, "By place in the context"), *picture("positions.png"), _positions(runs, names)]
    parts += [Heading(3, "Worst and best predicted passages"), *picture("passages.png")]
    for name, run in zip(names, runs, strict=True):
        parts.append(Passages(f"{name}: worst", run["passages"]["worst"]))
        parts.append(Passages(f"{name}: best", run["passages"]["best"]))
    if any("generated" in run for run in runs):
        parts += _generated(report, names, picture("memorised.png"))
    for key, title, first in (
        ("bias", "Bias", "the stereotype's sentence is the likelier"),
        ("grammar", "Grammar", "the grammatical sentence is the likelier"),
    ):
        if any(run.get(key) for run in runs):
            parts += [Heading(2, title), Paragraph(report[f"{key}_limits"]), *picture(f"{key}.png")]
            for name, run in zip(names, runs, strict=True):
                if run.get(key):
                    parts.append(_pairs(f"{name}: {title.lower()}", first, run[key]))
    if report["left_out"]:
        parts.append(Heading(2, "Left out"))
        parts += [Paragraph(line) for line in report["left_out"]]
    return parts


def _likelihood(report: dict[str, Any], names: list[str]) -> Table:
    rows = [
        run
        | {"name": name, "note": f"step {run['step']:,}; {run['parameters']:,} parameters; {run['tokenizer']} pieces"}
        for name, run in zip(names, report["runs"], strict=True)
    ]
    rows += sorted(report.get("baselines", []), key=lambda row: row["bits_per_byte"])
    rows += report.get("article", [])
    columns = (
        ("bits per byte", "bits_per_byte", ".4f"),
        ("95 %", "", ""),
        (f"more than {names[0]}, 95 %", "more", ""),
        ("bits per character", "bits_per_character", ".4f"),
        ("perplexity a word", "perplexity_word", ",.1f"),
        ("perplexity a token", "perplexity", ",.2f"),
        ("nats a token", "loss", ".4g"),
        ("BLEU", "bleu", ".3f"),
    )
    cells = []
    for row in rows:
        bleu = row.get("generated", {}).get("bleu")
        row = row | ({"bleu": bleu} if bleu is not None else {})
        own = [
            _number(row.get(key), form) if form else _interval(row, key or "bits_per_byte") for _, key, form in columns
        ]
        cells.append([row["name"], *own, row.get("note", "")])
    return Table(f"Likelihood of {report['text']['name']}", ["", *(name for name, _, _ in columns), "note"], cells)


def _positions(runs: list[dict[str, Any]], names: list[str]) -> Table:
    places = sorted({(row["first"], row["last"]) for run in runs for row in run["positions"]})
    losses = [{(row["first"], row["last"]): row["loss"] for row in run["positions"]} for run in runs]
    return Table(
        "Loss by place in the context (nats a token)",
        ["tokens", *names],
        [[f"{a}–{b}" if a < b else f"{a}", *(_number(own.get((a, b)), ".3f") for own in losses)] for a, b in places],
    )


def _generated(report: dict[str, Any], names: list[str], pictures: list[Block]) -> list[Block]:
    sampling = report["settings"]["sampling"]
    columns = [*(run.get("generated", {}) for run in report["runs"]), report.get("truth", {})]
    header = ["", *names, "true continuation"]

    def table(title: str, rows: Sequence[tuple[str, Sequence[Any], str]]) -> Table:
        shown = [[name, *(_number(value, form) for value in values)] for name, values, form in rows]
        return Table(title, header, [row for row in shown if any(row[1:])])

    def inner(key: str) -> list[dict[str, Any]]:
        return [column.get(key) or {} for column in columns]

    figures = [
        (
            name,
            [column.get(key) for column in columns],
            ",d" if key in ("words", "memorised_longest_characters") else ".3f",
        )
        for key, name, _ in DEFINITIONS
    ]
    lengths = list(columns[0].get("memorised", {}))
    figures += [
        (f"copied, {length} characters or more", [own.get(length) for own in inner("memorised")], ".1%")
        for length in lengths
    ]
    parts: list[Block] = [
        Heading(2, "Generated text"),
        Paragraph(
            f"{sampling['passages']} held-out passages continued from a prompt of about 200 characters by 400, temperature"
            f" {sampling['temperature']:g}, top-p {sampling['top_p']:g}, seed {report['settings']['seed']}. The true continuations"
            " are measured alike: what they have, text of this kind has."
        ),
        table("Continuations", figures),
        *pictures,
        Table("What the figures are", ["figure", "definition"], [[name, what] for _, name, what in DEFINITIONS]),
    ]
    if any(inner("style")):
        keys = next(own for own in inner("style") if own)
        rows = [(key.replace("_", " "), [own.get(key) for own in inner("style")], ".3f") for key in keys]
        deltas = next((own for own in inner("delta") if own), {})
        rows += [(f"Burrows's Delta to {key}", [own.get(key) for own in inner("delta")], ".3f") for key in deltas]
        parts += [
            Heading(3, "Style"),
            Paragraph(
                "Word length is in characters, sentence length in words, punctuation in marks a thousand words. Burrows's Delta (2002)"
                " is lower the nearer two texts are, and mostly noise below 1,000 words; a model in the style of its text is as"
                " near as the true continuation is."
            ),
            table("Style", rows),
        ]
    rows = [(name, [own.get(key) for own in inner("faithfulness")], ".2f") for key, name in FAITHFUL.items()]
    parts += [
        Heading(3, "Faithfulness"),
        Paragraph(
            "Names, genders and relations of the prompt in the continuation, the mean a passage, by rules over the surface of"
            " English text: for comparing models on the same prompts, beside the true continuation."
        ),
        table("Faithfulness", rows),
        Heading(3, "Samples"),
    ]
    for name, run in zip(names, report["runs"], strict=True):
        rows_of = [[row["prompt"], row["written"], row["continuation"]] for row in run.get("samples", [])]
        parts.append(Passages(f"{name}: the prompt, what it wrote, and how the text goes on", _samples(rows_of)))
    return parts


def _samples(rows: list[list[str]]) -> list[dict[str, Any]]:
    kinds = ("prompt", "written", "true")
    return [{"label": kind, "pieces": [[text, 0.0]]} for row in rows for kind, text in zip(kinds, row, strict=True)]


def _pairs(title: str, first: str, rows: list[dict[str, Any]]) -> Table:
    return Table(
        title,
        ["kind", "pairs", first, "95 %", "mean difference (nats)", "its 95 %"],
        [
            [
                row["kind"].replace("_", " "),
                f"{row['pairs']}",
                f"{row['share']:.1%}",
                f"{row['low']:.1%} – {row['high']:.1%}",
                f"{row['nats']:.3f}",
                f"{row['nats_low']:.3f} – {row['nats_high']:.3f}",
            ]
            for row in rows
        ],
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:.3g}" if form[-1] == "f" and abs(value) >= 1e7 else format(value, form)


def _interval(row: dict[str, Any], key: str) -> str:
    sign = "+" if key == "more" else ""  # a difference
    return f"{row[f'{key}_low']:{sign}.3f} – {row[f'{key}_high']:{sign}.3f}" if f"{key}_low" in row else ""


def _columns(table: Table) -> list[tuple[str, list[str]]]:
    cells = [[row[i] for row in table.rows] for i in range(len(table.header))]
    return [(name, column) for name, column in zip(table.header, cells, strict=True) if any(column)]


# ------------------------------------------------------------------------------------------------------- Markdown
def markdown(parts: Sequence[Block]) -> str:
    """Pictures are files beside it."""
    return "\n\n".join(_markdown(part) for part in parts) + "\n"


def _markdown(part: Block) -> str:
    match part:
        case Heading(level, text):
            return f"{'#' * level} {as_markdown(text)}"
        case Paragraph(text):
            return as_markdown(text)
        case Picture(file, caption):
            return f"![{as_markdown(caption)}]({file})\n\n*{as_markdown(caption)}*"
        case Passages(title, rows):
            # A colour becomes the list of the tokens that cost the most.
            lines = []
            for row in rows:
                most = sorted(row["pieces"], key=lambda piece: -piece[1])[:5]
                costly = ", ".join(f"“{as_markdown(piece)}” {bits:.1f}" for piece, bits in most if bits)
                head = row["label"] if "label" in row else f"{row['bits_per_byte']:.3f}"
                lines.append(f"| {head} | {as_markdown(''.join(piece for piece, _ in row['pieces']))} | {costly} |")
            surprising = "label" not in rows[0] if rows else True
            names = (
                ("bits per byte", "passage", "the most surprising tokens (bits)") if surprising else ("", "text", "")
            )
            return "\n".join([f"**{as_markdown(title)}**", "", f"| {' | '.join(names)} |", "|---|---|---|", *lines])
        case Table(title, _, _):
            columns = _columns(part)
            numbers = [_is_number(cells) for _, cells in columns]
            lines = [
                f"| {' | '.join(as_markdown(name) for name, _ in columns)} |",
                "|" + "|".join("---:" if right else "---" for right in numbers) + "|",
                *(
                    f"| {' | '.join(map(as_markdown, row))} |"
                    for row in zip(*(cells for _, cells in columns), strict=True)
                ),
            ]
            return "\n".join([f"**{as_markdown(title)}**", "", *lines])


# ----------------------------------------------------------------------------------------------------------- HTML
def page(parts: Sequence[Block], folder: Path) -> str:
    """One file: pictures as data, no scripts, and a policy that lets a browser load nothing else."""
    title = next((part.text for part in parts if isinstance(part, Heading)), "")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{as_html(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(_html(part, folder) for part in parts)
        + "\n</body>\n</html>\n"
    )


def _html(part: Block, folder: Path) -> str:
    match part:
        case Heading(level, text):
            return f"<h{level}>{as_html(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{as_html(text)}</p>"
        case Picture(file, caption):
            data = base64.b64encode((folder / file).read_bytes()).decode()
            return (
                f'<figure><img alt="{as_html(caption)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{as_html(caption)}</figcaption></figure>"
            )
        case Passages(title, rows):
            return f"<h4>{as_html(title)}</h4>\n" + "\n".join(_passage(row) for row in rows)
        case Table(title, _, _):
            columns = _columns(part)
            head = "".join(f"<th{_align(*cells)}>{as_html(name)}</th>" for name, cells in columns)
            body = "\n".join(
                "<tr>" + "".join(f"<td{_align(cell)}>{as_html(cell)}</td>" for cell in row) + "</tr>"
                for row in zip(*(cells for _, cells in columns), strict=True)
            )
            return f'<h4>{as_html(title)}</h4>\n<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _passage(row: dict[str, Any]) -> str:
    if "label" in row:
        return f'<div class="passage"><b>{as_html(row["label"])}</b>\n{as_html(row["pieces"][0][0])}</div>'
    spans = "".join(
        f'<span style="background:rgba(var(--hot),{heat(bits):.2f})" title="{bits:.1f} bits">{as_html(piece)}</span>'
        for piece, bits in row["pieces"]
    )
    return f'<div class="passage"><b>{row["bits_per_byte"]:.3f} bits per byte</b>\n{spans}</div>'


def _align(*cells: str) -> str:
    return ' class="number"' if any(cells) and _is_number(cells) else ""
