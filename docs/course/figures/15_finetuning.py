"""The figure of chapter 15: what fine-tuning gains on sums in words and forgets of stories."""

import copy
from collections.abc import Iterator

import numpy as np
import style
import torch

from llm_from_scratch import GPT, GPTConfig, RandomChunkSampler, tales, train_tokenizer
from llm_from_scratch.lora import adapt

WORDS = (
    "nought one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty twenty-one twenty-two twenty-three twenty-four"
)
NUMBERS = WORDS.split()
STORIES = list(tales.stories(seed=0, start=0, count=300, level=1, split="train"))
SUMS = [f"{NUMBERS[i]} and {NUMBERS[j]} make {NUMBERS[i + j]}." for i in range(13) for j in range(13)]
np.random.default_rng(0).shuffle(SUMS)
HELD_OUT = {"stories": list(tales.stories(0, 0, 6, 1, "val")), "sums": SUMS[:30]}
TOKENIZER = train_tokenizer("char", [" ".join(STORIES + SUMS)])
CONFIG = GPTConfig(vocab_size=TOKENIZER.vocab_size, block_size=32, n_layer=2, n_head=4, n_embd=64)
LAYERS = ["attention.qkv", "attention.out", "feed_forward.up", "feed_forward.out"]
STEPS, EVERY, SEEDS = 60, 10, 3


def encoded(texts: list[str]) -> np.ndarray:
    """Returns the ids of some texts, one after another."""
    return np.array(TOKENIZER.encode(" ".join(texts)), dtype=np.uint16)


def training(model: GPT, ids: np.ndarray, steps: int, lr: float, seed: int) -> Iterator[int]:
    """Trains a model on ids; yields the number of the steps made, from 0 on."""
    sampler = RandomChunkSampler([ids], block_size=32, batch_size=16, seed=seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr)
    for step in range(steps):
        yield step
        x, y = (torch.from_numpy(one) for one in sampler.batch(step))
        optimizer.zero_grad()
        model.loss(x, y).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    yield steps


@torch.no_grad()
def bits(model: GPT, kind: str) -> float:
    """Returns the bits of a held-out character."""
    ids = torch.from_numpy(encoded(HELD_OUT[kind]).astype(np.int64))
    rows = ids[: len(ids) // 33 * 33].view(-1, 33)
    return model.loss(rows[:, :-1], rows[:, 1:]).item() / np.log(2)


def curves(seed: int) -> dict[str, list[tuple[int, float, float]]]:
    """Returns (step, bits on sums, bits on stories) of each way to learn the sums."""
    torch.manual_seed(seed)
    base = GPT(CONFIG)
    for _ in training(base, encoded(STORIES), 200, 5e-3, seed):
        pass
    adapted = copy.deepcopy(base)
    adapt(adapted, LAYERS, rank=4, alpha=8, p=0.0)
    ways = {
        "a new model": (GPT(CONFIG), 5e-3),
        "all weights": (copy.deepcopy(base), 3e-3),
        "LoRA of rank 4": (adapted, 1e-2),
    }
    found: dict[str, list[tuple[int, float, float]]] = {}
    for name, (model, lr) in ways.items():
        for step in training(model, encoded(SUMS[30:]), STEPS, lr, seed):
            if step % EVERY == 0:
                found.setdefault(name, []).append((step, bits(model, "sums"), bits(model, "stories")))
    return found


def main() -> None:
    """Draws the curves of all seeds; the line is their mean."""
    found = [curves(seed) for seed in range(SEEDS)]
    figure, panels = style.new(1, 2, width=8.2, height=3.8)
    for (name, points), colour, marker in zip(found[0].items(), style.COLOURS, style.MARKERS, strict=False):
        steps = [step for step, *_ in points]
        for axes, place in zip(panels, (1, 2), strict=True):
            if name == "a new model" and place == 2:
                continue  # it has never known them
            every = np.array([[point[place] for point in one[name]] for one in found])
            axes.plot(steps, every.T, color=colour, alpha=0.25, linewidth=1)
            axes.plot(steps, every.mean(axis=0), color=colour, marker=marker, markersize=5, label=name)
    panels[0].set(title="held-out sums", xlabel="steps on sums", ylabel="bits a character", ylim=(0, 7.2))
    panels[1].set(title="held-out stories", xlabel="steps on sums", ylim=(0, 7.2))
    panels[0].legend()
    style.save(figure, "15_transfer")


if __name__ == "__main__":
    main()
