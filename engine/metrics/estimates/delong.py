"""Comparison of two AUROCs: two scores of the same images, or the AUROCs of different patients.

DeLong, DeLong and Clarke-Pearson, Biometrics 1988;44:837. The images of one patient are summed as Obuchowski does
(Biometrics 1997;53:567).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import special

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import intervals


@dataclasses.dataclass(frozen=True)
class AreaTest:
    """Two AUROCs compared.

    Attributes:
      value: first AUROC − second AUROC.
      low: lower Wald limit of the difference.
      high: upper Wald limit of the difference.
      first: first AUROC.
      second: second AUROC.
      covariance: [2, 2] covariance matrix of the two.
      z: value / SE; NaN where the SE is 0.
      p: two-sided p value of equal areas.
    """

    value: float
    low: float
    high: float
    first: float
    second: float
    covariance: Float[np.ndarray, "2 2"]
    z: float
    p: float


def _area_test(
    p: intervals.Placements, q: intervals.Placements, shared: float, confidence: float
) -> AreaTest:
    variances = [intervals.area_covariance(x, x) if x.m and x.n else math.nan for x in (p, q)]
    covariance = np.array([[variances[0], shared], [shared, variances[1]]])
    value = p.value - q.value
    square = variances[0] + variances[1] - 2 * shared
    se = float(np.sqrt(square)) if square > 0 else math.nan
    half = special.ndtri(0.5 + confidence / 2) * se
    two_sided = float(2 * special.ndtr(-abs(value / se)))
    return AreaTest(value, value - half, value + half, p.value, q.value, covariance, value / se, two_sided)


def paired(
    truth: Bool[np.ndarray, " n"],
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    subject: Shaped[np.ndarray, " n"] | None = None,
    confidence: float = 0.95,
) -> AreaTest:
    """Compares the AUROCs of two scores of the same images.

    DeLong et al., Biometrics 1988;44:837; with several images per patient Obuchowski, Biometrics 1997;53:567.

    Args:
      truth: whether each image is positive.
      first: first score of each image.
      second: second score of each image.
      subject: patient of each image; by default each image is a patient of its own.
      confidence: confidence of the limits.
    """
    code, number = intervals.subject_codes(np.arange(len(truth)) if subject is None else subject)
    p, q = (intervals.placements(truth, score, code, number) for score in (first, second))
    shared = intervals.area_covariance(p, q) if p.m and p.n else math.nan
    return _area_test(p, q, shared, confidence)


def unpaired(
    first: tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"], Shaped[np.ndarray, " n"]],
    second: tuple[Bool[np.ndarray, " k"], Float[np.ndarray, " k"], Shaped[np.ndarray, " k"]],
    confidence: float = 0.95,
) -> AreaTest:
    """Compares two AUROCs of different patients.

    Args:
      first: (truth, score, subject) of each image of the first group.
      second: the same of the second group.
      confidence: confidence of the limits.

    Raises:
      UserError: if a patient is in both groups, because the areas are then correlated.
    """
    common = len(np.intersect1d(np.asarray(first[2], str), np.asarray(second[2], str)))
    if common:
        raise UserError(
            f"{common} patients are in both groups, so that the two areas are correlated: use paired for two scores of the "
            "same images, or difference(area(...), area(...)), which allows for patients in both groups"
        )
    p, q = (
        intervals.placements(truth, score, *intervals.subject_codes(subject))
        for truth, score, subject in (first, second)
    )
    return _area_test(p, q, 0.0, confidence)
