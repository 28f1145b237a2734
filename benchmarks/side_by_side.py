"""Two trainings at the same time on the same cores, and what sharing costs a training that is alone.

OpenMP's threads wait for each other at the end of every parallel loop: first in a loop that keeps
the core busy (spins), then asleep. A long spin takes the core from the other training; a short one
costs a wake-up at each loop. `train.py` leaves the library's own number, 300,000, where the cores
are idle, and lets its threads sleep while others need the cores (src/llm_from_scratch/cores.py):
the row "train.py". A fixed number of spins switches that off. Each row trains alone, then beside a
twin, in turns with the others.

"ms alone" and "ms beside a twin" are the medians of a step; "speed beside a twin" is measured
against the fastest row alone, 0.5 where two trainings share the cores fairly, and "slower alone %"
as well. Times mean something on an idle machine alone.

    python benchmarks/side_by_side.py                           about ten minutes on two cores
    python benchmarks/side_by_side.py --spins 0 10000 300000    other fixed numbers
"""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _processes import characters, train_py
from _record import median, record, take_turns
from _record import options as common_options

OWN = "train.py"


def main() -> None:
    """Measures each row alone and beside a twin, in turns, and records them."""
    parser = common_options(__doc__, repeats=3)
    parser.add_argument("--spins", nargs="+", default=["1000", "300000"], help="GOMP_SPINCOUNT of further rows")
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps of a training (default: 120)")
    parser.add_argument("--warmup", type=int, default=30, help="of them not timed (default: 30)")
    parser.add_argument("--threads", type=int, help="of each training (default: one a core)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text(characters(300_000)[1], encoding="utf-8", newline="")
        overrides = [
            "model=tiny", "data=text", f"data.path={folder / 'text.txt'}", f"data.dir={folder / 'data'}",
            "tokenizer=char", "trainer=cpu", "logger=none", "tuned=none",
        ]  # fmt: skip
        made = iter(range(10**6))

        def step_ms(place: Path) -> float:
            steps = train_py(place, overrides, steps=options.steps, warmup=options.warmup, threads=options.threads)
            return 1000 * steps.seconds

        def measure(row: str, trainings: int) -> Callable[[], float]:
            def run() -> float:
                os.environ.pop("GOMP_SPINCOUNT", None)
                if row != OWN:
                    os.environ["GOMP_SPINCOUNT"] = row
                places = [folder / str(next(made)) for _ in range(trainings)]
                with ThreadPoolExecutor(trainings) as pool:
                    return sum(pool.map(step_ms, places)) / trainings

            return run

        measure(OWN, 1)()  # prepares the text
        names = [OWN, *options.spins]
        turns = {f"{name} {count}": measure(name, count) for name in names for count in (1, 2)}
        times = {name: median(values) for name, values in take_turns(turns, options.repeats).items()}
    best = min(times[f"{name} 1"] for name in names)
    rows = [
        {
            "spins": name,
            "ms alone": times[f"{name} 1"],
            "ms beside a twin": times[f"{name} 2"],
            "speed beside a twin": best / times[f"{name} 2"],
            "slower alone %": 100 * (times[f"{name} 1"] / best - 1),
        }
        for name in names
    ]
    shared = {"steps": options.steps - options.warmup, "threads": options.threads, "repeats": options.repeats}
    record("side_by_side", rows, options.results, shared)


if __name__ == "__main__":
    main()
