"""A run's folder: the one place that knows where its files are.

::

  WORKDIR/config.json                                    the configuration
  WORKDIR/checkpoints/  damaged/                         states of the run, and those that could not be restored
  WORKDIR/metrics.jsonl  timing.jsonl  tensorboard/      what training wrote
  WORKDIR/validation/STEP.parquet                        predictions of every evaluation while training
  WORKDIR/evaluations/COHORT/SPLIT/STEP.parquet          predictions of `equipoise evaluate`
  WORKDIR/evaluations/COHORT/SPLIT/STEP.masks.parquet    predicted masks, where the task has them
  WORKDIR/evaluations/COHORT/SPLIT/STEP--VARIANT.parquet the same cohort scored in another way
  WORKDIR/saliency/COHORT/STEP.npz                       mean saliency maps
  WORKDIR/probes/COHORT/SPLIT/STEP.json  .csv  .npz      linear probes; their activations are in features/COHORT/SPLIT/STEP/
  WORKDIR/report/  logs/                                 reports, and logs of the commands that made the run
  WORKDIR/member_000/  member_001/  ...                  members of a population, each a run's folder like this one

STEP has eight digits. A cohort such as ``simba/near_4mm`` has the folder ``simba--near_4mm``.
"""

import dataclasses
import pathlib
import re

from equipoise.engine.errors import UserError

_VARIANT = re.compile(r"\w+(-\w+)*")
_TABLE = re.compile(r"(?P<step>\d{8,})(--(?P<variant>\w+(-\w+)*))?\.parquet")


def folder_of_cohort(cohort: str) -> str:
    """The name of a cohort as a folder: ``simba/near_4mm`` -> ``simba--near_4mm``."""
    return cohort.replace("/", "--")


def cohort_of_folder(folder: str) -> str:
    """The inverse of :func:`folder_of_cohort`, for names with one slash at most and none of "--" before it."""
    return folder.replace("--", "/", 1)


def masks_beside(table: pathlib.Path) -> pathlib.Path:
    """The file that keeps the predicted masks of a prediction table."""
    return table.with_suffix(".masks.parquet")


@dataclasses.dataclass(frozen=True)
class ScoredTable:
    """One prediction table that is there.

    Attributes:
      cohort: that was scored.
      split: of the cohort.
      step: of the checkpoint.
      variant: the name of another way to score the cohort; "" is the plain one.
      path: the table.
    """

    cohort: str
    split: str
    step: int
    variant: str
    path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Nothing is created or opened here, and a path need not exist.

    Attributes:
      root: the folder, ``--workdir`` of the run.
    """

    root: pathlib.Path

    @property
    def config(self) -> pathlib.Path:
        """The configuration; a folder with this file is a run."""
        return self.root / "config.json"

    @property
    def is_run(self) -> bool:
        """Whether the folder holds a run."""
        return self.config.exists()

    @property
    def checkpoints(self) -> pathlib.Path:
        """Folder of checkpoints."""
        return self.root / "checkpoints"

    @property
    def damaged(self) -> pathlib.Path:
        """Folder of checkpoints that could not be restored and were set aside."""
        return self.root / "damaged"

    @property
    def metrics(self) -> pathlib.Path:
        """Losses and validation metrics, one JSON object a line, without times."""
        return self.root / "metrics.jsonl"

    @property
    def timing(self) -> pathlib.Path:
        """Speed, one JSON object a line."""
        return self.root / "timing.jsonl"

    @property
    def tensorboard(self) -> pathlib.Path:
        """Folder of event files."""
        return self.root / "tensorboard"

    @property
    def report(self) -> pathlib.Path:
        """Folder of the report."""
        return self.root / "report"

    @property
    def logs(self) -> pathlib.Path:
        """Folder of logs and records of the commands that made the run."""
        return self.root / "logs"

    def member(self, number: int) -> pathlib.Path:
        """Folder of a member of a population, numbered from 0."""
        return self.root / f"member_{number:03d}"

    def members(self) -> list[pathlib.Path]:
        """Folders of the members that are there, in order; empty for a run that is no population."""
        return sorted(self.root.glob("member_*"))

    def validation(self, step: int) -> pathlib.Path:
        """Predictions for the validation split at one evaluation of training."""
        return self.root / "validation" / f"{step:08d}.parquet"

    def validations(self) -> dict[int, pathlib.Path]:
        """Step -> :meth:`validation`, for the tables that are there."""
        paths = sorted((self.root / "validation").glob("*.parquet"))
        return {int(path.stem): path for path in paths if path.stem.isdigit()}

    def evaluation(self, cohort: str, split: str, step: int, variant: str = "") -> pathlib.Path:
        """Predictions of one checkpoint for one split.

        Args:
          cohort: name of the cohort.
          split: of the cohort.
          step: of the checkpoint.
          variant: name of another way to score the same images, such as ``corrupted``; "" is the plain one.

        Raises:
          UserError: for a variant that cannot be part of a file's name.
        """
        if variant and not _VARIANT.fullmatch(variant):
            raise UserError(
                f"variant {variant!r}: use letters, digits, '_', and single '-' between them, such as corrupted"
            )
        name = f"{step:08d}--{variant}" if variant else f"{step:08d}"
        return self.root / "evaluations" / folder_of_cohort(cohort) / split / f"{name}.parquet"

    def masks(self, cohort: str, split: str, step: int, variant: str = "") -> pathlib.Path:
        """Predicted masks, beside :meth:`evaluation`."""
        return masks_beside(self.evaluation(cohort, split, step, variant))

    def evaluations(
        self,
        cohort: str | None = None,
        split: str | None = None,
        step: int | None = None,
        variant: str | None = "",
    ) -> list[ScoredTable]:
        """The prediction tables that are there, by cohort, split, step and variant.

        Args:
          cohort: to keep; None: every one.
          split: to keep; None: every one.
          step: to keep; None: every one.
          variant: to keep, by default the plain tables; None: every one.
        """
        where = f"{folder_of_cohort(cohort) if cohort else '*'}/{split or '*'}/*.parquet"
        tables = []
        for path in (self.root / "evaluations").glob(where):
            name = _TABLE.fullmatch(path.name)
            if name is None:  # predicted masks
                continue
            place = cohort_of_folder(path.parent.parent.name), path.parent.name
            table = ScoredTable(*place, int(name["step"]), name["variant"] or "", path)
            if step in (None, table.step) and variant in (None, table.variant):
                tables.append(table)
        return sorted(tables, key=lambda table: (table.cohort, table.split, table.step, table.variant))

    def steps(self, cohort: str, split: str, variant: str = "") -> list[int]:
        """Steps whose checkpoints have been scored on one split, oldest first."""
        return [table.step for table in self.evaluations(cohort, split, variant=variant)]

    def newest(self, cohort: str, split: str, variant: str = "") -> ScoredTable:
        """The table of the last step that has been scored on one split.

        Raises:
          UserError: where none has been, with the command that scores one.
        """
        tables = self.evaluations(cohort, split, variant=variant)
        if not tables:
            raise UserError(self.unscored())
        return tables[-1]

    def unscored(self) -> str:
        """The message for a run without an evaluation, with the command that makes one."""
        return f"{self.root} has not been evaluated: run `equipoise evaluate --workdir={self.root}`"

    def saliency(self, cohort: str, step: int) -> pathlib.Path:
        """Mean saliency maps of one checkpoint."""
        return self.root / "saliency" / folder_of_cohort(cohort) / f"{step:08d}.npz"

    def probes(self, cohort: str, split: str, step: int) -> pathlib.Path:
        """Linear probes of one checkpoint; the same as CSV, and scores as ``.npz``, are beside it."""
        return self.root / "probes" / folder_of_cohort(cohort) / split / f"{step:08d}.json"

    def features(self, cohort: str, split: str, step: int) -> pathlib.Path:
        """Folder of a split's activations."""
        return self.root / "features" / folder_of_cohort(cohort) / split / f"{step:08d}"
