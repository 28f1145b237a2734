"""Overlap of generated text with the true continuation, with itself, and with the training text.

`generated` and `references` are continuations of the same prompts, one each, in the same order.
Shapes: T characters. BLEU, chrF and ROUGE are computed by the libraries sacrebleu and rouge-score,
and returned as shares from 0 to 1, not per cent.
"""

from collections.abc import Sequence
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
    _paired(generated, references)
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise missing_extra("ROUGE needs", "metrics") from None
    scorer = RougeScorer(list(ROUGE_KINDS))
    scores = [scorer.score(reference, text) for text, reference in zip(generated, references, strict=True)]
    return {kind: sum(score[kind].fmeasure for score in scores) / len(scores) for kind in ROUGE_KINDS}


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


def match_lengths(text: str, training: str) -> np.ndarray:
    """Returns for each character the length of the longest copy of `training` that begins there.

    The lengths are (T,) int64. A suffix array of both texts in numpy finds them: about 100 bytes of
    memory a character of the two together, half a second for 200,000.
    """
    # A 0 ends each of the two: no match runs across.
    joined = np.concatenate([_codes(training), [0], _codes(text), [0]])
    ranks, order = _suffixes(joined)
    positions = np.arange(len(order))
    ours = order > len(training)
    # In suffix order, the longest common prefix is shared with the nearest suffix of the training
    # text above or below.
    above = np.maximum.accumulate(np.where(~ours, positions, -1))
    below = np.minimum.accumulate(np.where(~ours, positions, len(order))[::-1])[::-1]
    rows = np.flatnonzero(ours & (order < len(joined) - 1))
    lengths = np.zeros(len(rows), dtype=np.int64)
    for nearest in (above[rows], below[rows]):
        there = (nearest >= 0) & (nearest < len(order))
        lengths[there] = np.maximum(lengths[there], _common(ranks, order[rows[there]], order[nearest[there]]))
    found = np.zeros(len(text), dtype=np.int64)
    starts = order[rows] - len(training) - 1
    found[starts] = np.minimum(lengths, np.minimum(len(text) - starts, len(training)))
    return found


def memorisation(
    texts: Sequence[str], training: str, at_least: Sequence[int] = (20, 50, 100, 200)
) -> dict[int | str, Any]:
    """Returns the shares of the generated texts that occur word for word in the training text.

    For each L of `at_least`: the share of generated characters inside strings of L or more
    characters that occur in the training text (Carlini et al. 2023 count tokens likewise). Under
    "longest": the longest such string. `texts` are without their prompts. Held-out text has a share
    too: compare with that.

    Raises:
        UserError: when the texts are empty.
    """
    joined = "\0".join(texts)  # no text holds a NUL, so that no match runs from one into the next
    lengths = match_lengths(joined, training)
    total = sum(map(len, texts))
    if not total:
        raise UserError("nothing was generated: give texts of at least a character")
    shares: dict[int | str, Any] = {}
    for L in at_least:
        ends = np.where(lengths >= L, np.arange(len(joined)) + lengths, 0)
        inside = np.maximum.accumulate(ends) > np.arange(len(joined))
        shares[L] = float(inside.sum()) / total
    start = int(lengths.argmax())
    return shares | {"longest": joined[start : start + int(lengths[start])]}


def _ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def _codes(text: str) -> np.ndarray:
    """Returns the code points of a text plus one: (T,) int64."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64) + 1


def _suffixes(codes: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns ranks of all substrings of 1, 2, 4, … codes until all differ, and the suffix array.

    Prefix doubling (Karp, Miller and Rosenberg 1972; Manber and Myers 1993). A substring that runs
    over the end is padded with -1.
    """
    ranks = [np.unique(codes, return_inverse=True)[1].astype(np.int32)]
    while len(codes) and int(ranks[-1].max()) < len(codes) - 1:
        width = 1 << (len(ranks) - 1)
        last = ranks[-1].astype(np.int64)
        second = np.full(len(codes), -1, dtype=np.int64)
        second[:-width] = last[width:]
        ranks.append(np.unique(last * (len(codes) + 1) + second + 1, return_inverse=True)[1].astype(np.int32))
    return ranks, np.argsort(ranks[-1])


def _common(ranks: list[np.ndarray], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the lengths of the common prefixes of the suffixes at a and b, (N,) indices each."""
    a, b = a.astype(np.int64), b.astype(np.int64)
    start = a.copy()
    for k in range(len(ranks) - 1, -1, -1):
        inside = np.maximum(a, b) + (1 << k) <= len(ranks[k])
        rank_a, rank_b = ranks[k][np.where(inside, a, 0)], ranks[k][np.where(inside, b, 0)]
        step = np.where(inside & (rank_a == rank_b), 1 << k, 0)
        a, b = a + step, b + step
    return a - start


def _paired(generated: Sequence[str], references: Sequence[str]) -> None:
    if len(generated) != len(references) or not generated:
        raise UserError(f"{len(generated)} generated texts and {len(references)} references: give one of each a prompt")


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise missing_extra("BLEU and chrF need", "metrics") from None
    return sacrebleu
