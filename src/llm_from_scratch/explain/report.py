"""An `Explanation` as blocks: tables for a terminal; with figures, a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from llm_from_scratch.explain.explanation import Explanation
from llm_from_scratch.explain.figures import BARS, GRID, NAMES, PATTERN, draw
from llm_from_scratch.explain.heads import MEASURES, strongest
from llm_from_scratch.explain.lens import Expectations
from llm_from_scratch.explain.trace import Stage
from llm_from_scratch.pages import Block, Folded, Heading, Paragraph, Part, Picture, Quote, Quotes, Table, html_page

ROWS = 24  # of a table in the terminal
HOTTEST = 12.0  # bits from which on a token has the strongest colour


def how(found: Explanation) -> dict[str, str]:
    """Returns the sentence that says how each figure and its table were computed."""
    lines = {
        "flow": "One pass of the text; mean and standard deviation are over all numbers of a tensor, and a parameter that is used "
        "twice counts once.",
        "surprise": "Surprise is -log2 of the probability that the model gave a token after those before it; entropy is the surprise "
        "to be expected there, by the model's own probabilities.",
        "next": "Softmax of the logits after the last token, at temperature 1 and with no filter.",
        "lens": "The logit lens (nostalgebraist 2020): the residual stream after a layer goes through the model's final norm and head "
        "as if no layer followed; the reading after the last layer is the model's own answer.",
        "layers": "Mean surprise of the text's tokens, by the reading after each layer; above the dashed line a reading is worse than "
        f"{found.trace.logits.shape[-1]:,} equally likely tokens.",
        "attention": _weights(found.layer, _whose(found)),
        "heads": "Mean weight of a head over the places that have a target: on the token before and on the first token (from the "
        "third token on), on itself, on earlier occurrences of the same token; even is a head that attends to all positions alike.",
        "neighbours": "Cosine of the angle between two rows of the embedding matrix: 1 where they point the same way, about 0 where "
        "they have nothing in common.",
    }
    random = found.induction
    if random is not None:
        lines["heads"] += (
            f" Induction: {random.texts} texts of {random.length} different random tokens, {random.repeats} times in a row; the mean "
            "weight on the token right after an earlier occurrence of the one that is read (prefix matching, Olsson et al. 2022)."
        )
    return lines


def captions(found: Explanation) -> dict[str, str]:
    """Returns the caption of each figure: how it was computed, and what of it is seen."""
    lines, tokens = how(found), len(found.ids)
    lines["flow"] = (
        f"{lines['flow']} Seen: the residual stream (T × C) after each layer, and what attention and feed-forward add to it."
    )
    names = [f"layer_{number + 1:02d}" for number in range(len(found.trace.layers))]
    lines |= {name: _weights(number, "each head") for number, name in enumerate(names)}
    names.append("attention")
    for name in names:
        lines[name] += " Colours follow the square root of the weight."
    cuts = {"surprise": (BARS, "first", tokens - 1), "lens": (GRID, "last", tokens)}
    cuts |= dict.fromkeys(names, (PATTERN, "first", tokens))
    for name, (most, which, there) in cuts.items():
        if there > most:
            lines[name] += f" Seen: the {which} {most} tokens."
    return lines


def _weights(layer: int, whose: str) -> str:
    return f"softmax(Q Kᵀ / √D) of layer {layer + 1}, {whose}: a row says how much is read of each token up to it."


def _whose(found: Explanation) -> str:
    return f"head {found.head + 1}" if found.head is not None else "the mean of all heads"


def page(found: Explanation, folder: Path) -> str:
    """Returns the explanation as one HTML page; its figures are drawn into a folder first."""
    return html_page(blocks(found, draw(found, folder, captions(found))), folder)


def blocks(found: Explanation, pictures: Mapping[str, Picture] | None = None) -> list[Block]:
    """Returns the blocks in order: of a page, or without pictures those of a terminal."""
    sentence, drawn = how(found), pictures or {}

    def part(title: str, name: str, *more: Block) -> list[Block]:
        # A figure has its sentence as its caption.
        own: list[Block] = [drawn[name]] if name in drawn else [Paragraph(sentence[name])]
        return [Heading(2, title), *(own if drawn else []), *more, *([] if drawn else own)]

    parts: list[Block] = [Heading(1, f"How {found.model} reads a text"), Paragraph(_opening(found))]
    parts += part("The way of the text", "flow", *_flow(found, whole=bool(drawn)))
    parts += part("Surprise, and what was expected", "surprise", *_tokens(found, whole=bool(drawn)))
    if drawn:
        parts += part("After the text", "next")
    parts += part("Layer by layer", "lens", *([drawn["layers"]] if drawn else []), *_lens(found))
    parts += part("Attention", "attention", *_attention(found, drawn))
    if found.heads:
        parts += part("What each head attends to", "heads", *_heads(found, whole=bool(drawn)))
    return [*parts, *part("Neighbours of the embeddings", "neighbours", _neighbours(found, whole=bool(drawn)))]


def _opening(found: Explanation) -> str:
    bits, tokens = float(found.surprise.sum()), len(found.ids) - 1
    layers, heads = len(found.trace.layers), len(found.trace.layers[0].queries)
    cut = f" The text has {found.beyond:,} tokens more, which are left out." if found.beyond else ""
    return (
        f"{found.parameters:,} parameters, {layers} layers of {heads} heads, a context of {found.context:,} tokens. The text has "
        f"{tokens} tokens after {found.tokens[0]}, which begins it, and costs {bits:.1f} bits, {bits / tokens:.2f} a token.{cut}"
    )


# ------------------------------------------------------------------------------------------ stages
def _flow(found: Explanation, *, whole: bool) -> list[Block]:
    header = ["place", "tensor", "shape", "mean", "standard deviation", "parameters"]
    short = Table("", header, [_stage(stage) for stage in shortened(found.trace.stages)])
    if not whole:
        return [short]
    return [short, Folded("Every block", [Table("", header, [_stage(stage) for stage in found.trace.stages])])]


def shortened(stages: Sequence[Stage]) -> list[Stage]:
    """Returns the stages with one row for each block but the first, and one for those in between.

    Such a row has the shape and the numbers of the last block's output, and the parameters of all.
    """
    last = max((int(stage.place.split()[1]) for stage in stages if stage.place.startswith("block")), default=1)
    kept: list[Stage] = []
    for names in ([f"block {n}" for n in range(2, last)], [f"block {last}"] if last > 1 else []):
        inside = [stage for stage in stages if stage.place in names]
        if inside:
            name = names[0] if len(names) == 1 else f"{names[0]}–{last - 1}".replace("block", "blocks")
            parameters = sum(stage.parameters for stage in inside)
            output = inside[-1]
            kept.append(Stage(name, "as block 1", output.shape, output.mean, output.deviation, parameters))
    before = [stage for stage in stages if stage.place in ("text", "embedding", "block 1")]
    return [*before, *kept, *(stage for stage in stages if stage.place == "end")]


def _stage(stage: Stage) -> list[str]:
    mean, deviation = ("" if one is None else f"{one:.3f}" for one in (stage.mean, stage.deviation))
    shape = "×".join(f"{size:,}" for size in stage.shape)
    return [stage.place, stage.tensor, shape, mean, deviation, f"{stage.parameters:,}" if stage.parameters else ""]


# ------------------------------------------------------------------------------------------ tokens
def _tokens(found: Explanation, *, whole: bool) -> list[Block]:
    last, bits = found.lens[-1], ["", *(f"{one:.2f}" for one in found.surprise.tolist())]
    rows = [
        [
            str(place),
            name,
            bits[place],
            f"{float(last.entropy[place]):.2f}",
            _named(found, last, place, 5 if whole else 3),
        ]
        for place, name in enumerate(found.tokens)
    ]
    header = ["place", "token", "surprise (bits)", "entropy after it (bits)", "likeliest next tokens (%)"]
    if not whole:
        return _cut(Table("", header, rows))
    values = [None, *found.surprise.tolist()]
    heats = [0.0 if value is None else 0.6 * min(value / HOTTEST, 1.0) for value in values]
    texts = [name.replace("␣", " ").replace("↵", "↵\n") for name in found.tokens]
    parts = [Part(*one) for one in zip(texts[1:], values[1:], heats[1:], strict=True)]
    quotes = Quotes("The redder a token, the more it surprised", ("", "text", "highest"), "bits", [Quote("", parts)])
    return [quotes, Folded("Every place", [Table("", header, rows)])]


def _named(found: Explanation, reading: Expectations, place: int, count: int) -> str:
    pairs = zip(reading.ids[place].tolist(), reading.p[place].tolist(), strict=True)
    return " · ".join(f"{found.names[one]} {100 * p:.0f}" for one, p in list(pairs)[:count])


def _cut(table: Table) -> list[Block]:
    """Cuts a table for the terminal."""
    rest = len(table.rows) - ROWS
    if rest <= 1:
        return [table]
    cut = Table(table.title, table.header, table.rows[:ROWS])
    return [cut, Paragraph(f"… and {rest} rows more: --html and --json have them")]


# ------------------------------------------------------------------------------ lens and attention
def _lens(found: Explanation) -> list[Block]:
    rows = [
        [str(layer), f"{float(reading.surprise.mean()):.2f}", _named(found, reading, len(found.ids) - 1, 3)]
        for layer, reading in enumerate(found.lens)
    ]
    last = found.tokens[-1]
    return [Table("", ["layer", "mean surprise (bits a token)", f"next token after {last} (%)"], rows)]


def _attention(found: Explanation, drawn: Mapping[str, Picture]) -> list[Block]:
    weights = found.weights()
    rows = []
    for place, name in enumerate(found.tokens):
        best = weights[place, : place + 1].topk(min(3, place + 1))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        rows.append(
            [str(place), name, " · ".join(f"{found.tokens[to]} ({to}) {100 * weight:.0f}" for to, weight in pairs)]
        )
    title = f"Layer {found.layer + 1}, {_whose(found)}"
    table = Table(title, ["place", "token", "reads most from (place) (%)"], rows)
    if not drawn:
        return [*_cut(table), Paragraph("--layer and --head show another one.")]
    all_layers = [
        Folded(f"All heads of layer {number + 1}", [drawn[f"layer_{number + 1:02d}"]])
        for number in range(len(found.trace.layers))
    ]
    return [Folded(f"{title}: what each token reads most from", [table]), *all_layers]


# ------------------------------------------------------------------------------------------- heads
def _heads(found: Explanation, *, whole: bool) -> list[Block]:
    measures, even = found.heads, found.even
    rows = []
    for name, values in measures.items():
        best = " · ".join(
            f"{layer + 1}.{head + 1} {value:.2f}" for layer, head, value in strongest(values, 5 if whole else 3)
        )
        rows.append([NAMES[name], f"{even[name]:.2f}", best, str(int((values >= 0.5).sum()))])
    header = ["mean weight on", "even head", "strongest heads (layer.head)", "heads of 0.5 or more"]
    parts: list[Block] = [Table("", header, rows)]
    if found.induction is not None:
        first, again = found.induction.first, found.induction.again
        parts.append(
            Paragraph(
                f"Random tokens cost {first:.1f} bits each when they come first, and {again:.1f} when they are repeated: "
                f"{_verdict(first, again)}"
            )
        )
    missing = [NAMES[name] for name in MEASURES if name not in measures]
    if missing:
        parts.append(Paragraph(f"Not measured, since the text or the context is too short: {', '.join(missing)}."))
    if whole:
        layers, heads = next(iter(measures.values())).shape
        every = [
            [f"{layer + 1}.{head + 1}", *(f"{float(values[layer, head]):.3f}" for values in measures.values())]
            for layer in range(layers)
            for head in range(heads)
        ]
        parts.append(Folded("Every head", [Table("", ["layer.head", *(NAMES[name] for name in measures)], every)]))
    return parts


def _verdict(first: float, again: float) -> str:
    if again < first / 2:
        return "the model copies what it has read before."
    if again < 0.9 * first:
        return "the model copies a little of what it has read before."
    return "the model does not copy what it has read before."


def _neighbours(found: Explanation, *, whole: bool) -> Block:
    rows = [
        [found.names[one], " · ".join(f"{found.names[near]} {cosine:.2f}" for near, cosine in nearest)]
        for one, nearest in list(found.nearest.items())[: None if whole else ROWS // 2]
    ]
    return Table("", ["token", "nearest tokens (cosine)"], rows)
