"""Turn a run's predictions into a fairness report: one page, its figures, and the numbers behind them.

  equipoise report --workdir=runs/near
  equipoise report --workdir=runs/near --cohort=simba/far_4mm --split=test
  equipoise report --workdir=runs/near --step=600 --output=/tmp/report --group='race,sex,race*sex'
  equipoise report --workdir=runs/near --policy=policy.yaml        (exit code 3 where a bound is violated)

Reads what `equipoise evaluate` and training left in the run's folder, and the cohort's own counts and regions. Writes
report.html (stands alone; open it in any browser), metrics.json, metrics.csv, model_card.md and figures/, by default to
WORKDIR/report; with saliency maps of a cohort that has a label map also region_scores.csv. Every other evaluation of the
same checkpoint is there for comparison: with the counterfactual cohort evaluated, the report says what the bias does to
the same subjects. Neither page nor numbers name a person.

Many runs at once, methods by seeds:

  equipoise report --runs='runs/*' --out=comparison
  equipoise report --runs='runs/*/seed*' --by=model.name,augment --cohort=simba/far_4mm --out=comparison

The runs must have been evaluated on the same images. They are arranged by whatever differs in their config.json, the seed
aside, or by the fields of --by. Writes report.html, metrics.json, runs.csv (one line for each run, score and group),
summary.csv, table.tex (booktabs) and figures/ (PNG, SVG, PDF at column width). The spread between seeds and the spread over
patients are shown apart; intervals carry both; methods are compared seed by seed on the same patients. Runs that cannot be
compared are named with the reason. Take five seeds or more: fewer give intervals that hold less than they say, and one gives none.
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from equipoise.launch import program

if TYPE_CHECKING:
    from equipoise.engine.report import Context, RunComparison
    from equipoise.engine.report.page import Section

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_COHORT = flags.DEFINE_string(
    "cohort", None, "Evaluated cohort to report. Default: the one the run was trained on."
)
_SPLIT = flags.DEFINE_string("split", "test", "Split of that cohort.")
_STEP = flags.DEFINE_string(
    "step", "best", "best (by the run's validation metric), last, or a number; among those evaluated."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to. Default: WORKDIR/report.")
flags.DEFINE_alias("out", "output")
_RUNS = flags.DEFINE_string(
    "runs", None, "Instead of --workdir: a quoted glob of folders of runs to compare."
)
_BY = flags.DEFINE_list(
    "by",
    [],
    "With --runs: fields of config.json that make the methods; unique last parts will do. Default: all that differ.",
)
_GROUP = flags.DEFINE_list(
    "group",
    [],
    "Attributes whose groups are compared; race*sex is an intersection. Default: every attribute.",
)
_POLICY = flags.DEFINE_string(
    "policy", None, "YAML file of bounds that scores must keep; exit code 3 where one is violated."
)
_REGION_CUT = flags.DEFINE_float(
    "region_cut",
    0.25,
    "Saliency below which a voxel does not count for its region; a mean map runs from 0 to 1.",
)
_WORST = flags.DEFINE_integer(
    "worst",
    2,
    "Of masks: images of each group with the lowest Dice, drawn with their outlines; 0: no image is shown.",
    lower_bound=0,
)
_RESAMPLES = flags.DEFINE_integer("resamples", 2000, "Bootstrap resamples.", lower_bound=100)
_SEED = flags.DEFINE_integer("seed", 0, "Of the bootstrap.")


def _study_sections(context: Context) -> Sequence[Section]:
    """What ``tasks/<first part of the cohort's name>/analysis.py`` adds, where there is one."""
    study = context.cohort.split("/")[0]
    known = study.isidentifier() and importlib.util.find_spec(f"equipoise.tasks.{study}")
    if not known or not importlib.util.find_spec(f"equipoise.tasks.{study}.analysis"):
        return []
    return importlib.import_module(f"equipoise.tasks.{study}.analysis").sections(context)


def _compare() -> RunComparison:
    """Compares the runs of ``--runs``, telling how far it is."""
    import rich.console
    import rich.progress

    from equipoise.engine import report

    folders = report.find_runs(_RUNS.value)
    with rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("reading runs", total=len(folders))

        def tell(stage: str, done: int, total: int) -> None:
            progress.update(bar, description=stage, completed=done, total=total)

        return report.compare_runs(
            folders, cohort=_COHORT.value, split=_SPLIT.value, step=_STEP.value, by=_BY.value, groups=_GROUP.value,
            resamples=_RESAMPLES.value, seed=_SEED.value, progress=tell,
        )  # fmt: skip


def _print_files(files: Sequence[pathlib.Path], output: pathlib.Path) -> None:
    print("\n".join(f"  {path}" for path in files if path.parent == output) + f"\n  {output / 'figures'}/")


def _many() -> None:
    """Reports many runs."""
    from equipoise.engine import report
    from equipoise.engine.errors import UserError

    if _WORKDIR.value:
        raise UserError("--runs and --workdir exclude each other: one report is of many runs or of one")
    if not _OUTPUT.value:
        raise UserError("no --out: name a folder for the report of the runs")
    comparison = _compare()
    output = pathlib.Path(_OUTPUT.value).expanduser()
    files = report.write_comparison(comparison, output)
    gathered = comparison.gathered
    print(
        f"{gathered.cohort} {gathered.split}: {len(gathered.members)} runs of {len(comparison.methods)} methods"
    )
    for name, members in gathered.methods.items():
        print(f"  {name}: {', '.join(m.block for m in members)}")
    for name, why in gathered.excluded:
        print(f"left out: {name}: {why}")
    _print_files(files, output)


def main() -> int:
    """Reports; the exit code."""
    from equipoise.engine import report
    from equipoise.engine.errors import UserError
    from equipoise.engine.metrics.decisions import policy

    if _RUNS.value:
        _many()
        return 0
    if _BY.value:
        raise UserError("--by arranges several runs: give them with --runs='GLOB'")
    if not _WORKDIR.value:
        raise UserError("no --workdir: name the folder of a run, or several with --runs='GLOB'")
    workdir = pathlib.Path(_WORKDIR.value).expanduser()
    context = report.audit_run(
        workdir, data_dir=program.data_dir(), cohort=_COHORT.value, split=_SPLIT.value, step=_STEP.value, groups=_GROUP.value,
        rules=policy.read(_POLICY.value) if _POLICY.value else None, region_cut=_REGION_CUT.value, worst=_WORST.value,
        resamples=_RESAMPLES.value, seed=_SEED.value,
    )  # fmt: skip
    output = pathlib.Path(_OUTPUT.value).expanduser() if _OUTPUT.value else workdir / "report"
    files = report.write_report(context, output, _study_sections(context))
    print(f"{context.cohort} {context.split}, step {context.step}: {len(context.table)} images")
    _print_files(files, output)
    return program.gate(context.verdicts)


if __name__ == "__main__":
    program.run(main)
