"""Figures of chapter 9: bits per byte of several predictors, and the surprise of each token.

    python docs/course/figures/09_loss.py

The first is read from docs/results.md, the second from the run `outputs/course/tales`, which
chapter 6 names the command of.
"""

import re
from pathlib import Path

import numpy as np
import torch
from style import BLUE, GREY, ORANGE, new, save

from llm_from_scratch import load_run, tales
from llm_from_scratch.evaluation.scoring import scorer, token_nats

RESULTS = Path(__file__).resolve().parents[2] / "results.md"
RUN = "outputs/course/tales"
# The row of docs/results.md, and what it is called here
ROWS = {
    "uniform, characters": "characters, all alike",
    "unigram, characters": "characters, by frequency",
    "zlib": "zlib",
    "lzma": "lzma",
    "Kneser-Ney 2, tokens": "n-grams, one token before",
    "bz2": "bz2",
    "Kneser-Ney 4, tokens": "n-grams, three tokens before",
    r"oz\_10min": "GPT of ten minutes",
}
SHOWN = 44  # tokens


def ladder() -> None:
    """Draws bits per byte of the predictors in docs/results.md."""
    text = RESULTS.read_text(encoding="utf-8")
    values = {}
    for row, label in ROWS.items():
        found = re.search(rf"^\| {re.escape(row)} \| ([\d.]+) \|", text, re.MULTILINE)
        assert found, f"docs/results.md has no row {row}"
        values[label] = float(found[1])
    figure, axes = new(width=7, height=3.4)
    names = list(values)
    colors = [BLUE if name.startswith("GPT") else GREY for name in names]
    bars = axes.barh(names[::-1], [values[name] for name in names[::-1]], color=colors[::-1])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xlabel("bits per byte on the held-out tenth of Oz (lower is better)")
    axes.set_xlim(0, 6.6)
    axes.grid(visible=False, axis="y")
    save(figure, "09_ladder")


def surprise() -> None:
    """Draws the bits that each of the first tokens of a held-out story cost the model."""
    run = load_run(RUN, device="cpu")
    story = next(iter(tales.stories(seed=0, start=3, count=1, level=1, split="val")))
    ids = [run.tokenizer.eot_id, *run.tokenizer.encode(story)]
    given = torch.tensor([ids])
    nats = token_nats(scorer(run.model, run.tokenizer.eot_id), given[:, :-1], given[:, 1:])[0]
    bits = nats.numpy() / np.log(2)
    print(f"whole story {bits.sum():.0f} bits, the process {-tales.log2_probability(story, level=1):.0f}")
    print(
        f"half of the bits in {np.searchsorted(np.sort(bits)[::-1].cumsum(), bits.sum() / 2) + 1} of {len(bits)} tokens"
    )
    names = [run.tokenizer.decode([one]).replace(" ", "·") for one in ids[1 : SHOWN + 1]]
    figure, axes = new(width=8.2, height=3.2)
    axes.bar(range(SHOWN), bits[:SHOWN], color=ORANGE)
    axes.axhline(bits.mean(), color=BLUE, linestyle="--")
    axes.text(SHOWN - 0.4, bits.mean() + 0.1, "mean of the story", color=BLUE, va="bottom", ha="right")
    axes.set_xticks(range(SHOWN), names, rotation=90, fontsize=8)
    axes.set_xlim(-0.6, SHOWN - 0.4)
    axes.set_ylabel("surprise (bits)")
    axes.grid(visible=False, axis="x")
    save(figure, "09_surprise")


if __name__ == "__main__":
    ladder()
    surprise()
