"""How long a user waits: `train.py --help`, `generate.py --help`, and the first token of
`generate.py`, beside the bare import of torch.

Wall-clock seconds of processes, taking turns; the first round, which fills the disk's cache, is not
counted. The first token is that of `generate.py` on a tiny trained run, from the start of the
process to the first byte behind the prompt.

    python benchmarks/startup.py     about a minute
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _processes import REPO, characters, environment, run
from _record import median, record, take_turns
from _record import options as common_options

PROMPT = "e"


def first_token(run_dir: Path) -> float:
    """Returns the seconds from the start of generate.py to its first byte after the prompt."""
    script = [sys.executable, str(REPO / "generate.py"), f"run={run_dir}", f"prompt={PROMPT}", "device=cpu"]
    start = time.perf_counter()
    process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=run_dir, env=environment())
    assert process.stdout is not None
    came = process.stdout.read(len(PROMPT) + 1)
    seconds = time.perf_counter() - start
    process.kill()
    errors = process.communicate()[1]
    if len(came) <= len(PROMPT):
        raise RuntimeError(f"generate.py wrote nothing: {errors.decode(errors='replace')[-2000:]}")
    return seconds


def main() -> None:
    """Trains the tiny run, then measures the programs in turns and records the rows."""
    parser = common_options(__doc__, repeats=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text(characters(50_000)[1], encoding="utf-8", newline="")
        overrides = [
            "model=tiny", "model.n_layer=2", "model.n_embd=64", "data=text", f"data.path={folder / 'text.txt'}",
            f"data.dir={folder / 'data'}", "tokenizer=char", "data.batch_size=4", "trainer=cpu", "trainer.max_steps=5",
            "sample.max_new_tokens=0", "logger=none", f"run_dir={folder / 'run'}",
        ]  # fmt: skip
        run([str(REPO / "train.py"), *overrides], folder)

        def timed(arguments: list[str]) -> Callable[[], float]:
            def seconds() -> float:
                # Not `run`, which notices the end of a process at its next poll only
                start = time.perf_counter()
                subprocess.run(
                    [sys.executable, *arguments], cwd=folder, env=environment(), capture_output=True, check=True
                )
                return time.perf_counter() - start

            return seconds

        programs = {
            "import torch": timed(["-c", "import torch"]),
            "train.py --help": timed([str(REPO / "train.py"), "--help"]),
            "generate.py --help": timed([str(REPO / "generate.py"), "--help"]),
            "generate.py, first token": lambda: first_token(folder / "run"),
        }
        times = {program: values[1:] for program, values in take_turns(programs, options.repeats + 1).items()}
    imports = times["import torch"]
    rows = [
        {
            "program": program,
            "seconds": median(values),
            "over import torch s": median([a - b for a, b in zip(values, imports, strict=True)]),
        }
        for program, values in times.items()
    ]
    record("startup", rows, options.results, {"repeats": options.repeats})


if __name__ == "__main__":
    main()
