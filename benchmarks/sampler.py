"""The random-chunk sampler beside nanoGPT's `get_batch`, on the same file of uint16 ids, and its
memory for a small and a huge corpus.

Tokens a second are those of the inputs, B x T a batch; both hand over inputs and targets as int64
tensors on the CPU. nanoGPT's function is read out of its train.py as it stands. The memory is that
of a process of its own which opens shards as training does and reads batches from it: its anonymous
memory at the end, and what opening and reading added, from the least disturbed of the runs. The
huge corpus is --shards sparse files (9 billion tokens, as OpenWebText has), which take no room on
the disk; shards of their size are not read whole for their checksums when they are opened. Each
batch is read twice: the first time from pages that may be in no cache, then from warm ones; the
warm rate beside that of the small corpus says what the size costs.

    python benchmarks/sampler.py --nanogpt PATH     about half a minute
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from _nanogpt import load_get_batch
from _processes import anonymous_mb, run
from _record import check_nanogpt, median, record, take_turns
from _record import options as common_options

VOCABULARY = 50_257


def write_small(path: Path, tokens: int) -> None:
    """Writes a shard of one document with random ids."""
    import numpy as np

    from llm_from_scratch.data.shards import write_shard

    ids = np.random.default_rng(0).integers(VOCABULARY, size=tokens)
    write_shard(path, [(ids, 4 * tokens)], vocab_size=VOCABULARY, tokenizer="none")


def write_sparse(path: Path, tokens: int) -> None:
    """Writes a sparse shard of `tokens` zeros; its index is valid but for the checksum of the ids."""
    write_small(path, 1)
    os.truncate(path.with_suffix(".bin"), 2 * tokens)
    index, ends = path.with_suffix(".idx"), tokens.to_bytes(8, "little")
    header = json.loads(index.read_bytes().split(b"\n")[0])
    header |= {"tokens": tokens, "document_ends_sha256": hashlib.sha256(ends).hexdigest()}
    index.write_bytes(json.dumps(header).encode() + b"\n" + ends)


def read_batches(shards: list[str], block_size: int, batch_size: int, batches: int) -> dict[str, float | None]:
    """Opens shards and reads batches; returns this process's anonymous memory before and after, the
    corpus's size (MB), and milliseconds per batch, cold and warm.
    """
    from llm_from_scratch.data.sampler import RandomChunkSampler
    from llm_from_scratch.data.shards import open_shard

    before = anonymous_mb()
    tokens = [open_shard(shard).tokens for shard in shards]
    sampler = RandomChunkSampler(tokens, block_size=block_size, batch_size=batch_size, seed=0)
    milliseconds = []
    for steps in (range(batches), [step for _ in range(10) for step in range(batches)]):
        start = time.perf_counter()
        for step in steps:
            sampler.batch(step)
        milliseconds.append(1000 * (time.perf_counter() - start) / len(steps))
    size = sum(part.nbytes for part in tokens) / 1e6
    return {"before": before, "after": anonymous_mb(), "corpus": size, "ms": milliseconds[0], "warm": milliseconds[1]}


def main() -> None:
    """Measures speed, then memory, and records the rows."""
    parser = common_options(__doc__, repeats=7)
    parser.add_argument("--batch-size", type=int, default=64, metavar="B", help="sequences (default: 64)")
    parser.add_argument("--block-size", type=int, default=256, metavar="T", help="tokens (default: 256)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement of speed (default: 0.5)")
    parser.add_argument("--batches", type=int, default=30, help="read for the memory (default: 30)")
    parser.add_argument("--huge-gb", type=float, default=18.0, help="size of the sparse corpus (default: 18)")
    parser.add_argument("--shards", type=int, default=40, help="of the sparse corpus (default: 40)")
    options = parser.parse_args()
    clone = check_nanogpt(parser, options.nanogpt)
    B, T = options.batch_size, options.block_size

    import torch

    from llm_from_scratch.data.sampler import RandomChunkSampler
    from llm_from_scratch.data.shards import open_shard
    from llm_from_scratch.training.data import TrainingBatches

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, huge = folder / "train", [folder / f"huge_{number:05}" for number in range(options.shards)]
        write_small(small, 500_000)  # 1 MB
        for shard in huge:
            write_sparse(shard, int(options.huge_gb * 1e9) // 2 // len(huge))
        sampler = RandomChunkSampler([open_shard(small).tokens], block_size=T, batch_size=B, seed=0)
        ours = iter(TrainingBatches(sampler, B, 0, False))
        readers = {"this sampler": lambda: next(ours)}
        if clone:
            names = {
                "np": __import__("numpy"),
                "torch": torch,
                "os": os,
                "data_dir": name,
                "device_type": "cpu",
                "device": "cpu",
            }
            get_batch = load_get_batch(clone, names | {"block_size": T, "batch_size": B})
            readers["nanoGPT's get_batch"] = lambda: get_batch("train")
        for read in readers.values():
            assert [(part.shape, part.dtype) for part in read()[:2]] == [((B, T), torch.int64)] * 2

        def speed(reader: str) -> float:
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < options.seconds:
                readers[reader]()
                count += 1
            return count * B * T / (time.perf_counter() - start)

        speeds = take_turns({reader: (lambda reader=reader: speed(reader)) for reader in readers}, options.repeats)
        rates = {reader: median(values) for reader, values in speeds.items()}

        def memory(shards: list[Path]) -> dict[str, float | None]:
            settings = json.dumps([[str(shard) for shard in shards], T, B, options.batches])
            return json.loads(run([str(Path(__file__).resolve()), "--read-batches", settings], folder / "child").stdout)

        both = take_turns({"small": lambda: memory([small]), "huge": lambda: memory(huge)}, options.repeats)
        # The run with the fastest warm reads is the least disturbed one.
        memories = [min(found, key=lambda one: one["warm"]) for found in both.values()]

    peer = rates.get("nanoGPT's get_batch")
    shared = {"shape": f"B={B}, T={T}", "repeats": options.repeats}
    rows = [
        {"reader": reader, "tokens/s": rate, "to nanoGPT": rate / peer if peer else None}
        for reader, rate in rates.items()
    ]
    record("sampler", rows, options.results, shared)
    if any(None in one.values() for one in memories):
        print("memory: left out, this system does not say how much of it is anonymous (Linux does)")
        return
    rows = [
        {
            "corpus MB": one["corpus"],
            "shards": shards,
            "batches": options.batches,
            "anonymous MB": one["after"],
            "added MB": one["after"] - one["before"],
            "ms a batch": one["ms"],
            "warm tokens/s": 1000 * B * T / one["warm"],
            "to the small one": memories[0]["warm"] / one["warm"],
        }
        for one, shards in zip(memories, (1, options.shards), strict=True)
    ]
    record("sampler", rows, options.results, shared)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read-batches"]:  # in the process that `memory` starts
        print(json.dumps(read_batches(*json.loads(sys.argv[2]))))
    else:
        main()
