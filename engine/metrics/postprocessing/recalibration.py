"""Recalibration of a binary score, fitted on one split for another, for everyone or group by group.

- temperature: σ(logit / T) (Guo et al., ICML 2017, PMLR 70:1321). Ranks stay the same, and a score of .5 stays .5.
- platt: σ(a + b · logit), fitted to the targets (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2) (Platt, Advances in Large Margin Classifiers, 1999).
- isotonic: the best non-decreasing step function, joined by lines (Zadrozny and Elkan, KDD 2002:694). Different scores may become equal.

Calibration by group changes how the scores of different groups rank against each other.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize, special

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.estimates import logistic
from equipoise.engine.metrics.formulas.calibration import LIMIT
from equipoise.engine.metrics.postprocessing import tuning
from equipoise.engine.metrics.postprocessing.tuning import EVERYONE
from equipoise.engine.metrics.table import thresholds
from equipoise.engine.metrics.table.table import Table

ScoreMap = Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]]
_WIDEST = np.log(1e3)  # temperatures are sought within [1/1000, 1000]


def _logit(score: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return special.logit(np.clip(score, LIMIT, 1 - LIMIT))


def temperature(truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> float:
    """Returns the T that makes the likelihood of σ(logit / T) largest, within [1/1000, 1000].

    If the likelihood still rises at an end of this range, T is that end.
    """
    logit, sign = _logit(np.asarray(score, np.float64)), np.where(truth, 1.0, -1.0)

    def excess(log_t: float) -> float:
        """Returns the slope of the likelihood in 1 / T."""
        return float((sign * logit * special.expit(-sign * logit * np.exp(-log_t))).sum())

    if excess(-_WIDEST) >= 0:
        return float(np.exp(-_WIDEST))
    if excess(_WIDEST) <= 0:
        return float(np.exp(_WIDEST))
    return float(np.exp(optimize.brentq(excess, -_WIDEST, _WIDEST, xtol=1e-13)))


def platt(truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Returns (a, b) of Platt's scaling; his targets keep them finite where the classes do not overlap."""
    logit, positives = _logit(np.asarray(score, np.float64)), int(np.sum(truth))
    aim = np.where(truth, (positives + 1) / (positives + 2), 1 / (len(logit) - positives + 2))
    design = np.column_stack([np.ones(len(logit)), logit])
    a, b = logistic.fit(design, aim, np.ones((len(logit), 1)))[:, 0]
    return float(a), float(b)


def isotonic(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Returns (distinct scores, their calibrated values), both ascending."""
    x, place, count = np.unique(np.asarray(score, np.float64), return_inverse=True, return_counts=True)
    share = np.bincount(place, np.asarray(truth, np.float64)) / count
    return x, optimize.isotonic_regression(share, weights=count).x


def _of_temperature(truth: np.ndarray, score: np.ndarray) -> ScoreMap:
    t = temperature(truth, score)
    return lambda s: special.expit(_logit(s) / t)


def _of_platt(truth: np.ndarray, score: np.ndarray) -> ScoreMap:
    a, b = platt(truth, score)
    return lambda s: special.expit(a + b * _logit(s))


def _of_isotonic(truth: np.ndarray, score: np.ndarray) -> ScoreMap:
    x, y = isotonic(truth, score)
    return lambda s: np.interp(s, x, y)


METHODS: Mapping[str, Callable[[np.ndarray, np.ndarray], ScoreMap]] = {
    "temperature": _of_temperature,
    "platt": _of_platt,
    "isotonic": _of_isotonic,
}


@dataclasses.dataclass(frozen=True)
class Recalibration:
    """A fitted recalibration.

    Attributes:
      method: name of the method, one of :data:`METHODS`.
      split: name of the split that it was fitted on.
      by: attribute whose groups have maps of their own, or None.
      maps: level -> function that maps scores; ``everyone`` maps those of all other levels.
      fallbacks: level -> why it takes the map of everyone.
      rule: rule by which the new threshold was chosen.
      threshold: threshold of the recalibrated scores, chosen on the same split.
      model: name of the model; None for the first of a table.
    """

    method: str
    split: str
    by: str | None
    maps: Mapping[str, ScoreMap]
    fallbacks: Mapping[str, str]
    rule: str
    threshold: float
    model: str | None

    def apply(self, table: Table) -> Table:
        """Returns the table with one more model, ``MODEL+METHOD`` or ``MODEL+METHOD by ATTRIBUTE``.

        The map of everyone is used for people of unknown group and for groups that were too small or absent; the table's notes say so.

        Raises:
          UserError: if the table has rows of the split that this was fitted on.
        """
        level, levels = tuning.group_of_rows(table, self.by)
        score = _mapped(self.maps, level, table.columns(self.model)["score"])
        suffix = self.method + (f" by {self.by}" if self.by else "")
        notes = tuning.notes_on_fallbacks(levels, self.maps, self.fallbacks, self.split)
        threshold = np.full(len(score), self.threshold)
        return tuning.extended(table, self.model, suffix, score, threshold, self.split, notes)


def _mapped(
    maps: Mapping[str, ScoreMap], level: np.ndarray, score: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Returns the scores, each mapped by the map of its level."""
    mapped = maps[EVERYONE](score)
    for name, map_of_level in maps.items():
        rows = level == name
        mapped[rows] = map_of_level(score[rows])
    return mapped


def fit(
    table: Table,
    method: str,
    *,
    rule: str,
    by: str | None = None,
    model: str | None = None,
    least: int = tuning.LEAST,
) -> Recalibration:
    """Fits a recalibration.

    Args:
      table: predictions of the validation split alone.
      method: ``temperature``, ``platt`` or ``isotonic``.
      rule: rule by which the threshold of the new scores is chosen on this split, one of
        :data:`equipoise.engine.metrics.table.thresholds.RULES`.
      by: attribute or intersection whose groups are calibrated separately.
      model: name of the model; by default the first of the table.
      least: number of positives, and of negatives, that a group needs. A smaller group takes the map of everyone.

    Raises:
      UserError: for an unknown method or rule, or a table that no choice can be made on.
    """
    if method not in METHODS:
        raise UserError(
            f"no recalibration {method!r}.{did_you_mean(method, METHODS)} There are: {', '.join(METHODS)}"
        )
    rows = tuning.tuning_rows(table, by, model)
    groups, fallbacks = rows.groups(least)
    maps = {EVERYONE: METHODS[method](rows.truth, rows.score)}
    maps |= {
        level: METHODS[method](rows.truth[inside], rows.score[inside]) for level, inside in groups.items()
    }
    threshold = thresholds.choose(rule, rows.truth, _mapped(maps, rows.level, rows.score), rows.split).value
    return Recalibration(method, rows.split, by, maps, fallbacks, rule, threshold, model)
