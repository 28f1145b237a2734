"""Generated text against the true continuation, against itself, and against the training text.

`generated` and `references` are continuations of the same prompts, one each, in the same order.
Shapes: T characters. BLEU, chrF and ROUGE are the libraries' own (sacrebleu, rouge-score); as
shares from 0 to 1, not per cent.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_from_scratch.errors import UserError, missing_extra
from llm_from_scratch.evaluation.style import words

ROUGE_KINDS = ("rouge1", "rouge2", "rougeL")


def bleu(generated: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU (Papineni et al. 2002) with sacrebleu's defaults (Post 2018).

    They are nrefs:1, case:mixed, tok:13a, smooth:exp.
    """
    _paired(generated, references)
    return float(_sacrebleu().corpus_bleu(list(generated), [list(references)]).score) / 100


def chrf(generated: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF2 (Popović 2015): n-grams of 1 to 6 characters, no words, beta 2 (sacrebleu)."""
    _paired(generated, references)
    return float(_sacrebleu().corpus_chrf(list(generated), [list(references)]).score) / 100


def rouge(generated: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """F-measures of ROUGE-1, -2 and -L (Lin 2004), the mean over the pairs; no stemming.

    Its words are runs of a-z and 0-9 after lower-casing: it sees nothing of other scripts.
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
    """Self-BLEU (Zhu et al. 2018): the mean sentence BLEU (sacrebleu) against all others."""
    if len(texts) < 2:
        raise UserError("self-BLEU compares texts with one another: give at least two")
    sentence_bleu = _sacrebleu().sentence_bleu
    scores = [sentence_bleu(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
    return float(sum(scores)) / len(scores) / 100


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words / n-grams of words of all texts (Li et al. 2016), or 0."""
    grams = [gram for text in texts for gram in _ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Sequence[str], n: int = 4) -> float:
    """1 - distinct / all n-grams of words of a text (seq-rep-n, Welleck et al. 2020), the mean."""
    shares = [1 - len(set(grams)) / len(grams) if (grams := _ngrams(words(text), n)) else 0.0 for text in texts]
    return sum(shares) / len(shares)


def match_lengths(text: str, training: str) -> np.ndarray:
    """(T,) int64: the length of the longest copy of `training` that begins at each character.

    By a suffix array of both, in numpy: about 100 bytes of memory a character of the two together,
    half a second for 200,000.
    """
    # 0 stands between the two and once after them: no match runs across.
    joined = np.concatenate([_codes(training), [0], _codes(text), [0]])
    ranks, order = _suffixes(joined)
    positions = np.arange(len(order))
    ours = order > len(training)
    # In the order of suffixes, the nearest suffix of the training text, above or below, shares the
    # longest common start.
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
    """Shares of the generated texts that stand word for word in the training text.

    For each L of `at_least`: the share of generated characters inside strings of L or more
    characters that occur in the training text (Carlini et al. 2023 count tokens likewise). Under
    "longest": the longest such string. Prompts do not belong into `texts`; and held-out text has a
    share too, which is the figure to compare with.
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
    """(T,) int64: the code points, plus one."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64) + 1


def _suffixes(codes: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Ranks of all substrings of 1, 2, 4, … codes, until all differ, and the order of suffixes.

    Prefix doubling (Karp, Miller and Rosenberg 1972; Manber and Myers 1993); what runs over the end
    counts as -1s there.
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
    """Lengths of the common starts of the suffixes at a and at b, (N,) places each."""
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
