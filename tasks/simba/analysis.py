"""What SimBA adds to a report: closed-form expectations, and the effect of the bias on the very same subjects.

The disease shows only through a score d, normal with mean +1 in disease and −1 in health, SD 1. The best classifier that
sees d alone thresholds it at 0 for everyone. The best one that also sees the bias moves its threshold by the log odds of
disease in each group, and so treats the groups differently: that is the shortcut, in numbers.
"""

import dataclasses
import re

import numpy as np
import pandas as pd
from scipy import stats

from engine.config import UserError
from engine.metrics import intervals
from engine.metrics.frame import CONFIDENCE
from engine.metrics.intervals import PairedChange
from engine.report import figures
from engine.report.page import Cell, Context, Grid, KeyNumber, Section, interval, number, pointer, text_cell

_WITH, _WITHOUT = "with", "without"
_NAME = re.compile(r"(?P<start>.*?mm)(?P<flip>_counterfactual)?(?P<settings>.*)")


@dataclasses.dataclass(frozen=True)
class Expectation:
    """Error rates of an ideal classifier, by bias group.

    Attributes:
      tpr: group -> sensitivity.
      fpr: group -> false-positive rate.
      accuracy: over everyone.
    """

    tpr: dict[str, float]
    fpr: dict[str, float]
    accuracy: float

    @property
    def delta_tpr(self) -> float:
        """With minus without bias."""
        return self.tpr[_WITH] - self.tpr[_WITHOUT]

    @property
    def delta_fpr(self) -> float:
        """With minus without bias."""
        return self.fpr[_WITH] - self.fpr[_WITHOUT]


def expect(gamma: float, alpha: float, prevalence: float = 0.5, uses_shortcut: bool = True) -> Expectation:
    """The Bayes classifier of the generative model, deciding at posterior 0.5.

    The log likelihood ratio of d is 2d, so that group g with prior π_g is cut at τ_g = −½ ln(π_g / (1 − π_g)):
    TPR_g = Φ(1 − τ_g), FPR_g = Φ(−1 − τ_g).

    Args:
      gamma: share with bias among the diseased.
      alpha: share with bias among the healthy.
      prevalence: of the disease.
      uses_shortcut: whether it sees the bias; otherwise one prior holds for everyone.

    Raises:
      ValueError: for a share outside (0, 1).
    """
    if not all(0 < share < 1 for share in (gamma, alpha, prevalence)):
        raise ValueError(
            f"shares must lie between 0 and 1, got gamma={gamma}, alpha={alpha}, prevalence={prevalence}"
        )
    diseased = {_WITH: prevalence * gamma, _WITHOUT: prevalence * (1 - gamma)}
    healthy = {_WITH: (1 - prevalence) * alpha, _WITHOUT: (1 - prevalence) * (1 - alpha)}
    odds = {g: diseased[g] / healthy[g] if uses_shortcut else prevalence / (1 - prevalence) for g in diseased}
    cut = {g: -0.5 * np.log(odds[g]) for g in odds}
    tpr = {g: float(stats.norm.cdf(1 - cut[g])) for g in cut}
    fpr = {g: float(stats.norm.cdf(-1 - cut[g])) for g in cut}
    accuracy = sum(diseased[g] * tpr[g] + healthy[g] * (1 - fpr[g]) for g in cut)
    return Expectation(tpr, fpr, float(accuracy))


@dataclasses.dataclass(frozen=True)
class PairedEffect:
    """What rendering the bias does to decisions about the same subjects (with minus without)."""

    sensitivity: PairedChange
    fpr: PairedChange


def paired_effect(factual: pd.DataFrame, counterfactual: pd.DataFrame, positive: int = 1) -> PairedEffect:
    """Compares both renderings of every subject.

    Args:
      factual: prediction table of the cohort.
      counterfactual: of the same subjects with the bias flipped.
      positive: class index of the disease.

    Raises:
      UserError: when the tables do not hold the same subjects once each, with one disease status and both renderings.
    """
    tables = {"factual": factual, "counterfactual": counterfactual}
    for name, table in tables.items():
        twice = int(table["subject_id"].duplicated().sum())
        if twice:
            raise UserError(
                f"{name} table: column 'subject_id' repeats in {twice} rows; the paired effect needs one image per subject"
            )
    pair = factual.merge(counterfactual, on="subject_id", suffixes=("_a", "_b"), validate="one_to_one")
    if not len(pair) == len(factual) == len(counterfactual):
        raise UserError(
            f"only {len(pair)} subjects are in both tables ({len(factual)} factual, {len(counterfactual)} counterfactual): "
            "evaluate the counterfactual of the same cohort and split"
        )
    if (pair["target_a"] != pair["target_b"]).any():
        raise UserError(
            f"column 'target' differs between the tables for {int((pair['target_a'] != pair['target_b']).sum())} subjects"
        )
    kinds = pair["bias_a"] + "/" + pair["bias_b"]
    flipped = kinds.isin([f"{_WITH}/{_WITHOUT}", f"{_WITHOUT}/{_WITH}"])
    if not flipped.all():
        raise UserError(
            f"column 'bias' is not flipped between the tables for {int((~flipped).sum())} subjects"
        )
    called = {end: (pair[f"score_{end}"] >= pair[f"threshold_{end}"]).to_numpy() for end in "ab"}
    first_has = (pair["bias_a"] == _WITH).to_numpy()
    with_bias = np.where(first_has, called["a"], called["b"])
    without = np.where(first_has, called["b"], called["a"])
    diseased = (pair["target_a"] == positive).to_numpy()
    change = lambda rows: intervals.paired_change(without[rows], with_bias[rows])  # noqa: E731
    return PairedEffect(change(diseased), change(~diseased))


def _shares(context: Context) -> tuple[float, float, float, str]:
    """(gamma, alpha, prevalence, where they are from): the cohort's design, else the reported images."""
    design = context.metadata.get("design", {})
    table, positive = context.table, context.schema.classes.index(context.schema.positive)
    sick, biased = (table["target"] == positive).to_numpy(), (table["bias"] == _WITH).to_numpy()
    if "bias_in_disease" in design:
        return (
            design["bias_in_disease"],
            design["bias_in_healthy"],
            design["prevalence"],
            "the cohort's design",
        )
    return float(biased[sick].mean()), float(biased[~sick].mean()), float(sick.mean()), "the reported images"


def expectation_section(context: Context) -> Section:
    """Measured gaps beside those of a classifier that uses the shortcut perfectly, and of one that ignores it."""
    title = "Measured against theory"
    found = context.frame.disparities.get("bias", {})
    gaps = [found.get(f"difference:{m}:{_WITH}-{_WITHOUT}") for m in ("sensitivity", "fpr")]
    if any(g is None or not np.isfinite(g.value) for g in gaps):
        return Section(
            title,
            (
                "The reported images do not hold both bias groups in both classes: there is no gap to compare with theory.",
            ),
        )
    gamma, alpha, prevalence, source = _shares(context)
    if not all(0 < share < 1 for share in (gamma, alpha, prevalence)):
        return Section(
            title, ("Bias and disease coincide perfectly here, for which theory gives no finite threshold.",)
        )
    ideal, fair = expect(gamma, alpha, prevalence), expect(gamma, alpha, prevalence, uses_shortcut=False)
    rows = [
        (f"{name}: with − without", g.value, g.low, g.high)
        for name, g in zip(("ΔTPR", "ΔFPR"), gaps, strict=True)
    ]
    figure = figures.gaps(
        rows,
        "gaps_and_theory",
        "Gaps between bias groups beside theory. A model near the orange diamond leans on the bias as much as an ideal one would.",
        {
            "expected of a perfect shortcut user": [ideal.delta_tpr, ideal.delta_fpr],
            "expected without the shortcut": [0.0, 0.0],
        },
    )
    lines = []
    for metric, kind in (("sensitivity", "tpr"), ("fpr", "fpr")):
        for group in (_WITH, _WITHOUT):
            estimate = context.frame.groups["bias"][group][metric]
            cell = Cell(
                number(estimate.value),
                pointer("groups", "bias", group, metric),
                interval(*estimate.limits(CONFIDENCE)),
            )
            lines.append(
                (
                    f"{kind.upper()}, {group} bias",
                    cell,
                    getattr(ideal, kind)[group],
                    getattr(fair, kind)[group],
                )
            )
    for (label, *_), gap, name, metric in zip(
        rows, gaps, ("delta_tpr", "delta_fpr"), ("sensitivity", "fpr"), strict=True
    ):
        key = pointer("disparities", "bias", f"difference:{metric}:{_WITH}-{_WITHOUT}")
        cell = Cell(number(gap.value, 3, True), key, interval(gap.low, gap.high, 3, True))
        lines.append((label, cell, getattr(ideal, name), getattr(fair, name)))
    accuracy = context.frame.overall["accuracy"]
    cell = Cell(
        number(accuracy.value), pointer("overall", "accuracy"), interval(*accuracy.limits(CONFIDENCE))
    )
    lines.append(("accuracy, everyone", cell, ideal.accuracy, fair.accuracy))
    cells = [
        (text_cell(a), b, *(Cell(number(x, 3, a.startswith("Δ"))) for x in rest)) for a, b, *rest in lines
    ]
    grid = Grid(("", "measured, 95 % interval", "perfect shortcut user", "no shortcut"), cells)
    text = (
        f"The bias is in {number(100 * gamma, 0)} % of the diseased and {number(100 * alpha, 0)} % of the healthy ({source}), and harms nobody. "
        "A classifier that sees the disease effect alone treats both groups alike; the best one that also sees the bias gains a little "
        "accuracy by moving its threshold in each group, which opens both gaps.",
    )  # fmt: skip
    return Section(title, text, (figure,), (grid,))


def _describe(change: PairedChange) -> str:
    return f"{number(100 * change.value, 1, True)} points (95\u00a0% interval\u00a0{interval(100 * change.low, 100 * change.high, 1, True)})"


def partner(cohort: str) -> str:
    """The cohort that holds the other rendering: ``simba/near_4mm`` and ``simba/near_4mm_counterfactual``."""
    name = _NAME.fullmatch(cohort)
    if name is None:
        return f"{cohort}_counterfactual"
    return name["start"] + ("" if name["flip"] else "_counterfactual") + name["settings"]


def counterfactual_section(context: Context) -> Section:
    """The same subjects rendered with and without the bias."""
    title = "The same subjects, with and without the bias"
    if context.metadata.get("design", {}).get("scenario") == "none":
        return Section(
            title,
            ("This cohort plants no bias effect, so that there is no second rendering of its subjects.",),
        )
    other = partner(context.cohort)
    if (other, context.split) not in context.tables:
        text = "The subjects have not been scored with the bias flipped at this checkpoint. With that evaluation this section shows what the bias itself does:"
        return Section(
            title,
            (text,),
            command=f"equipoise evaluate --workdir=... --cohort={other} --split={context.split} --step={context.step}",
        )
    effect = paired_effect(
        context.table,
        context.tables[other, context.split],
        context.schema.classes.index(context.schema.positive),
    )
    kinds = (
        ("sensitivity, diseased subjects", effect.sensitivity),
        ("false-positive rate, healthy subjects", effect.fpr),
    )
    rows = [(name.replace(", ", ",\n"), c.value, c.low, c.high) for name, c in kinds]
    figure = figures.gaps(
        rows, "paired_effect", "Change when the bias is rendered into the very same subjects. Everything else about them is identical.",
        unit="with bias − without bias",
    )  # fmt: skip
    cells = [
        (text_cell(name), Cell(str(c.n)), Cell(number(c.first)), Cell(number(c.second)),
         Cell(number(c.value, 3, True), note=interval(c.low, c.high, 3, True)), Cell(str(c.gained)), Cell(str(c.lost)))
        for name, c in kinds
    ]  # fmt: skip
    header = (
        "rate",
        "subjects",
        "without bias",
        "with bias",
        "change, 95 % interval",
        "negative → positive",
        "positive → negative",
    )
    text = (
        "Groups can differ for many reasons; here each subject is compared with itself. Every test subject was rendered twice, with the bias and "
        "without it, from the same draws. A change can only come from the bias. Intervals: Newcombe's paired score interval (1998, method 10).",
    )  # fmt: skip
    moved = [c for _, c in kinds if c.low > 0 or c.high < 0]
    start = (
        "Rendering the bias into the very same subjects changes"
        if moved
        else "Rendering the bias into the very same subjects changed neither rate beyond chance:"
    )
    headline = f"{start} sensitivity by {_describe(effect.sensitivity)} and the false-positive rate by {_describe(effect.fpr)}."
    keys = [
        KeyNumber(f"paired change in {short}", number(c.value, 3, True), interval(c.low, c.high, 3, True))
        for short, c in (("TPR", effect.sensitivity), ("FPR", effect.fpr))
    ]
    return Section(title, text, (figure,), (Grid(header, cells),), headline=headline, key_numbers=keys)


def sections(context: Context) -> list[Section]:
    """What the report of a SimBA run shows beyond every report."""
    return [expectation_section(context), counterfactual_section(context)]
