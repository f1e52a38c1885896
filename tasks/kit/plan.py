"""A plan of commands: stages make a job, jobs make a phase, phases make a plan.

The stages of a job run one after the other. The jobs of a phase do not need each other: they may run side by side, also on several
machines. A phase begins when the phase before it has ended.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from equipoise.engine.rundir import RunFolder


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
      title: what it does, for people, and how long it takes where that is known.
      command: the words after ``equipoise``.
      is_repeated: whether it runs each time, as a stage does that collects the results of others.
    """

    title: str
    command: tuple[str, ...]
    is_repeated: bool = False


@dataclasses.dataclass(frozen=True)
class Job:
    """Commands one after another: train a run, score it.

    Attributes:
      name: unique in its plan; its log has the same name.
      stages: in their order.
    """

    name: str
    stages: tuple[Stage, ...]


Plan = Sequence[Sequence[Job]]


def prepare_words(cohort: str, settings: Mapping[str, Any], *more: str) -> tuple[str, ...]:
    """The command that prepares a cohort with settings of its own."""
    options = ",".join(f"{name}={value}" for name, value in settings.items())
    return ("prepare", f"--cohort={cohort}", *([f"--options={options}"] if options else []), *more)


def rhythm(unit: str, count: int) -> tuple[str, ...]:
    """Flags that judge and save a run after every ``count`` units: ``steps`` or ``cycles``."""
    return tuple(f"--config.{what}.every_{unit}={count}" for what in ("evaluation", "checkpoint"))


def page_stage(study: str, folder: pathlib.Path) -> Stage:
    """The last stage of a study: its page, made anew each time from the runs that are there."""
    words = ("study", f"--study={study}", f"--workdir={folder}", "--report_only")
    return Stage("put everything on one page", words, is_repeated=True)


def train_and_score(
    name: str, words: Sequence[str], workdir: pathlib.Path, seeds: str, cohorts: Sequence[str], step: str
) -> list[Stage]:
    """Trains a run and scores it on the test split.

    Args:
      name: of the run, for the titles.
      words: flags of its training.
      workdir: its folder.
      seeds: the flag of its seeds, as :func:`over_seeds` gives it.
      cohorts: to score.
      step: of the checkpoint that is scored: ``best`` or ``last``.
    """
    where = f"--workdir={workdir}"
    scored = ("evaluate", where, f"--cohort={','.join(cohorts)}", "--split=test", f"--step={step}")
    return [
        Stage(f"train {name}", train_words(*words, seeds, where)),
        Stage(f"score {name}", scored),
    ]


def report_stage(name: str, workdir: pathlib.Path, cohort: str, step: str) -> Stage:
    """The report of the first seed of a run on the test split."""
    words = ("report", f"--workdir={workdir}", f"--cohort={cohort}", "--split=test", f"--step={step}")
    return Stage(f"report the first seed of {name}", words)


def train_words(*words: str) -> tuple[str, ...]:
    """A command of training that shows no progress bar, for a log."""
    return ("train", *words, "--config.writers.console=false")


def over_seeds(
    name: str,
    root: pathlib.Path,
    num_seeds: int,
    is_population: bool,
    stages: Callable[[pathlib.Path, pathlib.Path | None, str], tuple[Stage, ...]],
) -> list[Job]:
    """One job that trains every seed as a population, or a job for each seed.

    Args:
      name: of the runs.
      root: the folder of the runs. Seeds are in ``member_000``, ``member_001``, ..., a single seed of a population in the folder itself.
      num_seeds: the number of seeds.
      is_population: whether all seeds are one job.
      stages: makes the stages of a job from (its folder, the folder of the first seed where the job trains it, the flag of its seeds).
    """
    if is_population:
        first = RunFolder(root).member(0) if num_seeds > 1 else root
        return [Job(name, stages(root, first, f"--config.population.seeds={num_seeds}"))]
    members = [RunFolder(root).member(seed) for seed in range(num_seeds)]
    return [
        Job(f"{name}-{seed}", stages(member, None if seed else member, f"--config.seed={seed}"))
        for seed, member in enumerate(members)
    ]
