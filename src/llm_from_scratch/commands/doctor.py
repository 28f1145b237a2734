"""`doctor`: check this machine, and a model: one line for each finding, with what to do."""

import argparse
import json

from llm_from_scratch.terminal import printable


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Checks this machine, and the run or the model of others where one is named: one line for each finding, "
        "with what to do about it. Changes, prepares and downloads nothing."
    )
    parser.epilog = "Exit status: 0 no fault (warnings are none), 1 a fault, 2 a mistake in the arguments."
    parser.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        help="a run folder, or last: verify every file of it; a folder of Hugging Face, hub:OWNER/NAME, a .gguf file, "
        "or smollm2: read its sizes, weights, tokenizer and chat template",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object rather than lines")


def run(options: argparse.Namespace) -> None:
    """Prints each finding as soon as it is made; exits with status 1 if any is a fault."""
    from dataclasses import asdict

    from llm_from_scratch.doctor.examination import examine
    from llm_from_scratch.pretrained import Source, find_model
    from llm_from_scratch.run import find_run

    model = None
    if options.run == "last":  # of which the model may be what is missing
        model = Source("run", find_run("last"))
    elif options.run:
        model = find_model(options.run, fetch=False)
    own = model is not None and model.kind == "run"
    found = []
    for finding in examine(model.path if model and own else None, None if own else model):
        found.append(finding)
        if not options.json:
            advice = f" -> {finding.advice}" if finding.advice else ""
            print(printable(f"{finding.mark:<8} {finding.what}{advice}", keep=""), flush=True)
    faults = sum(finding.mark == "fault" for finding in found)
    if options.json:
        print(json.dumps({"faults": faults, "findings": [asdict(finding) for finding in found]}))
    if faults:
        raise SystemExit(1)
