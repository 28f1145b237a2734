"""What `measure` returns -> tables in the terminal, report.md with pictures, and report.html, one file that opens with no network.

    the dictionary -> blocks (headings, paragraphs, tables, pictures, passages) -> one of the three

Texts and names come from a run, and so perhaps from a stranger: they are escaped wherever they are shown.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text as RichText

from llm_from_scratch.evaluation.figures import draw, heat, run_names
from llm_from_scratch.files import write_file
from llm_from_scratch.pages import (
    Block,
    Heading,
    Paragraph,
    Part,
    Picture,
    Quote,
    Quotes,
    Table,
    fitted,
    html_page,
    markdown,
    one_line,
    show,
)

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
MOST_ROWS = 10  # of the summary's table
SUMMARY_COLUMNS = ("", "bits per byte", "95 %", "perplexity a word", "BLEU")


def print_tables(report: dict[str, Any], console: Console) -> None:
    """The tables of the report, and the paragraphs beside them."""
    shown = [block for block in blocks(report | {"left_out": []}, {}) if isinstance(block, Paragraph | Table)]
    show(shown, console, elsewhere="; --json and --report have all")


def print_summary(report: dict[str, Any], console: Console) -> None:
    """The figures that are read first, in 20 lines at most; the pages hold all of them."""
    names, likely = run_names(report), _likelihood(report, run_names(report))
    runs, baselines = len(report["runs"]), len(report.get("baselines", []))
    # The baselines come sorted, the best one first; the article's figures, of another text, stay in the page.
    shown = likely.rows[: min(runs, MOST_ROWS)]
    shown = [*shown, *likely.rows[runs : runs + min(baselines, MOST_ROWS - len(shown))]]
    columns = [i for i, name in enumerate(likely.header) if name in SUMMARY_COLUMNS]
    figures = Table("", [likely.header[i] for i in columns], [[row[i] for i in columns] for row in shown])
    table, _ = fitted(figures, console.width)
    table.box, table.padding, table.pad_edge = None, (0, 2, 0, 0), False
    first, *others = table.columns
    first.no_wrap, first.overflow = True, "ellipsis"
    first.max_width = max(console.width - sum((column.width or 0) + 2 for column in others) - 2, 8)
    console.print(RichText(one_line(likely.title, console.width)))
    console.print(table)

    lines = []
    written = report["runs"][0].get("generated") or {}
    if written:
        copied = written.get("memorised_longest_characters", 0)
        lines.append(
            f"Text of {one_line(names[0], 30)}: distinct-2 {written['distinct_2']:.3f},"
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
    write_file(folder / "report.html", html_page(blocks(report, drawn), folder))
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
        parts.append(_passages(f"{name}: worst", run["passages"]["worst"]))
        parts.append(_passages(f"{name}: best", run["passages"]["best"]))
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
        title = f"{name}: the prompt, what it wrote, and how the text goes on"
        parts.append(Quotes(title, ("", "text", ""), "", _samples(run.get("samples", []))))
    return parts


def _samples(rows: list[dict[str, str]]) -> list[Quote]:
    kinds = {"prompt": "prompt", "written": "written", "true": "continuation"}
    return [Quote(kind, [Part(row[key])]) for row in rows for kind, key in kinds.items()]


def _passages(title: str, rows: list[dict[str, Any]]) -> Quotes:
    columns = ("bits per byte", "passage", "the most surprising tokens (bits)")
    quotes = [
        Quote(f"{row['bits_per_byte']:.3f}", [Part(piece, bits, heat(bits)) for piece, bits in row["pieces"]])
        for row in rows
    ]
    return Quotes(title, columns, "bits", quotes)


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
