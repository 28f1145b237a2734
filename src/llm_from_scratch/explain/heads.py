"""What each head attends to on average, and the score of induction heads (Olsson et al. 2022).

Shapes: H heads, T positions, L layers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_from_scratch.explain.attention import Layer, Recorder, patterns
from llm_from_scratch.model import GPT

# As in Olsson et al. 2022: 25 random tokens, 4 times, after a token that begins a text.
LENGTH, REPEATS, TEXTS = 25, 4, 4
MEASURES = ("previous", "first", "itself", "same", "induction")


def targets(ids: Sequence[int]) -> dict[str, Tensor]:
    """Returns the places (T, T) that each measure looks for: row t is True at those of token t.

    previous: the token before it. first: the first token. itself. These begin with the third token,
    since to the second one the previous token is the first. same: earlier occurrences of the token.
    induction: the tokens right after earlier occurrences of the token.
    """
    given = torch.tensor(list(ids))
    row, column = torch.meshgrid(torch.arange(len(given)), torch.arange(len(given)), indexing="ij")
    same = (given[:, None] == given) & (column < row)
    later = row >= 2
    return {
        "previous": later & (column == row - 1),
        "first": later & (column == 0),
        "itself": later & (column == row),
        "same": same,
        # shifted to the right by one: the token after the occurrence
        "induction": torch.cat((torch.zeros_like(same[:, :1]), same[:, :-1]), dim=1) & (column < row),
    }


def mean_weight(weights: Tensor, places: Tensor) -> Tensor | None:
    """Returns how much of its attention each head gives to some places, on average.

    Weights (H, T, T) and places (T, T) -> (H,), the mean over the rows that have a place of the
    weights there; None where no row has one.
    """
    rows = places.any(dim=1)
    return (weights * places)[:, rows].sum(dim=-1).mean(dim=-1) if rows.any() else None


def evenly(time: int) -> Tensor:
    """Returns the weights (1, T, T) of a head that attends to all positions alike."""
    weights = torch.ones(time, time).tril()
    return (weights / weights.sum(dim=-1, keepdim=True))[None]


@dataclass(frozen=True)
class Summary:
    """Mean weights of every head, by measure.

    `heads` are (L, H) tensors; `even` is the value of a head that attends to all positions alike. A
    measure that a text has no place for is in neither.
    """

    heads: Mapping[str, Tensor]
    even: Mapping[str, float]


@torch.inference_mode()
def summary(layers: Sequence[Layer], ids: Sequence[int]) -> Summary:
    """Summarises the attention that was read from ids (T,): all measures but induction."""
    wanted = {name: places for name, places in targets(ids).items() if name != "induction" and places.any()}
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for layer in layers:
        weights = patterns(layer).cpu()
        for name, places in wanted.items():
            found[name].append(_present(mean_weight(weights, places)))
    even = {name: float(_present(mean_weight(evenly(len(ids)), places))) for name, places in wanted.items()}
    return Summary({name: torch.stack(rows) for name, rows in found.items()}, even)


def _present(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


@dataclass(frozen=True)
class Induction:
    """How a model reads random tokens that repeat.

    Attributes:
        scores: (L, H), the prefix matching score of Olsson et al. 2022: the mean weight on the
            tokens right after earlier occurrences of the token.
        even: the score of a head that attends to all positions alike.
        first, again: mean surprise in bits of the tokens when they come first, and when they come
            again; of the first repetition its first token, which nothing foretells, is left out.
        length, repeats, texts: of the random texts.
    """

    scores: Tensor
    even: float
    first: float
    again: float
    length: int
    repeats: int
    texts: int


def random_texts(tokens: Sequence[int], begin: int, length: int, repeats: int, texts: int) -> Iterator[list[int]]:
    """Yields texts: `begin`, then `length` different random ones of `tokens`, `repeats` times."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(texts):
        drawn = torch.randperm(len(tokens), generator=generator)[:length].tolist()
        yield [begin, *[tokens[place] for place in drawn] * repeats]


@torch.inference_mode()
def induction(model: GPT, tokens: Sequence[int], begin: int, texts: int = TEXTS) -> Induction | None:
    """Looks for induction heads on random tokens that repeat; None where too few fit the context.

    Args:
        model: in evaluation mode.
        tokens: the ids that may be drawn: no special ones.
        begin: the id of the token before a text.
        texts: the number of random texts.
    """
    room = model.config.block_size - 1
    length = min(LENGTH, room // 2, len(tokens))
    if length < 2:
        return None
    repeats = min(REPEATS, room // length)
    scores, first, again = [], [], []
    for ids in random_texts(tokens, begin, length, repeats, texts):
        places = targets(ids)["induction"]
        with Recorder() as recorder:
            logits = model(torch.tensor([ids], device=model.token_embedding.weight.device))[0]
        scores.append(torch.stack([_present(mean_weight(patterns(layer).cpu(), places)) for layer in recorder.layers]))
        bits = F.cross_entropy(logits[:-1].cpu().float(), torch.tensor(ids[1:]), reduction="none") / math.log(2)
        first.append(bits[:length])
        again.append(bits[length + 1 :])
    even = float(_present(mean_weight(evenly(len(ids)), places)))
    means = [float(torch.cat(part).mean()) for part in (first, again)]
    return Induction(torch.stack(scores).mean(dim=0), even, means[0], means[1], length, repeats, texts)


def strongest(values: Tensor, count: int) -> Sequence[tuple[int, int, float]]:
    """Returns the heads (layer, head, value) of the largest values (L, H), the largest first."""
    best = values.flatten().topk(min(count, values.numel()))
    width = values.shape[1]
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(place // width, place % width, value) for place, value in pairs]
