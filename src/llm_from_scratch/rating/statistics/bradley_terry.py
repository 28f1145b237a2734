"""Strengths of systems from pairs: the Bradley-Terry model with ties.

Davidson's form (1970): of systems with strengths p_i and p_j, the first wins in proportion to p_i,
the second to p_j, and they tie to nu sqrt(p_i p_j). It was taken rather than that of Rao and Kupper
(1967) because the odds of a win then do not depend on how often raters tie, and because wins plus
half the ties are its sufficient statistic: where every pair was asked equally often, the scale has
the order of the win rates that stand beside it.

S systems, N comparisons, B resamples. Scores are log-strengths in logits, with mean 0.
"""

from dataclasses import dataclass

import numpy as np

STEPS = 100  # of Newton's method, at most
LONGEST = 2.0  # logits that a step moves a score by, at most
MOST = 12.0  # |log nu|, at most: a tie in 80,000 comparisons
PRIOR = 0.5  # wins and losses against a mean system, added where the pairs leave a score infinite


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """A fitted scale.

    Attributes:
        scores: (S,) log-strengths with mean 0.
        ties: log nu; -inf where nobody tied.
        bounded: whether the comparisons bound every score; else `PRIOR` was added.
        influence: (N, S) what each comparison adds to each score, for `crossed.variance`.
    """

    scores: np.ndarray
    ties: float
    bounded: bool
    influence: np.ndarray


def strengths(first: np.ndarray, second: np.ndarray, outcome: np.ndarray, systems: int) -> Strengths:
    """Fits the scale by maximum likelihood.

    Args:
        first, second: (N,) numbers of the compared systems, from 0.
        outcome: (N,) 1 where the first won, -1 where the second did, 0 for a tie.
        systems: S.
    """
    wins, ties = tables(first, second, outcome, np.ones((1, len(first))), systems)
    bounded = connected(wins[0] + ties[0])
    prior = 0.0 if bounded else PRIOR
    scores, log_nu = fit(wins, ties, prior)
    win, lose, tie = _probabilities(scores[0][first] - scores[0][second], log_nu[0])
    along = (outcome - (win - lose)) / 2
    gradient = np.zeros((len(first), systems + 1))
    rows = np.arange(len(first))
    gradient[rows, first] = along
    gradient[rows, second] = -along
    gradient[:, -1] = (outcome == 0) - tie
    _, curvature = _derivatives(wins, ties, scores, log_nu, prior)
    influence = gradient @ np.linalg.inv(curvature[0])[:, :-1]
    influence -= influence.mean(axis=1, keepdims=True)
    return Strengths(
        scores=scores[0], ties=float(log_nu[0]) if ties.any() else -np.inf, bounded=bounded, influence=influence
    )


def linear_differences(
    first: np.ndarray, second: np.ndarray, outcome: np.ndarray, systems: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fits outcome = score of the first - score of the second by least squares.

    Equal systems have equal scores here as on the scale of strengths, and a test of these is not
    blunted where one system wins nearly always: there a logit's standard error grows faster than
    the logit (Hauck and Donner 1977).

    Returns:
        Scores (S,), and what each comparison adds to each: (N, S).
    """
    rows = np.arange(len(first))
    design = np.zeros((len(first), systems))
    design[rows, first], design[rows, second] = 1, -1
    inverse = np.linalg.pinv(design.T @ design, hermitian=True)
    scores = inverse @ (design.T @ outcome)
    return scores, (design @ inverse) * (outcome - design @ scores)[:, None]


def tables(
    first: np.ndarray, second: np.ndarray, outcome: np.ndarray, weights: np.ndarray, systems: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counts comparisons, each as often as its weight says: (B, N) -> wins, ties, each (B, S, S).

    wins[b, i, j]: how often i beat j. ties is symmetric.
    """
    wins = np.zeros((len(weights), systems * systems))
    ties = np.zeros_like(wins)
    for result, target, one, other in ((1, wins, first, second), (-1, wins, second, first), (0, ties, first, second)):
        chosen = np.flatnonzero(outcome == result)
        cells = np.zeros((len(chosen), systems * systems))
        cells[np.arange(len(chosen)), one[chosen] * systems + other[chosen]] = 1
        target += weights[:, chosen] @ cells
    shape = (len(weights), systems, systems)
    return wins.reshape(shape), ties.reshape(shape) + np.swapaxes(ties.reshape(shape), 1, 2)


def connected(beats: np.ndarray) -> bool:
    """Tells whether every system is reached from every other along wins or ties (Ford 1957).

    Then, and only then, the likelihood has a maximum at finite scores.
    """
    reached = (beats > 0) | np.eye(len(beats), dtype=bool)
    for _ in range(len(beats)):
        reached = reached @ reached
    return bool(reached.all())


def fit(wins: np.ndarray, ties: np.ndarray, prior: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores and log nu of each table, by Newton's method: (B, S) and (B,).

    The log-likelihood is concave. Scores that it leaves infinite need a `prior`: so many wins and
    losses of every system against one of mean strength.
    """
    B, S, _ = wins.shape
    scores, log_nu = np.zeros((B, S)), np.zeros(B)
    log_nu[~ties.any(axis=(1, 2))] = -MOST
    for _ in range(STEPS):
        gradient, curvature = _derivatives(wins, ties, scores, log_nu, prior)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        step *= np.minimum(1.0, LONGEST / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-300))
        scores = scores + step[:, :-1]
        log_nu = np.clip(log_nu + step[:, -1], -MOST, MOST)
        if np.abs(step[:, :-1]).max(initial=0) < 1e-10:
            break
    return scores - scores.mean(axis=1, keepdims=True), log_nu


def _probabilities(difference: np.ndarray, log_nu: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the probabilities that the first wins, the second wins, and they tie."""
    logits = np.stack(np.broadcast_arrays(difference / 2, -difference / 2, log_nu))
    weights = np.exp(logits - logits.max(axis=0))
    win, lose, tie = weights / weights.sum(axis=0)
    return win, lose, tie


def _derivatives(
    wins: np.ndarray, ties: np.ndarray, scores: np.ndarray, log_nu: np.ndarray, prior: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns gradient and negative Hessian of the log-likelihood: (B, S + 1), (B, S + 1, S + 1).

    The last parameter is log nu. A one in every cell of the scores' block holds their sum.
    """
    S = wins.shape[1]
    i, j = np.triu_indices(S, 1)
    won, lost, tied = wins[:, i, j], wins[:, j, i], ties[:, i, j]  # (B, S (S - 1) / 2)
    count = won + lost + tied
    win, lose, tie = _probabilities(scores[:, i] - scores[:, j], log_nu[:, None])
    balance = (win - lose) / 2
    along = (won - lost) / 2 - count * balance
    sides = np.zeros((len(i), S))  # which score each pair raises, and which it lowers
    sides[np.arange(len(i)), i], sides[np.arange(len(i)), j] = 1, -1
    gradient = np.concatenate([along @ sides, (tied - count * tie).sum(axis=1, keepdims=True)], axis=1)
    curvature = np.zeros((len(wins), S + 1, S + 1))
    curvature[:, :S, :S] = np.einsum("bk,ks,kt->bst", count * ((win + lose) / 4 - balance**2), sides, sides) + 1
    curvature[:, :S, S] = curvature[:, S, :S] = -(count * balance * tie) @ sides
    curvature[:, S, S] = (count * tie * (1 - tie)).sum(axis=1) + 1e-9
    if prior:
        against = 1 / (1 + np.exp(-scores))
        gradient[:, :S] += prior * (1 - 2 * against)
        diagonal = np.arange(S)
        curvature[:, diagonal, diagonal] += 2 * prior * against * (1 - against)
    return gradient, curvature
