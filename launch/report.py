"""Turn a run's predictions into a fairness report: one page, its figures, and the numbers behind them.

  equipoise report --workdir=runs/near
  equipoise report --workdir=runs/near --cohort=simba/far_4mm --split=test
  equipoise report --workdir=runs/near --step=600 --output=/tmp/report --group='race,sex,race*sex'
  equipoise report --workdir=runs/near --policy=policy.yaml        (exit code 3 if a bound is violated)

The report uses what training and `equipoise evaluate` left in the run's folder, and the counts and regions of the cohort.
It writes report.html (one file that opens in any browser and needs no other), metrics.json, metrics.csv, model_card.md and
figures/, by default to WORKDIR/report. With saliency maps of a cohort that has a label map, it also writes region_scores.csv.
It takes every other evaluation of the same checkpoint into account: if the counterfactual cohort was evaluated, the report
says what the bias does to the same subjects. Neither the page nor the numbers name a person.

Many runs at once, such as methods by seeds:

  equipoise report --runs='runs/*' --out=comparison
  equipoise report --runs='runs/*/seed*' --by=model.name,augment --cohort=simba/far_4mm --out=comparison

The runs must have been evaluated on the same images. Runs that differ only in their seed form a method; methods differ in
their config.json, or in the fields that --by names. The report writes report.html, metrics.json, runs.csv (one line for each
run, score and group), summary.csv, table.tex (booktabs) and figures/ (PNG, SVG and PDF at column width). It shows the spread
between seeds and the spread over patients separately, and its intervals carry both. It compares methods seed by seed on the
same patients. Runs that cannot be compared are named with the reason. Take five seeds or more: with fewer, the intervals cover
less than they say, and with one seed there is no interval.
"""

from __future__ import annotations

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
    "cohort", None, "Evaluated cohort to report. Default: the cohort that the run was trained on."
)
_SPLIT = flags.DEFINE_string("split", "test", "Split of that cohort.")
_STEP = flags.DEFINE_string(
    "step",
    "best",
    "Evaluated checkpoint to report: best (by the run's validation metric), last, or a number.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to. Default: WORKDIR/report.")
flags.DEFINE_alias("out", "output")
_RUNS = flags.DEFINE_string(
    "runs", None, "Instead of --workdir: a glob, in quotes, of the folders of the runs to compare."
)
_BY = flags.DEFINE_list(
    "by",
    [],
    "With --runs: fields of config.json that make the methods; the last part of a name is enough if it is unique. Default: all fields that differ.",
)
_GROUP = flags.DEFINE_list(
    "group",
    [],
    "Attributes whose groups are compared; race*sex is an intersection. Default: every attribute that has levels.",
)
_POLICY = flags.DEFINE_string(
    "policy", None, "YAML file of bounds that the scores must keep; the exit code is 3 if one is violated."
)
_REGION_CUT = flags.DEFINE_float(
    "region_cut",
    0.25,
    "Saliency below which a voxel does not count for its region; a mean map is scaled from 0 to 1.",
)
_WORST = flags.DEFINE_integer(
    "worst",
    2,
    "With masks: how many images of each group with the lowest Dice are shown, with outlines; 0 shows no image.",
    lower_bound=0,
)
_RESAMPLES = flags.DEFINE_integer("resamples", 2000, "Resamples of the bootstrap.", lower_bound=100)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the bootstrap.")


def _study_sections(context: Context) -> Sequence[Section]:
    """The sections that the analysis of the run's study adds; none where the study has no analysis."""
    from equipoise.tasks import find_analysis

    analysis = find_analysis(context.config.get("study", ""), context.cohort)
    return analysis.sections(context) if analysis else []


def _compare() -> RunComparison:
    """Compares the runs of ``--runs`` and shows the progress."""
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
    """Lists the files directly in the folder, and its folder of figures."""
    print("\n".join(f"  {path}" for path in files if path.parent == output) + f"\n  {output / 'figures'}/")


def _report_many() -> None:
    """Writes the report on many runs."""
    from equipoise.engine import report
    from equipoise.engine.errors import UserError

    if _WORKDIR.value:
        raise UserError("--runs and --workdir exclude each other: a report is on many runs or on one run")
    if not _OUTPUT.value:
        raise UserError("no --out: name a folder for the report on the runs")
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
    """Writes the report; returns the exit code."""
    from equipoise.engine import report
    from equipoise.engine.errors import UserError
    from equipoise.engine.metrics.decisions import policy

    if _RUNS.value:
        _report_many()
        return 0
    if _BY.value:
        raise UserError("--by arranges many runs: give them with --runs='GLOB'")
    if not _WORKDIR.value:
        raise UserError("no --workdir: name the folder of a run, or many runs with --runs='GLOB'")
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
