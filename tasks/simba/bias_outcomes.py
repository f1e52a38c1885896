"""Reads the runs of a SimBA study: scores with and without the bias, and what the features encode.

Every run is scored on subjects that were rendered twice, with the bias and without. A *change* compares one rate of the same
subjects, with minus without. The *shift* is the mean of the changes in sensitivity and false-positive rate: how much a harmless
feature moves decisions. A *gap* compares different subjects, the group with the bias minus the group without.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from equipoise.engine import config as run_config
from equipoise.engine.errors import UserError
from equipoise.engine.metrics.estimates import intervals, seeds
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.estimates.seeds import OverSeeds
from equipoise.engine.metrics.table import table
from equipoise.engine.report.page import files
from equipoise.engine.rundir import RunFolder
from equipoise.engine.training import choosing
from equipoise.tasks.kit import gather as kit_gather
from equipoise.tasks.simba import renderings

SCORES = ("accuracy", "change_tpr", "change_fpr", "shift", "gap_tpr", "gap_fpr")
ERM = "erm"
_ORDER = ("none", "near", "far", "intensity", "both", "multi")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The scores of one run on one cohort, for one bias.

    Attributes:
      trained: scenario of the training cohort.
      method: training method.
      seed: seed of training.
      tested: scenario of the scored cohort.
      bias: the attribute whose groups are compared and that the counterfactual flips.
      scores: name in :data:`SCORES` -> estimate; without changes where no counterfactual was scored.
      encoded: block -> label -> cross-validated accuracy of its probe; empty where there is no probe.
      shares: the share with the bias among the diseased, and among the healthy.
    """

    trained: str
    method: str
    seed: int
    tested: str
    bias: str
    scores: Mapping[str, Estimate]
    encoded: Mapping[str, Mapping[str, float]]
    shares: tuple[float, float]

    @property
    def row(self) -> tuple[str, str, str, str]:
        """What outcomes of different seeds have in common: (trained, method, tested, bias)."""
        return self.trained, self.method, self.tested, self.bias


def score(
    factual: pd.DataFrame, counterfactual: pd.DataFrame | None, bias: str, positive: int
) -> dict[str, Estimate]:
    """Scores of one run on one cohort.

    The change of a rate is the share of subjects that are called diseased only with the bias, minus the share called so only
    without it. Its limits follow from the Wilson limits of both shares by MOVER.

    Args:
      factual: the prediction table of the cohort.
      counterfactual: the table of the same subjects with this bias flipped; None leaves the changes out.
      bias: the attribute of the bias.
      positive: class index of the disease.
    """
    factual = factual.sort_values("subject_id", ignore_index=True)
    code = intervals.subject_codes(factual["subject_id"])[0]
    called = (factual["score"] >= factual["threshold"]).to_numpy()
    sick, has = (factual["target"] == positive).to_numpy(), (factual[bias] == "with").to_numpy()

    def share(called: np.ndarray, rows: np.ndarray) -> Estimate:
        return intervals.proportion(called[rows], code[rows])

    def less(a: Estimate, b: Estimate) -> Estimate:
        return seeds.combination((a, b), (1, -1))

    scores = {"accuracy": share(called == sick, np.ones(len(sick), bool))}
    for name, of in (("tpr", sick), ("fpr", ~sick)):
        scores[f"gap_{name}"] = less(share(called, of & has), share(called, of & ~has))
    if counterfactual is not None:
        pair = renderings.both_ways([(factual, counterfactual)], renderings.rendering_pairs([bias])[0])
        code = intervals.subject_codes(pair["subject_id"])[0]
        sick = (pair["target"] == positive).to_numpy()
        without, with_bias = pair["first"].to_numpy(), pair["second"].to_numpy()
        for name, of in (("tpr", sick), ("fpr", ~sick)):
            gained, lost = with_bias & ~without, without & ~with_bias
            scores[f"change_{name}"] = less(share(gained, of), share(lost, of))
        scores["shift"] = seeds.combination((scores["change_tpr"], scores["change_fpr"]), (0.5, 0.5))
    return scores


def _tables(run: RunFolder, step: int) -> dict[str, tuple[pd.DataFrame, int]]:
    """Scored cohort -> (its test table, class index of the disease)."""
    tables = {}
    for evaluation in run.evaluations(split="test", step=step):
        scored = table.read_table(evaluation.path)
        cohort = str(scored.frame["cohort"].iloc[0])
        tables[cohort] = scored.frame, scored.schema.classes.index(scored.schema.positive)
    return tables


def _encoded(workdir: pathlib.Path, cohort: str, step: int) -> dict[str, dict[str, float]]:
    """Block -> label -> accuracy of its probe."""
    rows = kit_gather.probe_rows(workdir, cohort, "test", step)
    return {
        block: {label: row["accuracy"]["value"] for label, row in labels.items()}
        for block, labels in rows.items()
    }


def _scenario(cohort: str) -> str:
    """``simba/near_8mm`` -> ``near``."""
    return cohort.rpartition("/")[2].partition("_")[0]


def of_run(workdir: pathlib.Path) -> list[Outcome]:
    """Reads the evaluations of one run, cohort by cohort and bias by bias.

    Raises:
      UserError: for a run without an evaluation on its test split.
    """
    config, run = run_config.load(workdir), RunFolder(workdir)
    steps = {evaluation.step for evaluation in run.evaluations(split="test")}
    if not steps:
        raise UserError(run.unscored())
    step = choosing.best_step(workdir, config, sorted(steps))
    tables = _tables(run, step)
    read = []
    for cohort, (frame, positive) in tables.items():
        if renderings.flipped(cohort, renderings.BIASES):
            continue
        encoded = _encoded(workdir, cohort, step)
        for bias in (b for b in renderings.BIASES if b in frame):
            other = tables.get(renderings.rendering(cohort, {bias}))
            sick, has = frame["target"] == positive, frame[bias] == "with"
            read.append(
                Outcome(
                    _scenario(config.data.cohort), config.method.name, config.seed, _scenario(cohort), bias,
                    score(frame, other[0] if other else None, bias, positive), encoded,
                    (float(has[sick].mean()), float(has[~sick].mean())),
                )
            )  # fmt: skip
    return read


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """All outcomes of a study.

    Attributes:
      runs: the outcomes, run by run.
      left_out: the runs that could not be read, with the reason.
    """

    runs: Sequence[Outcome]
    left_out: Sequence[tuple[str, str]] = ()

    def rows(self) -> dict[tuple[str, str, str, str], list[Outcome]]:
        """(trained, method, tested, bias) -> the outcomes of its seeds, in the order of the scenarios."""
        rank = {name: i for i, name in enumerate(_ORDER)}
        ordered = sorted(
            self.runs,
            key=lambda o: (rank.get(o.trained, 99), o.method != ERM, o.trained != o.tested, rank.get(o.tested, 99), o.bias, o.seed),
        )  # fmt: skip
        rows: dict[tuple[str, str, str, str], list[Outcome]] = {}
        for outcome in ordered:
            rows.setdefault(outcome.row, []).append(outcome)
        return rows


def over(runs: Sequence[Outcome], name: str) -> OverSeeds | None:
    """The mean of a score over the seeds of a row; None where a run does not have it."""
    return kit_gather.over(runs, name, (0.0, 1.0) if name == "accuracy" else (-1.0, 1.0))


def against(runs: Sequence[Outcome], others: Sequence[Outcome], name: str) -> OverSeeds | None:
    """The first minus the second over the seeds that both have, paired by seed and by subject; None without such a seed."""
    return kit_gather.against(runs, others, name)


def is_across_sites(workdir: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether a run of a study learns across sites."""
    return kit_gather.name_of_runs(workdir, folder).startswith("sites-")


def gather(folder: pathlib.Path) -> Outcomes:
    """Reads all runs of a study, except those across sites.

    Raises:
      UserError: where no run can be read.
    """
    runs = [run for run in kit_gather.run_folders(folder) if not is_across_sites(run, folder)]
    outcomes, left_out = kit_gather.read_each(runs, folder, of_run)
    if not outcomes:
        raise kit_gather.nothing_evaluated(folder)
    return Outcomes([outcome for of_one_run in outcomes for outcome in of_one_run], left_out)


def to_csv(study: Outcomes) -> str:
    """A table with one line for each run, cohort and bias."""
    lines = []
    for outcome in study.runs:
        values = {s: outcome.scores[s].value for s in SCORES if s in outcome.scores}
        probes = {
            f"probe:{block}:{label}": v
            for block, labels in outcome.encoded.items()
            for label, v in labels.items()
        }
        names = {k: getattr(outcome, k) for k in ("trained", "method", "seed", "tested", "bias")}
        lines.append(names | values | probes)
    return files.safe_csv(pd.DataFrame(lines))
