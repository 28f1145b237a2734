"""Continuations of held-out passages by a model, measured beside the true ones.

A passage is cut out of the held-out text: a prompt of about 200 characters that begins behind a
space, and the true continuation, 400 characters. Definitions and sources of the figures are in
`overlap`, `style` and `faithfulness`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.faithfulness import faithfulness
from llm_from_scratch.evaluation.overlap import bleu, chrf, distinct_n, memorisation, repetition, rouge, self_bleu
from llm_from_scratch.evaluation.references import bertscore, entailment
from llm_from_scratch.evaluation.results import GenerationMetrics
from llm_from_scratch.evaluation.style import burrows_delta, sentences, style
from llm_from_scratch.generation import TextStream, generate_tokens
from llm_from_scratch.weights import LoadedModel

PROMPT, CONTINUATION = 200, 400  # characters
LENGTHS = (20, 50, 100, 200)  # characters copied in a row
BACKGROUND = 200_000  # characters of training text that help to tell names from words
SAMPLING = SamplingConfig(temperature=0.8, top_p=0.95)


@dataclass(frozen=True)
class Passage:
    """A piece of held-out text in two."""

    prompt: str
    continuation: str


def passages(text: str, count: int, seed: int) -> list[Passage]:
    """Up to `count` passages that do not overlap, drawn by the seed, in the order of the text.

    UserError: the text is too short for one.
    """
    slot = PROMPT + CONTINUATION + 100  # room to begin and to cut behind a word
    starts = range(0, len(text) - slot + 1, slot)
    if not starts:
        raise UserError(f"generated text needs held-out text of at least {slot} characters, here are {len(text)}")
    found = []
    for start in sorted(random.Random(seed).sample(starts, min(count, len(starts)))):
        begin = text.find(" ", start, start + 50) + 1 or start
        cut = text.find(" ", begin + PROMPT, begin + PROMPT + 50)
        cut = cut if cut > 0 else begin + PROMPT
        found.append(Passage(text[begin:cut], text[cut : cut + CONTINUATION]))
    return found


def write(run: LoadedModel, prompt: str, characters: int, seed: int) -> str:
    """A continuation of the prompt of at most so many characters; an end-of-text ends it earlier.

    Of a prompt longer than the context the end is read.
    """
    ids = run.tokenizer.encode(prompt)[-run.model.config.block_size :]
    device = next(run.model.parameters()).device
    stream, written = TextStream(), ""
    config = replace(SAMPLING, max_new_tokens=characters, seed=seed)
    for (token,) in generate_tokens(run.model, torch.tensor([ids], device=device), config):
        written += stream.push(run.tokenizer.decode_bytes([int(token)]), final=int(token) == run.tokenizer.eot_id)
        if stream.ended or len(written) >= characters:
            break
    return written[:characters]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Texts and models that continuations are held against.

    Args:
        train: the training text.
        against: the name and the text of another author.
        bertscore: the folder of a model. entailment: the folder of a classifier.
        faithfulness: count names, genders and relations by rules.
    """

    train: str
    against: tuple[str, str] | None = None
    bertscore: Path | None = None
    entailment: Path | None = None
    faithfulness: bool = False


def generation_metrics(
    texts: Sequence[str],
    chosen: Sequence[Passage],
    comparison: Comparison,
    left_out: list[str],
    *,
    true: bool = False,
) -> GenerationMetrics:
    """All figures of continuations, one a passage.

    A figure that cannot be measured adds a line to `left_out`.

    true: they are the true continuations, which are not compared with themselves.
    """

    def attempt(measure: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return measure(*arguments)
        except ValueError as error:
            if str(error) not in left_out:
                left_out.append(str(error))
            return None

    joined, train = "\n\n".join(texts), comparison.train
    figures: dict[str, Any] = {} if true else _against_the_truth(texts, chosen, comparison, attempt)
    figures["self_bleu"] = attempt(self_bleu, texts) if len(texts) > 1 else None
    if comparison.entailment:
        prompts, parts = [passage.prompt for passage in chosen], [sentences(text) for text in texts]
        figures |= attempt(entailment, prompts, parts, comparison.entailment) or {}
    figures |= _copied(attempt(memorisation, texts, train, LENGTHS))
    figures["style"] = attempt(style, joined)
    if comparison.against:
        name, other = comparison.against
        figures["delta"] = attempt(burrows_delta, joined, {"training text": train, name: other})
    if comparison.faithfulness:
        figures["faithfulness"] = _mean_faithfulness(texts, chosen, train[:BACKGROUND])
    return GenerationMetrics(
        **figures,
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        distinct_3=distinct_n(texts, 3),
        repetition_4=repetition(texts),
        words=len(joined.split()),
    )


def _against_the_truth(
    texts: Sequence[str], chosen: Sequence[Passage], comparison: Comparison, attempt: Callable[..., Any]
) -> dict[str, Any]:
    truth = [passage.continuation for passage in chosen]
    figures = {"bleu": attempt(bleu, texts, truth), "chrf": attempt(chrf, texts, truth)}
    figures |= attempt(rouge, texts, truth) or {}
    if comparison.bertscore:
        figures["bertscore"] = attempt(bertscore, texts, truth, comparison.bertscore)
    return figures


def _copied(found: dict[Any, Any] | None) -> dict[str, Any]:
    """The figures of `memorisation`, the longest copy apart from the shares."""
    if not found:
        return {}
    longest = found.pop("longest")
    shares = {str(length): share for length, share in found.items()}
    return {
        "memorised": shares,
        "memorised_longest": longest,
        "memorised_longest_characters": len(longest),
    }


def _mean_faithfulness(texts: Sequence[str], chosen: Sequence[Passage], background: str) -> dict[str, float]:
    """How many names and relations of each kind a passage has, on average."""
    pairs = zip(chosen, texts, strict=True)
    found = [asdict(faithfulness(passage.prompt, text, background)) for passage, text in pairs]
    return {key: fmean(len(row[key]) for row in found) for key in found[0]}
