"""SimBA: a planted bias, whom it harms, what mitigates it, and where the network keeps it."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from data_builders.simba_config import SETTINGS, make_config
from engine.config import UserError, did_you_mean
from tasks.plan import Chain, Plan, Stage

SIZES = {
    "demo": "5 scenarios and 6 methods by 5 seeds at 8 mm; about 25 minutes on 2 CPU cores",
    "paper": "the same at 1 mm with the study's network, a job for each seed; for GPUs",
}
OPTIONS = (
    "seeds=5, steps=N, and every setting of the cohort: subjects=2000, template=FILE,labels=FILE,label_names=FILE, "
    "disease_region=NAME, bias_region=NAME, bias_in_disease=0.7, ..."
)
_SCENARIOS = ("none", "near", "far", "intensity", "multi")
_METHODS = ("reweighing", "resampling", "group_dro", "unlearning", "group_models")


@dataclasses.dataclass(frozen=True)
class _Size:
    """What a size trains.

    Attributes:
      resolution: of the cohorts, mm.
      run: end of the name of its runs.
      steps: updates of each run.
      is_population: whether the seeds of a run are trained as one job.
      words: further flags of training.
    """

    resolution: int
    run: str
    steps: int
    is_population: bool
    words: tuple[str, ...] = ()


_SIZES = {
    # The brain fills 20 x 22 x 20 voxels.
    "demo": _Size(
        8, "", 600, True,
        ("--config.data.shape=(20,22,20)", "--config.model.args.padding=SAME", "--config.optimizer.learning_rate=3e-3"),
    ),
    "paper": _Size(1, "_paper", 15000, False),
}  # fmt: skip


def _method_words(method: str, steps: int) -> tuple[str, ...]:
    """Flags of a method; those that train in phases spend a third and a sixth, or half, of the updates on the first."""
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
        """Of the cohort, or of its counterfactual with one bias flipped; notes how it is prepared."""
        more = {"flip": flip} if flip not in ("", "bias") else {}
        config = make_config(
            scenario=scenario,
            resolution=self._resolution,
            counterfactual=bool(flip),
            **self._settings,
            **more,
        )
        plain = f"simba/{scenario}_{self._resolution}mm{'_counterfactual' if flip else ''}"
        options = ",".join(f"{k}={v}" for k, v in (self._settings | more).items())
        self.made[f"simba/{config.name}"] = (
            "prepare",
            f"--cohort={plain}",
            *([f"--options={options}"] if options else []),
        )
        return f"simba/{config.name}"

    def pairs(self, scenario: str) -> list[str]:
        """A scenario's cohort and every counterfactual of it."""
        flips = {"none": (), "multi": ("bias", "intensity_bias", "all")}.get(scenario, ("bias",))
        return [self.name(scenario), *(self.name(scenario, flip) for flip in flips)]

    def prepare(self) -> list[Chain]:
        """A chain for each cohort that was named."""
        return [
            Chain(f"prepare-{name.removeprefix('simba/')}", (Stage(f"render {name}", words),))
            for name, words in self.made.items()
        ]


def _settings(options: Mapping[str, Any]) -> tuple[int, int | None, dict[str, Any]]:
    """(seeds, steps, settings of the cohorts)."""
    known = {"seeds", "steps", *(f.name for f in SETTINGS)} - {
        "scenario",
        "resolution",
        "counterfactual",
        "flip",
    }
    for name in options:
        if name not in known:
            raise UserError(f"--options: simba has no {name!r}.{did_you_mean(name, known)} It has: {OPTIONS}")
    counts = {}
    for name, usual in (("seeds", 5), ("steps", None)):
        counts[name] = options.get(name, usual)
        if counts[name] is not None and not (type(counts[name]) is int and counts[name] > 0):
            raise UserError(f"--options: {name}={counts[name]} must be a whole number above 0")
    return counts["seeds"], counts["steps"], {k: v for k, v in options.items() if k not in counts}


def plan(size: str, folder: pathlib.Path, options: Mapping[str, Any]) -> Plan:
    """Cohorts, then runs, each scored with and without the bias and probed, then what is made of them.

    Args:
      size: of :data:`SIZES`.
      folder: of the study.
      options: of :data:`OPTIONS`.

    Raises:
      UserError: for an option that does not exist or has another kind of value.
    """
    asked = _SIZES[size]
    num_seeds, steps, settings = _settings(options)
    steps = steps or asked.steps
    cohorts = _Cohorts(asked.resolution, settings)
    every = max(steps // 6, 1)
    length = (
        f"--config.num_steps={steps}", f"--config.evaluation.every_steps={every}", f"--config.checkpoint.every_steps={every}",
        f"--config.optimizer.decay_steps={steps}", f"--config.optimizer.warmup_steps={min(20, steps // 2)}",
    ) if steps != asked.steps else ()  # fmt: skip

    def run(scenario: str, method: str) -> list[Chain]:
        own, name = cohorts.name(scenario), f"{scenario}-{method}"
        root = folder / "runs" / name
        words = (
            "train",
            f"--config=simba:{scenario}{asked.run}",
            f"--config.data.cohort={own}",
            *length,
            *asked.words,
        )
        words += _method_words(method, steps) if method != "erm" else ()
        tested = list(_SCENARIOS) if scenario == "none" else [scenario]
        scored = list(dict.fromkeys(c for t in tested for c in cohorts.pairs(t)))
        probed = [t for t in tested if t != "none"] if method == "erm" else []

        def stages(place: pathlib.Path, first: pathlib.Path | None, *more: str) -> tuple[Stage, ...]:
            where = f"--workdir={place}"
            found = [
                Stage(f"train {name}", (*words, *more, where, "--config.writers.console=false")),
                Stage(f"score {name}", ("evaluate", where, f"--cohort={','.join(scored)}", "--split=test")),
            ]
            found += [
                Stage(f"probe the layers of {name} on {t}", ("probe", where, f"--cohort={cohorts.name(t)}", "--split=test",
                      f"--labels=disease,bias{',intensity_bias' if t == 'multi' else ''}", "--control=3"))
                for t in probed
            ]  # fmt: skip
            if first and method == "erm":
                shown = cohorts.name(probed[0])
                where = f"--workdir={first}"
                found += [
                    Stage(f"map where {name} looks", ("evaluate", where, f"--cohort={shown}", "--split=test", "--saliency")),
                    Stage(f"report the first seed of {name}", ("report", where, f"--cohort={shown}", "--split=test")),
                ]  # fmt: skip
            return tuple(found)

        if asked.is_population:
            first = root / "member_000" if num_seeds > 1 else root
            return [Chain(name, stages(root, first, f"--config.population.seeds={num_seeds}"))]
        members = [root / f"member_{seed:03d}" for seed in range(num_seeds)]
        return [
            Chain(f"{name}-{seed}", stages(member, None if seed else member, f"--config.seed={seed}"))
            for seed, member in enumerate(members)
        ]

    runs = [chain for scenario in _SCENARIOS for chain in run(scenario, "erm")]
    runs += [chain for method in _METHODS for chain in run("near", method)]
    compare = (
        "report", f"--runs={folder / 'runs'}/near-*/member_*", f"--cohort={cohorts.name('near')}", "--by=method.name",
        f"--out={folder / 'report' / 'methods'}",
    )  # fmt: skip
    page = ("study", "--study=simba", f"--workdir={folder}", "--report_only")
    last = (
        Stage("compare the methods over seeds", compare, is_repeated=True),
        Stage("put everything on one page", page, is_repeated=True),
    )
    return [cohorts.prepare(), runs, [Chain("report", last)]]


def write(folder: pathlib.Path) -> pathlib.Path:
    """The study's page; returns its file."""
    from tasks.simba import summary

    return summary.write(folder)[0]
