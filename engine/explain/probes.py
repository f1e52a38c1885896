"""Probing the checkpoints of a run: what every block of its network tells of labels and attributes, written to the run's folder."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from equipoise.engine import data, files
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.explain import features
from equipoise.engine.explain.linear_probe import Probe, SingleComponents, folds, probe_block
from equipoise.engine.metrics.estimates import intervals
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.rundir import RunFolder
from equipoise.engine.training.opening import MakeTask, open_run
from equipoise.engine.vocabulary import UNKNOWN


@dataclasses.dataclass(frozen=True)
class Probed:
    """The probes of one checkpoint on one split.

    Attributes:
      workdir: the run's folder; of a population, the member's.
      step: of the checkpoint.
      cohort: that was probed on.
      split: of the cohort.
      num_images: of the split.
      probes: block by block, a probe for each label.
      path: the file that holds them.
    """

    workdir: pathlib.Path
    step: int
    cohort: str
    split: str
    num_images: int
    probes: Sequence[Sequence[Probe]]
    path: pathlib.Path


def classes(split: data.Split, names: Sequence[str]) -> dict[str, Int[np.ndarray, " n"]]:
    """Name of a label or attribute -> class of each image, -1 where it is unknown.

    Raises:
      UserError: for a name that the cohort does not have, or one with fewer than two levels in the split.
    """
    kinds = {group: split.vocabulary(group) for group in ("labels", "attributes")}
    known = [name for kind in kinds.values() for name, levels in kind.items() if levels is not None]
    codes = {}
    for name in names:
        if name not in known:
            raise UserError(
                f"cohort {split.cohort!r} has no label or attribute {name!r} with levels.{did_you_mean(name, known)} "
                f"It has: {', '.join(known)}"
            )
        if name in kinds["labels"]:
            code = split.columns[f"label:{name}"].to_numpy(np.int64)
        else:
            levels = [level for level in kinds["attributes"][name] if level != UNKNOWN]
            number = {level: i for i, level in enumerate(levels)}
            code = (
                split.columns[name].map(lambda level, number=number: number.get(level, -1)).to_numpy(np.int64)
            )
        present = np.unique(code[code >= 0])
        if len(present) < 2:
            raise UserError(
                f"{name!r} has only one level in {split.cohort} {split.name}: nothing to tell apart"
            )
        codes[name] = np.where(code >= 0, np.searchsorted(present, code), -1)
    return codes


def probe_run(
    workdir: pathlib.Path | str,
    make_task: MakeTask,
    data_dir: pathlib.Path | str,
    *,
    labels: Sequence[str] = (),
    cohort: str | None = None,
    split: str = "test",
    step: str = "best",
    blocks: Sequence[str] = (),
    num_folds: int = 5,
    control: int = 20,
    share: float = 0.99,
    seed: int = 0,
    keep_features: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    probed: Callable[[Probed], None] | None = None,
) -> list[Probed]:
    """Probes the blocks of a run's network, and writes what they tell to ``WORKDIR/probes``.

    Args:
      workdir: the run's folder. A population is probed member by member.
      make_task: makes the task from the configuration and the training split.
      data_dir: where cohorts are prepared.
      labels: labels and attributes to probe; by default the run's label and every attribute with levels.
      cohort: to probe on; None: the cohort that the run was trained on.
      split: of that cohort.
      step: ``best``, ``last``, ``all`` or a number.
      blocks: of the network; by default all.
      num_folds: of the cross-validation.
      control: repeats of the control task.
      share: of the variance that the components keep.
      seed: of folds and shuffles.
      keep_features: whether activations are kept in ``WORKDIR/features``.
      progress: called with (what is done, how far, of how many).
      probed: called with each checkpoint's probes once they are written.

    Raises:
      UserError: where the run, a checkpoint, the cohort, a label or a block is not there.
    """
    workdir, data_dir = pathlib.Path(workdir), pathlib.Path(data_dir)
    tell = progress or (lambda what, done, total: None)
    run = open_run(workdir, make_task, data_dir, step)
    opened = data.open_split(cohort or run.config.data.cohort, split, data_dir)
    attributes = [name for name, levels in opened.vocabulary("attributes").items() if levels is not None]
    label = [run.config.task.label] if run.config.task.label != data.MASK else []
    codes = classes(opened, labels or [*label, *attributes])
    patient = intervals.subject_codes(opened.columns["subject_id"])[0]
    where = folds(codes, patient, num_folds, seed)
    settings = {"folds": num_folds, "control": control, "share": share, "seed": seed}
    results = []
    for checkpoint in run.checkpoints:
        folder = RunFolder(checkpoint.workdir)
        kept = folder.features(opened.cohort, opened.name, checkpoint.step)
        values = features.stream(
            checkpoint.machine, checkpoint.restore(), opened, kept, blocks,
            lambda done, total: tell(f"features of {opened.cohort} {opened.name}", done, total),
        )  # fmt: skip
        of_blocks = []
        for done, (block, activations) in enumerate(values.items(), start=1):
            of_blocks.append(
                probe_block(
                    block, activations, codes, patient, where, share=share, repeats=control, seed=seed
                )
            )
            tell("probing", done, len(values))
        del values, activations
        if not keep_features:
            shutil.rmtree(kept)
        path = folder.probes(opened.cohort, opened.name, checkpoint.step)
        write(path, of_blocks, codes, settings)
        probes = [of_labels for of_labels, _ in of_blocks]
        result = Probed(
            checkpoint.workdir, checkpoint.step, opened.cohort, opened.name, len(opened), probes, path
        )
        results.append(result)
        if probed:
            probed(result)
    return results


def _limits(estimate: Estimate | None) -> dict[str, float | int | None] | None:
    """An estimate with its 95 % limits, for JSON; a number that is not finite is null."""
    if estimate is None:
        return None
    low, high = estimate.limits(0.95)
    numbers = {"value": estimate.value, "low": low, "high": high}
    finite = {k: float(v) if np.isfinite(v) else None for k, v in numbers.items()}
    return finite | {"n": estimate.n, "n_subjects": estimate.n_subjects}


def write(
    place: pathlib.Path,
    results: Sequence[tuple[Sequence[Probe], SingleComponents]],
    labels: Mapping[str, np.ndarray],
    settings: Mapping[str, object],
) -> None:
    """Writes probes as JSON, the same as CSV beside it, and the scores of the leading components with the labels as ``.npz``.

    Args:
      place: the JSON file.
      results: for each block, its probes and its single components.
      labels: name -> class of each image.
      settings: to write beside the results.
    """
    lines = []
    for of_labels, _ in results:
        for p in of_labels:
            control = p.control if len(p.control) else np.array([np.nan])
            lines.append(
                {
                    "block": p.block,
                    "label": p.label,
                    "classes": p.classes,
                    "components": p.num_components,
                    "accuracy": _limits(p.accuracy),
                    "auroc": _limits(p.auroc),
                    "in_sample": p.in_sample,
                    "chance": p.chance,
                    "control_mean": float(control.mean()) if len(p.control) else None,
                    "control_high": float(np.quantile(control, 0.95)) if len(p.control) else None,
                    "selectivity": p.selectivity if len(p.control) else None,
                }
            )
    alone = {
        a.block: {
            "shares": a.shares.tolist(),
            "accuracy": {label: values.tolist() for label, values in a.accuracy.items()},
            "dominant": a.dominant,
            "boundary": a.boundary if np.isfinite(a.boundary) else None,
        }
        for _, a in results
    }
    text = json.dumps({"settings": dict(settings), "probes": lines, "alone": alone}, indent=1) + "\n"
    scores = {f"scores_{a.block}": a.scores.astype(np.float32) for _, a in results}
    with files.replacing(place.with_suffix(".npz")) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **scores, **{f"label_{k}": v for k, v in labels.items()})
    files.write_text(place.with_suffix(".csv"), pd.json_normalize(lines, sep="_").to_csv(index=False))
    files.write_text(place, text)  # last: a reader that finds this file finds the others too
