"""Train and score a grid of runs (seeds, methods, scenarios, any field), then report all of them together.

  equipoise sweep --config=simba:near --workdir=sweeps/lr --grid=optimizer.learning_rate=1e-4,1e-3 --grid=seed=0..4
  equipoise sweep --config=simba:near --workdir=sweeps/all --grid=config=simba:none,simba:near,simba:far --grid=seed=0..2
  equipoise sweep ... --evaluate=simba/far_4mm:test --executor=local --jobs=4 --gpus_per_job=1
  equipoise sweep ... --executor=slurm --jobs=16 --slurm=timeout_min=240,slurm_partition=gpu,cpus_per_task=8 --gpus_per_job=1

Every combination of values is a run of its own in WORKDIR/runs. It is trained and scored on the test split. If the sweep
stops, the same command goes on from there and skips what is done; a larger grid adds the runs that are new. At the end the
runs are collected into WORKDIR/report, with one report for each cohort that they were scored on. A report treats seeds and
patients as two sources of uncertainty and compares methods seed by seed. With --config.population.seeds=K each combination
is a population of K seeds, and all of them are in the report.
"""

import pathlib
import sys

from absl import flags

from equipoise.launch import execution, program

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the sweep.")
_GRID = flags.DEFINE_multi_string(
    "grid",
    [],
    "FIELD=VALUE,VALUE,... for a field of the configuration, or FIELD=FIRST..LAST for whole numbers. The field `config` names "
    "several runs. May be repeated.",
)
_EVALUATE = flags.DEFINE_list(
    "evaluate",
    [],
    "Cohorts and splits, COHORT:SPLIT, that every run is scored on. Default: the run's own cohort, split test.",
)
_REPORT = flags.DEFINE_bool("report", True, "Collect the runs into WORKDIR/report at the end.")
_CONFIG = program.define_config()
execution.define_flags()


def _overrides() -> list[str]:
    """The flags of the command line that change the configuration of every run."""
    words = [w for w in sys.argv[1:] if w.startswith(("--config.", "-config."))]
    return [*words, *(f"--config.model.args.{text}" for text in flags.FLAGS.model_args)]


def main() -> int:
    """Sweeps; the exit code."""
    from equipoise.engine.errors import UserError
    from equipoise.tasks.kit import grid

    if not _WORKDIR.value:
        raise UserError("no --workdir: name the sweep's folder")
    folder = pathlib.Path(_WORKDIR.value).expanduser().absolute()
    axes = grid.read_axes(_GRID.value)
    named = [w.split("=", 1)[1] for w in sys.argv[1:] if w.startswith(("--config=", "-config="))]
    base = program.read_config(_CONFIG) if named and "config" not in axes else None
    flags_of = grid.cells(axes, named[0] if named else None, base, _overrides(), program.load_run)
    print(f"{len(flags_of)} runs in {folder / 'runs'}")
    plan = grid.plan(folder, flags_of, _EVALUATE.value, program.load_run, with_report=_REPORT.value)
    return execution.carry_out(plan, folder)


if __name__ == "__main__":
    program.run(main)
