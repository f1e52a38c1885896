"""Many runs, compared: methods by seeds, scored on the same images."""

import dataclasses
import glob
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from equipoise.engine.config import Run
from equipoise.engine.errors import UserError
from equipoise.engine.gather import Gathered, gather
from equipoise.engine.metrics.comparing import methods as over_runs
from equipoise.engine.metrics.comparing.methods import Contrast, MethodScores
from equipoise.engine.metrics.frames.frame import Frame, evaluate_models
from equipoise.engine.report.single.audit import merge_values
from equipoise.engine.report.single.evaluation import choose_step
from equipoise.engine.report.single.findings import leads

_SETTINGS = (
    "seed", "resamples", "confidence", "task", "cohort", "split", "label", "positive", "num_images", "num_subjects", "num_positive",
    "versions",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RunComparison:
    """Everything that the page on many runs is made of.

    Attributes:
      gathered: the runs that take part, and those that are left out.
      methods: name -> scores over the runs of the method.
      contrasts: differences between two methods.
      settings: settings of the computation, for ``metrics.json``.
      made_by: command that makes this report again, without paths.
    """

    gathered: Gathered
    methods: Mapping[str, MethodScores]
    contrasts: Sequence[Contrast]
    settings: Mapping[str, Any]
    made_by: str = ""

    @property
    def metrics(self) -> list[str]:
        """The metrics of the page, in order."""
        return list(next(iter(self.methods.values())).overall)

    @property
    def attributes(self) -> list[str]:
        """The attributes whose groups are compared."""
        return list(next(iter(self.methods.values())).groups)

    @property
    def unpaired(self) -> list[str]:
        """The pairs of methods that have no seed in common."""
        return list(dict.fromkeys(f"{c.first} − {c.second}" for c in self.contrasts if not c.num_runs))

    def between(self, score: str, attribute: str = "", level: str = "") -> list[Contrast]:
        """The contrasts of a score, overall or in one group.

        Args:
          score: name of the score.
          attribute: attribute of the group; empty for everyone.
          level: level of the group.
        """
        return [c for c in self.contrasts if (c.score, c.attribute, c.level) == (score, attribute, level)]


def find_runs(pattern: str) -> list[pathlib.Path]:
    """Finds folders by a glob, in the order of their names, numbers in them by value.

    Raises:
      UserError: when none of the folders is a run.
    """
    pattern = str(pathlib.Path(pattern).expanduser())
    paths = [pathlib.Path(p) for p in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    if not any((path / "config.json").exists() for path in paths):
        matched = f"matches {len(paths)} paths, none of them a run (no config.json)"
        raise UserError(
            f"--runs={pattern} {matched if paths else 'matches nothing'}: quote a glob of runs' folders, such as --runs='runs/*'"
        )

    def natural(path: pathlib.Path) -> list[int | str]:
        return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", str(path))]

    return sorted({path.resolve(): path for path in paths if path.is_dir()}.values(), key=natural)


def compare_runs(
    folders: Sequence[pathlib.Path],
    *,
    cohort: str | None = None,
    split: str = "test",
    step: str = "best",
    by: Sequence[str] = (),
    groups: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> RunComparison:
    """Compares many runs, which were evaluated on the same images: methods by seeds.

    Args:
      folders: folders of the runs; those that cannot be compared are named with the reason.
      cohort: evaluated cohort; by default the one that all were trained on.
      split: evaluated split of that cohort.
      step: ``best`` (by each run's validation metric), ``last`` or a number, among the evaluated checkpoints. With a number,
        unfinished runs take part as well.
      by: fields of ``config.json`` that make the methods; by default all that differ.
      groups: attributes, and intersections such as ``race*sex``; by default every attribute that has levels.
      resamples: resamples of the bootstrap.
      seed: seed of the bootstrap.
      progress: called with (what is being done, how much of it is done, how much there is).

    Returns:
      What the page shows; :func:`equipoise.engine.report.write_comparison` writes it.

    Raises:
      UserError: when no run can be compared, or for an unknown field in ``by``.
    """

    def stage(name: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(name, done, total) if progress else None

    def choose(folder: pathlib.Path, config: Run, evaluated: str) -> int:
        return choose_step(folder, config, evaluated, split, step)

    gathered = gather(
        folders, cohort, split, choose, by=by, finished=not step.isdigit(), progress=stage("reading runs")
    )
    schema = gathered.members[0].base.schema
    attributes = groups or [name for name, levels in schema.attributes.items() if levels is not None]
    frames: dict[str, dict[str, Frame]] = {}
    for place, member in enumerate(gathered.members):
        stage("scoring runs")(place, len(gathered.members))
        models = evaluate_models(
            member.table, metrics=leads(schema.kind), groups=attributes, resamples=resamples, seed=seed, compare=False
        )  # fmt: skip
        frame = merge_values(models) if schema.kind == "values" else next(iter(models.values()))
        frames.setdefault(member.method, {})[member.block] = frame
    methods = {}
    for place, (name, runs) in enumerate(frames.items()):
        stage("spread over seeds")(place, len(frames))
        methods[name] = over_runs.method(runs)
    contrasts = over_runs.contrasts(methods, stage("comparing methods"))
    first = next(iter(next(iter(frames.values())).values()))
    settings = {name: first.settings[name] for name in _SETTINGS} | {"step": step}
    made_by = f"equipoise report --runs=... --cohort={gathered.cohort} --split={gathered.split} --step={step}"
    made_by += "".join(
        f" --{flag}='{','.join(words)}'" for flag, words in (("by", by), ("group", groups)) if words
    )
    return RunComparison(gathered, methods, contrasts, settings, f"{made_by} --out=...")
