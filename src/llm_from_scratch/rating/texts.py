"""The texts of a study: written by all systems, and frozen, before the first rater comes.

Prompts are continued for `sampling.max_new_tokens` tokens. Held-out passages are continued for as
many characters as the true continuation has, so that the length gives no system away. Every text
that was cut ends with a whole word.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.data.clean import clean_typed
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.continuations import passages, write
from llm_from_scratch.evaluation.measure import open_with_data
from llm_from_scratch.generation import generate
from llm_from_scratch.machine import pick_device
from llm_from_scratch.pretrained import find_model
from llm_from_scratch.rating.records import HUMAN, Text
from llm_from_scratch.rating.study import Passages, StudyPlan
from llm_from_scratch.weights import LoadedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """What is continued, and how it truly goes on; None: not known."""

    given: str
    truth: str | None = None


@dataclass(frozen=True)
class Written:
    """The texts of a study.

    Attributes:
        texts: of all systems, prompt by prompt.
        carriers: more texts of theirs, for attention checks (`order.make_items`).
        systems: JSON: of each system its RUN, its step and the checksum of its model.
    """

    texts: list[Text]
    carriers: list[Text]
    systems: str


def write_texts(plan: StudyPlan, device: str = "auto") -> Written:
    """Lets all systems of a plan write their texts.

    Raises:
        UserError: when a run or the held-out text is missing or damaged, or a system lacks a
            character of a prompt.
    """
    sampling = _sampling(plan)
    for name, run in plan.systems.items():
        find_model(run, f"systems.{name}")  # before the first one writes
    prompts = (
        _passages(plan.passages, plan, device) if plan.passages else [Prompt(clean_typed(p)) for p in plan.prompts]
    )
    by_prompt: list[list[Text]] = [[] for _ in prompts]
    carriers: dict[int, Text] = {}
    about = {}
    for name, run in plan.systems.items():
        source = find_model(run, f"systems.{name}")
        model = source.open(pick_device(device))
        about[name] = {
            "run": str(source.path) if run == "last" else run,
            "step": model.step,
            "checksum": source.checksum(),
        }
        log.info("%s: writing %d texts", name, len(prompts))
        for number, prompt in enumerate(prompts):
            by_prompt[number].append(_text(plan, model, name, number, prompt, sampling))
        for number, (system, prompt_number) in enumerate(_carried(plan, len(prompts))):
            if system == name:
                carriers[number] = _text(plan, model, name, prompt_number, prompts[prompt_number], sampling, number)
    if plan.human:
        for number, prompt in enumerate(prompts):
            assert prompt.truth is not None
            human = Text(id=0, prompt=number, system=HUMAN, given=prompt.given, continuation=prompt.truth)
            by_prompt[number].append(human)
    texts = [text for own in by_prompt for text in own]
    return Written(
        texts=[Text(**vars(text) | {"id": number}) for number, text in enumerate(texts, 1)],
        carriers=[Text(**vars(carriers[number]) | {"system": "check"}) for number in sorted(carriers)],
        systems=json.dumps(about),
    )


def _sampling(plan: StudyPlan) -> SamplingConfig:
    try:
        return SamplingConfig(**vars(plan.sampling))
    except UserError as error:
        raise UserError(f"sampling.{error}") from None


def _carried(plan: StudyPlan, prompts: int) -> list[tuple[str, int]]:
    """Returns the system and the prompt of each text that carries a check, in turn."""
    names, size = list(plan.systems), 1 if plan.design == "scales" else 2
    start = plan.seed % prompts
    return [
        (names[number % len(names)], (start + (number // size) * max(prompts // max(plan.checks, 1), 1)) % prompts)
        for number in range(plan.checks * size)
    ]


def _text(
    plan: StudyPlan,
    model: LoadedModel,
    system: str,
    number: int,
    prompt: Prompt,
    sampling: SamplingConfig,
    carrier: int | None = None,
) -> Text:
    """Lets a system continue a prompt; the seed is one of its own for each text."""
    words = f"{plan.seed} {system} {number} {carrier}"
    seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) >> 1
    if plan.passages:
        length = plan.passages.continuation_characters
        text = write(model, prompt.given, length, seed, sampling)
        continuation = whole_words(text) if len(text) >= length else text
    else:
        config = SamplingConfig(**vars(sampling) | {"seed": seed})
        parts = [new for (new,) in generate(model.model, model.tokenizer, prompt.given, config, model.end_ids)]
        text = "".join(parts)
        continuation = whole_words(text) if len(parts) == config.max_new_tokens else text
    return Text(id=0, prompt=number, system=system, given=prompt.given, continuation=continuation, seed=seed)


def whole_words(text: str) -> str:
    """Returns a text that was cut, without its last word where there are others."""
    stripped = text.rstrip()
    if stripped != text:
        return stripped
    place = max(text.rfind(" "), text.rfind("\n"))
    return text[:place].rstrip() if place > 0 and text[:place].strip() else text


def _passages(wanted: Passages, plan: StudyPlan, device: str) -> Sequence[Prompt]:
    """Returns passages of the text that a system's run holds out.

    Raises:
        UserError: when no such text is at hand, or it has not so many passages.
    """
    try:
        opened = open_with_data(plan.systems[wanted.of], device)
    except UserError as error:
        raise UserError(f"passages.of: {wanted.of}: {error}, or give prompts instead of passages") from None
    text = "".join(opened.prepared.documents("val"))
    lengths = (wanted.prompt_characters, wanted.continuation_characters)
    found = passages(text, wanted.count, plan.seed, *lengths)
    if len(found) < wanted.count:
        raise UserError(
            f"passages.count: {wanted.count}: the text that {wanted.of} holds out has {len(found)}: lower it"
        )
    return [Prompt(passage.prompt, whole_words(passage.continuation)) for passage in found]
