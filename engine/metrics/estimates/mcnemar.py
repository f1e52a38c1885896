"""McNemar's test of two models on the same images, where images of one patient agree with each other."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Int, Shaped
from scipy import special

from equipoise.engine.metrics.estimates import intervals


@dataclasses.dataclass(frozen=True)
class McNemar:
    """The result of McNemar's test of two decisions on the same images.

    Attributes:
      value: share of images that count under the second model − share under the first; NaN without an image.
      first_only: number of images that count under the first model alone.
      second_only: number of images that count under the second model alone.
      n: number of images.
      n_subjects: number of patients.
      statistic: chi-squared statistic with one degree of freedom; NaN where the models differ in no patient.
      p_asymptotic: p value of the statistic; 1 where the models differ in no patient.
      p: exact p value, over all exchanges of the two models within patients.
    """

    value: float
    first_only: int
    second_only: int
    n: int
    n_subjects: int
    statistic: float
    p_asymptotic: float
    p: float


def mcnemar(
    first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"], subject: Shaped[np.ndarray, " n"] | None = None
) -> McNemar:  # fmt: skip
    """Tests whether as many images count under one model as under the other.

    Let d be the number of a patient's images that count under the second model alone minus those that count under the first
    alone. For I patients χ² = (Σd)² / [I/(I−1) · Σd²] (Obuchowski, Stat Med 1998;17:1495). With one image per patient this is
    McNemar's (b − c)² / (b + c), times (I−1)/I. The null of the exact test is that the two sets of decisions on a patient could have
    changed places: every choice of signs in Σ ±|d| is equally likely. With one image per patient it is the exact binomial test.

    Args:
      first: whether each image counts (is called positive, or called right) under the first model.
      second: the same under the second model.
      subject: patient of each image; by default each image is a patient of its own.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    code, patients = intervals.subject_codes(np.arange(len(first)) if subject is None else subject)
    if not patients:
        return McNemar(math.nan, 0, 0, 0, 0, math.nan, math.nan, math.nan)
    change = np.bincount(code, second.astype(np.int64) - first, patients).astype(np.int64)
    total, square = int(change.sum()), int((change**2).sum())
    statistic = total**2 / (patients / (patients - 1) * square) if square and patients > 1 else math.nan
    p_asymptotic = 1.0 if not square else float(special.chdtrc(1, statistic))
    value = (gained - lost) / len(first)
    return McNemar(
        value, lost, gained, len(first), patients, statistic, p_asymptotic, _exact(np.abs(change), abs(total))
    )


def _exact(sizes: Int[np.ndarray, " i"], total: int) -> float:
    """Returns P(|Σ ±size| ≥ total) with all signs equally likely.

    The sum is twice the sizes with a plus minus all sizes. The distribution of the former is built up from the patients of one size
    at a time.
    """
    chance = np.ones(1)
    for size, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        heads = np.arange(count + 1)
        of_size = np.zeros(size * count + 1)
        log = special.gammaln(count + 1) - special.gammaln(heads + 1) - special.gammaln(count - heads + 1)
        of_size[heads * size] = np.exp(log - count * np.log(2))
        chance = np.convolve(chance, of_size)
    reached = np.abs(2 * np.arange(len(chance)) - sizes.sum()) >= total
    return float(min(1.0, chance[reached].sum()))
