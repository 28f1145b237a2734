"""Overlap of generated text with the true continuation, with itself, and with the training text.

`generated` and `references` are continuations of the same prompts, one each, in the same order.
Shapes: T characters. BLEU, chrF and ROUGE are computed by the libraries sacrebleu and rouge-score,
and returned as shares from 0 to 1, not per cent.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from llm_from_scratch.errors import UserError, missing_extra
from llm_from_scratch.evaluation.style import words

ROUGE_KINDS = ("rouge1", "rouge2", "rougeL")


def bleu(generated: Sequence[str], references: Sequence[str]) -> float:
    """Returns corpus BLEU (Papineni et al. 2002) with sacrebleu's defaults (Post 2018).

    They are nrefs:1, case:mixed, tok:13a, smooth:exp.
    """
    _paired(generated, references)
    return float(_sacrebleu().corpus_bleu(list(generated), [list(references)]).score) / 100


def chrf(generated: Sequence[str], references: Sequence[str]) -> float:
    """Returns corpus chrF2 (Popović 2015): n-grams of 1 to 6 characters, beta 2 (sacrebleu)."""
    _paired(generated, references)
    return float(_sacrebleu().corpus_chrf(list(generated), [list(references)]).score) / 100


def rouge(generated: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Returns the mean F-measures of ROUGE-1, -2 and -L over the pairs (Lin 2004); no stemming.

    A word is a run of a-z and 0-9 after lower-casing: other scripts are ignored.
    """
    scores = _rouge_of_pairs(generated, references, ROUGE_KINDS)
    return {kind: sum(score[kind] for score in scores) / len(scores) for kind in ROUGE_KINDS}


def rouge_l(generated: Sequence[str], references: Sequence[str]) -> list[float]:
    """Returns the F-measure of ROUGE-L of each pair, as in `rouge`."""
    return [score["rougeL"] for score in _rouge_of_pairs(generated, references, ["rougeL"])]


def _rouge_of_pairs(
    generated: Sequence[str], references: Sequence[str], kinds: Sequence[str]
) -> list[dict[str, float]]:
    _paired(generated, references)
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise missing_extra("ROUGE needs", "metrics") from None
    scorer = RougeScorer([*kinds])
    scores = [scorer.score(reference, text) for text, reference in zip(generated, references, strict=True)]
    return [{kind: float(score[kind].fmeasure) for kind in kinds} for score in scores]


def self_bleu(texts: Sequence[str]) -> float:
    """Returns self-BLEU (Zhu et al. 2018): the mean sentence BLEU against all others."""
    if len(texts) < 2:
        raise UserError("self-BLEU compares texts with one another: give at least two")
    sentence_bleu = _sacrebleu().sentence_bleu
    scores = [sentence_bleu(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
    return float(sum(scores)) / len(scores) / 100


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Returns distinct / all word n-grams of the texts (Li et al. 2016), or 0 for none."""
    grams = [gram for text in texts for gram in _ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Sequence[str], n: int = 4) -> float:
    """Returns the mean over the texts of 1 - distinct / all word n-grams within a text.

    seq-rep-n of Welleck et al. 2020.
    """
    shares = [1 - len(set(grams)) / len(grams) if (grams := _ngrams(words(text), n)) else 0.0 for text in texts]
    return sum(shares) / len(shares)


class SearchableText:
    """A text in which the longest copies of other texts are found, by a suffix array.

    The array is built at the first search: about 65 bytes of memory a character, of which 4 stay,
    and a second or two for 1 M characters.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def _order(self) -> np.ndarray:
        return _suffix_array(self.text)

    def match_lengths(self, text: str) -> np.ndarray:
        """Returns for each character of `text` the length of the longest copy that begins there.

        The lengths are (T,) int64.
        """
        found = np.zeros(len(text), dtype=np.int64)
        for i in range(len(text)):
            rest = text[i:]
            place = bisect_left(self._order, rest, key=lambda start: self.text[start : start + len(rest)])
            # The longest copy begins one of the two suffixes beside the place of `rest`.
            nearest = (self.text[start : start + len(rest)] for start in self._order[max(place - 1, 0) : place + 1])
            found[i] = max((common_prefix(rest, copy) for copy in nearest), default=0)
        return found


def memorisation(
    texts: Sequence[str], training: SearchableText, at_least: Sequence[int] = (20, 50, 100, 200)
) -> dict[int | str, Any]:
    """Returns the shares of the generated texts that occur word for word in the training text.

    For each L of `at_least`: the share of generated characters inside strings of L or more
    characters that occur in the training text (Carlini et al. 2023 count tokens likewise). Under
    "longest": the longest such string. `texts` are without their prompts. Held-out text has a share
    too: compare with that.

    Raises:
        UserError: when the texts are empty.
    """
    total = sum(map(len, texts))
    if not total:
        raise UserError("nothing was generated: give texts of at least a character")
    inside, longest = dict.fromkeys(at_least, 0), ""
    for text in filter(None, texts):
        lengths = training.match_lengths(text)
        for L in inside:
            ends = np.where(lengths >= L, np.arange(len(text)) + lengths, 0)
            inside[L] += int((np.maximum.accumulate(ends) > np.arange(len(text))).sum())
        start = int(lengths.argmax())
        longest = max(longest, text[start : start + int(lengths[start])], key=len)
    return {L: count / total for L, count in inside.items()} | {"longest": longest}


def _ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def _suffix_array(text: str) -> np.ndarray:
    """Returns the starts of a text's suffixes in the order of their code points: (T,) int32.

    Prefix doubling (Karp, Miller and Rosenberg 1972; Manber and Myers 1993): ranks of all strings
    of 1, 2, 4, … characters, until all differ. A string that runs over the end is padded with -1.
    """
    ranks = np.unique(np.frombuffer(text.encode("utf-32-le"), dtype="<u4"), return_inverse=True)[1].astype(np.int64)
    width = 1
    while len(ranks) and int(ranks.max()) < len(ranks) - 1:
        ranks *= len(ranks) + 1
        ranks[:-width] += ranks[width:] // (len(ranks) + 1) + 1
        ranks = np.unique(ranks, return_inverse=True)[1]
        width *= 2
    return np.argsort(ranks).astype(np.int32)


def common_prefix(a: str, b: str) -> int:
    """Returns the length of the common prefix of two texts."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _paired(generated: Sequence[str], references: Sequence[str]) -> None:
    if len(generated) != len(references) or not generated:
        raise UserError(f"{len(generated)} generated texts and {len(references)} references: give one of each a prompt")


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise missing_extra("BLEU and chrF need", "metrics") from None
    return sacrebleu
