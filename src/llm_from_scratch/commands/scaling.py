"""`scaling`: the law that fits runs of several sizes and amounts of text."""

import argparse
import json
import sys

from llm_from_scratch.errors import UserError
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import console, for_stream, log_to_stderr


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Fits L(N, D) = E + A/N^a + B/D^b (Hoffmann et al. 2022) to runs of several sizes N and amounts of text D, such"
        " as those of experiment=tales_scaling, with intervals. Of told stories E is known: the entropy."
    )
    parser.add_argument("run", metavar="RUN", nargs="+", help="run folders, or the folder of a sweep: all of its runs")
    parser.add_argument(
        "--report", type=user_path, metavar="FILE.md", help="write a page, its picture in a folder of its name"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object rather than tables")


def run(options: argparse.Namespace) -> None:
    """Prints the runs and the fitted law, and writes a page of them.

    Raises:
        UserError: when a folder holds no run, the runs do not differ enough, or the page cannot be
            written.
    """
    from llm_from_scratch.evaluation.results import as_json
    from llm_from_scratch.evaluation.scaling import scaling
    from llm_from_scratch.evaluation.scaling_report import blocks, write_page
    from llm_from_scratch.pages import show

    if options.report and options.report.suffix != ".md":
        raise UserError(f"--report {options.report}: name a file that ends with .md")
    log_to_stderr()
    found = scaling(options.run)
    if options.report:
        try:
            write_page(found, options.report)
        except OSError as error:
            raise UserError(f"--report {options.report} cannot be written ({error.strerror}): name another") from None
    if options.json:
        print(json.dumps(as_json(found)))
        return
    show(blocks(found), console())
    if options.report:
        print(for_stream(f"report: {options.report}", sys.stdout), flush=True)
