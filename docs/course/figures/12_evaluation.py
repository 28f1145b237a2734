"""The figures of chapter 12: memory against held-out text, and intervals against the truth."""

import numpy as np
import style

from llm_from_scratch import tales
from llm_from_scratch.evaluation.intervals import bootstrap_ratio
from llm_from_scratch.evaluation.ngram import character_ids, kneser_neys, nats

ENTROPY = tales.entropy(1).bits_per_byte.value


def held_out() -> None:
    """Draws bits per byte of n-grams by their order, on their own text and on held-out text."""
    train = tales.stories(seed=0, start=0, count=150, level=1, split="train")
    others = tales.stories(seed=0, start=0, count=100, level=1, split="val")
    x, y, vocab_size = character_ids("\n".join(train) + "\n", "\n".join(others) + "\n")
    models = enumerate(kneser_neys(x, 40, vocab_size))
    rows = [(n, *(nats(model, ids).mean() / np.log(2) for ids in (x, y))) for n, model in models if n]
    orders, own, new = zip(*rows, strict=True)
    figure, axes = style.new(width=7.0, height=3.6)
    axes.plot(orders, new, "s-", color=style.ORANGE, markersize=4, label="on held-out stories")
    axes.plot(orders, own, "o-", color=style.BLUE, markersize=4, label="on the stories that it learned from")
    axes.axhline(ENTROPY, color="black", linestyle=":", label="entropy: the best on new stories")
    axes.set(xlabel="order n of the n-gram model (characters)", ylabel="bits per byte", ylim=(0, 1.5), xlim=(1, 40))
    axes.legend(loc="upper right")
    style.save(figure, "12_held_out")


def intervals(sets: int = 40, size: int = 30) -> None:
    """Draws the bootstrap intervals of many sets of stories beside the entropy."""
    figure, axes = style.new(width=7.0, height=4.2)
    missed = 0
    for row in range(sets):
        stories = list(tales.stories(1, row * size, size, 1, "train"))
        bits, lengths = zip(*((-tales.log2_probability(story, 1), len(story)) for story in stories), strict=True)
        value, low, high = bootstrap_ratio(np.array(bits), np.array(lengths), samples=1000)
        inside = low <= ENTROPY <= high
        missed += not inside
        colour = style.BLUE if inside else style.VERMILION
        axes.plot([low, high], [row, row], color=colour, linewidth=1.8)
        axes.plot(value, row, "o" if inside else "X", color=colour, markersize=4 if inside else 8)
    axes.axvline(ENTROPY, color="black", linestyle=":")
    axes.text(ENTROPY, sets + 0.2, "the entropy", ha="center", va="bottom")
    axes.set(xlabel="bits per byte", ylabel=f"set of {size} stories", ylim=(-1, sets))
    axes.set_title(f"{sets - missed} of {sets} intervals hold the truth")
    axes.grid(axis="y", visible=False)
    style.save(figure, "12_intervals")


if __name__ == "__main__":
    held_out()
    intervals()
