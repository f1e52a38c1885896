"""Saliency over anatomy: slices of the mean image with a map over it and the outlines of regions."""

from collections.abc import Mapping, Sequence

import matplotlib.lines
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure as Canvas

from equipoise.engine.report.figures import style as figures
from equipoise.engine.report.page.page import Figure

# Arrays run to the right, to the front and up: (axis that is cut, name, letters at the panel's left and right ends).
_PLANES = ((2, "axial", "L", "R"), (1, "coronal", "L", "R"), (0, "sagittal", "P", "A"))
_OUTLINES = (
    ("#56D4FF", "solid"),
    ("#3DF25A", (0, (2.5, 1.2))),
    ("#FFFFFF", "dotted"),
    ("#CC79A7", "dashdot"),
)  # colour, line
_PANEL = 1.55  # inches


def _cut(volume: np.ndarray, axis: int | None, place: int) -> np.ndarray:
    """A slice with the first remaining axis to the right and the second upwards; a picture stays as it is."""
    return volume if axis is None else np.take(volume, place, axis).T


def _place(axis: int, masks: Sequence[np.ndarray]) -> int:
    """The slice that shows every region best: the smallest share of a region in it is largest; else the centre of the first region."""
    others = tuple(i for i in range(3) if i != axis)
    areas = np.stack([m.sum(axis=others) / max(m.sum(axis=others).max(), 1) for m in masks])
    shared = areas.min(axis=0)
    return int(shared.argmax()) if shared.max() > 0 else round(float(np.argwhere(masks[0])[:, axis].mean()))


def _planes(
    shape: tuple[int, ...], masks: Sequence[np.ndarray]
) -> list[tuple[int | None, int, str, str, str]]:
    """The panels as (axis, place, title, left, right); a picture has one panel."""
    if len(shape) == 2:
        return [(None, 0, "", "", "")]
    return [(axis, _place(axis, masks), title, left, right) for axis, title, left, right in _PLANES]


def density(
    maps: Mapping[str, np.ndarray], regions: Mapping[str, np.ndarray], inside: Bool[np.ndarray, "*spatial"]
) -> dict[str, dict[str, float]]:
    """Computes mean saliency within each region ÷ mean saliency of the whole object, by group; 1 is no preference.

    Args:
      maps: group -> map.
      regions: name -> mask.
      inside: mask of the object, such as the brain.

    Returns:
      group -> region -> ratio; NaN for an empty region or a map of zeros.
    """
    ratios: dict[str, dict[str, float]] = {}
    for group, values in maps.items():
        base = float(values[inside].mean()) if inside.any() else 0.0
        ratios[group] = {
            k: float(values[m].mean()) / base if m.any() and base > 0 else float("nan")
            for k, m in regions.items()
        }
    return ratios


def saliency(
    maps: Mapping[str, Float[np.ndarray, "*spatial"]],
    background: Float[np.ndarray, "*spatial"],
    regions: Mapping[str, Bool[np.ndarray, "*spatial"]],
) -> Figure:
    """Draws the mean map of each group over the mean image: the axial, coronal and sagittal slices that show the regions best.

    Args:
      maps: group -> map, all on one colour scale.
      background: mean image.
      regions: name -> mask, whose outline is drawn.
    """
    masks = [m for m in regions.values() if m.any()] or [background > background.mean()]
    planes = _planes(background.shape, masks)
    top = max(float(np.quantile(m, 0.999)) for m in maps.values()) or 1.0
    grey = (float(background.min()), float(np.quantile(background, 0.998)))
    with figures.style():
        rows, columns = len(maps), len(planes)
        width = max(_PANEL * columns + 0.75, 3.6)
        canvas = Canvas(figsize=(width, _PANEL * rows + 0.95), layout="constrained")
        panels = canvas.subplots(rows, columns, squeeze=False)
        heat = None
        for line, (group, values) in zip(panels, maps.items(), strict=True):
            for axes, (axis, place, title, left, right) in zip(line, planes, strict=True):
                origin = "upper" if axis is None else "lower"
                shade = _cut(values, axis, place)
                axes.imshow(
                    _cut(background, axis, place),
                    cmap="gray",
                    vmin=grey[0],
                    vmax=grey[1] or 1,
                    origin=origin,
                    interpolation="bilinear",
                )
                opacity = np.clip((shade / top - 0.15) / 0.5, 0, 0.85)
                heat = axes.imshow(
                    shade,
                    cmap="inferno",
                    vmin=0,
                    vmax=top,
                    alpha=opacity,
                    origin=origin,
                    interpolation="nearest",
                )
                for (colour, line_style), mask in zip(_OUTLINES, regions.values(), strict=False):
                    outline = _cut(mask, axis, place).astype(float)
                    if 0 < outline.sum() < outline.size:
                        axes.contour(np.kron(outline, np.ones((4, 4))), [0.5], colors=colour, linestyles=[line_style], linewidths=1.3,
                                     extent=(-0.5, shade.shape[1] - 0.5, *((shade.shape[0] - 0.5, -0.5) if origin == "upper" else (-0.5, shade.shape[0] - 0.5))))  # fmt: skip
                axes.set(xticks=[], yticks=[])
                for side in axes.spines.values():
                    side.set_visible(False)
                if line is panels[0]:
                    axes.set_title(title)
                for x, letter in ((0.03, left), (0.97, right)):
                    axes.text(
                        x,
                        0.03,
                        letter,
                        transform=axes.transAxes,
                        color="white",
                        fontsize=8,
                        ha="left" if x < 0.5 else "right",
                    )
            line[0].set_ylabel(group.replace(", ", ",\n"), fontsize=9)
        bar = canvas.colorbar(heat, ax=panels, shrink=0.7, aspect=30, pad=0.02)
        bar.set_label("mean saliency (0 to 1 within an image)", fontsize=9)
        bar.ax.tick_params(labelsize=8)
        handles = [
            matplotlib.lines.Line2D([], [], color=c, lw=2.5, ls=style, label=k)
            for (c, style), k in zip(_OUTLINES, regions, strict=False)
        ]
        if handles:
            legend = canvas.legend(
                handles=handles,
                loc="outside lower center",
                ncols=len(handles),
                frameon=True,
                facecolor="#3a3a3a",
                edgecolor="none",
            )
            for text in legend.get_texts():
                text.set_color("white")
        where = " The slices are those that show the outlined regions best." if regions else ""
        return figures.finish(
            canvas, "saliency", f"Mean saliency maps of {', '.join(maps)} over the mean image.",
            f"Where the decision is sensitive to the image: the mean SmoothGrad map of each group over the mean image, on one colour scale.{where}",
            pixels=True,
        )  # fmt: skip
