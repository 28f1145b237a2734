"""The inside of a model on the playground: the logit lens after a token, what heads attend to.

Its functions are called one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llm_from_scratch.explain.explanation import ordinary_tokens
from llm_from_scratch.explain.heads import MEASURES, Induction, Summary, induction, strongest, summary
from llm_from_scratch.explain.lens import expectations
from llm_from_scratch.explain.trace import trace
from llm_from_scratch.serve.answers import Json
from llm_from_scratch.tokenizer import first_id
from llm_from_scratch.weights import LoadedModel

TOP = 3  # tokens of a reading
STRONGEST = 4  # heads that are named of each measure


@dataclass
class Inside:
    """The pass of the text that was asked last, and the induction scores of each model.

    Both are kept, so that another token of the same text costs no pass.
    """

    text: tuple[bytes, Tensor, Summary] | None = None  # key, residual stream (L + 1, T, C), heads
    scores: dict[bytes, Induction | None] = field(default_factory=dict)

    def read(
        self,
        loaded: LoadedModel,
        keys: tuple[bytes, bytes],
        ids: Sequence[int],
        place: int,
        token: Callable[[int], Json],
    ) -> Json:
        """Returns the readings after token `place` of ids, the last layer's first, and the heads.

        Args:
            loaded: the model.
            keys: of the text and of the model.
            ids: (T,), the text.
            place: from 0 to T - 1.
            token: a token's id -> the token as the page has it.

        Raises:
            MachineError: when the model computes NaN.
        """
        of_text, of_model = keys
        if self.text is None or self.text[0] != of_text:
            seen = trace(loaded.model, ids)
            self.text = of_text, seen.residual, summary(seen.layers, ids)
        if of_model not in self.scores:
            begin = first_id(loaded.tokenizer)
            self.scores = {of_model: induction(loaded.model, ordinary_tokens(loaded.tokenizer), begin, texts=1)}
        _, residual, heads = self.text
        return {"lens": _lens(loaded, residual[:, place], token), "heads": _heads(heads, self.scores[of_model])}


@torch.inference_mode()
def _lens(loaded: LoadedModel, stream: Tensor, token: Callable[[int], Json]) -> list[Json]:
    # The readings of one place as if they were the places of one text
    found = expectations(loaded.model.logits(loaded.model.norm(stream)), [0] * len(stream), TOP)
    rows = enumerate(zip(found.ids.tolist(), found.p.tolist(), strict=True))
    return [
        {"layer": layer, "tokens": [token(one) | {"p": p} for one, p in zip(*row, strict=True)]} for layer, row in rows
    ][::-1]


def _heads(attended: Summary, scores: Induction | None) -> list[Json]:
    """Returns each measure with its strongest heads, and the value of an even head."""
    heads, even = dict(attended.heads), dict(attended.even)
    if scores is not None:
        heads["induction"], even["induction"] = scores.scores, scores.even
    return [
        {
            "measure": name,
            "even": even[name],
            "strongest": [
                {"layer": layer, "head": head, "weight": weight}
                for layer, head, weight in strongest(heads[name], STRONGEST)
            ],
        }
        for name in MEASURES
        if name in heads
    ]
