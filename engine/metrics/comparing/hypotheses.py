"""Whole families of tests: every group against a reference or everyone else, and two models' calls.

Each function returns records with a value, an interval, a p value and the p value adjusted for the family.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import comparisons, intervals, mcnemar, multiplicity
from equipoise.engine.metrics.formulas import registry
from equipoise.engine.metrics.formulas.metric import per_image
from equipoise.engine.metrics.frames import disparities, frame
from equipoise.engine.metrics.frames.cells import Rows
from equipoise.engine.metrics.frames.disparities import Disparity
from equipoise.engine.metrics.frames.frame import Frame
from equipoise.engine.metrics.resampling import permutation
from equipoise.engine.metrics.resampling.permutation import Permuted
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.table import Table

Against = Literal["reference", "rest"]
TestedBy = Literal["mover", "permutation"]
Adjust = Literal["holm", "bh", "max_t"]
_OF_P = {"holm": multiplicity.holm, "bh": multiplicity.benjamini_hochberg}
_TITLES = {"holm": "Holm", "bh": "Benjamini-Hochberg", "max_t": "max-T, step-down"}
_MIN_VALID = 0.8  # a p value is given where both scores exist in at least this share of the permutations


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raises a UserError unless the value of an argument is a known one."""
    if value not in known:
        raise UserError(f"{name}={value!r}: it must be one of {', '.join(map(repr, known))}")


def _adjusted(
    tests: Mapping[str, Disparity], adjust: str, p_adjusted: Sequence[float] | None = None
) -> dict[str, Disparity]:
    """Returns the tests as one family, with adjusted p values: those given, else adjusted from their own p values."""
    if p_adjusted is None:
        p_adjusted = _OF_P[adjust]([test.p for test in tests.values()])
    records = {}
    for (name, record), p in zip(tests.items(), p_adjusted, strict=True):
        test = f"{record.test}; p adjusted by {_TITLES[adjust]}" if math.isfinite(p) else record.test
        records[name] = dataclasses.replace(record, p_adjusted=float(p), test=test)
    return records


def compare_groups(
    table: Table,
    metrics: Sequence[str],
    group: str,
    *,
    against: Against = "reference",
    method: TestedBy = "mover",
    adjust: Adjust = "holm",
    reference: str | None = None,
    draws: int = 2000,
    seed: int = 0,
    model: str | None = None,
) -> dict[str, Disparity]:
    """Tests every group of an attribute in several metrics; the p values are adjusted for all that is returned.

    Args:
      table: checked predictions.
      metrics: names of smooth metrics of the registry.
      group: attribute or intersection, such as ``race*sex``.
      against: ``reference`` compares each group with one group. ``rest`` compares it with everyone else of known group; with two
        groups this is the other one.
      method: method of the test. ``mover`` takes the level at which the interval just reaches 0. ``permutation`` permutes whole
        patients and studentises (:mod:`equipoise.engine.metrics.resampling.permutation`); it is exact where groups are alike. The
        interval is the same for both.
      adjust: ``holm``, ``bh`` (Benjamini-Hochberg) or ``max_t`` (Westfall and Young's, from joint permutations of all groups).
      reference: level that the others are compared with; by default the first that has images.
      draws: number of permutations, and of bootstrap resamples where a metric needs them.
      seed: seed of both.
      model: name of the model; by default the first of the table.

    Returns:
      ``difference:METRIC:LEVEL-REFERENCE`` or ``to_rest:METRIC:LEVEL`` -> record. If there is no p value it is NaN, with the reason.

    Raises:
      UserError: for an unknown argument, metric, attribute or level, and for ``max_t`` without permutations.
    """
    _check_choice("against", against, ("reference", "rest"))
    _check_choice("method", method, ("mover", "permutation"))
    _check_choice("adjust", adjust, tuple(_TITLES))
    if adjust == "max_t" and method != "permutation":
        raise UserError("adjust='max_t' needs joint permutations: add method='permutation'")
    for name in metrics:
        if not registry.get(name, table.schema.classes).smooth:
            raise UserError(
                f"groups are not compared in the metric {name!r}: chance alone changes it, and more so in small groups"
            )
    references = {} if reference is None else {group: reference}
    scores = frame.evaluate(
        table, metrics=metrics, groups=[group], reference=references, resamples=draws, seed=seed, rest=against == "rest", model=model
    )  # fmt: skip
    pairs = _tested_pairs(scores, group, against)
    if not pairs:
        raise UserError(
            f"attribute {group!r} has fewer than two levels with images, so that there is nothing to compare"
        )
    tested = {}
    for metric in metrics:
        for level, other in pairs:
            name = (
                f"difference:{metric}:{level}-{other}"
                if against == "reference"
                else f"to_rest:{metric}:{level}"
            )
            levels = (level, other) if against == "reference" else (level,)
            base = scores.groups[group][other] if against == "reference" else scores.rests[group][level]
            null = f"{metric} is equal in {level} and {other}"
            tested[name] = disparities.tested(scores.groups[group][level][metric], base[metric], null, levels)
    if method == "mover":
        return _adjusted(tested, adjust)
    joint = against == "rest" or adjust == "max_t"
    permuted = _permute(table, scores, metrics, group, pairs, joint, draws, seed, model)
    return _by_permutation(tested, permuted, adjust)


def _tested_pairs(scores: Frame, group: str, against: str) -> list[tuple[str, str]]:
    """Returns (level, what it is compared with) for the levels that have images."""
    filled, reference = list(scores.rests[group]), scores.references.get(group)
    if against == "reference" or len(filled) == 2:
        return [
            (level, reference if against == "reference" else "everyone else")
            for level in filled
            if level != reference
        ]
    return [(level, "everyone else") for level in filled]


def _permute(
    table: Table, scores: Frame, metrics: Sequence[str], group: str, pairs: Sequence[tuple[str, str]], joint: bool, draws: int, seed: int,
    model: str | None,
) -> Permuted:  # fmt: skip
    """Permutes all levels together or, so that each test is exact, the patients of each pair alone."""
    rows = Rows(table)
    cut = groupings.grouping(rows.frame, rows.schema, group, ())
    known = [cut.levels.index(level) for level in scores.rests[group]]
    level = np.where(np.isin(cut.code, known), cut.code, -1)
    sides = []
    for tested, other in pairs:
        number = cut.levels.index(tested)
        rest = [i for i in known if i != number]
        sides.append(((number,), (cut.levels.index(other),) if other in cut.levels else tuple(rest)))
    columns = rows.columns(model)
    settings = {"permutations": draws, "seed": seed, "classes": table.schema.classes,
                "averaged": scores.settings.get("averaged_classes")}  # fmt: skip
    if joint:
        return permutation.permute(columns, metrics, rows.code, level, sides, **settings)
    parts = []
    for side in sides:
        of_pair = np.where(np.isin(level, [*side[0], *side[1]]), level, -1)
        parts.append(permutation.permute(columns, metrics, rows.code, of_pair, [side], **settings))
    order = np.arange(len(metrics) * len(sides)).reshape(len(sides), len(metrics)).T.ravel()
    return Permuted(
        np.concatenate([part.observed for part in parts])[order],
        np.concatenate([part.permuted for part in parts])[order],
    )


def _by_permutation(tested: Mapping[str, Disparity], permuted: Permuted, adjust: str) -> dict[str, Disparity]:
    """Returns the tests with the p values of permutations, adjusted."""
    draws = permuted.permuted.shape[1]
    valid = 1 - np.isnan(permuted.permuted).mean(axis=1)
    observed = np.where(valid >= _MIN_VALID, permuted.observed, np.nan)
    p = multiplicity.reached(np.abs(observed), np.abs(permuted.permuted))
    records = {}
    for (name, record), p_value, share in zip(tested.items(), p, valid, strict=True):
        reason = record.reason
        if math.isnan(p_value) and not reason:
            reason = f"a score or its variance is undefined in {1 - share:.0%} of the permutations"
        test = f"studentised permutation of whole patients, {draws} draws"
        records[name] = dataclasses.replace(record, p=float(p_value), test=test, reason=reason)
    p_adjusted = multiplicity.max_t(observed, permuted.permuted) if adjust == "max_t" else None
    return _adjusted(records, adjust, p_adjusted)


def compare_calls(
    table: Table, first: str, second: str, metric: str = "accuracy", group: str | None = None, *, adjust: Literal["holm", "bh"] = "holm"
) -> dict[str, Disparity]:  # fmt: skip
    """Compares the calls of two models, second minus first, by clustered McNemar tests (:mod:`equipoise.engine.metrics.estimates.mcnemar`).

    Args:
      table: checked predictions with the scores of both models.
      first: name of the first model.
      second: name of the second model.
      metric: a share of images, the same images under both models: accuracy, sensitivity, specificity, fpr, fnr or selection_rate.
      group: attribute or intersection whose known levels are tested too.
      adjust: ``holm`` or ``bh``, over the levels.

    Returns:
      ``""`` (everyone) -> record, then level -> record. The interval is MOVER's, with the covariance through patients.

    Raises:
      UserError: for a metric that is not a share, or that counts different images under each model, as ppv does.
    """
    _check_choice("adjust", adjust, tuple(_OF_P))
    entry, rows = registry.get(metric, table.schema.classes), Rows(table)
    if entry.kind != "proportion":
        raise UserError(
            f"metric {metric!r} is not a share of images: compare it with equipoise.engine.metrics.comparing.paired"
        )
    a, b = (per_image(entry, rows.columns(name)) for name in (first, second))
    counted = np.isfinite(a)
    if (counted != np.isfinite(b)).any():
        raise UserError(
            f"metric {metric!r} counts different images under {first!r} and {second!r}: "
            "compare it with equipoise.engine.metrics.comparing.paired"
        )

    def tested(inside: np.ndarray, where: str) -> Disparity:
        """Tests some rows."""
        kept = inside & counted
        x, y, code = a[kept] > 0, b[kept] > 0, rows.code[kept]
        if not kept.any():
            return Disparity(*[math.nan] * 3, reason=entry.undefined)
        share, second_share = intervals.proportion(x, code), intervals.proportion(y, code)
        null = f"{metric} of {where} is equal under {first} and {second}"
        return Disparity(
            *comparisons.difference(second_share, share), mcnemar.mcnemar(x, y, code).p, test="clustered McNemar, exact", null=null,
            min_detectable=comparisons.detectable(second_share, share), levels=(where,),
        )  # fmt: skip

    everyone = _adjusted({"": tested(np.ones(len(counted), bool), "everyone")}, adjust)
    if group is None:
        return everyone
    cut = groupings.grouping(rows.frame, rows.schema, group, ())
    known = [i for i in cut.compared.get("", ()) if cut.filled[i]]
    return everyone | _adjusted({cut.levels[i]: tested(cut.code == i, cut.levels[i]) for i in known}, adjust)
