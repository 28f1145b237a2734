"""The report of an evaluation: tables in the terminal, report.md with pictures, report.html.

Evaluation -> blocks (headings, paragraphs, tables, pictures, quotes) -> `pages`
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text as RichText

from llm_from_scratch.evaluation.answer_report import answers_blocks
from llm_from_scratch.evaluation.figures import draw, heat, run_names
from llm_from_scratch.evaluation.pairs import Preference
from llm_from_scratch.evaluation.results import (
    Evaluation,
    Figures,
    GenerationMetrics,
    RunResult,
    Sample,
    ScoredPassage,
    as_json,
)
from llm_from_scratch.evaluation.tales_report import tales_blocks
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

# Metrics of generated text: field of `GenerationMetrics`, name, definition with its source.
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
MOST_ROWS = 10  # of the summary's table, at most
SUMMARY_COLUMNS = ("", "bits per byte", "95 %", "perplexity a word", "BLEU")


def print_tables(evaluation: Evaluation, console: Console) -> None:
    """Prints the report's tables and paragraphs to the terminal."""
    parts = blocks(replace(evaluation, left_out=[]), {})
    shown = [block for block in parts if isinstance(block, Paragraph | Table)]
    show(shown, console, elsewhere="; --json and --report have all")


def print_summary(evaluation: Evaluation, console: Console) -> None:
    """Prints the main figures in at most 20 lines; the report's pages hold the others."""
    names = run_names(evaluation)
    likely = _likelihood(evaluation, names)
    runs, baselines = len(evaluation.runs), len(evaluation.baselines or [])
    # The baselines are sorted, the best one first; only the page has the article's figures.
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
    if written := evaluation.runs[0].generated:
        copied = written.memorised_longest_characters or 0
        line = f"Text of {one_line(names[0], 30)}: distinct-2 {written.distinct_2:.3f},"
        console.print(RichText(f"{line} longest copy of the training text {copied:,} characters."))
    more = _only_in_the_page(evaluation, runs + baselines - len(shown))
    console.print(RichText(f"More in the page: {', '.join(more)}."))


def _only_in_the_page(evaluation: Evaluation, rows: int) -> list[str]:
    """Returns names of the page's parts that the summary lacks; `rows`: table rows left out."""
    first = evaluation.runs[0]
    more = [f"{rows} rows"] if rows else []
    more += ["positions", "passages"]
    if evaluation.tales:
        more.append("told stories")
    if first.generated:
        more.append("generated text")
    if first.bias is not None:
        more.append("bias and grammar")
    if evaluation.left_out:
        more.append(f"why {len(evaluation.left_out)} figures are left out")
    return more


def write_report(evaluation: Evaluation, folder: Path) -> Path:
    """Writes report.md, report.html, report.json and the charts into `folder`.

    The folder is created where missing. report.json is the object that `--json` prints.

    If `folder` ends with .md, writes that page alone, for a repository's documentation, with its
    charts in a folder of its name beside it.

    Returns:
        The path of the page to open.
    """
    if folder.suffix == ".md":
        pictures = folder.with_suffix("")
        pictures.mkdir(parents=True, exist_ok=True)
        drawn = {f"{pictures.name}/{name}": caption for name, caption in draw(evaluation, pictures).items()}
        write_file(folder, markdown(blocks(evaluation, drawn)))
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(evaluation, folder)
    write_file(folder / "report.json", json.dumps(as_json(evaluation)) + "\n")
    write_file(folder / "report.md", markdown(blocks(evaluation, drawn)))
    drawn.pop("passages.png")  # the HTML page colours the passages itself
    write_file(folder / "report.html", html_page(blocks(evaluation, drawn), folder))
    return folder / "report.html"


def blocks(evaluation: Evaluation, pictures: dict[str, str]) -> list[Block]:
    """Returns the blocks of the report in order; `pictures`: file name -> caption."""
    names, runs = run_names(evaluation), evaluation.runs

    def picture(name: str) -> list[Block]:
        return [Picture(file, caption) for file, caption in pictures.items() if Path(file).name == name]

    parts: list[Block] = [Heading(1, "How good it is: " + ", ".join(names)), _scored(evaluation)]
    if evaluation.command:
        parts.append(Paragraph(f"Made by: {evaluation.command}"))
    parts += [Heading(2, "Likelihood"), _likelihood(evaluation, names), *picture("bits_per_byte.png")]
    parts += [Paragraph(note) for note in _notes_on_likelihood(evaluation, names[0])]
    if evaluation.answers:
        parts += answers_blocks(evaluation.answers, names)
    if evaluation.tales:
        own = {run.run: name for name, run in zip(names, runs, strict=True)}
        parts += tales_blocks(evaluation.tales, [own[run.name] for run in evaluation.tales.runs])
    parts += [Heading(3, "By place in the context"), *picture("positions.png"), _positions(runs, names)]
    parts += [Heading(3, "Worst and best predicted passages"), *picture("passages.png")]
    for name, run in zip(names, runs, strict=True):
        parts.append(_passages(f"{name}: worst", run.passages.worst))
        parts.append(_passages(f"{name}: best", run.passages.best))
    if any(run.generated for run in runs):
        parts += _generated(evaluation, names, picture("memorised.png"))
    parts += _preferences(
        "Bias",
        "the stereotype's sentence is the likelier",
        evaluation.bias_limits,
        picture("bias.png"),
        [(name, run.bias) for name, run in zip(names, runs, strict=True)],
    )
    parts += _preferences(
        "Grammar",
        "the grammatical sentence is the likelier",
        evaluation.grammar_limits,
        picture("grammar.png"),
        [(name, run.grammar) for name, run in zip(names, runs, strict=True)],
    )
    if evaluation.left_out:
        parts.append(Heading(2, "Left out"))
        parts += [Paragraph(line) for line in evaluation.left_out]
    return parts


# --------------------------------------------------------------------------------------- likelihood
def _scored(evaluation: Evaluation) -> Paragraph:
    text = evaluation.text
    documents = "1 document" if text.documents == 1 else f"{text.documents:,} documents"
    return Paragraph(
        f"Scored on {text.name}: {text.bytes:,} bytes, {text.characters:,} characters, {text.words:,} words,"
        f" {documents} (sha256 {text.sha256[:16]}…); every byte is predicted once, windows overlap by"
        f" {evaluation.settings.overlap:g}. Intervals are 95 %, by bootstrap over {text.units}: they cover which text was"
        " scored, not the seed of the training."
    )


def _notes_on_likelihood(evaluation: Evaluation, first: str) -> list[str]:
    """Returns the paragraphs below the table; `first` is the name of the first run."""
    rows = evaluation.baselines or []
    words = (
        ", and the ends of lines, as in the published figures of WikiText; the text is scored as it was published, with"
        " spaces before its punctuation, and with <unk> where that form has it."
    )
    notes = [
        "Bits per byte, bits per character and perplexity a word are comparable between tokenizers; loss and perplexity a token are"
        " not. Words are what white space parts" + (words if evaluation.text.lines_count else ".")
    ]
    if any(row.more is not None for row in [*evaluation.runs, *rows]):
        notes.append(
            f"“More” is in bits per byte, by a paired bootstrap (Koehn 2004): what a row needs more than {first} on the same"
            " units of text. An interval that stays above 0 says that the row is worse, even where the intervals of the two overlap."
        )
    if any(row.kind == "compressor" for row in rows):
        notes.append(
            "The n-grams are interpolated modified Kneser-Ney (Chen and Goodman 1999), learned from the training part of the"
            " first run that has one at hand; the compressors read it first, and learn on as they read."
        )
    if evaluation.article:
        notes.append(
            "The article's figures are its own, on a text, a split and a vocabulary that it does not give. Its perplexity"
            " and its cross-entropy contradict each other as well: e^3.2 is 24.5, and 42.7 is e^3.75. Its BLEU of 0.25 says"
            " neither which texts nor which smoothing."
        )
    return notes


def _likelihood(evaluation: Evaluation, names: list[str]) -> Table:
    cells = []
    for name, run in zip(names, evaluation.runs, strict=True):
        trained = "trained elsewhere, perhaps on this text" if run.step is None else f"step {run.step:,}"
        note = f"{trained}; {run.parameters:,} parameters; {run.tokenizer} pieces"
        cells.append([name, *_likelihood_cells(run, run.generated.bleu if run.generated else None), note])
    for row in sorted(evaluation.baselines or [], key=lambda row: row.bits_per_byte):
        cells.append([row.name, *_likelihood_cells(row), row.note])
    for given in evaluation.article or []:
        figures = [_number(given.perplexity, ",.2f"), _number(given.loss, ".4g"), _number(given.bleu, ".3f")]
        cells.append([given.name, "", "", "", "", "", *figures, given.note])
    header = ["", "bits per byte", "95 %", f"more than {names[0]}, 95 %", "bits per character", "perplexity a word"]
    header += ["perplexity a token", "nats a token", "BLEU", "note"]
    return Table(f"Likelihood of {evaluation.text.name}", header, cells)


def _likelihood_cells(row: Figures, bleu: float | None = None) -> list[str]:
    return [
        _number(row.bits_per_byte, ".4f"),
        _interval(row.bits_per_byte_low, row.bits_per_byte_high),
        _interval(row.more_low, row.more_high, sign="+"),  # a difference has a sign
        _number(row.bits_per_character, ".4f"),
        _number(row.perplexity_word, ",.1f"),
        _number(row.perplexity, ",.2f"),
        _number(row.loss, ".4g"),
        _number(bleu, ".3f"),
    ]


def _positions(runs: list[RunResult], names: list[str]) -> Table:
    places = sorted({(row.first, row.last) for run in runs for row in run.positions})
    losses = [{(row.first, row.last): row.loss for row in run.positions} for run in runs]
    return Table(
        "Loss by place in the context (nats a token)",
        ["tokens", *names],
        [[f"{a}–{b}" if a < b else f"{a}", *(_number(own.get((a, b)), ".3f") for own in losses)] for a, b in places],
    )


def _passages(title: str, rows: list[ScoredPassage]) -> Quotes:
    columns = ("bits per byte", "passage", "the most surprising tokens (bits)")
    quotes = [
        Quote(f"{row.bits_per_byte:.3f}", [Part(piece, bits, heat(bits)) for piece, bits in row.pieces]) for row in rows
    ]
    return Quotes(title, columns, "bits", quotes)


# ----------------------------------------------------------------------------------- generated text
def _generated(evaluation: Evaluation, names: list[str], pictures: list[Block]) -> list[Block]:
    sampling = evaluation.settings.sampling
    assert sampling is not None
    columns = [*(run.generated for run in evaluation.runs), evaluation.truth]
    header = ["", *names, "true continuation"]
    parts: list[Block] = [
        Heading(2, "Generated text"),
        Paragraph(
            f"{sampling.passages} held-out passages continued from a prompt of about 200 characters by 400, temperature"
            f" {sampling.temperature:g}, top-p {sampling.top_p:g}, seed {evaluation.settings.seed}. The true continuations"
            " are measured alike: what they have, text of this kind has."
        ),
        _comparison("Continuations", header, _continuation_rows(columns)),
        *pictures,
        Table("What the figures are", ["figure", "definition"], [[name, what] for _, name, what in DEFINITIONS]),
    ]
    if any(_of(columns, "style")):
        parts += [
            Heading(3, "Style"),
            Paragraph(
                "Word length is in characters, sentence length in words, punctuation in marks a thousand words. Burrows's Delta (2002)"
                " is lower the nearer two texts are, and mostly noise below 1,000 words; a model in the style of its text is as"
                " near as the true continuation is."
            ),
            _comparison("Style", header, _style_rows(columns)),
        ]
    if any(counts := _of(columns, "faithfulness")):
        rows: list[_Row] = [(name, [own.get(key) for own in counts], ".2f") for key, name in FAITHFUL.items()]
        parts += [
            Heading(3, "Faithfulness"),
            Paragraph(
                "Names, genders and relations of the prompt in the continuation, the mean a passage, by rules over the surface of"
                " English text: for comparing models on the same prompts, beside the true continuation. The rules have not been held"
                " against the judgement of readers: their validity is not known."
            ),
            _comparison("Faithfulness", header, rows),
        ]
    parts.append(Heading(3, "Samples"))
    for name, run in zip(names, evaluation.runs, strict=True):
        title = f"{name}: the prompt, what it wrote, and how the text goes on"
        parts.append(Quotes(title, ("", "text", ""), "", _samples(run.samples or [])))
    return parts


_Row = tuple[str, Sequence[float | None], str]  # name, values, format


def _comparison(title: str, header: Sequence[str], rows: Sequence[_Row]) -> Table:
    """Builds a table of the rows that have a value."""
    shown = [[name, *(_number(value, form) for value in values)] for name, values, form in rows]
    return Table(title, header, [row for row in shown if any(row[1:])])


def _of(columns: Sequence[GenerationMetrics | None], key: str) -> list[dict[str, float]]:
    """Returns a group of figures, such as `style`, of each column; {} where it has none."""
    return [getattr(column, key, None) or {} for column in columns]


def _continuation_rows(columns: Sequence[GenerationMetrics | None]) -> list[_Row]:
    whole = ("words", "memorised_longest_characters")  # whole numbers
    rows: list[_Row] = [
        (name, [getattr(column, key, None) for column in columns], ",d" if key in whole else ".3f")
        for key, name, _ in DEFINITIONS
    ]
    copied = _of(columns, "memorised")
    lengths = next((own for own in copied if own), {})
    return rows + [
        (f"copied, {length} characters or more", [own.get(length) for own in copied], ".1%") for length in lengths
    ]


def _style_rows(columns: Sequence[GenerationMetrics | None]) -> list[_Row]:
    styles, deltas = _of(columns, "style"), _of(columns, "delta")
    rows: list[_Row] = [
        (key.replace("_", " "), [own.get(key) for own in styles], ".3f") for key in next(own for own in styles if own)
    ]
    others = next((own for own in deltas if own), {})
    return rows + [(f"Burrows's Delta to {key}", [own.get(key) for own in deltas], ".3f") for key in others]


def _samples(rows: list[Sample]) -> list[Quote]:
    return [
        Quote(kind, [Part(text)])
        for row in rows
        for kind, text in (("prompt", row.prompt), ("written", row.written), ("true", row.continuation))
    ]


# -------------------------------------------------------------------------------------------- pairs
def _preferences(
    title: str,
    first: str,
    limits: str | None,
    pictures: list[Block],
    preferences: Sequence[tuple[str, list[Preference] | None]],
) -> list[Block]:
    """Builds a section of minimal pairs, a table for each run; [] where no run has any."""
    if limits is None or not any(rows for _, rows in preferences):
        return []
    parts: list[Block] = [Heading(2, title), Paragraph(limits), *pictures]
    parts += [_pairs(f"{name}: {title.lower()}", first, rows) for name, rows in preferences if rows]
    return parts


def _pairs(title: str, first: str, rows: list[Preference]) -> Table:
    return Table(
        title,
        ["kind", "pairs", first, "95 %", "mean difference (nats)", "its 95 %"],
        [
            [
                row.kind.replace("_", " "),
                f"{row.pairs}",
                f"{row.share:.1%}",
                f"{row.low:.1%} – {row.high:.1%}",
                f"{row.nats:.3f}",
                f"{row.nats_low:.3f} – {row.nats_high:.3f}",
            ]
            for row in rows
        ],
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:.3g}" if form[-1] == "f" and abs(value) >= 1e7 else format(value, form)


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "" if low is None else f"{low:{sign}.3f} – {high:{sign}.3f}"
