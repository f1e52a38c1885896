"""Run a published study from one command: prepare, train, evaluate, analyse, report.

  equipoise study --list
  equipoise study --study=simba --size=demo --workdir=studies/simba
  equipoise study --study=simba --size=demo --workdir=studies/simba --dry_run
  equipoise study --study=simba --size=demo --workdir=studies/short --options=subjects=400,seeds=2,steps=100
  equipoise study --study=simba --size=paper --workdir=/scratch/simba --executor=slurm --jobs=8 --gpus_per_job=1
  equipoise study --study=my_pkg.my_study --size=small --workdir=studies/mine

A study is a plan: cohorts to prepare, runs to train and score, and what is made of them. What is done is not done again; the
same command goes on where it stopped. Every step is a command of its own that can be repeated by hand (--dry_run lists them).
Reports come to WORKDIR/report and to each run's own folder; --report_only makes the study's page of what is there so far.
"""

import importlib
import importlib.util
import pathlib

from absl import flags

from equipoise.launch import execution, program

_STUDY = flags.DEFINE_string(
    "study",
    None,
    "A shipped study, or a module with SIZES, OPTIONS, plan() and write(), as tasks/simba/study.py.",
)
_SIZE = flags.DEFINE_string("size", "demo", "How much of it; --list says what there is.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study.")
_LIST = flags.DEFINE_bool("list", False, "List the studies and their sizes, and stop.")
_OPTIONS = flags.DEFINE_list("options", [], "NAME=VALUE settings of the study; --list says which.")
_REPORT_ONLY = flags.DEFINE_bool(
    "report_only", False, "Run nothing: make the study's page of the runs that are there."
)
execution.define_flags()


def shipped() -> list[str]:
    """Names of the studies that come with a plan."""
    from equipoise import tasks

    return sorted(p.parent.name for root in tasks.__path__ for p in pathlib.Path(root).glob("*/study.py"))


def _module(name):
    from equipoise.engine.errors import UserError, did_you_mean

    where = name if "." in name else f"equipoise.tasks.{name}.study"
    try:
        spec = importlib.util.find_spec(where)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise UserError(
            f"--study={name}: no such study.{did_you_mean(name, shipped())} There are: {', '.join(shipped())}; or give a module"
        )
    return importlib.import_module(where)


def main() -> int:
    """Studies."""
    from equipoise.engine.errors import UserError, did_you_mean

    if _LIST.value:
        for name in shipped():
            module = _module(name)
            print(f"{name}: {(module.__doc__ or '').strip().splitlines()[0]}")
            print("\n".join(f"  --size={size:8} {text}" for size, text in module.SIZES.items()))
            print(f"  --options={module.OPTIONS}")
        return 0
    if not _STUDY.value:
        raise UserError(f"no --study: name one of {', '.join(shipped())} (--list says more)")
    module = _module(_STUDY.value)
    if _SIZE.value not in module.SIZES:
        raise UserError(
            f"--size={_SIZE.value}: {_STUDY.value} has {', '.join(module.SIZES)}.{did_you_mean(_SIZE.value, module.SIZES)}"
        )
    if not _WORKDIR.value:
        raise UserError("no --workdir: name the study's folder")
    folder = pathlib.Path(_WORKDIR.value).expanduser().absolute()
    if _REPORT_ONLY.value:
        print(f"the report is at {module.write(folder, program.data_dir().absolute())}")
        return 0
    options = dict(program.setting(text, "--options") for text in _OPTIONS.value)
    return execution.carry_out(module.plan(_SIZE.value, folder, options), folder)


if __name__ == "__main__":
    program.run(main)
