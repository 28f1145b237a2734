"""What the benchmarks share: their options, peers that take turns, a table for the reader, a line
in results/ for the next one.
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

from llm_from_scratch import __version__
from llm_from_scratch.errors import DISTRIBUTION

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"


def options(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark takes; `repeats` is the default of how often
    each measurement is made.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help=f"measurements of each row (default: {repeats})")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where to append NAME.jsonl")
    # Every benchmark takes it, so that `make bench` can hand it to all; those without this peer do
    # not look.
    parser.add_argument(
        "--nanogpt", type=Path, metavar="PATH", help="a clone of karpathy/nanoGPT, to run beside this project"
    )
    return parser


def check_nanogpt(parser: argparse.ArgumentParser, clone: Path | None) -> Path | None:
    """The clone as an absolute path; says so where there is none, ends the program where it is
    something else.
    """
    if clone is None:
        print("nanoGPT: left out (--nanogpt PATH names a clone)")
        return None
    if not (clone / "model.py").is_file() or not (clone / "train.py").is_file():
        parser.error(f"--nanogpt {clone}: it holds no model.py and train.py; clone karpathy/nanoGPT there")
    return clone.resolve()


def take_turns(measurements: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """A B A B …: whatever else the machine does meanwhile falls on all of them alike."""
    results: dict[str, list[T]] = {name: [] for name in measurements}
    for _ in range(repeats):
        for name, measure in measurements.items():
            results[name].append(measure())
    return results


def median(values: list[float]) -> float:
    """The middle one: a single interruption by another process does not move it."""
    return statistics.median(values)


def processor() -> str:
    """The name of the CPU, and of the GPU where there is one."""
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
    """Prints the rows as a table and appends them to RESULTS/BENCHMARK.jsonl with versions,
    processor and date.

    What all rows have in common is `shared`: it stands in the title, and in every line of the file.
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
        # The package itself may be a checkout on the path, which no installer knows.
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
