"""Turn a run's predictions into a fairness report: one page, its figures, and the numbers behind them.

  equipoise report --workdir=runs/near
  equipoise report --workdir=runs/near --cohort=simba/far_4mm --split=test
  equipoise report --workdir=runs/near --step=600 --output=/tmp/report --group='race,sex,race*sex'

Reads what `equipoise evaluate` and training left in the run's folder, and the cohort's own counts and regions. Writes
report.html (stands alone; open it in any browser), metrics.json, metrics.csv, model_card.md and figures/, by default to
WORKDIR/report. Every other evaluation of the same checkpoint is there for comparison: with the counterfactual cohort
evaluated, the report says what the bias does to the same subjects. Neither page nor numbers name a person.
"""

import dataclasses
import importlib.util
import json
import pathlib

from absl import flags, logging

from launch import program

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_COHORT = flags.DEFINE_string(
    "cohort", None, "Evaluated cohort to report. Default: the one the run was trained on."
)
_SPLIT = flags.DEFINE_string("split", "test", "Split of that cohort.")
_STEP = flags.DEFINE_string(
    "step", "best", "best (by the run's validation metric, among those evaluated) or a number."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to. Default: WORKDIR/report.")
_GROUP = flags.DEFINE_list(
    "group",
    [],
    "Attributes whose groups are compared; race*sex is an intersection. Default: every attribute.",
)
_RESAMPLES = flags.DEFINE_integer("resamples", 2000, "Bootstrap resamples.", lower_bound=100)
_SEED = flags.DEFINE_integer("seed", 0, "Of the bootstrap.")


def _choose_step(workdir, config, cohort, split, wanted):
    """The evaluated step to report; where there is none, the error says which command makes it."""
    from engine import evaluate
    from engine.config import UserError

    folder = evaluate.table_path(workdir, cohort, split, 0).parent
    there = sorted(int(p.stem) for p in folder.glob("*.parquet") if p.stem.isdigit())
    command = f"equipoise evaluate --workdir={workdir} --cohort={cohort} --split={split}"
    if not there:
        raise UserError(f"{cohort} {split} has not been evaluated: run `{command}`")
    if wanted == "best":
        return evaluate.best_step(workdir, config, there)
    if wanted.isdigit() and int(wanted) in there:
        return int(wanted)
    raise UserError(
        f"--step={wanted}: give best or one of {', '.join(map(str, there))}; others after `{command} --step=N`"
    )


def _cohort_files(cohort):
    """(metadata, cohort report) of a prepared cohort; both empty, with a warning, where it is not prepared here."""
    from engine import data
    from engine.config import UserError

    try:
        builder = data.open_builder(cohort, program.data_dir())
    except UserError as error:
        logging.warning("the report lacks the cohort's composition and regions: %s", error)
        return {}, {}
    path = pathlib.Path(builder.data_path) / "cohort_report.json"
    return dict(builder.info.metadata or {}), json.loads(path.read_text()) if path.exists() else {}


def _study_sections(context):
    """What ``tasks/<first part of the cohort's name>/analysis.py`` adds, where there is one."""
    study = context.cohort.split("/")[0]
    known = study.isidentifier() and importlib.util.find_spec(f"tasks.{study}")
    if not known or not importlib.util.find_spec(f"tasks.{study}.analysis"):
        return []
    return importlib.import_module(f"tasks.{study}.analysis").sections(context)


def main() -> None:
    """Reports."""
    from engine import config as run_config
    from engine.config import UserError

    if not _WORKDIR.value:
        raise UserError("no --workdir: name the folder of a run")
    workdir = pathlib.Path(_WORKDIR.value).expanduser()
    config = run_config.load(workdir)

    import numpy as np

    from engine import evaluate
    from engine.metrics import table
    from engine.report import audit, content
    from engine.writers import read_rows

    cohort, split = _COHORT.value or config.data.cohort, _SPLIT.value
    step = _choose_step(workdir, config, cohort, split, _STEP.value)
    main_table = table.read_table(evaluate.table_path(workdir, cohort, split, step))
    others = [
        table.read_table(p).frame for p in sorted((workdir / "evaluations").glob(f"*/*/{step:08d}.parquet"))
    ]
    tables = {(f["cohort"].iloc[0], f["split"].iloc[0]): f for f in others if len(f)} | {
        (cohort, split): main_table.frame
    }
    groups = _GROUP.value or [
        name for name, levels in main_table.schema.attributes.items() if levels is not None
    ]
    metadata, cohort_report = _cohort_files(cohort)
    maps = evaluate.saliency_path(workdir, cohort, step)
    context = dataclasses.replace(
        audit.context(main_table, groups=groups, resamples=_RESAMPLES.value, seed=_SEED.value),
        workdir=workdir, config=run_config.to_dict(config), cohort=cohort, split=split, step=step, tables=tables, models={},
        history=read_rows(workdir / "metrics.jsonl"), metadata=metadata, cohort_report=cohort_report,
        saliency=dict(np.load(maps)) if maps.exists() else None,
    )  # fmt: skip
    output = pathlib.Path(_OUTPUT.value).expanduser() if _OUTPUT.value else workdir / "report"
    files = content.write(context, output, _study_sections(context))
    print(f"{cohort} {split}, step {step}: {len(main_table.frame)} images")
    print("\n".join(f"  {path}" for path in files if path.parent == output) + f"\n  {output / 'figures'}/")


if __name__ == "__main__":
    program.run(main)
