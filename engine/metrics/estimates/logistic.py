"""Logistic regression of one outcome under many sets of weights at once, by Newton's method."""

import numpy as np
from jaxtyping import Float
from scipy import special

_STEPS = 60  # most steps taken; a handful are enough where the classes overlap
_TOLERANCE = 1e-10  # largest gradient per unit of weight at the end; another step would be about its square
_LIKELIHOOD_ROUNDING = 1e-13  # a likelihood that falls by less than this share of itself has not fallen
_RANK = 1e-12  # directions whose curvature is less than this share of the largest are left alone


def fit(
    design: Float[np.ndarray, "n p"], outcome: Float[np.ndarray, " n"], weights: Float[np.ndarray, "n b"]
) -> Float[np.ndarray, "p b"]:
    """Returns the coefficients β that make Σ w [y ln σ(xβ) + (1 − y) ln(1 − σ(xβ))] largest, without a penalty.

    A step that lowers the likelihood is halved. The coefficient of a column that is 0 in all weighted rows stays 0. Where a column
    separates the outcomes, its coefficient grows until the likelihood stops rising, and the chances come close to 0 and 1, as
    they should.

    Args:
      design: x, the features of each row, near unit scale; a constant is a column of ones.
      outcome: y of each row, within [0, 1].
      weights: w of each row, at least 0, for b fits side by side.

    Returns:
      One column per fit; NaN where a fit did not converge or has no weight.
    """
    number = weights.shape[1]
    coefficients, step = np.zeros((design.shape[1], number)), np.zeros((design.shape[1], number))
    total, best = weights.sum(axis=0), np.full(number, -np.inf)
    going, outcome = np.flatnonzero(total > 0), np.asarray(outcome, np.float64)[:, None]
    for _ in range(_STEPS):
        tried, weight = coefficients[:, going] + step[:, going], weights[:, going]
        x = design @ tried
        value = (weight * (outcome * x - np.logaddexp(0, x))).sum(axis=0)
        rises = value >= best[going] - _LIKELIHOOD_ROUNDING * np.abs(value)
        step[:, going[~rises]] /= 2
        up = going[rises]
        coefficients[:, up], best[up] = tried[:, rises], value[rises]
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
    coefficients[:, going] = np.nan
    coefficients[:, total <= 0] = np.nan
    return coefficients
