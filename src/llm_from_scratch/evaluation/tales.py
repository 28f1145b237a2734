"""A run on told stories beside the process that tells them: excess, calibration, what it writes.

    held-out stories -> nats of each token -> excess over the process, by kind of choice and place
    choices of some stories -> the model's probability of each option -> divergence from the truth
    end-of-text -> stories of the model -> faults, copies of the training text, new endings

Each story is read from its beginning, after an end-of-text token.

Shapes: N tokens of a story, with the end-of-text token behind it; n options of a choice.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from llm_from_scratch import tales
from llm_from_scratch.config import Config
from llm_from_scratch.data.fresh import fresh_stories
from llm_from_scratch.data.prepared import Prepared, Stories
from llm_from_scratch.data.sampler import batch_size_at
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.continuations import SAMPLING
from llm_from_scratch.evaluation.intervals import bootstrap_ratio, wilson
from llm_from_scratch.evaluation.likelihood import run_scorer, token_bytes
from llm_from_scratch.evaluation.options import option_bits
from llm_from_scratch.evaluation.overlap import common_prefix
from llm_from_scratch.evaluation.results import Divergence, Excess, Share, TalesResult, TalesRun, Told, ToldStory
from llm_from_scratch.evaluation.scoring import document_windows, score
from llm_from_scratch.evaluation.style import sentences
from llm_from_scratch.generation import generate_tokens, to_host
from llm_from_scratch.weights import LoadedModel

GENERATED = 500  # stories of a model, by default
CALIBRATED = 20  # stories whose choices are compared with the true distribution, at most
PLACES = 10  # parts of a story, by its bytes
SHOWN = 3  # stories of a model that a report shows
AT_ONCE = 64  # stories written at a time
FOLLOWS = "what follows"  # the text between choices, which earlier ones determine
WITH = {"plot": "phrase"}  # an event is told by its first sentence: the tokens of both are the same


@dataclass(frozen=True)
class TalesRunData:
    """A run on told stories: its name, model, prepared stories and settings."""

    name: str
    run: LoadedModel
    stories: Stories
    config: Config


def tales_result(runs: Sequence[TalesRunData], generate: int, seed: int = 1337, batch_size: int = 32) -> TalesResult:
    """Measures runs on the held-out stories of the first one.

    Args:
        runs: the runs, of one level.
        generate: stories that each of them writes.
        seed: of these.
        batch_size: stories at a time, at most.

    Raises:
        UserError: when the runs have other levels, or contexts too short for a story.
    """
    level, held_out = runs[0].stories.level, list(runs[0].stories.documents("val"))
    if any(one.stories.level != level for one in runs):
        raise UserError(f"{runs[0].name} is of stories of level {level}, and another run is not: evaluate each alone")
    entropy = tales.entropy(level).bits_per_byte
    truth = None
    if generate:
        truth = _told(held_out[:generate], level, _Known(training_stories(runs[0])))
        truth.samples = []
    return TalesResult(
        level=level,
        stories=len(held_out),
        entropy=entropy.value,
        entropy_low=entropy.low,
        entropy_high=entropy.high,
        truth=truth,
        runs=[_measured(one, held_out, level, generate, seed, batch_size) for one in runs],
    )


def tales_or_reason(
    runs: Sequence[tuple[str, Config | None, LoadedModel, Prepared | None]],
    generate: int,
    seed: int,
    batch_size: int,
    left_out: list[str],
) -> TalesResult | None:
    """Measures the runs on told stories; None: there is none, or a line in `left_out` says why not.

    Args:
        runs: (name, settings, model, prepared text) of each; settings None: it is no run.
        generate: stories that each of them writes.
        seed: of these.
        batch_size: stories at a time, at most.
        left_out: gets the line.
    """
    told = [
        TalesRunData(name, run, text, config)
        for name, config, run, text in runs
        if isinstance(text, Stories) and config is not None
    ]
    try:
        return tales_result(told, generate, seed, batch_size) if told else None
    except UserError as error:
        left_out.append(f"told stories: {error}")
        return None


def _measured(
    one: TalesRunData, held_out: Sequence[str], level: int, generate: int, seed: int, batch_size: int
) -> TalesRun:
    parts = _Parts(one.run, held_out, level, batch_size)
    told = None
    if generate:
        written = write_stories(one.run, generate, seed)
        told = _told(written, level, _Known(training_stories(one)))
    return TalesRun(
        name=one.name,
        whole=parts.excess(slice(None)),
        by_kind={kind: parts.excess([row]) for row, kind in enumerate(parts.kinds)},
        by_place=[parts.excess([len(parts.kinds) + place], of_places=True) for place in range(PLACES)],
        divergence=divergence(one.run, held_out[:CALIBRATED], level),
        told=told,
    )


# ------------------------------------------------------------------------------------------- excess
class _Parts:
    """Bits of the model and of the process in each story, by kind of choice and by place.

    Arrays are (kinds + PLACES, stories).
    """

    def __init__(self, run: LoadedModel, stories: Sequence[str], level: int, batch_size: int) -> None:
        self.kinds = [kind for kind in tales.KINDS if kind not in WITH] + [FOLLOWS]
        shape = (len(self.kinds) + PLACES, len(stories))
        self.model, self.process = np.zeros(shape), np.zeros(shape)
        self.sizes = np.array([len(story.encode()) for story in stories])
        lengths = token_bytes(run.tokenizer)
        for number, (story, ids, bits) in enumerate(_scored(run, stories, batch_size)):
            stops = np.cumsum(lengths[ids])
            self._add(number, _Decisions(story, level), stops - lengths[ids], stops, bits)
        seen = (self.process + self.model).sum(axis=1) > 0
        kept = [row for row, kind in enumerate(self.kinds) if seen[row] or kind == FOLLOWS]
        order = [*kept, *range(len(self.kinds), len(self.model))]
        self.kinds = [self.kinds[row] for row in kept]
        self.model, self.process = self.model[order], self.process[order]

    def _add(
        self, number: int, decisions: "_Decisions", starts: np.ndarray, stops: np.ndarray, bits: np.ndarray
    ) -> None:
        rows = [self.kinds.index(kind) for kind in decisions.kinds]
        np.add.at(self.process[:, number], rows, decisions.bits)
        np.add.at(self.process[:, number], self._places(decisions.starts, number), decisions.bits)
        # A token decides the last choice that begins before its end and reaches into it
        last = np.searchsorted(decisions.starts, stops, side="left") - 1
        decides = (last >= 0) & (decisions.stops[last] > starts) & (stops > starts)
        of_token = np.where(decides, np.array(rows)[last], self.kinds.index(FOLLOWS))
        np.add.at(self.model[:, number], of_token, bits)
        np.add.at(self.model[:, number], self._places(starts, number), bits)

    def _places(self, starts: np.ndarray, number: int) -> np.ndarray:
        return len(self.kinds) + np.minimum(starts * PLACES // self.sizes[number], PLACES - 1)

    def excess(self, rows: slice | list[int], of_places: bool = False) -> Excess:
        """Returns the excess of some rows together; of all kinds for `slice(None)`."""
        chosen = slice(0, len(self.kinds)) if isinstance(rows, slice) else rows
        model, process = (bits[chosen].sum(axis=0) for bits in (self.model, self.process))
        value, low, high = bootstrap_ratio(model - process, self.sizes)
        total = self.sizes.sum()
        assert of_places == (not isinstance(rows, slice) and rows[0] >= len(self.kinds))
        return Excess(
            model=float(model.sum() / total), process=float(process.sum() / total), excess=value, low=low, high=high
        )


class _Decisions:
    """The choices of a story as spans of its bytes; an event and its sentence are one.

    A span ends with the character that tells the option from all others.
    """

    def __init__(self, story: str, level: int) -> None:
        spans: list[tuple[int, int, str, float]] = []
        bits, others = 0.0, tuple[str, ...]()  # of an event, which its sentence tells
        for one in tales.options(story, level):
            bits += one.choice.bits
            others += tuple(text for told in one.texts.values() for text in told)
            if one.choice.kind not in WITH:
                # A reading has a space in front of the story.
                start, taken = one.choice.start - 1, one.choice.taken
                stop = start + max((common_prefix(taken, text) for text in others if text != taken), default=0) + 1
                spans.append((_byte(story, max(start, 0)), _byte(story, stop), one.choice.kind, bits))
                bits, others = 0.0, tuple[str, ...]()
        starts, stops, self.kinds, of_choice = zip(*spans, strict=True)
        self.starts, self.stops, self.bits = np.array(starts), np.array(stops), np.array(of_choice)


def _byte(story: str, character: int) -> int:
    return character if story.isascii() else len(story[:character].encode())


def _scored(run: LoadedModel, stories: Sequence[str], batch_size: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields each story with its ids and their bits, (N,) each.

    Raises:
        UserError: when a story is longer than the context.
    """
    documents = [np.append(run.tokenizer.encode_array(story), run.tokenizer.eot_id) for story in stories]
    model = run_scorer(run)
    longest = max(map(len, documents))
    if longest > model.block_size:
        raise UserError(
            f"a story has {longest} tokens and model.block_size={model.block_size}: the entropy is of stories that are"
            " read whole: use a larger model.block_size"
        )
    nats = np.concatenate([part for part, _ in score(model, document_windows(documents, model, batch_size))])
    bits = np.split(nats.astype(np.float64) / np.log(2), np.cumsum([len(ids) for ids in documents])[:-1])
    yield from zip(stories, documents, bits, strict=True)


# -------------------------------------------------------------------------------------- calibration
def divergence(run: LoadedModel, stories: Iterable[str], level: int) -> dict[str, Divergence]:
    """Returns the divergence of a model from the true distributions, by kind of choice.

    An option's probability is that of its text, in the tokens that the tokenizer gives it. What the
    model gives to none of the options counts against it, too. Of an event it is that of all its
    sentences, and of a sentence that given its event.
    """
    found: dict[str, list[float]] = {"all": []}
    for story in stories:
        taken = 0.0  # log2 of the model's probability of the event whose sentence comes next
        for one, bits in option_bits(run, story, level):
            names = list(one.probabilities)
            true = np.array([one.probabilities[name] for name in names])
            own = np.array([-np.logaddexp2.reduce([-bits[text] for text in one.texts[name]]) for name in names])
            value = float(np.sum(true * (np.log2(true) + own + taken)))
            taken = -float(own[names.index(one.choice.taken)]) if one.choice.kind in WITH else 0.0
            if len(names) > 1:
                found.setdefault(one.choice.kind, []).append(value)
                found["all"].append(value)
    return {kind: _divergence(np.array(values)) for kind, values in found.items() if values}


def _divergence(values: np.ndarray) -> Divergence:
    bits, low, high = bootstrap_ratio(values, np.ones(len(values)))
    return Divergence(choices=len(values), bits=bits, low=low, high=high)


# ----------------------------------------------------------------------------------- what it writes
def write_stories(run: LoadedModel, count: int, seed: int) -> list[str]:
    """Returns sampled stories, each from an end-of-text token to the next one, or as long as the
    context.
    """
    device = next(run.model.parameters()).device
    ends, size = {run.tokenizer.eot_id, *run.end_ids}, run.model.config.block_size
    found: list[str] = []
    while len(found) < count:
        settings = replace(SAMPLING, max_new_tokens=size, seed=seed + len(found))
        rows = min(AT_ONCE, count - len(found))
        ids = torch.full((rows, 1), run.tokenizer.eot_id, device=device)
        written: list[list[int]] = [[] for _ in range(rows)]
        open_rows = set(range(rows))
        for tokens in to_host(generate_tokens(run.model, ids, settings)):
            for row in tuple(open_rows):
                if tokens[row] in ends:
                    open_rows.discard(row)
                else:
                    written[row].append(tokens[row])
            if not open_rows:
                break
        found += [run.tokenizer.decode(row) for row in written]
    return found


class _Known:
    """The stories and the endings of a training text; only their hashes are kept."""

    def __init__(self, stories: Iterable[str]) -> None:
        self.stories: set[int] = set()
        self.endings: set[int] = set()
        for story in stories:
            self.stories.add(hash(story))
            self.endings.add(hash(ending(story)))


def ending(story: str) -> str:
    """Returns the last two sentences of a story."""
    return " ".join(sentences(story[-400:])[-2:])


def training_stories(one: TalesRunData) -> Iterator[str]:
    """Yields the stories that a run has read; of fresh ones those of its steps, told again."""
    data, val = one.config.data, one.stories.manifest["splits"]["val"]
    if data.stream != "fresh":
        yield from one.stories.documents("train")
        return
    sizes = (batch_size_at(step, data.batch_size, data.batch_schedule) for step in range(one.run.step or 0))
    length = 1.2 * one.config.model.block_size * val["text_bytes"] / val["tokens"]
    yield from fresh_stories(one.stories.level, one.config.seed, sizes, length)


def _told(stories: Sequence[str], level: int, known: _Known) -> Told:
    verdicts = [tales.check(story, level) for story in stories]
    kinds = Counter(kind for verdict in verdicts for kind in verdict.kinds)
    samples = [
        ToldStory(text=story, faults=[(fault.kind, fault.found) for fault in verdict.faults])
        for story, verdict in islice(zip(stories, verdicts, strict=True), SHOWN)
    ]
    return Told(
        stories=len(stories),
        temperature=SAMPLING.temperature,
        top_p=SAMPLING.top_p,
        faultless=_share(sum(not verdict.faults for verdict in verdicts), len(stories)),
        faults={kind: _share(count, len(stories)) for kind, count in kinds.most_common()},
        copied=_share(sum(hash(story) in known.stories for story in stories), len(stories)),
        new_ending=_share(sum(hash(ending(story)) not in known.endings for story in stories), len(stories)),
        samples=samples,
    )


def _share(count: int, total: int) -> Share:
    low, high = wilson(count, total)
    return Share(count=count, share=count / total, low=low, high=high)
