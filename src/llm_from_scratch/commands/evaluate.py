"""`evaluate`: loss, perplexity and bits per byte over a whole split, or a full report."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm_from_scratch.cores import sharing_cores
from llm_from_scratch.errors import UserError
from llm_from_scratch.machine import DTYPES
from llm_from_scratch.places import program, user_path
from llm_from_scratch.terminal import console, for_stream, log_to_stderr, printable, shell

if TYPE_CHECKING:
    from llm_from_scratch.data.prepared import Preferences, Prepared
    from llm_from_scratch.evaluation.measure import RunWithData
    from llm_from_scratch.pages import Block

PASSAGES = 20  # held-out passages that a report continues


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Loss, perplexity and bits per byte over a whole split; of a run of questions (data.metric) also its answers to the "
        "held-out ones, beside a baseline. Several runs, or any option of the second "
        "group, make fuller tables; --report writes a page of all of it and prints the first figures. Only a "
        "model named hub:… and a corpus that --data or --against names are downloaded, where they are not at hand."
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        nargs="+",
        help="run folders or last; beside one, or with --data, also folders of transformers, .gguf files and smollm2 (make weights)",
    )
    parser.add_argument(
        "--split", choices=("train", "val"), default="val", help="which part of the run's text (default: val)"
    )
    parser.add_argument(
        "--overlap",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="the part of each window, from 0 to below 1, that is context scored before (default: 0);"
        " more of it gives a fairer figure, slower",
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="windows at a time (default: 32)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES[1:], help="of the weights, of one run (default: float32)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object rather than a table")
    _arguments_of_more_figures(parser.add_argument_group("more figures"))


def _arguments_of_more_figures(more: argparse._ArgumentGroup) -> None:
    more.add_argument(
        "--report",
        type=user_path,
        metavar="DIR|FILE.md",
        help="write report.md with pictures and report.html there, or that one page, its pictures in a folder of its name;"
        f" implies --baselines --pairs --generate {PASSAGES}",
    )
    more.add_argument(
        "--data",
        metavar="PATH|NAME",
        help="score another text, all of it: a file, a folder, oz, …; WikiText, known by the names of its files, with"
        " words counted as in its published perplexities",
    )
    more.add_argument("--ensemble", action="store_true", help="all runs together: the mean of their probabilities")
    more.add_argument("--baselines", action="store_true", help="n-grams, compressors and the article's own figures")
    more.add_argument(
        "--gpt2", type=user_path, nargs="+", default=[], metavar="FOLDER", help="models of transformers, as baselines"
    )
    more.add_argument(
        "--generate", type=int, metavar="N", help=f"continue N held-out passages (default: 0; {PASSAGES} in a report)"
    )
    more.add_argument(
        "--stories",
        type=int,
        metavar="N",
        help="of a run of data=tales: stories that it writes (default: 500; 0: none)",
    )
    more.add_argument("--seed", type=int, default=1337, metavar="S", help="of what is generated (default: 1337)")
    more.add_argument(
        "--against", metavar="PATH|NAME", help="another author's text, for Burrows's Delta: a file, shakespeare, …"
    )
    more.add_argument("--bertscore", type=user_path, metavar="FOLDER", help="a model of transformers, for BERTScore")
    more.add_argument(
        "--entailment",
        type=user_path,
        metavar="FOLDER",
        help="a classifier of transformers: does a prompt contradict its text",
    )
    more.add_argument(
        "--faithfulness",
        action="store_true",
        help="names, genders and relations of the prompts in what is generated, by rules of unknown validity",
    )
    more.add_argument("--pairs", action="store_true", help="minimal pairs for bias and grammar")
    more.add_argument("--crows", type=user_path, metavar="CSV", help="bias pairs of a file shaped like CrowS-Pairs")
    more.add_argument(
        "--blimp", type=user_path, metavar="PATH", help="grammar pairs of a .jsonl file or folder, like BLiMP"
    )


def run(options: argparse.Namespace) -> None:
    """Prints loss, perplexity and bits per byte of a run; more runs or options make a report."""
    for name, least in (("batch_size", 1), ("generate", 0), ("stories", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {least} or more")
    asked = (options.report, options.data, options.baselines, options.gpt2, options.generate, options.against)
    if (
        len(options.run) > 1
        or any((*asked, options.ensemble, options.bertscore, options.entailment, options.faithfulness, options.pairs))
        or any((options.crows, options.blimp))
    ):
        if options.dtype != "float32":
            raise UserError(f"--dtype {options.dtype}: is for the likelihood of one run: leave the other options out")
        return report(options)

    from llm_from_scratch.data.prepared import Preferences
    from llm_from_scratch.decoding_linears import lay_out
    from llm_from_scratch.evaluation.measure import open_with_data
    from llm_from_scratch.evaluation.results import as_json
    from llm_from_scratch.pages import show as show_blocks

    if not 0 <= options.overlap < 1:
        raise UserError(f"--overlap {options.overlap}: must be at least 0 and below 1")
    opened = open_with_data(options.run[0], options.device)
    folder, run, prepared = opened.folder, opened.run, opened.prepared
    lay_out(run.model, options.dtype, few_rows=False)

    if isinstance(prepared, Preferences):
        return preferences(opened, prepared, options)
    left_out: list[str] = []
    with sharing_cores():
        row = figures(opened, prepared, options)
        if prepared.parts:
            row["corpora"] = {
                name: figures(opened, part, options)
                for name, part in zip(prepared.manifest["corpora"], prepared.parts, strict=True)
            }
        more, blocks = held_out(opened, options, left_out) if options.split == "val" else ({}, [])
    row = {"run": str(folder), "step": run.step, "split": options.split, "overlap": options.overlap} | row
    if options.dtype != "float32":
        row["dtype"] = options.dtype
    for line in left_out:
        print(printable(f"left out: {line}"), file=sys.stderr)
    if options.json:
        print(json.dumps(row | as_json(more)))
        return
    show(row, options)
    show_blocks(blocks, console())


def held_out(
    opened: "RunWithData", options: argparse.Namespace, left_out: list[str]
) -> tuple[dict[str, Any], list["Block"]]:
    """Returns what is measured on held-out questions and stories: by its key in JSON, as tables.

    Both are empty for a run of another text; a figure that cannot be measured adds a line to
    `left_out`.
    """
    from llm_from_scratch.evaluation.answer_report import answers_table
    from llm_from_scratch.evaluation.answers import answers_or_reason
    from llm_from_scratch.evaluation.tales import GENERATED, tales_or_reason
    from llm_from_scratch.evaluation.tales_report import tales_tables

    name, config, run = str(opened.folder), opened.config, opened.run
    if answers := answers_or_reason([(name, config, run)], options.batch_size, left_out):
        return {"answers": answers}, [answers_table(answers, [name])]
    stories = GENERATED if options.stories is None else options.stories
    told = tales_or_reason([(name, config, run, opened.text)], stories, options.seed, options.batch_size, left_out)
    return ({"tales": told}, tales_tables(told, [name])) if told else ({}, [])


def figures(opened: "RunWithData", text: "Prepared", options: argparse.Namespace) -> dict[str, Any]:
    """Returns the likelihood of a split of a run's text; of conversations that of the answers.

    Raises:
        UserError: when an option does not fit conversations.
    """
    from llm_from_scratch.data.prepared import Conversations, Stories
    from llm_from_scratch.evaluation.scoring import (
        conversation_nats,
        document_windows,
        likelihood_row,
        scorer,
        total_nats,
        windows,
    )

    run, config = opened.run, opened.config
    if isinstance(text, Conversations) and config is not None:
        for wrong, option in ((options.split != "val", "--split train"), (options.overlap > 0, "--overlap")):
            if wrong:
                raise UserError(
                    f"{option}: of conversations the held-out answers are scored, each as a whole: leave it out"
                )
        rows = text.packed("val", config.data, config.model.block_size)
        nats, count = conversation_nats(run.model, run.tokenizer.eot_id, rows.batches(options.batch_size))
        size = text.scored_bytes(config.data, config.model.block_size)
    else:
        tokens = [shard.tokens for shard in text.shards(options.split)]
        model = scorer(run.model, run.tokenizer.eot_id)
        batches = windows(tokens, model, options.overlap, options.batch_size)
        stories = text.stories(options.split) if isinstance(text, Stories) else []
        if stories and max(map(len, stories)) <= model.block_size:
            batches = document_windows(stories, model, options.batch_size)
        nats, count = total_nats(model, batches)
        size = text.text_bytes(options.split)
    return likelihood_row(nats, count, size) | {"tokens": count, "bytes": size}


def preferences(opened: "RunWithData", prepared: "Preferences", options: argparse.Namespace) -> None:
    """Prints loss, accuracy, margin and rewards of a run over all pairs of a split.

    Raises:
        UserError: when the run lacks the log-probabilities of its reference, or for `--overlap`.
    """
    from rich.table import Table

    from llm_from_scratch.data.documents import SPLITS
    from llm_from_scratch.reference_model import check_reference, read_reference, reference_path
    from llm_from_scratch.training.preferences import held_out

    if options.overlap:
        raise UserError(f"--overlap {options.overlap}: pairs of answers have no windows: leave it out")
    config, path = opened.config, reference_path(opened.folder)
    assert config is not None
    pairs = {split: prepared.pairs(split, config.data, config.model.block_size) for split in SPLITS}
    reference = read_reference(path)
    sizes = {split: 2 * len(one) for split, one in pairs.items()}
    check_reference(path, reference, prepared.manifest["sha256"], sizes)
    chosen = pairs[options.split]
    chosen.reference = reference.log_probs[options.split]
    with sharing_cores():
        figures = held_out(opened.run.model, chosen, config.loss, options.batch_size or 8)
    if options.json:
        about = {"run": str(opened.folder), "step": opened.run.step, "split": options.split, "pairs": len(chosen)}
        print(json.dumps(about | figures))
        return
    table = Table(title=f"{opened.folder} (step {opened.run.step}), {options.split} split", title_justify="left")
    for name in ("pairs", "nats a pair", "right", "margin", "chosen", "rejected"):
        table.add_column(name, justify="right")
    table.add_row(f"{len(chosen):,}", *(f"{value:.4f}" for value in figures.values()))
    console().print(table)


def show(row: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Prints the figures of one run as a table, with a row for each corpus of a mixture."""
    from rich.table import Table

    table = Table(
        title=f"{row['run']} (step {row['step']}), {options.split} split, overlap {options.overlap}",
        title_justify="left",
    )
    if "corpora" in row:
        table.add_column("corpus")
    table.add_column("loss (nats a token)")
    for name in ("bits per byte", "perplexity a token", "tokens", "bytes"):
        table.add_column(name, justify="right")
    for name, one in [("all", row), *row.get("corpora", {}).items()]:
        table.add_row(
            *([name] if "corpora" in row else []),
            f"{one['loss']:.4f}",
            f"{one['bits_per_byte']:.4f}",
            f"{one['perplexity']:.2f}",
            f"{one['tokens']:,}",
            f"{one['bytes']:,}",
        )
    console().print(table)


def report(options: argparse.Namespace) -> None:
    """Measures all that the options ask for; prints tables or JSON, and `--report` writes pages.

    Standard error lists what was skipped.
    """
    from llm_from_scratch.evaluation.measure import Settings, measure
    from llm_from_scratch.evaluation.report import print_summary, print_tables, write_report
    from llm_from_scratch.evaluation.results import as_json

    if options.report:
        try:
            folder = options.report.with_suffix("") if options.report.suffix == ".md" else options.report
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--report {options.report} cannot be made ({error.strerror}): name a folder") from None
    everything = options.report is not None
    generate = options.generate
    if generate is None:
        generate = PASSAGES if everything else 0
    log_to_stderr()
    settings = Settings(
        **{key: getattr(options, key) for key in ("split", "data", "overlap", "batch_size", "device", "gpt2", "seed")},
        **({} if options.stories is None else {"stories": options.stories}),
        **{key: getattr(options, key) for key in ("against", "bertscore", "entailment", "crows", "blimp")},
        ensemble=options.ensemble,
        faithfulness=options.faithfulness,
        baselines=options.baselines or everything,
        pairs=options.pairs or everything,
        generate=generate,
    )
    with sharing_cores():
        evaluation = measure(options.run, settings)
    if everything:
        evaluation.command = shell(*program(), *options.arguments)
        page = write_report(evaluation, options.report)
        if not options.json:
            print_summary(evaluation, console())
            print(for_stream(f"report: {page}", sys.stdout), flush=True)
            return
    if options.json:
        print(json.dumps(as_json(evaluation)))
    else:
        print_tables(evaluation, console())
    for line in evaluation.left_out:
        print(printable(f"left out: {line}"), file=sys.stderr)
    if everything:
        print(printable(f"report: {page}", keep=""), file=sys.stderr)
