"""Logistic regression of one outcome under many sets of weights at once, by Newton's method."""

import numpy as np
from jaxtyping import Float
from scipy import special

_STEPS = 60  # a handful are enough where the classes overlap
_TOLERANCE = 1e-10  # of the gradient per unit of weight; the step that follows would be its square
_ROUNDING = 1e-13  # relative: a likelihood that falls by less has not fallen
_RANK = 1e-12  # directions with less of the curvature than this share are left alone


def fit(
    design: Float[np.ndarray, "n p"], outcome: Float[np.ndarray, " n"], weights: Float[np.ndarray, "n b"]
) -> Float[np.ndarray, "p b"]:
    """Coefficients of the largest Σ w [y ln σ(xβ) + (1 − y) ln(1 − σ(xβ))], without a penalty.

    A step that lowers the likelihood is halved. A column that no weighted row has keeps a coefficient of 0. Where a column tells the
    outcomes apart its coefficient grows until the likelihood stops rising: chances near 0 and 1, as they should be.

    Args:
      design: with a column of ones where a constant is wanted; other columns near unit scale.
      outcome: within [0, 1].
      weights: of each row, b fits side by side; at least 0.

    Returns:
      One column per fit; NaN where it did not converge or has no weight.
    """
    number = weights.shape[1]
    found, step = np.zeros((design.shape[1], number)), np.zeros((design.shape[1], number))
    total, best = weights.sum(axis=0), np.full(number, -np.inf)
    going, outcome = np.flatnonzero(total > 0), np.asarray(outcome, np.float64)[:, None]
    for _ in range(_STEPS):
        tried, weight = found[:, going] + step[:, going], weights[:, going]
        x = design @ tried
        value = (weight * (outcome * x - np.logaddexp(0, x))).sum(axis=0)
        rises = value >= best[going] - _ROUNDING * np.abs(value)
        step[:, going[~rises]] /= 2
        up = going[rises]
        found[:, up], best[up] = tried[:, rises], value[rises]
        chance, weight = special.expit(x[:, rises]), weight[:, rises]
        slope = design.T @ (weight * (outcome - chance))
        bend = weight * chance * (1 - chance)
        curvature = np.array([(design.T * b) @ design for b in bend.T]).reshape(-1, *2 * design.shape[1:])
        step[:, up] = (np.linalg.pinv(curvature, rcond=_RANK, hermitian=True) @ slope.T[:, :, None])[..., 0].T
        flat = np.zeros(number, bool)
        flat[up] = np.abs(slope).max(axis=0, initial=0) <= _TOLERANCE * total[up]
        going = going[~flat[going]]
        if not len(going):
            break
    found[:, going] = np.nan
    found[:, total <= 0] = np.nan
    return found
