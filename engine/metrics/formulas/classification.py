"""Binary classification metrics: of counts at the operating threshold, of probabilities, and of ranks.

A score at or above the threshold is a positive; the table has compared the two in float64. Equal scores are one threshold,
whatever the order of the rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Float64, Int

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas.metric import Columns, Metric, Sums, array_module, proportion_of, ratio

CELLS = ("tp", "fp", "fn", "tn")
TINY = np.finfo(
    np.float64
).eps  # distance from 0 and 1 that probabilities keep before their logarithm is taken
SLACK = 1e-9  # relative tolerance: 0.55 · 100 exceeds 55 in float64, and yet 55 of 100 reach .55
_NO_POSITIVE, _NO_NEGATIVE = "no image is truly positive", "no image is truly negative"
_ONE_CLASS = "one of the classes has no image"
_ALTMAN = "Altman and Bland, BMJ 1994;308:1552"
_PREDICTIVE = "Altman and Bland, BMJ 1994;309:102"
_METZ = "Metz, Semin Nucl Med 1978;8:283"


def components(columns: Columns) -> dict[str, Float64[np.ndarray, " n"]]:
    """What each image adds to the sums that metrics are made of.

    Args:
      columns: columns of a binary task.

    Returns:
      The four cells of the 2×2 table, ``correct`` and ``count`` (1 for every image), ``squared_error`` and ``log_loss``.
    """
    truth, called = np.asarray(columns["truth"], bool), np.asarray(columns["called"], bool)
    score = np.asarray(columns["score"], np.float64)
    held = np.clip(score, TINY, 1 - TINY)
    parts = {
        "tp": truth & called,
        "fp": ~truth & called,
        "fn": truth & ~called,
        "tn": ~truth & ~called,
        "correct": truth == called,
        "count": np.ones(len(truth)),
        "squared_error": (score - truth) ** 2,
        "log_loss": -np.where(truth, np.log(held), np.log1p(-held)),
    }
    return {name: np.asarray(part, np.float64) for name, part in parts.items()}


def _share(part: str, *others: str) -> Callable[[Sums], Array]:
    """The share of one component's sum in the sum of several."""
    return lambda sums: ratio(sums[part], sum((sums[name] for name in others), sums[part]))


def mean_of(part: str) -> Callable[[Sums], Array]:
    """The mean of a component over images."""
    return lambda sums: ratio(sums[part], sums["count"])


_sensitivity, _specificity = _share("tp", "fn"), _share("tn", "fp")


def _balanced_accuracy(sums: Sums) -> Array:
    return (_sensitivity(sums) + _specificity(sums)) / 2


def _estimate_balanced_accuracy(metric: Metric, columns: Columns, code: Int[np.ndarray, " n"]) -> Estimate:
    """The mean of two proportions, sensitivity and specificity (:func:`intervals.average`)."""
    tp, fp, fn, tn = (columns[name] for name in metric.components)
    # Each is 1, 0, or NaN where the image does not count.
    sensitivity, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
    return intervals.average(
        proportion_of(sensitivity, code, _NO_POSITIVE), proportion_of(specificity, code, _NO_NEGATIVE)
    )


def _f1(sums: Sums) -> Array:
    return ratio(2 * sums["tp"], 2 * sums["tp"] + sums["fp"] + sums["fn"])


def _mcc(sums: Sums) -> Array:
    tp, fp, fn, tn = (sums[name] for name in CELLS)
    xp = array_module(tp)
    return ratio(tp * tn - fp * fn, xp.sqrt((tp + fp) * (tp + fn)) * xp.sqrt((tn + fp) * (tn + fn)))


def _selection_rate(sums: Sums) -> Array:
    called = sums["tp"] + sums["fp"]
    return ratio(called, called + sums["fn"] + sums["tn"])


def sort_scores(columns: Columns) -> dict[str, np.ndarray]:
    """Sorts rows from the highest score to the lowest, for metrics of ranks.

    Args:
      columns: columns of a binary task.

    Returns:
      ``level`` [n]: number of each row's threshold, which is equal where scores are equal and grows as scores fall (an integer,
      so that no loss of precision merges two thresholds); ``positive`` [n] bool; ``row`` [n].
    """
    score = np.asarray(columns["score"], np.float64)
    row = np.argsort(-score, kind="stable")
    falls = np.diff(score[row], prepend=score[row][:1]) != 0
    return {"level": falls.cumsum(), "positive": np.asarray(columns["truth"], bool)[row], "row": row}


def _called(columns: Columns, weight: Float[Array, " n"]) -> tuple[Array, ...]:
    """(true and false positives at thresholds above each row's score; the same at its score; all positives; all negatives)."""
    xp, level = array_module(weight), columns["level"]
    positive = xp.where(columns["positive"], weight, 0)
    start = xp.zeros(1, weight.dtype)
    tp, fp = (xp.concatenate([start, xp.cumsum(part)]) for part in (positive, weight - positive))
    before, at = xp.searchsorted(level, level), xp.searchsorted(level, level, side="right")
    return tp[before], fp[before], tp[at], fp[at], tp[-1], fp[-1]


def _auroc(columns: Columns, weight: Float[Array, " n"]) -> Array:
    xp = array_module(weight)
    _, fp_before, _, fp, positives, negatives = _called(columns, weight)
    beaten = negatives - (fp_before + fp) / 2
    return ratio(xp.sum(xp.where(columns["positive"], weight * beaten, 0)), positives * negatives)


def _estimate_area(metric: Metric, columns: Columns, code: Int[np.ndarray, " n"]) -> Estimate:
    """The AUROC with Obuchowski's variance (:func:`intervals.area`)."""
    return intervals.area(columns["truth"], columns["score"], code)


def _auprc(columns: Columns, weight: Float[Array, " n"]) -> Array:
    xp = array_module(weight)
    _, _, tp, fp, positives, _ = _called(columns, weight)
    # Rows before the first one of positive weight count nothing.
    precision = tp / xp.where(tp + fp > 0, tp + fp, 1)
    return ratio(xp.sum(xp.where(columns["positive"], weight * precision, 0)), positives)


def _sensitivity_at(specificity: float) -> Callable[[Columns, Array], Array]:
    def weighted(columns: Columns, weight: Float[Array, " n"]) -> Array:
        xp = array_module(weight)
        _, _, tp, fp, positives, negatives = _called(columns, weight)
        allowed = negatives - fp >= specificity * negatives * (1 - SLACK)
        best = xp.max(xp.where(allowed, tp, 0), initial=0)  # calling nobody positive is allowed always
        return ratio(best, xp.where(negatives > 0, positives, 0))

    return weighted


def _specificity_at(sensitivity: float) -> Callable[[Columns, Array], Array]:
    def weighted(columns: Columns, weight: Float[Array, " n"]) -> Array:
        xp = array_module(weight)
        _, _, tp, fp, positives, negatives = _called(columns, weight)
        allowed = tp >= sensitivity * positives * (1 - SLACK)
        best = xp.max(xp.where(allowed, negatives - fp, 0), initial=0)
        return ratio(best, xp.where(positives > 0, negatives, 0))

    return weighted


def _fraction(name: str, number: float) -> float:
    """The number of a metric's name, which must lie between 0 and 1."""
    if not 0 < number < 1:
        raise UserError(f"metric {name!r}: the number is a share between 0 and 1, such as 0.90")
    return number


def _at_specificity(name: str, number: float) -> Metric:
    return Metric(
        name, f"sensitivity at a specificity of {number:g}",
        f"largest TP / (TP + FN) of all thresholds with TN / (TN + FP) ≥ {number:g}, among the images themselves", True, 0, 1,
        _ONE_CLASS, _METZ, ("binary",), kind="weighted", weighted=_sensitivity_at(_fraction(name, number)), prepare=sort_scores,
        may_bin=True, focus=lambda truth: (~truth, number),
    )  # fmt: skip


def _at_sensitivity(name: str, number: float) -> Metric:
    return Metric(
        name, f"specificity at a sensitivity of {number:g}",
        f"largest TN / (TN + FP) of all thresholds with TP / (TP + FN) ≥ {number:g}, among the images themselves", True, 0, 1,
        _ONE_CLASS, _METZ, ("binary",), kind="weighted", weighted=_specificity_at(_fraction(name, number)), prepare=sort_scores,
        may_bin=True, focus=lambda truth: (truth, 1 - number),
    )  # fmt: skip


def _ppv_at(name: str, number: float) -> Metric:
    share = _fraction(name, number)

    def of_sums(sums: Sums) -> Array:
        right, wrong = _sensitivity(sums) * share, (1 - _specificity(sums)) * (1 - share)
        return ratio(right, right + wrong)

    return Metric(
        name, f"positive predictive value at a prevalence of {number:g}", f"π·sens / (π·sens + (1−π)·(1−spec)), π = {number:g}",
        True, 0, 1, f"{_ONE_CLASS}, or no image is called positive", _PREDICTIVE, ("binary",), components=CELLS, of_sums=of_sums,
    )  # fmt: skip


def _npv_at(name: str, number: float) -> Metric:
    share = _fraction(name, number)

    def of_sums(sums: Sums) -> Array:
        right, wrong = _specificity(sums) * (1 - share), (1 - _sensitivity(sums)) * share
        return ratio(right, right + wrong)

    return Metric(
        name, f"negative predictive value at a prevalence of {number:g}", f"(1−π)·spec / ((1−π)·spec + π·(1−sens)), π = {number:g}",
        True, 0, 1, f"{_ONE_CLASS}, or no image is called negative", _PREDICTIVE, ("binary",), components=CELLS, of_sums=of_sums,
    )  # fmt: skip


def _proportion(*entry: Any, part: str, others: tuple[str, ...], **settings: Any) -> Metric:
    """The entry of a binary proportion: one component among several."""
    return Metric(
        *entry,
        ("binary",),
        kind="proportion",
        components=(part, *others),
        of_sums=_share(part, *others),
        **settings,
    )


_BINARY = ("binary",)
METRICS: Sequence[Metric] = (
    Metric("auroc", "area under the ROC curve", "P(score of a positive > score of a negative) + ½ P(equal)", True, 0, 1,
           _ONE_CLASS, "Hanley and McNeil, Radiology 1982;143:29", _BINARY, kind="area", weighted=_auroc, prepare=sort_scores,
           estimate=_estimate_area, short="AUROC"),
    Metric("auprc", "average precision (area under the precision-recall curve)", "Σ (Rₖ − Rₖ₋₁) Pₖ over thresholds k, no interpolation",
           True, 0, 1, _NO_POSITIVE, "Davis and Goadrich, ICML 2006:233", _BINARY, True, kind="weighted", weighted=_auprc,
           prepare=sort_scores, may_bin=True),
    Metric("accuracy", "accuracy", "images called right / n", True, 0, 1, "no image", _METZ, ("binary", "multiclass"), True,
           "proportion", ("correct", "count"), mean_of("correct")),
    Metric("balanced_accuracy", "balanced accuracy", "(sensitivity + specificity) / 2", True, 0, 1, _ONE_CLASS,
           "Brodersen et al., ICPR 2010:3121", _BINARY, components=CELLS, of_sums=_balanced_accuracy,
           estimate=_estimate_balanced_accuracy),
    _proportion("sensitivity", "sensitivity (true-positive rate)", "TP / (TP + FN)", True, 0, 1, _NO_POSITIVE, _ALTMAN,
                part="tp", others=("fn",), gap="ΔTPR"),
    _proportion("specificity", "specificity (true-negative rate)", "TN / (TN + FP)", True, 0, 1, _NO_NEGATIVE, _ALTMAN,
                part="tn", others=("fp",)),
    _proportion("fpr", "false-positive rate", "FP / (FP + TN)", False, 0, 1, _NO_NEGATIVE, _ALTMAN, part="fp", others=("tn",),
                short="FPR", gap="ΔFPR"),
    _proportion("fnr", "false-negative rate", "FN / (FN + TP)", False, 0, 1, _NO_POSITIVE, _ALTMAN, part="fn", others=("tp",)),
    _proportion("ppv", "positive predictive value", "TP / (TP + FP)", True, 0, 1, "no image is called positive", _PREDICTIVE,
                part="tp", others=("fp",), depends_on_prevalence=True, short="PPV"),
    _proportion("npv", "negative predictive value", "TN / (TN + FN)", True, 0, 1, "no image is called negative", _PREDICTIVE,
                part="tn", others=("fn",), depends_on_prevalence=True),
    Metric("f1", "F1 score", "2 TP / (2 TP + FP + FN)", True, 0, 1, "no image is positive, truly or by the model",
           "van Rijsbergen, Information Retrieval, 1979", _BINARY, True, components=("tp", "fp", "fn"), of_sums=_f1),
    Metric("mcc", "Matthews correlation coefficient", "(TP·TN − FP·FN) / √((TP+FP)(TP+FN)(TN+FP)(TN+FN))", True, -1, 1,
           "all images are of one class, or are called one class", "Matthews, Biochim Biophys Acta 1975;405:442", _BINARY, True,
           components=CELLS, of_sums=_mcc),
    Metric("brier", "Brier score", "mean of (score − outcome)²", False, 0, 1, "no image", "Brier, Mon Weather Rev 1950;78:1",
           _BINARY, True, components=("squared_error", "count"), of_sums=mean_of("squared_error")),
    Metric("log_loss", "log loss", "− mean of ln(score of the true class), scores held within 2⁻⁵² of 0 and 1", False, 0, np.inf,
           "no image", "Good, J R Stat Soc B 1952;14:107", ("binary", "multiclass"), True, components=("log_loss", "count"),
           of_sums=mean_of("log_loss")),
    Metric("selection_rate", "share called positive", "(TP + FP) / n", True, 0, 1, "no image",
           "Calders and Verwer, Data Min Knowl Discov 2010;21:277", _BINARY, True, "proportion", CELLS, _selection_rate),
    # A model of health, such as a label "No Finding", is wrong about the same people where it calls them positive: take its fpr.
    _proportion("underdiagnosis_rate", "underdiagnosis rate: share of the diseased who are called healthy",
                "FN / (FN + TP) where the positive class is the disease; where it is health (a label “No Finding”), fpr says it",
                False, 0, 1, _NO_POSITIVE, "Seyyed-Kalantari et al., Nat Med 2021;27:2176", part="fn", others=("tp",), listed=False),
    _at_specificity("sensitivity_at_specificity_0.90", 0.9),
    _at_sensitivity("specificity_at_sensitivity_0.90", 0.9),
)  # fmt: skip

FAMILIES: Mapping[str, Callable[[str, float], Metric]] = {
    "sensitivity_at_specificity": _at_specificity,
    "specificity_at_sensitivity": _at_sensitivity,
    "ppv_at_prevalence": _ppv_at,
    "npv_at_prevalence": _npv_at,
}
