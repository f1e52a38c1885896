"""From a state and a split to the prediction table: every image of the split, exactly once."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd

from engine import data, mesh, models, optim, rng, saliency
from engine.checkpoint import Checkpoints, Damaged
from engine.config import Run, UserError, fingerprint
from engine.metrics import frame as metric_frame
from engine.metrics.table import UNKNOWN, Schema
from engine.step import TaskKind, TrainState, init_state, make_predict_step, make_preprocess
from engine.writers import read_rows


@dataclasses.dataclass
class Program:
    """A configuration made concrete: model, optimizer, runner and compiled prediction."""

    config: Run
    task: TaskKind
    image_shape: tuple[int, ...]

    def __post_init__(self):
        config = self.config
        self.runner = mesh.make_runner(config)
        self.model = models.build(
            config.model.name,
            num_outputs=self.task.num_outputs,
            dtype=config.model.dtype,
            axis_name=self.runner.axis_name,
            **config.model.args,
        )
        self.optimizer = optim.make(config.optimizer)
        self._predict = self.runner.predict(make_predict_step(config, self.model, self.task))

    def init(self) -> TrainState:
        """A fresh state on this run's devices."""
        return self.runner.replicate(init_state(self.config, self.model, self.optimizer, self.image_shape))

    def abstract(self) -> TrainState:
        """Shapes and shardings of the state, without computing it."""
        shapes = jax.eval_shape(lambda: init_state(self.config, self.model, self.optimizer, self.image_shape))
        return self.runner.abstract(shapes)

    def predict(
        self, state: TrainState, split: data.Split, progress: Callable[[int, int], None] | None = None
    ) -> tuple[pd.DataFrame, float]:
        """Scores a split.

        Args:
          state: to score with.
          split: of a prepared cohort; its images must fit the model.
          progress: called with (images done, images in all).

        Returns:
          The table (ids, split, target, scores, attributes; one row per image in storage order) and the mean loss.

        Raises:
          RuntimeError: should any image be missing or scored twice.
        """
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        batches = data.eval_batches(split, self.config.data, self.config.task.label, self.runner.num_devices)

        rows: list[np.ndarray] = []
        scores: list[np.ndarray] = []
        losses: list[np.ndarray] = []
        for batch in mesh.prefetch(batches, self.runner.shard):
            out = jax.device_get(self._predict(variables, batch))
            real = out["index"] >= 0
            rows.append(out["index"][real])
            scores.append(out["score"][real])
            losses.append(out["loss"][real])
            if progress:
                progress(sum(map(len, rows)), len(split))
        order = np.concatenate(rows)
        if not np.array_equal(np.sort(order), np.arange(len(split))):
            raise RuntimeError(f"{len(order)} rows for {len(split)} images of {split.cohort}/{split.name}")
        columns = split.columns.iloc[order].reset_index(drop=True)
        score = np.concatenate(scores).astype(np.float64)
        target = columns[f"label:{self.config.task.label}"]
        head = columns[["scan_id", "subject_id"]].assign(cohort=split.cohort, split=split.name, target=target)
        for name, values in zip(self.task.score_columns, score.reshape(len(score), -1).T, strict=True):
            head[name] = values
        attributes = columns[[c for c in columns if c in split.vocabulary("attributes")]]
        return pd.concat([head, attributes], axis=1), float(np.concatenate(losses).mean())

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
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        preprocess = make_preprocess(self.config)
        stream = rng.key(self.config.seed, "saliency")

        @jax.jit
        def one_sample(variables: Any, images: jax.Array, targets: jax.Array, keys: jax.Array) -> jax.Array:
            def logits(x: jax.Array) -> jax.Array:
                return self.model.apply(variables, x, train=False)[0]

            return saliency.smooth_grad(logits, images, targets, keys, num_samples=1, noise=noise)

        size = max(map(len, groups.values()))
        maps, template = saliency.GroupMeans(), saliency.GroupMeans()
        for name, rows in groups.items():
            padded = (rows * size)[:size]  # one compiled shape for every group
            batch = data.read(split, padded, self.config.data, self.config.task.label)
            batch = self.runner.replicate(batch | {"row": np.array(padded)})
            images = preprocess(batch)
            keys = rng.example_keys(stream, batch["row"])
            total = 0.0
            for number in range(num_samples):
                drawn = jax.vmap(lambda k, number=number: jax.random.fold_in(k, number))(keys)
                total = total + one_sample(variables, images, batch["target"], drawn)
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


def schema(config: Run, task: TaskKind, split: data.Split) -> Schema:
    """What a reader must know of a table's columns."""
    return Schema(
        task=config.task.kind,
        label=config.task.label,
        classes=tuple(task.classes),
        positive=task.positive,
        attributes=split.vocabulary("attributes"),
        scores=tuple(task.score_columns),
    )


def stamp(
    frame: pd.DataFrame, config: Run, step: int, threshold: float, threshold_split: str
) -> pd.DataFrame:
    """Adds where the numbers come from: threshold and the split it was chosen on, checkpoint, fingerprints."""
    mark = fingerprint(config)
    where = list(frame.columns).index("target") + 1 + sum(c.startswith("score") for c in frame.columns)
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
    """Where ``launch.evaluate`` keeps the predictions of one checkpoint on one split."""
    return workdir / "evaluations" / cohort.replace("/", "--") / split / f"{step:08d}.parquet"


def saliency_path(workdir: pathlib.Path, cohort: str, step: int) -> pathlib.Path:
    """Where ``launch.evaluate --saliency`` keeps mean maps."""
    return workdir / "saliency" / cohort.replace("/", "--") / f"{step:08d}.npz"


def validation_path(workdir: pathlib.Path, step: int) -> pathlib.Path:
    """Where training keeps the validation predictions of one evaluation."""
    return workdir / "validation" / f"{step:08d}.parquet"


def best_step(workdir: pathlib.Path, config: Run, available: list[int]) -> int:
    """The available checkpoint with the best validation metric; the earliest of equals.

    Raises:
      UserError: when none of them was evaluated.
    """
    metric = config.checkpoint.best_metric
    sign = 1 if metric_frame.higher_is_better(metric) else -1
    rows = [
        r
        for r in read_rows(workdir / "metrics.jsonl")
        if r["split"] == "validation" and r["step"] in available and r.get(metric) is not None
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
