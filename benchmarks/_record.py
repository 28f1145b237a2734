"""Shared code of the benchmarks: their options, turns, the printed table, and the lines appended to
results/.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from _processes import REPO

from llm_from_scratch import __version__
from llm_from_scratch.errors import DISTRIBUTION

T = TypeVar("T")
RESULTS = REPO / "benchmarks" / "results"


def options(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """Returns a parser with the options of every benchmark; `repeats` is the default of --repeats."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help=f"measurements of each row (default: {repeats})")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where to append NAME.jsonl")
    # Every benchmark takes it, so that `make bench` can pass it to all; those without this peer
    # ignore it.
    parser.add_argument(
        "--nanogpt", type=Path, metavar="PATH", help="a clone of karpathy/nanoGPT, to run beside this project"
    )
    return parser


def check_nanogpt(parser: argparse.ArgumentParser, clone: Path | None) -> Path | None:
    """Returns the clone as an absolute path, or None with a note where none is named; ends the
    program where the folder is no nanoGPT.
    """
    if clone is None:
        print("nanoGPT: left out (--nanogpt PATH names a clone)")
        return None
    if not (clone / "model.py").is_file() or not (clone / "train.py").is_file():
        parser.error(f"--nanogpt {clone}: it holds no model.py and train.py; clone karpathy/nanoGPT there")
    return clone.resolve()


def take_turns(measurements: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Runs the measurements in turns, A B A B …, so that other load on the machine falls on all
    alike; returns the results of each.
    """
    results: dict[str, list[T]] = {name: [] for name in measurements}
    for _ in range(repeats):
        for name, measure in measurements.items():
            results[name].append(measure())
    return results


def median(values: list[float]) -> float:
    """Returns the median, which a single interruption by another process does not move."""
    return statistics.median(values)


def processor() -> str:
    """Returns the name of the CPU, followed by that of the GPU if there is one."""
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = f"{len(names)} x {names[0]}" if names else name
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name


def record(
    benchmark: str,
    rows: list[dict[str, Any]],
    results: Path = RESULTS,
    shared: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Prints the rows as a table and appends them to `results`/`benchmark`.jsonl with versions,
    processor and date.

    `shared` holds what all rows have in common; the title and every line of the file contain it.
    """
    from rich.console import Console
    from rich.table import Table

    title = ", ".join([benchmark, *(f"{name} {value}" for name, value in shared.items() if value is not None)])
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        assert row.keys() == rows[0].keys()
        table.add_row(*(_cell(value) for value in row.values()))
    Console(width=140).print(table)
    facts: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        # The package may be a checkout on the path, of which importlib.metadata knows nothing.
        "versions": {name: version(name) for name in ("torch", "lightning")} | {DISTRIBUTION: __version__},
    }
    results.mkdir(parents=True, exist_ok=True)
    with (results / f"{benchmark}.jsonl").open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row | dict(shared) | facts) + "\n")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return "–" if value is None else str(value)
