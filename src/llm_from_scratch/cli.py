"""`python -m llm_from_scratch COMMAND`: what needs no training loop. Data on standard output, all else on standard error."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llm_from_scratch import signals
from llm_from_scratch.errors import UserError
from llm_from_scratch.overrides import stop
from llm_from_scratch.places import config_dir, user_path
from llm_from_scratch.terminal import argument, console, for_stream, log_to_stderr, printable, shell, use_utf8

if TYPE_CHECKING:
    from llm_from_scratch.config import Config
    from llm_from_scratch.data.prepared import Prepared
    from llm_from_scratch.tokenizer import Tokenizer

PASSAGES = 20  # continued in a report


class Parser(argparse.ArgumentParser):
    """A parser whose messages show what the user typed, controls visible."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with one line and status 2."""
        line = printable(message, keep="")
        for script in ("train", "generate"):
            if message.startswith(f"argument COMMAND: invalid choice: '{script}'"):
                line = f"{script} is a program of its own: python {script}.py"
        print(f"error: {line}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


@signals.ending
def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments and runs one command; a mistake costs one line and exit status 2."""
    use_utf8()
    if arguments is None:
        signals.catch()
    parser = Parser(prog="python -m llm_from_scratch", description="What needs no training loop.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    sub = commands.add_parser(
        "evaluate",
        help="loss, perplexity and bits per byte over a whole split; with --report, everything that is measured",
        description="Loss, perplexity and bits per byte over a whole split. Several runs, or any option of the second group,"
        " make fuller tables; --report writes a page of all of it and prints the first figures. Nothing is downloaded.",
    )
    sub.add_argument("run", metavar="RUN", nargs="+", help="run folders, or last")
    sub.add_argument(
        "--split", choices=("train", "val"), default="val", help="which part of the run's text (default: val)"
    )
    sub.add_argument(
        "--overlap",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="the part of each window, from 0 to below 1, that is context scored before (default: 0);"
        " more of it gives a fairer figure, slower",
    )
    sub.add_argument("--batch-size", type=int, default=32, metavar="N", help="windows at a time (default: 32)")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    sub.add_argument("--json", action="store_true", help="one JSON object rather than a table")
    more = sub.add_argument_group("more figures")
    more.add_argument(
        "--report",
        type=user_path,
        metavar="DIR|FILE.md",
        help="write report.md with pictures and report.html there, or that one page, its pictures in a folder of its name;"
        f" implies --baselines --pairs --generate {PASSAGES}",
    )
    more.add_argument("--data", metavar="PATH|NAME", help="score another text, all of it: a file, a folder, oz, …")
    more.add_argument("--ensemble", action="store_true", help="all runs together: the mean of their probabilities")
    more.add_argument("--baselines", action="store_true", help="n-grams, compressors and the article's own figures")
    more.add_argument(
        "--gpt2", type=user_path, nargs="+", default=[], metavar="FOLDER", help="models of transformers, as baselines"
    )
    more.add_argument(
        "--generate", type=int, metavar="N", help=f"continue N held-out passages (default: 0; {PASSAGES} in a report)"
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
    more.add_argument("--pairs", action="store_true", help="minimal pairs for bias and grammar")
    more.add_argument("--crows", type=user_path, metavar="CSV", help="bias pairs of a file shaped like CrowS-Pairs")
    more.add_argument(
        "--blimp", type=user_path, metavar="PATH", help="grammar pairs of a .jsonl file or folder, like BLiMP"
    )
    sub.set_defaults(command=evaluate)

    sub = commands.add_parser(
        "lm-eval",
        help="a run on the tasks of EleutherAI's lm-eval (extra: harness)",
        description="Runs tasks of EleutherAI's lm-eval on a run's model. Its own tasks fetch their data from the Hugging Face hub;"
        " a YAML file of yours over local data needs no network.",
    )
    sub.add_argument("run", metavar="RUN", help="a run folder, or last")
    sub.add_argument("--tasks", required=True, metavar="A,B", help="names of tasks or groups, or YAML files")
    sub.add_argument("--include", type=user_path, metavar="DIR", help="a folder of further tasks")
    sub.add_argument("--limit", type=int, metavar="N", help="only the first N examples of a task, for a trial")
    sub.add_argument("--num-fewshot", type=int, metavar="N", help="solved examples before each question")
    sub.add_argument("--batch-size", type=int, default=32, metavar="N", help="windows at a time (default: 32)")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    sub.add_argument("--json", action="store_true", help="one JSON object rather than a table")
    sub.set_defaults(command=lm_eval)

    sub = commands.add_parser(
        "doctor",
        help="check this machine, and a run: one line for each finding, with what to do",
        description="Checks this machine, and the run where one is named: one line for each finding, with what to do about it."
        " Changes, prepares and downloads nothing.",
        epilog="Exit status: 0 no fault (warnings are none), 1 a fault, 2 a mistake in the arguments.",
    )
    sub.add_argument("run", metavar="RUN", nargs="?", help="a run folder, or last: verify every file of it")
    sub.add_argument("--json", action="store_true", help="one JSON object rather than lines")
    sub.set_defaults(command=doctor)

    sub = commands.add_parser(
        "prepare",
        help="make a corpus's token shards, before the first training on it",
        description="Makes a corpus's token shards, with the settings that train.py will be given. Killed and started again, it goes on"
        " where it was. Progress on standard error, the folder on standard output.",
    )
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="data=… tokenizer=… prepare.workers=2 …")
    sub.set_defaults(command=prepare)

    sub = commands.add_parser(
        "inspect",
        help="look at a prepared text: sizes, lengths of documents, frequent pieces, chunks as the model sees them",
        description="Looks at a text as it is prepared for training, with the settings of train.py; prepares it first where it is not.",
    )
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="data=… tokenizer=… model.block_size=…")
    sub.add_argument("--chunks", type=int, default=3, metavar="N", help="of the first step to show (default: 3)")
    sub.add_argument("--pieces", type=int, default=20, metavar="N", help="most frequent ones to show (default: 20)")
    sub.add_argument("--json", action="store_true", help="one JSON object rather than tables")
    sub.set_defaults(command=inspect)

    sub = commands.add_parser(
        "plan",
        help="what a training will take, before it begins: memory, passes, time, disk, and what is unwise about it",
        description="What the training with these settings of train.py will take: parameters, memory, passes over the text, time from"
        " a few measured steps, disk, and what is unwise about it. A small text is prepared first; a large one that is not is estimated.",
    )
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="model=… data=… trainer=…")
    sub.add_argument("--hours", type=float, metavar="H", help="that there are, for the best size (default: the run's)")
    sub.add_argument("--tokens", type=float, metavar="N", help="plan for so many training tokens, with no text at hand")
    sub.add_argument("--no-measuring", action="store_true", help="no steps are tried, no times are told")
    sub.add_argument("--json", action="store_true", help="one JSON object rather than a table")
    sub.set_defaults(command=plan)

    sub = commands.add_parser(
        "settings",
        help="every setting of train.py and generate.py: its default, its range and what it does",
        description="Every setting of train.py and generate.py: its default, its range and what it does.",
    )
    sub.add_argument("word", metavar="WORD", nargs="?", default="", help="those alone whose name or meaning holds it")
    shapes = sub.add_mutually_exclusive_group()
    shapes.add_argument("--markdown", action="store_true", help="as the page docs/settings.md")
    shapes.add_argument("--json", action="store_true", help="one JSON list rather than tables")
    sub.set_defaults(command=settings)

    sub = commands.add_parser("demo", help="train on the Wizard of Oz for a few minutes, then write a story")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="settings for train.py")
    sub.set_defaults(command=demo)

    options, others = parser.parse_known_args(arguments)
    if not hasattr(options, "overrides") or any(word.startswith("-") for word in others):
        parser.parse_args(arguments)  # which says what it does not know
    else:
        options.overrides += others  # settings behind an option
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options.command(options)
    except Exception as error:
        stop(error)


def evaluate(options: argparse.Namespace) -> None:
    """The likelihood of the text that a run was trained on, or held out from; with further options a report on several."""
    asked = (options.report, options.data, options.baselines, options.gpt2, options.generate, options.against)
    if len(options.run) > 1 or any(
        (*asked, options.ensemble, options.bertscore, options.entailment, options.pairs, options.crows, options.blimp)
    ):
        return report(options)

    from llm_from_scratch.data.prepared import Prepared
    from llm_from_scratch.evaluation.measure import open_run
    from llm_from_scratch.evaluation.scoring import likelihood, scorer, windows

    if not 0 <= options.overlap < 1:
        raise UserError(f"--overlap {options.overlap}: must be at least 0 and below 1")
    opened = open_run(options.run[0], options.device)
    folder, run, prepared = opened.folder, opened.run, opened.prepared

    model = scorer(run.model, run.tokenizer.eot_id)

    def figures(text: Prepared) -> dict[str, Any]:
        tokens = [shard.tokens for shard in text.shards(options.split)]
        batches = windows(tokens, model, options.overlap, options.batch_size)
        return likelihood(model, batches, text.text_bytes(options.split))

    row = figures(prepared)
    if prepared.parts:
        row["corpora"] = {
            name: figures(part) for name, part in zip(prepared.manifest["corpora"], prepared.parts, strict=True)
        }
    row = {"run": str(folder), "step": run.step, "split": options.split, "overlap": options.overlap} | row
    if options.json:
        print(json.dumps(row))
        return

    from rich.table import Table

    table = Table(
        title=f"{folder} (step {run.step}), {options.split} split, overlap {options.overlap}", title_justify="left"
    )
    if prepared.parts:
        table.add_column("corpus")
    table.add_column("loss (nats a token)")
    for name in ("bits per byte", "perplexity a token", "tokens", "bytes"):
        table.add_column(name, justify="right")
    for name, one in [("all", row), *row.get("corpora", {}).items()]:
        table.add_row(
            *([name] if prepared.parts else []),
            f"{one['loss']:.4f}",
            f"{one['bits_per_byte']:.4f}",
            f"{one['perplexity']:.2f}",
            f"{one['tokens']:,}",
            f"{one['bytes']:,}",
        )
    console().print(table)


def report(options: argparse.Namespace) -> None:
    """Everything that the options ask for: tables or JSON on standard output, pages in a folder, what is missing on standard error."""
    from llm_from_scratch.evaluation.measure import Settings, measure
    from llm_from_scratch.evaluation.report import print_summary, print_tables, write_report

    if options.report:
        try:
            folder = options.report.with_suffix("") if options.report.suffix == ".md" else options.report
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--report {options.report} cannot be made ({error.strerror}): name a folder") from None
    everything = options.report is not None
    generate = options.generate if options.generate is not None else PASSAGES * everything
    log_to_stderr()
    settings = Settings(
        **{key: getattr(options, key) for key in ("split", "data", "overlap", "batch_size", "device", "gpt2", "seed")},
        **{key: getattr(options, key) for key in ("against", "bertscore", "entailment", "crows", "blimp")},
        ensemble=options.ensemble,
        baselines=options.baselines or everything,
        pairs=options.pairs or everything,
        generate=generate,
    )
    figures = measure(options.run, settings)
    if everything:
        figures["command"] = shell("python", "-m", "llm_from_scratch", *options.arguments)
        page = write_report(figures, options.report)
        if not options.json:
            print_summary(figures, console())
            print(for_stream(f"report: {page}", sys.stdout), flush=True)
            return
    if options.json:
        print(json.dumps(figures))
    else:
        print_tables(figures, console())
    for line in figures["left_out"]:
        print(printable(f"left out: {line}"), file=sys.stderr)
    if everything:
        print(printable(f"report: {page}", keep=""), file=sys.stderr)


def lm_eval(options: argparse.Namespace) -> None:
    """lm-eval's figures of the tasks that are named."""
    import logging

    from rich.table import Table

    from llm_from_scratch.checkpoint import find_run, load_model, pick_device
    from llm_from_scratch.evaluation.harness import harness

    for name, least in (("batch_size", 1), ("limit", 1), ("num_fewshot", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {least} or more")
    folder = find_run(options.run, holding="model/config.json")
    log_to_stderr(logging.WARNING)
    tasks = [task for task in options.tasks.split(",") if task]
    run = load_model(folder, pick_device(options.device))
    found = harness(run, tasks, options.include, options.limit, options.num_fewshot, options.batch_size)
    if options.json:
        print(json.dumps({"run": str(folder), "step": run.step} | found))
        return
    table = Table(title=f"{folder} (step {run.step})", title_justify="left")
    table.add_column("task")
    table.add_column("metric")
    for name in ("value", "standard error", "examples"):
        table.add_column(name, justify="right")
    for task, row in found["results"].items():
        for key, value in row.items():
            metric, _, kind = key.partition(",")
            if kind and not metric.endswith("_stderr"):
                error = row.get(f"{metric}_stderr,{kind}")
                examples = found["n-samples"].get(task, {}).get("effective", "")
                shown = (f"{one:.4f}" if isinstance(one, float) else "" for one in (value, error))
                table.add_row(task, metric, *shown, f"{examples:,}" if examples else "")
    console().print(table)


def prepare(options: argparse.Namespace) -> None:
    """The shards of the corpus that the settings name, and what is in them."""
    import time

    from llm_from_scratch.check import check
    from llm_from_scratch.config import Config
    from llm_from_scratch.data.prepare import SPLITS, prepare_task
    from llm_from_scratch.data.prepare import prepare as prepare_all
    from llm_from_scratch.overrides import composed

    log_to_stderr()
    started = time.monotonic()
    config = check(composed(config_dir(), "train", options.overrides, resumes="model/config.json"), Config)
    if config.prepare.task is None:
        prepared = _text_of_run(config) or prepare_all(
            config.data, config.tokenizer, reuse=_tokenizer_of_origin(config), how=config.prepare
        )
    else:
        part = prepare_task(config.data, config.tokenizer, config.prepare)
        if part is None:
            print(f"part {config.prepare.task} is done; others are missing", file=sys.stderr)
            return
        prepared = part
    seconds = time.monotonic() - started
    for split in SPLITS:
        facts = prepared.manifest["splits"][split]
        tokens = facts.get("tokens", 0)
        rate = f", {facts['text_bytes'] / tokens:.2f} bytes a token" if tokens else ""
        counts = f"{facts['documents']:,} documents, {facts['text_bytes']:,} bytes of text, {tokens:,} tokens"
        print(f"{split:<5} {counts}{rate}", file=sys.stderr)
    if (prepared.folder / "report.md").exists():
        print(printable(f"what was left out: {prepared.folder / 'report.md'}"), file=sys.stderr)
    print(f"{seconds:.1f} s", file=sys.stderr)
    print(for_stream(f"prepared: {prepared.folder}", sys.stdout), flush=True)


def inspect(options: argparse.Namespace) -> None:
    """What a prepared text holds."""
    from llm_from_scratch.check import check
    from llm_from_scratch.config import Config
    from llm_from_scratch.data import inspection
    from llm_from_scratch.data.prepare import prepare
    from llm_from_scratch.overrides import composed

    if min(options.chunks, options.pieces) < 0:
        raise UserError("--chunks and --pieces must be 0 or more")
    log_to_stderr()
    config = check(composed(config_dir(), "train", options.overrides, resumes="model/config.json"), Config)
    prepared = _text_of_run(config) or prepare(
        config.data, config.tokenizer, reuse=_tokenizer_of_origin(config), how=config.prepare
    )
    sampler = prepared.sampler(
        config.data.stream,
        config.data.subword_dropout,
        block_size=config.model.block_size,
        batch_size=max(config.data.batch_size, options.chunks),
        seed=config.seed,
    )
    result = inspection.inspect(prepared, sampler, chunks=options.chunks, pieces=options.pieces)
    if options.json:
        print(json.dumps(result))
    else:
        inspection.show(result, console(width=140))


def _text_of_run(config: "Config") -> "Prepared | None":
    """With `resume=RUN`, the very text that the run was trained on, refused where it has changed; None without."""
    if not config.resume:
        return None
    from llm_from_scratch.checkpoint import load_model
    from llm_from_scratch.evaluation.measure import run_text

    folder = Path(config.resume)
    return run_text(folder, config, load_model(folder))


def _tokenizer_of_origin(config: "Config") -> "Tokenizer | None":
    """With `init_from=RUN`, the tokenizer that the new run takes over; None without."""
    from llm_from_scratch.checkpoint import PICKLES, model_folder
    from llm_from_scratch.tokenizer import load_tokenizer

    if config.resume or not config.init_from or Path(config.init_from).suffix in PICKLES:
        return None
    return load_tokenizer(model_folder(Path(config.init_from)))


def plan(options: argparse.Namespace) -> None:
    """The figures of a training that has not begun."""
    from llm_from_scratch import plan as planning
    from llm_from_scratch.check import check
    from llm_from_scratch.config import Config
    from llm_from_scratch.evaluation.measure import own_text
    from llm_from_scratch.model import GPTConfig
    from llm_from_scratch.overrides import composed
    from llm_from_scratch.training.checks import require_device
    from llm_from_scratch.training.memory import micro_batch_size

    for option, value in (("--hours", options.hours), ("--tokens", options.tokens)):
        if value is not None and not 0 < value < 1e18:
            raise UserError(f"{option} {value}: must be above 0")
    log_to_stderr()
    configs = config_dir()
    config = check(composed(configs, "train", options.overrides), Config)
    require_device(config.trainer)
    if options.tokens:
        text = planning.assumed_text(config, int(options.tokens))
    elif (prepared := own_text(Path(config.resume), config) if config.resume else None) is not None:
        text = planning.counted(prepared)
    else:
        text = planning.text_size(config, _tokenizer_of_origin(config))
    presets = {}
    for path in sorted((configs / "model").glob("*.yaml")):
        if path.stem == "article":  # one layer, one head: to look at
            continue
        preset = check(composed(configs, "train", [f"model={path.stem}"]), Config).model
        presets[path.stem] = planning.on_paper(GPTConfig(vocab_size=text.vocab_size, **vars(preset))).num_parameters()
    measured = None
    if not options.no_measuring:
        shape = GPTConfig(vocab_size=text.vocab_size, **vars(config.model))
        measured = planning.measure(config, shape, micro_batch_size(config, planning.devices(config.trainer)))
    result = planning.plan(config, text, measured, hours=options.hours, presets=presets)
    if options.json:
        print(json.dumps(result))
    else:
        planning.show(result, console(width=140))


def doctor(options: argparse.Namespace) -> None:
    """The findings as they come; a fault makes the exit status 1."""
    from dataclasses import asdict

    from llm_from_scratch.checkpoint import find_run
    from llm_from_scratch.doctor import examine

    found = []
    for finding in examine(find_run(options.run) if options.run else None):
        found.append(finding)
        if not options.json:
            advice = f" -> {finding.advice}" if finding.advice else ""
            print(printable(f"{finding.mark:<8} {finding.what}{advice}", keep=""), flush=True)
    faults = sum(finding.mark == "fault" for finding in found)
    if options.json:
        print(json.dumps({"faults": faults, "findings": [asdict(finding) for finding in found]}))
    if faults:
        raise SystemExit(1)


def settings(options: argparse.Namespace) -> None:
    """The reference of the settings, with the defaults of the commands as they stand."""
    from dataclasses import asdict

    from omegaconf import OmegaConf
    from rich.table import Table

    from llm_from_scratch.overrides import composed
    from llm_from_scratch.settings import groups, markdown, reference

    defaults: dict[str, Any] = {
        f"{name}.py": OmegaConf.to_container(composed(config_dir(), name, [])) for name in ("train", "generate")
    }
    found = reference(defaults, options.word)
    if options.json:
        print(json.dumps([asdict(setting) for setting in found]))
        return
    if options.markdown:
        print(markdown(found), end="")
        return
    out = console()
    for group, own in groups(found):
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, max_width=18)  # an address is shortened; the page has all of it
        table.add_column(overflow="fold")
        for setting in own:
            table.add_row(setting.key, setting.default, setting.explanation)
        out.print(group, style="bold")
        out.print(table)
        out.print()


def demo(options: argparse.Namespace) -> None:
    """Trains on Oz where the text is at hand or can be downloaded, else on Python's standard library, and says which."""
    from omegaconf import DictConfig, OmegaConf

    from llm_from_scratch.data.sources import open_source

    project = config_dir().parent
    for script in ("train.py", "generate.py"):
        if not (project / script).exists():
            raise UserError(f"{project / script} is not there: the demonstration runs the scripts of a checkout")
    oz = DictConfig(OmegaConf.load(config_dir() / "data" / "oz.yaml"))
    data, prompt, settings = "oz", "Dorothy", []
    try:
        open_source(
            **{name: oz.get(name) for name in ("name", "path", "file", "url", "sha256", "must_contain")},
            data_dir=Path("data"),
        )
    except ValueError as error:
        so = "So this demonstration trains on the source code of Python's standard library."
        print(printable(f"{error}\n{so}"), file=sys.stderr)
        # Its validation split is eighty times as long as that of the book: read twice, the five minutes hold.
        data, prompt, settings = (
            "stdlib",
            "def ",
            ["task=stdlib_demo", "sample.prompt=def ", "trainer.val_check_interval=240"],
        )
    told: list[str] = []

    def on_line(line: str) -> None:
        told.append(line)
        print(for_stream(line, sys.stdout), flush=True)

    def run(script: str, *words: str, on_line: Callable[[str], None] | None = None) -> None:
        print("$ " + shell("python", script, *words), file=sys.stderr)
        status = signals.run_child([sys.executable, str(project / script), *words], on_line)
        if status:
            raise SystemExit(status)

    run("train.py", "experiment=oz_demo", f"data={data}", *settings, *options.overrides, on_line=on_line)
    trained = next(line for line in reversed(told) if line.startswith("run: ")).removeprefix("run: ")
    run("generate.py", f"run={argument(trained)}", f"prompt={prompt}", "max_new_tokens=300", "top_p=0.9")
