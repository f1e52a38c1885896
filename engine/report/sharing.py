"""A report that may leave the house: hidden cells lose every number, and so does whatever was computed from them."""

import dataclasses
import math
from collections.abc import Collection, Mapping

from engine.metrics import fairness
from engine.metrics.frame import Disparity, Frame
from engine.metrics.intervals import Estimate
from engine.metrics.suppression import EVERYONE, Cell

REASON = "suppressed"


def _blank(estimate: Estimate) -> Estimate:
    nothing = (math.nan, math.nan)
    return dataclasses.replace(
        estimate, value=math.nan, n=None, n_subjects=None, events=None, se=math.nan, method="none",
        limits=lambda _: nothing, influence=None, replicates=None, reason=REASON,
    )  # fmt: skip


def _without(
    found: Mapping[str, Disparity], groups: Mapping[str, Mapping[str, Estimate]]
) -> dict[str, Disparity]:
    """Comparisons without those that use something hidden.

    Pairs use two levels; extremes and named scores all of them.

    Args:
      found: comparisons of one attribute.
      groups: level -> metric -> estimate, hidden ones blank.
    """
    blank = {(level, metric) for level, cells in groups.items() for metric, e in cells.items() if e.n is None}
    kept = {}
    for name, one in found.items():
        rest = name.partition(":")[2]
        is_pair = len(one.levels) > 1 or name.startswith("to_overall:")
        of_all = name.partition(":")[0] in fairness.SCORES  # what follows is a stratum
        used = [(v, m) for v, m in blank if of_all or not rest or rest == m or rest.startswith(f"{m}:")]
        is_safe = not any(v in one.levels for v, _ in used) if is_pair else not used
        levels = one.levels if is_pair else ()
        kept[name] = one if is_safe else Disparity(math.nan, math.nan, math.nan, levels=levels, reason=REASON)
    return kept


def suppress(frame: Frame, hidden: Collection[Cell], min_cell: int) -> Frame:
    """A frame without the numbers of hidden cells.

    Args:
      frame: of one model.
      hidden: from :func:`engine.metrics.suppression.hidden_cells`.
      min_cell: scores made of fewer images are hidden as well.
    """

    def shown(cell: Cell, cells: Mapping[str, Estimate]) -> dict[str, Estimate]:
        return {k: _blank(e) if cell in hidden or e.n < min_cell else e for k, e in cells.items()}

    groups = {
        a: {v: shown((a, v), cells) for v, cells in levels.items()} for a, levels in frame.groups.items()
    }
    disparities = {a: _without(found, groups[a]) for a, found in frame.disparities.items()}
    return dataclasses.replace(
        frame, overall=shown(EVERYONE, frame.overall), groups=groups, disparities=disparities
    )
