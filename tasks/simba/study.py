"""SimBA: a planted bias, whom it harms, what mitigates it, where the network keeps it, and learning across sites."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.data_builders.simba.config import SETTINGS, foreign, make_config
from equipoise.tasks.kit import options as kit_options
from equipoise.tasks.kit.plan import (
    Job,
    Plan,
    Stage,
    over_seeds,
    page_stage,
    prepare_words,
    report_stage,
    rhythm,
    train_and_score,
)

SIZES = {
    "demo": "5 scenarios, 6 methods and 8 schedules across 83 sites by 5 seeds at 8 mm; half an hour to an hour on 2 CPU cores",
    "paper": "the same at 1 mm with the study's network, a job for each seed; for GPUs",
}
OPTIONS = (
    "seeds=5, steps=N, cycles=N (across sites), and every setting of the cohort: subjects=2000, template=FILE,labels=FILE,label_names=FILE, "
    "disease_region=NAME, bias_region=NAME, bias_in_disease=0.7, ..."
)
_SCENARIOS = ("none", "near", "far", "intensity", "multi")
_METHODS = ("reweighing", "resampling", "group_dro", "unlearning", "group_models")
_SCHEDULES = {
    "central": {},
    "fedavg_equal": {"name": "fedavg", "site_weights": "equal"},
    "fedavg_size": {"name": "fedavg", "site_weights": "size"},
    "fedprox_squared": {"name": "fedprox", "site_weights": "size", "proximal": "squared", "mu": 0.01},
    "fedprox_norm": {"name": "fedprox", "site_weights": "size", "proximal": "norm", "mu": 0.001},
    "travelling": {"name": "travelling"},
    "harmony_tm": {"name": "harmony_tm", "group": "scanner"},
    "fedtm": {"name": "fedtm"},
}
_PROBED = ("central", "travelling", "harmony_tm")
_LOCAL_EPOCHS = 3  # for models that are averaged: one epoch is not enough to move away from the average before they are sent back


@dataclasses.dataclass(frozen=True)
class _Size:
    """What the study trains at one size.

    Attributes:
      resolution: voxel size of the cohorts in mm.
      run: how the names of its runs end.
      steps: updates of each run.
      cycles: cycles of each run across sites.
      is_population: whether all seeds of a run are one job.
      words: further flags of training.
    """

    resolution: int
    run: str
    steps: int
    cycles: int
    is_population: bool
    words: tuple[str, ...] = ()


_SIZES = {
    # The brain fills 20 x 22 x 20 voxels.
    "demo": _Size(
        8, "", 600, 15, True,
        ("--config.data.shape=(20,22,20)", "--config.model.args.padding=SAME", "--config.optimizer.learning_rate=3e-3"),
    ),
    "paper": _Size(1, "_paper", 15000, 30, False),
}  # fmt: skip


def _method_words(method: str, steps: int) -> tuple[str, ...]:
    """Flags of a method. Unlearning spends a third of the updates on the model and a sixth on the group head first; group models spend half on one model for all."""
    words = [f"--config.method.name={method}", "--config.method.group=bias"]
    if method == "unlearning":
        words += [f"--config.method.pretrain_steps={steps // 3}", f"--config.method.head_steps={steps // 6}"]
    if method == "group_models":
        words += [f"--config.method.pretrain_steps={steps // 2}"]
    return tuple(words)


class _Cohorts:
    """The cohorts of the study, by scenario."""

    def __init__(self, resolution: int, settings: Mapping[str, Any]):
        self._resolution, self._settings = resolution, dict(settings)
        self.made: dict[str, tuple[str, ...]] = {}

    def name(self, scenario: str, flip: str = "") -> str:
        """The name of a cohort, or of its counterfactual with one bias flipped. Notes the command that prepares it."""
        settings = {k: v for k, v in self._settings.items() if k not in foreign(scenario)}
        usual = make_config(scenario=scenario)
        if (
            usual.has_sites and "subjects" in settings
        ):  # the sites have a fixed number of subjects, and no more
            settings["subjects"] = min(settings["subjects"], usual.subjects)
        settings |= {"flip": flip} if flip not in ("", usual.flip) else {}
        counterfactual = bool(flip)
        config = make_config(
            scenario=scenario, resolution=self._resolution, counterfactual=counterfactual, **settings
        )
        plain = f"simba/{scenario}_{self._resolution}mm{'_counterfactual' if flip else ''}"
        self.made[f"simba/{config.name}"] = prepare_words(plain, settings)
        return f"simba/{config.name}"

    def pairs(self, scenario: str) -> list[str]:
        """A scenario's cohort and every counterfactual of it."""
        flips = {"none": (), "multi": ("bias", "intensity_bias", "all"), "sites": ("scanner",)}.get(
            scenario, ("bias",)
        )
        return [self.name(scenario), *(self.name(scenario, flip) for flip in flips)]

    def prepare(self) -> list[Job]:
        """One job for each cohort that was named."""
        return [
            Job(f"prepare-{name.removeprefix('simba/')}", (Stage(f"render {name}", words),))
            for name, words in self.made.items()
        ]


def _read(given: Mapping[str, Any]) -> tuple[int, int | None, int | None, dict[str, Any]]:
    """(seeds, steps, cycles, settings of the cohorts)."""
    fewest_cycles = 5  # for HarmonyTM's three parts
    own = {
        "seeds": kit_options.Count(5),
        "steps": kit_options.Count(None),
        "cycles": kit_options.Count(None, fewest_cycles),
    }
    planned = {"scenario", "resolution", "counterfactual", "flip"}  # what the study itself sets
    values, settings = kit_options.read("simba", given, own, {f.name for f in SETTINGS} - planned, OPTIONS)
    return *values.values(), settings


def _schedule_words(schedule: str, cycles: int) -> tuple[str, ...]:
    """Flags of a run across sites. The learning rate falls by a tenth in every cycle, as published; the first parts of FedTM and HarmonyTM are in proportion."""
    settings: dict[str, Any] = {"site": "site", "cycles": cycles} | _SCHEDULES[schedule]
    if "site_weights" in settings:
        settings["local_epochs"] = _LOCAL_EPOCHS
    if schedule == "harmony_tm":
        settings |= {"pretrain_cycles": 2 * cycles // 5, "head_cycles": cycles // 5}
    if schedule == "fedtm":
        settings["warm_rounds"] = min(2, cycles - 1)
    words = [f"--config.method.{name}={value}" for name, value in settings.items()]
    rates = {
        "learning_rate": 1e-3,
        "schedule": "exponential",
        "decay_rate": math.exp(-1),
        "decay_steps": 10,
        "warmup_steps": 0,
    }
    words += [f"--config.optimizer.{name}={value}" for name, value in rates.items()]
    return *words, *rhythm("cycles", 1)


def plan(size: str, folder: pathlib.Path, options: Mapping[str, Any]) -> Plan:
    """Plans the study: cohorts, then runs, each scored and some probed, then the pages.

    Args:
      size: a key of :data:`SIZES`.
      folder: the study's folder.
      options: name -> value, as :data:`OPTIONS` lists them.

    Raises:
      UserError: for an unknown option, or one with a wrong value.
    """
    asked = _SIZES[size]
    num_seeds, steps, cycles, settings = _read(options)
    cohorts = _Cohorts(asked.resolution, settings)
    length = (
        f"--config.num_steps={steps}", *rhythm("steps", max(steps // 6, 1)),
        f"--config.optimizer.decay_steps={steps}", f"--config.optimizer.warmup_steps={min(20, steps // 2)}",
    ) if steps else ()  # fmt: skip
    steps, cycles = steps or asked.steps, cycles or asked.cycles

    def jobs(
        name: str,
        words: tuple[str, ...],
        scored: Sequence[str],
        probed: Mapping[str, str],
        step: str,
        is_shown: bool,
    ) -> list[Job]:
        """Trains every seed, then scores and probes (cohort -> labels) the model of one step; the first seed has a report."""

        def stages(place: pathlib.Path, first: pathlib.Path | None, seeds: str) -> tuple[Stage, ...]:
            work = train_and_score(name, words, place, seeds, scored, step)
            judged = ("--split=test", f"--step={step}")
            work += [
                Stage(f"probe the layers of {name} on {cohort.removeprefix('simba/')}", ("probe", f"--workdir={place}", f"--cohort={cohort}",
                      *judged, f"--labels={labels}", "--control=3"))
                for cohort, labels in probed.items()
            ]  # fmt: skip
            if first and is_shown:
                shown = next(iter(probed))
                map_words = ("evaluate", f"--workdir={first}", f"--cohort={shown}", *judged, "--saliency")
                work += [
                    Stage(f"map where {name} looks", map_words),
                    report_stage(name, first, shown, step),
                ]
            return tuple(work)

        return over_seeds(name, folder / "runs" / name, num_seeds, asked.is_population, stages)

    def run(scenario: str, method: str) -> list[Job]:
        cohort = cohorts.name(scenario)
        words = (
            f"--config=simba:{scenario}{asked.run}",
            f"--config.data.cohort={cohort}",
            *length,
            *asked.words,
        )
        words += _method_words(method, steps) if method != "erm" else ()
        tested = list(_SCENARIOS) if scenario == "none" else [scenario]
        scored = list(dict.fromkeys(c for t in tested for c in cohorts.pairs(t)))
        labels = {
            t: "disease,bias,intensity_bias" if t == "multi" else "disease,bias"
            for t in tested
            if t != "none"
        }
        probed = {cohorts.name(t): names for t, names in labels.items()} if method == "erm" else {}
        return jobs(f"{scenario}-{method}", words, scored, probed, "best", method == "erm")

    def across(schedule: str) -> list[Job]:
        """Runs of one schedule, scored after the last cycle: separate hospitals share no validation split that could choose a step."""
        cohort = cohorts.name("sites")
        words = (f"--config=simba:sites{asked.run}", f"--config.data.cohort={cohort}")
        words += length if schedule == "central" else _schedule_words(schedule, cycles)
        probed = {cohort: "disease,scanner,site,sex"} if schedule in _PROBED else {}
        shown = schedule in ("central", "travelling")
        return jobs(f"sites-{schedule}", words, cohorts.pairs("sites"), probed, "last", shown)

    runs = [job for scenario in _SCENARIOS for job in run(scenario, "erm")]
    runs += [job for method in _METHODS for job in run("near", method)]
    runs += [job for schedule in _SCHEDULES for job in across(schedule)]
    compare = (
        "report", f"--runs={folder / 'runs'}/near-*/member_*", f"--cohort={cohorts.name('near')}", "--by=method.name",
        f"--out={folder / 'report' / 'methods'}",
    )  # fmt: skip
    last = (
        Stage("compare the methods over seeds", compare, is_repeated=True),
        page_stage("simba", folder),
    )
    return [cohorts.prepare(), runs, [Job("report", last)]]


def write(folder: pathlib.Path, data_dir: pathlib.Path) -> pathlib.Path:
    """Writes the study's page from the runs in its folder and the cohorts in ``data_dir``; returns the file."""
    from equipoise.tasks.simba import bias_page as summary

    return summary.write(folder, data_dir)[0]
