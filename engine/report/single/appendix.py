"""The appendix: fairness scores that have a name, ratios and spreads, and the formula of every score."""

from equipoise.engine.metrics.comparing.methods import entry
from equipoise.engine.metrics.formulas import fairness
from equipoise.engine.report.page.page import Cell, ReportTable, Section, pointer, text_cell
from equipoise.engine.report.page.words import interval, number, title
from equipoise.engine.report.single import findings, gaps
from equipoise.engine.report.single.context import Context
from equipoise.engine.report.single.scores import score_cell

_SPREADS = {
    "ratio": ("ratio to the reference", "group / reference"),
    "max_over_min": ("largest ÷ smallest", "max / min over groups"),
    "sd": ("standard deviation over groups", "√ mean of (score − mean over groups)²"),
}
_XAUC = (
    "xAUC disparity", "P(a positive of the group scores above a negative of the reference) − the reverse",
    "Kallus and Zhou, NeurIPS 2019, arXiv:1902.05826",
)  # fmt: skip
_ELSEWHERE = ("difference", "worst_group", "max_min", "to_overall", "to_rest")
_Rows = list[tuple[Cell, ...]]


def _named(kind: str, metric: str) -> tuple[str, str, str]:
    """Title, formula and reference of a score over groups."""
    if kind in _SPREADS:
        heading, formula = _SPREADS[kind]
        return f"{title(metric)}: {heading}", formula, ""
    if kind.startswith("xauc"):
        return _XAUC
    scaled = (
        next((s for s in fairness.equity_scaled(entry(metric)) if s.name.startswith(f"{kind}:")), None)
        if metric
        else None
    )
    about = scaled or fairness.get(kind)
    part = metric.partition(":")[2]
    heading = about.title + (f", {part}" if part and entry(metric).tasks != ("values",) else "")
    return heading, about.formula, about.reference


def _over_groups(context: Context) -> tuple[_Rows, _Rows]:
    """Rows of the scores that have a name, and rows of ratios and spreads of the compared metrics, by attribute."""
    named: _Rows = []
    spreads: _Rows = []
    for attribute in context.simple:
        for name, score in context.frame.disparities.get(attribute, {}).items():
            kind, metric = findings.split_name(name, score)
            if kind in _ELSEWHERE or (kind in _SPREADS and metric not in findings.compared(context)):
                continue
            heading, formula, reference = _named(kind, metric)
            is_signed = kind.startswith("xauc")
            around = interval(score.low, score.high, 3, is_signed)
            value = Cell(number(score.value, 3, is_signed), pointer("disparities", attribute, name), around)
            which = f"{attribute}: {' / '.join(score.levels)}" if score.levels else attribute
            words = (gaps.by_chance(score), text_cell(formula), text_cell(reference))
            note = "" if around else score.reason or ""
            (spreads if kind in _SPREADS else named).append(
                (text_cell(heading, note), text_cell(which), value, *words)
            )
    return named, spreads


def _inequality(context: Context) -> _Rows:
    """Rows of inequality among individuals, of everyone and within each group."""
    rows: _Rows = []
    for metric in (m for m in findings.INEQUALITY if m in context.frame.overall):
        about = entry(metric)
        places = [None, *((a, level) for a in context.simple for level in context.levels(a))]
        for place in places:
            who = "everyone" if place is None else ": ".join(place)
            words = (text_cell(about.formula), text_cell(about.reference))
            rows.append((text_cell(about.title), text_cell(who), score_cell(context, metric, place), *words))
    return rows


def scores(context: Context) -> Section | None:
    """The section with equity-scaled scores, inequality indices and other named scores; None where the frame has none."""
    named, spreads = _over_groups(context)
    text = (
        "Each of these numbers summarises several groups. It mixes level and spread in its own way, hides which group is worse, and grows by "
        "chance alone where groups are small (“by chance” gives its mean, and the span that holds nine tables of ten, when all groups are "
        "equal). Use these numbers for comparison with published work, not to judge a model by themselves."
    )  # fmt: skip
    first, last = ("score", "attribute", "value, 95 % interval"), ("formula", "reference")
    over_groups = (*first, "by chance", *last)
    tables = [
        ReportTable(header, rows, caption, True)
        for header, rows, caption in (
            (over_groups, named, "Scores over groups that have a name"),
            ((*first, *last), _inequality(context), "Inequality among individuals"),
            (over_groups, spreads, "Ratios and spreads"),
        )
        if rows
    ]
    return Section("Appendix: named fairness scores", (text,), tables=tables) if tables else None


def definitions(context: Context) -> Section:
    """The section with the formula of every score."""
    is_values = context.schema.kind == "values"  # each column of values has its own formula
    rows = []
    for name in dict.fromkeys(m if is_values else m.partition(":")[0] for m in context.frame.overall):
        about = entry(name)
        best = (
            f"{about.target:g} is best"
            if about.target is not None
            else f"{'higher' if about.higher_is_better else 'lower'} is better"
        )
        span = f"{about.low:g} to {about.high:g}".replace("inf", "∞").replace("-", "−")
        words = (about.undefined, about.reference)
        rows.append(
            (
                text_cell(about.title, name),
                text_cell(about.formula),
                text_cell(best, span),
                *map(text_cell, words),
            )
        )
    table = ReportTable(("score", "formula", "direction and range", "undefined when", "reference"), rows)
    text = ["A score that is undefined is left blank and shows its n; it is never set to 0."]
    if context.schema.kind == "binary":
        text.insert(
            0,
            "TP, FP, FN and TN are the numbers of images that are true positives, false positives, false negatives and true negatives.",
        )
    return Section("Appendix: definitions", text, tables=(table,))
