"""Seconds from the start of the process to a loss on tiny Shakespeare's whole validation split,
beside nanoGPT's README command.

Ours is `train.py experiment=NAME`: its clock stops when the first validation at or below the target
stands in metrics.jsonl, and the run is stopped there; preparing the text is within that time.
nanoGPT's is its README's command for a CPU, from start to end, without its preparation of the text;
the loss of the weights that it saved is then taken over the whole split, every character once, by a
pass of ours, since what it prints is an estimate from random batches. Both predict the same
characters, the last tenth of the text, in windows of T. Without the text
(CORPORA/shakespeare/input.txt below data/, $LLM_CORPORA or ../shared/corpora) there is nothing to
measure.

    python benchmarks/time_to_loss.py                     at most two minutes on two cores
    python benchmarks/time_to_loss.py --nanogpt PATH      two more
    python benchmarks/time_to_loss.py --device cuda       nanoGPT's command for a GPU: to its 1.4697, and on to the best loss

Of ours, the seconds are also given in parts: training steps, the compiling (what the first ten
steps and the first validation took beyond the pace of the others), validations, and the start,
which is the rest.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from _nanogpt import load_module, train, write_characters
from _processes import REPO, run, shakespeare
from _record import check_nanogpt, median, record, take_turns
from _record import options as common_options

from llm_from_scratch.run import read_rows

# nanoGPT's README: "I only have a macbook", and "I have a GPU".
README = {
    "cpu": "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 "
    "--n_embd=128 --max_iters={0} --lr_decay_iters={0} --dropout=0.0",
    "cuda": "--max_iters={0} --lr_decay_iters={0}",
}
TRAINERS = {"cpu": "cpu", "cuda": "gpu"}
PARTS = ("training", "compiling", "validations", "start")
# For each device: our experiment, the loss and the iterations of nanoGPT's command.
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"experiment": "shakespeare_cpu", "target": 1.90, "nanogpt_iters": 2000},
    "cuda": {"experiment": "shakespeare_char", "target": 1.4697, "nanogpt_iters": 5000},
}


def ours(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Trains until a validation reaches the target, else to the end; returns the seconds, in total
    and in parts, and the loss of the last validation.
    """
    metrics, start = folder / "run" / "metrics.jsonl", time.perf_counter()
    reached: dict[str, Any] = {}

    def look() -> bool | None:
        """Returns True, which ends the run, at the first validation that reaches the target."""
        lines = metrics.read_text(encoding="utf-8").split("\n")[:-1] if metrics.exists() else []
        for row in map(json.loads, lines):
            if row["split"] == "val":
                loss = row["bits_per_byte"] * math.log(2)  # of a character: the text is ASCII
                reached.update(loss=loss, seconds=time.perf_counter() - start)
                if loss <= options.target:
                    return True
        return None

    overrides = [f"experiment={options.experiment}", "data=shakespeare", f"trainer={TRAINERS[options.device]}"]
    overrides += [f"data.dir={folder / 'data'}", f"run_dir={folder / 'run'}", *options.overrides]
    if options.threads:
        overrides.append(f"trainer.threads={options.threads}")
    done = run([str(REPO / "train.py"), *overrides], folder, options.threads, look)
    if look() is None:
        reached["seconds"] = done.seconds
    return reached | parts(read_rows(metrics.with_name("timing.jsonl")), reached["seconds"])


def parts(rows: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """Divides a run's seconds into training steps, compiling (what the first steps and the first
    validation took beyond the others), validations and the start (the rest).
    """
    steps = [row["seconds"] for row in rows if "seconds" in row]
    validations = [row["validation_seconds"] for row in rows if "validation_seconds" in row]
    compiling = {
        "steps": max(0.0, steps[0] - median(steps[1:])) if steps[1:] else 0.0,
        "validations": max(0.0, validations[0] - median(validations[1:])) if validations[1:] else 0.0,
    }
    return {
        "training": sum(steps) - compiling["steps"],
        "compiling": sum(compiling.values()),
        "validations": sum(validations) - compiling["validations"],
        "start": seconds - sum(steps) - sum(validations),
    }


def nanogpt(clone: Path, folder: Path, text: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the seconds of the whole README command, and the loss of its saved weights over the
    whole validation split.
    """
    import numpy as np
    import torch

    from llm_from_scratch.data.sampler import IGNORE, ValidationWindows

    data = folder / "data" / "shakespeare_char"
    known = write_characters(data, text)
    settings = README[options.device].format(options.nanogpt_iters).split()
    done = train(clone, folder, ["config/train_shakespeare_char.py", *settings], options.threads)
    state = torch.load(folder / "out-shakespeare-char" / "ckpt.pt", weights_only=True)
    module = load_module(clone)
    model = module.GPT(module.GPTConfig(**state["model_args"])).eval()
    # nanoGPT saves the weights of a compiled model under names with this prefix.
    model.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in state["model"].items()})
    # nanoGPT has no end-of-text: a newline stands before the first character of the split.
    ids = np.fromfile(data / "val.bin", np.uint16)
    windows = ValidationWindows([ids], block_size=state["model_args"]["block_size"], eot_id=known.index("\n"))
    nats = 0.0
    with torch.inference_mode():
        for x, y in windows.batches(32):
            targets = torch.from_numpy(y)
            logits, _ = model(torch.from_numpy(x), targets)
            nats += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
            ).item()
    return {"seconds": done.seconds, "loss": nats / len(ids), **dict.fromkeys(PARTS)}


def main() -> None:
    """Measures the contenders in turns and records the rows."""
    parser = common_options(__doc__, repeats=1)
    parser.add_argument("--device", choices=tuple(README), default="cpu", help="default: cpu")
    parser.add_argument("--target", type=float, help="nats a character (default: nanoGPT's, 1.90, on a GPU 1.4697)")
    parser.add_argument("--experiment", metavar="NAME", help="default: shakespeare_cpu, on a GPU shakespeare_char")
    parser.add_argument("--threads", type=int, help="of every process (default: torch's choice)")
    parser.add_argument("--nanogpt-iters", type=int, metavar="N", help="of its command (default: 2000, on a GPU 5000)")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="further settings of train.py")
    options = parser.parse_args()
    for name, value in DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    path = shakespeare()
    if path is None:
        print(
            "time_to_loss: skipped, tiny Shakespeare is not at hand (shakespeare/input.txt below data/ or $LLM_CORPORA)"
        )
        return
    clone, text = check_nanogpt(parser, options.nanogpt), path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        numbers = iter(range(10**6))

        def folder() -> Path:
            return Path(name) / str(next(numbers))

        contenders = {f"train.py experiment={options.experiment}": lambda: ours(folder(), options)}
        if clone:
            contenders["nanoGPT's README command"] = lambda: nanogpt(clone, folder(), text, options)
        found = take_turns(contenders, options.repeats)
    seconds = {who: median([one["seconds"] for one in ones]) for who, ones in found.items()}
    peer = seconds.get("nanoGPT's README command")
    rows = [
        {
            "who": who,
            "seconds": seconds[who],
            "loss": median([one["loss"] for one in ones]),
            "reached": all(one["loss"] <= options.target for one in ones),
            "seconds to nanoGPT's": seconds[who] / peer if peer else None,
            **{part: median([one[part] for one in ones]) if ones[0][part] is not None else None for part in PARTS},
        }
        for who, ones in found.items()
    ]
    shared = {
        "target": options.target,
        "device": options.device,
        "threads": options.threads,
        "repeats": options.repeats,
        "overrides": " ".join(options.overrides) or None,
    }
    record("time_to_loss", rows, options.results, shared)


if __name__ == "__main__":
    main()
