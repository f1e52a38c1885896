"""Regions of a label map, and how much of a saliency map lies in each."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Integer
from scipy import stats

from equipoise.engine.transforms import masks

CUT = 0.25  # saliency below which a voxel does not count, on a map scaled to [0, 1]
_EMPTY = "the region has no voxel on this grid"
_CONSTANT = "the map is constant"
_NOTHING = "no voxel of the region survives the cut"
_ALIKE = "all regions that survive the cut have the same mean"


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """The regions of a cohort, on the grid of its images.

    Attributes:
      labels: [*spatial] label of each voxel; 0 outside every region.
      names: label -> name. A region with a name may have no voxel on a coarse grid.
      marked: what a region is to the cohort ("disease") -> its label.
    """

    labels: np.ndarray
    names: Mapping[int, str]
    marked: Mapping[str, int]

    def title(self, label: int) -> str:
        """The name of a region: ``right insula``, or ``label 75`` where it has none."""
        return self.names.get(label, f"label {label}")


def read(metadata: Mapping[str, Any]) -> LabelMap | None:
    """Reads the label map in a cohort's metadata (``label_map`` of :class:`equipoise.data_builders.Schema`); None without one."""
    stored = metadata.get("label_map")
    if stored is None:
        return None
    names = {int(label): name for label, name in stored.get("names", {}).items()}
    return LabelMap(masks.decode_labels(stored["labels"]), names, dict(stored.get("marked", {})))


def score(
    saliency: Float[np.ndarray, "*spatial"],
    labels: Integer[np.ndarray, "*spatial"],
    named: Mapping[int, str] | None = None,
    cut: float = CUT,
) -> pd.DataFrame:
    """Scores of every region in a mean saliency map.

    With S the map scaled to [0, 1] by its minimum and maximum and R a region, the voxels K = {v in R: S(v) >= cut}
    survive, and

      share(R) = |K| / |R|,  mean(R) = sum over K of S(v) / |K|,
      relative(R) = (mean(R) - min mean) / (max mean - min mean) over the regions,
      weighted(R) = share(R) relative(R)

    (Stanley, Wilms, Mouches and Forkert 2022, J Med Imaging 9(6):061102, doi 10.1117/1.JMI.9.6.061102, as SimBA uses it).
    The region of the least mean has the weighted score 0 by construction. A region without a surviving voxel has it too: its mean
    is undefined, but its share is 0.

    Args:
      saliency: mean map of a group; larger is more salient.
      labels: label of every voxel; 0 outside every region.
      named: label -> name, of regions to list even when they have no voxel.
      cut: the smallest S that survives, between 0 and 1.

    Returns:
      One row for each region, by label: ``voxels``, ``share``, ``mean``, ``relative``, ``weighted``, ``rank`` (1 is the
      largest weighted score; equal scores have the best of their ranks), and ``reason``, empty unless a score is NaN.

    Raises:
      ValueError: for a cut outside (0, 1), shapes that differ, or a map that is not finite.
    """
    if not 0 < cut < 1:
        raise ValueError(f"the cut must lie between 0 and 1, got {cut}")
    if saliency.shape != labels.shape:
        raise ValueError(f"a map of {saliency.shape} and labels of {labels.shape} voxels")
    if not np.isfinite(saliency).all():
        raise ValueError("the map is not finite everywhere")
    low, high = float(saliency.min()), float(saliency.max())
    inside = labels != 0
    region = np.union1d(list(named or ()), labels[inside]).astype(np.int64)
    place = np.searchsorted(region, labels[inside])
    scaled = (saliency[inside].astype(np.float64) - low) / (high - low if high > low else np.nan)
    kept = scaled >= cut
    voxels, survivors, total = (
        np.bincount(place[rows], weights, len(region))
        for rows, weights in ((slice(None), None), (kept, None), (kept, scaled[kept]))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        share, mean = survivors / voxels, total / survivors
        if high <= low:
            share[:] = np.nan
        known = mean[survivors > 0]
        spread = np.ptp(known) if known.size else 0.0
        relative = (mean - known.min(initial=np.inf)) / (spread or np.nan)
    weighted = np.where(share == 0, 0.0, share * relative)
    reason = np.select(
        [voxels == 0, np.full(len(region), high <= low), survivors == 0, np.isnan(relative)],
        [_EMPTY, _CONSTANT, _NOTHING, _ALIKE],
        "",
    )
    rank = stats.rankdata(-weighted, "min", nan_policy="omit")
    columns = {"voxels": voxels, "share": share, "mean": mean, "relative": relative, "weighted": weighted, "rank": rank, "reason": reason}  # fmt: skip
    return pd.DataFrame(columns, index=pd.Index(region, name="label"))
