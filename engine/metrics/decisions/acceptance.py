"""Claims that must be shown before a model is accepted: groups are equivalent, none is inferior, each is above a stated rate.

To find no difference shows nothing; here the burden of proof is on the claim. The null hypothesis is that the claim is false. The
claim is shown where both limits of the 1 − 2α interval are within the margin (two one-sided tests; Schuirmann, J Pharmacokinet
Biopharm 1987;15:657), or where one limit is beyond it. "Every group" is an intersection-union test (Berger, Technometrics
1982;24:295): each group is tested at α, and all must pass. The chance of a false claim is then at most α without any correction.
A claim about an undefined score is not shown.
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

ALPHA = 0.025  # level of a one-sided test
EQUIVALENCE_ALPHA = 0.05  # level of each of the two tests of equivalence


@dataclasses.dataclass(frozen=True)
class ClaimTest:
    """The test of a claim.

    Attributes:
      claim: the claim in words, with its margin and comparator.
      shown: whether the claim is shown; False also if it cannot be judged.
      value: estimate minus comparator, or the estimate itself if the claim is about a rate.
      low: lower limit of the interval of confidence 1 − 2α.
      high: upper limit of this interval.
      p: one-sided p value of the claim being false; for equivalence the larger of the two.
      alpha: level of the test.
      margin: the stated margin; for a rate the bound.
      comparator: name of what the group is compared with.
      level: name of the group, or ``every group``.
      test: name of the test.
      null: the null hypothesis in words.
      reason: why the claim could not be judged, or which groups did not pass.
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
    """Raises a UserError unless the level and the margin are possible ones."""
    if not 0 < alpha < 0.5:
        raise UserError(f"alpha={alpha}: a one-sided level is between 0 and 0.5, such as {ALPHA}")
    if margin is not None and not 0 < margin < math.inf:
        raise UserError(f"margin={margin}: state the largest difference that does not matter, above 0")


def _missing(*estimates: Estimate) -> str | None:
    """Says why an estimate has no limits, or returns None."""
    for estimate in estimates:
        if not all(map(math.isfinite, (estimate.value, *estimate.limits(0.95)))):
            return estimate.reason or "no interval"
    return None


def equivalence(
    a: Estimate, b: Estimate, margin: float, alpha: float = EQUIVALENCE_ALPHA, level: str = "a", comparator: str = "b", metric: str = "score"
) -> ClaimTest:  # fmt: skip
    """Tests the claim that |a − b| is below the margin, by two one-sided tests (TOST).

    Args:
      a: estimate of the group.
      b: estimate of the comparator; :func:`intervals.constant` makes one from a stated number.
      margin: largest difference that does not matter, in the unit of the score.
      alpha: level of each test; the interval has confidence 1 − 2α.
      level: name of the group.
      comparator: name of the comparator.
      metric: name of the score.

    Raises:
      UserError: for a level outside (0, 0.5) or a margin that is not above 0.
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
    """Tests the claim that a is worse than b by less than the margin; arguments and errors are those of :func:`equivalence`."""
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
    """Tests the claim that a score is above a bound, or below it if less is better.

    The other arguments and errors are those of :func:`equivalence`.
    """
    _check(alpha)
    low, high = a.limits(1 - 2 * alpha)
    p = comparisons.tail(a, intervals.constant(bound), 0.0, above=higher_is_better)
    side, other = ("above", "at most") if higher_is_better else ("below", "at least")
    return ClaimTest(
        f"{metric} in {level} is {side} {bound:g}", low > bound if higher_is_better else high < bound, a.value, low, high, p, alpha,
        bound, f"{bound:g}", level, "one-sided", f"{metric} in {level} is {other} {bound:g}", _missing(a),
    )  # fmt: skip


def every(claims: Mapping[str, ClaimTest]) -> ClaimTest:
    """Tests that all claims hold, by an intersection-union test, whose p value is the largest of all.

    Args:
      claims: group -> test of its claim.

    Returns:
      The test of all. It is shown if there are claims and each is shown. Its value and interval are those of the group with the
      largest p value, or of a group that could not be judged.
    """
    if not claims:
        nan, reason = math.nan, "no group to judge"
        return ClaimTest(
            "every group passes", False, nan, nan, nan, nan, nan, nan, "", "every group", "none", "", reason
        )
    failed = [level for level, claim in claims.items() if not claim.shown]
    worst = max(claims.values(), key=lambda c: (not c.shown, math.inf if math.isnan(c.p) else c.p))
    return dataclasses.replace(
        worst, claim=worst.claim.replace(f" in {worst.level} ", " in every group ", 1), shown=not failed, level="every group",
        test=f"intersection-union of {len(claims)}: {worst.test}", null=f"in some group: {worst.null}",
        reason=f"not shown in {', '.join(failed)}" if failed else None,
    )  # fmt: skip


def groups_equivalent(
    frame: Frame, attribute: str, metric: str, margin: float, comparator: str | float = "reference", alpha: float = EQUIVALENCE_ALPHA
) -> dict[str, ClaimTest]:  # fmt: skip
    """Tests the equivalence of each group to a comparator.

    Args:
      frame: scores of one model, from :func:`equipoise.engine.metrics.frames.frame.evaluate`.
      attribute: an attribute of the frame.
      metric: a metric of the frame.
      margin: largest difference that does not matter, in the unit of the metric.
      comparator: ``reference`` (the reference group), ``rest`` (everyone else of known group) or a number.
      alpha: level of each one-sided test.

    Returns:
      level -> test of the claim; :func:`every` combines them.

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
    """Tests the non-inferiority of each group to a comparator; arguments and errors are those of :func:`groups_equivalent`."""
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
    """Tests that the score of each group is above a bound, or below it if less is better.

    The other arguments and errors are those of :func:`groups_equivalent`.
    """
    better = _direction(metric)
    return {
        level: minimum_rate(pair[0], bound, alpha, higher_is_better=better, level=level, metric=metric)
        for level, (pair, _) in _compared(frame, attribute, metric, bound).items()
    }


def _entry(metric: str) -> Metric:
    return registry.get(metric.partition(":")[0])


def _direction(metric: str) -> bool:
    """Returns whether higher is better, and refuses a metric with an ideal value."""
    if _entry(metric).target is not None:
        raise UserError(
            f"metric {metric!r} is best at {_entry(metric).target:g}: test its equivalence to that number instead"
        )
    return _entry(metric).higher_is_better


def _compared(
    frame: Frame, attribute: str, metric: str, comparator: str | float
) -> dict[str, tuple[tuple[Estimate, Estimate], str]]:
    """Returns level -> ((estimate, comparator), name of the comparator) for all known levels, with and without images."""
    for what, name, known in (("attribute", attribute, frame.groups), ("metric", metric, frame.overall)):
        if name not in known:
            raise UserError(f"the frame has no {what} {name!r}; it has: {', '.join(known)}")
    groups, pairs = frame.groups[attribute], {}
    if comparator == "reference":
        for level, reference in paired.pairs_of(frame, attribute, metric):
            pairs[level] = (groups[level][metric], groups[reference][metric]), f"reference {reference}"
        return pairs
    if isinstance(comparator, str) and comparator != "rest":
        raise UserError(f"comparator {comparator!r}: it must be 'reference', 'rest' or a number")
    for level in filter(groupings.is_known, groups):
        other, name = None, f"{comparator}"
        if comparator == "rest":
            others, name = frame.rests[attribute].get(level), "everyone else"
            if others is not None and metric not in others:
                raise UserError(
                    f"{metric} of everyone else needs resamples: make the frame with evaluate(..., rest=True)"
                )
            other = others[metric] if others else intervals.undefined("no image")
        else:
            other = intervals.constant(float(comparator))
        pairs[level] = (groups[level][metric], other), name
    return pairs
