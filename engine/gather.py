"""Many runs of one question: read one by one, arranged by what differs in their configurations, on the same images.

A run that cannot be compared with the others is kept by name with the reason. Of each run that takes part only scores and
thresholds stay in memory; the images they belong to are held once.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from equipoise.engine import config as run_config
from equipoise.engine.config import Run
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.metrics.table import table
from equipoise.engine.metrics.table.table import Table
from equipoise.engine.rundir import RunFolder
from equipoise.engine.training.writers import read_rows

_LEADS = ("kind", "name", "cohort")  # fields that name a method best, in this order
_ABSENT = "–"


@dataclasses.dataclass(frozen=True)
class Member:
    """A run that takes part.

    Attributes:
      name: of its folder, without what all folders share.
      method: name of its combination of factors.
      block: what it is paired by: its seed, and whatever else differs within methods.
      factors: every field that differs between runs, the seed aside -> its value here, as text.
      step: of the checkpoint.
      base: its images, which all members share.
      own: its scores, thresholds and provenance.
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
        """Its predictions, put together anew at each call."""
        return Table(self.base.frame.assign(**self.own), self.base.schema)


@dataclasses.dataclass(frozen=True)
class Gathered:
    """The runs of a report.

    Attributes:
      members: that take part, method by method and seed by seed.
      excluded: (name of the folder, why) of all others.
      factors: fields that make the methods.
      within: fields that differ within methods.
      cohort: that all were scored on.
      split: of the cohort.
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
        found: dict[str, list[Member]] = {}
        for member in self.members:
            found.setdefault(member.method, []).append(member)
        return found


@dataclasses.dataclass(frozen=True)
class _Read:
    """A run as read; ``base`` is shared by all runs of the same images."""

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
      folders: of runs.
      cohort: whose evaluation is read; None: the one that all were trained on.
      split: of that cohort.
      choose: (folder, configuration, cohort) -> step to read.
      by: fields that make the methods, such as ``model.name`` or the last part of such a name; by default all that differ.
      finished: whether a run that has not reached its number of steps is left out.
      progress: called with (folders done, folders in all).

    Raises:
      UserError: where no run is left, where the runs were trained on several cohorts and none is chosen, or for an unknown field.
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
    found: list[_Read] = []
    bases: dict[tuple[str, str], Table] = {}
    for number, folder in enumerate(folders):
        if folder in configs:
            try:
                config = configs[folder]
                step = choose(folder, config, cohort)
                read = table.read_table(RunFolder(folder).evaluation(cohort, split, step))
                found.append(_thinned(names[folder], config, step, read, bases))
            except UserError as error:
                excluded[names[folder]] = _reason(error, folder)
        if progress:
            progress(number + 1, len(folders))
    kept = _same_images(found, bases, excluded)
    order = {name: place for place, name in enumerate(names.values())}
    members, factors, within = _arranged(kept, by, excluded)
    left_out = sorted(excluded.items(), key=lambda item: order[item[0]])
    if not members:
        lines = "\n".join(f"  {name}: {why}" for name, why in left_out)
        raise UserError(f"none of the {len(folders)} folders can be reported:\n{lines}")
    return Gathered(members, left_out, factors, within, cohort, split)


def _names(folders: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Each folder without the path that all share."""
    shared = os.path.commonpath([f.absolute().parent for f in folders])
    return {f: f.absolute().relative_to(shared).as_posix() for f in folders}


def _reason(error: Exception, folder: pathlib.Path) -> str:
    if isinstance(error, UserError):
        return str(error).replace(str(folder), folder.name)
    return "config.json cannot be read: it is no configuration of a run"


def _require_end(folder: pathlib.Path, config: Run) -> None:
    done = max((row["step"] for row in read_rows(RunFolder(folder).metrics)), default=0)
    if done < config.num_steps:
        raise UserError(
            f"unfinished: step {done} of {config.num_steps}; go on with `equipoise train`, or compare at --step=N"
        )


def _common_cohort(configs: Any) -> str:
    cohorts = sorted({c.data.cohort for c in configs})
    if len(cohorts) > 1:
        raise UserError(
            f"the runs were trained on {', '.join(cohorts)}: say with --cohort on which of them all were scored"
        )
    return cohorts[0] if cohorts else ""


def _digest(frame: pd.DataFrame, columns: Sequence[str]) -> str:
    return hashlib.sha256(
        pd.util.hash_pandas_object(frame[list(columns)], index=False).to_numpy().tobytes()
    ).hexdigest()


def _thinned(name: str, config: Run, step: int, read: Table, bases: dict[tuple[str, str], Table]) -> _Read:
    """A run's own columns, and the table of its images that it shares with other runs."""
    schema = read.schema
    frame = read.frame.sort_values("scan_id", ignore_index=True)
    grouped = {name: schema.attributes[name] for name in sorted(schema.attributes) if schema.attributes[name]}
    question = (schema.task, schema.label, schema.classes, schema.positive, schema.scores, grouped)
    images = _digest(frame, ("scan_id", "subject_id"))
    known = hashlib.sha256(repr(question).encode()).hexdigest() + _digest(frame, (*schema.targets, *grouped))
    own = {
        c: frame[c].to_numpy()
        for c in frame
        if c in schema.scores or str(c).startswith("threshold:") or c == "threshold"
    }
    marks = ("threshold_split", "checkpoint_step", "checkpoint_fingerprint", "config_fingerprint")
    own |= {c: frame[c].iloc[0] for c in marks if len(frame)}
    base = bases.setdefault((images, known), Table(frame.drop(columns=list(own)), schema))
    return _Read(name, config, step, base, own)


def _same_images(
    found: Sequence[_Read], bases: Mapping[tuple[str, str], Table], excluded: dict[str, str]
) -> list[_Read]:
    """Runs on the images that most were scored on; the first such set where several are equally common."""
    if not found:
        return []
    key = {id(base): k for k, base in bases.items()}
    most = Counter(key[id(r.base)] for r in found).most_common(1)[0][0]
    kept = []
    for run in found:
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
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value != "" else "none"


def _differing(runs: Sequence[_Read]) -> dict[str, dict[str, str]]:
    """Field that differs between runs -> run -> its value; fields that name a method best come first."""
    flat = {
        r.name: {k: _text(v) for k, v in run_config.identity(r.config).items() if k != "seed"}
        | {"num_steps": str(r.config.num_steps)}
        for r in runs
    }
    fields = list(dict.fromkeys(name for values in flat.values() for name in values))
    found = {f: {name: values.get(f, _ABSENT) for name, values in flat.items()} for f in fields}

    def place(field: str) -> int:
        last = field.rpartition(".")[2]
        return _LEADS.index(last) if last in _LEADS else len(_LEADS)

    return {f: found[f] for f in sorted(fields, key=place) if len(set(found[f].values())) > 1}


def _chosen(by: Sequence[str], runs: Sequence[_Read], differing: Mapping[str, Any]) -> list[str]:
    """Full names of the fields asked for."""
    fields = [k for k in run_config.identity(runs[0].config) if k != "seed"] + ["num_steps"]
    fields = list(dict.fromkeys([*fields, *differing]))
    chosen = []
    for word in by:
        fits = [f for f in fields if f == word] or [f for f in fields if f.endswith(f".{word}")]
        if len(fits) > 1:
            raise UserError(f"--by: {word!r} may be {' or '.join(fits)}: write the whole name")
        if not fits:
            raise UserError(
                f"--by: no field {word!r} in the runs' config.json.{did_you_mean(word, fields)} "
                f"Between these runs differ: {', '.join(differing) or 'none but the seed'}"
            )
        chosen += fits
    return chosen


def _needed(
    factors: Sequence[str], values: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> list[str]:
    """The first factors that tell the methods apart; one that follows from those before it adds nothing to a name."""
    kept: list[str] = []
    for factor in factors:
        parts = Counter(tuple(values[f][n] for f in kept) for n in names)
        if len(Counter(tuple(values[f][n] for f in (*kept, factor)) for n in names)) > len(parts):
            kept.append(factor)
    return kept


def _arranged(
    runs: Sequence[_Read], by: Sequence[str], excluded: dict[str, str]
) -> tuple[list[Member], list[str], list[str]]:
    """(members in order, factors of the methods, fields that differ within methods)."""
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
            excluded[run.name] = f"same configuration and seed as {seen[where]}, which is counted"
            continue
        seen[where] = run.name
        own = {f: values[f][run.name] for f in values}
        members.append((run.config.seed, Member(run.name, *where, own, run.step, run.base, run.own)))
    place = {name: number for number, name in enumerate(dict.fromkeys(m.method for _, m in members))}
    members.sort(key=lambda pair: (place[pair[1].method], pair[0], pair[1].block))
    return [member for _, member in members], factors, within
