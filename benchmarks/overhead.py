"""What Lightning's loop costs: milliseconds a step of `train.py` over a raw loop of the same model
and optimizer.

A very small model on one CPU thread, so that the loop is what is measured. `train.py` is a whole
run as a user starts it: logging every 10 steps, TensorBoard, all callbacks (and one more that holds
the watch). The raw loop reads that run's own configuration and prepared text: the same batches,
model, clipping, schedule and AdamW, nothing logged. Both are processes of their own, taking turns,
timed over the steps behind the warm-up.

    python benchmarks/overhead.py     about a minute and a half
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from _processes import characters, run, train_py
from _record import median, record, take_turns
from _record import options as common_options


def raw_loop(run_dir: Path, steps: int, warmup: int) -> float:
    """Returns the seconds per step of a plain loop after the warm-up, with the configuration and
    the prepared text of a run.
    """
    import torch

    from llm_from_scratch.check import check
    from llm_from_scratch.config import Config
    from llm_from_scratch.data.prepare import prepare
    from llm_from_scratch.data.sampler import RandomChunkSampler
    from llm_from_scratch.model import GPT, GPTConfig
    from llm_from_scratch.saved_config import read_config
    from llm_from_scratch.training.data import TrainingBatches
    from llm_from_scratch.training.optimizers import lr_factor, make_optimizer

    torch.set_num_threads(1)
    config = check(read_config(run_dir / "config.yaml"), Config)
    prepared = prepare(config.data, config.tokenizer)
    torch.manual_seed(config.seed)
    model = GPT(GPTConfig(vocab_size=prepared.tokenizer.vocab_size, **vars(config.model)))
    optimizer = make_optimizer(model, config.optim, fused=True)
    sampler = RandomChunkSampler(
        [shard.tokens for shard in prepared.shards("train")],
        block_size=config.model.block_size,
        batch_size=config.data.batch_size,
        seed=config.seed,
    )
    assert config.trainer.gradient_clip_val is not None
    since = 0.0
    for step, batch in zip(range(steps), TrainingBatches(sampler, config.data.batch_size, 0, False), strict=False):
        if step == warmup:
            since = time.perf_counter()
        share = lr_factor(step, config.optim, steps)
        for group in optimizer.param_groups:
            group["lr"] = config.optim.lr * share
        model.loss(batch.x, batch.y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.trainer.gradient_clip_val)
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - since) / (steps - warmup)


def main() -> None:
    """Measures both loops in turns and records the row."""
    parser = common_options(__doc__, repeats=5)
    parser.add_argument("--steps", type=int, default=2200, help="optimizer steps of each run (default: 2200)")
    parser.add_argument("--warmup", type=int, default=200, help="steps before the watch starts (default: 200)")
    parser.add_argument("--n-layer", type=int, default=1, metavar="N")
    parser.add_argument("--n-embd", type=int, default=16, metavar="N")
    parser.add_argument("--block-size", type=int, default=16, metavar="T")
    parser.add_argument("--batch-size", type=int, default=16, metavar="B")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="further settings of train.py")
    options = parser.parse_args()
    if not 1 <= options.warmup < options.steps:
        parser.error(f"--steps {options.steps} must exceed --warmup {options.warmup}, which is 1 or more")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text(characters(200_000)[1], encoding="utf-8", newline="")
        overrides = [
            "model=tiny", f"model.n_layer={options.n_layer}", "model.n_head=1", f"model.n_embd={options.n_embd}",
            f"model.block_size={options.block_size}", f"data.batch_size={options.batch_size}",
            "data=text", f"data.path={folder / 'text.txt'}", f"data.dir={folder / 'data'}", "tokenizer=char",
            "trainer=cpu", "trainer.threads=1", *options.overrides,
        ]  # fmt: skip
        runs: list[Path] = []

        def lightning() -> float:
            runs.append(folder / f"run{len(runs)}")
            return train_py(runs[-1], overrides, steps=options.steps, warmup=options.warmup, threads=1).seconds

        def raw() -> float:
            settings = json.dumps([str(runs[-1] / "run"), options.steps, options.warmup])
            return float(run([str(Path(__file__).resolve()), "--raw-loop", settings], folder / "raw", 1).stdout)

        seconds = take_turns({"train.py": lightning, "raw loop": raw}, options.repeats)
    ours, plain = ([1000 * value for value in seconds[name]] for name in ("train.py", "raw loop"))
    row = {
        "train.py ms a step": median(ours),
        "raw loop ms a step": median(plain),
        "difference ms": median([a - b for a, b in zip(ours, plain, strict=True)]),
        "ratio": median(ours) / median(plain),
    }
    shared = {
        "shape": f"{options.n_layer} x {options.n_embd}, T={options.block_size}, B={options.batch_size}",
        "steps": options.steps - options.warmup,
        "repeats": options.repeats,
        "overrides": " ".join(options.overrides) or None,
    }
    record("overhead", [row], options.results, shared)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--raw-loop"]:  # in the process that `raw` starts
        run_dir, *counts = json.loads(sys.argv[2])
        print(raw_loop(Path(run_dir), *counts))
    else:
        main()
