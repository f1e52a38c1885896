"""Reading the runs of a study, and scores over seeds.

A study reads each of its runs into an object with a ``seed`` and ``scores`` (:class:`Scored`). A run that cannot be read is listed
by name with the reason.
"""

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import seeds
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.estimates.seeds import OverSeeds
from equipoise.engine.rundir import RunFolder

Outcome = TypeVar("Outcome")
LeftOut = tuple[str, str]  # (a run's folder, why it could not be read)


def run_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of a study's runs, as :func:`equipoise.tasks.kit.plan.over_seeds` lays them out: members of populations, and
    runs of a single seed.
    """  # noqa: D205
    roots = sorted((folder / "runs").glob("*"))
    return [run for root in roots for run in RunFolder(root).members() or [root]]


def name_of_runs(run: pathlib.Path, folder: pathlib.Path) -> str:
    """The name that a study gave to the runs that a folder is one of: ``near-erm`` for ``runs/near-erm/member_000``."""
    return run.relative_to(folder / "runs").parts[0]


def read_each(
    runs: Iterable[pathlib.Path], folder: pathlib.Path, read: Callable[[pathlib.Path], Outcome]
) -> tuple[list[Outcome], list[LeftOut]]:
    """Reads runs one by one.

    Args:
      runs: their folders.
      folder: of the study.
      read: folder of a run -> what it says; a ``UserError`` leaves the run out.

    Returns:
      (what each run says, the runs that were left out with the reason).
    """
    outcomes, left_out = [], []
    for run in runs:
        try:
            outcomes.append(read(run))
        except UserError as error:
            reason = str(error).replace(str(folder), "...")
            left_out.append((str(run.relative_to(folder / "runs")), reason))
    return outcomes, left_out


def nothing_evaluated(folder: pathlib.Path) -> UserError:
    """The error of a study without a run that could be read."""
    return UserError(f"no evaluated run in {folder / 'runs'}: `equipoise study` makes them")


def probe_rows(
    workdir: pathlib.Path, cohort: str, split: str, step: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Block -> label -> its probe, as ``equipoise probe`` wrote it; empty where it wrote none."""
    path = RunFolder(workdir).probes(cohort, split, step)
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for row in json.loads(path.read_text())["probes"] if path.exists() else ():
        rows.setdefault(row["block"], {})[row["label"]] = row
    return rows


class Scored(Protocol):
    """One run."""

    @property
    def seed(self) -> int:
        """The seed of its training."""

    @property
    def scores(self) -> Mapping[str, Estimate]:
        """Name of a score -> its estimate."""


def over(
    runs: Sequence[Scored], score: str, limits: tuple[float, float] | None = (0.0, 1.0)
) -> OverSeeds | None:
    """A score over the seeds of a run.

    Args:
      runs: one for each seed.
      score: its name.
      limits: the smallest and the largest value that it can have.

    Returns:
      The mean with its limits; None where a run lacks the score.
    """
    if not all(score in run.scores for run in runs):
        return None
    return seeds.over_seeds([run.scores[score] for run in runs], limits)


def against(runs: Sequence[Scored], others: Sequence[Scored], score: str) -> OverSeeds | None:
    """The first minus the second over the seeds that both have, paired by seed and by subject; None without such a seed."""
    second = {run.seed: run for run in others}
    pairs = [(run.scores[score], second[run.seed].scores[score]) for run in runs if run.seed in second]
    return seeds.over_seeds([seeds.combination(pair, (1, -1)) for pair in pairs]) if pairs else None
