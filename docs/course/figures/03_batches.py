"""Figure of chapter 3: which places of Oz the steps read, and how often each token is read."""

from math import exp, factorial

import numpy as np
from book import prepared_book
from style import BLUE, COLOURS, MARKERS, new, save

from llm_from_scratch import RandomChunkSampler

BLOCK, BATCH = 128, 16  # of experiment=oz_demo
EPOCHS = (1, 3, 10)

tokens = prepared_book().shards("train")[0].tokens
sampler = RandomChunkSampler([tokens], block_size=BLOCK, batch_size=BATCH, seed=1)
steps = round(max(EPOCHS) * len(tokens) / (BLOCK * BATCH))
places = [sampler.places(step) for step in range(steps)]

figure, (scatter, counts) = new(1, 2, width=8.2, height=3.5)
shown = 60
scatter.scatter(
    np.concatenate(places[:shown]) / 1000, np.repeat(np.arange(shown), BATCH), s=5, color=BLUE, linewidths=0
)
scatter.set(xlabel="place in Oz (thousand tokens)", ylabel="step", title="Where the chunks of a step begin")

times = np.zeros(len(tokens), dtype=int)
step = 0
for epochs, colour, marker in zip(EPOCHS, COLOURS, MARKERS, strict=False):
    while step < round(epochs * len(tokens) / (BLOCK * BATCH)):
        for place in places[step]:
            times[place : place + BLOCK] += 1
        step += 1
    number = np.arange(23)
    share = np.bincount(times, minlength=len(number))[: len(number)] / len(times)
    expected = [100 * exp(-epochs) * epochs**n / factorial(n) for n in number.tolist()]
    counts.plot(number, expected, color=colour, linewidth=1)
    counts.plot(number, 100 * share, marker, color=colour, label=f"{epochs} epoch" + "s" * (epochs > 1))
    print(f"after {epochs} epochs {share[0]:.2%} of {len(tokens):,} tokens unread, expected {exp(-epochs):.2%}")
counts.set(
    xlabel="times that a token was read",
    ylabel="share of the tokens (%)",
    title="How often a token is read",
)
counts.legend()
save(figure, "03_chunks")
