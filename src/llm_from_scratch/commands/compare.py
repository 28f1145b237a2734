"""`compare`: runs side by side, what differs in their settings beside their results."""

import argparse
import json
import sys

from llm_from_scratch.cores import sharing_cores
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import check_new_file, write_file
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import console, for_stream, log_to_stderr


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Runs side by side, the best one first: results, settings that differ, and how much more bits per byte each "
        "needs than the best one, with an interval. Of a sweep's folder also which settings mattered."
    )
    parser.add_argument(
        "run", metavar="RUN", nargs="+", help="run folders, last, or the folder of a sweep: all of its runs"
    )
    parser.add_argument(
        "--html", type=user_path, metavar="FILE", help="write a page with the learning curves, no network needed"
    )
    parser.add_argument(
        "--score",
        type=int,
        default=5,
        metavar="N",
        help="score the best N runs on the text they hold out, for a paired bootstrap (default: 5; 0: none)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--json", action="store_true", help="one JSON object rather than tables")


def run(options: argparse.Namespace) -> None:
    """Prints the comparison of the runs, and writes its page.

    Raises:
        UserError: when a folder holds no run, there is only one, or the page cannot be written.
    """
    from llm_from_scratch.evaluation.comparison import compare
    from llm_from_scratch.evaluation.comparison_report import blocks, page
    from llm_from_scratch.evaluation.results import as_json
    from llm_from_scratch.pages import show

    if options.score < 0:
        raise UserError(f"--score {options.score}: must be 0 or more")
    check_new_file("--html", options.html)
    log_to_stderr()
    with sharing_cores():
        found = compare(options.run, score=options.score, device=options.device)
    if options.html:
        try:
            write_file(options.html, page(found))
        except OSError as error:
            raise UserError(f"--html {options.html} cannot be written ({error.strerror}): name another file") from None
    if options.json:
        print(json.dumps(as_json(found)))
        return
    show(blocks(found), console(), elsewhere="; --html and --json have all")
    if options.html:
        print(for_stream(f"page: {options.html}", sys.stdout), flush=True)
