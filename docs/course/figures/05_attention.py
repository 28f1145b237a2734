"""Figure of chapter 5: attention weights before training, and of two heads of a trained model.

Takes outputs/course/oz, which `python train.py experiment=oz_demo run_dir=outputs/course/oz` makes.
"""

import torch
from style import new, save
from torch import Tensor

from llm_from_scratch import GPT, load_run
from llm_from_scratch.explain.attention import read_layers, weights

TEXT = "Dorothy put on her green spectacles and the Lion looked at the Scarecrow"


def all_weights(model: GPT, ids: list[int]) -> dict[tuple[int, int], Tensor]:
    """Returns the weights (T, T) of each (layer, head)."""
    layers = read_layers(model.eval(), ids)
    return {(i, head): weights(layer, head) for i, layer in enumerate(layers) for head in range(len(layer.queries))}


run = load_run("outputs/course/oz", device="cpu")
ids = [run.tokenizer.eot_id, *run.tokenizer.encode(TEXT)]
names = ["start", *(run.tokenizer.decode([i]).replace(" ", "·") for i in ids[1:])]
torch.manual_seed(1)
fresh = all_weights(GPT(run.model.config), ids)
trained = all_weights(run.model, ids)
time = torch.arange(len(ids))
distance = (time[:, None] - time).clamp(min=0)


def looks_back_one(one: Tensor) -> float:
    return one.diagonal(-1)[3:].mean().item()


def looks_far(one: Tensor) -> float:
    """Mean distance that weight bridges, without that on the start, where heads rest."""
    return (one * distance)[5:, 1:].sum(dim=1).mean().item()


previous = max(trained, key=lambda key: looks_back_one(trained[key]))
far = max((key for key in trained if key != previous), key=lambda key: looks_far(trained[key]))
figure, axes = new(1, 3, width=8.2, height=3.2, sharey=True)
shown = {
    "Before training": fresh[previous],
    f"Layer {previous[0] + 1}, head {previous[1] + 1}": trained[previous],
    f"Layer {far[0] + 1}, head {far[1] + 1}": trained[far],
}
for axis, (title, one) in zip(axes, shown.items(), strict=True):
    drawn = axis.imshow(one, vmin=0, vmax=1, interpolation="nearest", cmap="Blues")
    axis.grid(visible=False)
    axis.set_xticks(range(len(ids)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(ids)), names, fontsize=7)
    axis.set(title=title, xlabel="token that is looked at")
    print(f"{title}: {looks_back_one(one):.0%} of the weight on the token before, mean distance {looks_far(one):.1f}")
axes[0].set_ylabel("token that looks")
figure.colorbar(drawn, ax=axes, label="weight", shrink=0.6)
save(figure, "05_attention")
