"""Whole families of tests: every group against a reference or everyone else, two models' calls.

Each returns records of value, interval, p and p adjusted for the family; :mod:`equipoise.engine.metrics.frames.frame` makes the estimates.
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
_MIN_VALID = 0.8  # share of permutations in which both scores must exist


def _choose(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"{name}={value!r}: it must be one of {', '.join(map(repr, known))}")


def _adjusted(
    found: Mapping[str, Disparity], adjust: str, p: Sequence[float] | None = None
) -> dict[str, Disparity]:
    p = _OF_P[adjust]([d.p for d in found.values()]) if p is None else p
    records = {}
    for (name, one), q in zip(found.items(), p, strict=True):
        test = f"{one.test}; p adjusted by {_TITLES[adjust]}" if math.isfinite(q) else one.test
        records[name] = dataclasses.replace(one, p_adjusted=float(q), test=test)
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
    """Tests every group of an attribute in some metrics; p is adjusted for all that is returned.

    Args:
      table: checked predictions.
      metrics: smooth names of the registry.
      group: attribute or intersection, such as ``race*sex``.
      against: ``reference``: one group; ``rest``: everyone else of known group (of two groups: the other).
      method: of the test. ``mover``: where the interval just reaches 0; ``permutation``: studentised, of whole patients
        (:mod:`equipoise.engine.metrics.resampling.permutation`), exact where groups are alike. The interval is the same for both.
      adjust: ``holm``; ``bh``: Benjamini-Hochberg; ``max_t``: Westfall and Young's from joint permutations of all groups.
      reference: level that the others are compared with; by default the first that has images.
      draws: of the permutation test, and of the bootstrap where a metric needs one.
      seed: of both.
      model: by default the table's first.

    Returns:
      ``difference:METRIC:LEVEL-REFERENCE`` or ``to_rest:METRIC:LEVEL`` -> record. A p that cannot be had is NaN, with the reason.

    Raises:
      UserError: for an unknown argument, metric, attribute or level; for ``max_t`` without permutations.
    """
    _choose("against", against, ("reference", "rest"))
    _choose("method", method, ("mover", "permutation"))
    _choose("adjust", adjust, tuple(_TITLES))
    if adjust == "max_t" and method != "permutation":
        raise UserError("adjust='max_t' needs joint permutations: say method='permutation'")
    for name in metrics:
        if not registry.get(name, table.schema.classes).smooth:
            raise UserError(
                f"metric {name!r} is moved by chance alone, more in small groups: groups are not compared in it"
            )
    wanted = {} if reference is None else {group: reference}
    found = frame.evaluate(
        table, metrics=metrics, groups=[group], reference=wanted, resamples=draws, seed=seed, rest=against == "rest", model=model
    )  # fmt: skip
    pairs = _tested_pairs(found, group, against)
    if not pairs:
        raise UserError(
            f"attribute {group!r} has fewer than two levels with images: there is nothing to compare"
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
            base = found.groups[group][other] if against == "reference" else found.rests[group][level]
            null = f"{metric} is equal in {level} and {other}"
            tested[name] = disparities.tested(found.groups[group][level][metric], base[metric], null, levels)
    if method == "mover":
        return _adjusted(tested, adjust)
    joint = against == "rest" or adjust == "max_t"
    permuted = _permute(table, found, metrics, group, pairs, joint, draws, seed, model)
    return _by_permutation(tested, permuted, adjust)


def _tested_pairs(found: Frame, group: str, against: str) -> list[tuple[str, str]]:
    """(level, what it is compared with) of the levels that have images."""
    filled, reference = list(found.rests[group]), found.references.get(group)
    if against == "reference" or len(filled) == 2:
        return [
            (level, reference if against == "reference" else "everyone else")
            for level in filled
            if level != reference
        ]
    return [(level, "everyone else") for level in filled]


def _permute(
    table: Table, found: Frame, metrics: Sequence[str], group: str, pairs: Sequence[tuple[str, str]], joint: bool, draws: int, seed: int,
    model: str | None,
) -> Permuted:  # fmt: skip
    """Of all levels together, or, for the sake of exactness, of each pair's own patients."""
    rows = Rows(table)
    cut = groupings.grouping(rows.frame, rows.schema, group, ())
    known = [cut.levels.index(level) for level in found.rests[group]]
    level = np.where(np.isin(cut.code, known), cut.code, -1)
    sides = []
    for one, other in pairs:
        number = cut.levels.index(one)
        rest = [i for i in known if i != number]
        sides.append(((number,), (cut.levels.index(other),) if other in cut.levels else tuple(rest)))
    columns = rows.columns(model)
    settings = {"permutations": draws, "seed": seed, "classes": table.schema.classes,
                "averaged": found.settings.get("averaged_classes")}  # fmt: skip
    if joint:
        return permutation.permute(columns, metrics, rows.code, level, sides, **settings)
    parts = []
    for side in sides:
        own = np.where(np.isin(level, [*side[0], *side[1]]), level, -1)
        parts.append(permutation.permute(columns, metrics, rows.code, own, [side], **settings))
    order = np.arange(len(metrics) * len(sides)).reshape(len(sides), len(metrics)).T.ravel()
    return Permuted(
        np.concatenate([part.observed for part in parts])[order],
        np.concatenate([part.permuted for part in parts])[order],
    )


def _by_permutation(tested: Mapping[str, Disparity], permuted: Permuted, adjust: str) -> dict[str, Disparity]:
    draws = permuted.permuted.shape[1]
    valid = 1 - np.isnan(permuted.permuted).mean(axis=1)
    observed = np.where(valid >= _MIN_VALID, permuted.observed, np.nan)
    p = multiplicity.reached(np.abs(observed), np.abs(permuted.permuted))
    found = {}
    for (name, one), each, share in zip(tested.items(), p, valid, strict=True):
        reason = one.reason
        if math.isnan(each) and not reason:
            reason = f"a score or its variance is undefined in {1 - share:.0%} of the permutations"
        test = f"studentised permutation of whole patients, {draws} draws"
        found[name] = dataclasses.replace(one, p=float(each), test=test, reason=reason)
    together = multiplicity.max_t(observed, permuted.permuted) if adjust == "max_t" else None
    return _adjusted(found, adjust, together)


def compare_calls(
    table: Table, first: str, second: str, metric: str = "accuracy", group: str | None = None, *, adjust: Literal["holm", "bh"] = "holm"
) -> dict[str, Disparity]:  # fmt: skip
    """Clustered McNemar tests (:mod:`equipoise.engine.metrics.estimates.mcnemar`) of two models' calls, second minus first.

    Args:
      table: checked predictions with both models' scores.
      first: name of a model.
      second: name of the other.
      metric: a share of the same images under both: accuracy, sensitivity, specificity, fpr, fnr or selection_rate.
      group: attribute or intersection whose known levels are tested too.
      adjust: ``holm`` or ``bh``, over the levels.

    Returns:
      ``""`` for everyone, then level -> record; its interval is MOVER's, with the covariance through patients.

    Raises:
      UserError: for a metric that is no share, or counts other images under each model, as ppv does.
    """
    _choose("adjust", adjust, tuple(_OF_P))
    entry, rows = registry.get(metric, table.schema.classes), Rows(table)
    if entry.kind != "proportion":
        raise UserError(
            f"metric {metric!r} is no share of images: equipoise.engine.metrics.comparing.paired compares it"
        )
    a, b = (per_image(entry, rows.columns(name)) for name in (first, second))
    counted = np.isfinite(a)
    if (counted != np.isfinite(b)).any():
        raise UserError(
            f"metric {metric!r} counts other images under {first!r} than under {second!r}: equipoise.engine.metrics.comparing.paired compares it"
        )

    def tested(inside: np.ndarray, where: str) -> Disparity:
        kept = inside & counted
        x, y, code = a[kept] > 0, b[kept] > 0, rows.code[kept]
        if not kept.any():
            return Disparity(*[math.nan] * 3, reason=entry.undefined)
        one, other = intervals.proportion(x, code), intervals.proportion(y, code)
        null = f"{metric} of {where} is equal under {first} and {second}"
        return Disparity(
            *comparisons.difference(other, one), mcnemar.mcnemar(x, y, code).p, test="clustered McNemar, exact", null=null,
            min_detectable=comparisons.detectable(other, one), levels=(where,),
        )  # fmt: skip

    found = _adjusted({"": tested(np.ones(len(counted), bool), "everyone")}, adjust)
    if group is None:
        return found
    cut = groupings.grouping(rows.frame, rows.schema, group, ())
    known = [i for i in cut.compared.get("", ()) if cut.filled[i]]
    return found | _adjusted({cut.levels[i]: tested(cut.code == i, cut.levels[i]) for i in known}, adjust)
