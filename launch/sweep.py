"""Train and score a grid of runs: seeds, methods, scenarios, any setting; then one report of all of them.

  equipoise sweep --config=simba:near --workdir=sweeps/lr --grid=optimizer.learning_rate=1e-4,1e-3 --grid=seed=0..4
  equipoise sweep --config=simba:near --workdir=sweeps/all --grid=config=simba:none,simba:near,simba:far --grid=seed=0..2
  equipoise sweep ... --evaluate=simba/far_4mm:test --executor=local --jobs=4 --gpus_per_job=1
  equipoise sweep ... --executor=slurm --jobs=16 --slurm=timeout_min=240,slurm_partition=gpu,cpus_per_task=8 --gpus_per_job=1

Each cell of the grid is a run of its own in WORKDIR/runs, trained and scored on the test split. The same command goes on
where it stopped and skips what is done; a larger grid adds the cells that are new. When all are done the runs are
collected into WORKDIR/report, one report for each cohort that they were scored on: seeds and patients as two sources of
uncertainty, methods paired by seed. With --config.population.seeds=K a cell is a population, and its seeds are in the report.
"""

import ast
import itertools
import pathlib
import re
import sys

from absl import flags

from equipoise.launch import execution, program
from equipoise.tasks.kit.plan import Chain, Stage

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the sweep.")
_GRID = flags.DEFINE_multi_string(
    "grid", [], "FIELD=VALUE,VALUE,... of the configuration, or FIRST..LAST for whole numbers; `config` for several runs. May be repeated."
)  # fmt: skip
_EVALUATE = flags.DEFINE_list(
    "evaluate", [], "COHORT:SPLIT that every run is scored on as well. Default: the run's own cohort, test."
)
_REPORT = flags.DEFINE_bool("report", True, "Collect the runs into WORKDIR/report at the end.")
_CONFIG = program.define_config()
execution.define_flags()
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_OUTER_COMMAS = re.compile(r",(?![^()\[\]{}]*[)\]}])")


def _axes():
    """(field, values as written) of every --grid."""
    from equipoise.engine.errors import UserError

    found = {}
    for text in _GRID.value:
        name, equals, values = text.partition("=")
        name = name.removeprefix("config.")
        span = _RANGE.fullmatch(values)
        each = (
            [str(i) for i in range(int(span[1]), int(span[2]) + 1)] if span else _OUTER_COMMAS.split(values)
        )
        if not equals or not all(each) or name in found:
            raise UserError(
                f"--grid={text}: write FIELD=VALUE,VALUE,... or FIELD=FIRST..LAST, each field once, "
                "such as --grid=optimizer.learning_rate=1e-4,1e-3 or --grid=seed=0..4"
            )
        found[name] = list(dict.fromkeys(each))
    if not found:
        raise UserError("no --grid: name what differs, such as --grid=seed=0..4")
    return found


def _value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _check(cell):
    """Refuses a cell that training would refuse, before anything runs."""
    from equipoise.engine import config as run_config
    from equipoise.engine import validation
    from equipoise.engine.config import flatten, to_dict
    from equipoise.engine.errors import UserError, did_you_mean

    known = [name for name, _ in flatten(to_dict(run_config.Run()))]
    changes = {}
    for name, text in cell.items():
        if name == "config":
            program.load_run(text)
        elif not name.startswith("model.args."):
            if name not in known:
                raise UserError(f"--grid={name}=...: no such field.{did_you_mean(name, known)}")
            changes[name] = _value(text)
    if "config" not in cell:
        config = run_config.replaced(program.read_config(_CONFIG), **changes)
        validation.validate(config)


def _file_name(cell):
    """A folder's name that says what the cell is: ``learning_rate=0.001,seed=2``."""
    words = [f"{name.rsplit('.', 1)[-1]}={text}" for name, text in cell.items()]
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(words))


def _overrides():
    """What the command line says of the configuration, for every cell."""
    words = [w for w in sys.argv[1:] if w.startswith(("--config.", "-config."))]
    return [*words, *(f"--config.model.args.{text}" for text in flags.FLAGS.model_args)]


def cells():
    """(name, words of `equipoise train`) of each cell.

    Raises:
      UserError: for a grid that cannot be run.
    """
    from equipoise.engine.errors import UserError

    axes, found = _axes(), {}
    base = next((w.split("=", 1)[1] for w in sys.argv[1:] if w.startswith(("--config=", "-config="))), None)
    if base is None and "config" not in axes:
        raise UserError(
            "no --config: name a run, e.g. --config=simba:near, or several with --grid=config=..."
        )
    for values in itertools.product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        _check(cell)
        own = [f"--config.{name}={text}" for name, text in cell.items() if name != "config"]
        name = _file_name(cell)
        if name in found:
            raise UserError(f"two cells of the grid would share the folder {name!r}")
        found[name] = (f"--config={cell.get('config', base)}", *_overrides(), *own)
    return found


def _field(words, name):
    """What a cell's words make of a field, as text."""
    from equipoise.engine.config import flatten, to_dict

    given = [w.partition("=")[2] for w in words if w.lstrip("-").startswith(f"config.{name}=")]
    base = next(w.partition("=")[2] for w in words if w.startswith("--config="))
    return given[-1] if given else str(dict(flatten(to_dict(program.load_run(base))))[name])


def _reports(folder, found):
    """One report for each set of images that runs are scored on."""
    of_cell = {name: _field(words, "data.cohort") for name, words in found.items()}
    scored = [text if ":" in text else f"{text}:test" for text in _EVALUATE.value]
    scored = scored or [f"{cohort}:test" for cohort in dict.fromkeys(of_cell.values())]
    several = any(
        _field(w, "population.seeds") != "1" or _field(w, "population.grid") for w in found.values()
    )
    for text in scored:
        cohort, _, split = text.rpartition(":")
        out = folder / "report"
        if len(scored) > 1:
            out /= f"{cohort.replace('/', '--')}-{split}"
        members = f"{folder / 'runs'}/*" + ("/member_*" if several else "")
        words = ("report", f"--runs={members}", f"--cohort={cohort}", f"--split={split}", f"--out={out}")
        yield Stage(f"collect the runs scored on {cohort} {split}", words, is_repeated=True)


def main() -> int:
    """Sweeps."""
    from equipoise.engine.errors import UserError

    if not _WORKDIR.value:
        raise UserError("no --workdir: name the sweep's folder")
    folder = pathlib.Path(_WORKDIR.value).expanduser().absolute()
    chains = []
    found = cells()
    for name, words in found.items():
        run = f"--workdir={folder / 'runs' / name}"
        stages = [Stage("train", ("train", *words, run, "--config.writers.console=false"))]
        for text in _EVALUATE.value or [""]:
            cohort, _, split = text.rpartition(":") if ":" in text else (text, "", "test")
            where = (f"--cohort={cohort}",) if cohort else ()
            stages.append(Stage("score", ("evaluate", run, *where, f"--split={split}")))
        chains.append(Chain(name, tuple(stages)))
    plan = [chains]
    if _REPORT.value:
        plan.append([Chain("report", tuple(_reports(folder, found)))])
    print(f"{len(chains)} runs in {folder / 'runs'}")
    return execution.carry_out(plan, folder)


if __name__ == "__main__":
    program.run(main)
