"""Two AUROCs compared: of two scores of the same images, or of different patients.

DeLong, DeLong and Clarke-Pearson, Biometrics 1988;44:837; images of one patient summed as in Obuchowski, Biometrics 1997;53:567.
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
      value: first − second.
      low: Wald limit of the difference.
      high: limit.
      first: AUROC.
      second: AUROC.
      covariance: [2, 2] of the two.
      z: value / SE; NaN where the SE is 0.
      p: two-sided, of equal areas.
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
    """Two scores of the same images (DeLong et al., Biometrics 1988;44:837; clustered: Obuchowski, Biometrics 1997;53:567).

    Args:
      truth: whether each image is positive.
      first: score.
      second: score of the same images.
      subject: patient of each image; without it each image is a patient of its own.
      confidence: of the limits.
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
    """Two AUROCs of different patients.

    Args:
      first: (truth, score, subject) of the first group.
      second: of the other.
      confidence: of the limits.

    Raises:
      UserError: when a patient is in both groups, because the areas are then correlated.
    """
    common = len(np.intersect1d(np.asarray(first[2], str), np.asarray(second[2], str)))
    if common:
        raise UserError(
            f"{common} patients are in both groups, so that their areas are correlated: use paired for two scores of the "
            "same images, or difference(area(...), area(...)), which takes the covariance from patient-summed influence values"
        )
    found = []
    for truth, score, subject in (first, second):
        found.append(intervals.placements(truth, score, *intervals.subject_codes(subject)))
    return _area_test(*found, 0.0, confidence)
