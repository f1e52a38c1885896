"""Decision curves: what acting on a score is worth, when one false alarm weighs as much as t / (1 − t) missed cases.

The net benefit at threshold t is TP/n − FP/n · t / (1 − t), where those with a score of at least t are treated. It is compared
with treating everyone and with treating no one (0). Patients and doctors choose the threshold, not the data.

Vickers and Elkin, Med Decis Making 2006;26:565.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Array, Bool, Float

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas.metric import Columns, Metric, array_module, ratio

_REFERENCE = "Vickers and Elkin, Med Decis Making 2006;26:565"


@dataclasses.dataclass(frozen=True)
class DecisionCurve:
    """Net benefit by threshold; that of treating no one is 0 everywhere.

    Attributes:
      threshold: [t] thresholds.
      model: net benefit of treating those with a score of at least the threshold.
      everyone: net benefit of treating everyone.
    """

    threshold: Float[np.ndarray, " t"]
    model: Float[np.ndarray, " t"]
    everyone: Float[np.ndarray, " t"]


def curve(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], thresholds: Sequence[float],
    weight: Float[np.ndarray, " n"] | None = None,
) -> DecisionCurve:  # fmt: skip
    """Computes a decision curve; NaN without an image.

    Args:
      truth: [n].
      score: [n] probabilities.
      thresholds: thresholds, each at least 0 and below 1.
      weight: weight of each image; by default 1.

    Raises:
      UserError: for a threshold outside [0, 1).
    """
    t = np.asarray(thresholds, np.float64)
    if not ((t >= 0) & (t < 1)).all():
        raise UserError("a decision threshold is a probability of at least 0 and below 1")
    truth, score = np.asarray(truth, bool), np.asarray(score, np.float64)
    weight = np.ones(len(truth)) if weight is None else np.asarray(weight, np.float64)
    order = np.argsort(score, kind="stable")
    below = np.searchsorted(score[order], t, side="left")
    total = weight.sum()

    def called(rows: np.ndarray) -> np.ndarray:
        sums = np.concatenate([[0.0], np.cumsum(np.where(rows, weight, 0)[order])])
        return ratio(sums[-1] - sums[below], total)

    prevalence = ratio(weight @ truth, total)
    odds = t / (1 - t)
    return DecisionCurve(t, called(truth) - called(~truth) * odds, prevalence - (1 - prevalence) * odds)


def _net_benefit(name: str, threshold: float) -> Metric:
    if not 0 < threshold < 1:
        raise UserError(f"metric {name!r}: the number is a threshold between 0 and 1, such as 0.10")
    odds = threshold / (1 - threshold)

    def prepare(columns: Columns) -> Columns:
        treated = np.asarray(columns["score"], np.float64) >= threshold
        return {"benefit": np.where(treated, np.where(columns["truth"], 1.0, -odds), 0.0)}

    def weighted(columns: Columns, weight: Float[Array, " n"]) -> Array:
        return ratio(array_module(weight).sum(weight * columns["benefit"]), weight.sum())

    return Metric(
        name, f"net benefit at a threshold of {threshold:g}", f"TP/n − FP/n · t / (1 − t), t = {threshold:g}, of scores ≥ t", True,
        -odds, 1, "no image", _REFERENCE, ("binary",), True, kind="weighted", weighted=weighted, prepare=prepare,
    )  # fmt: skip


FAMILIES: Mapping[str, Callable[[str, float], Metric]] = {"net_benefit": _net_benefit}
