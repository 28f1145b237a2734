"""The summary of `make chaos`: which kills there were, where the runs went on, and whether the ends
were the same.
"""

import datetime
import os
import platform
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

KINDS = {
    "start": "at a random instant of a process, its start-up included",
    "training": "at a random instant of the training",
    "forward": "in a step, at a micro-batch",
    "validation": "in a validation",
    "config": "config.yaml",
    "metrics": "metrics.jsonl, timing.jsonl",
    "samples": "samples.md",
    "model": "model/",
    "state": "checkpoints/",
    "ending": "curves.png, after the last step",
    "csv": "csv/",
    "curves": "tensorboard/",
    "signal": "SIGTERM, Ctrl-C, SIGHUP or SIGUSR1 in a step or its validation",
    "pipe": "Ctrl-C, after the reader of its output had died",
}
reports: list[tuple[bool, list[dict[str, Any]]]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        reports.extend((report.passed, made) for name, made in report.user_properties if name == "kills")


def table() -> list[str]:
    """Markdown: one row a kind of kill."""
    rows: dict[str, list[tuple[bool, int | None]]] = defaultdict(list)
    for passed, made in reports:
        for kill in made:
            scope, call = kill["point"].split()[:2]
            if kill["point"].split()[-1].startswith("SIG"):
                scope, call = "signal", ""
            detail = f": {call}" if call in ("write", "fsync", "rename", "remove") else ""
            rows[KINDS[scope] + detail].append((passed, kill["resumed_from"]))
    rows["**all**"] = [kill for kind in rows.values() for kill in kind]
    order = [*KINDS.values(), "**all**"]
    lines = ["| killed | kills | went on from | end the same |", "|---|--:|---|---|"]
    for kind in sorted(rows, key=lambda name: (order.index(name.split(": ")[0]), name)):
        steps = sorted({step for _, step in rows[kind] if step is not None})
        again = sum(step is None for _, step in rows[kind])
        where = (
            f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps, {steps[0]} to {steps[-1]}" if steps else ""
        )
        where += f"{', ' * bool(steps)}{again} × nothing yet" if again else ""
        same = sum(passed for passed, _ in rows[kind])
        lines.append(
            f"| {kind} | {len(rows[kind])} | {where} | {'all' if same == len(rows[kind]) else f'{same}: FAILED'} |"
        )
    return lines


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.option.markexpr != "chaos" or not reports:
        return
    terminalreporter.section("kills")
    terminalreporter.write_line("\n".join(table()))
    if os.environ.get("CHAOS_REPORT"):
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "safetensors", "tensorboard"))
        system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {versions}"
        text = TEXT.format(date=datetime.date.today().isoformat(), system=system, table="\n".join(table()))
        Path(os.environ["CHAOS_REPORT"]).write_text(text, encoding="utf-8")


TEXT = """# Kill -9, and go on

Written by `CHAOS_REPORT=docs/chaos.md make chaos` on {date}: {system}.

A run of `train.py` on The Wizard of Oz (120 steps of two micro-batches, dropout, a validation and a checkpoint every five steps; with
token shards, with `tokenizer=char`, and with `data.stream=text`, BPE-dropout, Muon and an average of the weights) is killed with SIGKILL
and resumed with `resume=RUN`, again and again until it ends by itself. Forty kills and signals more are of runs with `logger=csv`, early
stopping, a mixture, attention within documents, or two processes; there each process has a clock of its own, up to an hour off. Then the
whole run folder is held against that of a run which nothing disturbed: `metrics.jsonl`, `model/`, the checkpoints, `samples.md` and
`curves.png` byte for byte, TensorBoard's points value for value, each step once, no file more and no file less.

A `write`, `fsync`, `rename` or `remove` is hit before the call, after it, and in its middle: half of the bytes written, one file of a
folder gone (`tests/chaos/kill.py`). Every such call of one save is hit, and of what resuming rewrites. `nothing yet` is a run that had no
`config.yaml` when it was killed: it is started anew. Step 0 is a run killed before its first checkpoint: resuming it starts again, and
says so.

{table}
"""
