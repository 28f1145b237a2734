"""A model's bits of every option of every choice of a told story.

    a story -> keys and values of its tokens, once -> the options of a choice behind them

Options are texts; their tokens are those that the tokenizer gives them in their place. A text is
scored from the first token on in which the options of a choice differ.

Shapes: n options, m tokens of the longest.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

import numpy as np
import torch
import torch.nn.functional as F

from llm_from_scratch import tales
from llm_from_scratch.evaluation.likelihood import token_bytes
from llm_from_scratch.model import KVCache
from llm_from_scratch.weights import LoadedModel

WINDOW = 60  # characters in front of an option that are encoded with it, at least


@torch.inference_mode()
def option_bits(run: LoadedModel, story: str, level: int) -> Iterator[tuple[tales.Options, dict[str, float]]]:
    """Yields every choice of a story with the model's bits (-log2 p) of each text of its options.

    Args:
        run: its context holds the story.
        story: a story without a fault.
        level: of the story.
    """
    model, tokenizer = run.model, run.tokenizer
    device = next(model.parameters()).device
    own = [tokenizer.eot_id, *tokenizer.encode(story)]
    cache = KVCache(model.config, 1, len(own), device, model.token_embedding.weight.dtype)
    model.hidden_states(torch.tensor([own], device=device), cache)
    starts = np.append(0, np.cumsum(token_bytes(tokenizer)[own[1:]]))  # byte at which each token but the first begins
    found: tuple[int, dict[str, float]] = (-1, {})
    for one in tales.options(story, level):
        texts = list(dict.fromkeys(text for told in one.texts.values() for text in told))
        place = one.choice.start
        # The sentences of an event are among those of its fork, which stands at the same place.
        if found[0] != place or not found[1].keys() >= set(texts):
            prefix = f" {story}"[:place]
            cut = prefix.rfind(" ", 1, max(place - WINDOW, 1))
            first = int(np.searchsorted(starts, len(prefix[1:cut].encode()))) if cut > 0 else 0
            begin = cut if cut > 0 else 1
            encoded = [tokenizer.encode((prefix + text.rstrip())[begin:]) for text in texts]
            shared = _shared([*encoded, own[1 + first :]] if cut > 0 else [*encoded, own[1:]])
            shared = min(shared, min(map(len, encoded)) - 1)
            bits = _bits(run, cache, own, 1 + first + shared, [ids[shared:] for ids in encoded])
            found = (place, dict(zip(texts, bits, strict=True)))
        yield one, found[1]


def _shared(sequences: Sequence[Sequence[int]]) -> int:
    """Returns the number of first ids that all but the end of the sequences share."""
    columns = zip(*sequences, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _bits(
    run: LoadedModel, cache: KVCache, own: Sequence[int], length: int, options: Sequence[Sequence[int]]
) -> list[float]:
    """Returns the bits of ids behind the first `length` ids of the story, which `cache` holds."""
    model = run.model
    n, m, device = len(options), max(map(len, options)), cache.keys[0].device
    last = length - 1  # is read again: its state predicts the first id
    rows = torch.full((n, m + 1), run.tokenizer.eot_id, device=device)
    rows[:, 0] = own[last]
    for row, ids in enumerate(options):
        rows[row, 1 : 1 + len(ids)] = torch.tensor(ids, device=device)
    copies = KVCache(model.config, n, length + m, device, cache.keys[0].dtype)
    for of_all, of_one in zip(copies.keys + copies.values, cache.keys + cache.values, strict=True):
        of_all[:, :, :last] = of_one[:, :, :last]
    copies.length = last
    logits = model.logits(model.hidden_states(rows[:, :-1], copies)).float()  # (n, m, V)
    nats = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none").cpu().double().numpy()
    return [float(nats[row, : len(ids)].sum() / np.log(2)) for row, ids in enumerate(options)]
