"""Sample sizes: how many patients a study needs to find a gap between groups, and which gap a given number of patients can show.

The formula is for rates (sensitivity, specificity, FPR, accuracy). It takes the normal approximation with unpooled variances, as the
test of the gap does: n = z² [p₁(1−p₁) + p₂(1−p₂)/k] / gap² images that count, with z = z of 1 − α/2 + z of the power (Chow, Shao
and Wang, Sample Size Calculations in Clinical Research, 4.2). Several images of one patient say less than as many patients: n is
multiplied by the design effect 1 + (m − 1)·ICC of m images (Donner and Klar, Design and Analysis of Cluster Randomization Trials,
2000). After the study its own standard errors give a better answer: :func:`equipoise.engine.metrics.estimates.comparisons.detectable`.
"""

import dataclasses
import math

from scipy import optimize

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import comparisons


@dataclasses.dataclass(frozen=True)
class Plan:
    """Numbers of patients to examine.

    Attributes:
      group: number of patients of the group, including those in whom the rate is not counted.
      reference: number of patients of the reference group.
    """

    group: int
    reference: int


@dataclasses.dataclass(frozen=True)
class Design:
    """What is known about a study before it begins.

    Attributes:
      rate: expected rate in the reference group, such as a sensitivity of 0.85.
      prevalence: share of patients in whom the rate is counted, with all of their images: for a sensitivity those with the
        disease, for a specificity those without it, for an accuracy all.
      images: number of images of each patient.
      icc: intraclass correlation, within patients, of an image being called right; 0 to 1.
      ratio: number of patients of the reference group for each patient of the group.
      power: chance of finding the gap.
      alpha: two-sided level of the test.
    """

    rate: float
    prevalence: float = 1.0
    images: float = 1.0
    icc: float = 0.0
    ratio: float = 1.0
    power: float = 0.8
    alpha: float = 0.05

    def __post_init__(self):
        shares = {"rate": self.rate, "power": self.power, "alpha": self.alpha}
        for name, value in shares.items():
            if not 0 < value < 1:
                raise UserError(f"{name}={value}: it must be between 0 and 1")
        if not 0 < self.prevalence <= 1:
            raise UserError(f"prevalence={self.prevalence}: it must be above 0 and at most 1")
        if not 0 <= self.icc <= 1:
            raise UserError(f"icc={self.icc}: it must be 0 to 1")
        if not self.images >= 1 or not self.ratio > 0:
            raise UserError(
                f"images={self.images}, ratio={self.ratio}: images must be at least 1 and ratio above 0"
            )

    @property
    def images_per_independent(self) -> float:
        """Design effect: the number of images that say as much as one image of a further patient."""
        return 1 + (self.images - 1) * self.icc

    def needed(self, gap: float) -> float:
        """Returns the number of patients of the group, not rounded, that shows a rate of ``rate − gap`` in it.

        Raises:
          UserError: for a gap of 0, or one that leaves the group no rate between 0 and 1.
        """
        other = self.rate - gap
        if not 0 < other < 1 or not gap:
            raise UserError(
                f"gap={gap}: the rate of the group would be {other:g}, but it must be between 0 and 1 and differ from {self.rate:g}"
            )
        spread = other * (1 - other) + self.rate * (1 - self.rate) / self.ratio
        counted = (comparisons.num_standard_errors(self.power, self.alpha) / gap) ** 2 * spread
        return counted * self.images_per_independent / (self.prevalence * self.images)


def patients(gap: float, design: Design) -> Plan:
    """Returns the numbers of patients with which a rate that is lower by ``gap`` in the group is found.

    Args:
      gap: rate of the reference minus rate of the group; negative if the rate of the group is higher.
      design: design of the study.

    Raises:
      UserError: for a gap that leaves the group no rate between 0 and 1.
    """
    needed = design.needed(gap)
    return Plan(math.ceil(needed), math.ceil(needed * design.ratio))


def smallest_gap(group: float, design: Design) -> float:
    """Returns the smallest gap, reference minus group, that a number of patients can show.

    Args:
      group: number of patients of the group; the reference group has ``design.ratio`` times as many.
      design: design of the study.

    Returns:
      The gap; NaN where no gap is large enough.
    """
    excess = lambda gap: design.needed(gap) - group  # noqa: E731
    least, most = design.rate * 1e-9, design.rate * (1 - 1e-9)
    return float(optimize.brentq(excess, least, most)) if excess(most) < 0 else math.nan
