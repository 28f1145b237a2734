"""`rate`: people read texts of runs, blind, and say how good they are."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_from_scratch.errors import UserError
from llm_from_scratch.places import program, user_path
from llm_from_scratch.terminal import argument, for_stream, log_to_stderr, note, shell

if TYPE_CHECKING:
    from llm_from_scratch.rating.study import StudyPlan

DESCRIPTION = (
    "A study of human ratings: texts of runs, written and frozen at its start, are rated from 1 to 5 or compared in pairs"
    " by people who do not know which run wrote them. docs/ratings.md tells how."
)
# Action -> its line in --help. Those with a file of their own, commands/_rate_NAME.py, have
# `arguments(parser)` and `run(options)` there.
ACTIONS = {
    "new": "make a study: let all runs write their texts, and make codes for raters",
    "invite": "make codes for more raters, or list all codes",
    "serve": "rate in a browser: pages for the raters, and one with the progress for the owner (extra: serve)",
    "cli": "rate in this terminal",
    "export": "write all answers as CSV and JSONL, preferred texts as data=preferences, and a card",
    "import": "read ratings that were made elsewhere, from a CSV file",
    "judge": "let a model rate, marked as one: any endpoint of OpenAI's shape",
    "report": "what people prefer, how sure that is, who stands out, and which metric agrees",
    "close": "end a study: no more answers are taken",
}
OWN_FILES: tuple[str, ...] = ("serve", "report")
DEFAULT_FOLDER = "study"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = DESCRIPTION
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, line in ACTIONS.items():
        sub = actions.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.")
        if name != "new":
            sub.add_argument("study", metavar="STUDY", type=user_path, help="the folder of a study")
        if name in OWN_FILES:
            module = import_module(f"llm_from_scratch.commands._rate_{name}")
            module.arguments(sub)
            sub.set_defaults(action=module.run)
        else:
            add, action = _OWN[name]
            add(sub)
            sub.set_defaults(action=action)


def run(options: argparse.Namespace) -> None:
    """Runs the action that was asked for."""
    options.action(options)


# ---------------------------------------------------------------------------------------------- new
def _new_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        metavar="[NAME=]RUN",
        nargs="*",
        help="run folders, last, .gguf files, folders of transformers, hub:OWNER/NAME, smollm2; NAME is its name in the"
        " report (default: the folder's); in place of the systems of --study",
    )
    parser.add_argument("--study", type=user_path, metavar="FILE", help="a study.yaml: questions, prompts, numbers")
    parser.add_argument(
        "--out", type=user_path, default=Path(DEFAULT_FOLDER), metavar="FOLDER", help="(default: study)"
    )
    parser.add_argument(
        "--design", choices=("scales", "pairs"), help="each text by itself, or two side by side (default: scales)"
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="continued by all runs; may be given several times (default: passages that the first run holds out)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")


def _new(options: argparse.Namespace) -> None:
    plan = _plan(options)
    if options.out.exists():
        raise UserError(f"{options.out}: is there already: name a new folder (--out FOLDER)")
    log_to_stderr()

    # These import torch, which takes seconds: the plan is right by now.
    from llm_from_scratch.cores import sharing_cores
    from llm_from_scratch.rating.order import make_items
    from llm_from_scratch.rating.store import Study
    from llm_from_scratch.rating.texts import write_texts

    with sharing_cores():
        written = write_texts(plan, options.device)
    texts, items = make_items(plan, written.texts, written.carriers)
    with Study.create(options.out, plan, texts, items, facts={"systems": written.systems}):
        rated = sum(item.kind == "rated" for item in items)
        what = "texts" if plan.design == "scales" else "pairs"
        note(f"{rated} {what}, {plan.ratings_per_item} ratings of each; codes for {plan.raters} raters")
    start, folder = program("rate"), argument(options.out)
    note(f"open it to raters: {shell(*start, 'serve', folder)}; rate here: {shell(*start, 'cli', folder)}")
    note(f"list the codes: {shell(*start, 'invite', folder, '0', '--list')}")
    print(for_stream(f"study: {options.out}", sys.stdout))


def _plan(options: argparse.Namespace) -> "StudyPlan":
    from llm_from_scratch.rating.study import plan_of, read_plan

    systems = _named(options.run)
    if options.study is not None:
        for option, value in (("--design", options.design), ("--prompt", options.prompt)):
            if value:
                raise UserError(f"{option}: is said in {options.study}: leave it out, or leave --study out")
        return read_plan(options.study, systems)
    if not systems:
        raise UserError("name the runs whose texts are to be rated, or a file that does: --study FILE")
    values: dict[str, Any] = {"design": options.design or "scales", "systems": systems}
    if options.prompt:
        return plan_of(values | {"prompts": options.prompt})
    return plan_of(values | {"passages": {"of": next(iter(systems))}})


def _named(words: Sequence[str]) -> dict[str, str]:
    """Returns name -> RUN of the words of a command line.

    Raises:
        UserError: when two have one name.
    """
    systems: dict[str, str] = {}
    for word in words:
        name, equals, model = word.partition("=")
        if not equals or "/" in name:
            name, model = Path(word.rpartition(":")[2]).name.removesuffix(".gguf"), word
        if name in systems:
            raise UserError(f"{word}: there is a {name} already: give it another name, as in other={model}")
        systems[name] = model
    return systems


# ------------------------------------------------------------------------------------------- others
def _invite_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("count", metavar="N", type=int, nargs="?", default=1, help="codes to make (default: 1)")
    parser.add_argument("--list", action="store_true", help="all codes, with what has been answered")


def _invite(options: argparse.Namespace) -> None:
    from llm_from_scratch.rating.store import Study

    if not 0 <= options.count <= 10_000:
        raise UserError(f"{options.count}: must be from 0 to 10,000 codes")
    with Study.open(options.study) as study:
        codes = study.invite(options.count) if options.count else []
        if not options.list:
            print("\n".join(codes))
            return
        for rater, progress in zip(study.raters(), study.progress(), strict=False):
            if rater.kind == "person":
                begun = f"{progress.answered} of {progress.total}" if rater.consented else "not begun"
                print(f"{rater.code}  {begun}")


def _cli_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--code", metavar="CODE", help="of the rater (default: the first that nobody has used)")


def _cli(options: argparse.Namespace) -> None:
    from llm_from_scratch.rating.store import Study
    from llm_from_scratch.rating.terminal import Terminal, rater_of

    if sys.stdin is None:
        raise UserError("standard input is closed: rate cli reads the answers there")
    interactive = sys.stdin.isatty()
    with Study.open(options.study) as study:
        rater = rater_of(study, options.code)
        Terminal(study, rater, lambda prompt: input(prompt if interactive else ""), print).rate()


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=user_path, metavar="FOLDER", help="(default: exports/ in the study)")
    parser.add_argument(
        "--models", action="store_true", help="make the pairs of what models preferred, rather than people"
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=1.0,
        metavar="M",
        help="scales: a text is preferred to another of its prompt from this difference of mean ratings on (default: 1)",
    )


def _export(options: argparse.Namespace) -> None:
    from llm_from_scratch.rating.exports import PEOPLE, write_exports
    from llm_from_scratch.rating.store import EXPORTS, Study

    if not 0 < options.margin <= 4:
        raise UserError(f"--margin {options.margin}: must be above 0 and at most 4")
    with Study.open(options.study) as study:
        if not study.closed:
            note("this study is open: the files name the systems, so whoever reads them should rate no more")
        kinds = ("model",) if options.models else PEOPLE
        for path in write_exports(study, options.out or options.study / EXPORTS, kinds, options.margin):
            print(for_stream(str(path), sys.stdout))


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE.csv",
        type=user_path,
        help="rater,prompt,system,question,value or rater,prompt,first,second,winner; where STUDY is not there, it is"
        " made of the ratings",
    )


def _import(options: argparse.Namespace) -> None:
    from llm_from_scratch.rating.imports import import_ratings

    count = import_ratings(options.file, options.study)
    note(f"{options.study}: {count:,} answers from {options.file}")


def _judge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="base_url of the endpoint, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", required=True, metavar="NAME", help="the model's name there")
    parser.add_argument("--name", metavar="NAME", help="of the rater, to judge once more (default: the model's)")
    parser.add_argument("--token-file", type=user_path, metavar="FILE", help="holds the token of the endpoint")
    parser.add_argument(
        "--max-tokens", type=int, default=512, metavar="N", help="of an answer; thoughts count (default: 512)"
    )


def _judge(options: argparse.Namespace) -> None:
    from llm_from_scratch.commands.serve import read_token
    from llm_from_scratch.rating.judge import Endpoint, judge
    from llm_from_scratch.rating.store import Study

    if options.max_tokens < 1:
        raise UserError(f"--max-tokens {options.max_tokens}: must be 1 or more")
    token = read_token(options.token_file).decode() if options.token_file else None
    endpoint = Endpoint(options.url, options.model, token, options.max_tokens)
    with Study.open(options.study) as study:
        judged = judge(study, endpoint, options.name, note)
    note(
        f"{judged.rater.name}: {judged.tasks} answers, {judged.unclear} of {judged.requests} requests without a clear one"
    )


def _close_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _close(options: argparse.Namespace) -> None:
    from llm_from_scratch.rating.store import Study

    with Study.open(options.study) as study:
        study.close()
        note(f"{options.study}: closed since {study.closed}")


_OWN = {
    "new": (_new_arguments, _new),
    "invite": (_invite_arguments, _invite),
    "cli": (_cli_arguments, _cli),
    "export": (_export_arguments, _export),
    "import": (_import_arguments, _import),
    "judge": (_judge_arguments, _judge),
    "close": (_close_arguments, _close),
}
