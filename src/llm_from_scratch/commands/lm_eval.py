"""`lm-eval`: a run on the tasks of EleutherAI's lm-eval (extra: harness)."""

import argparse
import json

from llm_from_scratch.cores import sharing_cores
from llm_from_scratch.errors import UserError
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import console, log_to_stderr


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Runs tasks of EleutherAI's lm-eval on a run's model. Its own tasks fetch their data from the Hugging "
        "Face hub; a YAML file of yours over local data needs no network."
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run folder, last, a .gguf file, a folder of transformers, hub:OWNER/NAME or smollm2",
    )
    parser.add_argument("--tasks", required=True, metavar="A,B", help="names of tasks or groups, or YAML files")
    parser.add_argument("--include", type=user_path, metavar="DIR", help="a folder of further tasks")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N examples of a task, for a trial")
    parser.add_argument("--num-fewshot", type=int, metavar="N", help="solved examples before each question")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="windows at a time (default: 32)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--json", action="store_true", help="one JSON object rather than a table")


def run(options: argparse.Namespace) -> None:
    """Prints lm-eval's figures for the tasks that `--tasks` names."""
    import logging

    from rich.table import Table

    from llm_from_scratch.evaluation.harness import harness
    from llm_from_scratch.machine import pick_device
    from llm_from_scratch.pretrained import find_model

    for name, least in (("batch_size", 1), ("limit", 1), ("num_fewshot", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {least} or more")
    source = find_model(options.run)
    log_to_stderr(logging.WARNING)
    tasks = [task for task in options.tasks.split(",") if task]
    run = source.open(pick_device(options.device))
    with sharing_cores():
        found = harness(run, tasks, options.include, options.limit, options.num_fewshot, options.batch_size)
    if options.json:
        print(json.dumps({"run": str(source.path), "step": run.step} | found))
        return
    table = Table(
        title=f"{source.path}" + (f" (step {run.step})" if run.step is not None else ""), title_justify="left"
    )
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
