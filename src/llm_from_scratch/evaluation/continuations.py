"""Continuations of held-out passages by a model, measured beside the true continuations.

A passage of the held-out text is a prompt of about 200 characters, which begins after a space, and
the true continuation, the next 400 characters. `overlap`, `style` and `faithfulness` define the
metrics and name their sources.
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
from llm_from_scratch.evaluation.overlap import (
    SearchableText,
    bleu,
    chrf,
    distinct_n,
    memorisation,
    repetition,
    rouge,
    self_bleu,
)
from llm_from_scratch.evaluation.references import bertscore, entailment
from llm_from_scratch.evaluation.results import GenerationMetrics
from llm_from_scratch.evaluation.style import burrows_delta, sentences, style
from llm_from_scratch.generation import TextStream, generate_tokens
from llm_from_scratch.weights import LoadedModel

PROMPT, CONTINUATION = 200, 400  # characters
LENGTHS = (20, 50, 100, 200)  # of a copied string, in characters, at least
BACKGROUND = 200_000  # characters of training text that help to tell names from words
SAMPLING = SamplingConfig(temperature=0.8, top_p=0.95)


@dataclass(frozen=True)
class Passage:
    """A passage of held-out text: the prompt, and the true continuation that follows it."""

    prompt: str
    continuation: str


def passages(text: str, count: int, seed: int, prompt: int = PROMPT, continuation: int = CONTINUATION) -> list[Passage]:
    """Draws up to `count` passages that do not overlap, by the seed; returns them in text order.

    Args:
        text: the held-out text.
        count: of passages.
        seed: of the draw.
        prompt: characters of a prompt, about; it begins and ends between words.
        continuation: characters of a true continuation.

    Raises:
        UserError: when the text is too short for one passage (700 characters by default).
    """
    slot = prompt + continuation + 100  # room to begin and to cut between words
    starts = range(0, len(text) - slot + 1, slot)
    if not starts:
        raise UserError(f"generated text needs held-out text of at least {slot} characters, here are {len(text)}")
    found = []
    for start in sorted(random.Random(seed).sample(starts, min(count, len(starts)))):
        begin = text.find(" ", start, start + 50) + 1 or start
        cut = text.find(" ", begin + prompt, begin + prompt + 50)
        cut = cut if cut > 0 else begin + prompt
        found.append(Passage(text[begin:cut], text[cut : cut + continuation]))
    return found


def write(run: LoadedModel, prompt: str, characters: int, seed: int, sampling: SamplingConfig = SAMPLING) -> str:
    """Returns a sampled continuation of the prompt, of at most `characters` characters.

    An end-of-text token, or one of the model's `end_ids`, ends it earlier. A prompt longer than the
    context keeps its last tokens.
    """
    ids = run.tokenizer.encode(prompt)[-run.model.config.block_size :]
    device = next(run.model.parameters()).device
    ends = {run.tokenizer.eot_id, *run.end_ids}
    stream, written = TextStream(), ""
    config = replace(sampling, max_new_tokens=characters, seed=seed)
    for (token,) in generate_tokens(run.model, torch.tensor([ids], device=device), config):
        end = int(token) in ends
        written += stream.push(b"" if end else run.tokenizer.decode_bytes([int(token)]), final=end)
        if stream.ended or len(written) >= characters:
            break
    return written[:characters]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Texts and models that continuations are compared with; None leaves a metric out.

    Args:
        train: the training text: copies of it, Burrows's Delta to it, its names.
        against: the name and the text of another author, for Burrows's Delta.
        bertscore: the folder of a model. entailment: the folder of a classifier.
        faithfulness: whether to count names, genders and relations by rules.
    """

    train: SearchableText | None = None
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
    """Returns the metrics of `texts`: continuations of the `chosen` passages, one each.

    A metric that cannot be measured is None, and adds a line with the reason to `left_out`.

    true: whether `texts` are the true continuations, which are not compared with themselves.
    """

    def attempt(measure: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return measure(*arguments)
        except UserError as error:
            if str(error) not in left_out:
                left_out.append(str(error))
            return None

    joined, train = "\n\n".join(texts), comparison.train
    figures: dict[str, Any] = {} if true else _against_the_truth(texts, chosen, comparison, attempt)
    figures["self_bleu"] = attempt(self_bleu, texts) if len(texts) > 1 else None
    if comparison.entailment:
        prompts, parts = [passage.prompt for passage in chosen], [sentences(text) for text in texts]
        figures |= attempt(entailment, prompts, parts, comparison.entailment) or {}
    figures["style"] = attempt(style, joined)
    if train:
        figures |= _copied(attempt(memorisation, texts, train, LENGTHS))
        if comparison.against:
            name, other = comparison.against
            figures["delta"] = attempt(burrows_delta, joined, {"training text": train.text, name: other})
        if comparison.faithfulness:
            figures["faithfulness"] = _mean_faithfulness(texts, chosen, train.text[:BACKGROUND])
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
    """Returns the result of `memorisation` as fields of `GenerationMetrics`; {} for None."""
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
    """Returns the mean count a passage of each field of `Faithfulness`."""
    pairs = zip(chosen, texts, strict=True)
    found = [asdict(faithfulness(passage.prompt, text, background)) for passage, text in pairs]
    return {key: fmean(len(row[key]) for row in found) for key in found[0]}
