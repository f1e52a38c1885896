"""Where the model looks: mean saliency maps by class and group, over the mean image."""

import dataclasses

import numpy as np

from equipoise.engine.report.figures import slices
from equipoise.engine.report.page.page import Cell, ReportTable, Section, text_cell
from equipoise.engine.report.page.words import number
from equipoise.engine.report.single.context import Context
from equipoise.engine.transforms.masks import decode_mask
from equipoise.engine.transforms.spatial import crop_or_pad


@dataclasses.dataclass(frozen=True, eq=False)
class MeanMap:
    """The mean saliency map of the correctly classified images of one class in one group.

    Attributes:
      name: name in the file of maps, ``CLASS_LEVEL``.
      label: label that the model predicts.
      target: class of the images.
      attribute: attribute that forms the groups.
      level: level of the group.
      n: number of images in the mean; None where the file does not say.
      values: the map, [*spatial].
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
        """The group in words."""
        return f"{self.attribute} {self.level}" + (f" (n={self.n})" if self.n else "")

    @property
    def title(self) -> str:
        """Label, class and group in words."""
        return f"{self.label} {self.target}, {self.group}"


def mean_maps(context: Context) -> list[MeanMap]:
    """The mean maps that may be shown; a shared report leaves out hidden groups and means of too few images."""
    arrays = context.saliency or {}
    maps = []
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
        maps.append(MeanMap(name, context.schema.label, target, attribute, level, n, values))
    return maps


def as_seen(context: Context, labels: np.ndarray) -> np.ndarray:
    """A mask or label map, cropped or padded like the images that the model saw (``data.shape``)."""
    shape = context.config.get("data", {}).get("shape")
    return crop_or_pad(labels, tuple(shape)) if shape and len(shape) == labels.ndim else labels


def section(context: Context) -> Section | None:
    """The section on saliency; None for predicted masks, which show by themselves where the model looks."""
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
            title,
            ("There are no saliency maps of this checkpoint. This command makes them:",),
            command=command,
        )
    background = np.asarray(arrays["template"], np.float64)
    names = context.metadata.get("region_names", {})
    regions = {
        f"{k} region" + (f" ({names[k]})" if k in names else ""): as_seen(context, decode_mask(m))
        for k, m in context.metadata.get("regions", {}).items()
    }
    fitting = {k: m for k, m in regions.items() if m.shape == background.shape}
    notes = [
        f"The {k} is not outlined, because its grid differs from that of the maps."
        for k in regions.keys() - fitting.keys()
    ]
    notes.append(
        "Where a map is brighter, the decision changes more when the image changes there. A map shows sensitivity; it does not prove that the "
        "model uses a feature. Comparing the same subjects with and without the feature is stronger evidence."
    )
    tables = []
    if fitting:
        inside = background > background.min() + 0.1 * np.ptp(background)
        ratios = slices.density(maps, fitting, inside)
        rows = [
            (text_cell(group), *(Cell(number(by_region[k], 2)) for k in fitting))
            for group, by_region in ratios.items()
        ]
        tables = [
            ReportTable(
                ("group", *fitting),
                rows,
                "Mean saliency in a region ÷ mean saliency of the object (1: no preference)",
            )
        ]
    return Section(title, notes, (slices.saliency(maps, background, fitting),), tables)
