"""What a report finds, in words: the metrics that it leads with, the conclusion, and a sentence for each gap."""

import math
from collections.abc import Mapping

from equipoise.engine.metrics.comparing.methods import entry
from equipoise.engine.metrics.estimates import multiplicity
from equipoise.engine.metrics.frames.disparities import Disparity
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.page.page import (
    KeyNumber,
    pointer,
)
from equipoise.engine.report.page.words import (
    interval,
    number,
    sentence,
    short_title,
    title,
)
from equipoise.engine.report.single.context import Context, named_class

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
_VERBS = {("tp", "fn"): ("finds", ""), ("fp", "tn"): ("wrongly calls", " positive")}
_BASIC = ("difference", "worst_group", "max_min")


def _chosen(context: Context, wanted: dict[str, tuple[str, ...]], fewest: int) -> list[str]:
    """The wanted metrics of the task that the frame holds; where it holds none of them, its first ``fewest``."""
    every = list(context.frame.overall)
    if context.schema.kind == "values":  # the first score of every column of values
        first = [m for m in every if m.partition(":")[0] == every[0].partition(":")[0]]
        formulas = list(
            dict.fromkeys(entry(m).formula for m in first)
        )  # so that the Dice of every structure comes before any HD95
        return sorted(first, key=lambda m: formulas.index(entry(m).formula))[:fewest]
    return [m for m in wanted[context.schema.kind] if m in every] or every[:fewest]


def shown(context: Context) -> list[str]:
    """The metrics of the forest plots."""
    return _chosen(context, _SHOWN, 6)


def leads(kind: str) -> tuple[str, ...]:
    """The metrics that lead a report on a kind of task, such as ``binary``."""
    return tuple(dict.fromkeys((*_SHOWN[kind], *_COMPARED[kind])))


def listed(context: Context) -> list[str]:
    """The metrics of the tables: all but those of a single class and those of the appendix."""
    return [
        m
        for m in context.frame.overall
        if m.partition(":")[2] not in context.schema.classes and m not in INEQUALITY
    ]


def compared(context: Context) -> list[str]:
    """The metrics whose gaps the page leads with."""
    return _chosen(context, _COMPARED, 4)


def leading(context: Context) -> set[str]:
    """The metrics of the tables that are not folded."""
    return {*shown(context), *compared(context)}


def split_name(name: str, score: Disparity) -> tuple[str, str]:
    """Splits the name of a score over groups into its kind and its metric: ``difference:f1:macro:a-b`` -> (``difference``, ``f1:macro``).

    The score is needed because metrics and levels may hold colons too.
    """
    kind, _, rest = name.partition(":")
    if kind in ("to_overall", "to_rest") or len(score.levels) > 1:
        rest = rest.removesuffix(f":{('/' if kind == 'ratio' else '-').join(score.levels)}")
    return kind, rest


def gap_title(metric: str) -> str:
    """The heading of a gap in a metric: ``ΔTPR``, ``Δ mean dice_cup``."""
    return gap_symbol(metric) or f"Δ {short_title(metric)}"


def gap_symbol(metric: str) -> str:
    """The symbol of a difference in a metric, such as ``ΔTPR``; empty where it has none."""
    about = entry(metric)
    return about.gap if about.name == metric else ""  # a class of several has no symbol of its own


def main_gaps(context: Context) -> dict[tuple[str, str], Disparity]:
    """The signed differences in the compared metrics between the shown levels: (attribute, name of the score) -> difference."""
    metrics = compared(context)
    return {
        (attribute, name): gap
        for attribute in context.simple
        for name, gap in context.frame.disparities.get(attribute, {}).items()
        if name.startswith("difference:")
        and split_name(name, gap)[1] in metrics
        and gap.levels[0] in context.levels(attribute)
    }


def _amount(context: Context, metric: str, value: float) -> str:
    """A difference in words: in percentage points for proportions, else in the unit of the metric."""
    about = entry(metric)
    is_share = (about.low, about.high) == (0, 1)
    return f"{number(100 * value, 1, signed=True)} points" if is_share else number(value, 3, signed=True)


def _names(context: Context) -> str:
    return " or ".join(short_title(m) for m in compared(context))


def _established(context: Context) -> dict[tuple[str, str], Disparity]:
    """The gaps that are established after Holm's correction over all compared gaps of the page; the surest comes first."""
    gaps = {k: d for k, d in main_gaps(context).items() if math.isfinite(d.value)}
    adjusted = dict(zip(gaps, multiplicity.holm([d.p for d in gaps.values()]), strict=True))
    kept = [k for k in gaps if adjusted[k] < 1 - CONFIDENCE]
    return {k: gaps[k] for k in sorted(kept, key=lambda k: (adjusted[k], -abs(gaps[k].value)))}


def conclusion(context: Context) -> str:
    """The conclusion in one sentence: whom the model serves differently, or how large a gap could have been missed."""
    gaps = {k: d for k, d in main_gaps(context).items() if math.isfinite(d.value)}
    if not gaps:
        why = (
            "too few are large enough to be shown"
            if context.min_cell
            else "no attribute has two levels with enough people"
        )
        return f"No two groups can be compared on {_names(context)}: {why}."
    established = _established(context)
    if not established:
        metric = compared(context)[0]
        sizes = {
            k: d.min_detectable
            for k, d in gaps.items()
            if split_name(k[1], d)[1] == metric and math.isfinite(d.min_detectable)
        }
        could = _overlooked(context, metric, sizes) if sizes else ""
        return f"No difference between groups in {_names(context)} is established{could}."
    (attribute, name), gap = next(iter(established.items()))
    verdict = "The model serves" if context.schema.kind != "values" else "The values differ between"
    how = " differently" if context.schema.kind != "values" else ""
    return f"{verdict} the groups of “{attribute}”{how}: {_sentence(context, attribute, split_name(name, gap)[1], gap)}."


def _overlooked(context: Context, metric: str, sizes: Mapping[tuple[str, str], float]) -> str:
    """How large a gap could have been missed, and in how many comparisons a gap of any size could have been.

    Args:
      context: the report.
      metric: metric of the gaps.
      sizes: gap -> smallest detectable size.
    """
    about = entry(metric)
    detectable = [size for size in sizes.values() if size < about.high - about.low]
    if not detectable:
        return "; with so few patients a gap of any size could have been missed"
    size = _amount(context, metric, max(detectable)).lstrip("+").replace(".0 points", " points")
    text = f"; with this many patients a gap in {short_title(metric)} under {size} could have been missed"
    blind = len(sizes) - len(detectable)
    if not blind:
        return text
    return f"{text}, and a gap of any size in {blind} of {len(sizes)} comparisons, whose groups have too few patients"


def _sentence(context: Context, attribute: str, metric: str, gap: Disparity) -> str:
    """A gap in words, with its interval."""
    level, reference = gap.levels
    groups, schema = context.frame.groups[attribute], context.schema
    low, high = (_amount(context, metric, x) for x in (gap.low, gap.high))
    around = f"({_amount(context, metric, gap.value)}, 95 % interval {low.removesuffix(' points')} to {high})"
    verb = _VERBS.get(entry(metric).components)
    if schema.kind != "binary" or not verb:
        first, second = (number(groups[g][metric].value) for g in (level, reference))
        return f"{title(metric)} is {first} in group “{level}”, but {second} in group “{reference}” {around}"
    first, second = (f"{number(100 * groups[g][metric].value, 0)}\u00a0%" for g in (level, reference))
    negative = next(c for c in schema.classes if c != schema.positive)
    who = schema.positive if entry(metric).components[0] == "tp" else negative
    return (
        f"of {context.unit} with {named_class(context, who)} it {verb[0]} {first}{verb[1]} in group “{level}”, but {second} in group "
        f"“{reference}” {around}"
    )  # fmt: skip


def statements(context: Context) -> list[str]:
    """The findings as sentences, for each attribute and compared metric; no sentence claims more than its interval."""
    gaps, established, sentences = main_gaps(context), _established(context), []
    for attribute in context.simple:
        for metric in compared(context):
            pairs = {k: d for k, d in gaps.items() if k[0] == attribute and split_name(k[1], d)[1] == metric}
            sure = [d for k, d in pairs.items() if k in established]
            sentences += [f"{sentence(attribute)}: {_sentence(context, attribute, metric, d)}." for d in sure]
            unsure = [d for k, d in pairs.items() if k not in established and math.isfinite(d.low + d.high)]
            if unsure:
                widest = max(unsure, key=lambda d: max(abs(d.low), abs(d.high)))
                alone = widest.low > 0 or widest.high < 0
                why = (
                    "taken alone this interval excludes 0, but among all comparisons it may be due to chance"
                    if alone
                    else "this is not evidence of equality"
                )
                sentences.append(
                    f"{sentence(title(metric))} by {attribute}: {'no other' if sure else 'no'} difference from “{widest.levels[1]}” is "
                    f"established. For “{widest.levels[0]}”, the least certain group, the data allow a difference from {_amount(context, metric, widest.low)} to "
                    f"{_amount(context, metric, widest.high)}; {why}."
                )  # fmt: skip
            if not pairs:
                continue
            absent = [d.levels[0] for d in pairs.values() if not math.isfinite(d.value)]
            if absent:
                sentences.append(
                    f"{sentence(title(metric))} by {attribute} cannot be compared for: {', '.join(absent)}."
                )
    return sentences


def key_numbers(context: Context) -> list[KeyNumber]:
    """The numbers at the top of the page: two overall scores and two gaps, established ones first."""
    keys = []
    for metric in shown(context)[:2]:
        estimate = context.frame.overall[metric]
        note = interval(*estimate.limits(CONFIDENCE))
        about = entry(metric)
        is_area = about.kind == "area" and about.name == metric  # better known by its short name
        heading = about.short if is_area else sentence(title(metric))
        keys.append(KeyNumber(heading, number(estimate.value), note, pointer("overall", metric)))
    gaps = {k: d for k, d in main_gaps(context).items() if math.isfinite(d.value)}
    for (attribute, name), gap in list((_established(context) | gaps).items())[:2]:
        metric = split_name(name, gap)[1]
        heading = f"{gap_title(metric)} by {attribute}: {' − '.join(gap.levels)}"
        around = interval(gap.low, gap.high, 3, True)
        keys.append(
            KeyNumber(heading, number(gap.value, 3, True), around, pointer("disparities", attribute, name))
        )
    return keys
