"""The figures of chapter 11: the next word at three temperatures, and where filters cut.

The model counts: an n-gram of words, learned from 3,000 told stories. Sampling does not care where
probabilities come from.
"""

import numpy as np
import style
import torch
from torch import Tensor

from llm_from_scratch import SamplingConfig, tales
from llm_from_scratch.evaluation.ngram import distribution, kneser_ney
from llm_from_scratch.explain.distribution import sampling_distribution

ORDER = 4  # three words, then the next one
WORDS = " ".join(tales.stories(seed=0, start=0, count=3000, level=1, split="train")).split()
NAMES = sorted(set(WORDS))
PLACE = {word: number for number, word in enumerate(NAMES)}
MODEL = kneser_ney(np.array([PLACE[word] for word in WORDS]), ORDER, len(NAMES))
UNSURE, SOME, SURE = "lived a", "as happy as a", "set out for"
SHOWN = 10  # words


def next_logits(context: str) -> Tensor:
    """Returns the logits (V,) of the word after a context: ln p."""
    ids = np.array([PLACE[word] for word in context.split()][1 - ORDER :])
    return torch.from_numpy(np.log(distribution(MODEL, ids))).float()


def temperatures() -> None:
    """Draws the likeliest words after a context at three temperatures."""
    logits = next_logits(UNSURE)
    best = logits.topk(SHOWN).indices.tolist()
    figure, panels = style.new(1, 3, width=8.2, height=3.6, sharey=True, sharex=True)
    for axes, value, colour in zip(panels, (0.5, 1.0, 1.5), (style.BLUE, style.GREEN, style.ORANGE), strict=True):
        q = sampling_distribution(logits, [0], SamplingConfig(temperature=value))
        axes.barh(range(SHOWN), q[best].tolist(), color=colour)
        axes.set(title=f"temperature {value:g}", xlabel="probability")
        outside = 1 - float(q[best].sum())
        axes.text(0.98, 0.04, f"all others: {outside:.2f}", ha="right", transform=axes.transAxes)
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(range(SHOWN), [NAMES[one] for one in best])
    panels[0].set_ylabel(f"next word after “{UNSURE}”")
    panels[0].invert_yaxis()
    style.save(figure, "11_temperature")


def filters() -> None:
    """Draws the probability of the likeliest words together, over their number."""
    figure, axes = style.new(width=7.0, height=3.8)
    for context, colour, marker in ((SURE, style.GREEN, "^"), (SOME, style.BLUE, "o"), (UNSURE, style.ORANGE, "s")):
        p = next_logits(context).double().softmax(dim=-1).sort(descending=True).values
        together = p.cumsum(dim=-1)
        kept = int((together - p < 0.9).sum())
        label = f"after “{context}”: top-p 0.9 keeps {kept}"
        axes.plot(range(1, len(p) + 1), together, color=colour)
        axes.plot(kept, together[kept - 1], marker, color=colour, markersize=8, label=label, clip_on=False)
    axes.axvline(10, color=style.GREY, linestyle="--", linewidth=1.2)
    axes.text(10.6, 0.04, "top-k 10", color=style.GREY)
    axes.axhline(0.9, color=style.GREY, linestyle=":", linewidth=1.4)
    axes.text(1.05, 0.92, "top-p 0.9", color=style.GREY)
    axes.set(xscale="log", xlim=(1, len(NAMES)), ylim=(0, 1.03))
    axes.set(xlabel="number of likeliest words", ylabel="their probability together")
    axes.legend(loc="lower right")
    style.save(figure, "11_filters")


if __name__ == "__main__":
    temperatures()
    filters()
