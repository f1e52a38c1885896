"""Fairness scores that have a name: each is a function of the groups' values of one or two metrics, and its name says which.

The literature gives one name to several formulas, and several names to one formula. Here a name ends in what it computes:
``_difference`` is the largest value of the groups minus the smallest, ``_ratio`` the smallest divided by the largest. Both are
extremes of groups: they never favour one group, they grow by chance alone as groups shrink, and no bootstrap of them covers.
Their intervals are built from simultaneous limits of all groups (:mod:`equipoise.engine.metrics.estimates.comparisons`). Signed
differences and ratios to a reference group, with tests, are the ``difference:METRIC:LEVEL-REFERENCE`` of a frame: ΔTPR and ΔFPR
are those of ``sensitivity`` and ``fpr``.

A score needs its metrics in every group. Where one of them is undefined, the score is undefined too, and says in which group.
Inequality among individuals (:mod:`equipoise.engine.metrics.formulas.inequality`) is a property of any set of rows, and so it is
a metric like others.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.estimates import comparisons, intervals
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.formulas.metric import Metric

Number = float | Float[np.ndarray, " b"]  # a value, or one of each replicate
Values = Mapping[str, Mapping[str, Number]]  # level -> metric -> value
GroupEstimates = Mapping[str, Mapping[str, Estimate]]  # level -> metric -> estimate
Limits = tuple[float, float]

_NAN = float("nan")
_BOUNDED = "Bonferroni limits of the groups, carried through its formula"
_PAIRS = "all pairs of groups with Bonferroni limits"


@dataclasses.dataclass(frozen=True)
class Score:
    """A score over groups.

    Attributes:
      name: key in a frame's disparities.
      title: name in running text.
      formula: the formula as it is printed.
      reference: paper that defines it.
      needs: names of the metrics that every group must have.
      tasks: tasks whose tables it applies to.
      ideal: value where groups are treated equally; for an equity-scaled score the best value.
      compute: (level -> metric -> value, metric -> value of everyone, level -> images) -> the score. All values are defined;
        where the score has limits, a value may also be an array with one entry for each replicate.
      limits: (level -> metric -> estimate, metric -> estimate of everyone, confidence) -> (low, high), or None.
      construction: how these limits are built, or why there are none.
      range_of: metric of which it is the largest minus the smallest value, or None.
      spared: those of ``needs`` that may be undefined in a group.
    """

    name: str
    title: str
    formula: str
    reference: str
    needs: tuple[str, ...]
    tasks: tuple[str, ...]
    ideal: float
    compute: Callable[[Values, Mapping[str, Number], Mapping[str, int]], Number]
    limits: Callable[[GroupEstimates, Mapping[str, Estimate], float], Limits] | None = None
    construction: str = _PAIRS
    range_of: str | None = None
    spared: tuple[str, ...] = ()


def _values(groups: Mapping, metric: str) -> list:
    """One metric of every group."""
    return [metrics[metric] for metrics in groups.values()]


def _range(values: Iterable[Number]) -> Number:
    """The largest minus the smallest value."""
    return np.ptp(list(values), axis=0)


def _quotient(values: Iterable[Number]) -> Number:
    """The smallest divided by the largest value; NaN where none is above 0."""
    values = list(values)
    largest = np.max(values, axis=0)
    return np.min(values, axis=0) / np.where(largest > 0, largest, _NAN)


def _difference_of(name: str, title: str, symbol: str, metric: str, reference: str) -> Score:
    """The range of one metric over the groups."""
    return Score(
        name, title, f"max − min over groups of {symbol}", reference, (metric,), ("binary",), 0,
        lambda groups, overall, n: _range(_values(groups, metric)),
        lambda groups, overall, level: comparisons.max_min(_values(groups, metric), level)[1:],
        f"{_PAIRS}: comparisons.max_min", metric,
    )  # fmt: skip


def _ratio_of(name: str, title: str, symbol: str, metric: str, reference: str) -> Score:
    """The ratio of extremes of one metric over the groups."""
    return Score(
        name, title, f"min ÷ max over groups of {symbol}", reference, (metric,), ("binary",), 1,
        lambda groups, overall, n: _quotient(_values(groups, metric)),
        lambda groups, overall, level: comparisons.min_over_max(_values(groups, metric), level)[1:],
        f"{_PAIRS}: comparisons.min_over_max",
    )  # fmt: skip


_RATES = ("sensitivity", "fpr")
_HARDT = "Hardt et al., NeurIPS 2016, arXiv:1610.02413"
_BOTH = "the two extremes' limits at half the error each"


def _odds(
    name: str, title: str, formula: str, ideal: float, single: Callable, limits: Callable, join: Callable
) -> Score:
    """A score of the true-positive and the false-positive rate together."""

    def joint(groups: GroupEstimates, overall: Mapping[str, Estimate], level: float) -> Limits:
        single_limits = [limits(_values(groups, metric), (1 + level) / 2)[1:] for metric in _RATES]
        return tuple(float(join(ends)) for ends in zip(*single_limits, strict=True))

    return Score(
        name, title, formula, _HARDT, _RATES, ("binary",), ideal,
        lambda groups, overall, n: join([single(_values(groups, metric)) for metric in _RATES], axis=0), joint,
        f"{_PAIRS}, {_BOTH}",
    )  # fmt: skip


def _errors(values: Mapping[str, float]) -> tuple[float, float]:
    """(FP, FN) per image; where no image is called positive the predictive value is undefined and FP is 0."""
    false_positive = values["selection_rate"] * (1 - values["ppv"]) if values["selection_rate"] > 0 else 0.0
    return false_positive, max(1 - values["accuracy"] - false_positive, 0.0)


def _errors_ratio(values: Mapping[str, float]) -> float:
    false_positive, false_negative = _errors(values)
    return false_negative / false_positive if false_positive > 0 else _NAN


def _between_groups(groups: Values, overall: Mapping[str, float], n: Mapping[str, int]) -> float:
    errors = [_errors(values) for values in groups.values()]
    mean = np.array([1 + fp - fn for fp, fn in errors])
    weight = np.array([n[level] for level in groups], np.float64) / sum(n[level] for level in groups)
    total = weight @ mean
    return float(weight @ ((mean / total) ** 2 - 1) / 2) if total > 0 else _NAN


_CALDERS = "Calders and Verwer, Data Min Knowl Discov 2010;21:277"
_FELDMAN = "Feldman et al., KDD 2015:259"
_CHOULDECHOVA = "Chouldechova, Big Data 2017;5:153"
_BERK = "Berk et al., Sociol Methods Res 2021;50:3"
_CALIBRATION = "Van Calster et al., BMC Med 2019;17:230"
_SPEICHER = "Speicher et al., KDD 2018:2239, arXiv:1807.00787"
_TPR, _FPR, _SHARE = "TP / (TP + FN)", "FP / (FP + TN)", "the share called positive"

SCORES: Mapping[str, Score] = {
    score.name: score
    for score in (
        _difference_of("demographic_parity_difference", "demographic parity difference", _SHARE, "selection_rate", _CALDERS),
        _ratio_of("demographic_parity_ratio", "demographic parity ratio (disparate impact)", _SHARE, "selection_rate", _FELDMAN),
        _difference_of("equal_opportunity_difference", "equal opportunity difference", _TPR, "sensitivity", _HARDT),
        _ratio_of("equal_opportunity_ratio", "equal opportunity ratio", _TPR, "sensitivity", _HARDT),
        _difference_of("predictive_equality_difference", "predictive equality difference", _FPR, "fpr", _CHOULDECHOVA),
        _ratio_of("predictive_equality_ratio", "predictive equality ratio", _FPR, "fpr", _CHOULDECHOVA),
        _odds("equalized_odds_difference_max", "equalised odds difference, larger gap", "max of the ranges of TPR and of FPR", 0,
              _range, comparisons.max_min, np.max),
        _odds("equalized_odds_difference_mean", "equalised odds difference, mean gap", "mean of the ranges of TPR and of FPR", 0,
              _range, comparisons.max_min, np.mean),
        _odds("equalized_odds_ratio", "equalised odds ratio", "smaller of min ÷ max of TPR and of FPR", 1, _quotient,
              comparisons.min_over_max, np.min),
        _difference_of("predictive_parity_difference", "predictive parity difference", "TP / (TP + FP)", "ppv", _CHOULDECHOVA),
        _difference_of("accuracy_equality_difference", "accuracy equality difference", "accuracy", "accuracy", _BERK),
        Score("treatment_equality_difference", "treatment equality difference", "max − min over groups of FN / FP", _BERK,
              ("accuracy", "selection_rate", "ppv"), ("binary",), 0,
              lambda groups, overall, n: _range(map(_errors_ratio, groups.values())),
              construction="the limits of fnr and fpr by group, from which it is made", spared=("ppv",)),
        _difference_of("calibration_intercept_difference", "calibration gap, intercept", "the calibration intercept",
                       "calibration_intercept", _CALIBRATION),
        _difference_of("calibration_slope_difference", "calibration gap, slope", "the calibration slope", "calibration_slope",
                       _CALIBRATION),
        _difference_of("calibration_error_debiased_difference", "calibration gap, squared error", "the debiased squared error",
                       "squared_calibration_error_debiased", "Kumar et al., NeurIPS 2019, arXiv:1909.10155"),
        Score("generalized_entropy_between_groups", "generalised entropy index between groups (α = 2)",
              "Σ (n_g / n) [(μ_g / μ)² − 1] / 2, μ the mean of 1 + call − truth", _SPEICHER, ("accuracy", "selection_rate", "ppv"), ("binary",), 0, _between_groups,
              construction="the limits of generalized_entropy by group, a smooth score", spared=("ppv",)),
    )
}  # fmt: skip


def _equity_scaled(form: str, metric: str, title: str, tasks: tuple[str, ...]) -> Score:
    """An equity-scaled form of a metric that lies within [0, 1] and is better when larger."""
    compute, formula, reference, limits = _FORMS[form]
    return Score(
        f"{form}:{metric}", f"equity-scaled {title}, {formula[0]}", formula[1], reference, (metric,), tasks, 1,
        lambda groups, overall, n: compute(overall[metric], _values(groups, metric)),
        lambda groups, overall, level: limits(overall[metric], _values(groups, metric), level)[1:],
        f"{_BOUNDED}: comparisons.{form}",
    )  # fmt: skip


def _scaled_by_sum(overall: Number, groups: list[Number]) -> Number:
    return overall / (1 + sum(abs(overall - value) for value in groups))


def _scaled_by_sd(overall: Number, groups: list[Number], ddof: int = 0) -> Number:
    return overall / (1 + np.std(groups, axis=0, ddof=ddof))


_FORMS = {
    "equity_scaled_sum": (
        _scaled_by_sum, ("by the sum of gaps", "M / (1 + Σ over groups |M − M_g|)"),
        "Tian et al., FairSeg, ICLR 2024, arXiv:2311.02189; Luo et al., FairVision, arXiv:2310.02492", comparisons.equity_scaled_sum,
    ),
    "equity_scaled_sd": (
        _scaled_by_sd, ("by the standard deviation", "M / (1 + √(mean over groups of (M_g − their mean)²))"),
        "Jin et al., FairMedFM, NeurIPS 2024, arXiv:2407.00983", comparisons.equity_scaled_sd,
    ),
    "equity_scaled_sample_sd": (
        functools.partial(_scaled_by_sd, ddof=1), ("by the sample standard deviation", "M / (1 + √(Σ over groups of (M_g − their mean)² / (K − 1)))"),
        "Tian et al., FairSeg, arXiv:2311.02189v1", comparisons.equity_scaled_sample_sd,
    ),
}  # fmt: skip


def equity_scaled(metric: Metric) -> tuple[Score, ...]:
    """Every equity-scaled form of a metric; none where they have no meaning: outside [0, 1], or where smaller is better."""
    if not (metric.higher_is_better and metric.low >= 0 and metric.high <= 1):
        return ()
    return tuple(_equity_scaled(form, metric.name, metric.title, metric.tasks) for form in _FORMS)


_SCALED = ("auroc", "accuracy", "auroc:macro", "mean")  # metrics whose equity-scaled forms a frame has


def scores(task: str, metrics: Mapping[str, Metric]) -> tuple[Score, ...]:
    """The scores that a frame of these metrics can have.

    Args:
      task: task of the table.
      metrics: name -> entry.
    """
    named = [s for s in SCORES.values() if task in s.tasks and all(name in metrics for name in s.needs)]
    return (*named, *(s for name in _SCALED if name in metrics for s in equity_scaled(metrics[name])))


def get(name: str) -> Score:
    """The score of a name; ``equity_scaled_sum:METRIC`` and the other forms exist for every suitable metric.

    Raises:
      UserError: for an unknown name, or a metric that cannot be equity-scaled.
    """
    if name in SCORES:
        return SCORES[name]
    form, _, metric = name.partition(":")
    if form in _FORMS and metric:
        score = next((s for s in equity_scaled(registry.get(metric)) if s.name == name), None)
        if score:
            return score
        raise UserError(
            f"{name!r}: only a metric that lies within [0, 1] and is better when larger can be equity-scaled"
        )
    known = (*SCORES, *(f"{form}:METRIC" for form in _FORMS))
    raise UserError(f"no fairness score {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}")


_SHIFT = 0.01  # by which a pooled AUROC lies below every group before it is said


def caution(score: Score, groups: Values, overall: Mapping[str, float]) -> str | None:
    """A warning of what misleads in a score, or None: a pooled AUROC compares people of different groups."""
    base = registry.get(score.needs[0].partition(":")[0])
    if not score.name.startswith("equity_scaled") or base.kind != "area":
        return None
    pooled, smallest = overall[score.needs[0]], min(_values(groups, score.needs[0]))
    if pooled >= smallest - _SHIFT:
        return None
    return (
        f"the pooled AUROC {pooled:.3f} lies below that of every group ({smallest:.3f} or more): scores are shifted between groups, "
        "which lowers this score although each group is ranked well"
    )


def distance_to_utopia(groups: Mapping[str, float], utopia: Mapping[str, float] | None) -> float:
    """Euclidean distance of the groups' values to the best that each could have (DTO; Zong et al., MEDFAIR, ICLR 2023).

    Args:
      groups: level -> value.
      utopia: level -> best value, such as the best of several models in that group. There is no default: distances to
        different points, or to the best of different models, cannot be compared.

    Returns:
      0 at the utopia point; NaN where a value is undefined.

    Raises:
      UserError: without a point, or for one that lacks a group.
    """
    missing = [level for level in groups if level not in (utopia or {})]
    if utopia is None or missing:
        what = (
            "no utopia point" if utopia is None else f"the utopia point has no value for {', '.join(missing)}"
        )
        raise UserError(
            f"{what}: give the best value of each group, such as the best of the models that are compared"
        )
    return math.hypot(*(value - utopia[level] for level, value in groups.items()))


def xauc(
    truth: Bool[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    code: Int[np.ndarray, " n"],
    first: Int[np.ndarray, " i"],
    second: Int[np.ndarray, " j"],
) -> tuple[Estimate, Estimate]:
    """P(positive of one group scores above a negative of the other), both ways (Kallus and Zhou, NeurIPS 2019, arXiv:1902.05826).

    Their difference is the xAUC disparity. Each is an AUROC of other rows, with its clustered variance; patients in both
    are accounted for by :func:`equipoise.engine.metrics.estimates.comparisons.difference`.

    Args:
      truth: truth of each image.
      score: score of each image.
      code: patient of each image.
      first: rows of one group.
      second: rows of the other.

    Returns:
      (positives of the first above negatives of the second, positives of the second above negatives of the first).
    """

    def across(up: np.ndarray, down: np.ndarray) -> Estimate:
        rows = np.concatenate([up[truth[up]], down[~truth[down]]])
        return intervals.area(truth[rows], score[rows], code[rows])

    return across(first, second), across(second, first)
