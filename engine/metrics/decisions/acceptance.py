"""Claims that must be shown before a model is accepted: groups equivalent, none inferior, each above a stated rate.

Not finding a difference shows nothing; here the burden of proof is on the claim. The null is that it is false, and it is shown where
a confidence limit says so: both limits of the 1 − 2α interval within the margin (two one-sided tests; Schuirmann, J Pharmacokinet
Biopharm 1987;15:657), or one limit beyond it. "Every group" is an intersection-union test (Berger, Technometrics 1982;24:295): each
group is tested at α, and all must pass; the chance of a false claim is then at most α without any correction. What is undefined
is not shown.
"""

import dataclasses
import math
from collections.abc import Mapping

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.comparing import paired
from equipoise.engine.metrics.estimates import comparisons, intervals
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.formulas.metric import Metric
from equipoise.engine.metrics.frames.frame import Frame
from equipoise.engine.metrics.table import groupings

ALPHA = 0.025  # one-sided
EQUIVALENCE_ALPHA = 0.05  # of each of the two tests


@dataclasses.dataclass(frozen=True)
class ClaimTest:
    """Whether a claim is shown.

    Attributes:
      claim: in words, with its margin and comparator.
      shown: False also where it cannot be judged.
      value: estimate minus comparator, or the estimate itself where a rate is claimed.
      low: limit of the interval of confidence 1 − 2α.
      high: limit.
      p: one-sided (of equivalence the larger of two), of the claim being false.
      alpha: level of the test.
      margin: that was stated; of a rate the bound.
      comparator: whom or what the group is compared with.
      level: group, or ``every group``.
      test: its name.
      null: the hypothesis in words.
      reason: why it could not be judged, or which groups did not pass.
    """

    claim: str
    shown: bool
    value: float
    low: float
    high: float
    p: float
    alpha: float
    margin: float
    comparator: str
    level: str
    test: str
    null: str
    reason: str | None = None


def _check(alpha: float, margin: float | None = None) -> None:
    if not 0 < alpha < 0.5:
        raise UserError(f"alpha={alpha}: a one-sided level is between 0 and 0.5, such as {ALPHA}")
    if margin is not None and not 0 < margin < math.inf:
        raise UserError(f"margin={margin}: state the largest difference that does not matter, above 0")


def _missing(*estimates: Estimate) -> str | None:
    """Why no limit exists."""
    for one in estimates:
        if not all(map(math.isfinite, (one.value, *one.limits(0.95)))):
            return one.reason or "no interval"
    return None


def equivalence(
    a: Estimate, b: Estimate, margin: float, alpha: float = EQUIVALENCE_ALPHA, level: str = "a", comparator: str = "b", metric: str = "score"
) -> ClaimTest:  # fmt: skip
    """Two one-sided tests (TOST): |a − b| is below the margin.

    Args:
      a: estimate.
      b: of the comparator; :func:`intervals.constant` for a stated number.
      margin: in the unit of the score.
      alpha: of each test; the interval has confidence 1 − 2α.
      level: name of the first.
      comparator: name of the other.
      metric: name of the score.
    """
    _check(alpha, margin)
    value, low, high = comparisons.difference(a, b, 1 - 2 * alpha)
    p = max(comparisons.tail(a, b, -margin, above=True), comparisons.tail(a, b, margin, above=False))
    return ClaimTest(
        f"{metric} in {level} is within {margin:g} of {comparator}", -margin < low and high < margin, value, low, high, p, alpha,
        margin, comparator, level, "two one-sided tests", f"{metric} in {level} and {comparator} differ by {margin:g} or more",
        _missing(a, b),
    )  # fmt: skip


def non_inferiority(
    a: Estimate, b: Estimate, margin: float, alpha: float = ALPHA, *, higher_is_better: bool = True, level: str = "a",
    comparator: str = "b", metric: str = "score",
) -> ClaimTest:  # fmt: skip
    """That a is worse than b by less than the margin: arguments as of :func:`equivalence`."""
    _check(alpha, margin)
    value, low, high = comparisons.difference(a, b, 1 - 2 * alpha)
    bound = -margin if higher_is_better else margin
    p = comparisons.tail(a, b, bound, above=higher_is_better)
    side = "below" if higher_is_better else "above"
    return ClaimTest(
        f"{metric} in {level} is less than {margin:g} {side} {comparator}", low > bound if higher_is_better else high < bound, value,
        low, high, p, alpha, margin, comparator, level, "one-sided, non-inferiority",
        f"{metric} in {level} is {margin:g} or more {side} {comparator}", _missing(a, b),
    )  # fmt: skip


def minimum_rate(
    a: Estimate, bound: float, alpha: float = ALPHA, *, higher_is_better: bool = True, level: str = "a", metric: str = "score"
) -> ClaimTest:  # fmt: skip
    """That a score is above a bound, or below it where less is better: arguments as of :func:`equivalence`."""
    _check(alpha)
    low, high = a.limits(1 - 2 * alpha)
    p = comparisons.tail(a, intervals.constant(bound), 0.0, above=higher_is_better)
    side, other = ("above", "at most") if higher_is_better else ("below", "at least")
    return ClaimTest(
        f"{metric} in {level} is {side} {bound:g}", low > bound if higher_is_better else high < bound, a.value, low, high, p, alpha,
        bound, f"{bound:g}", level, "one-sided", f"{metric} in {level} is {other} {bound:g}", _missing(a),
    )  # fmt: skip


def every(verdicts: Mapping[str, ClaimTest]) -> ClaimTest:
    """That all claims hold: an intersection-union test, whose p is the largest of all.

    Args:
      verdicts: group -> verdict of one claim.

    Returns:
      Shown only where each is, and where there is one; its value and interval are those of the group with the largest p, or
      of one that could not be judged.
    """
    if not verdicts:
        nan, reason = math.nan, "no group to judge"
        return ClaimTest(
            "every group passes", False, nan, nan, nan, nan, nan, nan, "", "every group", "none", "", reason
        )
    failed = [level for level, one in verdicts.items() if not one.shown]
    worst = max(verdicts.values(), key=lambda v: (not v.shown, math.inf if math.isnan(v.p) else v.p))
    return dataclasses.replace(
        worst, claim=worst.claim.replace(f" in {worst.level} ", " in every group ", 1), shown=not failed, level="every group",
        test=f"intersection-union of {len(verdicts)}: {worst.test}", null=f"in some group: {worst.null}",
        reason=f"not shown in {', '.join(failed)}" if failed else None,
    )  # fmt: skip


def groups_equivalent(
    frame: Frame, attribute: str, metric: str, margin: float, comparator: str | float = "reference", alpha: float = EQUIVALENCE_ALPHA
) -> dict[str, ClaimTest]:  # fmt: skip
    """Equivalence of each group to a comparator.

    Args:
      frame: of one model, from :func:`equipoise.engine.metrics.frames.frame.evaluate`.
      attribute: of the frame.
      metric: of the frame.
      margin: largest difference that does not matter, in the unit of the metric.
      comparator: ``reference``; ``rest``: everyone else; or a number.
      alpha: of each one-sided test.

    Returns:
      level -> verdict; :func:`every` makes one of them.

    Raises:
      UserError: for an attribute, metric or comparator that the frame does not have.
    """
    return {
        level: equivalence(*pair, margin, alpha, level, name, metric)
        for level, (pair, name) in _compared(frame, attribute, metric, comparator).items()
    }


def groups_non_inferior(
    frame: Frame, attribute: str, metric: str, margin: float, comparator: str | float = "reference", alpha: float = ALPHA
) -> dict[str, ClaimTest]:  # fmt: skip
    """Non-inferiority of each group to a comparator; arguments and errors as of :func:`groups_equivalent`."""
    better = _direction(metric)
    return {
        level: non_inferiority(
            *pair, margin, alpha, higher_is_better=better, level=level, comparator=name, metric=metric
        )
        for level, (pair, name) in _compared(frame, attribute, metric, comparator).items()
    }


def groups_reach(
    frame: Frame, attribute: str, metric: str, bound: float, alpha: float = ALPHA
) -> dict[str, ClaimTest]:
    """That each group's score is above a bound (below it where less is better); as :func:`groups_equivalent`."""
    better = _direction(metric)
    return {
        level: minimum_rate(pair[0], bound, alpha, higher_is_better=better, level=level, metric=metric)
        for level, (pair, _) in _compared(frame, attribute, metric, bound).items()
    }


def _entry(metric: str) -> Metric:
    return registry.get(metric.partition(":")[0])


def _direction(metric: str) -> bool:
    if _entry(metric).target is not None:
        raise UserError(
            f"metric {metric!r} is best at {_entry(metric).target:g}: ask for equivalence to that number"
        )
    return _entry(metric).higher_is_better


def _compared(
    frame: Frame, attribute: str, metric: str, comparator: str | float
) -> dict[str, tuple[tuple[Estimate, Estimate], str]]:
    """Level -> ((estimate, comparator), name of the comparator), of all known levels, those without images too."""
    for what, name, known in (("attribute", attribute, frame.groups), ("metric", metric, frame.overall)):
        if name not in known:
            raise UserError(f"the frame has no {what} {name!r}; it has: {', '.join(known)}")
    groups, found = frame.groups[attribute], {}
    if comparator == "reference":
        for level, reference in paired.pairs_of(frame, attribute, metric):
            found[level] = (groups[level][metric], groups[reference][metric]), f"reference {reference}"
        return found
    if isinstance(comparator, str) and comparator != "rest":
        raise UserError(f"comparator {comparator!r}: it must be 'reference', 'rest' or a number")
    for level in filter(groupings.is_known, groups):
        other, name = None, f"{comparator}"
        if comparator == "rest":
            others, name = frame.rests[attribute].get(level), "everyone else"
            if others is not None and metric not in others:
                raise UserError(
                    f"{metric} of everyone else needs resamples: evaluate the frame with rest=True"
                )
            other = others[metric] if others else intervals.undefined("no image")
        else:
            other = intervals.constant(float(comparator))
        found[level] = (groups[level][metric], other), name
    return found
