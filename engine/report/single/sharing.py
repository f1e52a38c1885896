"""A report that may leave the house: hidden cells lose every number, and so does whatever was computed from them.

A cell that nobody is in stands there like a hidden one, in its place: which of the hidden cells are empty would be a fact
about people. For the same reason comparisons of a hidden group are left out, whether or not they could have been made.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import fairness
from equipoise.engine.metrics.frames.disparities import Disparity
from equipoise.engine.metrics.frames.frame import Frame
from equipoise.engine.metrics.table import suppression
from equipoise.engine.metrics.table.suppression import EVERYONE, Cell
from equipoise.engine.metrics.table.table import Table

REASON = "suppressed"


def _blank(estimate: Estimate) -> Estimate:
    nothing = (math.nan, math.nan)
    return dataclasses.replace(
        estimate, value=math.nan, n=None, n_subjects=None, events=None, se=math.nan, method="none",
        limits=lambda _: nothing, influence=None, replicates=None, left_out=None,
        reason=REASON, freedom=math.nan,
    )  # fmt: skip


def _without(
    found: Mapping[str, Disparity], groups: Mapping[str, Mapping[str, Estimate]]
) -> dict[str, Disparity]:
    """Comparisons without those that use something hidden.

    Pairs use two levels; all others use every level. Pairs and comparisons with the rest are left out, others stay without a number.

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
        if is_safe:
            kept[name] = one
        elif not is_pair and not name.startswith("to_rest:"):
            kept[name] = Disparity(math.nan, math.nan, math.nan, reason=REASON)
    return kept


def rounded(value: Any) -> Any:
    """Numbers of a ``metrics.json`` to six digits: the last bits of a sum can tell in which order, and so of whom, it was made."""
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def suppress(frame: Frame, table: Table, hidden: Collection[Cell], min_cell: int) -> Frame:
    """A frame without the numbers of hidden cells.

    Args:
      frame: of one model.
      table: that it is of.
      hidden: from :func:`equipoise.engine.metrics.table.suppression.hidden_cells`.
      min_cell: scores made of fewer images are hidden as well.
    """

    def shown(cell: Cell, cells: Mapping[str, Estimate]) -> dict[str, Estimate]:
        return {k: _blank(e) if cell in hidden or e.n < min_cell else e for k, e in cells.items()}

    groups = {
        a: {v: shown((a, v), levels.get(v, frame.overall)) for v in suppression.every_level(table, a)}
        for a, levels in frame.groups.items()
    }
    disparities = {a: _without(found, groups[a]) for a, found in frame.disparities.items()}
    return dataclasses.replace(
        frame, overall=shown(EVERYONE, frame.overall), groups=groups, disparities=disparities
    )
