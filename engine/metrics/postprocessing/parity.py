"""Thresholds group by group: equal opportunity, equalised odds, and a floor under every group's sensitivity.

Equal rates (Hardt et al., NeurIPS 2016, arXiv:1610.02413) are rates on the convex hull of a group's ROC curve, or below it, and most lie
between two thresholds: they need some of the group to be judged by the one and some by the other. Closest single thresholds would
leave a gap that grows as a group shrinks, so the mixture is kept, and made deterministic: a hash of the subject's id, uniform over
[0, 1), picks among a group's thresholds. A subject is always judged by the same one, whatever the order of rows and whoever else is
there. Two people of a group with equal scores may be called differently; the size of it is in :class:`Mixture`.

Levelling up only lowers thresholds: no group loses sensitivity, false positives rise. Rates hold on the split that they were chosen on, and by chance
not exactly on another; the frame of the new table says how far.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.formulas.classification import SLACK
from equipoise.engine.metrics.postprocessing import tuning
from equipoise.engine.metrics.postprocessing.tuning import EVERYONE
from equipoise.engine.metrics.table import thresholds
from equipoise.engine.metrics.table.table import Table

CONSTRAINTS = ("equal_opportunity", "equalized_odds")
OBJECTIVES = {"balanced_accuracy": "youden", "accuracy": "max_accuracy"}
_NOBODY = float(np.nextafter(1, 2))  # a threshold above every probability
_EVERYBODY = 0.0


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Thresholds and the share of subjects that each judges.

    Attributes:
      values: thresholds.
      shares: sum to 1.
    """

    values: tuple[float, ...]
    shares: tuple[float, ...]

    def of(self, uniform: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The threshold that each subject's number picks."""
        place = np.searchsorted(np.cumsum(self.shares)[:-1], uniform, side="right")
        return np.asarray(self.values)[place]


def uniform(subject: Sequence[str]) -> Float[np.ndarray, " n"]:
    """A number in [0, 1) of each subject's id, by its hash: the same in every table."""
    place, names = pd.factorize(np.asarray(subject, dtype=str))
    digests = b"".join(hashlib.sha256(f"threshold:{name}".encode()).digest()[:8] for name in names)
    return ((np.frombuffer(digests, ">u8") >> 11) / 2.0**53)[place]


@dataclasses.dataclass(frozen=True, repr=False)
class Hull:
    """The upper convex hull of an ROC curve, from (0, 0) to (1, 1).

    Attributes:
      fpr: ascending.
      tpr: ascending.
      threshold: of each vertex.
    """

    fpr: Float[np.ndarray, " v"]
    tpr: Float[np.ndarray, " v"]
    threshold: Float[np.ndarray, " v"]

    def __repr__(self) -> str:
        """Says how many vertices there are."""
        return f"Hull({len(self.fpr)} vertices)"

    def sensitivity(self, fpr: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """The largest at these false-positive rates."""
        steep = (
            int(np.searchsorted(self.fpr, 0, side="right")) - 1
        )  # the last of the vertices without a false positive
        return np.interp(fpr, self.fpr[steep:], self.tpr[steep:])

    def false_positives(self, tpr: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """The smallest rate at these sensitivities."""
        flat = int(np.searchsorted(self.tpr, 1, side="left")) + 1
        return np.interp(tpr, self.tpr[:flat], self.fpr[:flat])

    def mixture(self, fpr: float, tpr: float) -> Mixture:
        """Thresholds that reach a point of the hull."""
        along, at = self.fpr + self.tpr, fpr + tpr
        after = int(np.clip(np.searchsorted(along, at), 1, len(along) - 1))
        share = float(np.clip((along[after] - at) / (along[after] - along[after - 1]), 0, 1))
        return Mixture((float(self.threshold[after - 1]), float(self.threshold[after])), (share, 1 - share))


def hull(truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> Hull:
    """Of scores of both classes. Vertices that no straight line needs are left out."""
    cuts, place = np.unique(score, return_inverse=True)
    rates = [
        np.append(np.bincount(place[rows], minlength=len(cuts))[::-1].cumsum()[::-1], 0) / rows.sum()
        for rows in (~truth, truth)
    ]
    points = list(zip(*(rate[::-1] for rate in rates), [_NOBODY, *cuts[::-1]], strict=True))
    kept: list[tuple[float, float, float]] = []
    for x, y, cut in points:
        while len(kept) > 1 and (kept[-1][0] - kept[-2][0]) * (y - kept[-2][1]) >= (
            kept[-1][1] - kept[-2][1]
        ) * (x - kept[-2][0]):
            kept.pop()
        kept.append((x, y, cut))
    return Hull(*np.array(kept, np.float64).T)


@dataclasses.dataclass(frozen=True)
class GroupThresholds:
    """Thresholds chosen group by group.

    Attributes:
      rule: ``equal_opportunity``, ``equalized_odds`` or ``sens0.9``.
      split: that they were chosen on.
      by: attribute.
      mixtures: level -> thresholds; ``everyone`` has those of all others.
      reached: level -> (sensitivity, false-positive rate) on that split, a mixture's as expected over subjects.
      fallbacks: level -> why it takes the thresholds of everyone.
      model: whose scores; None: a table's first.
      only_lower: a threshold stands only where it is below the table's own.
    """

    rule: str
    split: str
    by: str
    mixtures: Mapping[str, Mixture]
    reached: Mapping[str, tuple[float, float]]
    fallbacks: Mapping[str, str]
    model: str | None
    only_lower: bool = False

    def apply(self, table: Table) -> Table:
        """The table with one more model, ``MODEL+RULE by ATTRIBUTE``: its scores unchanged, its thresholds by group.

        Raises:
          UserError: for a table of the split that these were chosen on.
        """
        level, levels = tuning.group_of_rows(table, self.by)
        base = table.models[0] if self.model is None else self.model
        score, number = table.columns(base)["score"], uniform(table.frame["subject_id"])
        found = self.mixtures[EVERYONE].of(number)
        for name, mixture in self.mixtures.items():
            rows = level == name
            found[rows] = mixture.of(number[rows])
        if self.only_lower:
            found = np.minimum(found, table.threshold(table.schema.models[base][0]))
        notes = tuning.strangers(levels, self.mixtures, self.fallbacks, self.split)
        return tuning.extended(
            table, self.model, f"{self.rule} by {self.by}", score, found, self.split, notes
        )


def equalize(
    table: Table, constraint: str, *, by: str, objective: str = "balanced_accuracy", model: str | None = None,
    least: int = tuning.LEAST,
) -> GroupThresholds:  # fmt: skip
    """Thresholds under which groups have equal rates, the best such.

    Args:
      table: of the validation split alone.
      constraint: ``equal_opportunity`` (equal sensitivity) or ``equalized_odds`` (equal false-positive rate too).
      by: attribute or intersection.
      objective: made largest over all images of the groups: ``balanced_accuracy`` or ``accuracy``.
      model: whose scores; by default the table's first.
      least: positives, and negatives, that a group needs; a smaller one takes the best single threshold of everyone.

    Raises:
      UserError: for an unknown name, fewer than two groups that are large enough, or a table that cannot be tuned on.
    """
    for name, known in ((constraint, CONSTRAINTS), (objective, OBJECTIVES)):
        if name not in known:
            raise UserError(f"no {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}")
    rows = tuning.tuning_rows(table, by, model)
    groups, fallbacks = rows.groups(least)
    if len(groups) < 2:
        raise UserError(
            f"{by!r} has fewer than two groups with {least} positives and {least} negatives on split {rows.split!r}"
        )
    hulls = {level: hull(rows.truth[own], rows.score[own]) for level, own in groups.items()}
    positives = np.array([rows.truth[own].sum() for own in groups.values()], np.float64)
    negatives = np.array([(~rows.truth[own]).sum() for own in groups.values()], np.float64)

    def worth(tpr: np.ndarray, fpr: np.ndarray) -> np.ndarray:
        """[k] of common sensitivities [k] and the groups' false-positive rates [g, k]."""
        false = negatives @ fpr
        if objective == "accuracy":
            return positives.sum() * tpr - false
        return tpr - false / negatives.sum()

    if constraint == "equal_opportunity":
        tpr = np.unique(np.concatenate([h.tpr for h in hulls.values()]))
        fpr = np.stack([h.false_positives(tpr) for h in hulls.values()])
        best = int(np.argmax(worth(tpr, fpr)))
        points = {level: (float(tpr[best]), float(fpr[i, best])) for i, level in enumerate(hulls)}
        mixtures = {level: hulls[level].mixture(x, y) for level, (y, x) in points.items()}
    else:
        fpr = _bends(list(hulls.values()))
        tpr = np.min([h.sensitivity(fpr) for h in hulls.values()], axis=0)
        best = int(np.argmax(worth(tpr, np.tile(fpr, (len(hulls), 1)))))
        point = float(tpr[best]), float(fpr[best])
        points = dict.fromkeys(hulls, point)
        mixtures = {level: _below(one, point[1], point[0]) for level, one in hulls.items()}
    everyone = thresholds.choose(OBJECTIVES[objective], rows.truth, rows.score, rows.split).value
    mixtures[EVERYONE] = Mixture((everyone,), (1.0,))
    return GroupThresholds(constraint, rows.split, by, mixtures, points, fallbacks, model)


def _bends(hulls: Sequence[Hull]) -> Float[np.ndarray, " k"]:
    """False-positive rates where the lowest of the hulls bends: their vertices, and where two of them cross."""
    x = np.unique(np.concatenate([h.fpr for h in hulls]))
    found = [x]
    for one, other in itertools.combinations(hulls, 2):
        gap = one.sensitivity(x) - other.sensitivity(x)
        at = np.flatnonzero(gap[:-1] * gap[1:] < 0)
        found.append(x[at] + (x[at + 1] - x[at]) * gap[at] / (gap[at] - gap[at + 1]))
    return np.unique(np.concatenate(found))


def _below(one: Hull, fpr: float, tpr: float) -> Mixture:
    """Thresholds that reach a point at or below the hull: a mixture of the hull and of calls by chance at the same false-positive rate."""
    top = float(one.sensitivity(np.array([fpr]))[0])
    chance = (top - tpr) / (top - fpr) if top > tpr else 0.0
    upper = one.mixture(fpr, top)
    values = (*upper.values, _EVERYBODY, _NOBODY)
    shares = (*(share * (1 - chance) for share in upper.shares), chance * fpr, chance * (1 - fpr))
    return Mixture(values, shares)


def level_up(
    table: Table, floor: float, *, by: str, model: str | None = None, least: int = tuning.LEAST
) -> GroupThresholds:
    """Lowers each group's threshold until its sensitivity reaches a floor; no threshold is raised (Mittelstadt et al., arXiv:2302.02404).

    Args:
      table: of the validation split alone.
      floor: smallest sensitivity, above 0 and at most 1.
      by: attribute or intersection.
      model: whose scores; by default the table's first.
      least: positives, and negatives, that a group needs; a smaller one takes the threshold of everyone, lowered likewise.

    Raises:
      UserError: for a floor that is no share, or a table that cannot be tuned on.
    """
    if not 0 < floor <= 1:
        raise UserError(f"a floor of {floor} is no share: give a number above 0 and at most 1, such as 0.9")
    rows = tuning.tuning_rows(table, by, model)
    groups, fallbacks = rows.groups(least)
    own = table.threshold(table.schema.models[table.models[0] if model is None else model][0])
    mixtures, reached = {}, {}
    for level, inside in {EVERYONE: np.ones(len(own), bool), **groups}.items():
        positives = np.sort(rows.score[inside & rows.truth])[::-1]
        cut = positives[int(np.ceil(floor * len(positives) * (1 - SLACK))) - 1]
        mixtures[level] = Mixture((float(cut),), (1.0,))
        called = rows.score[inside] >= np.minimum(cut, own[inside])
        truth = rows.truth[inside]
        reached[level] = float(called[truth].mean()), float(called[~truth].mean())
    return GroupThresholds(
        f"sens{floor:g}", rows.split, by, mixtures, reached, fallbacks, model, only_lower=True
    )
