"""What a run of the engine adds to a report: the prepared cohort, training curves, saliency."""

import collections
import dataclasses

import numpy as np

from equipoise.engine.report.figures import slices
from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page.page import Cell, Context, Grid, Section, number, text_cell
from equipoise.engine.transforms.masks import decode_mask
from equipoise.engine.transforms.spatial import crop_or_pad


def _reason(reason: str) -> str:
    """A reason without anything that could name a person or a place: digits and paths are dropped with their text."""
    safe = not any(c.isdigit() or c in "/\\" for c in reason)
    return reason if safe else "another reason (kept beside the cohort)"


def cohort(context: Context) -> Section:
    """Who is in each split, and who was left out."""
    report = context.cohort_report
    counts = report.get("counts", {})
    sizes = Grid(
        ("split", "patients", "images"),
        [(text_cell(s), Cell(str(c["subjects"])), Cell(str(c["scans"]))) for s, c in counts.items()],
    )
    variables: dict[str, dict[str, dict[str, int]]] = collections.defaultdict(dict)
    known = {context.schema.label: context.schema.classes} | {
        k: v for k, v in context.schema.attributes.items() if v
    }
    for split, found in counts.items():
        for name, levels in {**found.get("labels", {}), **found.get("attributes", {})}.items():
            if isinstance(levels, dict) and levels and all(isinstance(n, int) for n in levels.values()):
                order = [*known.get(name, ()), *levels]  # so that a level has one colour throughout
                variables[name][split] = {
                    level: levels[level] for level in dict.fromkeys(order) if level in levels
                }
    drawn = (figures.composition(variables),) if variables else ()
    skipped = collections.Counter(_reason(s["reason"]) for s in report.get("skipped", ()))
    total = report.get("skipped_total", sum(skipped.values()))
    if not report:
        text = "No cohort report was found beside the prepared cohort, so that its composition and what was skipped cannot be shown."
    elif total:
        text = (
            f"{total} scans could not be used and are in no split: "
            + "; ".join(f"{n} × {why}" for why, n in skipped.most_common())
            + "."
        )
    else:
        text = "No scan was skipped: every scan of the source is in a split, and every image of the reported split is scored."
    return Section("Cohort", (text,), drawn, (sizes,) if counts else ())


def training(context: Context) -> Section:
    """Loss and validation score by step."""
    if not context.history:
        return Section(
            "Training", ("The run's metrics.jsonl holds no row, so that there is no curve to show.",)
        )
    best = context.config.get("checkpoint", {}).get("best_metric", "auroc")
    of_masks = [name for row in context.history for name in row if name == "dice" or name.startswith("dice_")]
    metrics = list(dict.fromkeys([*([best] if best != "loss" else []), "accuracy", *of_masks]))
    return Section("Training", (), (figures.training(context.history, context.step, metrics),))


@dataclasses.dataclass(frozen=True, eq=False)
class MeanMap:
    """The mean saliency map of one class's correctly classified images in one group.

    Attributes:
      name: ``CLASS_LEVEL``, as it is kept.
      label: that is predicted.
      target: its class.
      attribute: that forms the groups.
      level: of the group.
      n: images in the mean; None where it is not recorded.
      values: [*spatial].
    """

    name: str
    label: str
    target: str
    attribute: str
    level: str
    n: int | None
    values: np.ndarray

    @property
    def group(self) -> str:
        """Its people in words."""
        return f"{self.attribute} {self.level}" + (f" (n={self.n})" if self.n else "")

    @property
    def title(self) -> str:
        """All of it in words."""
        return f"{self.label} {self.target}, {self.group}"


def mean_maps(context: Context) -> list[MeanMap]:
    """The mean maps that may be shown: a shared report leaves out hidden groups and means of too few images."""
    arrays = context.saliency or {}
    found = []
    for key, values in arrays.items():
        if not key.startswith("mean_"):
            continue
        name = key.removeprefix("mean_")
        fitting = [c for c in context.schema.classes if name.startswith(f"{c}_")]
        target = max(fitting, key=len, default=name.partition("_")[0])
        level = name.removeprefix(f"{target}_")
        having = (a for a, levels in context.schema.attributes.items() if level in (levels or ()))
        attribute = str(arrays["attribute"]) if "attribute" in arrays else next(having, "group")
        n = int(arrays[f"count_{name}"]) if f"count_{name}" in arrays else None
        if context.is_hidden(attribute, level) or (n or 0) < (context.min_cell or 0):
            continue
        found.append(MeanMap(name, context.schema.label, target, attribute, level, n, values))
    return found


def as_seen(context: Context, labels: np.ndarray) -> np.ndarray:
    """A mask or label map on the grid of a cohort's images, cropped or padded as the model saw them (``data.shape``)."""
    shape = context.config.get("data", {}).get("shape")
    return crop_or_pad(labels, tuple(shape)) if shape and len(shape) == labels.ndim else labels


def saliency(context: Context) -> Section | None:
    """Where in the image the decision comes from; masks say so themselves."""
    if context.schema.kind == "values":
        return None
    title = "Where the model looks"
    arrays = context.saliency or {}
    maps = {m.title: m.values for m in mean_maps(context)}
    if not maps or "template" not in arrays:
        command = (
            f"equipoise evaluate --workdir=... --cohort={context.cohort} --split={context.split} --saliency"
        )
        return Section(
            title, ("No saliency maps were made for this checkpoint. To make them:",), command=command
        )
    background = np.asarray(arrays["template"], np.float64)
    names = context.metadata.get("region_names", {})
    regions = {
        f"{k} region" + (f" ({names[k]})" if k in names else ""): as_seen(context, decode_mask(m))
        for k, m in context.metadata.get("regions", {}).items()
    }
    fitting = {k: m for k, m in regions.items() if m.shape == background.shape}
    notes = [
        f"The {k} has another grid than the maps and is not outlined."
        for k in regions.keys() - fitting.keys()
    ]
    notes.append(
        "Brighter means that the decision changes more when the image changes there. A map shows sensitivity, not proof of use: "
        "the comparison of the same subjects with and without a feature is the stronger evidence."
    )
    grids = []
    if fitting:
        inside = background > background.min() + 0.1 * np.ptp(background)
        ratios = slices.density(maps, fitting, inside)
        rows = [
            (text_cell(group), *(Cell(number(found[k], 2)) for k in fitting))
            for group, found in ratios.items()
        ]
        grids = [
            Grid(
                ("group", *fitting),
                rows,
                "Mean saliency in a region ÷ mean saliency of the object (1: no preference)",
            )
        ]
    return Section(title, notes, (slices.saliency(maps, background, fitting),), grids)
