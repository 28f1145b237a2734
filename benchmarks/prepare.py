"""Preparing a corpus (documents -> token shards) beside nanoGPT's method: tiktoken's
encode_ordinary in datasets.map, then one file.

Both read the same parquet files, in the layout of the hub's OpenWebText, with the same byte-level
BPE of 50,257 ranks (GPT-2's own where --gpt2 names its files, else one trained here), on one
process and on two. MB are bytes of text, /s by the wall, "a CPU second" by what all processes
together used, which another load on the machine changes less. This project's time runs from the
files to verified shards with manifest and report; nanoGPT's from the loaded dataset to train.bin
and val.bin, so that reading the files is not held against it. The counts of tokens must be equal.
SentencePiece's rate is that of tokenizer=bpe. Then the time that all of OpenWebText would take in
its 80 files, from the rates of one and two workers; and once each, a small and a large corpus: the
rate, and a worker's largest anonymous memory. Documents: files of Python's standard library, or of
--text, cut and shuffled into pages of about 5,000 characters, as OpenWebText's are.

    python benchmarks/prepare.py --mb 200 --big-mb 1000     about 15 minutes; the peer needs: pip install datasets
"""

import importlib.util
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _processes import REPO, run
from _record import median, record, take_turns
from _record import options as common_options

from llm_from_scratch.errors import install_command

PAGE = 5_000  # characters; OpenWebText's mean is 4,963 bytes
PIECES = 50_257
END_OF_TEXT = "<|endoftext|>"
OPENWEBTEXT_MB, OPENWEBTEXT_FILES = 39_769, 80


def sources(path: str | None) -> list[str]:
    """Returns the cleaned texts to cut pages from; those of Python's standard library for None."""
    from llm_from_scratch.data.clean import clean
    from llm_from_scratch.data.sources import open_source

    source = open_source(name="text" if path else "stdlib", path=path, data_dir=REPO / "data")
    texts = []
    for document in source.documents():
        try:
            texts.append(clean(document.raw, document.name)[0])
        except ValueError:  # no text
            continue
    return texts


def write_pages(texts: list[str], folder: Path, mb: float, files: int = 4) -> int:
    """Writes parquet files of pages in the hub's layout, about `mb` MB of text; returns the bytes
    of text.
    """
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True)
    rng, schema, total = random.Random(1), pyarrow.schema([("text", pyarrow.string())]), 0
    for number in range(files):
        size = 0
        with parquet.ParquetWriter(folder / f"train-{number:05}-of-{files:05}.parquet", schema) as out:
            while size < mb * 1e6 / files:
                pages = []
                for _ in range(1000):
                    text = rng.choice(texts)
                    start = rng.randrange(max(1, len(text) - PAGE))
                    pages.append(text[start : start + rng.randrange(PAGE // 2, 3 * PAGE // 2)].strip() or "nothing")
                    size += len(pages[-1].encode())
                    if size >= mb * 1e6 / files:
                        break
                out.write_table(pyarrow.table({"text": pages}, schema=schema))
        total += size
    return total


def train_bpe(texts: list[str], folder: Path) -> None:
    """Trains a BPE and writes vocab.json and merges.txt: 50,257 tokens, end-of-text last, as GPT-2."""
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=PIECES - 1, min_frequency=1, show_progress=False)
    folder.mkdir()
    bpe.save_model(str(folder))
    vocab = bpe.get_vocab()
    (folder / "vocab.json").write_text(json.dumps(vocab | {END_OF_TEXT: len(vocab)}), encoding="utf-8")


# --------------------------------------------------------------------- in a process of its own each
def cpu_seconds() -> float:
    """Returns the CPU seconds of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


def ours(folder: str, pages: str, bpe: str, workers: int) -> dict[str, Any]:
    """Runs `prepare` with tokenizer=gpt2, or with the SentencePiece model where the folder `bpe`
    holds one; returns wall-clock and CPU seconds and tokens.
    """
    from llm_from_scratch.config import DataConfig, PrepareConfig, TokenizerConfig
    from llm_from_scratch.data.prepare import prepare
    from llm_from_scratch.tokenizer import load_tokenizer

    learned = (Path(bpe) / "tokenizer.model").exists()
    # shard_bytes=1 makes each file a task, as with OpenWebText's larger files.
    data = DataConfig(
        name="text", path=pages, dir=str(Path(folder) / "data"), val_fraction=0.01, keep_text=False, shard_bytes=1
    )
    tokenizer = TokenizerConfig() if learned else TokenizerConfig(kind="gpt2", vocab_size=None, path=bpe)
    start, used = time.perf_counter(), cpu_seconds()
    reuse = load_tokenizer(Path(bpe)) if learned else None
    facts = prepare(data, tokenizer, tokenizer=reuse, settings=PrepareConfig(workers=workers)).manifest["splits"]
    seconds, used = time.perf_counter() - start, cpu_seconds() - used
    return {"seconds": seconds, "cpu": used, "tokens": facts["train"]["tokens"] + facts["val"]["tokens"]}


def nanogpt(folder: str, pages: str, bpe: str, workers: int) -> dict[str, Any]:
    """Runs the method of nanoGPT's data/openwebtext/prepare.py; returns the same as `ours`."""
    os.environ["HF_HOME"] = folder
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    import datasets
    import numpy as np

    from llm_from_scratch.tokenizer import open_gpt2

    datasets.disable_progress_bars()
    tokenizer = open_gpt2(bpe)
    encode, eot = tokenizer._encoding.encode_ordinary, tokenizer.eot_id
    loaded = datasets.load_dataset("parquet", data_files=str(Path(pages) / "*.parquet"), split="train")
    start, used = time.perf_counter(), cpu_seconds()

    def tokenize(row: dict[str, str]) -> dict[str, Any]:
        ids = [*encode(row["text"]), eot]
        return {"ids": ids, "len": len(ids)}

    tokens = 0
    splits = loaded.train_test_split(test_size=0.01, seed=1, shuffle=True)
    for split, rows in splits.map(tokenize, remove_columns=["text"], num_proc=workers).items():
        count, place = int(np.sum(rows["len"], dtype=np.uint64)), 0
        out = np.memmap(Path(folder) / f"{split}.bin", np.uint16, "w+", shape=(count,))
        for number in range(min(1024, len(rows))):
            part = rows.shard(num_shards=min(1024, len(rows)), index=number, contiguous=True).with_format("numpy")
            ids = np.concatenate(part["ids"])
            out[place : place + len(ids)] = ids
            place += len(ids)
        out.flush()
        tokens += count
    return {"seconds": time.perf_counter() - start, "cpu": cpu_seconds() - used, "tokens": tokens}


METHODS = {"ours": ours, "nanoGPT's method": nanogpt}


def projected(rate: float, scaling: float, cores: int) -> float:
    """Returns the minutes for OpenWebText: its files are shared among `cores`, each at `rate` MB/s,
    times `scaling` above one core.
    """
    rounds = -(-OPENWEBTEXT_FILES // cores)
    return rounds * OPENWEBTEXT_MB / OPENWEBTEXT_FILES / (rate * (scaling if cores > 1 else 1)) / 60


def main() -> None:
    """Measures rates and memory, projects the time for OpenWebText, and records the rows."""
    parser = common_options(__doc__, repeats=3)
    parser.add_argument(
        "--mb", type=float, default=50, help="MB of text for the rates, and the small corpus (default: 50)"
    )
    parser.add_argument("--big-mb", type=float, default=100, help="MB of the large corpus (default: 100)")
    parser.add_argument("--text", metavar="PATH", help="texts to make the pages of (default: the standard library)")
    parser.add_argument("--gpt2", type=Path, metavar="FOLDER", help="GPT-2's vocab.json and merges.txt")
    options = parser.parse_args()
    for name in ("tiktoken", "tokenizers", "pyarrow"):
        if importlib.util.find_spec(name) is None:
            return print(f"preparation: left out, it needs {name}: {install_command('openwebtext,hf')}")
    methods = list(METHODS) if importlib.util.find_spec("datasets") else ["ours"]
    if len(methods) == 1:
        print("nanoGPT's method: left out (pip install datasets)")

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = sources(options.text)
        mb = write_pages(texts, folder / "small", options.mb) / 1e6
        big_mb = write_pages(texts, folder / "big", options.big_mb) / 1e6
        bpe = options.gpt2.resolve() if options.gpt2 else folder / "bpe"
        if not options.gpt2:
            train_bpe(texts, bpe)
        from llm_from_scratch.tokenizer import BPETokenizer

        BPETokenizer.train(texts, 16_384, sample_bytes=2_000_000).save(folder / "sentencepiece")
        runs: Iterator[int] = iter(range(10**6))

        def child(method: str, pages: str, bpe: Path, workers: int) -> dict[str, Any]:
            place = folder / f"run {next(runs)}"
            settings = json.dumps([method, str(place), str(folder / pages), str(bpe), workers])
            done = run([str(Path(__file__).resolve()), "--child", settings], place)
            return json.loads(done.stdout.splitlines()[-1]) | {"anonymous": done.anonymous_mb}

        cases = {(method, workers): (method, "small", bpe, workers) for method in methods for workers in (1, 2)}
        cases["SentencePiece", 1] = ("ours", "small", folder / "sentencepiece", 1)
        found = take_turns(
            {case: (lambda given=given: child(*given)) for case, given in cases.items()}, options.repeats
        )
        sizes = {"small": mb, "big": big_mb}
        held = {(pages, workers): child("ours", pages, bpe, workers) for pages in sizes for workers in (1, 2)}

    counts = {one["tokens"] for (method, _), results in found.items() if method != "SentencePiece" for one in results}
    if len(counts) > 1:
        raise RuntimeError(f"the methods differ in their counts of tokens: {counts}")
    rate = {case: mb / median([one["seconds"] for one in results]) for case, results in found.items()}
    by_cpu = {case: mb / median([one["cpu"] for one in results]) for case, results in found.items()}
    shared = {"MB": round(mb, 1), "BPE": "GPT-2's" if options.gpt2 else "trained here", "repeats": options.repeats}
    rows = []
    for method, workers in cases:
        peer = ("nanoGPT's method", workers)
        rows.append(
            {
                "method": method,
                "workers": workers,
                "MB/s": rate[method, workers],
                "MB a CPU second": by_cpu[method, workers],
                "to nanoGPT": rate[method, workers] / rate[peer] if peer in rate else None,
                "to nanoGPT by CPU": by_cpu[method, workers] / by_cpu[peer] if peer in rate else None,
                "to one worker": rate[method, workers] / rate[method, 1],
            }
        )
    record("prepare", rows, options.results, shared)
    scaling = rate["ours", 2] / rate["ours", 1] / 2
    rows = [
        {"cores": cores, "minutes for OpenWebText": projected(rate["ours", 1], scaling, cores)}
        for cores in (2, 16, 256)
    ]
    record("prepare", rows, options.results, shared)
    rows = [
        {
            "corpus MB": sizes[pages],
            "workers": workers,
            "MB/s": sizes[pages] / one["seconds"],
            "to one worker": held[pages, 1]["seconds"] / one["seconds"],
            "anonymous MB of a worker": one["anonymous"] if workers == 1 else None,
        }
        for (pages, workers), one in held.items()
    ]
    record("prepare", rows, options.results, {"BPE": shared["BPE"]})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        method, *settings = json.loads(sys.argv[2])
        print(json.dumps(METHODS[method](*settings)))
    else:
        main()
