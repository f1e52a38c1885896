"""Reads the runs across sites: whom each schedule serves, what it sends, and what its features tell.

A schedule is a way to learn from many sites: in one place (central), by averages, or by a model that travels. All runs are scored
on the same patients, so that differences are paired by seed and by patient.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from equipoise.engine import config as run_config
from equipoise.engine import data
from equipoise.engine.config import Method
from equipoise.engine.metrics.estimates import intervals, seeds
from equipoise.engine.metrics.estimates.intervals import Estimate
from equipoise.engine.metrics.estimates.seeds import OverSeeds
from equipoise.engine.metrics.table import groupings
from equipoise.engine.metrics.table.table import Table, read_table
from equipoise.engine.rundir import RunFolder
from equipoise.engine.training.writers import read_rows
from equipoise.engine.vocabulary import UNKNOWN
from equipoise.tasks.kit import gather as kit_gather
from equipoise.tasks.kit.sites import DRAWS, SITE, SiteSpread, spread_over_runs
from equipoise.tasks.simba import bias_outcomes as outcomes

CENTRAL = "central"
ORDER = (
    CENTRAL, "FedAvg, equal weights", "FedAvg, by size", "FedProx, squared", "FedProx, norm", "travelling", "HarmonyTM", "FedTM",
)  # fmt: skip
BANDS = {"1 to 4": (1, 4), "5 to 19": (5, 19), "20 to 49": (20, 49), "50 or more": (50, 10**9)}
COSTS = ("cycles", "transfers", "network_bytes", "optimizer_bytes")
MIN_SCANS = 10  # fewest test scans of a site where sites are compared one by one


@dataclasses.dataclass(frozen=True)
class Learned:
    """One run across sites, and its errors on the test patients.

    Attributes:
      schedule: a name in :data:`ORDER`.
      seed: seed of training.
      scores: "accuracy" and "auroc" -> estimate.
      bands: name in :data:`BANDS` -> misclassification rate of the patients from sites with so many training scans.
      sites: site -> misclassification rate of its patients.
      wrong: [n] 1 where a test patient is misclassified, else 0; all runs have the same order.
      site: [n] name of the patient's site.
      cost: cycles, transfers and bytes of the whole run; empty for central training.
      curve: number of cycles -> validation AUROC; for central training, number of passes over all images.
      told: block -> label -> "accuracy" of its probe, and "chance", the accuracy of always naming the commonest class.
    """

    schedule: str
    seed: int
    scores: Mapping[str, Estimate]
    bands: Mapping[str, Estimate]
    sites: Mapping[str, Estimate]
    wrong: Float[np.ndarray, " n"]
    site: np.ndarray
    cost: Mapping[str, int]
    curve: Mapping[float, float]
    told: Mapping[str, Mapping[str, Mapping[str, float]]]


def schedule_name(method: Method) -> str:
    """The name in :data:`ORDER` of a method with its settings."""
    weights = {"equal": "equal weights", "size": "by size"}[method.site_weights]
    return {
        "erm": CENTRAL,
        "fedavg": f"FedAvg, {weights}",
        "fedprox": f"FedProx, {method.proximal}",
        "travelling": "travelling",
        "harmony_tm": "HarmonyTM",
        "fedtm": "FedTM",
    }[method.name]


def _site_sizes(workdir: pathlib.Path, data_dir: pathlib.Path) -> dict[str, int]:
    """Site -> its training scans, in the cohort that a run was trained on."""
    config = run_config.load(workdir).data
    counts = data.open_split(config.cohort, config.train_split, data_dir).columns[SITE].value_counts()
    return {site: int(n) for site, n in counts.items() if site != UNKNOWN}


def of_run(workdir: pathlib.Path, sizes: Mapping[str, int]) -> Learned:
    """Reads the evaluation of the last step of a run.

    Args:
      workdir: the folder of a run on a cohort with an attribute ``site``.
      sizes: site -> training scans.

    Raises:
      UserError: for a run without an evaluation on its test split.
    """
    config = run_config.load(workdir)
    newest = RunFolder(workdir).newest(config.data.cohort, "test")
    read = read_table(newest.path)
    frame = read.frame.sort_values("subject_id", ignore_index=True)
    columns = Table(frame, read.schema).columns()
    patient = intervals.subject_codes(frame["subject_id"])[0]
    wrong = columns["called"] != columns["truth"]
    size = frame[SITE].map(lambda site: sizes.get(site, 0)).to_numpy()

    def error(rows: np.ndarray) -> Estimate:
        return intervals.proportion(wrong[rows], patient[rows])

    def in_band(ends: tuple[int, int]) -> np.ndarray:
        return (size >= ends[0]) & (size <= ends[1])

    rows = [r for r in read_rows(RunFolder(workdir).metrics) if r["split"] == "validation"]
    passes = config.data.batch_size / sum(sizes.values())
    (reached,) = (r for r in rows if r["step"] == newest.step)
    probes = kit_gather.probe_rows(workdir, config.data.cohort, "test", newest.step)
    levels = groupings.levels_of(frame, read.schema, SITE)
    return Learned(
        schedule=schedule_name(config.method),
        seed=config.seed,
        scores={
            "accuracy": intervals.proportion(~wrong, patient),
            "auroc": intervals.area(columns["truth"], columns["score"], patient),
        },
        bands={name: error(in_band(ends)) for name, ends in BANDS.items() if in_band(ends).any()},
        sites={s: error((frame[SITE] == s).to_numpy()) for s in levels if s != UNKNOWN and (frame[SITE] == s).any()},
        wrong=wrong.astype(np.float64),
        site=frame[SITE].to_numpy(),
        cost={k: int(reached[k]) for k in COSTS if k in reached},
        curve={r.get("cycles", r["step"] * passes): r["auroc"] for r in rows},
        told={
            block: {label: {"accuracy": row["accuracy"]["value"], "chance": row["chance"]} for label, row in labels.items()}
            for block, labels in probes.items()
        },
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Schedules:
    """All runs across sites.

    Attributes:
      runs: schedule -> its runs by seed, in the order of :data:`ORDER`.
      sizes: site -> training scans.
      left_out: the runs that could not be read, with the reason.
    """

    runs: Mapping[str, Sequence[Learned]]
    sizes: Mapping[str, int]
    left_out: Sequence[tuple[str, str]] = ()


def gather(folder: pathlib.Path, data_dir: pathlib.Path) -> Schedules | None:
    """Reads all runs across sites; None where there is none.

    Args:
      folder: the study's folder.
      data_dir: where the cohort of the runs is prepared.
    """
    runs = [run for run in kit_gather.run_folders(folder) if outcomes.is_across_sites(run, folder)]
    if not runs:
        return None
    sizes: dict[str, int] = {}

    def read(run: pathlib.Path) -> Learned:
        sizes.update(sizes or _site_sizes(run, data_dir))
        return of_run(run, sizes)

    learned, left_out = kit_gather.read_each(runs, folder, read)
    by_schedule: dict[str, list[Learned]] = {}
    for run in sorted(learned, key=lambda run: (ORDER.index(run.schedule), run.seed)):
        by_schedule.setdefault(run.schedule, []).append(run)
    return Schedules(by_schedule, sizes, left_out)


def over(runs: Sequence[Learned], what: str) -> OverSeeds:
    """The mean of ``accuracy`` or ``auroc`` over the seeds of a schedule."""
    return kit_gather.over(runs, what)


def error_over(runs: Sequence[Learned], kind: str, name: str) -> OverSeeds:
    """The mean misclassification rate over the seeds of a schedule, in one of ``bands`` or ``sites`` (``kind``)."""
    return seeds.over_seeds([getattr(run, kind)[name] for run in runs], (0.0, 1.0))


def against(runs: Sequence[Learned], others: Sequence[Learned], what: str) -> OverSeeds | None:
    """The first minus the second over the seeds that both have, paired by seed and by patient; None without such a seed."""
    return kit_gather.against(runs, others, what)


def told_against(
    runs: Sequence[Learned], others: Sequence[Learned], block: str, label: str
) -> OverSeeds | None:
    """The difference of the accuracies of two probes, paired by seed; None without probes of both. Its limits hold the spread over seeds alone."""
    second = {run.seed: run for run in others if run.told}
    pairs = [(run.told, second[run.seed].told) for run in runs if run.told and run.seed in second]
    if not pairs:
        return None
    apart = [a[block][label]["accuracy"] - b[block][label]["accuracy"] for a, b in pairs]
    return seeds.over_seeds([intervals.constant(x) for x in apart])


def spread(
    runs: Sequence[Learned], min_scans: int = MIN_SCANS, *, draws: int = DRAWS, seed: int = 0
) -> SiteSpread:
    """How the sites are served differently by the runs of one schedule (:func:`equipoise.tasks.kit.sites.spread_over_runs`)."""
    wrong, errors = [run.wrong for run in runs], [run.sites for run in runs]
    return spread_over_runs(runs[0].site, wrong, errors, min_scans, draws=draws, seed=seed)
