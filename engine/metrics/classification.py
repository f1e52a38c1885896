"""Binary classification scores: one registry that says of each what it is, and what computes it.

A score at or above the threshold is a positive. Everything is float64: in float32 a score can cross its threshold.
Every formula but the AUROC is a mean of ratios of sums over images, which is what makes resampling fast.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from engine.config import UserError, did_you_mean

COMPONENTS = ("tp", "fp", "fn", "tn", "squared_error", "log_likelihood")
_ALL = ("tp", "fp", "fn", "tn")
_TINY = np.finfo(np.float64).eps


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a score is.

    Attributes:
      name: key in tables and files.
      title: in running text.
      formula: as printed.
      higher_is_better: direction.
      low: smallest possible value.
      high: largest possible value.
      undefined: when it has no value (NaN, with its n).
      reference: where it is defined.
      ratios: (numerator, denominator) component names; the score is the mean of these ratios. Empty: rank based.
      depends_on_prevalence: whether it moves with the share of positives alone, so that groups differ without unfairness.
    """

    name: str
    title: str
    formula: str
    higher_is_better: bool
    low: float
    high: float
    undefined: str
    reference: str
    ratios: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    depends_on_prevalence: bool = False

    @property
    def is_proportion(self) -> bool:
        """Whether it is the share of some images among others."""
        return (
            len(self.ratios) == 1
            and set(self.ratios[0][0]) <= set(self.ratios[0][1]) <= set(_ALL)
            and self.name != "f1"
        )


_NO_POSITIVE, _NO_NEGATIVE = "no image is truly positive", "no image is truly negative"
_ALTMAN = "Altman and Bland, BMJ 1994;308:1552"
_PREDICTIVE = "Altman and Bland, BMJ 1994;309:102"
_METRICS = (
    Metric("auroc", "area under the ROC curve", "P(score of a positive > score of a negative) + ½ P(equal)", True, 0, 1,
           "one of the classes has no image", "Hanley and McNeil, Radiology 1982;143:29"),
    Metric("accuracy", "accuracy", "(TP + TN) / n", True, 0, 1, "no image", "Metz, Semin Nucl Med 1978;8:283",
           ((("tp", "tn"), _ALL),), True),
    Metric("balanced_accuracy", "balanced accuracy", "(sensitivity + specificity) / 2", True, 0, 1,
           "one of the classes has no image", "Brodersen et al., ICPR 2010:3121",
           ((("tp",), ("tp", "fn")), (("tn",), ("tn", "fp")))),
    Metric("sensitivity", "sensitivity (true-positive rate)", "TP / (TP + FN)", True, 0, 1, _NO_POSITIVE, _ALTMAN,
           ((("tp",), ("tp", "fn")),)),
    Metric("specificity", "specificity (true-negative rate)", "TN / (TN + FP)", True, 0, 1, _NO_NEGATIVE, _ALTMAN,
           ((("tn",), ("tn", "fp")),)),
    Metric("fpr", "false-positive rate", "FP / (FP + TN)", False, 0, 1, _NO_NEGATIVE, _ALTMAN, ((("fp",), ("fp", "tn")),)),
    Metric("fnr", "false-negative rate", "FN / (FN + TP)", False, 0, 1, _NO_POSITIVE, _ALTMAN, ((("fn",), ("fn", "tp")),)),
    Metric("ppv", "positive predictive value", "TP / (TP + FP)", True, 0, 1, "no image is called positive", _PREDICTIVE,
           ((("tp",), ("tp", "fp")),), True),
    Metric("npv", "negative predictive value", "TN / (TN + FN)", True, 0, 1, "no image is called negative", _PREDICTIVE,
           ((("tn",), ("tn", "fn")),), True),
    Metric("f1", "F1 score", "2 TP / (2 TP + FP + FN)", True, 0, 1, "no image is positive, truly or by the model",
           "van Rijsbergen, Information Retrieval, 1979", ((("tp", "tp"), ("tp", "tp", "fp", "fn")),), True),
    Metric("brier", "Brier score", "mean of (score − outcome)²", False, 0, 1, "no image", "Brier, Mon Weather Rev 1950;78:1",
           ((("squared_error",), _ALL),), True),
    Metric("log_loss", "log loss", "− mean of ln(score of the true class), scores held within 2⁻⁵² of 0 and 1", False, 0, np.inf,
           "no image", "Good, J R Stat Soc B 1952;14:107", ((("log_likelihood",), _ALL),), True),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _METRICS}


def get(name: str) -> Metric:
    """The registry's entry.

    Raises:
      UserError: for an unknown name, with the closest known one.
    """
    if name not in METRICS:
        raise UserError(f"no metric {name!r}.{did_you_mean(name, METRICS)} There are: {', '.join(METRICS)}")
    return METRICS[name]


def components(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], threshold: float | Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 6"]:
    """What each image adds to the sums that ratios are made of, in the order of ``COMPONENTS``.

    Args:
      truth: whether the image is positive.
      score: probability of the positive class.
      threshold: a score at or above it is called positive.
    """
    truth, score = np.asarray(truth, bool), np.asarray(score, np.float64)
    called = score >= np.asarray(threshold, np.float64)
    held = np.clip(score, _TINY, 1 - _TINY)
    parts = (
        truth & called,
        ~truth & called,
        truth & ~called,
        ~truth & ~called,
        (score - truth) ** 2,
        -np.where(truth, np.log(held), np.log1p(-held)),
    )
    return np.stack([np.asarray(p, np.float64) for p in parts], axis=-1)


def _total(sums: Float[np.ndarray, "*b 6"], names: Iterable[str]) -> Float[np.ndarray, "*b"]:
    return sum(sums[..., COMPONENTS.index(name)] for name in names)


def from_sums(name: str, sums: Float[np.ndarray, "*b 6"]) -> Float[np.ndarray, "*b"]:
    """A score from summed :func:`components`; NaN where a denominator is 0.

    Raises:
      ValueError: for a rank-based score, which sums cannot give.
    """
    metric = get(name)
    if not metric.ratios:
        raise ValueError(f"{name} is made of ranks, not of sums: use auroc()")
    values = []
    for numerator, denominator in metric.ratios:
        below = _total(sums, denominator)
        values.append(_total(sums, numerator) / np.where(below > 0, below, np.nan))
    return sum(values) / len(values)


def auroc(truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> float:
    """Area under the ROC curve from mid-ranks (Mann-Whitney); NaN without both classes."""
    truth, score = np.asarray(truth, bool), np.asarray(score, np.float64)
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = stats.rankdata(score)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def compute(
    name: str, truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], threshold: float = 0.5
) -> float:
    """One score of one set of images.

    Args:
      name: in the registry.
      truth: whether each image is positive.
      score: probability of the positive class.
      threshold: a score at or above it is a positive; one number, or one per image.

    Returns:
      The value, NaN where it is undefined.

    Raises:
      UserError: for an unknown name.
    """
    if not get(name).ratios:
        return auroc(truth, score)
    return float(from_sums(name, components(truth, score, threshold).sum(axis=0)))


def choose_threshold(
    rule: str,
    truth: Bool[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    split: str,
    reported: str | None = None,
) -> tuple[float, str]:
    """The operating threshold, and the split it came from.

    Args:
      rule: ``fixed:0.5`` (any number), ``youden`` (largest sensitivity + specificity − 1; Youden, Cancer 1950;3:32) or
        ``max_accuracy``. Of equally good thresholds the lowest, which is the most sensitive, is taken.
      truth: whether each image of the split is positive.
      score: probability of the positive class.
      split: name of the split that ``truth`` and ``score`` are from.
      reported: split that the threshold will be judged on, where known.

    Returns:
      (threshold, ``split`` or ``"fixed"``).

    Raises:
      UserError: for an unknown rule, a split without both classes, or choosing on the data that are scored.
    """
    kind, _, value = rule.partition(":")
    if kind == "fixed":
        try:
            return float(value), "fixed"
        except ValueError as error:
            raise UserError(f"threshold rule {rule!r}: write fixed:NUMBER, such as fixed:0.5") from error
    if rule not in ("youden", "max_accuracy"):
        known = ("fixed:0.5", "youden", "max_accuracy")
        raise UserError(
            f"no threshold rule {rule!r}.{did_you_mean(rule, known)} There are: {', '.join(known)}"
        )
    if split != "validation" and reported in (None, split):
        raise UserError(
            f"a threshold chosen on {split!r} would be judged on the same images: choose it on 'validation'"
        )
    truth, score = np.asarray(truth, bool), np.asarray(score, np.float64)
    if truth.all() or not truth.any():
        raise UserError(
            f"threshold rule {rule!r} needs both classes, but split {split!r} has {len(truth)} images of one"
        )
    cuts, place = np.unique(score, return_inverse=True)
    above = np.append(cuts, np.nextafter(cuts[-1], np.inf))  # the last calls nobody positive
    positives = np.bincount(place, truth, len(cuts))
    negatives = np.bincount(place, ~truth, len(cuts))
    tp = np.append(positives[::-1].cumsum()[::-1], 0)
    fp = np.append(negatives[::-1].cumsum()[::-1], 0)
    p, n = positives.sum(), negatives.sum()
    # Whole numbers, so that equally good thresholds are exactly equal.
    gain = tp * n - fp * p if rule == "youden" else tp - fp
    return float(above[int(np.argmax(gain))]), split
