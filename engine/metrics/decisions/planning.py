"""How many patients a study needs before it can see a gap between groups, and which gap a given number can see.

For rates (sensitivity, specificity, FPR, accuracy) by the normal approximation with unpooled variances, as the gap is tested:
n = z² [p₁(1−p₁) + p₂(1−p₂)/k] / gap² images that count, z = z of 1 − α/2 + z of the power (Chow, Shao and Wang, Sample Size
Calculations in Clinical Research, 4.2). Images of one patient count for less: n is multiplied by the design effect 1 + (m − 1)·ICC of
m images (Donner and Klar, Design and Analysis of Cluster Randomization Trials, 2000). After the study its own standard errors say it
better: :func:`equipoise.engine.metrics.estimates.comparisons.detectable`.
"""

import dataclasses
import math

from scipy import optimize

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import comparisons


@dataclasses.dataclass(frozen=True)
class Plan:
    """Patients to examine.

    Attributes:
      group: patients of the group, those in whom the rate is not counted included.
      reference: patients of the reference group.
    """

    group: int
    reference: int


@dataclasses.dataclass(frozen=True)
class Design:
    """What is known of a study before it begins.

    Attributes:
      rate: expected in the reference group, such as a sensitivity of 0.85.
      prevalence: share of patients in whom the rate is counted, all of their images with them: of a sensitivity those with the
        disease, of a specificity those without, of an accuracy all.
      images: of each patient.
      icc: intraclass correlation of images of one patient being called right, 0 to 1.
      ratio: patients of the reference group for each of the group.
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
                f"images={self.images}, ratio={self.ratio}: at least one image of each patient, and a ratio above 0"
            )

    @property
    def images_per_independent(self) -> float:
        """Images that say as much as one image of a patient of its own: the design effect."""
        return 1 + (self.images - 1) * self.icc

    def needed(self, gap: float) -> float:
        """Patients of the group, not rounded, for a rate of ``rate − gap`` in it to be found."""
        other = self.rate - gap
        if not 0 < other < 1 or not gap:
            raise UserError(
                f"gap={gap}: the group's rate would be {other:g}, and must be between 0 and 1 and differ from {self.rate:g}"
            )
        spread = other * (1 - other) + self.rate * (1 - self.rate) / self.ratio
        counted = (comparisons.num_standard_errors(self.power, self.alpha) / gap) ** 2 * spread
        return counted * self.images_per_independent / (self.prevalence * self.images)


def patients(gap: float, design: Design) -> Plan:
    """Patients of each group, so that a rate lower by ``gap`` in the group is found.

    Args:
      gap: reference minus group; negative where the group's rate is the higher.
      design: of the study.

    Raises:
      UserError: for a gap that leaves the group no rate between 0 and 1.
    """
    needed = design.needed(gap)
    return Plan(math.ceil(needed), math.ceil(needed * design.ratio))


def smallest_gap(group: float, design: Design) -> float:
    """The smallest gap, reference minus group, that so many patients of the group would show; NaN where no gap is large enough.

    Args:
      group: patients of the group; the reference group has ``design.ratio`` times as many.
      design: of the study.
    """
    excess = lambda gap: design.needed(gap) - group  # noqa: E731
    least, most = design.rate * 1e-9, design.rate * (1 - 1e-9)
    return float(optimize.brentq(excess, least, most)) if excess(most) < 0 else math.nan
