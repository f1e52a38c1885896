"""A grid of runs: values of configuration fields, every combination a run of its own, and the reports over all of them."""

import ast
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from equipoise.engine import config as run_config
from equipoise.engine import validation
from equipoise.engine.config import Run, flatten, to_dict
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.rundir import folder_of_cohort
from equipoise.tasks.kit.plan import Job, Plan, Stage, train_words

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_OUTER_COMMAS = re.compile(r",(?![^()\[\]{}]*[)\]}])")
LoadRun = Callable[[str], Run]  # the run that --config=VALUE names

Cell = Mapping[str, str]  # field -> value as written; the field ``config`` names a run


def read_axes(texts: Sequence[str]) -> dict[str, list[str]]:
    """Field -> its values as written, from texts such as ``seed=0..4`` or ``optimizer.learning_rate=1e-4,1e-3``.

    Raises:
      UserError: for a text of another form, a field that is given twice, or no text at all.
    """
    axes: dict[str, list[str]] = {}
    for text in texts:
        name, equals, written = text.partition("=")
        name = name.removeprefix("config.")
        span = _RANGE.fullmatch(written)
        values = (
            [str(i) for i in range(int(span[1]), int(span[2]) + 1)] if span else _OUTER_COMMAS.split(written)
        )
        if not equals or not all(values) or name in axes:
            raise UserError(
                f"--grid={text}: write FIELD=VALUE,VALUE,... or FIELD=FIRST..LAST, each field once, "
                "such as --grid=optimizer.learning_rate=1e-4,1e-3 or --grid=seed=0..4"
            )
        axes[name] = list(dict.fromkeys(values))
    if not axes:
        raise UserError("no --grid: name the fields that differ, such as --grid=seed=0..4")
    return axes


def _value(text: str) -> Any:
    """A value from the command line: a Python literal, true or false, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _check(cell: Cell, base: Run | None, load_run: LoadRun) -> None:
    """Refuses a cell that training would refuse, before anything runs."""
    known = [name for name, _ in flatten(to_dict(Run()))]
    changes = {}
    for name, text in cell.items():
        if name == "config":
            load_run(text)
        elif not name.startswith("model.args."):
            if name not in known:
                raise UserError(f"--grid={name}=...: no such field.{did_you_mean(name, known)}")
            changes[name] = _value(text)
    if "config" not in cell and base is not None:
        validation.validate(run_config.replaced(base, **changes))


def _file_name(cell: Cell) -> str:
    """A folder's name that says what the cell is: ``learning_rate=0.001,seed=2``."""
    words = [f"{name.rsplit('.', 1)[-1]}={text}" for name, text in cell.items()]
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(words))


def cells(
    axes: Mapping[str, Sequence[str]],
    config: str | None,
    base: Run | None,
    overrides: Sequence[str],
    load_run: LoadRun,
) -> dict[str, tuple[str, ...]]:
    """Name of a cell's folder -> the flags of its training.

    Args:
      axes: from :func:`read_axes`.
      config: the run that ``--config`` names; None where the grid names several.
      base: that run with everything that the command line changes; cells are checked against it.
      overrides: flags that every cell has.
      load_run: loads a run by its name.

    Raises:
      UserError: for a grid that cannot be run.
    """
    if config is None and "config" not in axes:
        raise UserError(
            "no --config: name a run, e.g. --config=simba:near, or several with --grid=config=..."
        )
    flags_of: dict[str, tuple[str, ...]] = {}
    for values in itertools.product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        _check(cell, base, load_run)
        own = [f"--config.{name}={text}" for name, text in cell.items() if name != "config"]
        name = _file_name(cell)
        if name in flags_of:
            raise UserError(f"two cells of the grid would share the folder {name!r}")
        flags_of[name] = (f"--config={cell.get('config', config)}", *overrides, *own)
    return flags_of


def _field(words: Sequence[str], name: str, load_run: LoadRun) -> str:
    """The value of a field in a cell with these flags, as text."""
    given = [w.partition("=")[2] for w in words if w.lstrip("-").startswith(f"config.{name}=")]
    config = next(w.partition("=")[2] for w in words if w.startswith("--config="))
    return given[-1] if given else str(dict(flatten(to_dict(load_run(config))))[name])


def _reports(
    folder: pathlib.Path,
    flags_of: Mapping[str, Sequence[str]],
    scored: Sequence[tuple[str, str]],
    load_run: LoadRun,
) -> Iterator[Stage]:
    """One report for each set of images that runs are scored on."""
    default = dict.fromkeys((_field(words, "data.cohort", load_run), "test") for words in flags_of.values())
    scored = scored or list(default)
    has_members = any(
        _field(words, "population.seeds", load_run) != "1" or _field(words, "population.grid", load_run)
        for words in flags_of.values()
    )
    for cohort, split in scored:
        out = folder / "report"
        if len(scored) > 1:
            out /= f"{folder_of_cohort(cohort)}-{split}"
        runs = f"{folder / 'runs'}/*" + ("/member_*" if has_members else "")
        words = ("report", f"--runs={runs}", f"--cohort={cohort}", f"--split={split}", f"--out={out}")
        yield Stage(f"collect the runs scored on {cohort} {split}", words, is_repeated=True)


def plan(
    folder: pathlib.Path,
    flags_of: Mapping[str, Sequence[str]],
    scored: Sequence[str],
    load_run: LoadRun,
    *,
    with_report: bool = True,
) -> Plan:
    """Trains and scores every cell, then reports them together.

    Args:
      folder: of the sweep; a cell has the folder ``runs/NAME``.
      flags_of: from :func:`cells`.
      scored: ``COHORT:SPLIT``, or a cohort for its test split; where it is empty, every run is scored on its own cohort.
      load_run: loads a run by its name.
      with_report: whether reports end the plan.
    """
    parts = [text.rpartition(":")[::2] if ":" in text else (text, "test") for text in scored]
    jobs = []
    for name, words in flags_of.items():
        run = f"--workdir={folder / 'runs' / name}"
        stages = [Stage("train", train_words(*words, run))]
        for cohort, split in parts or [("", "test")]:
            where = (f"--cohort={cohort}",) if cohort else ()
            stages.append(Stage("score", ("evaluate", run, *where, f"--split={split}")))
        jobs.append(Job(name, tuple(stages)))
    report = [Job("report", tuple(_reports(folder, flags_of, parts, load_run)))]
    return [jobs, report] if with_report else [jobs]
