"""Run a published study from one command: prepare cohorts, train, evaluate, analyse, report.

  equipoise study --list
  equipoise study --study=simba --size=demo --workdir=studies/simba
  equipoise study --study=simba --size=demo --workdir=studies/simba --dry_run
  equipoise study --study=simba --size=demo --workdir=studies/short --options=subjects=400,seeds=2,steps=100
  equipoise study --study=simba --size=paper --workdir=/scratch/simba --executor=slurm --jobs=8 --gpus_per_job=1
  equipoise study --study=my_pkg.my_study --size=small --workdir=studies/mine

A study is a plan: the cohorts to prepare, the runs to train and score, and the reports to write. If it stops, the same
command goes on from there; what is done is not done again. Every step is a command that you can also run by hand
(--dry_run lists them). The study's report is in WORKDIR/report, and some runs have a report in their own folder.
--report_only writes the study's report from the runs that are there so far.
"""

import pathlib

from absl import flags

from equipoise.launch import execution, program

_STUDY = flags.DEFINE_string(
    "study",
    None,
    "A study that comes with Equipoise, or a module with SIZES, OPTIONS, plan() and write(), like tasks/simba/study.py.",
)
_SIZE = flags.DEFINE_string("size", "demo", "How large the study is; --list shows the sizes.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study.")
_LIST = flags.DEFINE_bool("list", False, "List the studies, their sizes and their options, and stop.")
_OPTIONS = flags.DEFINE_list("options", [], "Settings of the study, NAME=VALUE; --list shows the names.")
_REPORT_ONLY = flags.DEFINE_bool(
    "report_only", False, "Run nothing; write the study's report from the runs that are there."
)
execution.define_flags()


def _list() -> None:
    """Prints every study with its sizes and options."""
    from equipoise import tasks

    for name in tasks.studies("study"):
        study = tasks.find_study(name)
        print(f"{name}: {(study.__doc__ or '').strip().splitlines()[0]}")
        print("\n".join(f"  --size={size:8} {text}" for size, text in study.SIZES.items()))
        print(f"  --options={study.OPTIONS}")


def main() -> int:
    """Runs a study; the exit code."""
    from equipoise import tasks
    from equipoise.engine.errors import UserError, did_you_mean

    if _LIST.value:
        _list()
        return 0
    if not _STUDY.value:
        raise UserError(
            f"no --study: name one of {', '.join(tasks.studies('study'))} (--list describes them)"
        )
    study = tasks.find_study(_STUDY.value)
    if _SIZE.value not in study.SIZES:
        raise UserError(
            f"--size={_SIZE.value}: {_STUDY.value} has {', '.join(study.SIZES)}.{did_you_mean(_SIZE.value, study.SIZES)}"
        )
    if not _WORKDIR.value:
        raise UserError("no --workdir: name the study's folder")
    folder = pathlib.Path(_WORKDIR.value).expanduser().absolute()
    if _REPORT_ONLY.value:
        print(f"the report is at {study.write(folder, program.data_dir().absolute())}")
        return 0
    options = dict(program.setting(text, "--options") for text in _OPTIONS.value)
    return execution.carry_out(study.plan(_SIZE.value, folder, options), folder)


if __name__ == "__main__":
    program.run(main)
