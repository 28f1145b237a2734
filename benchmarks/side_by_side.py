"""Two trainings at the same time on the same cores, and what their waiting threads cost a training
that is alone.

OpenMP's threads wait for each other at the end of every parallel loop: first in a loop that keeps
the core busy (spins), then asleep. A long spin takes the core from the other training; a short one
costs a wake-up at each loop. `train.py` asks for machine.SPINS spins; the library's own number is
300,000. Each setting trains alone, then beside a twin, in turns with the others.

"ms alone" and "ms beside a twin" are the medians of a step; "speed beside a twin" is their ratio,
0.5 where two trainings share the cores fairly; "slower alone %" is against the library's own number
of spins. Times mean something on an idle machine alone.

    python benchmarks/side_by_side.py                              about ten minutes on two cores
    python benchmarks/side_by_side.py --spins 0 1000 10000 300000  other settings
"""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _processes import characters, train_py
from _record import median, record, take_turns
from _record import options as common_options

from llm_from_scratch.machine import SPINS, SPINS_VARIABLE

LIBRARY = 300_000  # libgomp's default number of spins


def main() -> None:
    """Measures each setting alone and beside a twin, in turns, and records the rows."""
    parser = common_options(__doc__, repeats=3)
    parser.add_argument("--spins", type=int, nargs="+", default=[LIBRARY, SPINS], help="GOMP_SPINCOUNT of each row")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of a training (default: 150)")
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

        def measure(spins: int, trainings: int) -> Callable[[], float]:
            def run() -> float:
                os.environ[SPINS_VARIABLE] = str(spins)
                places = [folder / str(next(made)) for _ in range(trainings)]
                with ThreadPoolExecutor(trainings) as pool:
                    return sum(pool.map(step_ms, places)) / trainings

            return run

        measure(SPINS, 1)()  # prepares the text
        measurements = {(spins, count): measure(spins, count) for spins in options.spins for count in (1, 2)}
        times = {key: median(values) for key, values in _turns(measurements, options.repeats).items()}
    base = times[LIBRARY if LIBRARY in options.spins else options.spins[0], 1]
    rows = [
        {
            "spins": spins,
            "ms alone": times[spins, 1],
            "ms beside a twin": times[spins, 2],
            "speed beside a twin": times[spins, 1] / times[spins, 2],
            "slower alone %": 100 * (times[spins, 1] / base - 1),
        }
        for spins in options.spins
    ]
    record("side_by_side", rows, options.results, {"repeats": options.repeats, "steps": options.steps})


def _turns(
    measurements: dict[tuple[int, int], Callable[[], float]], repeats: int
) -> dict[tuple[int, int], list[float]]:
    """Calls `take_turns`, whose keys are strings, with keys (spins, number of trainings)."""
    named = {f"{spins} {count}": run for (spins, count), run in measurements.items()}
    found = take_turns(named, repeats)
    return {key: found[f"{key[0]} {key[1]}"] for key in measurements}


if __name__ == "__main__":
    main()
