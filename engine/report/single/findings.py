"""What a report finds: the conclusion in one sentence, every score by group, and the gaps between groups."""

import math
from collections.abc import Collection, Mapping

from equipoise.engine.metrics.estimates import multiplicity
from equipoise.engine.metrics.frames.disparities import Disparity
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page.page import (
    Cell,
    Context,
    Figure,
    Grid,
    KeyNumber,
    Section,
    entry,
    interval,
    named_class,
    number,
    pointer,
    probability,
    sentence,
    short_title,
    shown_level,
    text_cell,
    title,
)

_SHOWN = {
    "binary": ("auroc", "accuracy", "sensitivity", "fpr", "ppv"),
    "multiclass": ("accuracy", "balanced_accuracy", "auroc:macro", "f1:macro"),
    "multilabel": ("auroc:macro", "sensitivity:macro", "fpr:macro", "f1:macro"),
    "regression": ("mae", "rmse", "bias", "r2"),
    "values": ("mean",),
}
_COMPARED = {
    "binary": ("sensitivity", "fpr"),
    "multiclass": ("accuracy", "balanced_accuracy"),
    "multilabel": ("sensitivity:macro", "fpr:macro"),
    "regression": ("mae", "bias"),
    "values": ("mean",),
}
_MOST_OPEN = 16  # rows of a table that is not folded
INEQUALITY = ("generalized_entropy", "theil_index")  # of the appendix
# What a rate says of people in a sentence, by the images that it counts: (before, after the number).
_SAID = {("tp", "fn"): ("finds", ""), ("fp", "tn"): ("wrongly calls", " positive")}
_BASIC = ("difference", "worst_group", "max_min")


def _chosen(context: Context, wanted: dict[str, tuple[str, ...]], fewest: int) -> list[str]:
    """Metrics of the task that the frame holds; where it holds none of them, its first ones."""
    every = list(context.frame.overall)
    if context.schema.kind == "values":  # the first score, of each value
        first = [m for m in every if m.partition(":")[0] == every[0].partition(":")[0]]
        formulas = list(
            dict.fromkeys(entry(m).formula for m in first)
        )  # the Dice of every structure before any HD95
        return sorted(first, key=lambda m: formulas.index(entry(m).formula))[:fewest]
    return [m for m in wanted[context.schema.kind] if m in every] or every[:fewest]


def shown(context: Context) -> list[str]:
    """Metrics of the forest plots."""
    return _chosen(context, _SHOWN, 6)


def leads(kind: str) -> tuple[str, ...]:
    """Metrics that lead a report of a kind of task."""
    return tuple(dict.fromkeys((*_SHOWN[kind], *_COMPARED[kind])))


def listed(context: Context) -> list[str]:
    """Metrics of the tables: all, but of tasks with classes those over all classes, and none of the appendix."""
    return [
        m
        for m in context.frame.overall
        if m.partition(":")[2] not in context.schema.classes and m not in INEQUALITY
    ]


def compared(context: Context) -> list[str]:
    """Metrics whose gaps the page leads with."""
    return _chosen(context, _COMPARED, 4)


def leading(context: Context) -> set[str]:
    """Metrics of the tables that stand open."""
    return {*shown(context), *compared(context)}


def split_name(name: str, found: Disparity) -> tuple[str, str]:
    """``difference:f1:macro:a-b`` -> (``difference``, ``f1:macro``): metrics and levels may hold colons too."""
    kind, _, rest = name.partition(":")
    if kind in ("to_overall", "to_rest") or len(found.levels) > 1:
        rest = rest.removesuffix(f":{('/' if kind == 'ratio' else '-').join(found.levels)}")
    return kind, rest


def _gap_title(context: Context, metric: str) -> str:
    return gap_symbol(metric) or f"Δ {short_title(metric)}"


def gap_symbol(metric: str) -> str:
    """The symbol of a difference in a metric, such as ``ΔTPR``; empty where it has none."""
    about = entry(metric)
    return about.gap if about.name == metric else ""  # not that of one class of several


def main_gaps(context: Context) -> dict[tuple[str, str], Disparity]:
    """(attribute, score name) -> signed difference in a compared metric, over all attributes and their shown levels."""
    metrics = compared(context)
    return {
        (attribute, name): found
        for attribute in context.simple
        for name, found in context.frame.disparities.get(attribute, {}).items()
        if name.startswith("difference:")
        and split_name(name, found)[1] in metrics
        and found.levels[0] in context.levels(attribute)
    }


def _amount(context: Context, metric: str, value: float) -> str:
    """A difference: of proportions in percentage points, else in the score's own unit."""
    about = entry(metric)
    is_share = (about.low, about.high) == (0, 1)
    return f"{number(100 * value, 1, signed=True)} points" if is_share else number(value, 3, signed=True)


def _names(context: Context) -> str:
    return " or ".join(short_title(m) for m in compared(context))


def _established(context: Context) -> dict[tuple[str, str], Disparity]:
    """Gaps that stand after Holm's correction over all compared gaps of the page, surest first."""
    gaps = {k: d for k, d in main_gaps(context).items() if math.isfinite(d.value)}
    adjusted = dict(zip(gaps, multiplicity.holm([d.p for d in gaps.values()]), strict=True))
    kept = [k for k in gaps if adjusted[k] < 1 - CONFIDENCE]
    return {k: gaps[k] for k in sorted(kept, key=lambda k: (adjusted[k], -abs(gaps[k].value)))}


def conclusion(context: Context) -> str:
    """One plain sentence: whom the model serves differently, or how large a gap could have stayed unseen."""
    gaps = {k: d for k, d in main_gaps(context).items() if math.isfinite(d.value)}
    if not gaps:
        why = (
            "too few are large enough to be shown"
            if context.min_cell
            else "no attribute has two levels with enough people"
        )
        return f"No two groups can be compared on {_names(context)}: {why}."
    found = _established(context)
    if not found:
        metric = compared(context)[0]
        sizes = {
            k: d.min_detectable
            for k, d in gaps.items()
            if split_name(k[1], d)[1] == metric and math.isfinite(d.min_detectable)
        }
        could = _overlooked(context, metric, sizes) if sizes else ""
        return f"No difference between groups in {_names(context)} is established{could}."
    (attribute, name), gap = next(iter(found.items()))
    verdict = "The model serves" if context.schema.kind != "values" else "The values differ between"
    how = " differently" if context.schema.kind != "values" else ""
    return f"{verdict} the groups of “{attribute}”{how}: {_sentence(context, attribute, split_name(name, gap)[1], gap)}."


def _overlooked(context: Context, metric: str, sizes: Mapping[tuple[str, str], float]) -> str:
    """How large a gap could have stayed unseen; of levels with too few patients for any to be seen, how many there are."""
    about = entry(metric)
    seen = [size for size in sizes.values() if size < about.high - about.low]
    if not seen:
        return "; with so few patients a gap of any size could have been missed"
    size = _amount(context, metric, max(seen)).lstrip("+").replace(".0 points", " points")
    text = f"; with this many patients a gap in {short_title(metric)} under {size} could have been missed"
    blind = len(sizes) - len(seen)
    if not blind:
        return text
    return f"{text}, and one of any size in {blind} of {len(sizes)} comparisons, whose groups have too few"


def _sentence(context: Context, attribute: str, metric: str, gap: Disparity) -> str:
    """A gap in words, with its interval."""
    level, reference = gap.levels
    groups, schema = context.frame.groups[attribute], context.schema
    low, high = (_amount(context, metric, x) for x in (gap.low, gap.high))
    around = f"({_amount(context, metric, gap.value)}, 95 % interval {low.removesuffix(' points')} to {high})"
    said = _SAID.get(entry(metric).components)
    if schema.kind != "binary" or not said:
        first, second = (number(groups[g][metric].value) for g in (level, reference))
        return f"{title(metric)} is {first} in group “{level}”, but {second} in group “{reference}” {around}"
    first, second = (f"{number(100 * groups[g][metric].value, 0)}\u00a0%" for g in (level, reference))
    negative = next(c for c in schema.classes if c != schema.positive)
    who = schema.positive if entry(metric).components[0] == "tp" else negative
    return (
        f"of {context.unit} with {named_class(context, who)} it {said[0]} {first}{said[1]} in group “{level}”, but {second} in group "
        f"“{reference}” {around}"
    )  # fmt: skip


def statements(context: Context) -> list[str]:
    """Findings in plain language, one for each attribute and compared metric; none claims more than its interval."""
    gaps, found, said = main_gaps(context), _established(context), []
    for attribute in context.simple:
        for metric in compared(context):
            mine = {k: d for k, d in gaps.items() if k[0] == attribute and split_name(k[1], d)[1] == metric}
            sure = [d for k, d in mine.items() if k in found]
            said += [f"{sentence(attribute)}: {_sentence(context, attribute, metric, d)}." for d in sure]
            unsure = [d for k, d in mine.items() if k not in found and math.isfinite(d.low + d.high)]
            if unsure:
                widest = max(unsure, key=lambda d: max(abs(d.low), abs(d.high)))
                alone = widest.low > 0 or widest.high < 0
                why = (
                    "taken alone this excludes 0, among all comparisons it may be chance"
                    if alone
                    else "that is not evidence of equality"
                )
                said.append(
                    f"{sentence(title(metric))} by {attribute}: {'no other' if sure else 'no'} difference from “{widest.levels[1]}” is "
                    f"established. For “{widest.levels[0]}”, the least certain group, the data allow {_amount(context, metric, widest.low)} to "
                    f"{_amount(context, metric, widest.high)}; {why}."
                )  # fmt: skip
            if not mine:
                continue
            absent = [d.levels[0] for d in mine.values() if not math.isfinite(d.value)]
            if absent:
                said.append(
                    f"{sentence(title(metric))} by {attribute} cannot be compared for: {', '.join(absent)}."
                )
    return said


def key_numbers(context: Context) -> list[KeyNumber]:
    """The numbers at the top: two overall scores, and the gaps of the first attribute that has them."""
    keys = []
    for metric in shown(context)[:2]:
        estimate = context.frame.overall[metric]
        note = interval(*estimate.limits(CONFIDENCE))
        about = entry(metric)
        is_area = about.kind == "area" and about.name == metric  # better known by its short name
        heading = about.short if is_area else sentence(title(metric))
        keys.append(KeyNumber(heading, number(estimate.value), note, pointer("overall", metric)))
    gaps = {k: d for k, d in main_gaps(context).items() if math.isfinite(d.value)}
    for (attribute, name), found in list((_established(context) | gaps).items())[:2]:
        metric = split_name(name, found)[1]
        heading = f"{_gap_title(context, metric)} by {attribute}: {' − '.join(found.levels)}"
        around = interval(found.low, found.high, 3, True)
        keys.append(
            KeyNumber(heading, number(found.value, 3, True), around, pointer("disparities", attribute, name))
        )
    return keys


def score_cell(context: Context, metric: str, place: tuple[str, str] | None) -> Cell:
    """A score of everyone, or of (attribute, level), with its interval and n."""
    estimate = context.frame.groups[place[0]][place[1]][metric] if place else context.frame.overall[metric]
    note = interval(*estimate.limits(CONFIDENCE))
    flag = " †" if estimate.reason and math.isfinite(estimate.value) else ""
    count = f"n={estimate.n}" if estimate.n is not None else ""
    note = f"{note} · {count}{flag}" if note else " · ".join(x for x in (count, estimate.reason) if x)
    key = pointer("groups", *place, metric) if place else pointer("overall", metric)
    return Cell(number(estimate.value), key, note)


def scores(context: Context) -> Section:
    """Every score overall and by group, with its interval."""
    drawn: list[Figure] = []
    grids = []
    for attribute, levels in context.simple.items():
        inside = {level: context.frame.groups[attribute][level] for level in levels}
        drawn.append(figures.forest(shown(context), context.frame.overall, inside, attribute))
    for attribute, levels in (context.simple or {"": []}).items():
        rows: list[tuple[Cell, ...]] = []
        for metric in listed(context):
            about = entry(metric)
            name = title(metric) + (" *" if about.depends_on_prevalence else "")
            cells = [score_cell(context, metric, (attribute, level)) for level in levels]
            lower = "" if about.higher_is_better or about.target is not None else "lower is better"
            rows.append((text_cell(name, lower), score_cell(context, metric, None), *cells))
        header = ("score", "all", *(f"{attribute}: {level}" for level in levels))
        grids.append(
            Grid(header, rows, f"All {len(rows)} scores by {attribute}", True)
            if attribute
            else Grid(header, rows)
        )
    notes = []
    if any(entry(m).depends_on_prevalence for m in context.frame.overall):
        notes.append(
            "* moves with the share of positives, so that groups can differ in it without being treated differently."
        )
    flagged = any(
        e.reason for g in context.frame.groups.values() for cells in g.values() for e in cells.values()
    )
    if flagged or any(e.reason for e in context.frame.overall.values()):
        notes.append(
            "† a small cell, or one in which some resamples are undefined: read with care (metrics.json says which)."
        )
    return Section("Scores, overall and by group", (), drawn, grids, notes=notes)


def gaps(context: Context) -> Section:
    """Signed differences against the reference group, the worst group, and the range."""
    drawn, grids, notes = [], [], []
    for attribute in context.simple:
        found = context.frame.disparities.get(attribute)
        if not found:
            notes.append(f"“{attribute}” has fewer than two filled levels: nothing to compare.")
            continue
        reference = context.frame.references[attribute]
        main = {k: d for (a, k), d in main_gaps(context).items() if a == attribute and math.isfinite(d.value)}
        for metric in compared(context):
            rows = [
                (f"{_gap_title(context, metric)}: {' − '.join(d.levels)}", d.value, d.low, d.high)
                for k, d in main.items() if split_name(k, d)[1] == metric
            ]  # fmt: skip
            if rows:
                name = f"gaps_by_{figures.file_name(attribute)}_{figures.file_name(metric)}"
                side = "the lower value" if entry(metric).high != 1 else "the lower rate"
                caption = f"{sentence(title(metric))} by {attribute}: group minus “{reference}”. Left of 0 the group has {side}."
                drawn.append(figures.gaps(rows, name, caption))
        for metrics, more, is_folded in (
            (leading(context), "", False),
            ({*listed(context)} - leading(context), " in more scores", True),
        ):
            caption = f"Differences{more} by {attribute}"
            grids.append(difference_grid(context, attribute, metrics, caption, is_folded))
        caption = f"Each group of {attribute} against everyone else"
        grids.append(difference_grid(context, attribute, leading(context), caption, True, "to_rest"))
        grids.append(_extreme_grid(context, attribute, f"Worst groups and ranges by {attribute}"))
    grids = [g for g in grids if g.rows]
    if context.schema.kind == "binary":
        notes.append(
            "ΔTPR and ΔFPR are differences in sensitivity and in false-positive rate; equal odds means that both are 0."
        )
    notes.append(
        "p is two-sided, for the hypothesis that the difference is 0, and adjusted (Holm) for the number of levels compared. "
        "A worst group or a range is picked because it is extreme, so that equal groups also show one; their intervals allow for that "
        "(Bonferroni), and the columns “by chance” say what is read while all groups are equal: on average, and in nine tables of ten. "
        "The p of a range is for that hypothesis, not adjusted. People of unknown group are shown above and compared nowhere."
    )
    return Section("Gaps between groups", notes, drawn, grids)


def difference_grid(
    context: Context,
    attribute: str,
    metrics: Collection[str],
    caption: str,
    is_folded: bool = False,
    wanted: str = "difference",
) -> Grid:
    """Signed differences in some metrics, among the levels that the page shows: to the reference, or ``to_rest``."""
    rows, levels = [], context.levels(attribute)
    for name, gap in context.frame.disparities[attribute].items():
        kind, metric = split_name(name, gap)
        if kind == wanted and gap.levels[0] in levels and metric in metrics:
            heading = ", ".join(filter(None, (title(metric), gap_symbol(metric))))
            around = interval(gap.low, gap.high, 3, True)
            value = Cell(number(gap.value, 3, True), pointer("disparities", attribute, name), around)
            pair = shown_level(attribute, " − ".join(gap.levels)) + " − the rest" * (wanted == "to_rest")
            cells = (
                text_cell(pair),
                value,
                Cell(probability(gap.p_adjusted)),
                Cell(number(gap.min_detectable)),
            )
            rows.append((text_cell(heading, gap.reason or ""), *cells))
    header = ("difference in", attribute, "value, 95 % interval", "p, adjusted", "smallest detectable")
    return Grid(header, rows, caption, is_folded or len(rows) > _MOST_OPEN)


def by_chance(found: Disparity) -> Cell:
    """What an extreme reads on average while all groups are equal, and between which values in nine tables of ten."""
    return Cell(number(found.null_mean), note=interval(found.null_low, found.null_high))


def _extreme_grid(context: Context, attribute: str, caption: str) -> Grid:
    rows, found = [], context.frame.disparities[attribute]
    for metric in listed(context):
        worst, spread = found.get(f"worst_group:{metric}"), found.get(f"max_min:{metric}")
        if worst is None or spread is None:
            continue
        cells = [
            cell
            for k, d in (("worst_group", worst), ("max_min", spread))
            for cell in (
                Cell(
                    number(d.value),
                    pointer("disparities", attribute, f"{k}:{metric}"),
                    interval(d.low, d.high),
                ),
                by_chance(d),
            )
        ]
        name = text_cell(title(metric), worst.reason or "")
        rows.append((name, text_cell(", ".join(worst.levels)), *cells, Cell(probability(spread.p))))
    header = ("score", "worst group", "its value", "by chance", "largest − smallest", "by chance", "p")
    return Grid(header, rows, caption, True)
