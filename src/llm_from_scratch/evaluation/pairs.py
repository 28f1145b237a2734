"""Minimal pairs: two sentences that differ in a word or two, of which a model prefers one.

Bias: `sent_more` is the sentence that fits a stereotype, `sent_less` its counterpart (the columns
of CrowS-Pairs, Nangia et al. 2020). Grammar: `sentence_good` and `sentence_bad` (BLiMP, Warstadt et
al. 2020). The score of a sentence is its total log-likelihood, as in BLiMP. CrowS-Pairs was made
for masked models and scores only the words that both sentences share: its published figures are
not comparable with these.

`bias.csv` and `grammar.jsonl` beside this file were written for this project. In bias.csv each pair
of groups has the same number of pairs either way round (he expected, she expected), so that a
model that merely prefers “he” gets one half of all of them.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_from_scratch.data.clean import clean_typed
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.intervals import bootstrap_ratio, wilson

BIAS = Path(__file__).with_name("bias.csv")
GRAMMAR = Path(__file__).with_name("grammar.jsonl")
TIE = 1e-6  # nats: a difference up to this is rounding, and counts as a tie
BIAS_LIMITS = (
    "A share near one half does not show that a model is fair: few templates in English, two genders and a few names were "
    "asked, likelihood is not what a model writes, and rarer names cost more whatever stands beside them."
)
GRAMMAR_LIMITS = (
    "A pair won does not show that a rule is known: frequent words and short distances decide many pairs as well, the set is small, "
    "and a model trained on one book has never met some of its words."
)
MAX_CELL = 131_072  # characters of a cell: the csv module's default


@dataclass(frozen=True)
class Pair:
    """Two sentences of a kind; `first` fits the stereotype, or is grammatical."""

    first: str
    second: str
    kind: str


@dataclass(frozen=True)
class Preference:
    """The share of a kind's pairs whose first sentence is likelier; a tie counts one half."""

    kind: str
    pairs: int
    share: float
    low: float  # Wilson's 95 % interval of the share
    high: float
    # Mean of nats(second) - nats(first): above 0 where the first sentences are likelier
    nats: float
    nats_low: float  # bootstrap over the pairs, 95 %
    nats_high: float


def prefer(pairs: Iterable[Pair], nats: Callable[[str], float]) -> list[Preference]:
    """Scores pairs; returns a row for each kind, in order of appearance, then one for “all” pairs.

    Args:
        pairs: at least one.
        nats: -ln p of a whole text, summed over its tokens, the first one included.

    Raises:
        UserError: when there are no pairs, or a likelihood is not finite.
    """
    differences: dict[str, list[float]] = {}
    for pair in pairs:
        difference = nats(pair.second) - nats(pair.first)
        if not math.isfinite(difference):
            raise UserError(f"the model gives no finite likelihood to one of “{pair.first}” and “{pair.second}”")
        differences.setdefault(pair.kind, []).append(difference)
    if not differences:
        raise UserError("there are no pairs to score: give at least one")
    rows = [_preference(kind, values) for kind, values in differences.items()]
    return [*rows, _preference("all", [value for values in differences.values() for value in values])]


def read_crows(path: Path = BIAS) -> list[Pair]:
    """Returns the pairs of a CSV with the columns sent_more, sent_less, bias_type.

    Raises:
        UserError: when the file is not UTF-8 or CSV, lacks a column or a cell, or holds equal
            sentences; the message names the file and the line.
    """
    csv.field_size_limit(MAX_CELL)  # global: a corpus reader may have raised it
    table = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        missing = [name for name in ("sent_more", "sent_less", "bias_type") if name not in (table.fieldnames or ())]
        if missing:
            raise UserError(
                f"{path} has no column {', '.join(missing)}: its first line must name sent_more, sent_less, bias_type"
            )
        pairs = []
        for row in table:
            place = f"{path}, line {table.line_num}"
            if None in row:
                raise UserError(f"{place} has more cells than the first line: put text with commas into double quotes")
            pairs.append(_pair(place, row["sent_more"], row["sent_less"], row["bias_type"]))
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num} is no CSV ({error}): mend or remove it") from None
    return _some(path, pairs)


def read_blimp(path: Path = GRAMMAR) -> list[Pair]:
    """Returns the pairs of a .jsonl file, or of all such files of a folder.

    A line is an object with sentence_good, sentence_bad, UID; UID is the kind.

    Raises:
        UserError: as `read_crows`; the message names the file and the line.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    pairs = []
    for file in files:
        for number, line in enumerate(_text(file).split("\n"), 1):
            if not line.strip():
                continue
            place = f"{file}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise UserError(f"{place} is no JSON: mend or remove it") from None
            if not isinstance(row, dict):
                raise UserError(f"{place} is no JSON object: it needs sentence_good, sentence_bad and UID")
            pairs.append(_pair(place, *(row.get(key) for key in ("sentence_good", "sentence_bad", "UID"))))
    return _some(path, pairs)


def _preference(kind: str, differences: list[float]) -> Preference:
    N = len(differences)
    won = sum(value > TIE for value in differences) + sum(abs(value) <= TIE for value in differences) / 2
    mean, low, high = bootstrap_ratio(np.array(differences), np.ones(N))
    return Preference(kind, N, won / N, *wilson(won, N), mean, low, high)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a file of pairs") from None


def _pair(place: str, first: object, second: object, kind: object) -> Pair:
    if not (isinstance(first, str) and isinstance(second, str) and isinstance(kind, str)):
        raise UserError(f"{place} lacks a sentence or its kind: give both sentences and the kind as text")
    # Cleaned as the corpus was: a letter with a separate accent is another text to the model.
    pair = Pair(clean_typed(first).strip(), clean_typed(second).strip(), kind.strip())
    if not (pair.first and pair.second and pair.kind) or pair.first == pair.second:
        raise UserError(f"{place} holds an empty cell, or the same sentence twice: mend or remove it")
    if any(character in text for text in (pair.first, pair.second, pair.kind) for character in "\0\r\n"):
        raise UserError(f"{place}: a line break or NUL inside a sentence: is a double quote missing before it?")
    return pair


def _some(path: Path, pairs: list[Pair]) -> list[Pair]:
    if not pairs:
        raise UserError(f"{path} holds no pairs: give at least one")
    return pairs
