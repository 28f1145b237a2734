"""A text and a model -> an `Explanation`: everything that the figures and tables show."""

import unicodedata
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from llm_from_scratch.errors import UserError
from llm_from_scratch.explain.attention import patterns
from llm_from_scratch.explain.heads import MEASURES, TEXTS, Induction, Summary, induction, summary
from llm_from_scratch.explain.lens import Expectations, lens
from llm_from_scratch.explain.neighbours import neighbours
from llm_from_scratch.explain.trace import Trace, trace
from llm_from_scratch.model import GPT
from llm_from_scratch.tokenizer import Tokenizer, first_id

LONGEST = 256  # tokens that are explained; the weights of a head are half the square of it
TOP = 5  # next tokens that are named
NEAREST = 5  # neighbours of an embedding
SIGNS = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"})
Names = dict[int, str]


@dataclass(frozen=True)
class Explanation:
    """A text as a model reads it.

    Layers and heads are counted from 0 here, and from 1 wherever a reader sees them.

    Attributes:
        model: the name of the model.
        parameters, context: of the model, the context in tokens.
        ids: (T,), a token that begins a text, then those of the text.
        names: of every id that is shown, its text with signs for white space.
        beyond: tokens of the text that are too many, and are left out.
        trace: the tensors of one pass.
        lens: L + 1 readings of the residual stream; the last one is the model's.
        summary: what each head attends to on average.
        induction: on repeated random tokens; None where too few fit into the context.
        nearest: the neighbours of each token's embedding, by id.
        layer, head: whose weights are shown; head None: the mean of all heads.
    """

    model: str
    parameters: int
    context: int
    ids: tuple[int, ...]
    names: Names
    beyond: int
    trace: Trace
    lens: list[Expectations]
    summary: Summary
    induction: Induction | None
    nearest: dict[int, list[tuple[int, float]]]
    layer: int
    head: int | None

    @property
    def tokens(self) -> list[str]:
        """Returns the text of each token."""
        return [self.names[one] for one in self.ids]

    @property
    def surprise(self) -> Tensor:
        """Returns the bits of each token but the first, (T - 1,)."""
        return self.lens[-1].surprise

    @property
    def heads(self) -> dict[str, Tensor]:
        """Returns the measures of all heads, (L, H) each, in the order of MEASURES."""
        found = dict(self.summary.heads)
        if self.induction is not None:
            found["induction"] = self.induction.scores
        return {name: found[name] for name in MEASURES if name in found}

    @property
    def even(self) -> dict[str, float]:
        """Returns each measure of a head that attends to all positions alike."""
        more = {} if self.induction is None else {"induction": self.induction.even}
        return {**self.summary.even, **more}

    def weights(self) -> Tensor:
        """Returns the weights (T, T) of the head that is shown."""
        return self.patterns(self.layer).mean(dim=0) if self.head is None else self.patterns(self.layer)[self.head]

    def patterns(self, layer: int) -> Tensor:
        """Returns the weights (H, T, T) of all heads of a layer."""
        return patterns(self.trace.layers[layer]).cpu()


def visible(tokenizer: Tokenizer, token: int) -> str:
    """Returns a token as it is shown: signs for white space, bytes that are no text in hex."""
    data = tokenizer.decode_bytes([token]) if token < tokenizer.vocab_size else b""  # a padded vocabulary
    if not data:
        return next((name for name, number in tokenizer.special.items() if number == token), f"id {token}")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return " ".join(f"{byte:02x}" for byte in data)
    signs = text.translate(SIGNS)
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in unicodedata.normalize("NFC", signs))


def explain(
    model: GPT,
    tokenizer: Tokenizer,
    text: str,
    *,
    name: str = "model",
    layer: int | None = None,
    head: int | None = None,
    longest: int = LONGEST,
    texts: int = TEXTS,
) -> Explanation:
    """Reads a text after the token that begins one, as `score` does, and explains it.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        text: at least one token; of a longer one than `longest` or the context the first part.
        name: of the model, for the reader.
        layer, head: whose weights to show, from 0. Layer None: the head with the largest weight
            on the previous token. Head None: the mean of the layer.
        longest: the most tokens, the one before the text among them.
        texts: of random tokens, for the score of induction heads.

    Raises:
        UserError: when the text is empty, or the model has no such layer or head.
        MachineError: when the model computes NaN.
    """
    config = model.config
    check_place(config.n_layer, config.n_head, layer, head)
    read = tokenizer.encode(text)
    if not read:
        raise UserError("the text is empty: there is nothing to explain")
    room = min(longest, config.block_size)
    if room < 2:
        raise UserError(f"the model reads {config.block_size} token at a time: there is nothing to explain")
    ids = [first_id(tokenizer), *read][:room]
    seen = trace(model, ids)
    readings = lens(model, seen.residual, ids, TOP)
    attended = summary(seen.layers, ids)
    if layer is None:
        layer, head = _most(attended)
    distinct = list(dict.fromkeys(ids))
    nearest = dict(zip(distinct, neighbours(model, distinct, NEAREST), strict=True))
    shown = {*ids, *(one for near in nearest.values() for one, _ in near)}
    shown |= {one for reading in readings for one in reading.ids.flatten().tolist()}
    return Explanation(
        model=name,
        parameters=model.num_parameters(),
        context=config.block_size,
        ids=tuple(ids),
        names={one: visible(tokenizer, one) for one in shown},
        beyond=len(read) + 1 - len(ids),
        trace=seen,
        lens=readings,
        summary=attended,
        induction=induction(model, ordinary_tokens(tokenizer), first_id(tokenizer), texts),
        nearest=nearest,
        layer=layer,
        head=head,
    )


def ordinary_tokens(tokenizer: Tokenizer) -> list[int]:
    """Returns the ids that a text may hold: all but special tokens."""
    special = {*tokenizer.special.values(), first_id(tokenizer)}
    return [one for one in range(tokenizer.vocab_size) if one not in special]


def check_place(layers: int, heads: int, layer: int | None, head: int | None) -> None:
    """Checks a layer and a head, both from 0; the message counts them from 1.

    Raises:
        UserError: when the model has no such layer or head, or a head comes without a layer.
    """
    for what, value, count in (("layer", layer, layers), ("head", head, heads)):
        if value is not None and not 0 <= value < count:
            there = f"has {count}, from 1 to {count}" if count > 1 else "has one, 1"
            raise UserError(f"--{what} {value + 1}: there is none: the model {there}")
    if head is not None and layer is None:
        raise UserError(f"--head {head + 1}: of which layer? add --layer, from 1 to {layers}")


def _most(attended: Summary) -> tuple[int, int]:
    """Returns the layer and head of the largest weight on the previous token."""
    weights = attended.heads.get("previous", torch.zeros(1, 1))
    place = int(weights.argmax())
    return place // weights.shape[1], place % weights.shape[1]


# --------------------------------------------------------------------------------------------- JSON
def as_json(found: Explanation, how: dict[str, str]) -> dict[str, Any]:
    """Returns an explanation as one JSON object; layers and heads count from 1, layer 0 of the lens
    is the embedding.

    `how` holds a sentence for each figure.
    """
    last, bits = found.lens[-1], [None, *found.surprise.tolist()]
    tokens = [
        {"id": one, "text": found.names[one], "surprise": bits[place], "entropy": float(last.entropy[place])}
        | {"next": _named(found.names, last, place)}
        for place, one in enumerate(found.ids)
    ]
    rows = [
        {"layer": layer + 1, "head": head + 1}
        | {name: float(values[layer, head]) for name, values in found.heads.items()}
        for layer, row in enumerate(found.trace.layers)
        for head in range(len(row.queries))
    ]
    return {
        "model": found.model,
        "parameters": found.parameters,
        "context": found.context,
        "left_out": found.beyond,
        "tokens": tokens,
        "stages": [asdict(stage) for stage in found.trace.stages],
        "lens": [
            {"layer": layer, "surprise": reading.surprise.tolist()}
            | {"next": [_named(found.names, reading, place) for place in range(len(found.ids))]}
            for layer, reading in enumerate(found.lens)
        ],
        "attention": {
            "layer": found.layer + 1,
            "head": None if found.head is None else found.head + 1,
            "weights": [row[: place + 1] for place, row in enumerate(found.weights().tolist())],
        },
        "heads": {"even": found.even, "rows": rows},
        "induction": None if found.induction is None else _plain(found.induction),
        "neighbours": [
            {"id": one, "text": found.names[one]}
            | {"nearest": [{"id": near, "text": found.names[near], "cosine": cosine} for near, cosine in rows]}
            for one, rows in found.nearest.items()
        ],
        "how": how,
    }


def _named(names: Names, reading: Expectations, place: int) -> list[dict[str, Any]]:
    """Returns the likeliest next tokens at a place."""
    pairs = zip(reading.ids[place].tolist(), reading.p[place].tolist(), strict=True)
    return [{"id": one, "text": names[one], "p": p} for one, p in pairs]


def _plain(found: Induction) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if name != "scores"}
