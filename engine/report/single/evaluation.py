"""An evaluated run, read from its folder and audited."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from absl import logging

from equipoise.engine import config as run_config
from equipoise.engine import data, predicted_masks
from equipoise.engine.config import Run
from equipoise.engine.errors import UserError
from equipoise.engine.explain import regions, worst_cases
from equipoise.engine.metrics.decisions.policy import Rule
from equipoise.engine.metrics.table.table import Table, read_table
from equipoise.engine.report.single import policy
from equipoise.engine.report.single.audit import score_table
from equipoise.engine.report.single.context import Context
from equipoise.engine.rundir import RunFolder, masks_beside
from equipoise.engine.training import choosing, population
from equipoise.engine.training.writers import read_rows


def choose_step(workdir: pathlib.Path, config: Run, cohort: str, split: str, wanted: str) -> int:
    """Chooses which evaluated checkpoint of a run is reported.

    Args:
      workdir: folder of the run.
      config: its configuration.
      cohort: the evaluated cohort.
      split: the evaluated split.
      wanted: ``best`` (by the run's validation metric), ``last`` or a number.

    Raises:
      UserError: when there is no such evaluation; the message names the command that makes it.
    """
    steps = RunFolder(workdir).steps(cohort, split)
    command = f"equipoise evaluate --workdir={workdir} --cohort={cohort} --split={split}"
    if not steps:
        raise UserError(f"{cohort} {split} has not been evaluated: run `{command}`")
    if wanted == "best":
        return choosing.best_step(workdir, config, steps)
    if wanted == "last":
        return steps[-1]
    if wanted.isdigit() and int(wanted) in steps:
        return int(wanted)
    raise UserError(
        f"--step={wanted}: give best, last or one of {', '.join(map(str, steps))}; others after `{command} --step=N`"
    )


def _cohort_files(cohort: str, data_dir: pathlib.Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metadata, cohort report) of a prepared cohort; both are empty, with a warning, where it is not prepared here."""
    if data_dir is None:
        return {}, {}
    try:
        builder = data.open_builder(cohort, data_dir)
    except UserError as error:
        logging.warning("the report lacks the cohort's composition and regions: %s", error)
        return {}, {}
    path = pathlib.Path(builder.data_path) / "cohort_report.json"
    return dict(builder.info.metadata or {}), json.loads(path.read_text()) if path.exists() else {}


def _mask_parts(
    config: Run, table: Table, path: pathlib.Path, groups: Sequence[str], data_dir: pathlib.Path | None, worst: int
) -> dict[str, Any]:  # fmt: skip
    """What differs in the context of a run that predicts masks; the worst cases only where the cohort is prepared here."""
    if table.schema.kind != "values":
        return {"models": {}}
    parts: dict[str, Any] = {"notes": (predicted_masks.note(config.task.tolerance),)}
    if not worst or data_dir is None or not masks_beside(path).exists():
        return parts
    cohort, split = (table.frame[c].iloc[0] for c in ("cohort", "split"))
    try:
        opened = data.open_split(cohort, split, data_dir)
    except UserError as error:
        logging.warning("the report shows no worst cases: %s", error)
        return parts
    attributes = [g for g in groups if table.schema.attributes.get(g)]
    predicted = predicted_masks.Predicted(path)
    cases = worst_cases.find(opened, config, table.frame, predicted, attributes, worst)
    return parts | {"worst": cases}


def _tables(paths: Sequence[pathlib.Path]) -> dict[tuple[str, str], pd.DataFrame]:
    """(cohort, split) -> predictions, of every table that has a row."""
    frames = [read_table(path).frame for path in paths]
    return {(f["cohort"].iloc[0], f["split"].iloc[0]): f for f in frames if len(f)}


def audit_run(
    workdir: pathlib.Path,
    *,
    data_dir: pathlib.Path | None = None,
    cohort: str | None = None,
    split: str = "test",
    step: str = "best",
    groups: Sequence[str] = (),
    rules: Sequence[Rule] | None = None,
    region_cut: float = regions.CUT,
    worst: int = 2,
    resamples: int = 2000,
    seed: int = 0,
) -> Context:
    """Audits an evaluated run: scores by group, gaps between groups, and what the run knows of itself.

    Args:
      workdir: folder of the run.
      data_dir: folder of prepared cohorts, for the cohort's composition, regions and images; None leaves them out.
      cohort: evaluated cohort to report; by default the one that the run was trained on.
      split: evaluated split of that cohort.
      step: ``best`` (by the run's validation metric), ``last`` or a number, among the evaluated checkpoints.
      groups: attributes, and intersections such as ``race*sex``; by default every attribute that has levels.
      rules: bounds of a policy (:func:`equipoise.engine.metrics.decisions.policy.read`), for verdicts.
      region_cut: saliency, from 0 to 1, below which a voxel does not count for its region.
      worst: images of each group to show where masks were predicted worst; 0 shows none.
      resamples: resamples of the bootstrap.
      seed: seed of the bootstrap.

    Returns:
      What the page shows; :func:`equipoise.engine.report.write_report` writes it.

    Raises:
      UserError: for a folder that holds no run or a population of runs, for an evaluation that is not there, and for choices that
        do not fit it.
    """
    if not 0 < region_cut < 1:
        raise UserError(f"--region_cut={region_cut}: give a number between 0 and 1")
    config = run_config.load(workdir)
    members = population.folders(workdir, config)
    if members != [workdir]:
        raise UserError(
            f"{workdir} holds a population of {len(members)} runs: report all of them with --runs='{workdir}/member_*', or one with --workdir={members[0]}"
        )
    cohort = cohort or config.data.cohort
    number = choose_step(workdir, config, cohort, split, step)
    folder = RunFolder(workdir)
    path = folder.evaluation(cohort, split, number)
    table = read_table(path)
    groups = groups or [name for name, levels in table.schema.attributes.items() if levels is not None]
    metadata, cohort_report = _cohort_files(cohort, data_dir)
    context = dataclasses.replace(
        score_table(table, groups=groups, resamples=resamples, seed=seed),
        workdir=workdir, config=run_config.to_dict(config), cohort=cohort, split=split, step=number,
        tables=_tables([scored.path for scored in folder.evaluations(step=number)]) | {(cohort, split): table.frame},
        **_mask_parts(config, table, path, groups, data_dir, worst),
        history=read_rows(folder.metrics), metadata=metadata, cohort_report=cohort_report,
        saliency=_arrays(folder.saliency(cohort, number)), region_cut=region_cut,
    )  # fmt: skip
    return context if rules is None else policy.judged(context, rules)


def _arrays(path: pathlib.Path) -> Mapping[str, np.ndarray] | None:
    """The arrays of a file; None where it is not there."""
    return dict(np.load(path)) if path.exists() else None
