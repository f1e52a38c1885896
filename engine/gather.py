"""Gathers runs for a report: reads them one by one and arranges them by the fields in which their configurations differ.

All runs of a report were scored on the same images. A run that cannot be compared with the others is listed by name with the
reason. Each run keeps only its scores and thresholds in memory; the columns that all runs share are held once.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from equipoise.engine import config as run_config
from equipoise.engine.config import Run
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.table import table
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.rundir import RunFolder
from equipoise.engine.training.writers import read_rows

_LEADS = ("kind", "name", "cohort")  # the fields that name a method best, in this order
_ABSENT = "–"


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a report.

    Attributes:
      name: of its folder, without the part of the path that all folders share.
      method: name of its combination of factors.
      block: what runs of different methods are paired by: the seed, and the fields that differ within methods.
      factors: field that differs between runs -> its value in this run, as text; the seed is none of them.
      step: of the checkpoint.
      base: the columns that all members share: images, targets and attributes.
      own: the columns of this run: scores, thresholds and provenance.
    """

    name: str
    method: str
    block: str
    factors: Mapping[str, str]
    step: int
    base: Table
    own: Mapping[str, Any]

    @property
    def table(self) -> Table:
        """The run's prediction table, put together at each call."""
        return Table(self.base.frame.assign(**self.own), self.base.schema)


@dataclasses.dataclass(frozen=True)
class Gathered:
    """The runs of a report.

    Attributes:
      members: the runs that are compared, method by method and seed by seed.
      excluded: (name of the folder, reason) for every other run.
      factors: the fields that distinguish methods.
      within: the fields that differ between runs of one method.
      cohort: the cohort that all were scored on.
      split: its split.
    """

    members: Sequence[Member]
    excluded: Sequence[tuple[str, str]]
    factors: Sequence[str]
    within: Sequence[str]
    cohort: str
    split: str

    @property
    def methods(self) -> dict[str, list[Member]]:
        """Method -> its runs."""
        methods: dict[str, list[Member]] = {}
        for member in self.members:
            methods.setdefault(member.method, []).append(member)
        return methods


@dataclasses.dataclass(frozen=True)
class _Read:
    """A run as it was read. Runs on the same images share ``base``."""

    name: str
    config: Run
    step: int
    base: Table
    own: Mapping[str, Any]


def gather(
    folders: Sequence[pathlib.Path], cohort: str | None, split: str, choose: Callable[[pathlib.Path, Run, str], int], *,
    by: Sequence[str] = (), finished: bool = True, progress: Callable[[int, int], None] | None = None,
) -> Gathered:  # fmt: skip
    """Reads and arranges runs.

    Args:
      folders: the runs' folders.
      cohort: the cohort whose evaluations are read; None: the cohort that all runs were trained on.
      split: of that cohort.
      choose: (folder, configuration, cohort) -> the step to read.
      by: the fields that distinguish methods, such as ``model.name`` or the last part of such a name; by default all that differ.
      finished: whether to leave out runs that have not reached their number of steps.
      progress: called with (folders done, folders in all).

    Raises:
      UserError: when no run is left, when the runs were trained on several cohorts and none is chosen, or for an unknown field.
    """
    names = _names(folders)
    excluded: dict[str, str] = {}
    configs = {}
    for folder in folders:
        try:
            configs[folder] = run_config.load(folder)
            if finished:
                _require_end(folder, configs[folder])
        except (UserError, json.JSONDecodeError, TypeError) as error:
            configs.pop(folder, None)
            excluded[names[folder]] = _reason(error, folder)
    cohort = cohort or _common_cohort(configs.values())
    runs: list[_Read] = []
    bases: dict[tuple[str, str], Table] = {}
    for number, folder in enumerate(folders):
        if folder in configs:
            try:
                config = configs[folder]
                step = choose(folder, config, cohort)
                read = table.read_table(RunFolder(folder).evaluation(cohort, split, step))
                runs.append(_thinned(names[folder], config, step, read, bases))
            except UserError as error:
                excluded[names[folder]] = _reason(error, folder)
        if progress:
            progress(number + 1, len(folders))
    kept = _same_images(runs, bases, excluded)
    order = {name: place for place, name in enumerate(names.values())}
    members, factors, within = _arranged(kept, by, excluded)
    left_out = sorted(excluded.items(), key=lambda item: order[item[0]])
    if not members:
        lines = "\n".join(f"  {name}: {why}" for name, why in left_out)
        raise UserError(f"none of the {len(folders)} folders can be reported:\n{lines}")
    return Gathered(members, left_out, factors, within, cohort, split)


def _names(folders: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Folder -> its name, without the part of the path that all folders share."""
    shared = os.path.commonpath([f.absolute().parent for f in folders])
    return {f: f.absolute().relative_to(shared).as_posix() for f in folders}


def _reason(error: Exception, folder: pathlib.Path) -> str:
    """Why a folder is left out, in words."""
    if isinstance(error, UserError):
        return str(error).replace(str(folder), folder.name)
    return "config.json cannot be read: it is not the configuration of a run"


def _require_end(folder: pathlib.Path, config: Run) -> None:
    """Raises UserError for a run that has not reached its number of steps."""
    done = max((row["step"] for row in read_rows(RunFolder(folder).metrics)), default=0)
    if done < config.num_steps:
        raise UserError(
            f"unfinished: step {done} of {config.num_steps}; go on with `equipoise train`, or compare at --step=N"
        )


def _common_cohort(configs: Iterable[Run]) -> str:
    """The cohort that all runs were trained on."""
    cohorts = sorted({c.data.cohort for c in configs})
    if len(cohorts) > 1:
        raise UserError(
            f"the runs were trained on {', '.join(cohorts)}: name with --cohort the one that all of them were scored on"
        )
    return cohorts[0] if cohorts else ""


def _digest(frame: pd.DataFrame, columns: Sequence[str]) -> str:
    """A digest of some columns of a table."""
    return hashlib.sha256(
        pd.util.hash_pandas_object(frame[list(columns)], index=False).to_numpy().tobytes()
    ).hexdigest()


def _thinned(name: str, config: Run, step: int, read: Table, bases: dict[tuple[str, str], Table]) -> _Read:
    """Parts a table into the columns of the run and those of its images, which runs on the same images share."""
    schema = read.schema
    frame = read.frame.sort_values("scan_id", ignore_index=True)
    grouped = {name: schema.attributes[name] for name in sorted(schema.attributes) if schema.attributes[name]}
    question = (schema.task, schema.label, schema.classes, schema.positive, schema.scores, grouped)
    images = _digest(frame, ("scan_id", "subject_id"))
    known = hashlib.sha256(repr(question).encode()).hexdigest() + _digest(frame, (*schema.targets, *grouped))
    of_run = {
        c: frame[c].to_numpy()
        for c in frame
        if c in schema.scores or str(c).startswith("threshold:") or c == "threshold"
    }
    marks = ("threshold_split", "checkpoint_step", "checkpoint_fingerprint", "config_fingerprint")
    of_run |= {c: frame[c].iloc[0] for c in marks if len(frame)}
    base = bases.setdefault((images, known), Table(frame.drop(columns=list(of_run)), schema))
    return _Read(name, config, step, base, of_run)


def _same_images(
    runs: Sequence[_Read], bases: Mapping[tuple[str, str], Table], excluded: dict[str, str]
) -> list[_Read]:
    """The runs on those images that most runs were scored on (of equally common ones, the first); excludes the others."""
    if not runs:
        return []
    key = {id(base): k for k, base in bases.items()}
    most = Counter(key[id(run.base)] for run in runs).most_common(1)[0][0]
    kept = []
    for run in runs:
        images, labels = key[id(run.base)]
        if images != most[0]:
            mine, theirs = (set(b.frame["scan_id"]) for b in (run.base, bases[most]))
            excluded[run.name] = (
                f"scored on other images: {len(mine)} of which {len(mine & theirs)} are among the {len(theirs)} of the other runs; "
                "evaluate all runs on one build of the cohort"
            )
        elif labels != most[1]:
            excluded[run.name] = (
                "the same images with other labels or attributes; evaluate all runs on one build of the cohort"
            )
        else:
            kept.append(run)
    return kept


def _text(value: Any) -> str:
    """The value of a field as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value != "" else "none"


def _differing(runs: Sequence[_Read]) -> dict[str, dict[str, str]]:
    """Field that differs between runs -> name of the run -> its value; the fields that name a method best come first."""
    flat = {
        r.name: {k: _text(v) for k, v in run_config.identity(r.config).items() if k != "seed"}
        | {"num_steps": str(r.config.num_steps)}
        for r in runs
    }
    fields = list(dict.fromkeys(name for values in flat.values() for name in values))
    by_field = {f: {name: values.get(f, _ABSENT) for name, values in flat.items()} for f in fields}

    def place(field: str) -> int:
        last = field.rpartition(".")[2]
        return _LEADS.index(last) if last in _LEADS else len(_LEADS)

    return {f: by_field[f] for f in sorted(fields, key=place) if len(set(by_field[f].values())) > 1}


def _chosen(by: Sequence[str], runs: Sequence[_Read], differing: Mapping[str, Any]) -> list[str]:
    """The full names of the fields that ``by`` asks for."""
    fields = [k for k in run_config.identity(runs[0].config) if k != "seed"] + ["num_steps"]
    fields = list(dict.fromkeys([*fields, *differing]))
    chosen = []
    for word in by:
        fits = [f for f in fields if f == word] or [f for f in fields if f.endswith(f".{word}")]
        if len(fits) > 1:
            raise UserError(f"--by: {word!r} may mean {' or '.join(fits)}: write the whole name")
        if not fits:
            raise UserError(
                f"--by: no field {word!r} in the runs' config.json.{did_you_mean(word, fields)} "
                f"Fields that differ between these runs: {', '.join(differing) or 'none but the seed'}"
            )
        chosen += fits
    return chosen


def _needed(
    factors: Sequence[str], values: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> list[str]:
    """The first factors that tell the methods apart. A factor that follows from those before it is left out, as it adds nothing to a name."""
    kept: list[str] = []
    for factor in factors:
        parts = Counter(tuple(values[f][n] for f in kept) for n in names)
        if len(Counter(tuple(values[f][n] for f in (*kept, factor)) for n in names)) > len(parts):
            kept.append(factor)
    return kept


def _arranged(
    runs: Sequence[_Read], by: Sequence[str], excluded: dict[str, str]
) -> tuple[list[Member], list[str], list[str]]:
    """Arranges runs: (members in order, factors of the methods, fields that differ within methods)."""
    if not runs:
        return [], [], []
    values = _differing(runs)
    factors = [f for f in _chosen(by, runs, values) if f in values] if by else list(values)
    names = [r.name for r in runs]
    within = [f for f in values if f not in factors and _needed([*factors, f], values, names)[-1:] == [f]]
    needed, blocked = _needed(factors, values, names), _needed(within, values, names)
    ends = Counter(f.rpartition(".")[2] for f in (*needed, *blocked))

    def say(field: str, name: str) -> str:
        last = field.rpartition(".")[2]
        return f"{last if ends[last] == 1 else field}={values[field][name]}"

    def method(name: str) -> str:
        if (
            len(needed) == 1
            and values[needed[0]][name] not in ("none", _ABSENT)
            and not values[needed[0]][name][0].isdigit()
        ):
            return values[needed[0]][name]
        return ", ".join(say(f, name) for f in needed) or runs[0].config.model.name

    members, seen = [], {}
    for run in runs:
        where = method(run.name), ", ".join([f"seed {run.config.seed}", *(say(f, run.name) for f in blocked)])
        if where in seen:
            excluded[run.name] = f"it has the same configuration and seed as {seen[where]}, which is counted"
            continue
        seen[where] = run.name
        of_run = {f: values[f][run.name] for f in values}
        members.append((run.config.seed, Member(run.name, *where, of_run, run.step, run.base, run.own)))
    place = {name: number for number, name in enumerate(dict.fromkeys(m.method for _, m in members))}
    members.sort(key=lambda pair: (place[pair[1].method], pair[0], pair[1].block))
    return [member for _, member in members], factors, within
