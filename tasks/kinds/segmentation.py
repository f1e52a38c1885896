"""Segmentation: one of several exclusive classes per pixel, by cross-entropy and soft Dice; images are scored by structure.

A model's logits [b, *spatial, classes] may lie on a coarser grid than the image. The loss is taken there, with the mask
brought to it, or on the image's grid; predictions are always the largest logit on the image's grid, to which logits are
interpolated. The image's grid is that after ``data.shape`` and ``data.preprocess``.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Integer

from equipoise.engine import config as run_config
from equipoise.engine import cropping, data
from equipoise.engine import predicted_masks as segments
from equipoise.engine.config import Data, Run
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.formulas import segmentation
from equipoise.engine.metrics.formulas.segmentation import Ratio
from equipoise.engine.metrics.frame import evaluate as metric_frame
from equipoise.engine.metrics.table.table import Schema
from equipoise.engine.transforms import spatial
from equipoise.engine.update import losses

VALUES = ("dice", "iou", "hd95", "hd95_penalised", "assd", "nsd", "volume_error")  # of each structure


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The masks of a cohort as a task.

    Attributes:
      classes: names of the mask's codes, the background first.
      structures: name -> codes whose union is scored.
      ratios: name -> what is measured of two structures.
      settings: the run's settings of loss and surfaces.
      dice: Dice of a batch, from the sums of every group and, last, of images of unknown group; None: groups do not matter.
      num_groups: how many groups training has, where they matter.
    """

    classes: tuple[str, ...]
    structures: Mapping[str, tuple[int, ...]]
    ratios: Mapping[str, Ratio]
    settings: run_config.Task
    dice: Callable[[Float[Array, "slots k 3"]], Float[Array, ""]] | None = None
    num_groups: int = 0

    @property
    def num_outputs(self) -> int:
        """One logit per class."""
        return len(self.classes)

    @property
    def needs_batch_sums(self) -> bool:
        """Whether Dice is that of the whole batch, not of each image."""
        return self.dice is not None or (self.settings.dice_over == "batch" and self.settings.dice_weight > 0)

    def _sums(
        self, logits: Float[Array, "b *grid k"], labels: Integer[Array, "b *grid"], batch: dict[str, Array]
    ) -> Array:
        """The sums of which Dice is made, [b, k, 3]; with groups [b, slots, k, 3], zero except in the image's own slot."""
        sums = losses.dice_sums(jax.nn.softmax(logits), labels)
        if self.dice is None:
            return sums
        slot = jnp.where(batch["group"] < 0, self.num_groups, batch["group"])
        return jax.nn.one_hot(slot, self.num_groups + 1, dtype=sums.dtype)[:, :, None, None] * sums[:, None]

    def _on_loss_grid(
        self, output: Float[Array, "b *spatial k"], mask: Integer[Array, "b *image"]
    ) -> tuple[Float[Array, "b *grid k"], Integer[Array, "b *grid"]]:
        if output.ndim != mask.ndim + 1 or output.shape[-1] != len(self.classes):
            raise UserError(
                f"the network gives {output.shape[1:]} for masks of {mask.shape[1:]} and {len(self.classes)} classes: "
                "segmentation wants logits [*spatial, classes]; choose another --config.model.name"
            )
        output = output.astype(jnp.promote_types(output.dtype, jnp.float32))
        if self.settings.loss_grid == "image":
            return _on_grid(output, mask.shape[1:]), mask.astype(jnp.int32)
        return output, spatial.nearest_by_corners(mask, output.shape[1:-1]).astype(jnp.int32)

    def batch_sums(self, output: Float[Array, "b *spatial k"], batch: dict[str, Array]) -> dict[str, Array]:
        """The sums of which Dice of a batch is made; nothing where Dice is that of each image."""
        if not self.needs_batch_sums:
            return {}
        logits, labels = self._on_loss_grid(output, batch["mask"])
        sums = self._sums(logits, labels, batch)
        weight = batch["weight"].astype(sums.dtype)
        return {"sums": jnp.tensordot(weight, sums, 1), "count": weight.sum()}

    def loss(
        self, output: Float[Array, "b *spatial k"], batch: dict[str, Array], sums: Any = None
    ) -> Float[Array, " b"]:
        """``(1 - w)`` mean cross-entropy + ``w`` soft Dice of each example; in evaluation Dice is of each image."""
        logits, labels = self._on_loss_grid(output, batch["mask"])
        crossed = losses.softmax_cross_entropy(logits, labels)
        if sums:
            of_images, function = self._sums(logits, labels, batch), self.dice or losses.squared_dice
            dice = losses.contributions(function, of_images, sums["sums"], sums["count"])
        else:
            dice = losses.squared_dice(losses.dice_sums(jax.nn.softmax(logits), labels))
        weight = self.settings.dice_weight
        return (1 - weight) * crossed.mean(tuple(range(1, crossed.ndim))) + weight * dice

    def scores(self, output: Float[Array, "b *spatial k"], batch: dict[str, Array]) -> dict[str, Array]:
        """``codes``: the predicted mask on the image's grid; the reference and its spacing travel with it."""
        logits = _on_grid(
            output.astype(jnp.promote_types(output.dtype, jnp.float32)), batch["mask"].shape[1:]
        )
        return {
            "codes": logits.argmax(-1).astype(jnp.uint8),
            "mask": batch["mask"],
            "spacing": batch["spacing"],
        }

    def columns(self, scores: dict[str, np.ndarray]) -> pd.DataFrame:
        """Every value of every structure, ratios, and the predicted mask as text; images in threads."""
        with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            rows = list(pool.map(self._case, scores["codes"], scores["mask"], scores["spacing"]))
        return pd.DataFrame(rows, columns=[*self._columns(), segments.COLUMN])

    def _case(
        self,
        codes: Integer[np.ndarray, "*spatial"],
        mask: Integer[np.ndarray, "*spatial"],
        spacing: Float[np.ndarray, " d"],
    ) -> dict[str, Any]:
        found = segmentation.evaluate_case(codes, mask, spacing, self.structures, self.settings.tolerance)
        row: dict[str, Any] = {
            f"{v}_{structure}": values[v] for structure, values in found.items() for v in VALUES
        }
        for name, ratio in self.ratios.items():
            row |= segmentation.evaluate_ratio(name, ratio, codes, mask, self.structures)
        return row | {segments.COLUMN: segments.encode(codes)}

    def _columns(self) -> list[str]:
        values = [f"{value}_{structure}" for structure in self.structures for value in VALUES]
        return [*values, *(c for name in self.ratios for c in segmentation.ratio_columns(name))]

    def _described(self, attributes: Mapping[str, list[str] | None]) -> Schema:
        scored = tuple(c for c in self._columns() if segmentation.is_value(c))
        return Schema(
            task="values", label="segmentation", classes=(), positive=None, attributes=attributes, scores=scored,
            models={column: (column,) for column in scored},
        )  # fmt: skip

    def target(self, split: data.Split) -> None:
        """None: a mask is no column; the values of its structures are."""
        return None

    def warn(self, split: data.Split, settings: Data) -> None:
        """Says in how many images a centre crop cuts foreground away."""
        cropping.warn_of_cut(split, settings)

    def schema(self, split: data.Split) -> Schema:
        """A task of values: each column is one value of one structure."""
        return self._described(split.vocabulary("attributes"))

    def choose_threshold(self, rule: str, validation: pd.DataFrame) -> tuple[float, str]:
        """None: the largest logit decides."""
        return float("nan"), "argmax"

    def metrics(self, frame: pd.DataFrame) -> dict[str, float]:
        """Mean Dice, of every structure and of all."""
        names = ("dice", *(f"dice_{structure}" for structure in self.structures))
        return {name: metric_frame.select_value(frame, name, self._described({}))[0] for name in names}


def _on_grid(output: Float[Array, "b *old k"], shape: tuple[int, ...]) -> Float[Array, "b *new k"]:
    """Linear between pixel centres, as ``align_corners=False``."""
    return jax.image.resize(output, (output.shape[0], *shape, output.shape[-1]), "linear", antialias=False)


def make(config: Run, split: data.Split) -> Segmentation:
    """The task that a configuration asks of a cohort with masks.

    Raises:
      UserError: for a cohort without masks, structures or ratios that name what is not there, or a metric for checkpoints
        that masks do not have.
    """
    label, metadata = config.task.label, split.metadata
    if label != data.MASK:
        raise UserError(f"--config.task.label={label!r}: the target of segmentation is {data.MASK!r}")
    data.check_label(split, label)
    classes = tuple(metadata.get("mask_classes", ()))
    if len(classes) < 2:
        raise UserError(
            f"cohort {split.cohort!r} does not say what the codes of its masks are: its builder's schema wants "
            'metadata["mask_classes"], a name for every code, the background first'
        )
    known = functools.partial(_place, split.cohort)
    structures = metadata.get("structures") or {name: [name] for name in classes[1:]}
    codes = {
        name: tuple(known("structure", name, part, classes) for part in parts)
        for name, parts in structures.items()
    }
    ratios = {name: Ratio(**entry) for name, entry in metadata.get("ratios", {}).items()}
    for name, ratio in ratios.items():
        for part in (ratio.of, ratio.to):
            known("ratio", name, part, list(codes))
    task = Segmentation(classes, codes, ratios, config.task)
    best = config.checkpoint.best_metric
    metric = best.removeprefix("worst_group:").partition(":")[0]
    if best != "loss" and metric not in (*VALUES, *task.schema(split).scores):
        raise UserError(
            f"--config.checkpoint.best_metric={best}: masks have no {metric!r}.{did_you_mean(metric, VALUES)} Choose e.g. "
            f"dice, dice_{next(iter(codes))}, worst_group:dice:ATTRIBUTE or loss"
        )
    return task


def _place(cohort: str, kind: str, name: str, part: str, known: Sequence[str]) -> int:
    """Where a part of a structure or ratio stands among those that there are."""
    if part not in known:
        raise UserError(
            f"cohort {cohort!r}: {kind} {name!r} is made of {part!r}, which is none of {', '.join(known)}."
            f"{did_you_mean(part, known)}"
        )
    return list(known).index(part)
