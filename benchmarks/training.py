"""Training throughput beside nanoGPT and Hugging Face, every one in a process of its own, taking
turns.

nanoGPT's CPU row: 4 layers, 4 heads, width 128, T=64, B=12, characters, no dropout, float32. `gpt2
shape` is `train.py` with nanoGPT's architecture, `modern` is `model=tiny` at that size: whole runs
with TensorBoard, as a user starts them. nanoGPT is its own `train.py` without evaluations, plain
and compiled; Hugging Face is GPT2LMHeadModel in a plain loop. Each is timed over the steps behind
the warm-up.

    python benchmarks/training.py                                       about a minute and a half on two cores
    python benchmarks/training.py --nanogpt PATH --steps 300            for the record: about six
    python benchmarks/training.py --gpt2 --device cuda --nanogpt PATH   GPT-2 124M, T=1024, bfloat16

MFU is the share of the fastest matrix product measured here (float32 on a CPU, bfloat16 on a GPU)
that a step's multiplications reach, at 6 N + 12 L C T operations a token: N weights in matrix
products, L layers, C width (Chowdhery et al. 2022, appendix B, attention counted without the causal
mask). Memory is the process's largest anonymous memory, and what torch allocated on the GPU at
most.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _nanogpt import train_steps, write_characters, write_ids
from _processes import Steps, characters, run, train_py
from _record import check_nanogpt, median, record, take_turns
from _record import options as common_options

CPU_ROW = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12, "steps": 120, "warmup": 20}
GPT2_ROW = {
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "block_size": 1024,
    "batch_size": 32,
    "steps": 120,
    "warmup": 40,
}
VOCABULARY = 50_257  # of the synthetic text of the GPT-2 row
CONTENDERS = ("gpt2-shape", "modern", "huggingface", "nanogpt", "nanogpt-compiled")


def arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Parses the command line; a size that is not given comes from CPU_ROW or GPT2_ROW."""
    parser = common_options(__doc__, repeats=3)
    parser.add_argument("--gpt2", action="store_true", help="GPT-2 124M with random ids instead of the CPU row")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="of every process (default: torch's choice)")
    for name in CPU_ROW:
        help_text = f"default: {CPU_ROW[name]}, with --gpt2 {GPT2_ROW[name]}"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=help_text)
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=CONTENDERS, metavar="NAME", help=" ".join(CONTENDERS)
    )
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="further settings of train.py")
    options = parser.parse_args()
    for name, value in (GPT2_ROW if options.gpt2 else CPU_ROW).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.warmup < 1 or options.steps <= options.warmup:
        parser.error(f"--steps {options.steps} must exceed --warmup {options.warmup}, which is 1 or more")
    return parser, options


def write_text(folder: Path, options: argparse.Namespace) -> int:
    """Writes the same text for all contenders: text.txt for train.py, data/bench/ in nanoGPT's
    format; returns the size of the vocabulary.
    """
    if not options.gpt2:
        _, text = characters()
        (folder / "text.txt").write_text(text, encoding="utf-8", newline="")
        return len(write_characters(folder / "data" / "bench", text))
    import numpy as np

    # One character an id, so that train.py's tokenizer has GPT-2's vocabulary: Chinese characters
    # and Korean syllables, which NFC leaves unchanged. Each occurs once before the random rest, and
    # one id is end-of-text.
    table = [*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000), *range(0xAC00, 0xD7A4), *range(0x20000, 0x2A6E0)]
    rng = np.random.default_rng(0)
    count = max(1_000_000, 200 * options.block_size)
    ids = np.concatenate((np.arange(VOCABULARY - 1), rng.integers(VOCABULARY - 1, size=count)))
    (folder / "text.txt").write_text("".join(chr(table[i]) for i in ids), encoding="utf-8", newline="")
    write_ids(folder / "data" / "bench", ids, ids[-20 * options.block_size :])
    return VOCABULARY


def overrides(folder: Path, options: argparse.Namespace, model: str) -> list[str]:
    """Returns the overrides of train.py: nanoGPT's settings, with the architecture `model`."""
    shape = [f"model.{key}={getattr(options, key)}" for key in ("n_layer", "n_head", "n_embd", "block_size")]
    return [
        f"model={model}", *shape, "model.dropout=0.0",
        *(["model.bias=false", "model.activation=gelu_erf"] if model == "gpt2" else []),
        "data=text", f"data.path={folder / 'text.txt'}", f"data.dir={folder / 'ours'}", "tokenizer=char", "data.val_fraction=0.02",
        f"data.batch_size={options.batch_size}",
        "optim.lr=1e-3", "optim.warmup_steps=100", "optim.beta2=0.99", "optim.weight_decay=0.1",
        # A long training on a GPU is compiled; `auto` would not compile a run as short as this.
        *(["trainer=gpu", "trainer.compile=true"] if options.device == "cuda" else ["trainer=cpu"]),
        *([f"trainer.threads={options.threads}"] if options.threads else []),
        *options.overrides,
    ]  # fmt: skip


def matrix_peak(device: str, threads: int | None) -> float:
    """Returns the FLOP/s of the fastest square matrix product: float32 of size 1024 to 2048 on a
    CPU, bfloat16 of 4096 or 8192 on a GPU.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    best = 0.0
    for size in (1024, 1536, 2048) if device == "cpu" else (4096, 8192):
        a, b = (
            torch.randn(size, size, device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
            for _ in "ab"
        )
        for _ in range(6):
            start = time.perf_counter()
            a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def operations(model: str, vocab_size: int, options: argparse.Namespace) -> float:
    """Returns the FLOPs of training on one token: 6 N + 12 L C T."""
    C, L = options.n_embd, options.n_layer
    from llm_from_scratch.config import ModelConfig

    inner = ModelConfig(n_embd=C, n_head=options.n_head).inner_size if model == "tiny" else 4 * C
    weights = L * (4 * C * C + (3 if model == "tiny" else 2) * inner * C) + vocab_size * C
    return 6 * weights + 12 * L * C * options.block_size


def huggingface(folder: Path, options: argparse.Namespace, vocab_size: int) -> Steps:
    """Times the plain loop of _huggingface.py in a process of its own."""
    shape = {key: getattr(options, key) for key in ("n_layer", "n_head", "n_embd", "block_size")}
    settings = {"model": shape | {"vocab_size": vocab_size}, "ids": str(folder / "data" / "bench" / "train.bin")}
    settings |= {key: getattr(options, key) for key in ("device", "batch_size", "steps", "warmup")}
    script = str(Path(__file__).with_name("_huggingface.py"))
    done = run([script, json.dumps(settings)], folder / "huggingface", options.threads)
    return Steps(anonymous_mb=done.anonymous_mb, **json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measures the contenders of --only that are available, in turns, and records the rows."""
    parser, options = arguments()
    clone = check_nanogpt(parser, options.nanogpt)
    fixed = {"steps": options.steps, "warmup": options.warmup, "threads": options.threads}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocab_size = write_text(folder, options)
        numbers = iter(range(10**6))

        def ours(model: str) -> Steps:
            return train_py(folder / f"run{next(numbers)}", overrides(folder, options, model), **fixed)

        nano: dict[str, Any] = {
            key: getattr(options, key) for key in ("n_layer", "n_head", "n_embd", "block_size", "batch_size", "device")
        }
        nano |= {"dataset": "bench", "gradient_accumulation_steps": 1, "dropout": 0.0, "learning_rate": 1e-3, "beta2": 0.99,
                 "warmup_iters": 100, "lr_decay_iters": 2000, "dtype": "bfloat16" if options.device == "cuda" else "float32"}  # fmt: skip

        def theirs(compiled: bool) -> Steps:
            assert clone is not None
            return train_steps(clone, folder, nano | {"compile": compiled}, **fixed)

        contenders: dict[str, tuple[str, Callable[[], Steps]]] = {
            "gpt2-shape": ("gpt2", lambda: ours("gpt2")),
            "modern": ("tiny", lambda: ours("tiny")),
            "huggingface": ("gpt2", lambda: huggingface(folder, options, vocab_size)),
        }
        if clone:
            contenders["nanogpt"] = ("gpt2", lambda: theirs(False))
            contenders["nanogpt-compiled"] = ("gpt2", lambda: theirs(True))
        contenders = {name: contender for name, contender in contenders.items() if name in options.only}
        peaks: list[float] = []

        def peak() -> Steps:
            peaks.append(matrix_peak(options.device, options.threads))
            return Steps(0.0, None, None)

        measured = take_turns(
            {"peak": peak} | {name: contender[1] for name, contender in contenders.items()}, options.repeats
        )

    tokens = options.batch_size * options.block_size
    rate = {name: tokens / median([steps.seconds for steps in measured[name]]) for name in contenders}
    peers = {
        name: max((rate[one] for one in rate if one.startswith(name)), default=None)
        for name in ("nanogpt", "huggingface")
    }
    rows = []
    for name, (model, _) in contenders.items():
        memory = {key: [getattr(steps, key) for steps in measured[name]] for key in ("anonymous_mb", "cuda_mb")}
        rows.append(
            {
                "contender": name,
                "ms a step": 1000 * tokens / rate[name],
                "tokens/s": rate[name],
                "to best nanoGPT": rate[name] / peers["nanogpt"] if peers["nanogpt"] else None,
                "to Hugging Face": rate[name] / peers["huggingface"] if peers["huggingface"] else None,
                "MFU %": 100 * rate[name] * operations(model, vocab_size, options) / max(peaks),
                **{
                    key.replace("_mb", " MB"): max(values) if None not in values else None
                    for key, values in memory.items()
                },
            }
        )
    shared = {
        "shape": f"{options.n_layer} x {options.n_embd}, T={options.block_size}, B={options.batch_size}",
        "device": options.device,
        "peak GFLOP/s": round(max(peaks) / 1e9, 1),
        "threads": options.threads,
        "steps": options.steps - options.warmup,
        "repeats": options.repeats,
        "overrides": " ".join(options.overrides) or None,
    }
    record("training", rows, options.results, shared)


if __name__ == "__main__":
    main()
