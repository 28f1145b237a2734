"""The package as a library: load a run, score a text, continue a prompt (docs/api.md)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.scoring import likelihood_row, scorer, total_nats, windows
from llm_from_scratch.generation import generate as generate_pieces
from llm_from_scratch.machine import pick_device
from llm_from_scratch.pretrained import open_model
from llm_from_scratch.tokenizer import first_id
from llm_from_scratch.weights import LoadedModel


@dataclass(frozen=True)
class TextScore:
    """Likelihood of a text under a model."""

    nats: float  # total -ln p of the text
    tokens: int
    text_bytes: int  # of its UTF-8

    @property
    def loss(self) -> float:
        """Returns the loss in nats a token."""
        return self._row["loss"]

    @property
    def bits_per_byte(self) -> float:
        """Returns bits a byte of the text, which compares models of different tokenizers."""
        return self._row["bits_per_byte"]

    @property
    def perplexity(self) -> float:
        """Returns exp(loss), the loss capped at 700 so that it is finite."""
        return self._row["perplexity"]

    @property
    def _row(self) -> dict[str, float]:
        return likelihood_row(self.nats, self.tokens, self.text_bytes)


def load_run(run: str | Path = "last", device: str = "auto") -> LoadedModel:
    """Loads a model with its tokenizer, in evaluation mode: of a run the best validation's weights.

    >>> run = load_run("last", device="cpu")
    >>> run.model.config.n_layer, run.tokenizer.kind
    (1, 'char')

    Args:
        run: a run folder, `last` for the newest one below outputs/, or a model trained elsewhere,
            as `pretrained.open_model` takes it.
        device: auto | cpu | cuda | mps.

    Raises:
        UserError: when there is no such run or device, or a file of the run is damaged.
    """
    return open_model(str(run), pick_device(device))


def score(run: LoadedModel, text: str, *, overlap: float = 0.0, batch_size: int = 32) -> TextScore:
    """Computes the likelihood of a text, without cleaning it, after an end-of-text token.

    >>> likely = score(load_run(device="cpu"), "Toto went to the castle.")
    >>> likely.tokens, likely.text_bytes
    (24, 24)
    >>> run = load_run(device="cpu")
    >>> likely.bits_per_byte < score(run, "castle Toto the to went.").bits_per_byte
    True

    Args:
        run: from `load_run`.
        text: of any length; a long one is read in windows of the model's context.
        overlap: fraction of a window, in [0, 1), that repeats tokens scored before as context.
        batch_size: most windows in one batch; the scores do not depend on it.

    Raises:
        UserError: when the text is empty, or has a character that the tokenizer cannot encode.
    """
    ids = run.tokenizer.encode_array(text)
    if not len(ids):
        raise UserError("the text is empty: there is nothing to score")
    model = scorer(run.model, first_id(run.tokenizer))
    batches = windows([ids.astype(np.int64)], model, overlap=overlap, batch_size=batch_size)
    nats, tokens = total_nats(model, batches)
    return TextScore(nats, tokens, len(text.encode()))


def generate(run: LoadedModel, prompt: str = "", **settings: Any) -> list[str]:
    """Generates continuations of a prompt, one for each sample, without the prompt.

    >>> run = load_run(device="cpu")
    >>> texts = generate(run, "Toto went", max_new_tokens=20, num_samples=2, seed=1)
    >>> [len(text) for text in texts]
    [20, 20]

    Args:
        run: from `load_run`.
        prompt: the text to continue; "" generates a document from its start.
        settings: of `SamplingConfig`: temperature, top_p, max_new_tokens, num_samples, seed, stop,
            …

    Raises:
        UserError: when a setting is out of range, or the tokenizer cannot encode the prompt.
    """
    config = SamplingConfig(**settings)
    pieces = list(generate_pieces(run.model, run.tokenizer, prompt, config, run.end_ids))
    return ["".join(sample) for sample in zip(*pieces, strict=True)]
