"""One prepared check of everything that needs a GPU: the CUDA tests, then each speed that has a
goal, in under nine minutes.

It needs no network and no installation: the libraries of the machine and this checkout are enough.
The parts run one after the other, each with a time limit; a part that fails or is not done in time
is reported, and the next one starts. The lines of the parts go to gpu/NAME.jsonl below $OUT, where
that is set, else below --results; a table comes last. --nanogpt PATH runs that peer beside.

    python benchmarks/gpu.py --nanogpt PATH        all parts
    python benchmarks/gpu.py --only decoding       some of them

On a machine without a GPU the parts run at a small size on the CPU, which shows that they work, and
the table says "not measured".
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _processes import REPO, environment
from _record import RESULTS, check_nanogpt, processor
from _record import options as common_options

BENCHMARKS = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """A program of the check: its arguments after `python`, and its time limit in seconds."""

    arguments: list[str]
    seconds: int


def parts(on_gpu: bool, results: Path, clone: Path | None) -> dict[str, Part]:
    """Returns the programs by name, in the order in which they run; small ones without a GPU."""
    common = ["--repeats", "1", "--results", str(results)]
    peer = ["--nanogpt", str(clone)] if clone else []

    def benchmark(name: str, seconds: int, *arguments: str) -> Part:
        return Part([str(BENCHMARKS / f"{name}.py"), *common, *arguments], seconds)

    tests = ["tests/training/test_gpu.py", "tests/test_static_step.py"]
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(REPO / test) for test in tests)]
    if on_gpu:
        gpt2 = ["--gpt2", "--device", "cuda"]
        contenders = ["gpt2-shape", "modern", "nanogpt-compiled"]
        return {
            # A test that trains takes half a minute, most of it to import libraries.
            "tests": Part([*tests, "-n", "8"], 120),
            "decoding": benchmark("decoding", 100, *gpt2, "--batches", "1", "64", "--compile", "false", *peer),
            "training": benchmark(
                "training", 215, *gpt2, "--steps", "70", "--warmup", "35", "--only", *contenders, *peer
            ),
            # nanoGPT's whole command takes two minutes more: benchmarks/time_to_loss.py --device
            # cuda --nanogpt PATH.
            "time_to_loss": benchmark("time_to_loss", 90, "--device", "cuda"),
        }
    tiny = ["--n-layer", "1", "--n-head", "1", "--n-embd", "32", "--block-size", "16"]
    return {
        "tests": Part([*tests, "-k", "bucket or greedy-3"], 150),
        "decoding": benchmark("decoding", 60, *tiny, *["--new-tokens", "4", "--threads", "1"]),
        "training": benchmark(
            "training",
            120,
            *tiny,
            *["--batch-size", "2", "--steps", "3", "--warmup", "1", "--threads", "1", "--only", "gpt2-shape"],
        ),
        "time_to_loss": benchmark(
            "time_to_loss",
            120,
            *[
                "--experiment",
                "shakespeare_cpu",
                "--target",
                "9",
                "--overrides",
                "trainer.max_steps=2",
                "trainer.val_check_interval=1",
            ],
            *["model.n_layer=1", "model.n_embd=32", "model.n_head=1"],
        ),
    }


def run(part: Part, log: Path) -> tuple[str, float]:
    """Runs a part and kills all its processes at the end; returns "done" or the reason why not, and
    the seconds.
    """
    start = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *part.arguments],
            cwd=REPO,
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(part.seconds)
            said = "done" if status == 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            said = f"not done in {part.seconds} s"
        finally:
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError):  # the group has ended already
                    os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
    return said, time.perf_counter() - start


def figures(results: Path, kept: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows that this run's parts wrote, by file name; appends them to files in `kept`."""
    found = {}
    for path in sorted(results.glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8")
        found[path.stem] = [json.loads(line) for line in lines.splitlines()]
        with (kept / path.name).open("a", encoding="utf-8") as file:
            file.write(lines)
    return found


def rows(found: dict[str, list[dict[str, Any]]], on_gpu: bool) -> list[dict[str, str]]:
    """Returns the rows of the final table: one a measured line, with its peer of the same run."""
    table = []

    def add(name: str, value: str, peer: str = "–") -> None:
        table.append({"what": name, "measured": value if on_gpu else "not measured", "beside": peer if on_gpu else "–"})

    for line in found.get("decoding", []):
        beside = [
            f"{line[key]:.1f} x {key[3:]}" for key in ("to nanoGPT", "to Hugging Face") if line[key] not in (None, 1)
        ]
        first = f", first token {line['first token s']:.2f} s" if line["first token s"] is not None else ""
        first += f", first text {line['first text s']:.2f} s" if line["first text s"] is not None else ""
        name = f"decoding, batch {line['batch']}: {line['writer']}"
        add(name, f"{line['tokens/s']:,.0f} tokens/s{first}", ", ".join(beside) or "–")
    for line in found.get("training", []):
        ratio = line["to best nanoGPT"]
        add(
            f"training: {line['contender']}",
            f"{line['tokens/s']:,.0f} tokens/s, {line['ms a step']:.1f} ms a step, MFU {line['MFU %']:.1f} %",
            f"{ratio:.3f} x nanoGPT" if ratio else "–",
        )
    for line in found.get("time_to_loss", []):
        split = ", ".join(f"{name} {line[name]:.1f}" for name in ("start", "compiling", "training", "validations"))
        reached = "" if line["reached"] else " (not reached)"
        add(f"seconds to {line['target']} nats: {line['who']}", f"{line['seconds']:.1f} s{reached}", split)
    return table


def main() -> int:
    """Runs the parts; returns the exit status, 0 when all of them were done, else 1."""
    parser = common_options(__doc__, repeats=1)
    names = list(parts(False, RESULTS, None))
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=" ".join(names))
    options = parser.parse_args()
    clone = check_nanogpt(parser, options.nanogpt)

    import torch
    from rich.console import Console
    from rich.table import Table

    on_gpu = torch.cuda.is_available()
    kept = (Path(os.environ["OUT"]) if os.environ.get("OUT") else options.results.resolve()) / "gpu"
    kept.mkdir(parents=True, exist_ok=True)
    ended, start = {}, time.perf_counter()
    with tempfile.TemporaryDirectory() as name_of_folder:
        results = Path(name_of_folder)
        for name, part in parts(on_gpu, results, clone).items():
            if name not in options.only:
                continue
            print(f"{name}: {' '.join(part.arguments)}", flush=True)
            ended[name] = run(part, kept / f"{name}.log")
            lines = (kept / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
            print("\n".join(lines[-6 if ended[name][0] == "done" else -40 :]), flush=True)
        found = figures(results, kept)

    gpu = torch.cuda.get_device_name() if on_gpu else "no GPU here: a small size on the CPU, nothing is measured"
    table = Table(title=f"{gpu}, torch {torch.__version__}", title_justify="left")
    for heading in ("what", "measured", "beside"):
        table.add_column(heading)
    for name, (said, seconds) in ended.items():
        table.add_row(f"part {name}", said, f"{seconds:.0f} s")
    measured = rows(found, on_gpu)
    for row in measured:
        table.add_row(*row.values())
    Console(width=150).print(table)
    facts = {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "torch": torch.__version__}
    with (kept / "table.jsonl").open("a", encoding="utf-8") as file:
        for row in measured:
            file.write(json.dumps(row | facts) + "\n")
    print(f"{time.perf_counter() - start:.0f} s in all")
    return 0 if all(said == "done" for said, _ in ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
