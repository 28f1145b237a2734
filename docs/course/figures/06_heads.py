"""Figure of chapter 6: maps of attention of one layer's heads.

    python docs/course/figures/06_heads.py

It reads the run `outputs/course/tales`, which chapter 6 names the command of.
"""

import numpy as np
from style import new, save

from llm_from_scratch import load_run, tales
from llm_from_scratch.explain.attention import read_layers, weights
from llm_from_scratch.weights import LoadedModel

RUN = "outputs/course/tales"
LAYER = 1  # of the maps, 0-based
BEFORE, AFTER = 14, 16  # tokens shown around the end of the first sentence


def maps(run: LoadedModel) -> None:
    """Draws the attention of one layer's heads around the end of the first sentence of a held-out story."""
    story = next(iter(tales.stories(seed=0, start=3, count=1, level=1, split="val")))
    word = story.split(". ")[0].split()[-1]  # the last word of the first sentence
    ids = [run.tokenizer.eot_id, *run.tokenizer.encode(story)]
    middle = 1 + len(run.tokenizer.encode(story[: story.index(word) + len(word)]))
    shown = slice(middle - BEFORE, middle + AFTER)
    names = [run.tokenizer.decode([one]).replace(" ", "·") for one in ids[shown]]
    layer = read_layers(run.model, ids)[LAYER]
    figure, axes = new(2, 2, width=8.0, height=7.4, sharex=True, sharey=True)
    for head, place in enumerate(axes.flat):
        table = weights(layer, head).numpy()[shown, shown]
        image = place.imshow(np.where(np.tril(np.ones_like(table)) > 0, table, np.nan), vmin=0, vmax=0.6, cmap="Blues")
        place.set_title(f"head {head}")
        place.grid(visible=False)
        place.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        place.set_yticks(range(len(names)), names, fontsize=7)
    figure.supxlabel("token that is read", fontsize=10)
    figure.supylabel("token that reads", fontsize=10)
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.5, extend="max")
    save(figure, "06_maps")


if __name__ == "__main__":
    maps(load_run(RUN, device="cpu"))
