"""`rate report`: the results of a study, in the terminal, as JSON or as one page."""

import argparse
import json
import sys

from llm_from_scratch.cores import sharing_cores
from llm_from_scratch.files import check_new_file
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import console, for_stream, printable


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments beside STUDY."""
    parser.description = (
        "Results of a study: what people prefer, how sure that is, how far they agree, who stands out, which metric says the same,"
        " and how many more ratings would settle what is open. It names the systems: read it when the study has ended."
    )
    parser.add_argument(
        "--html", type=user_path, metavar="FILE", help="write a page with all tables and figures, no network needed"
    )
    parser.add_argument(
        "--evaluation",
        type=user_path,
        metavar="FILE",
        help="a report.json of `evaluate --report`: correlate its metrics of the same runs, too",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object rather than tables")


def run(options: argparse.Namespace) -> None:
    """Prints the results of a study, and writes its page.

    Raises:
        UserError: when there is no study or no rating, or the page cannot be written.
    """
    from llm_from_scratch.evaluation.results import as_json
    from llm_from_scratch.pages import show
    from llm_from_scratch.rating.blocks import blocks
    from llm_from_scratch.rating.report import results_of, write_page

    check_new_file("--html", options.html)
    with sharing_cores():
        results = results_of(options.study, options.evaluation)
        if options.html:
            write_page(results, options.html)
    if options.json:
        print(json.dumps(as_json(results)))
        return
    results.left_out, left_out = [], results.left_out
    show(blocks(results), console(), elsewhere="; --html and --json have all")
    for line in left_out:
        print(printable(f"left out: {line}"), file=sys.stderr)
    if options.html:
        print(for_stream(f"page: {options.html}", sys.stdout), flush=True)
