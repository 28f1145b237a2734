"""Figure and tables of chapter 2: bits per byte of Oz against the size of the vocabulary.

python docs/course/figures/02_tokens.py                               models that count, in seconds
python docs/course/figures/02_tokens.py outputs/oz_vocabulary/SWEEP   and keeps the results of sweep=vocabulary
"""

import argparse
import json
import math
import re
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from book import prepared_book
from style import BLACK, BLUE, COLOURS, LINES, MARKERS, new, save

from llm_from_scratch import load_run
from llm_from_scratch.evaluation.ngram import kneser_neys, nats
from llm_from_scratch.run import RunFolder
from llm_from_scratch.training.results import completed

KEPT = Path(__file__).with_name("02_vocabulary.json")
CHAPTER = Path(__file__).parents[1] / "02_tokens.md"
SIZES = (262, 512, 1024, 2048, 4096, 8192)
LOOKS_BACK = (1, 2, 7)  # tokens
# Student's t: half of a 95 % interval in standard errors, by the number of seeds
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}

Row = dict[str, float]


def counting() -> list[Row]:
    """Returns bits per byte of Kneser-Ney models that look back some tokens, one row a vocabulary."""
    rows = []
    for override in ("tokenizer=char", *(f"tokenizer.vocab_size={size}" for size in SIZES)):
        book = prepared_book(override)
        train, test = (
            np.concatenate([shard.tokens for shard in book.shards(split)]).astype(np.int64)
            for split in ("train", "val")
        )
        size = book.text_bytes("val")
        models = list(kneser_neys(train, max(LOOKS_BACK) + 1, book.tokenizer.vocab_size))
        bits = {str(back): nats(models[back + 1], test).sum() / math.log(2) / size for back in LOOKS_BACK}
        rows.append({"ids": book.tokenizer.vocab_size, "bytes": size / len(test), **bits})
    return rows


def trained(sweep: Path) -> list[Row]:
    """Returns one row for each run of sweep=vocabulary."""
    rows = []
    for path in completed(sweep):
        best = RunFolder(path).best()
        assert best is not None
        config, run = RunFolder(path).config(), load_run(str(path), device="cpu")
        rows.append(
            {
                "ids": run.tokenizer.vocab_size,
                "seed": config.seed,
                "numbers": run.model.num_parameters(),
                "tokens": config.trainer.max_steps * config.data.batch_size * config.model.block_size,
                "nats": best["loss"],
                "bits": best["bits_per_byte"],
            }
        )
    return rows


def summarise(rows: list[Row]) -> list[Row]:
    """Returns mean and half of the 95 % interval over the seeds of each vocabulary."""
    found = []
    for ids in sorted({row["ids"] for row in rows}):
        same = [row for row in rows if row["ids"] == ids]
        bits = [row["bits"] for row in same]
        half = STUDENT[len(bits)] * stdev(bits) / math.sqrt(len(bits)) if len(bits) > 1 else math.nan
        found.append({**same[0], "nats": fmean(row["nats"] for row in same), "bits": fmean(bits), "half": half})
    return found


def counted_table(rows: list[Row]) -> str:
    lines = [
        "| ids | bytes a token | " + " | ".join(f"looks back {n}" for n in LOOKS_BACK) + " |",
        "|---|---|" + "---|" * len(LOOKS_BACK),
    ]
    for row in rows:
        bits = " | ".join(f"{row[str(back)]:.3f}" for back in LOOKS_BACK)
        lines.append(f"| {row['ids']:,} | {row['bytes']:.2f} | {bits} |")
    return "\n".join(lines)


def trained_table(groups: list[Row]) -> str:
    lines = [
        "| ids | million tokens read | thousand parameters | nats a token | bits per byte (95 %) |",
        "|---|---|---|---|---|",
    ]
    for row in groups:
        lines.append(
            f"| {row['ids']:,} | {row['tokens'] / 1e6:.2f} | {row['numbers'] / 1e3:.0f} | {row['nats']:.2f} "
            f"| {row['bits']:.3f} ± {row['half']:.3f} |"
        )
    return "\n".join(lines)


def draw(rows: list[Row], groups: list[Row]) -> None:
    figure, (length, bits) = new(1, 2, width=8.2, height=3.6)
    sizes = [row["ids"] for row in rows]
    length.plot(sizes, [row["bytes"] for row in rows], "o-", color=BLUE)
    length.set(ylabel="bytes a token, held-out text", ylim=(0, 4.4), title="How much a token holds")
    for back, colour, marker, line in zip(LOOKS_BACK, COLOURS, MARKERS, LINES, strict=False):
        name = f"looks back {back} token" + "s" * (back > 1)
        bits.plot(sizes, [row[str(back)] for row in rows], marker + line, color=colour, label=name)
    if groups:
        values = [[row[key] for row in groups] for key in ("ids", "bits", "half")]
        bits.errorbar(*values, fmt="x:", capsize=4, color=BLACK, label="GPT, two layers")
    bits.set(ylabel="bits per byte, held-out text", title="How well it is guessed (lower is better)")
    bits.legend(fontsize=9)
    for axis in (length, bits):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
        axis.minorticks_off()
        axis.set_xlabel("ids in the vocabulary")
    save(figure, "02_vocabulary")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", type=Path, help="folder of a finished sweep=vocabulary")
    sweep = parser.parse_args().sweep
    if sweep:
        KEPT.write_text("[\n" + ",\n".join(json.dumps(row) for row in trained(sweep)) + "\n]\n", encoding="utf-8")
    rows, groups = counting(), summarise(json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else [])
    text = CHAPTER.read_text(encoding="utf-8")
    table = counted_table(rows)
    print(table)
    text = re.sub(r"^\| ids \| bytes.*?(?=\n\n)", lambda _: table, text, flags=re.MULTILINE | re.DOTALL)
    if groups:
        place = "<!-- sweep=vocabulary -->\n\n"
        made = trained_table(groups)
        print(made)
        text = re.sub(rf"^{place}(?:\|.*\n)*\n*", lambda _: f"{place}{made}\n\n", text, flags=re.MULTILINE)
    CHAPTER.write_text(text, encoding="utf-8")
    draw(rows, groups)


main()
