"""Where every benchmark's figures go: a table for the reader, a line in results/ for the next one."""

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


def processor() -> str:
    """The name of the CPU, and of the GPU where there is one."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = f"{len(names)} x {names[0]}" if names else name
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name


def record(benchmark: str, rows: list[dict[str, Any]]) -> None:
    """Prints the rows as a table and appends them to results/BENCHMARK.jsonl with versions, processor and date."""
    table = Table(title=benchmark, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=140).print(table)
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "versions": {name: version(name) for name in ("torch", "lightning", "llm-from-scratch")},
    }
    path = Path(__file__).parent / "results" / f"{benchmark}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row | facts) + "\n")
