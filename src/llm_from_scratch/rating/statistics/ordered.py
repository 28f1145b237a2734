"""The cumulative-link model (ordered logit) of ratings, by statsmodels; imported here alone."""

import warnings

import numpy as np

from llm_from_scratch.errors import UserError, missing_extra
from llm_from_scratch.rating.statistics.crossed import interval, p_values, variance
from llm_from_scratch.rating.statistics.results import Effect
from llm_from_scratch.rating.statistics.table import Ratings

FEWEST = 5  # ratings for each parameter: with fewer the estimates are infinite or noise
MOST = 15.0  # logits: an effect beyond it grew without end


def cumulative_link(table: Ratings) -> tuple[list[Effect], str]:
    """Returns each system's effect against the first one's, and a note on what was left out.

    P(rating <= k) = logistic(threshold_k - system - rater), McCullagh 1980: the levels need not lie
    equally far apart, and each rater has a strictness. Intervals are `crossed.variance`'s, from the
    gradients of the likelihood, so that ratings of one rater or prompt may depend on one another.

    Raises:
        UserError: where statsmodels is missing, or the ratings are too few or too alike.
    """
    try:
        from statsmodels.miscmodels.ordinal_model import OrderedModel
    except ImportError:
        raise missing_extra("the cumulative-link model needs", "ratings") from None
    # A rater who gives one answer alone has an infinite effect, and says nothing of the systems.
    alike = [rater for rater in np.unique(table.rater) if len(np.unique(table.value[table.rater == rater])) < 2]
    kept = table.without(alike)
    present, system = np.unique(kept.system, return_inverse=True)
    raters, rater = np.unique(kept.rater, return_inverse=True)
    levels, value = np.unique(kept.value, return_inverse=True)
    parameters = len(present) + len(raters) + len(levels) - 3
    if len(present) < 2 or len(levels) < 2 or len(kept.value) < FEWEST * parameters:
        raise UserError(
            f"the cumulative-link model has {parameters} parameters, and {len(kept.value)} ratings are too few"
        )
    design = np.concatenate([np.eye(len(present))[system][:, 1:], np.eye(len(raters))[rater][:, 1:]], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = OrderedModel(value, design, distr="logit")
        fitted = model.fit(method="bfgs", disp=False, maxiter=500, skip_hessian=True)
        curvature = -np.asarray(model.hessian(fitted.params))
        scores = np.asarray(model.score_obs(fitted.params))
    endless = np.abs(fitted.params[: design.shape[1]]).max() > MOST
    if endless or not fitted.mle_retvals["converged"] or np.linalg.cond(curvature) > 1e10:
        raise UserError(
            "the cumulative-link model has no finite solution: a system or a rater has the same level always"
        )
    effects = len(present) - 1
    influence = (scores @ np.linalg.inv(curvature))[:, :effects]
    estimates = np.asarray(fitted.params)[:effects]
    spread = variance(influence, kept.rater, kept.prompt)
    low, high = interval(estimates, *spread)
    p = p_values(estimates, *spread)
    found = [
        Effect(
            system=table.systems[number],
            against=table.systems[present[0]],
            value=float(estimates[row]),
            low=float(low[row]),
            high=float(high[row]),
            p=float(p[row]),
        )
        for row, number in enumerate(present[1:])
    ]
    note = f"{len(alike)} raters who gave one answer alone are not in the model." if alike else ""
    return found, note
