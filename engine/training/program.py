"""From a state and a split to the prediction table: every image of the split, exactly once."""

import copy
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from equipoise.engine import data, mesh, models, rng
from equipoise.engine.config import Run, fingerprint, replaced
from equipoise.engine.errors import UserError
from equipoise.engine.explain import gradients as saliency
from equipoise.engine.methods import catalogue as methods
from equipoise.engine.metrics.frames import ranking
from equipoise.engine.training.checkpoint import Checkpoints, Damaged
from equipoise.engine.training.step import (
    TaskKind,
    TrainState,
    init_state,
    make_predict_step,
    make_preprocess,
    make_train_step,
    preprocessed_shape,
)
from equipoise.engine.training.writers import read_rows
from equipoise.engine.update import optim
from equipoise.engine.vocabulary import UNKNOWN


@dataclasses.dataclass
class Program:
    """A configuration made concrete: model, method, optimizer, runner and compiled prediction.

    Attributes:
      config: the run.
      task: made for its cohort.
      training: the split it is trained on, which says what an image and what the groups are.
    """

    config: Run
    task: TaskKind
    training: data.Split

    def __post_init__(self):
        config = self.config
        self.image_shape = preprocessed_shape(config, data.batch_shape(self.training, config.data))
        self.method = methods.make(config, self.training)
        self.runner = mesh.make_runner(config)
        self.model = models.build(
            config.model.name,
            num_outputs=self.task.num_outputs,
            dtype=config.model.dtype,
            axis_name=self.runner.axis_name,
            **config.model.args,
        )
        self.optimizer = optim.make(config.optimizer)
        self._phase = functools.cache(self._compile)
        self.predict_step = self.runner.predict(make_predict_step(config, self.model, self.task, self.method))

    def _init(self, config: Run) -> TrainState:
        return init_state(config, self.model, self.optimizer, self.image_shape, self.method)

    def init(self) -> TrainState:
        """A fresh state on this run's devices."""
        return self.runner.replicate(self._init(self.config))

    def abstract(self) -> TrainState:
        """Shapes and shardings of the state, without computing it, or reading the weights that it started from."""
        bare = replaced(self.config, **{"model.weights": ""})
        return self.runner.abstract(jax.eval_shape(lambda: self._init(bare)))

    @functools.cached_property
    def batches(self) -> data.TrainBatches:
        """This run's training batches, in the method's order."""
        return data.TrainBatches(
            self.training, self.config.data, self.config.task.label, self.config.seed,
            order=self.method.order(), group=self.method.code,
        )  # fmt: skip

    def eval_batches(self, split: data.Split) -> Iterator[dict[str, np.ndarray]]:
        """Every image of a split once, with its group where the method asks for it."""
        return data.eval_batches(
            split, self.config.data, self.config.task.label, self.runner.num_devices, group=self._group(split)
        )

    def train_step(self, step: int) -> Callable:
        """The compiled update ``step``: (state, batch) -> (state, metrics)."""
        return self._phase(self.method.phase(step))

    def _compile(self, phase: str) -> Callable:
        step = make_train_step(
            self.config, self.model, self.task, self.optimizer, self.runner.axis_name, self.method, phase
        )
        return self.runner.train(step)

    def _group(self, split: data.Split) -> Int[np.ndarray, " n"] | None:
        return self.method.groups.code(split) if self.method.is_by_group else None

    @property
    def members(self) -> list[Run]:
        """The runs that the machine trains: this one. A population has more (:mod:`equipoise.engine.training.population`)."""
        return [self.config]

    def split(self, state: TrainState) -> list[TrainState]:
        """Every member's state."""
        return [state]

    def join(self, states: list[TrainState]) -> TrainState:
        """The inverse of :meth:`split`."""
        return states[0]

    def rows(self, metrics: dict[str, np.ndarray]) -> list[dict[str, float]]:
        """Every member's metrics of one update."""
        return [{name: float(v) for name, v in metrics.items()}]

    def predict_members(self, state: TrainState, split: data.Split) -> list[tuple[pd.DataFrame, float]]:
        """:meth:`predict` for every member."""
        return [self.predict(state, split)]

    def as_member(self, config: Run) -> "Program":
        """The same machine for a run that differs in numbers alone; what is compiled for prediction is shared."""
        other = copy.copy(self)
        other.config = config
        return other

    def predict(
        self, state: TrainState, split: data.Split, progress: Callable[[int, int], None] | None = None
    ) -> tuple[pd.DataFrame, float]:
        """Scores a split.

        Args:
          state: to score with.
          split: of a prepared cohort; its images must fit the model.
          progress: called with (images done, images in all).

        Returns:
          The table (ids, split, target, the task's columns, attributes; one row per image in storage order) and the mean loss.

        Raises:
          RuntimeError: should any image be missing or scored twice.
        """
        variables = self.method.variables(state)
        (table,), loss = self.score(variables, split, self.predict_step, self.runner.shard, progress)
        return table, float(loss.mean())

    def score(
        self,
        variables: Any,
        split: data.Split,
        predict: Callable,
        place: Callable,
        progress: Callable[[int, int], None] | None = None,
        num_members: int | None = None,
    ) -> tuple[list[pd.DataFrame], Float[np.ndarray, "n *members"]]:
        """The prediction tables of a split, and the losses of its images.

        Args:
          variables: that ``predict`` takes.
          split: of a prepared cohort.
          predict: compiled prediction step.
          place: puts a batch on the devices.
          progress: called with (images done, images in all).
          num_members: of a population, whose predictions are [b, member, ...]; None: there are no members.

        Returns:
          (a table for each member, losses in the order of its rows).

        Raises:
          RuntimeError: should any image be missing or scored twice.
        """
        rows: list[np.ndarray] = []
        losses: list[np.ndarray] = []
        found: list[list[pd.DataFrame]] = []
        # Two batches ahead on the devices, while the host looks at what they have predicted.
        for out in mesh.prefetch(self.eval_batches(split), lambda batch: predict(variables, place(batch))):
            host = jax.device_get(out)
            real = host["index"] >= 0
            host = {name: values[real] for name, values in host.items()}
            rows.append(host.pop("index"))
            losses.append(host.pop("loss"))
            each = [host] if num_members is None else [
                {name: values[:, i] for name, values in host.items()} for i in range(num_members)
            ]  # fmt: skip
            found.append([self.task.columns(scores) for scores in each])
            if progress:
                progress(sum(map(len, rows)), len(split))
        order = np.concatenate(rows)
        if not np.array_equal(np.sort(order), np.arange(len(split))):
            raise RuntimeError(f"{len(order)} rows for {len(split)} images of {split.cohort}/{split.name}")
        tables = [self._table(split, order, pd.concat(parts)) for parts in zip(*found, strict=True)]
        return tables, np.concatenate(losses)

    def _table(self, split: data.Split, order: Int[np.ndarray, " n"], scores: pd.DataFrame) -> pd.DataFrame:
        columns = split.columns.iloc[order].reset_index(drop=True)
        head = columns[["scan_id", "subject_id"]].assign(cohort=split.cohort, split=split.name)
        if self.config.task.label != data.MASK:
            head["target"] = columns[f"label:{self.config.task.label}"]
        attributes = columns[[c for c in columns if c in split.vocabulary("attributes")]]
        return pd.concat([head, scores.reset_index(drop=True), attributes], axis=1)

    def saliency(
        self,
        state: TrainState,
        split: data.Split,
        groups: dict[str, list[int]],
        num_samples: int = 20,
        noise: float = 0.05,
    ) -> dict[str, np.ndarray]:
        """Mean SmoothGrad map of the true class's logit in every group of images, each map scaled to [0, 1] first.

        Args:
          state: to explain.
          split: that the images are from.
          groups: name -> rows of the split, as from :func:`correct_groups`.
          num_samples: noisy copies of each image.
          noise: standard deviation as a fraction of the image's range. Volumes are mostly smooth, so that the tenth or
            fifth usual for photographs drowns what the model sees.

        Returns:
          ``mean_NAME`` [*spatial] and ``count_NAME`` of each group, and ``template``, the mean of all their images.
        """
        variables = self.method.variables(state)
        preprocess, group = make_preprocess(self.config), self._group(split)
        stream = rng.key(self.config.seed, "saliency")

        @jax.jit
        def one_sample(
            variables: Any, images: jax.Array, batch: dict[str, jax.Array], keys: jax.Array
        ) -> jax.Array:
            def logits(x: jax.Array) -> jax.Array:
                return self.method.predict(self.model, variables, x, batch)[0]

            return saliency.smooth_grad(logits, images, batch["target"], keys, num_samples=1, noise=noise)

        size = max(map(len, groups.values()))
        maps, template = saliency.GroupMeans(), saliency.GroupMeans()
        for name, rows in groups.items():
            padded = (rows * size)[:size]  # one compiled shape for every group
            batch = data.read(split, padded, self.config.data, self.config.task.label, group)
            batch = self.runner.replicate(batch | {"row": np.array(padded)})
            images = preprocess(batch)["image"]
            keys = rng.example_keys(stream, batch["row"])
            total = 0.0
            for number in range(num_samples):
                drawn = jax.vmap(lambda k, number=number: jax.random.fold_in(k, number))(keys)
                total = total + one_sample(variables, images, batch, drawn)
            maps.add(saliency.normalise(total[: len(rows)]), [name] * len(rows))
            template.add(np.asarray(images)[: len(rows)].mean(-1), ["template"] * len(rows))
        means = {f"mean_{k}": v.astype(np.float32) for k, v in maps.means().items()}
        counts = {f"count_{k}": np.int32(n) for k, n in maps.count.items()}
        return means | counts | {"template": template.means()["template"].astype(np.float32)}


def correct_groups(
    frame: pd.DataFrame, task: TaskKind, attribute: str, per_group: int, seed: int
) -> dict[str, list[int]]:
    """Rows of correctly classified images, up to ``per_group`` of each class and level, drawn by a hash of the scan.

    Args:
      frame: stamped predictions, one row per image of the split in storage order.
      task: of the run.
      attribute: whose levels form the groups; ``unknown`` forms none.
      per_group: images of each.
      seed: of the draw.

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
    """The attribute that forms groups: the one asked for, else the first that has levels.

    Raises:
      UserError: when there is none, or it is a number.
    """
    words = [k for k, levels in split.vocabulary("attributes").items() if levels is not None]
    if wanted is None and words:
        return words[0]
    if wanted not in words:
        raise UserError(
            f"cohort {split.cohort!r} has no attribute {wanted!r} with levels; it has: {', '.join(words) or 'none'}"
        )
    return wanted


def stamp(
    frame: pd.DataFrame, config: Run, step: int, threshold: float, threshold_split: str
) -> pd.DataFrame:
    """Adds where the numbers come from: threshold and the split it was chosen on, checkpoint, fingerprints."""
    mark = fingerprint(config)
    where = 1 + max(
        i for i, c in enumerate(frame.columns) if c in ("split", "target") or c.startswith("score")
    )
    stamped = frame.copy()
    provenance = {
        "threshold": threshold,
        "threshold_split": threshold_split,
        "checkpoint_step": step,
        "checkpoint_fingerprint": f"{mark}-{step}",
        "config_fingerprint": mark,
    }
    for offset, (name, value) in enumerate(provenance.items()):
        stamped.insert(where + offset, name, value)
    return stamped


def table_path(workdir: pathlib.Path, cohort: str, split: str, step: int) -> pathlib.Path:
    """Where ``equipoise.launch.evaluate`` keeps the predictions of one checkpoint on one split."""
    return workdir / "evaluations" / cohort.replace("/", "--") / split / f"{step:08d}.parquet"


def saliency_path(workdir: pathlib.Path, cohort: str, step: int) -> pathlib.Path:
    """Where ``equipoise.launch.evaluate --saliency`` keeps mean maps."""
    return workdir / "saliency" / cohort.replace("/", "--") / f"{step:08d}.npz"


def validation_path(workdir: pathlib.Path, step: int) -> pathlib.Path:
    """Where training keeps the validation predictions of one evaluation."""
    return workdir / "validation" / f"{step:08d}.parquet"


def best_step(workdir: pathlib.Path, config: Run, available: list[int]) -> int:
    """The available checkpoint with the best validation metric; the earliest of equals.

    A checkpoint from before the method was in force is never the best.

    Raises:
      UserError: when none of them was evaluated.
    """
    metric = config.checkpoint.best_metric
    sign = 1 if ranking.higher_is_better(metric) else -1
    rows = [
        r
        for r in read_rows(workdir / "metrics.jsonl")
        if r["split"] == "validation"
        and r["step"] in available
        and r["step"] > config.method.starts_after
        and r.get(metric) is not None
    ]
    if not rows:
        raise UserError(
            f"no checkpoint in {workdir} has a validation {metric}: choose one with --step=last or --step=N"
        )
    return max(rows, key=lambda r: (sign * r[metric], -r["step"]))["step"]


def choose_steps(workdir: pathlib.Path, config: Run, wanted: str) -> list[int]:
    """Resolves ``best``, ``last``, ``all`` or a number to steps that have checkpoints.

    Raises:
      UserError: when there is none, with those that there are.
    """
    checkpoints = Checkpoints(workdir, read_only=True) if (workdir / "checkpoints").is_dir() else None
    available = checkpoints.steps() if checkpoints else []
    if not available:
        raise UserError(f"{workdir} has no checkpoint yet: train it first with `equipoise train`")
    if wanted == "best":
        return [best_step(workdir, config, available)]
    if wanted == "last":
        return [available[-1]]
    if wanted == "all":
        return available
    if wanted.isdigit() and int(wanted) in available:
        return [int(wanted)]
    raise UserError(f"--step={wanted}: give best, last, all or one of {', '.join(map(str, available))}")


def restore(program: Program, workdir: pathlib.Path, step: int) -> TrainState:
    """Restores one checkpoint for evaluation.

    Raises:
      UserError: when it is damaged.
    """
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        return checkpoints.restore(program.abstract(), step)[0]
    except Damaged as error:
        raise UserError(f"checkpoint {error}. Choose another with --step, e.g. --step=last.") from error
    finally:
        checkpoints.close()
