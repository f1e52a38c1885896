"""Closed-form error rates of ideal classifiers for a SimBA cohort, and a section of a report that compares measured rates with them.

The disease shows only in a score d, which is normal with mean +1 in disease and −1 in health, SD 1. The best classifier that
sees d alone has the threshold 0 for everyone. The best classifier that also sees a bias moves its threshold by the log odds of
disease in each group, and so treats the groups differently: this is the shortcut, in numbers. Two biases that are
independent given the class make four groups, whose log odds add.
"""

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from scipy import special

from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.frames import frame
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.metrics.table.groupings import JOIN
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.report.figures import forests
from equipoise.engine.report.page import Cell, ReportTable, Section, interval, number, pointer, text_cell
from equipoise.engine.report.single.context import Context
from equipoise.tasks.simba import renderings
from equipoise.tasks.simba.renderings import WITH, WITHOUT

Group = tuple[str, ...]  # a level for each attribute
_DESIGN = {
    "bias": ("bias_in_disease", "bias_in_healthy"),
    "intensity_bias": ("intensity_in_disease", "intensity_in_healthy"),
}
_SHORT = {"sensitivity": "TPR", "fpr": "FPR"}


@dataclasses.dataclass(frozen=True)
class Expectation:
    """Error rates of an ideal classifier, by group.

    Attributes:
      attributes: the attributes of bias, in the order of a group's levels.
      rates: "sensitivity" or "fpr" -> group -> rate.
      shares: "sensitivity" or "fpr" -> group -> its share of the diseased, or of the healthy.
      prevalence: share of the diseased.
    """

    attributes: tuple[str, ...]
    rates: Mapping[str, Mapping[Group, float]]
    shares: Mapping[str, Mapping[Group, float]]
    prevalence: float

    def rate(self, metric: str, attribute: str, level: str) -> float:
        """The rate of everyone at one level of an attribute, over all levels of the others."""
        place = self.attributes.index(attribute)
        shares = {group: share for group, share in self.shares[metric].items() if group[place] == level}
        return sum(share * self.rates[metric][group] for group, share in shares.items()) / sum(
            shares.values()
        )

    def gap(self, metric: str, attribute: str) -> float:
        """The rate with the bias minus the rate without it."""
        return self.rate(metric, attribute, WITH) - self.rate(metric, attribute, WITHOUT)

    @property
    def accuracy(self) -> float:
        """The accuracy over everyone."""
        tpr, fpr = (
            sum(share * self.rates[metric][group] for group, share in self.shares[metric].items())
            for metric in ("sensitivity", "fpr")
        )
        return self.prevalence * tpr + (1 - self.prevalence) * (1 - fpr)


def expect(
    shares: Mapping[str, tuple[float, float]],
    prevalence: float = 0.5,
    uses: Collection[str] | None = None,
    flipped: Collection[str] = (),
) -> Expectation:
    """The Bayes classifier of the generative model, which decides at posterior 0.5.

    The log likelihood ratio of d is 2d, and every bias adds its own to the prior's, so that group g with log odds λ_g of
    disease is cut at τ_g = −λ_g / 2: TPR_g = Φ(1 − τ_g), FPR_g = Φ(−1 − τ_g).

    Args:
      shares: attribute of bias -> its share (γ among the diseased, α among the healthy); biases are independent given the class.
      prevalence: share of the diseased.
      uses: the attributes that the classifier sees; None: all.
      flipped: the attributes that the scored images render the other way round. The classifier still expects ``shares``.

    Raises:
      ValueError: for a share outside (0, 1), or an attribute without shares.
    """
    uses = set(shares if uses is None else uses)
    if not all(0 < share < 1 for share in (prevalence, *itertools.chain(*shares.values()))):
        raise ValueError(f"shares must lie between 0 and 1, got {dict(shares)} and prevalence={prevalence}")
    if unknown := (uses | set(flipped)) - set(shares):
        raise ValueError(f"no shares of {', '.join(sorted(unknown))}")
    rates: dict[str, dict[Group, float]] = {"sensitivity": {}, "fpr": {}}
    weights: dict[str, dict[Group, float]] = {"sensitivity": {}, "fpr": {}}
    for group in itertools.product((WITH, WITHOUT), repeat=len(shares)):
        levels = dict(zip(shares, group, strict=True))
        evidence = [_odds(*shares[a], levels[a]) for a in uses]
        cut = -0.5 * (special.logit(prevalence) + sum(evidence))
        for place, (metric, mean) in enumerate((("sensitivity", 1), ("fpr", -1))):
            rates[metric][group] = float(special.ndtr(mean - cut))
            weights[metric][group] = math.prod(
                shares[a][place] if (level == WITH) != (a in flipped) else 1 - shares[a][place]
                for a, level in levels.items()
            )
    return Expectation(tuple(shares), rates, weights, prevalence)


def _odds(gamma: float, alpha: float, level: str) -> float:
    """The log odds of disease that one bias adds at a level."""
    return float(np.log(gamma / alpha if level == WITH else (1 - gamma) / (1 - alpha)))


def _design(
    context: Context, attributes: Sequence[str], flipped: Collection[str]
) -> tuple[dict[str, tuple[float, float]], float, str]:
    """(shares of each bias before any flip, prevalence, where they come from): from the design, or else from the reported images."""
    design = context.metadata.get("design", {})
    if all(name in design for a in attributes for name in _DESIGN[a]):
        shares = {a: (design[_DESIGN[a][0]], design[_DESIGN[a][1]]) for a in attributes}
        return shares, design["prevalence"], "the cohort's design"
    table, positive = context.table, context.schema.classes.index(context.schema.positive)
    sick = (table["target"] == positive).to_numpy()
    shares = {}
    for a in attributes:
        first = (table[a] == (WITHOUT if a in flipped else WITH)).to_numpy()
        shares[a] = (float(first[sick].mean()), float(first[~sick].mean()))
    return shares, float(sick.mean()), "the reported images"


def _users(attributes: Sequence[str], is_rendered: bool) -> dict[str, tuple[str, ...]]:
    """Name of an ideal classifier -> the biases that it sees."""
    if not is_rendered:
        return {"no shortcut": ()}
    words = renderings.words(attributes)
    single = {f"user of {words[a]} alone": (a,) for a in attributes} if len(attributes) > 1 else {}
    name = "perfect user of both" if single else "perfect shortcut user"
    return {name: tuple(attributes), **single, "no shortcut": ()}


def _measured(estimate: Estimate | None, key: str | None) -> Cell:
    """A measured rate with its interval."""
    if estimate is None:
        return Cell("–")
    return Cell(number(estimate.value), key, interval(*estimate.limits(CONFIDENCE)))


def section(context: Context) -> Section:
    """A section with measured gaps beside those of classifiers that use the biases perfectly, and of one that ignores them."""
    title = "Measured against theory"
    attributes = renderings.attributes(context)
    measured_gaps = {
        (a, m): context.frame.disparities.get(a, {}).get(f"difference:{m}:{WITH}-{WITHOUT}")
        for a in attributes
        for m in _SHORT
    }
    gaps = {key: gap for key, gap in measured_gaps.items() if gap is not None and np.isfinite(gap.value)}
    shown = [a for a in attributes if all((a, m) in gaps for m in _SHORT)]
    if not shown:
        return Section(
            title,
            (
                "The reported images do not hold both bias groups in both classes, so that there is no gap to compare with theory.",
            ),
        )
    flipped = renderings.flipped(context.cohort, attributes)
    shares, prevalence, source = _design(context, attributes, flipped)
    if not all(0 < share < 1 for share in (prevalence, *itertools.chain(*shares.values()))):
        return Section(
            title, ("Bias and disease coincide perfectly here; theory then gives no finite threshold.",)
        )
    is_rendered = context.metadata.get("design", {}).get("scenario") != "none"
    users = {
        name: expect(shares, prevalence, uses, flipped) for name, uses in _users(attributes, is_rendered).items()
    }  # fmt: skip
    words, is_one = renderings.words(attributes), len(attributes) == 1
    lines, rows = [], []
    for a in shown:
        of = "bias" if is_one else f"{words[a]} bias"
        for m, short in _SHORT.items():
            for level in (WITH, WITHOUT):
                measured = _measured(context.frame.groups[a][level][m], pointer("groups", a, level, m))
                lines.append((f"{short}, {level} {of}", measured, [Cell(number(u.rate(m, a, level))) for u in users.values()]))  # fmt: skip
        for m, short in _SHORT.items():
            gap, name = gaps[a, m], f"Δ{short}: with − without" + ("" if is_one else f" {of}")
            key = pointer("disparities", a, f"difference:{m}:{WITH}-{WITHOUT}")
            cell = Cell(number(gap.value, 3, True), key, interval(gap.low, gap.high, 3, True))
            lines.append((name, cell, [Cell(number(u.gap(m, a), 3, True)) for u in users.values()]))
            rows.append((f"Δ{short}: with − without" if is_one else f"Δ{short}, {words[a]}", gap.value, gap.low, gap.high))  # fmt: skip
    measured = _measured(context.frame.overall["accuracy"], pointer("overall", "accuracy"))
    lines.append(("accuracy, everyone", measured, [Cell(number(u.accuracy)) for u in users.values()]))
    header = ("", "measured, 95 % interval", *users)
    grids = [ReportTable(header, [(text_cell(name), cell, *cells) for name, cell, cells in lines])]
    if not is_one:
        grids.append(_joint(context, users, header))
    figure = forests.gaps(
        rows, "gaps_and_theory",
        "Gaps between bias groups beside theory. A model near a marker leans on the bias as much as that ideal classifier would. A model beyond "
        "all markers trusts the bias more than the bias deserves.",
        {f"expected: {name}": [u.gap(m, a) for a in shown for m in _SHORT] for name, u in users.items() if is_one or name != "no shortcut"},
    )  # fmt: skip
    return Section(title, (_text(shares, source, is_rendered),), (figure,), grids)


def _text(shares: Mapping[str, tuple[float, float]], source: str, is_rendered: bool) -> str:
    """What a reader must know of the bias and of ideal classifiers."""
    words = renderings.words(shares)
    percent = lambda share: f"{number(100 * share, 0)} %"  # noqa: E731
    parts = [
        f"{'The bias' if len(shares) == 1 else f'A bias of {words[a]} (column {a})'} is in {percent(gamma)} of the diseased and {percent(alpha)} of the healthy"
        for a, (gamma, alpha) in shares.items()
    ]
    start = ", ".join([parts[0], *(text.replace("A bias", "and one", 1) for text in parts[1:])])
    if not is_rendered:
        return f"{start} ({source}), but nothing of it is rendered: a classifier can only treat both groups alike."
    end = (
        "the best one that also sees the bias gains a little accuracy by moving its threshold in each group, which opens both gaps."
        if len(shares) == 1
        else "the best one that also sees a bias gains a little accuracy by moving its threshold in each group, which opens gaps. The two are "
        "independent given the class: in the four groups their log odds of disease add, and a classifier that uses one alone opens no gap in the other."
    )
    harm = "harms nobody" if len(shares) == 1 else "neither harms anybody"
    return f"{start} ({source}), and {harm}. A classifier that sees the disease effect alone treats all alike; {end}"


def _joint(context: Context, users: Mapping[str, Expectation], header: Sequence[str]) -> ReportTable:
    """A table of the error rates of the four groups that two biases make."""
    attributes = next(iter(users.values())).attributes
    name = JOIN.join(attributes)
    known = context.frame.groups.get(name)
    table = Table(context.table, context.schema)
    groups = known or frame.evaluate(table, metrics=list(_SHORT), groups=[name], compare=False).groups[name]
    lines = []
    for m, short in _SHORT.items():
        for group in next(iter(users.values())).rates[m]:
            level = JOIN.join(group)
            cell = _measured(
                groups.get(level, {}).get(m), pointer("groups", name, level, m) if known else None
            )
            who = renderings.combination(dict(zip(attributes, group, strict=True)))
            lines.append((text_cell(f"{short}, {who}"), cell, *(Cell(number(u.rates[m][group])) for u in users.values())))  # fmt: skip
    return ReportTable(header, lines, "The four groups that the two biases make")
