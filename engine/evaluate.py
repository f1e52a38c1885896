"""Scoring cohorts with the checkpoints of a run: one prediction table for each, with one row per image."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from equipoise.engine import data, files, hosts, predicted_masks
from equipoise.engine.errors import UserError
from equipoise.engine.explain import saliency
from equipoise.engine.metrics.table.table import read_table, write_table
from equipoise.engine.provenance import stamp
from equipoise.engine.rundir import RunFolder
from equipoise.engine.training.opening import MakeTask, OpenCheckpoint, OpenRun, open_run
from equipoise.engine.update.state import TrainState


@dataclasses.dataclass(frozen=True)
class SaliencyMaps:
    """Which mean saliency maps are made beside a table.

    Attributes:
      attribute: whose levels form the groups; None: the first that the cohort has.
      images: of each class and group, correctly classified.
      noise: standard deviation of SmoothGrad's noise, as a fraction of an image's range.
    """

    attribute: str | None = None
    images: int = 10
    noise: float = 0.05


@dataclasses.dataclass(frozen=True)
class Scored:
    """One split, scored by one checkpoint.

    Attributes:
      workdir: the run's folder; of a population, the member's.
      step: of the checkpoint.
      cohort: that was scored.
      split: of the cohort.
      num_images: rows of the table.
      metrics: name -> value over all images; the loss first.
      path: the table.
      maps: the mean saliency maps; None where none were asked for.
    """

    workdir: pathlib.Path
    step: int
    cohort: str
    split: str
    num_images: int
    metrics: Mapping[str, float]
    path: pathlib.Path
    maps: pathlib.Path | None = None


def score_run(
    workdir: pathlib.Path | str,
    make_task: MakeTask,
    data_dir: pathlib.Path | str,
    *,
    cohorts: Sequence[str] = (),
    split: str = "test",
    step: str = "best",
    variant: str = "",
    before: str = "",
    maps: SaliencyMaps | None = None,
    num_devices: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    scored: Callable[[Scored], None] | None = None,
) -> list[Scored]:
    """Scores splits of cohorts with checkpoints of a run, and writes a table for each.

    ::

      score_run("runs/near", equipoise.tasks.make_task, "cohorts", cohorts=["simba/far_4mm"], step="last")

    Args:
      workdir: the run's folder. A population is scored member by member.
      make_task: makes the task from the configuration and the training split.
      data_dir: where cohorts are prepared.
      cohorts: names; by default the cohort that the run was trained on.
      split: of each cohort.
      step: ``best``, ``last``, ``all`` or a number.
      variant: a name for another way to score the same images; its tables stand beside the plain ones.
      before: of a variant, the operations that change images before the run's own preprocessing, such as ``noise(sd=0.1)``.
      maps: the mean saliency maps to make; None: none.
      num_devices: to use; 0: every one.
      progress: called with (what is scored, images done, images in all).
      scored: called with each table once it is written.

    Returns:
      What was scored, checkpoint by checkpoint and cohort by cohort.

    Raises:
      UserError: where the run, a checkpoint or a cohort is not there or does not fit, or for a variant without a change.
    """
    workdir, data_dir = pathlib.Path(workdir), pathlib.Path(data_dir)
    if bool(variant) != bool(before):
        raise UserError(
            f"variant={variant!r} with before={before!r}: a variant has a name and operations that change the images; "
            "the plain table has neither"
        )
    if variant and maps:
        raise UserError(f"variant={variant!r}: saliency maps are made of the images as they are")
    run = open_run(workdir, make_task, data_dir, step, num_devices=num_devices, before=before)
    named = cohorts or [run.config.data.cohort]
    splits = [data.open_split(cohort, split, data_dir) for cohort in named]
    if maps:
        saliency.check(run.task)
    for opened in splits:
        data.check_classes(opened, run.config.task.label, run.task.classes)
        run.task.warn(opened, run.config.data)
    results = []
    for checkpoint in run.checkpoints:
        state = checkpoint.restore()
        validation = _validation(run, checkpoint, state, data_dir)
        threshold, chosen_on = run.task.choose_threshold(checkpoint.machine.config.task.threshold, validation)
        for opened in splits:
            result = _score(run, checkpoint, state, opened, threshold, chosen_on, variant, maps, progress)
            results.append(result)
            if scored:
                scored(result)
    return results


def _validation(
    run: OpenRun, checkpoint: OpenCheckpoint, state: TrainState, data_dir: pathlib.Path
) -> pd.DataFrame:
    """Predictions for the validation split: those that training kept, else made anew."""
    kept = RunFolder(checkpoint.workdir).validation(checkpoint.step)
    if kept.exists():
        return read_table(kept).frame
    settings = run.config.data
    split = data.open_split(settings.cohort, settings.validation_split, data_dir)
    return checkpoint.machine.predict(state, split)[0]


def _score(
    run: OpenRun,
    checkpoint: OpenCheckpoint,
    state: TrainState,
    split: data.Split,
    threshold: float,
    threshold_split: str,
    variant: str,
    maps: SaliencyMaps | None,
    progress: Callable[[str, int, int], None] | None,
) -> Scored:
    """Scores one split with one checkpoint and writes what comes of it."""
    machine, step, folder = checkpoint.machine, checkpoint.step, RunFolder(checkpoint.workdir)
    what = f"{split.cohort} {split.name}"
    frame, loss = machine.predict(
        state, split, lambda done, total: progress(what, done, total) if progress else None
    )
    frame = stamp(frame, machine.config, step, threshold, threshold_split)
    frame, masks = predicted_masks.split_off(frame)
    path = folder.evaluation(split.cohort, split.name, step, variant)
    if hosts.is_main():
        if masks is not None:
            predicted_masks.write(path, masks)
        write_table(path, frame, run.task.schema(split))
    return Scored(
        workdir=checkpoint.workdir,
        step=step,
        cohort=split.cohort,
        split=split.name,
        num_images=len(frame),
        metrics={"loss": loss, **run.task.metrics(frame)},
        path=path,
        maps=_write_maps(run, checkpoint, state, split, frame, maps) if maps else None,
    )


def _write_maps(
    run: OpenRun,
    checkpoint: OpenCheckpoint,
    state: TrainState,
    split: data.Split,
    frame: pd.DataFrame,
    maps: SaliencyMaps,
) -> pathlib.Path:
    """Writes the mean saliency maps of correctly classified images."""
    machine = checkpoint.machine
    path = RunFolder(checkpoint.workdir).saliency(split.cohort, checkpoint.step)
    attribute = saliency.choose_attribute(split, maps.attribute)
    groups = saliency.correct_groups(frame, run.task, attribute, maps.images, machine.config.seed)
    arrays = saliency.group_maps(machine, state, split, groups, noise=maps.noise)
    if hosts.is_main():
        with files.replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, attribute=np.str_(attribute), **arrays)
    return path
