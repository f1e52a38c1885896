"""Thresholds group by group: equal opportunity, equalised odds, and a floor under every group's sensitivity.

Equal rates (Hardt et al., NeurIPS 2016, arXiv:1610.02413) lie on the convex hull of each group's ROC curve, or below it. Most of
them lie between two thresholds: some of the group must be judged by one threshold and some by the other. The closest single
thresholds would leave a gap that grows as a group shrinks, so the mixture is kept. It is deterministic: a hash of the subject's id,
uniform over [0, 1), picks one of the group's thresholds. A subject is therefore always judged by the same threshold, whatever the
order of rows and whoever else is in the table. Two people of a group with equal scores may be called differently;
:class:`Mixture` says how many are judged by each threshold.

Levelling up only lowers thresholds: no group loses sensitivity, and false positives rise. The rates hold on the split that they were
chosen on. On another split chance moves them; the frame of the new table says how far.
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
    """Several thresholds, each of which judges a share of the subjects.

    Attributes:
      values: the thresholds.
      shares: share of subjects for each threshold; the shares sum to 1.
    """

    values: tuple[float, ...]
    shares: tuple[float, ...]

    def of(self, uniform: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Returns the threshold for each subject, picked by the subject's number in [0, 1)."""
        place = np.searchsorted(np.cumsum(self.shares)[:-1], uniform, side="right")
        return np.asarray(self.values)[place]


def uniform(subject: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Returns a number in [0, 1) for each subject, a hash of the id that is the same in every table."""
    place, names = pd.factorize(np.asarray(subject, dtype=str))
    digests = b"".join(hashlib.sha256(f"threshold:{name}".encode()).digest()[:8] for name in names)
    return ((np.frombuffer(digests, ">u8") >> 11) / 2.0**53)[place]


@dataclasses.dataclass(frozen=True, repr=False)
class Hull:
    """The upper convex hull of an ROC curve, from (0, 0) to (1, 1).

    Attributes:
      fpr: false-positive rate of each vertex, ascending.
      tpr: sensitivity of each vertex, ascending.
      threshold: threshold of each vertex.
    """

    fpr: Float[np.ndarray, " v"]
    tpr: Float[np.ndarray, " v"]
    threshold: Float[np.ndarray, " v"]

    def __repr__(self) -> str:
        """Returns the number of vertices in words."""
        return f"Hull({len(self.fpr)} vertices)"

    def sensitivity(self, fpr: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """Returns the largest sensitivity at each false-positive rate."""
        # The last vertex without a false positive.
        steep = int(np.searchsorted(self.fpr, 0, side="right")) - 1
        return np.interp(fpr, self.fpr[steep:], self.tpr[steep:])

    def false_positives(self, tpr: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """Returns the smallest false-positive rate at each sensitivity."""
        flat = int(np.searchsorted(self.tpr, 1, side="left")) + 1
        return np.interp(tpr, self.tpr[:flat], self.fpr[:flat])

    def mixture(self, fpr: float, tpr: float) -> Mixture:
        """Returns the thresholds that reach a point on the hull."""
        along, at = self.fpr + self.tpr, fpr + tpr
        after = int(np.clip(np.searchsorted(along, at), 1, len(along) - 1))
        share = float(np.clip((along[after] - at) / (along[after] - along[after - 1]), 0, 1))
        return Mixture((float(self.threshold[after - 1]), float(self.threshold[after])), (share, 1 - share))


def hull(truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> Hull:
    """Returns the hull of scores; vertices that lie on a straight line between others are left out.

    Args:
      truth: whether each image is positive; both classes must have images.
      score: probability of the positive class.
    """
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
      split: name of the split that they were chosen on.
      by: attribute of the groups.
      mixtures: level -> thresholds; ``everyone`` has those of all other levels.
      reached: level -> (sensitivity, false-positive rate) on that split; for a mixture the expected rates.
      fallbacks: level -> why it takes the thresholds of everyone.
      model: name of the model; None for the first of a table.
      only_lower: whether a threshold replaces the table's own only where it is lower.
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
        """Returns the table with one more model, ``MODEL+RULE by ATTRIBUTE``, with the same scores and these thresholds.

        Raises:
          UserError: if the table has rows of the split that the thresholds were chosen on.
        """
        level, levels = tuning.group_of_rows(table, self.by)
        base = table.models[0] if self.model is None else self.model
        score, number = table.columns(base)["score"], uniform(table.frame["subject_id"])
        threshold = self.mixtures[EVERYONE].of(number)
        for name, mixture in self.mixtures.items():
            rows = level == name
            threshold[rows] = mixture.of(number[rows])
        if self.only_lower:
            threshold = np.minimum(threshold, table.threshold(table.schema.models[base][0]))
        notes = tuning.notes_on_fallbacks(levels, self.mixtures, self.fallbacks, self.split)
        return tuning.extended(
            table, self.model, f"{self.rule} by {self.by}", score, threshold, self.split, notes
        )


def equalize(
    table: Table, constraint: str, *, by: str, objective: str = "balanced_accuracy", model: str | None = None,
    least: int = tuning.LEAST,
) -> GroupThresholds:  # fmt: skip
    """Chooses the best thresholds among those under which all groups have equal rates.

    Args:
      table: predictions of the validation split alone.
      constraint: ``equal_opportunity`` (equal sensitivity) or ``equalized_odds`` (equal sensitivity and false-positive rate).
      by: attribute or intersection.
      objective: what is made largest over all images of the groups: ``balanced_accuracy`` or ``accuracy``.
      model: name of the model; by default the first of the table.
      least: number of positives, and of negatives, that a group needs. A smaller group takes the best single threshold of everyone.

    Raises:
      UserError: for an unknown name, fewer than two groups that are large enough, or a table that no choice can be made on.
    """
    for what, name, known in (
        ("constraint", constraint, CONSTRAINTS),
        ("objective", objective, OBJECTIVES),
    ):
        if name not in known:
            raise UserError(f"no {what} {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}")
    rows = tuning.tuning_rows(table, by, model)
    groups, fallbacks = rows.groups(least)
    if len(groups) < 2:
        raise UserError(
            f"{by!r} has fewer than two groups with {least} positives and {least} negatives on split {rows.split!r}"
        )
    hulls = {level: hull(rows.truth[inside], rows.score[inside]) for level, inside in groups.items()}
    positives = np.array([rows.truth[inside].sum() for inside in groups.values()], np.float64)
    negatives = np.array([(~rows.truth[inside]).sum() for inside in groups.values()], np.float64)

    def worth(tpr: np.ndarray, fpr: np.ndarray) -> np.ndarray:
        """Returns the objective [k] of common sensitivities [k] and the groups' false-positive rates [g, k]."""
        false_positives = negatives @ fpr
        if objective == "accuracy":
            return positives.sum() * tpr - false_positives
        return tpr - false_positives / negatives.sum()

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
        mixtures = {level: _below(of_level, point[1], point[0]) for level, of_level in hulls.items()}
    everyone = thresholds.choose(OBJECTIVES[objective], rows.truth, rows.score, rows.split).value
    mixtures[EVERYONE] = Mixture((everyone,), (1.0,))
    return GroupThresholds(constraint, rows.split, by, mixtures, points, fallbacks, model)


def _bends(hulls: Sequence[Hull]) -> Float[np.ndarray, " k"]:
    """Returns the false-positive rates where the lowest of the hulls bends: at vertices, and where two hulls cross."""
    x = np.unique(np.concatenate([h.fpr for h in hulls]))
    rates = [x]
    for first, second in itertools.combinations(hulls, 2):
        gap = first.sensitivity(x) - second.sensitivity(x)
        at = np.flatnonzero(gap[:-1] * gap[1:] < 0)
        rates.append(x[at] + (x[at + 1] - x[at]) * gap[at] / (gap[at] - gap[at + 1]))
    return np.unique(np.concatenate(rates))


def _below(upper_hull: Hull, fpr: float, tpr: float) -> Mixture:
    """Returns the thresholds that reach a point on or below the hull.

    They mix the point of the hull with calls by chance, both at the same false-positive rate.
    """
    top = float(upper_hull.sensitivity(np.array([fpr]))[0])
    chance = (top - tpr) / (top - fpr) if top > tpr else 0.0
    upper = upper_hull.mixture(fpr, top)
    values = (*upper.values, _EVERYBODY, _NOBODY)
    shares = (*(share * (1 - chance) for share in upper.shares), chance * fpr, chance * (1 - fpr))
    return Mixture(values, shares)


def level_up(
    table: Table, floor: float, *, by: str, model: str | None = None, least: int = tuning.LEAST
) -> GroupThresholds:
    """Lowers the threshold of each group until its sensitivity reaches a floor; it raises no threshold.

    Mittelstadt et al., arXiv:2302.02404.

    Args:
      table: predictions of the validation split alone.
      floor: smallest sensitivity, above 0 and at most 1.
      by: attribute or intersection.
      model: name of the model; by default the first of the table.
      least: number of positives, and of negatives, that a group needs. A smaller group takes the threshold of everyone, which is lowered
        in the same way.

    Raises:
      UserError: for a floor outside this range, or a table that no choice can be made on.
    """
    if not 0 < floor <= 1:
        raise UserError(f"floor={floor}: give a sensitivity above 0 and at most 1, such as 0.9")
    rows = tuning.tuning_rows(table, by, model)
    groups, fallbacks = rows.groups(least)
    threshold = table.threshold(table.schema.models[table.models[0] if model is None else model][0])
    mixtures, reached = {}, {}
    for level, inside in {EVERYONE: np.ones(len(threshold), bool), **groups}.items():
        positives = np.sort(rows.score[inside & rows.truth])[::-1]
        cut = positives[int(np.ceil(floor * len(positives) * (1 - SLACK))) - 1]
        mixtures[level] = Mixture((float(cut),), (1.0,))
        called = rows.score[inside] >= np.minimum(cut, threshold[inside])
        truth = rows.truth[inside]
        reached[level] = float(called[truth].mean()), float(called[~truth].mean())
    return GroupThresholds(
        f"sens{floor:g}", rows.split, by, mixtures, reached, fallbacks, model, only_lower=True
    )
