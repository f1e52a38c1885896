"""What the runs of a SimBA study say, run by run: scores with and without the bias, and what is encoded.

Every run is scored on subjects that were rendered twice, with the bias and without. *Change* is of one rate of the same
subjects, with minus without; *shift* is the mean of the changes in sensitivity and false-positive rate: how much a harmless
feature moves decisions. *Gap* is of different subjects, the group with the bias minus the group without.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from equipoise.engine import config as run_config
from equipoise.engine.errors import UserError
from equipoise.engine.explain import probes
from equipoise.engine.metrics.estimates import intervals, seeds
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.estimates.seeds import OverSeeds
from equipoise.engine.metrics.table import table
from equipoise.engine.report.page import files
from equipoise.engine.training import choosing
from equipoise.tasks.kit.plan import run_folders
from equipoise.tasks.simba import renderings

SCORES = ("accuracy", "change_tpr", "change_fpr", "shift", "gap_tpr", "gap_fpr")
ERM = "erm"
_ORDER = ("none", "near", "far", "intensity", "both", "multi")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run on one cohort, and what one bias does there.

    Attributes:
      trained: scenario of the training cohort.
      method: of training.
      seed: of training.
      tested: scenario of the scored cohort.
      bias: the attribute whose groups are compared and that the counterfactual flips.
      scores: of :data:`SCORES`; without changes where no counterfactual was scored.
      encoded: block -> label -> cross-validated accuracy of its probe; empty where none was made.
      shares: with the bias, of the diseased and of the healthy.
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
        """All but the seed."""
        return self.trained, self.method, self.tested, self.bias


def score(
    factual: pd.DataFrame, counterfactual: pd.DataFrame | None, bias: str, positive: int
) -> dict[str, Estimate]:
    """Scores of one run on one cohort.

    The change of a rate is the share of subjects called diseased with the bias only, less the share called so without it only;
    its limits are MOVER's on Wilson's of both shares.

    Args:
      factual: prediction table of the cohort.
      counterfactual: of the same subjects with this bias flipped; None leaves the changes out.
      bias: attribute.
      positive: class index of the disease.
    """
    factual = factual.sort_values("subject_id", ignore_index=True)
    code = intervals.subject_codes(factual["subject_id"])[0]
    called = (factual["score"] >= factual["threshold"]).to_numpy()
    sick, has = (factual["target"] == positive).to_numpy(), (factual[bias] == "with").to_numpy()

    def share(found: np.ndarray, rows: np.ndarray) -> Estimate:
        return intervals.proportion(found[rows], code[rows])

    def less(a: Estimate, b: Estimate) -> Estimate:
        return seeds.combination((a, b), (1, -1))

    scores = {"accuracy": share(called == sick, np.ones(len(sick), bool))}
    for name, of in (("tpr", sick), ("fpr", ~sick)):
        scores[f"gap_{name}"] = less(share(called, of & has), share(called, of & ~has))
    if counterfactual is not None:
        pair = renderings.both_ways([(factual, counterfactual)], renderings.contrasts([bias])[0])
        code = intervals.subject_codes(pair["subject_id"])[0]
        sick = (pair["target"] == positive).to_numpy()
        without, with_bias = pair["first"].to_numpy(), pair["second"].to_numpy()
        for name, of in (("tpr", sick), ("fpr", ~sick)):
            gained, lost = with_bias & ~without, without & ~with_bias
            scores[f"change_{name}"] = less(share(gained, of), share(lost, of))
        scores["shift"] = seeds.combination((scores["change_tpr"], scores["change_fpr"]), (0.5, 0.5))
    return scores


def _tables(workdir: pathlib.Path, step: int) -> dict[str, tuple[pd.DataFrame, int]]:
    """Scored cohort -> (its test table, class index of the disease)."""
    found = {}
    for path in sorted((workdir / "evaluations").glob(f"*/test/{step:08d}.parquet")):
        read = table.read_table(path)
        cohort = str(read.frame["cohort"].iloc[0])
        found[cohort] = read.frame, read.schema.classes.index(read.schema.positive)
    return found


def _encoded(workdir: pathlib.Path, cohort: str, step: int) -> dict[str, dict[str, float]]:
    path = probes.path(workdir, cohort, "test", step)
    found: dict[str, dict[str, float]] = {}
    for one in json.loads(path.read_text())["probes"] if path.exists() else ():
        found.setdefault(one["block"], {})[one["label"]] = one["accuracy"]["value"]
    return found


def _scenario(cohort: str) -> str:
    """``simba/near_8mm`` -> ``near``."""
    return cohort.rpartition("/")[2].partition("_")[0]


def of_run(workdir: pathlib.Path) -> list[Outcome]:
    """What one run's evaluations say, cohort by cohort and bias by bias.

    Raises:
      UserError: for a run without an evaluation on its test split.
    """
    config = run_config.load(workdir)
    steps = {int(p.stem) for p in (workdir / "evaluations").glob("*/test/*.parquet") if p.stem.isdigit()}
    if not steps:
        raise UserError(f"{workdir} has not been evaluated: run `equipoise evaluate --workdir={workdir}`")
    step = choosing.best_step(workdir, config, sorted(steps))
    tables = _tables(workdir, step)
    found = []
    for cohort, (frame, positive) in tables.items():
        if renderings.flipped(cohort, renderings.BIASES):
            continue
        encoded = _encoded(workdir, cohort, step)
        for bias in (b for b in renderings.BIASES if b in frame):
            other = tables.get(renderings.rendering(cohort, {bias}))
            sick, has = frame["target"] == positive, frame[bias] == "with"
            found.append(
                Outcome(
                    _scenario(config.data.cohort), config.method.name, config.seed, _scenario(cohort), bias,
                    score(frame, other[0] if other else None, bias, positive), encoded,
                    (float(has[sick].mean()), float(has[~sick].mean())),
                )
            )  # fmt: skip
    return found


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Every outcome of a study, and its means over seeds.

    Attributes:
      runs: run by run.
      left_out: what could not be read, with the reason.
    """

    runs: Sequence[Outcome]
    left_out: Sequence[tuple[str, str]] = ()

    def rows(self) -> dict[tuple[str, str, str, str], list[Outcome]]:
        """(trained, method, tested, bias) -> its runs by seed, in the order of the scenarios."""
        rank = {name: i for i, name in enumerate(_ORDER)}
        ordered = sorted(
            self.runs,
            key=lambda o: (rank.get(o.trained, 99), o.method != ERM, o.trained != o.tested, rank.get(o.tested, 99), o.bias, o.seed),
        )  # fmt: skip
        found: dict[tuple[str, str, str, str], list[Outcome]] = {}
        for one in ordered:
            found.setdefault(one.row, []).append(one)
        return found


def over(runs: Sequence[Outcome], name: str) -> OverSeeds | None:
    """A score over the seeds of a row; None where a run lacks it."""
    if not all(name in o.scores for o in runs):
        return None
    bounds = (0.0, 1.0) if name == "accuracy" else (-1.0, 1.0)
    return seeds.over_seeds([o.scores[name] for o in runs], bounds)


def against(runs: Sequence[Outcome], others: Sequence[Outcome], name: str) -> OverSeeds | None:
    """First minus second over the seeds that both have, paired by seed and by subject; None without one."""
    second = {o.seed: o for o in others}
    pairs = [(o.scores[name], second[o.seed].scores[name]) for o in runs if o.seed in second]
    return seeds.over_seeds([seeds.combination(p, (1, -1)) for p in pairs]) if pairs else None


def is_across_sites(workdir: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether a run of a study is on many sites."""
    return workdir.relative_to(folder / "runs").parts[0].startswith("sites-")


def gather(folder: pathlib.Path) -> Outcomes:
    """Reads every run with a bias.

    Raises:
      UserError: where there is none to read.
    """
    found, left_out = [], []
    for workdir in run_folders(folder):
        if is_across_sites(workdir, folder):
            continue
        try:
            found += of_run(workdir)
        except UserError as error:
            left_out.append((str(workdir.relative_to(folder)), str(error).replace(str(folder), "...")))
    if not found:
        raise UserError(f"no evaluated run in {folder / 'runs'}: `equipoise study` makes them")
    return Outcomes(found, left_out)


def to_csv(found: Outcomes) -> str:
    """One line for each run, cohort and bias."""
    lines = []
    for one in found.runs:
        values = {s: one.scores[s].value for s in SCORES if s in one.scores}
        told = {
            f"probe:{block}:{label}": v for block, each in one.encoded.items() for label, v in each.items()
        }
        names = {k: getattr(one, k) for k in ("trained", "method", "seed", "tested", "bias")}
        lines.append(names | values | told)
    return files.safe_csv(pd.DataFrame(lines))
