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

import dataclasses
import glob
import json
import pathlib
import re

from absl import flags, logging

from equipoise.launch import program

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


def _choose_step(workdir, config, cohort, split, wanted):
    """The evaluated step to report; where there is none, the error says which command makes it."""
    from equipoise.engine import rundir
    from equipoise.engine.errors import UserError
    from equipoise.engine.training import choosing

    there = rundir.RunFolder(workdir).steps(cohort, split)
    command = f"equipoise evaluate --workdir={workdir} --cohort={cohort} --split={split}"
    if not there:
        raise UserError(f"{cohort} {split} has not been evaluated: run `{command}`")
    if wanted == "best":
        return choosing.best_step(workdir, config, there)
    if wanted == "last":
        return there[-1]
    if wanted.isdigit() and int(wanted) in there:
        return int(wanted)
    raise UserError(
        f"--step={wanted}: give best, last or one of {', '.join(map(str, there))}; others after `{command} --step=N`"
    )


def _cohort_files(cohort):
    """(metadata, cohort report) of a prepared cohort; both empty, with a warning, where it is not prepared here."""
    from equipoise.engine import data
    from equipoise.engine.errors import UserError

    try:
        builder = data.open_builder(cohort, program.data_dir())
    except UserError as error:
        logging.warning("the report lacks the cohort's composition and regions: %s", error)
        return {}, {}
    path = pathlib.Path(builder.data_path) / "cohort_report.json"
    return dict(builder.info.metadata or {}), json.loads(path.read_text()) if path.exists() else {}


def _of_masks(config, table, path, groups):
    """What differs in the context of a run of masks; its worst cases only where the cohort is prepared here."""
    if table.schema.kind != "values":
        return {"models": {}}

    from equipoise.engine import data, rundir
    from equipoise.engine import predicted_masks as segments
    from equipoise.engine.errors import UserError
    from equipoise.engine.explain import worst_cases

    found = {"notes": (segments.note(config.task.tolerance),)}
    if not _WORST.value or not rundir.masks_beside(path).exists():
        return found
    cohort, split = (table.frame[c].iloc[0] for c in ("cohort", "split"))
    try:
        opened = data.open_split(cohort, split, program.data_dir())
    except UserError as error:
        logging.warning("the report shows no worst cases: %s", error)
        return found
    attributes = [g for g in groups if table.schema.attributes.get(g)]
    predicted = segments.Predicted(path)
    return found | {
        "worst": worst_cases.find(opened, config, table.frame, predicted, attributes, _WORST.value)
    }


def _study_sections(context):
    """What the analysis of the run's study adds, where there is one."""
    from equipoise.tasks import find_analysis

    analysis = find_analysis(context.config.get("study", ""), context.cohort)
    return analysis.sections(context) if analysis else []


def _folders(pattern):
    """Folders that a glob matches, in the order of their names, numbers by value; at least one of them a run."""
    from equipoise.engine import rundir
    from equipoise.engine.errors import UserError

    pattern = str(pathlib.Path(pattern).expanduser())
    matched = [pathlib.Path(p) for p in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    if not any(rundir.RunFolder(p).is_run for p in matched):
        what = (
            "matches nothing"
            if not matched
            else f"matches {len(matched)} paths, none of them a run (no config.json)"
        )
        raise UserError(f"--runs={pattern} {what}: quote a glob of runs' folders, such as --runs='runs/*'")
    natural = lambda p: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", str(p))]  # noqa: E731
    return sorted({p.resolve(): p for p in matched if p.is_dir()}.values(), key=natural)


def _many() -> None:
    """Reports many runs."""
    from equipoise.engine.errors import UserError

    if _WORKDIR.value:
        raise UserError("--runs and --workdir exclude each other: one report is of many runs or of one")
    if not _OUTPUT.value:
        raise UserError("no --out: name a folder for the report of the runs")
    folders = _folders(_RUNS.value)

    import rich.console
    import rich.progress

    from equipoise.engine import gather as runs
    from equipoise.engine.metrics.comparing import methods as over_runs
    from equipoise.engine.metrics.frame import evaluate as frame
    from equipoise.engine.report.many import context as runs_context
    from equipoise.engine.report.many import sections as page
    from equipoise.engine.report.single import audit, findings

    def choose(folder, config, cohort):
        return _choose_step(folder, config, cohort, _SPLIT.value, _STEP.value)

    with rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("reading runs", total=len(folders))
        told = lambda done, total: progress.update(bar, completed=done, total=total)  # noqa: E731
        gathered = runs.gather(
            folders,
            _COHORT.value,
            _SPLIT.value,
            choose,
            by=_BY.value,
            finished=not _STEP.value.isdigit(),
            progress=told,
        )
        schema = gathered.members[0].base.schema
        groups = _GROUP.value or [name for name, levels in schema.attributes.items() if levels is not None]
        scored = {}
        progress.update(bar, description="scoring runs")
        for number, member in enumerate(gathered.members):
            told(number, len(gathered.members))
            found = frame.evaluate_models(
                member.table, metrics=findings.leads(schema.kind), groups=groups, resamples=_RESAMPLES.value, seed=_SEED.value, compare=False
            )  # fmt: skip
            one = audit.merged(found) if schema.kind == "values" else next(iter(found.values()))
            scored.setdefault(member.method, {})[member.block] = one
        progress.update(bar, description="spread over seeds", completed=0)
        methods = {}
        for number, (name, found) in enumerate(scored.items()):
            told(number, len(scored))
            methods[name] = over_runs.method(found)
        progress.update(bar, description="comparing methods", completed=0)
        contrasts = over_runs.contrasts(methods, told)
    first = next(iter(next(iter(scored.values())).values()))
    kept = ("seed", "resamples", "confidence", "task", "cohort", "split", "label", "positive", "num_images", "num_subjects",
            "num_positive", "versions")  # fmt: skip
    settings = {k: first.settings[k] for k in kept} | {"step": _STEP.value}
    made_by = f"equipoise report --runs=... --cohort={gathered.cohort} --split={gathered.split} --step={_STEP.value}"
    made_by += (
        "".join(f" --{flag.name}='{','.join(flag.value)}'" for flag in (_BY, _GROUP) if flag.value)
        + " --out=..."
    )
    made = runs_context.Comparison(gathered, methods, contrasts, settings, made_by)
    output = pathlib.Path(_OUTPUT.value).expanduser()
    files = page.write(made, output)
    print(f"{gathered.cohort} {gathered.split}: {len(gathered.members)} runs of {len(methods)} methods")
    for name, members in gathered.methods.items():
        print(f"  {name}: {', '.join(m.block for m in members)}")
    for name, why in gathered.excluded:
        print(f"left out: {name}: {why}")
    print("\n".join(f"  {path}" for path in files if path.parent == output) + f"\n  {output / 'figures'}/")


def main() -> int:
    """Reports; the exit code."""
    from equipoise.engine import config as run_config
    from equipoise.engine.errors import UserError

    if _RUNS.value:
        _many()
        return 0
    if _BY.value:
        raise UserError("--by arranges several runs: give them with --runs='GLOB'")
    if not _WORKDIR.value:
        raise UserError("no --workdir: name the folder of a run, or several with --runs='GLOB'")
    if not 0 < _REGION_CUT.value < 1:
        raise UserError(f"--region_cut={_REGION_CUT.value}: give a number between 0 and 1")
    workdir = pathlib.Path(_WORKDIR.value).expanduser()
    config = run_config.load(workdir)

    import numpy as np

    from equipoise.engine import rundir
    from equipoise.engine.metrics.decisions import policy as policies
    from equipoise.engine.metrics.table import table
    from equipoise.engine.report.single import audit, policy
    from equipoise.engine.report.single import contents as content
    from equipoise.engine.training import population
    from equipoise.engine.training.writers import read_rows

    rules = policies.read(_POLICY.value) if _POLICY.value else None
    members = population.folders(workdir, config)
    if members != [workdir]:
        raise UserError(
            f"{workdir} holds a population of {len(members)} runs: report all with --runs='{workdir}/member_*', or one: --workdir={members[0]}"
        )
    cohort, split = _COHORT.value or config.data.cohort, _SPLIT.value
    step = _choose_step(workdir, config, cohort, split, _STEP.value)
    path = rundir.RunFolder(workdir).evaluation(cohort, split, step)
    main_table = table.read_table(path)
    others = [
        table.read_table(other.path).frame for other in rundir.RunFolder(workdir).evaluations(step=step)
    ]
    tables = {(f["cohort"].iloc[0], f["split"].iloc[0]): f for f in others if len(f)} | {
        (cohort, split): main_table.frame
    }
    groups = _GROUP.value or [
        name for name, levels in main_table.schema.attributes.items() if levels is not None
    ]
    metadata, cohort_report = _cohort_files(cohort)
    maps = rundir.RunFolder(workdir).saliency(cohort, step)
    context = dataclasses.replace(
        audit.context(main_table, groups=groups, resamples=_RESAMPLES.value, seed=_SEED.value),
        workdir=workdir, config=run_config.to_dict(config), cohort=cohort, split=split, step=step, tables=tables,
        **_of_masks(config, main_table, path, groups),
        history=read_rows(rundir.RunFolder(workdir).metrics), metadata=metadata, cohort_report=cohort_report,
        saliency=dict(np.load(maps)) if maps.exists() else None, region_cut=_REGION_CUT.value,
    )  # fmt: skip
    if rules:
        context = policy.judged(context, rules)
    output = pathlib.Path(_OUTPUT.value).expanduser() if _OUTPUT.value else rundir.RunFolder(workdir).report
    files = content.write(context, output, _study_sections(context))
    print(f"{cohort} {split}, step {step}: {len(main_table.frame)} images")
    print("\n".join(f"  {path}" for path in files if path.parent == output) + f"\n  {output / 'figures'}/")
    return program.gate(context.verdicts)


if __name__ == "__main__":
    program.run(main)
