"""A report that may be shared: hidden cells lose every number, and so does everything that was computed from them.

A cell without people looks like a hidden one, because which of the hidden cells are empty is a fact about people. For the
same reason comparisons with a hidden group are left out, whether or not they could have been made.
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
    disparities: Mapping[str, Disparity], groups: Mapping[str, Mapping[str, Estimate]]
) -> dict[str, Disparity]:
    """Removes the comparisons that use something hidden.

    A pair uses two levels; every other comparison uses all levels. Pairs and comparisons with the rest are left out; other
    comparisons stay, without a number.

    Args:
      disparities: comparisons of one attribute.
      groups: level -> metric -> estimate; hidden ones are blank.
    """
    blank = {(level, metric) for level, cells in groups.items() for metric, e in cells.items() if e.n is None}
    kept = {}
    for name, score in disparities.items():
        rest = name.partition(":")[2]
        is_pair = len(score.levels) > 1 or name.startswith("to_overall:")
        of_all = name.partition(":")[0] in fairness.SCORES  # the rest of the name is a stratum
        used = [(v, m) for v, m in blank if of_all or not rest or rest == m or rest.startswith(f"{m}:")]
        is_safe = not any(v in score.levels for v, _ in used) if is_pair else not used
        if is_safe:
            kept[name] = score
        elif not is_pair and not name.startswith("to_rest:"):
            kept[name] = Disparity(math.nan, math.nan, math.nan, reason=REASON)
    return kept


def rounded(value: Any) -> Any:
    """Rounds the numbers of a ``metrics.json`` to six digits.

    The last bits of a sum can reveal the order of its terms, and so whose they are.
    """
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def suppress(frame: Frame, table: Table, hidden: Collection[Cell], min_cell: int) -> Frame:
    """Removes the numbers of hidden cells from a frame.

    Args:
      frame: scores of one model.
      table: predictions that were scored.
      hidden: cells from :func:`equipoise.engine.metrics.table.suppression.hidden_cells`.
      min_cell: scores made of fewer images are hidden as well.
    """

    def shown(cell: Cell, cells: Mapping[str, Estimate]) -> dict[str, Estimate]:
        return {k: _blank(e) if cell in hidden or e.n < min_cell else e for k, e in cells.items()}

    groups = {
        a: {v: shown((a, v), levels.get(v, frame.overall)) for v in suppression.every_level(table, a)}
        for a, levels in frame.groups.items()
    }
    disparities = {a: _without(scores, groups[a]) for a, scores in frame.disparities.items()}
    return dataclasses.replace(
        frame, overall=shown(EVERYONE, frame.overall), groups=groups, disparities=disparities
    )
