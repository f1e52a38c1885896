"""Mean saliency maps of a run: where a model looks in images of each class and group that it classifies correctly."""

import hashlib
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import pandas as pd

from equipoise.engine import data, rng
from equipoise.engine.errors import UserError
from equipoise.engine.explain import gradients
from equipoise.engine.training.machine import Machine
from equipoise.engine.update.preprocess import make_preprocess
from equipoise.engine.update.state import TrainState
from equipoise.engine.vocabulary import UNKNOWN


def group_maps(
    machine: Machine,
    state: TrainState,
    split: data.Split,
    groups: dict[str, list[int]],
    num_samples: int = 20,
    noise: float = 0.05,
) -> dict[str, np.ndarray]:
    """The mean SmoothGrad map of the true class's logit in every group of images; each map is first scaled to [0, 1].

    Args:
      machine: the run's machine.
      state: the state to explain.
      split: the split that the images are from.
      groups: name -> rows of the split, from :func:`correct_groups`.
      num_samples: noisy copies of each image.
      noise: standard deviation as a fraction of the image's range. A tenth or a fifth, usual for photographs, would hide what
        the model sees in a volume, which is mostly smooth.

    Returns:
      ``mean_NAME`` [*spatial] and ``count_NAME`` of each group, and ``template``, the mean of all their images.
    """
    variables = machine.method.variables(state)
    preprocess, group = make_preprocess(machine.config), machine.group(split)
    stream = rng.key(machine.config.seed, "saliency")

    @jax.jit
    def one_sample(
        variables: Any, images: jax.Array, batch: dict[str, jax.Array], keys: jax.Array
    ) -> jax.Array:
        def logits(x: jax.Array) -> jax.Array:
            return machine.method.predict(machine.model, variables, x, batch)[0]

        return gradients.smooth_grad(logits, images, batch["target"], keys, num_samples=1, noise=noise)

    size = max(map(len, groups.values()))
    maps, template = gradients.GroupMeans(), gradients.GroupMeans()
    for name, rows in groups.items():
        padded = (rows * size)[:size]  # one compiled shape for every group
        batch = data.read(split, padded, machine.config.data, machine.config.task.label, group)
        batch = machine.runner.replicate(batch | {"row": np.array(padded)})
        images = preprocess(batch)["image"]
        keys = rng.example_keys(stream, batch["row"])
        total = 0.0
        for number in range(num_samples):
            drawn = jax.vmap(lambda k, number=number: jax.random.fold_in(k, number))(keys)
            total = total + one_sample(variables, images, batch, drawn)
        maps.add(gradients.normalise(total[: len(rows)]), [name] * len(rows))
        template.add(np.asarray(images)[: len(rows)].mean(-1), ["template"] * len(rows))
    means = {f"mean_{name}": mean.astype(np.float32) for name, mean in maps.means().items()}
    counts = {f"count_{name}": np.int32(count) for name, count in maps.count.items()}
    return means | counts | {"template": template.means()["template"].astype(np.float32)}


@runtime_checkable
class Classifier(Protocol):
    """A task that calls each image one of several classes.

    Attributes:
      classes: their names.
    """

    classes: tuple[str, ...]

    def decide(self, frame: pd.DataFrame) -> np.ndarray:
        """The class index that each row of a stamped prediction table is called."""


def check(task: object) -> None:
    """Raises UserError when a task has no class of an image for a map to explain."""
    if not isinstance(task, Classifier):
        raise UserError(
            "--saliency explains the class of an image, which this task does not predict: leave it out"
        )


def correct_groups(
    frame: pd.DataFrame, task: Classifier, attribute: str, per_group: int, seed: int
) -> dict[str, list[int]]:
    """Rows of correctly classified images, up to ``per_group`` of each class and level, drawn by a hash of the scan.

    Args:
      frame: the stamped prediction table of a split, one row per image in storage order.
      task: the run's task.
      attribute: the attribute whose levels form the groups; an unknown level forms none.
      per_group: how many images of each group, at most.
      seed: the seed of the draw.

    Returns:
      ``CLASS_LEVEL`` -> rows of the table.

    Raises:
      UserError: when no image at all is classified correctly.
    """
    predicted = task.decide(frame)
    draw = frame["scan_id"].map(lambda s: hashlib.sha256(f"{seed}/{s}".encode()).hexdigest())
    ordered = frame.assign(draw=draw)[predicted == frame["target"].to_numpy()].sort_values("draw")
    groups = {}
    for (target, level), rows in ordered.groupby(["target", attribute], sort=True):
        if level != UNKNOWN:
            groups[f"{task.classes[target]}_{level}"] = rows.index[:per_group].tolist()
    if not groups:
        raise UserError("no image is classified correctly: there is nothing to map")
    return groups


def choose_attribute(split: data.Split, wanted: str | None) -> str:
    """The attribute that forms groups: the one that is asked for, or else the first that has levels.

    Raises:
      UserError: when there is none, or it is a number.
    """
    names = [name for name, levels in split.vocabulary("attributes").items() if levels is not None]
    if wanted is None and names:
        return names[0]
    if wanted not in names:
        raise UserError(
            f"cohort {split.cohort!r} has no attribute {wanted!r} with levels; it has: {', '.join(names) or 'none'}"
        )
    return wanted
