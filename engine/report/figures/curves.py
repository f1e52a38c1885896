"""Curves by group: ROC, precision-recall, calibration, decision curves and score distributions; bands resample patients."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.formulas import net_benefit
from equipoise.engine.metrics.frames.export import CONFIDENCE
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page.page import Figure

MOST_GROUPS = 5  # curves that the eye can follow in one panel
_GRID = np.linspace(0, 1, 101)
_STEPS = 512  # most points of a curve, so that a curve of a million images stays a small file
_REPLICATES = 200
_BINS = 10
_THRESHOLDS = np.linspace(0.01, 0.99, 99)


@dataclasses.dataclass(frozen=True)
class Group:
    """The images of one level.

    Attributes:
      truth: whether each image is positive.
      score: probability of the positive class.
      subject: patient of each image, as a number.
      threshold: threshold of the group.
      min_cell: fewest positive and fewest negative images between two points of a curve, so that a shared curve shows no person.
    """

    truth: Bool[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    subject: Int[np.ndarray, " n"]
    threshold: float
    min_cell: int = 1

    def edges(self, most: int = _STEPS) -> Float[np.ndarray, " k"]:
        """Lower edges, increasing, of the bins of scores; the curves have a point at each edge.

        In a shared report each group has its own edges, so that nobody can subtract one group's curve from another's.
        """
        if self.min_cell == 1:
            return _edges(self.score, max(2, min(most, len(self.score))))
        distinct, place = np.unique(self.score, return_inverse=True)
        kinds = [np.bincount(place[rows], minlength=len(distinct)) for rows in (self.truth, ~self.truth)]
        starts, counted = [], np.zeros(2)
        for number, here in enumerate(np.stack(kinds, axis=1)[::-1]):  # from the highest score down
            counted += here
            if (counted >= self.min_cell).all():
                starts.append(len(distinct) - 1 - number)
                counted[:] = 0
        starts[-1:] = [0]  # the images left at the low end join the last bin
        return distinct[starts[::-1][:: -(-len(starts) // most)]]

    @property
    def has_both(self) -> bool:
        """Whether the group has positive and negative images."""
        return bool(self.truth.any() and not self.truth.all())


def _edges(score: Float[np.ndarray, " n"], most: int) -> Float[np.ndarray, " k"]:
    """Lower edges, increasing, of bins that hold about equally many scores; equal scores stay together."""
    distinct = np.unique(score)
    if len(distinct) <= most:
        return distinct
    return np.unique(np.quantile(score, np.linspace(0, 1, most + 1)[:-1], method="lower"))


def _counts(group: Group, seed: int) -> Float[np.ndarray, "b 2 k"]:
    """Counts of negatives and positives at or above each edge, from the highest edge down: first of all images, then of resamples of the patients."""
    edges = group.edges()
    place = len(edges) - np.searchsorted(edges, group.score, side="right")
    patient = np.unique(group.subject, return_inverse=True)[1]
    patients = int(patient.max()) + 1
    column = group.truth * len(edges) + place
    sums = scipy.sparse.csr_matrix(
        (np.ones(len(column)), (patient, column)), shape=(patients, 2 * len(edges))
    )
    generator = np.random.Generator(np.random.PCG64(seed))
    replicates = max(50, min(_REPLICATES, 60_000_000 // len(column)))
    drawn = [np.ones(patients)]
    drawn += [
        np.bincount(generator.integers(0, patients, patients), minlength=patients) for _ in range(replicates)
    ]
    counts = np.stack([sums.T @ weight for weight in drawn]).reshape(len(drawn), 2, len(edges))
    return np.concatenate([np.zeros((len(drawn), 2, 1)), counts.cumsum(axis=2)], axis=2)


def _coarse(groups: Mapping[str, Group]) -> str:
    """The note below a shared figure, whose curves are coarse; empty for any other figure."""
    fewest = max(g.min_cell for g in groups.values())
    return (
        f" The steps are coarse on purpose: each has at least {fewest} positives and {fewest} negatives."
        if fewest > 1
        else ""
    )


def _band(replicates: Float[np.ndarray, "b k"]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.nanquantile(replicates, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2], axis=0))


def _rates(counts: Float[np.ndarray, "b 2 k"]) -> tuple[np.ndarray, np.ndarray]:
    """False-positive rates and sensitivities of every replicate that holds both classes."""
    total = counts[:, :, -1:]
    kept = counts[(total > 0).all(axis=(1, 2))]
    share = kept / kept[:, :, -1:]
    return share[:, 0], share[:, 1]


def roc_points(group: Group, seed: int = 0) -> dict[str, np.ndarray]:
    """Computes an ROC curve and its pointwise 95 % band.

    Returns:
      ``x`` and ``y`` of the curve; false-positive rates ``grid`` with the sensitivities ``low`` and ``high`` of the band.
    """
    x, y = _rates(_counts(group, seed))
    at = np.stack([np.interp(_GRID, a, b) for a, b in zip(x[1:], y[1:], strict=True)])
    low, high = _band(at)
    return {"x": x[0], "y": y[0], "grid": _GRID, "low": low, "high": high}


def precision_points(group: Group, seed: int = 0) -> dict[str, np.ndarray]:
    """Computes a precision-recall curve and its pointwise 95 % band.

    Returns:
      Recalls ``x`` and precisions ``y`` of the curve; recalls ``grid`` with the precisions ``low`` and ``high`` of the band.
    """
    counts = _counts(group, seed)[:, :, 1:]
    counts = counts[(counts[:, :, -1] > 0).all(axis=1)]
    precision = counts[:, 1] / np.maximum(counts.sum(axis=1), 1)
    recall = counts[:, 1] / counts[:, 1, -1:]
    grid = _GRID[1:]
    first = [np.searchsorted(r, grid - 1e-12) for r in recall[1:]]  # fewest calls that reach each recall
    at = np.stack([p[np.minimum(i, len(p) - 1)] for p, i in zip(precision[1:], first, strict=True)])
    low, high = _band(at)
    x, reached = np.unique(
        recall[0], return_index=True
    )  # among equal recalls, the point with the fewest calls
    y, x = precision[0][reached][x > 0], x[x > 0]
    return {"x": x, "y": y, "grid": grid, "low": low, "high": high}


def _overlay(groups: Mapping[str, Group], attribute: str, points, axes: Axes, drawstyle: str) -> None:
    for place, (level, group) in enumerate(groups.items()):
        if not group.has_both:
            continue
        colour, curve = figures.COLOURS[place % len(figures.COLOURS)], points(group)
        axes.fill_between(curve["grid"], curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)
        axes.plot(
            curve["x"], curve["y"], color=colour, lw=1.7, ls=figures.DASHES[place % len(figures.DASHES)],
            drawstyle=drawstyle if group.min_cell == 1 else "default",
            label=figures.label(f"{attribute}: {level}", 40),
        )  # fmt: skip


def _square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), xlabel=x, ylabel=y, aspect="equal")
    axes.grid(color=figures.LINE, lw=0.6)
    axes.set_axisbelow(True)


def roc(groups: Mapping[str, Group], attribute: str) -> Figure:
    """Draws the ROC curve of each group with its band, and marks the operating point.

    Args:
      groups: level -> its images; a group without both classes is left out.
      attribute: name of the attribute.
    """
    with figures.style():
        canvas = Canvas(figsize=(figures.WIDTH, 4.9), layout="constrained")
        axes = canvas.subplots()
        axes.plot([0, 1], [0, 1], color=figures.LINE, lw=1)
        _overlay(groups, attribute, roc_points, axes, "steps-post")
        for place, group in enumerate(groups.values()):
            if group.has_both:
                called = group.score >= group.threshold
                axes.plot(
                    called[~group.truth].mean(), called[group.truth].mean(), figures.MARKERS[place % len(figures.MARKERS)],
                    color=figures.COLOURS[place % len(figures.COLOURS)], ms=9, mec="white", mew=1.2,
                )  # fmt: skip
        _square(axes, "false-positive rate", "sensitivity (true-positive rate)")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right")
        return figures.finish(
            canvas, f"roc_by_{figures.file_name(attribute)}", f"ROC curves by {attribute}, with 95 % bands.",
            f"ROC curves by {attribute}, with pointwise 95 % bands over resampled patients. Markers show where the threshold puts each "
            f"group: one threshold gives different error rates.{_coarse(groups)}",
        )  # fmt: skip


def precision_recall(groups: Mapping[str, Group], attribute: str) -> Figure:
    """Draws the precision-recall curve of each group with its band and its share of positives.

    Args:
      groups: level -> its images; a group without both classes is left out.
      attribute: name of the attribute.
    """
    with figures.style():
        canvas = Canvas(figsize=(figures.WIDTH, 4.9), layout="constrained")
        axes = canvas.subplots()
        for place, group in enumerate(groups.values()):
            if group.has_both:
                colour = figures.COLOURS[place % len(figures.COLOURS)]
                axes.axhline(group.truth.mean(), color=colour, lw=0.8, ls=(0, (1, 2)))
        _overlay(groups, attribute, precision_points, axes, "steps-pre")
        _square(axes, "sensitivity (recall)", "positive predictive value (precision)")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
        return figures.finish(
            canvas, f"precision_recall_by_{figures.file_name(attribute)}", f"Precision-recall curves by {attribute}, with 95 % bands.",
            f"Precision against recall by {attribute}, with pointwise 95 % bands. The dotted line is the group's share of positives, which a "
            f"guess would reach; the heights of groups with different shares cannot be compared.{_coarse(groups)}",
        )  # fmt: skip


def calibration_points(
    group: Group, edges: Float[np.ndarray, " k"]
) -> list[tuple[float, float, float, float]]:
    """Computes (mean score, observed share, low, high) of each bin; the limits are clustered by patient."""
    place = np.searchsorted(edges, group.score, side="right")
    points = []
    for number in np.unique(place):
        rows = place == number
        share = intervals.proportion(group.truth[rows], group.subject[rows])
        points.append((float(group.score[rows].mean()), share.value, *share.limits(CONFIDENCE)))
    return points


def _panels(groups: Mapping[str, Group], attribute: str, height: float) -> tuple[Canvas, list[Axes]]:
    """A canvas with a panel for each group, two in a row."""
    lines = -(-len(groups) // 2)
    canvas = Canvas(figsize=(figures.WIDTH, height * lines + 0.35), layout="constrained")
    panels = canvas.subplots(lines, 2, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, level in zip(panels, groups, strict=False):
        axes.set_title(figures.label(f"{attribute}: {level}"), loc="left", fontsize=9.5)
        axes.grid(color=figures.LINE, lw=0.6)
        axes.set_axisbelow(True)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    if len(groups) % 2 and lines > 1:
        panels[len(groups) - 2].xaxis.set_tick_params(labelbottom=True)
    return canvas, list(panels[: len(groups)])


def calibration(groups: Mapping[str, Group], attribute: str) -> Figure:
    """Draws the observed share of positives against the mean score; each group has a panel.

    Args:
      groups: level -> its images. Bins hold equally many images of all groups; in a shared report each group has bins of its own.
      attribute: name of the attribute.
    """
    pooled = _edges(np.concatenate([g.score for g in groups.values()]), _BINS)
    with figures.style():
        canvas, panels = _panels(groups, attribute, 2.35)
        for place, (axes, group) in enumerate(zip(panels, groups.values(), strict=True)):
            colour = figures.COLOURS[place % len(figures.COLOURS)]
            axes.plot([0, 1], [0, 1], color=figures.SOFT, lw=0.8, ls=(0, (3, 2)))
            edges = pooled if group.min_cell == 1 else group.edges(_BINS)
            points = calibration_points(group, edges[1:])
            for x, _, low, high in points:
                axes.plot([x, x], [low, high], color=colour, lw=1.5, solid_capstyle="butt")
            axes.plot([p[0] for p in points], [p[1] for p in points], color=colour, lw=1, marker="o", ms=4)
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        canvas.supxlabel("mean score", fontsize=10)
        canvas.supylabel("observed share of positives", fontsize=10)
        return figures.finish(
            canvas, f"calibration_by_{figures.file_name(attribute)}", f"Calibration curves by {attribute}, one panel for each group.",
            f"Calibration by {attribute}: a point above the dashed line means that the score is too low there. Bins have equal mass over "
            f"everyone; vertical lines are 95 % intervals.{_coarse(groups)}",
        )  # fmt: skip


def decision_points(group: Group, seed: int = 0) -> dict[str, np.ndarray]:
    """Computes the net benefit of the model, with its 95 % band, and of treating everyone.

    Returns:
      Threshold probabilities ``x``; net benefit ``y`` of the model, with the limits ``low`` and ``high``; net benefit ``everyone`` of
      treating everyone.
    """
    counts, edges = np.diff(_counts(group, seed)), group.edges()[::-1]
    truth, score = np.repeat([False, True], len(edges)), np.tile(edges, 2)
    drawn = [net_benefit.curve(truth, score, _THRESHOLDS, weight.ravel()) for weight in counts]
    low, high = _band(np.stack([curve.model for curve in drawn[1:]]))
    return {"x": _THRESHOLDS, "y": drawn[0].model, "low": low, "high": high, "everyone": drawn[0].everyone}


def decision(groups: Mapping[str, Group], attribute: str) -> Figure:
    """Draws the decision curve of each group with its band; each group has a panel.

    Args:
      groups: level -> its images; the panel of a group without both classes stays empty.
      attribute: name of the attribute.
    """
    with figures.style():
        canvas, panels = _panels(groups, attribute, 2.0)
        top = max([0.05, *(float(g.truth.mean()) for g in groups.values() if g.has_both)]) * 1.15
        for place, (axes, group) in enumerate(zip(panels, groups.values(), strict=True)):
            axes.axhline(0, color=figures.SOFT, lw=0.9)
            axes.axvline(group.threshold, color=figures.INK, lw=0.9, ls=(0, (2, 2)))
            if group.has_both:
                colour, curve = figures.COLOURS[place % len(figures.COLOURS)], decision_points(group)
                axes.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)
                axes.plot(
                    curve["x"],
                    curve["everyone"],
                    color=figures.SOFT,
                    lw=1.1,
                    ls=(0, (4, 2)),
                    label="treat everyone",
                )
                axes.plot(curve["x"], curve["y"], color=colour, lw=1.7, label="use the model")
            axes.set(xlim=(0, 1), ylim=(-0.25 * top, top), xticks=[0, 0.5, 1])
        canvas.supxlabel("threshold probability", fontsize=10)
        canvas.supylabel("net benefit", fontsize=10)
        return figures.finish(
            canvas, f"decision_by_{figures.file_name(attribute)}", f"Decision curves by {attribute}, with 95 % bands, one panel for each group.",
            f"Net benefit by {attribute}: true positives minus false positives times the odds of the threshold, per case. The "
            "coloured line is using the model, the dashed grey one treating everyone, and 0 treating nobody. The dashed vertical line is the "
            f"threshold in use. Heights depend on the share of positives.{_coarse(groups)}",
        )  # fmt: skip


def distribution(groups: Mapping[str, Group], attribute: str) -> Figure:
    """Draws the scores of positives and of negatives; each group has a panel.

    Args:
      groups: level -> its images; in a shared report each group has bins of its own.
      attribute: name of the attribute.
    """
    is_shared = any(g.min_cell > 1 for g in groups.values())
    with figures.style():
        canvas, panels = _panels(groups, attribute, 1.75)
        for axes, group in zip(panels, groups.values(), strict=True):
            bins = np.linspace(0, 1, 21)
            if is_shared:
                bins = np.array([0.0, *group.edges(20)[1:], 1.0])
            for rows, colour, line, legend in (
                (~group.truth, figures.COLOURS[0], "-", "negative"),
                (group.truth, figures.COLOURS[1], (0, (4, 1)), "positive"),
            ):
                counts = np.histogram(np.clip(group.score[rows], 0, 1), bins)[0]
                share = counts / max(counts.sum(), 1) / (np.diff(bins) if is_shared else 1)
                axes.stairs(share, bins, color=colour, lw=1.5, ls=line, label=legend)
                axes.stairs(share, bins, color=colour, alpha=0.15, fill=True)
            axes.axvline(group.threshold, color=figures.INK, lw=0.9, ls=(0, (2, 2)))
            axes.set(xlim=(-0.02, 1.02), xticks=[0, 0.5, 1])
        panels[0].legend(loc="upper right", fontsize=8, handlelength=1.6)
        canvas.supxlabel("score", fontsize=10)
        canvas.supylabel("density within the class" if is_shared else "share of the class", fontsize=10)
        return figures.finish(
            canvas, f"distribution_by_{figures.file_name(attribute)}", f"Score distributions by {attribute}, positives and negatives.",
            f"Scores of positives and of negatives by {attribute}. The dashed line is the threshold.{_coarse(groups)}",
        )  # fmt: skip
