"""A policy: whether the scores keep its bounds, overall and in every group."""

import dataclasses
from collections.abc import Sequence

from equipoise.engine.metrics.decisions import policy
from equipoise.engine.metrics.decisions.policy import Rule, Verdict
from equipoise.engine.report.page.page import Cell, ReportTable, Section, text_cell
from equipoise.engine.report.page.words import interval, number, shown_level
from equipoise.engine.report.single.context import Context

TITLE = "Policy"


def judged(context: Context, rules: Sequence[Rule]) -> Context:
    """Adds the verdicts of a policy to a report. They judge the scores that the report shows: a suppressed score keeps no bound.

    Args:
      context: the report.
      rules: bounds of the policy.

    Raises:
      UserError: for a rule to which no cell belongs.
    """
    models = context.models or {context.model_names[0]: context.frame}
    return dataclasses.replace(context, verdicts=policy.judge(rules, models))


def _row(verdict: Verdict) -> tuple[Cell, ...]:
    around = interval(verdict.low, verdict.high)
    count = f"n={verdict.n}" if verdict.n is not None else ""
    note = " · ".join(x for x in (around, count, verdict.reason) if x)
    place = shown_level(verdict.attribute, verdict.place)
    bound = verdict.bound.replace(">=", "≥").replace("<=", "≤").replace("-", "−")
    return (
        text_cell("met" if verdict.is_met else "VIOLATED", verdict.rule),
        text_cell(verdict.score, verdict.model),
        text_cell(place),
        text_cell(bound, policy.WORDS[verdict.on]),
        Cell(number(verdict.value), note=note),
    )


def section(context: Context) -> Section | None:
    """The section on the policy, with the violated bounds first; None without a policy."""
    if context.verdicts is None:
        return None
    broken = [v for v in context.verdicts if not v.is_met]
    kept = [v for v in context.verdicts if v.is_met]
    if broken:
        verdict = f"The policy is violated: {len(broken)} of {len(context.verdicts)} bounds are not kept."
    else:
        verdict = f"The policy is met: all {len(kept)} bounds are kept."
    text = (
        "A bound is compared with the number named below it: the value, or a limit of its 95 % interval, which is the lower limit for a minimum and "
        "the upper limit for a maximum. A score that is undefined or suppressed keeps no bound. A rule on a score in several groups is met when "
        "every group keeps it (an intersection-union test), so nothing is corrected for the number of groups. A rule on a gap uses the interval "
        "of the gap."
    )  # fmt: skip
    header = ("verdict", "score", "group", "bound", "estimate, 95 % interval")
    tables = [
        ReportTable(header, [_row(v) for v in verdicts], caption, is_folded)
        for verdicts, caption, is_folded in ((broken, "Violated", False), (kept, "Met", len(kept) > 16))
        if verdicts
    ]
    return Section(TITLE, (text,), tables=tables, headline=verdict)
